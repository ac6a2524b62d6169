"""Stage ``sync-former``: Style-SyncFormer's training, ReSyncer 3.1, on meshes and voices that ``talkswap.data.motion`` gathers.

The paper trains by teacher forcing.  At 25 frames per second the frame before says nearly all of the next one, so a network
that is only ever shown true frames learns to copy and hardly listens; then its own errors carry it away.  Therefore part of
the samples reads the network's own predictions in place of true frames, made without gradient in ``passes`` parallel sweeps
(setting ``own_past``; 0 is the paper's training).

A squared error makes mouths small where speech leaves a doubt; correlation and spread of the lips' measures, and clips scaled
at random together with their style reference, keep the amplitude a matter of style.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talkswap.animation.sync_former import COMPACT, PAPER, Style, SyncFormer, SyncFormerConfig
from talkswap.data.motion import open_motion
from talkswap.errors import TrainingDataError, WeightsCorruptError, WeightsMissingError
from talkswap.faces.mesh import POINTS, mean_face
from talkswap.train.shared.lip_measures import MEASURES, centred, measure_matrix, point_weights
from talkswap.train.shared.mesh_labels import (
    LEAD,
    Lift,
    MeshLabels,
    held_out_names,
    measure_basis,
    mel_rows,
    opening_axis,
    read_speech,
    sample_count,
)
from talkswap.train.shared.mesh_scores import draw_strips, score_motion
from talkswap.train.shared.speech_encoder import augment_mel, room_noise, warp_bands
from talkswap.train.shared.speech_labels import SOUNDS
from talkswap.train.stage import SAMPLES, Batch, LoopConfig, Networks, Part, Stage, Work, step_seed
from talkswap.types import FloatArray
from talkswap.voice.wav2vec2 import Wav2Vec2Encoder, fill_wav2vec2

CLOSED = SOUNDS.index("closed lips")
ALMOST_SHUT = 0.01  # eye distances: landmarks of shut lips lie this far apart


@dataclass(frozen=True)
class SyncFormerStageConfig:
    """Data and loss of the stage; the defaults are compact's."""

    data: Path = Path("meshes")  # folder of talkswap.data.motion
    held_out: Path | None = None  # JSON: lists of speakers and clips that are scored and never trained on
    phonetics: Path | None = None  # folder of recipes/phonetics.py: speech whose sounds the voice tokens name
    start: Path | None = None  # weights of a sync_former, or of a speech encoder for the voice's part
    wav2vec2: Path | None = None  # folder of wav2vec2-base-960h, where the network hears that
    network: SyncFormerConfig = COMPACT
    loop: LoopConfig = LoopConfig(
        steps=3000, batch=16, learning_rate=1e-3, weight_decay=0.02, ema=0.995, warmup=50, log_every=50, sample_every=1000,
    )  # fmt: skip
    squared: bool = False  # square the norms in the loss
    lambda1: float = 1.0  # weight of the positions beside that of the changes, as in the paper
    upper: float = 0.1  # weight of points above the nose's tip, beside 1 for those below
    lips: float = 3.0  # weight of the lips
    correlation: float = 0.5  # weight of 1 - Pearson of the lips' measures
    leading: int = 6  # components of the basis that count among those measures
    leading_weight: float = 0.4  # of all of them together, beside 1 for the named measures
    spread: float = 0.5  # weight of |log deviation - log deviation of the reference| of the lips' measures
    level: float = 0.3  # weight of |mean - mean of the reference| of those measures, in units
    own_past: tuple[float, float] = (0.5, 1.0)  # share of samples that read own predictions: first, last step
    passes: int = 2  # sweeps that make them
    fresh: float = 0.5  # share of samples that begin a chunk: the frame before the first is the template
    silent: float = 0.06  # share of samples that are silence with a closed mouth
    noisy: float = 0.6  # of those, with noise in place of an even level
    scale: float = 0.35  # largest change of amplitude by clip, log
    widths: float = 0.15  # the same of sideways motion alone
    mirrored: float = 0.5  # share of samples with left and right exchanged, in codes of components
    speed: float = 0.12  # largest change of tempo, as a share
    warp: float = 0.08  # largest stretch of the bands
    colour: float = 0.7  # strength of changes of loudness and tilt
    short: float = 0.3  # share of style references shorter than network.references
    phonetic: float = 0.3  # weight of naming the sounds
    bilabial: float = 0.2  # weight of lips that are open in an m, b or p of that speech
    phonetic_batch: int = 8  # stretches of speech without a mesh, per step


PRESETS = {"compact": SyncFormerStageConfig(), "paper": SyncFormerStageConfig(
    network=PAPER, correlation=0.0, spread=0.0, scale=0.0, widths=0.0, own_past=(0.0, 0.0), upper=1.0, lips=1.0,
    speed=0.0, phonetic=0.0, phonetic_batch=0, bilabial=0.0, silent=0.0, level=0.0, mirrored=0.0,
    loop=LoopConfig(steps=40000, batch=16, learning_rate=1e-3, weight_decay=0.0, ema=0.999, precision="float32"),
)}  # fmt: skip


def networks(config: SyncFormerStageConfig) -> dict[str, nn.Module]:
    """What the stage trains, untrained."""
    return {"sync-former": SyncFormer(config.network)}


def work(config: SyncFormerStageConfig, networks: Networks) -> Work:
    """What a sample runs through: its voice, its style, the decoder, and the sweeps that make its own past."""
    former: Any = networks["sync-former"]
    former.audio.eval()  # wav2vec2 decides by a random value which layers it skips; without content there is none
    net = config.network
    rows = mel_rows(net)[1] if net.audio == "mel" else sample_count(net)

    def run() -> Tensor:
        shape = (SAMPLES, rows, net.mel.bins) if net.audio == "mel" else (SAMPLES, rows)
        speech = former.speech(torch.empty(shape), net.chunk, 0.1)
        style = former.style(torch.empty(SAMPLES, net.references, net.code))
        return former(speech, torch.empty(SAMPLES, net.chunk, net.code), style)

    return Work([Part("sync-former", run)])


class SyncFormerLearner(nn.Module):
    """The network and, for training only, the head that names sounds."""

    def __init__(self, config: SyncFormerConfig) -> None:
        super().__init__()
        self.former = SyncFormer(config)
        self.sounds = nn.Linear(self.former.audio.width, len(SOUNDS))


class SyncFormerStage(Stage):
    """Trains :class:`~talkswap.animation.sync_former.SyncFormer`."""

    name = "sync-former"

    def __init__(self, config: SyncFormerStageConfig) -> None:
        super().__init__(config)
        self.config: SyncFormerStageConfig = config
        torch.manual_seed(config.loop.seed)
        self.network: SyncFormerLearner = SyncFormerLearner(config.network)
        weights = point_weights(config.upper, config.lips)
        self.measure_weights = torch.tensor([m[3] for m in MEASURES]) / sum(m[3] for m in MEASURES)
        if config.wav2vec2 is not None:
            self._load_wav2vec2(config.wav2vec2)
        if config.start is not None:
            self._start(config.start)
        self._read_clips(weights)
        self.speech = [] if config.phonetics is None else read_speech(config.phonetics)

    @property
    def former(self) -> SyncFormer:
        return self.network.former

    def _read_clips(self, weights: Tensor) -> None:
        held = held_out_names(self.config.held_out)
        clips = open_motion(self.config.data)
        out = [c.split == "val" or bool({c.name, c.speaker} & held) for c in clips]
        axis = self.former.opening_axis.numpy()
        if not axis.any():  # a network that was trained before keeps its own
            axis = opening_axis([c for c, o in zip(clips, out, strict=True) if not o])
            self.former.opening_axis.copy_(torch.from_numpy(axis))
        labels = [MeshLabels(clip, axis) for clip in clips]
        self.clips = [c for c, o in zip(labels, out, strict=True) if not o and c.seconds > 1.5]
        self.groups = {
            "held": [c for c in labels if c.split != "val" and c.speaker in held and c.name != c.speaker],
            "clips": [c for c in labels if c.split != "val" and c.name in held],
            "val": [c for c in labels if c.split == "val"],
        }
        if not self.clips:
            raise TrainingDataError(f"every clip in {self.config.data} is held out", "gather more clips")
        whole = [c for c in self.clips if len(c.points) == POINTS]
        self.lifts: dict[int, Lift] = {}
        for clip in labels:
            if len(clip.points) < POINTS and len(clip.points) not in self.lifts:
                if not whole:
                    raise TrainingDataError("no clip has all 478 points", "gather prepared clips too")
                self.lifts[len(clip.points)] = Lift(whole, clip.points)
        config, former, net = self.config, self.former, self.config.network
        if net.components and not bool(former.basis.any()):
            basis, analysis = measure_basis(whole, weights.numpy(), net.components, net.unit)
            former.basis.copy_(torch.from_numpy(basis))
            former.analysis.copy_(torch.from_numpy(analysis))
        if net.components:
            self.code_weights = torch.ones(net.code)  # the basis is orthonormal under the points' weights
        else:
            self.code_weights = (weights / weights.sum()).repeat_interleave(3)
        # sideways motion in the space of codes; with the points themselves a mask would do, and no matrix
        across = former.decode(torch.eye(net.code)) if net.components else torch.zeros(0)
        self.across = former.encode(across * torch.tensor([1.0, 0, 0])).numpy() if net.components else None
        other_side = across[:, mean_face().mirror.tolist()] * torch.tensor([-1.0, 1, 1]) if net.components else across
        self.mirror = former.encode(other_side).numpy() if net.components else None  # D D
        self.measures = (
            former.decode(torch.eye(net.code)).flatten(1) @ measure_matrix()
            if net.components
            else (measure_matrix() * net.unit)
        )
        if net.components and config.leading:
            # the leading components are measures too: what the lips do beside opening, as the data have it
            count = min(config.leading, net.components)
            self.measures = torch.cat([self.measures, torch.eye(net.code)[:, :count] * net.unit], 1)
            shares = torch.cat([self.measure_weights, torch.full((count,), config.leading_weight / count)])
            self.measure_weights = shares / shares.sum()
        for clip in self.clips:
            clip.take_codes(former.encode(torch.from_numpy(clip.whole(self.lifts))).numpy())
            clip.displacements = np.zeros((0, 0, 3), np.float16)  # the codes are all that training reads
        if net.style_scale and not bool(former.usual.any()):
            former.usual.copy_(self._usual_deviations())
        lengths = np.array([c.seconds * c.trust for c in self.clips])
        self.share = lengths / lengths.sum()

    def _usual_deviations(self) -> Tensor:
        """Mean over training clips of the log deviations that their middles have as references."""
        rows = []
        for clip in self.clips:
            count = min(self.config.network.references, int(clip.seconds * self.config.network.rate))
            first = (clip.seconds - count / self.config.network.rate) / 2
            codes, present = clip.at(first + np.arange(count) / self.config.network.rate)
            if present.sum() > 20:
                rows.append(self.former.deviations(torch.from_numpy(codes)[None], torch.from_numpy(present)[None]))
        return torch.cat(rows).mean(0)

    def _start(self, path: Path) -> None:
        from safetensors.torch import load_file

        stored = {k: v.float() for k, v in load_file(path).items()}
        if "first.weight" in stored:  # a speech encoder: its convolutions are the voice's part
            own = self.former.audio.state_dict()
            self.former.audio.load_state_dict({k: stored[k] for k in own})
        else:
            self.former.load_state_dict(stored)  # its own basis and templates too

    def _load_wav2vec2(self, folder: Path) -> None:
        """The published weights into the voice's part.

        Raises:
            TrainingDataError: the folder does not hold them.
        """
        audio = self.former.audio
        if not isinstance(audio, Wav2Vec2Encoder):
            raise TrainingDataError("this network hears log-mel features", "leave wav2vec2 out, or use --preset paper")
        try:
            fill_wav2vec2(audio, folder)
        except (WeightsMissingError, WeightsCorruptError) as error:
            raise TrainingDataError(f"no wav2vec2 of these sizes in {folder}", error.hint) from error

    # --- samples

    def whole(self, clip: MeshLabels) -> FloatArray:
        """A held-out clip's displacements (T 478 3), lifted where it lacks points."""
        return clip.whole(self.lifts)

    def scaled(self, codes: FloatArray, gain: float, sideways: float) -> FloatArray:
        """Codes (T D) of a mesh that moves ``gain`` as far, and ``sideways`` as far again from side to side."""
        if self.across is None:
            flat = codes.reshape(len(codes), -1, 3) * np.array([gain * sideways, gain, gain], np.float32)
            return flat.reshape(codes.shape)
        return (gain * (codes + (sideways - 1) * (codes @ self.across))).astype(np.float32)

    def batch(self, step: int) -> Batch:
        config, net = self.config, self.config.network
        random = np.random.default_rng(step_seed(config.loop.seed, step))
        pieces = [self._piece(random) for _ in range(config.loop.batch)]
        names = ("voice", "target", "before", "weight", "points", "reference", "present")
        batch = {n: torch.from_numpy(np.stack(p)) for n, p in zip(names, zip(*pieces, strict=True), strict=True)}
        if self.speech and config.phonetic_batch:
            rows = mel_rows(self.config.network)[1]
            drawn = []
            for _ in range(config.phonetic_batch):
                mel, sound = self.speech[int(random.integers(len(self.speech)))]
                first = int(random.integers(len(mel) - rows))
                centres = slice(first + net.mel.half, first + rows - net.mel.half, net.mel.stride)
                drawn.append((mel[first : first + rows].astype(np.float32), sound[centres].astype(np.int64)))
            batch["speech"] = torch.from_numpy(np.stack([mel for mel, _ in drawn]))
            batch["sound"] = torch.from_numpy(np.stack([sound for _, sound in drawn]))
        return batch

    def _piece(self, random: np.random.Generator) -> tuple[FloatArray, ...]:
        config, net = self.config, self.config.network
        before, rows = mel_rows(net)
        clip = self.clips[int(random.choice(len(self.clips), p=self.share))]
        speed = float(1 + config.speed * random.uniform(-1, 1))
        length = (net.chunk - 1) / net.rate * speed
        start = float(random.uniform(min(0.0, clip.seconds - length), max(0.0, clip.seconds - length)))
        times = start + np.arange(-1, net.chunk) / net.rate * speed
        moved, weight = clip.at(times)
        count = net.references
        if random.random() < config.short:
            count = int(random.integers(min(25, count), count + 1))
        count = min(count, max(10, int(clip.seconds * net.rate)))
        earliest, latest = clip.reference_starts(start, start + length, count / net.rate)
        reference, present = clip.at(random.uniform(earliest, latest) + np.arange(count) / net.rate)
        gain, sideways = np.exp(random.uniform(-1, 1, 2) * (config.scale, config.widths))
        moved, reference = (self.scaled(codes, gain, sideways) for codes in (moved, reference))
        if self.mirror is not None and random.random() < config.mirrored:
            moved, reference = moved @ self.mirror, reference @ self.mirror
        if net.audio == "wav2vec2":
            if not len(clip.voice):
                raise TrainingDataError(f"the meshes of {clip.name} are stored without samples", "gather them again")
            mel = clip.voice_at(start - LEAD, sample_count(net))
        elif random.random() < config.silent:
            mel = room_noise(rows, net.mel.bins, random, random.random() < config.noisy).numpy()
            rest = self.scaled(clip.rest[None], gain, sideways)
            moved, weight = np.repeat(rest, len(moved), 0), np.ones_like(weight)
        else:
            place = start * net.mel.rate + speed * (np.arange(rows) - before)
            mel = clip.mel_at(place.astype(np.float32))
        fresh = random.random() < config.fresh
        first = moved[:1] * (0.0 if fresh or not weight[0] else 1.0)
        points = np.ones(net.code, np.float32)
        if not net.components and len(clip.points) < POINTS:
            points = np.repeat(np.isin(np.arange(POINTS), clip.points), 3).astype(np.float32)
        padded = np.zeros((net.references, net.code), np.float32)
        padded[:count] = reference * present[:, None]
        there = np.zeros(net.references, np.float32)
        there[:count] = present
        return mel.astype(np.float32), moved[1:], first, weight[1:], points, padded, there

    # --- loss

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, float | Tensor]]:
        config, former, net = self.config, self.former, self.config.network
        target, weight = batch["target"], batch["weight"]  # B T D, B T
        tokens, others = self._tokens(batch)
        lead = LEAD if net.audio == "wav2vec2" else mel_rows(net)[0] / net.mel.rate
        speech = former.align(tokens, net.chunk, lead)
        style = former.style(batch["reference"], batch["present"])
        truth = torch.cat([batch["before"], target[:, :-1]], 1)
        codes = former(speech, self._past(speech, style, truth, batch["before"], step), style).float()
        weights = self.code_weights.to(target.device) * batch["points"]  # B D
        weights = weights * (self.code_weights.sum() / weights.sum(1, keepdim=True))
        error = codes - target
        with torch.autocast(target.device.type, enabled=False):  # the spread is a logarithm: bf16 is too coarse
            position = self._norm(error, weights, weight)
            change = self._norm(error[:, 1:] - error[:, :-1], weights, weight[:, 1:] * weight[:, :-1])
            total = change + config.lambda1 * position
            figures: dict[str, float | Tensor] = {"position": position.detach(), "change": change.detach()}
            if config.correlation or config.spread:
                more, lips = self._lip_loss(codes, batch)
                total, figures = total + more, figures | lips
            if others is not None:
                named = self.network.sounds(others.float()).transpose(1, 2)
                naming = F.cross_entropy(named, batch["sound"], ignore_index=-1)
                total = total + config.phonetic * naming
                figures["naming"] = naming.detach()
                if config.bilabial:
                    open_lips = self._open_bilabials(others.float(), batch["sound"], style)
                    total = total + config.bilabial * open_lips
                    figures["bilabial"] = open_lips.detach()
        return total, figures

    def _open_bilabials(self, tokens: Tensor, sound: Tensor, style: Style) -> Tensor:
        """Mean opening beyond ALMOST_SHUT, in units, where speech without a mesh says m, b or p; one of three frames must be shut.

        Half an hour of lips holds few of them, and the frame of the closure is easily missed between two pictures; synthetic
        speech states each.  The styles are those of the samples beside it.
        """
        net, count = self.config.network, len(tokens)
        styles = Style(*(None if part is None else part[:count].detach().float() for part in style))  # type: ignore[arg-type]
        before, _ = mel_rows(net)
        speech = self.former.align(tokens, net.chunk, before / net.mel.rate)
        frames = (
            torch.arange(net.chunk, device=tokens.device) * (net.mel.rate / net.rate) + before - net.mel.half
        )  # rows
        closed = sound[:, (frames / net.mel.stride).round().long().clamp(max=sound.shape[1] - 1)] == CLOSED
        start = torch.zeros(count, net.chunk, net.code, device=tokens.device)
        with torch.no_grad():
            past = torch.cat([start[:, :1], self.former(speech, start, styles)[:, :-1]], 1)
        opening = (self.former(speech, past.float(), styles).float() @ self.measures.to(tokens.device))[..., 0]
        # Lips meet for a frame or two of a sound; to hold all of its frames shut would shut the vowels beside it as well.
        least = -F.max_pool1d(-opening, 3, 1, 1)  # B T
        return ((least - ALMOST_SHUT).clamp(min=0) / net.unit * closed).sum() / closed.sum().clamp(min=1)

    def _lip_loss(self, codes: Tensor, batch: Batch) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Correlation and spread of the lips' measures, over stretches in which the mouth moves.

        The spread is held to the style reference's.  A stretch's own spread scatters around it, and a network that is held to
        that plays safe: it draws every style towards the average.
        """
        target, weight = batch["target"], batch["weight"]
        measures, shares = self.measures.to(codes.device), self.measure_weights.to(codes.device)
        a, mean, deviation = centred(codes @ measures, weight)
        b, true_mean, true_deviation = centred(target @ measures, weight)
        _, style_mean, style_deviation = centred(batch["reference"] @ measures, batch["present"])
        if self.former.style_encoder is None:
            style_mean, style_deviation = true_mean, true_deviation
        share = (weight / weight.sum(1, keepdim=True).clamp(min=1))[..., None]
        pearson = (a * b * share).sum(1) / (deviation * true_deviation)  # B M
        moving = ((weight.sum(1) > 20) & (true_deviation[:, 0] > 3e-3)).float()
        count = moving.sum().clamp(min=1)
        correlation = (pearson @ shares * moving).sum() / count
        spread = ((deviation.log() - style_deviation.log()).abs() @ shares * moving).sum() / count
        level = ((mean - style_mean).abs() @ shares * moving).sum() / count / self.config.network.unit
        total = self.config.correlation * (1 - correlation) + self.config.spread * spread + self.config.level * level
        figures = {"pearson": (pearson[:, 0] * moving).sum() / count, "spread": spread, "level": level}
        return total, {name: figure.detach() for name, figure in figures.items()}

    def _tokens(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Voice tokens of the samples, and of the speech without a mesh, by one pass of the voice encoder."""
        if self.config.network.audio == "wav2vec2":
            return self.former.audio(batch["voice"]), None
        mel = self._augmented(batch["voice"])
        if "speech" not in batch:
            return self.former.audio(mel), None
        tokens = self.former.audio(torch.cat([mel, self._augmented(batch["speech"])]))
        return tokens[: len(mel)], tokens[len(mel) :]

    def _augmented(self, mel: Tensor) -> Tensor:
        quiet = (mel.amax((1, 2)) < -0.45)[:, None, None]
        warped = warp_bands(mel, self.config.warp) if self.config.warp > 0 else mel
        return torch.where(quiet, mel, augment_mel(warped, self.config.colour)) if self.config.colour > 0 else warped

    def _past(self, speech: Tensor, style: Style, truth: Tensor, first: Tensor, step: int) -> Tensor:
        """Codes that the decoder reads: true ones, or the network's own in ``own_past`` of the samples."""
        config = self.config
        progress = step / max(1, config.loop.steps - 1)
        share = config.own_past[0] + progress * (config.own_past[1] - config.own_past[0])
        own = torch.rand(len(truth), 1, 1, device=truth.device) < share
        if not bool(own.any()):
            return truth
        before = truth
        with torch.no_grad():
            for _ in range(config.passes):
                made = self.former(speech, before, style)
                before = torch.where(own, torch.cat([first, made[:, :-1]], 1), truth)
        return before

    def _norm(self, error: Tensor, weights: Tensor, present: Tensor) -> Tensor:
        """Mean over present frames (B T) of the weighted L2 norm of errors (B T D)."""
        square = (error.float().square() @ weights[:, :, None])[..., 0]  # B T
        each = square if self.config.squared else (square + 1e-8).sqrt()
        return (each * present).sum() / present.sum().clamp(min=1)

    # --- what a run leaves

    def score(self) -> dict[str, float]:
        return score_motion(self.former, self.groups, self.whole, self.speech[-1] if self.speech else None)

    def sample(self, path: Path) -> None:
        draw_strips(path, self.former, [clip for group in self.groups.values() for clip in group][:4], self.whole)

    def export(self, folder: Path) -> None:
        import json
        from dataclasses import asdict

        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        weights = {k: v.detach().cpu().contiguous() for k, v in self.former.state_dict().items()}
        save_file(weights, folder / "sync_former.safetensors")
        (folder / "sync_former.json").write_text(json.dumps(asdict(self.config.network), indent=1))
