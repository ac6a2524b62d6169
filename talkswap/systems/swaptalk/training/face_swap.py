"""Stage ``face-swap``: the face swapping module in the frozen latent space (SwapTalk, section III-B, eq. 8 to 10).

It reads the pairs that ``talkswap data pairs`` stored.  The identity and pixel terms go through the frozen decoder,
which costs ten times the module itself, so they are computed on a part of each batch.
"""

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talkswap.errors import InputMissingError, TrainingDataError
from talkswap.systems.swaptalk.face_swap import PAPER, FaceSwap, FaceSwapConfig
from talkswap.systems.swaptalk.training.codes import load_vqgan
from talkswap.systems.swaptalk.training.pair_draw import PairConfig, PairDraw
from talkswap.systems.swaptalk.training.pairs import PICTURES, PairCodes
from talkswap.systems.swaptalk.training.vqgan import decoder_parts, gradients
from talkswap.train import stage
from talkswap.train.losses import identity_distance, load_perceptual, perceptual_loss
from talkswap.train.stage import SAMPLES, Batch, LoopConfig, Networks, Part, Stage, Work, step_seed


@dataclass(frozen=True)
class FaceSwapStageConfig:
    """What the stage trains and how its loss is weighed; the defaults are compact's."""

    data: Path = Path("cache")  # prepared folders; held-out pairs are drawn from them
    pairs: Path = Path("pairs")  # made by `talkswap data pairs`
    vqgan: Path = Path("weights/compact/swaptalk/vqgan.safetensors")
    identity_network: Path | None = None  # folder
    perceptual_network: Path | None = None  # a file, or vgg19 for the published network
    network: FaceSwapConfig = FaceSwapConfig()
    loop: LoopConfig = LoopConfig(steps=600, batch=4, learning_rate=6e-4, final_rate=0.03, warmup=20, ema=0.98)
    start: Path | None = None  # weights of an earlier run
    code: float = 0.5  # eq. 8
    code_outside: float = 0.1  # weight of cells where truth and target agree, against 1 on the face
    cross_entropy: float = 0.0  # of the truth's code numbers
    temperature: float = 0.07  # of the cosines in that term
    quantized: float = 0.15  # share of samples whose inputs are looked up in the codebooks; the others are raw vectors
    truth_raw: bool = True  # learn the truth's raw vectors; False: its codes, as in the paper
    identity_source: float = 2.0  # eq. 9, first line
    identity_result: float = 0.5  # eq. 9, second line
    identity_l1: bool = False  # as in eq. 9; else 1 - cosine
    pixel: float = 1.0  # L1 on the decoded face
    gradient: float = 1.0  # L1 of its image gradients
    perceptual: float = 0.0
    decoded_share: float = 1.0  # of a batch that goes through the decoder
    validation: int = 24  # held-out pairs scored
    seed: int = 1  # of the held-out pairs
    patience: float = 180.0  # seconds to wait for a pair that another process is making


# Section IV-B names weights, batch, rate and Adam; steps (once through the 325 000 pairs of IV-A), depth and width are ours.
PAPER_STAGE = FaceSwapStageConfig(
    network=PAPER,
    loop=LoopConfig(
        steps=40_000,
        batch=8,  # IV-B
        learning_rate=5e-5,  # IV-B
        betas=(0.9, 0.999),  # IV-B: Adam
        weight_decay=0.0,
        final_rate=1.0,
        warmup=1,
    ),
    code=1.0,  # eq. 8, all cells alike
    code_outside=1.0,
    quantized=1.0,  # III-B: the module reads and learns codes
    truth_raw=False,
    identity_source=1.0,  # IV-B: lambda_src
    identity_result=1.0,  # IV-B: lambda_res
    identity_l1=True,  # eq. 9
    pixel=0.0,  # not in eq. 10
    gradient=0.0,
)
PRESETS = {"compact": FaceSwapStageConfig(), "paper": PAPER_STAGE}


def networks(config: FaceSwapStageConfig) -> dict[str, nn.Module]:
    """What the stage trains, untrained."""
    return {"face-swap": FaceSwap(config.network)}


def work(config: FaceSwapStageConfig, networks: Networks) -> Work:
    """What one sample runs through, for the estimate of `--dry-run`."""
    net = config.network
    module = networks["face-swap"]

    def run() -> object:
        latents = [torch.empty(SAMPLES, net.code_width, net.grid, net.grid) for _ in range(3)]
        guide = latents[2] if net.guide != "none" else None
        person = torch.empty(SAMPLES, net.identity) if net.identity else None
        return module(latents[0], latents[1], guide, person)

    terms = (config.identity_source, config.identity_result, config.pixel, config.gradient, config.perceptual)
    share = config.decoded_share if any(terms) else 0.0
    teachers = (("identity", config.identity_source or config.identity_result), ("perceptual", config.perceptual))
    parts = [Part("face-swap", run), *decoder_parts(net.grid, net.code_width, net.unit_length, share)]
    return Work(parts, (), tuple(name for name, weight in teachers if weight))


class FaceSwapStage(Stage):
    """Trains :class:`~talkswap.systems.swaptalk.face_swap.FaceSwap`."""

    name = "face-swap"

    def __init__(self, config: FaceSwapStageConfig) -> None:
        super().__init__(config)
        self.config: FaceSwapStageConfig = config
        torch.manual_seed(config.loop.seed)
        self.network: FaceSwap = FaceSwap(config.network)
        if config.start is not None:
            stage.load_weights(self.network, config.start)
        self.vqgan = load_vqgan(config.vqgan)
        self.pairs = PairCodes(config.pairs)
        self.pairs.check(self.vqgan)
        self.count = int(self.pairs.meta["count"])
        self.identity: nn.Module | None = None
        self.perceptual: nn.Module | None = None
        if config.identity_network is not None:
            from talkswap.faces.identity import load_identity

            self.identity = load_identity(config.identity_network)
        elif config.identity_source or config.identity_result or config.network.identity:
            raise InputMissingError(
                "no identity network was given",
                "set identity_network, or both identity weights and network.identity to 0",
            )
        if config.perceptual and config.perceptual_network is None:
            raise InputMissingError("no perceptual network was given", "set perceptual_network, or perceptual=0")
        if config.perceptual and config.perceptual_network is not None:
            self.perceptual = load_perceptual(config.perceptual_network)
        teachers = {"vqgan": self.vqgan, "identity": self.identity, "perceptual": self.perceptual}
        self.frozen = nn.ModuleDict({name: teacher for name, teacher in teachers.items() if teacher is not None})
        self._held_out: dict[str, Tensor] | None = None
        self._draw().draw(np.random.default_rng(config.seed))  # what cannot be scored is refused before the first step

    def batch(self, step: int) -> Batch:
        random = np.random.default_rng(step_seed(self.config.loop.seed, step))
        size = self.config.loop.batch
        # The first pass is in order of making, so that training can follow a process that is still making pairs.
        numbers = np.arange(step * size, (step + 1) * size)
        if numbers[-1] >= self.count:
            numbers = random.integers(self.count, size=size)
        self._wait_for(int(numbers.max()))
        rows = self.pairs.rows(numbers)
        rows["looked_up"] = torch.from_numpy(random.random(len(rows["kind"])) < self.config.quantized)
        return rows

    def _wait_for(self, number: int) -> None:
        """Return when pair ``number`` is stored; raise TrainingDataError when nothing was stored for minutes."""
        done, since = len(self.pairs), time.monotonic()
        while done <= number:
            time.sleep(0.5)
            now = len(self.pairs)
            if now > done:
                done, since = now, time.monotonic()
            elif time.monotonic() - since > self.config.patience:
                raise TrainingDataError(
                    f"{self.config.pairs} stays at {done} of {self.count} pairs",
                    "make the rest with `talkswap data pairs`",
                )

    def _latents(self, batch: Batch) -> dict[str, Tensor]:
        """Source, target and guide (B C G G each), raw or looked up by sample, and the truth."""
        looked_up = batch["looked_up"][:, None, None, None]
        length = math.sqrt(self.vqgan.config.code_width)
        out = {}
        for name in PICTURES:
            raw = batch[f"{name}_raw"]
            if self.vqgan.config.cosine:  # undoes the rounding of storage
                raw = F.normalize(raw, dim=1) * length
            codes = self.vqgan.lookup(batch[f"{name}_index"])
            if name == "result":
                out[name] = raw if self.config.truth_raw else codes
            else:
                out[name] = torch.where(looked_up, codes, raw)
        return out

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, float | Tensor]]:
        config = self.config
        latents = self._latents(batch)
        truth = latents["result"]
        identity = batch["source_identity"] if config.network.identity else None
        guide = latents["guide"] if config.network.guide != "none" else None
        swapped = self.network(latents["source"], latents["target"], guide, identity)
        weight = config.code_outside + (1 - config.code_outside) * batch["mask"][:, None]  # B 1 G G
        norm = weight.mean()
        code = ((swapped - truth).abs() * weight).mean() / norm
        total = config.code * code
        logs: dict[str, float | Tensor] = {"code": code.detach()}
        if guide is not None:
            logs["code-guide"] = ((guide - truth).abs() * weight).mean().detach() / norm
        if config.cross_entropy:
            entropy = self._cross_entropy(swapped, batch["result_index"], weight[:, 0]) / norm
            total = total + config.cross_entropy * entropy
            logs["cross-entropy"] = entropy.detach()
        through = math.ceil(config.decoded_share * len(swapped))
        terms = (config.identity_source, config.identity_result, config.pixel, config.gradient, config.perceptual)
        if through and any(terms):
            chosen = {k: v[:through] for k, v in batch.items()}
            decoded, more = self._decoded_terms(self.vqgan.decode(swapped[:through]).float(), chosen)
            total = total + decoded
            logs |= more
        return total, logs

    def _cross_entropy(self, latent: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        """Mean over cells of -log p(code of the truth), p a softmax of cosines over each half's codebook."""
        vqgan, half = self.vqgan, latent.shape[2] // 2
        parts = []
        for codes, rows in ((vqgan.upper.codes, slice(0, half)), (vqgan.lower.codes, slice(half, None))):
            cells = F.normalize(latent[:, :, rows].permute(0, 2, 3, 1), dim=3)  # B h G C
            logits = cells @ F.normalize(codes, dim=1).t() / self.config.temperature
            wrong = F.cross_entropy(logits.flatten(0, 2).float(), index[:, rows].flatten(), reduction="none")
            parts.append(wrong * weight[:, rows].flatten())
        return torch.cat(parts).mean()

    def _decoded_terms(self, decoded: Tensor, batch: Batch) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Everything that is judged on the decoded crop (B 3 S S)."""
        config = self.config
        total: Tensor = decoded.new_zeros(())
        logs: dict[str, float | Tensor] = {}
        if self.identity is not None and (config.identity_source or config.identity_result):
            person = self.identity(decoded).float()
            for name, scale in (("source", config.identity_source), ("result", config.identity_result)):
                target = F.normalize(batch[f"{name}_identity"], dim=1)
                distance = identity_distance(person, target, config.identity_l1)
                total = total + scale * distance
                logs[f"identity-{name}"] = distance.detach()
        truth = batch["picture"]
        small = F.interpolate(decoded, truth.shape[2:], mode="area") if decoded.shape != truth.shape else decoded
        weight = F.interpolate(batch["mask"][:, None], truth.shape[2:], mode="bilinear")
        norm = weight.mean() + 1e-6
        if config.pixel:
            pixel = ((small - truth).abs() * weight).mean() / norm
            total = total + config.pixel * pixel
            logs["pixel"] = pixel.detach()
        if config.gradient:
            edges = [((a - b).abs() * weight).mean() for a, b in zip(gradients(small), gradients(truth), strict=True)]
            total = total + config.gradient * (edges[0] + edges[1]) / norm
            logs["edges"] = (edges[0] + edges[1]).detach() / norm
        if self.perceptual is not None:
            # outside the face the truth itself is shown, so that only the face is judged
            perceptual = perceptual_loss(self.perceptual, truth + weight * (small - truth), truth)
            total = total + config.perceptual * perceptual
            logs["perceptual"] = perceptual.detach()
        return total, logs

    def _draw(self) -> PairDraw:
        """Draws clean pairs of different held-out people, refused by the limits that the stored pairs kept."""
        made_with = self.pairs.meta.get("config", {})
        limits = {k: made_with[k] for k in ("source_forehead", "covered", "colour_gap") if k in made_with}
        clean = replace(
            PairConfig(), same=0.0, light=0.0, colour=0.0, blur=0.0, compression=0.0, jitter=0.0,
            source_portraits=1.0, target_portraits=0.5, **limits,
        )  # fmt: skip
        return PairDraw(self.config.data, clean, "val")

    def held_out(self) -> dict[str, Tensor]:
        """``source``, ``target``, ``guide``, ``result`` (N 3 S S in [-1, 1], clean) and ``mask`` (N 1 S S) of val
        pairs.
        """
        if self._held_out is None:
            draw = self._draw()
            pairs = [draw.draw(np.random.default_rng([self.config.seed, k])) for k in range(self.config.validation)]
            self._held_out = {name: stage.to_tensor([getattr(p, name) for p in pairs]) for name in PICTURES}
            self._held_out["mask"] = torch.from_numpy(np.stack([p.mask for p in pairs]))[:, None]
        return self._held_out

    def _raw(self, crop: Tensor) -> Tensor:
        upper, lower = self.vqgan.encode(crop)
        return torch.cat([upper.raw, lower.raw], 2)

    @torch.no_grad()
    def render(self, first: int, last: int) -> dict[str, Tensor]:
        """Held-out pairs ``first`` to ``last`` with the module's answer: ``made`` and, pasted softly, ``pasted``."""
        device = next(self.network.parameters()).device
        part = {k: v[first:last].to(device) for k, v in self.held_out().items()}
        person = self.identity(part["source"]).float() if self.identity is not None else None
        guide = self._raw(part["guide"]) if self.config.network.guide != "none" else None
        swapped = self.network(self._raw(part["source"]), self._raw(part["target"]), guide, person)
        truth = self._raw(part["result"])
        part["code"] = ((swapped - truth).abs().mean(1, keepdim=True)).float()
        # The proxy's truth goes through the same decoder: its blur is no fault of the module.
        for name, latent in (("made", swapped), ("proxy", truth)):
            decoded = self.vqgan.decode(latent).float().clamp(-1, 1)
            part[name] = decoded
            part[f"{name}-pasted"] = torch.lerp(part["target"], decoded, part["mask"])
        return part

    def score(self) -> dict[str, float]:
        """On held-out pairs, pasted back: cosine to source and target, share nearer to the source; the same for the
        proxy.
        """
        sums: dict[str, list[Tensor]] = {}
        for first in range(0, self.config.validation, 4):
            part = self.render(first, first + 4)
            sums.setdefault("code", []).append(part["code"].mean((1, 2, 3)))
            if self.identity is None:
                continue
            identity = self.identity
            source, target = identity(part["source"]).float(), identity(part["target"]).float()
            for name in ("made", "proxy"):
                got = identity(part[f"{name}-pasted"]).float()
                to_source, to_target = (got * source).sum(1), (got * target).sum(1)
                sums.setdefault(f"{name}-to-source", []).append(to_source)
                sums.setdefault(f"{name}-to-target", []).append(to_target)
                sums.setdefault(f"{name}-nearer", []).append((to_source > to_target).float())
        return {name: float(torch.cat(values).mean()) for name, values in sums.items()}

    def sample(self, path: Path) -> None:
        """Rows of source, target, guide, proxy (decoded), result, result pasted."""
        part = self.render(0, min(8, self.config.validation))
        columns = [
            stage.to_pictures(part[name]) for name in ("source", "target", "guide", "proxy", "made", "made-pasted")
        ]
        rows = [np.concatenate([column[k] for column in columns], 1) for k in range(len(columns[0]))]
        cv2.imwrite(str(path), np.concatenate(rows)[:, :, ::-1])

    def export(self, folder: Path) -> None:
        """Write ``face_swap.safetensors`` (fp16) and ``face_swap.json``."""
        stage.export_network(self.network, self.config.network, folder, "face_swap")
