"""What a run would cost, from the shapes alone: parameters, FLOPs and memory, on tensors without content.

How it is counted.  FLOPs: torch's counter over one forward pass of everything that a sample runs through, teachers
named in ``not_counted`` left out; a whole step is three times the forward (the backward pass multiplies twice for every
multiplication).  Memory: weights, gradients, Adam's two moments and the average in 4 bytes each, and what autograd keeps
of a forward pass for the backward one, counted tensor by tensor, half of it where mixed precision keeps 2 bytes.  The
allocator's own share, temporary buffers and prefetched batches come on top: about a fifth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensor, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from talkswap.train.stage import LoopConfig

SAMPLES = 2  # batch normalisation wants more than one
BYTES = 4
HOW = (
    "FLOPs of a forward pass by torch's counter, a step as 3 times that; memory as 4 bytes each for weight, gradient, "
    "two Adam moments and average, and what autograd keeps, in 2 bytes under bf16 and fp16; add about a fifth"
)

Networks = Mapping[str, nn.Module]


@dataclass(frozen=True)
class Part:
    """Something that samples run through."""

    name: str
    run: Callable[[], object]  # a forward pass of SAMPLES samples
    times: float = 1.0  # passes per sample and step


@dataclass(frozen=True)
class Work:
    """What one sample of a stage runs through."""

    parts: list[Part]
    still: tuple[nn.Module, ...] = ()  # parts of the networks that are not trained
    not_counted: tuple[str, ...] = ()  # teachers whose shape only their file knows


def estimate(stage: str, config: Any) -> dict[str, Any]:
    """Parameters, FLOPs and memory of a stage, as JSON values.

    Args:
        stage: a key of ``talkswap.train.stages.STAGES``.
        config: the stage's config.

    Returns:
        ``parameters`` by network, ``trained``, ``flops`` and ``memory`` (bytes, of one process), ``estimated`` (how).
        Empty for a stage that does not name its networks.
    """
    from talkswap.train.stages import STAGES

    build: Callable[[Any], Networks] | None = getattr(import_module(STAGES[stage][0]), "networks", None)
    if build is None:
        return {}
    # fake tensors have a shape and a device but no content: nothing is computed, and the paper's sizes fit a laptop
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    networks = _without_content(build, config, mode)
    counted: dict[str, Any] = {"parameters": {name: _size(net.parameters()) for name, net in networks.items()}}
    if stage not in WORK:
        return counted
    with mode:
        work = WORK[stage](config, networks)
        return {**counted, **_measured(config.loop, networks, work, mode)}


def _measured(loop: LoopConfig, networks: Networks, work: Work, mode: FakeTensorMode) -> dict[str, Any]:
    still = {id(p) for part in work.still for p in part.parameters()}
    every = [p for net in networks.values() for p in net.parameters()]
    trained = _size(p for p in every if p.requires_grad and id(p) not in still)
    held = _size(every) + _size(b for net in networks.values() for b in net.buffers())
    fakes = [t if isinstance(t, FakeTensor) else mode.from_tensor(t) for t in every]
    own = {t.untyped_storage()._cdata for t in fakes}
    flops: dict[str, int] = {}
    kept = 0.0  # bytes per sample
    for part in work.parts:
        counter, saved = FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION), _Saved(own)
        with counter, torch.autograd.graph.saved_tensors_hooks(saved, lambda tensor: tensor):
            answer = part.run()  # kept until here: what autograd saved goes with it
        flops[part.name] = round(counter.get_total_flops() / SAMPLES * part.times)
        kept += saved.bytes / SAMPLES * min(1.0, part.times)
        del answer
    if loop.precision != "float32":
        kept /= 2
    forward = sum(flops.values())
    first = next(iter(networks.values()))  # the one that is averaged; a discriminator is not
    memory = {
        "weights": BYTES * held,
        "gradients": BYTES * trained,
        "adam": 2 * BYTES * trained,
        "average": BYTES * (_size(first.parameters()) + _size(first.buffers())),
        "activations_per_sample": round(kept),
        "activations": round(kept * loop.batch / loop.accumulate),
    }
    return {
        "trained": trained,
        "flops": {
            "forward_per_sample": flops,
            "step_per_sample": 3 * forward,
            "step": 3 * forward * loop.batch,
            "not_counted": list(work.not_counted),
        },
        "memory": {**memory, "total": sum(memory.values()) - memory["activations_per_sample"]},
        "estimated": HOW,
    }


def _attention_flops(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """FLOPs of attention by the shapes of its inputs."""
    return int(sdpa_flop_count(query, key, value))


# torch's counter knows attention as GPUs compute it, not the CPU's own operation for it
CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}


class _Saved:
    """Counts what autograd saves, each storage once and weights not at all."""

    def __init__(self, own: set[int]) -> None:
        self.seen = set(own)
        self.bytes = 0
        self.alive: list[Tensor] = []  # else another storage could be taken for one that went

    def __call__(self, tensor: Tensor) -> Tensor:
        key = tensor.untyped_storage()._cdata
        if key not in self.seen:
            self.seen.add(key)
            self.alive.append(tensor)
            self.bytes += tensor.untyped_storage().nbytes()
        return tensor


def _size(tensors: Any) -> int:
    return sum(int(t.numel()) for t in tensors)


def _without_content(build: Callable[[Any], Networks], config: Any, mode: FakeTensorMode) -> Networks:
    """The networks as fake tensors; one whose construction looks at values is built for good, since it is small."""
    try:
        with mode:
            return build(config)
    except DynamicOutputShapeException:
        return build(config)


# --- the stages


def _decoder(grid: int, code_width: int, compact: bool, times: float) -> list[Part]:
    """The frozen decoder that latents go through, if this is the preset's own latent."""
    from talkswap.systems.swaptalk.vqgan import COMPACT, PAPER, VQGAN

    config = COMPACT if compact else PAPER
    if not times or (config.grid, config.code_width) != (grid, code_width):
        return []
    decoder = VQGAN(config).decoder.requires_grad_(False)

    def run() -> Tensor:
        return decoder(torch.empty(SAMPLES, code_width, grid, grid).requires_grad_())

    return [Part("decoder (frozen)", run, times)]


def _vqgan(config: Any, networks: Networks) -> Work:
    network: Any = networks["vqgan"]

    def run() -> Tensor:
        with torch.set_grad_enabled(not config.decoder_only):
            latent = network.latent(torch.empty(SAMPLES, 3, config.size, config.size))
        return network.decode(latent)

    parts = [Part("vqgan", run)]
    if "discriminator" in networks:
        side = config.focus or config.size
        judge = networks["discriminator"]
        # the made picture for the network's loss, then the real and the made one for its own
        parts.append(Part("discriminator", lambda: judge(torch.empty(SAMPLES, 3, side, side)), 3.0))
    left_out = [name for name, weight in (("perceptual", config.perceptual), ("identity", config.identity)) if weight]
    still = (network.encoder, network.upper, network.lower) if config.decoder_only else ()
    return Work(parts, still, tuple(left_out))


def _face_swap(config: Any, networks: Networks) -> Work:
    net = config.network
    module = networks["face-swap"]

    def run() -> object:
        latents = [torch.empty(SAMPLES, net.code_width, net.grid, net.grid) for _ in range(3)]
        guide = latents[2] if net.guide != "none" else None
        person = torch.empty(SAMPLES, net.identity) if net.identity else None
        return module(latents[0], latents[1], guide, person)

    terms = (config.identity_source, config.identity_result, config.pixel, config.gradient, config.perceptual)
    share = config.decoded_share if any(terms) else 0.0
    named = (("identity", config.identity_source or config.identity_result), ("perceptual", config.perceptual))
    parts = [Part("face-swap", run), *_decoder(net.grid, net.code_width, net.unit_length, share)]
    return Work(parts, (), tuple(name for name, weight in named if weight))


def _speech_encoder(config: Any, networks: Networks) -> Work:
    network: Any = networks["speech-encoder"]
    rows = (config.stretch - 1) * config.network.stride + config.network.field

    def run() -> Tensor:
        return network.measured(network.tokens(torch.empty(SAMPLES, rows, config.network.bins)))

    return Work([Part("speech-encoder", run)])


def _sync_expert(config: Any, networks: Networks) -> Work:
    network: Any = networks["sync-expert"]
    net = config.network

    def run() -> object:
        lower = torch.empty(SAMPLES, net.frames, net.code_width, net.grid // 2, net.grid)
        heard = torch.empty(SAMPLES, net.window, net.speech_width)
        return network(lower, heard), network.probe(lower[:, 0])

    return Work([Part("sync-expert", run)])


def _lip_sync(config: Any, networks: Networks) -> Work:
    network: Any = networks["lip-sync"]
    net, compact = config.network, config.network.backbone == "compact"
    half = (SAMPLES, net.code_width, net.grid // 2, net.grid)

    def transform() -> object:
        speech = torch.empty(SAMPLES, net.window, net.speech_width)
        return network.transform(torch.empty(half), speech, torch.empty(SAMPLES, net.measures) if compact else None)

    def warp() -> object:
        return network.warping(torch.empty(half), torch.empty(half), torch.empty(half))

    parts = [Part("transform", transform)]
    if config.far:
        parts.append(Part("warping", warp, config.far))
    decoded = 2 * config.pixel_rows / config.loop.batch if config.pixel else 0.0
    parts += _decoder(net.grid, net.code_width, compact, decoded)
    still = (network.transform.speech,) if compact and config.freeze_speech else ()
    return Work(parts, still, ("sync-expert",) if config.sync or config.probe else ())


def _faces(config: Any, networks: Networks) -> Work:
    name, network = next(iter(networks.items()))
    size = config.detector.pictures.size if name == "detector" else config.landmarks.network.size
    return Work([Part(name, lambda: network(torch.empty(SAMPLES, 3, size, size)))])


def _identity(config: Any, networks: Networks) -> Work:
    network: Any = networks["identity"]
    size = config.network.size
    return Work([Part("identity", lambda: network.embed_square(torch.empty(SAMPLES, 3, size, size)))])


def _occlusion(config: Any, networks: Networks) -> Work:
    size = config.network.size
    return Work([Part("occlusion", lambda: networks["occlusion"](torch.empty(SAMPLES, 3, size, size)))])


def _joint(config: Any, networks: Networks) -> Work:
    vqgan: Any = networks["vqgan"]
    lip_sync: Any = networks["lip-sync"]
    judge = networks["discriminator"]
    net, grid = config.network, vqgan.config.grid

    def coded() -> Tensor:
        with torch.no_grad():
            latent = vqgan.embed(torch.empty(SAMPLES, 3, vqgan.config.size, vqgan.config.size))
        return vqgan.decode(latent)

    def moved() -> object:
        latent = torch.empty(SAMPLES, net.code_width, grid, grid)
        return lip_sync(latent, latent, torch.empty(SAMPLES, net.window, net.speech_width))

    told = (config.driven + config.spoken) / config.loop.batch
    parts = [Part("vqgan", coded), Part("lip-sync", moved, told)]
    parts.append(Part("discriminator", lambda: judge(torch.empty(SAMPLES, 3, config.focus, config.focus)), 3.0))
    still = (vqgan.encoder, vqgan.upper, vqgan.lower, lip_sync.warping, lip_sync.transform.speech)
    return Work(parts, still, ("landmarks", "identity", "perceptual"))


WORK: dict[str, Callable[[Any, Networks], Work]] = {
    "faces": _faces,
    "identity": _identity,
    "occlusion": _occlusion,
    "vqgan": _vqgan,
    "face-swap": _face_swap,
    "speech-encoder": _speech_encoder,
    "sync-expert": _sync_expert,
    "lip-sync": _lip_sync,
    "joint": _joint,
}
