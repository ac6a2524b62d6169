"""Stage ``sync-expert``: does this mouth belong to this sound, and how open is it (SwapTalk, section III-C)?

Several moments of several clips make one batch; each mouth must find its own sound among the other moments of its clip and among
the other clips, and the other way round.  That uses every pair of a batch, where pairs judged one by one (in or out of
sync) would use two.  The opening probe learns beside it from the landmarks' measures.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talkswap.data.talking import open_spoken
from talkswap.errors import TrainingDataError, TrainingError
from talkswap.faces.measures import pearson
from talkswap.systems.swaptalk.sync_expert import PAPER, SyncExpert, SyncExpertConfig, contrastive_loss
from talkswap.systems.swaptalk.training.codes import RAW_STEP, TalkingClip, code_hash, load_vqgan, open_codes
from talkswap.systems.swaptalk.vqgan import Codebook
from talkswap.train import stage
from talkswap.train.figures import draw_curve
from talkswap.train.shared.speech_encoder import augment_mel, read_lags
from talkswap.train.stage import SAMPLES, Batch, LoopConfig, Networks, Part, Stage, Work, step_seed
from talkswap.types import FloatArray
from talkswap.voice.features import FeatureExtractor


@dataclass(frozen=True)
class SyncExpertStageConfig:
    """Data and loss of the stage; the defaults are compact's."""

    data: Path = Path("cache")  # prepared clips
    codes: Path = Path("cache/codes")  # made by `talkswap data codes`
    vqgan: Path = Path("vqgan.safetensors")
    videos: Path | None = None
    network: SyncExpertConfig = SyncExpertConfig()
    loop: LoopConfig = LoopConfig(
        steps=900, batch=72, learning_rate=1e-3, weight_decay=0.05, ema=0.995, sample_every=300
    )
    speech: Path | None = None  # trained speech encoder that the audio side starts from
    lags: Path | None = None
    moments: int = 12  # of one clip in a batch
    weakest: float = 0.15  # clips.csv: correlation below which a clip does not teach sync
    lost: float = 0.1  # share of cells that are hidden
    noise: float = 0.3  # deviation added to codes, so that continuous latents are read as well
    probe: float = 1.0  # weight of the probe's loss
    checked_at: int = 400  # step by which the expert must be above chance; 0 = it need not
    above_chance: float = 1.3  # times chance
    checked_over: int = 100  # batches that are judged together


PRESETS = {
    "compact": SyncExpertStageConfig(),
    # The paper trains an expert "similar to [3]" (III-C) and gives none of its numbers: all of these are ours
    "paper": SyncExpertStageConfig(
        network=PAPER,
        loop=LoopConfig(
            steps=200_000, batch=96, learning_rate=1e-4, betas=(0.9, 0.999), weight_decay=0.0, final_rate=1.0
        ),
        lost=0.0,
        noise=0.0,  # its codes have no scale that a fixed noise could be told by
        checked_at=20_000,  # at a tenth of compact's rate an expert may stay at chance for thousands of steps
    ),
}


def networks(config: SyncExpertStageConfig) -> dict[str, nn.Module]:
    """What the stage trains, untrained."""
    return {"sync-expert": SyncExpert(config.network)}


def work(config: SyncExpertStageConfig, networks: Networks) -> Work:
    """What one sample runs through, for the estimate of `--dry-run`."""
    network: Any = networks["sync-expert"]
    net = config.network

    def run() -> object:
        lower = torch.empty(SAMPLES, net.frames, net.code_width, net.grid // 2, net.grid)
        sound = torch.empty(SAMPLES, net.window, net.speech_width)
        return network(lower, sound), network.probe(lower[:, 0])

    return Work([Part("sync-expert", run)])


class TalkingMoments:
    """One clip's codes, sound and labels, cut where the stages need them."""

    def __init__(self, clip: TalkingClip, lag: float, frames: int) -> None:
        self.name, self.kind, self.correlation = clip.spoken.name, clip.spoken.kind, clip.spoken.correlation
        self.lower, self.upper, self.upper_rows = clip.lower, clip.upper, clip.upper_rows
        self.lower_raw, self.upper_raw = clip.lower_raw, clip.upper_raw
        self.spoken = clip.spoken
        self.times = clip.spoken.times[clip.frames] - lag  # when a frame's own sound is heard
        self.shape = clip.spoken.shape[clip.frames].clip(-4, 6)
        self.pose = clip.spoken.pose[clip.frames]
        apart = np.diff(clip.frames)
        usual = int(np.median(apart)) if len(apart) else 1
        whole = [
            i
            for i in range(len(clip.frames) - frames + 1)
            if clip.frames[i + frames - 1] - clip.frames[i] == usual * (frames - 1)
        ]
        self.starts = np.array(whole, np.int64)  # rows from which ``frames`` frames follow each other
        self.frames = frames

    def lower_given(self, rows: np.ndarray) -> np.ndarray:
        """Lower halves of frames as stored: code numbers (... G/2 G), or int8 vectors (... C G/2 G)."""
        return self.lower_raw[rows] if self.lower_raw.ndim == 4 else self.lower[rows].astype(np.int64)

    def upper_given(self, rows: np.ndarray) -> np.ndarray:
        """Upper halves stored nearest in time to frames (N), as :meth:`lower_given`."""
        near = np.abs(self.upper_rows[None] - np.asarray(rows)[:, None]).argmin(1)
        return self.upper_raw[near] if self.upper_raw.ndim == 4 else self.upper[near].astype(np.int64)

    def speech(self, rows: np.ndarray, length: int) -> Tensor:
        """Windows (N L D) of what the lip transform hears, around frames."""
        return torch.from_numpy(self.spoken.speech_windows(self.times[rows], length))

    def silence(self, count: int, length: int) -> Tensor:
        """As many windows (N L D) of silence."""
        return torch.from_numpy(self.spoken.silence).expand(count, length, -1)

    def speech_during(self, starts: np.ndarray, length: int) -> Tensor:
        """Mel windows (N L 80) around the middle of runs of frames."""
        middle = (self.times[starts] + self.times[starts + self.frames - 1]) / 2
        return torch.from_numpy(self.spoken.mel_windows(middle, length))

    def runs(self, starts: np.ndarray) -> np.ndarray:
        """Rows (N frames) of runs."""
        return starts[:, None] + np.arange(self.frames)


def given_latents(codebook: Codebook, stored: Tensor) -> Tensor:
    """Latent halves (... C G/2 G) of code numbers (... G/2 G) or of int8 vectors (... C G/2 G)."""
    if stored.dtype == torch.int8:
        return stored.float() * RAW_STEP
    return F.embedding(stored, codebook.codes).movedim(-1, -3)


def open_moments(
    data: Path,
    codes: Path,
    videos: Path | None,
    split: str,
    weights: str,
    lags: dict[str, float],
    frames: int,
    features: FeatureExtractor | None = None,
) -> list[TalkingMoments]:
    """The clips of a split that hold at least one run of frames.  Lags straighten training clips only."""
    clips = open_codes(codes, open_spoken(data, split, videos, features), split, weights)
    moments = [TalkingMoments(c, lags.get(c.spoken.name, 0.0) if split == "train" else 0.0, frames) for c in clips]
    return [m for m in moments if len(m.starts)]


class SyncExpertStage(Stage):
    """Trains :class:`~talkswap.systems.swaptalk.sync_expert.SyncExpert` and its probe."""

    name = "sync-expert"

    def __init__(self, config: SyncExpertStageConfig) -> None:
        super().__init__(config)
        self.config: SyncExpertStageConfig = config
        torch.manual_seed(config.loop.seed)
        self.network: SyncExpert = SyncExpert(config.network)
        if config.speech is not None:
            stage.load_weights(self.network.speech, config.speech)
        vqgan = load_vqgan(config.vqgan)
        self.frozen = nn.ModuleDict({"lower": vqgan.lower})
        weights, frames = code_hash(vqgan), config.network.frames
        lags = read_lags(config.lags)
        self.clips = open_moments(config.data, config.codes, config.videos, "train", weights, lags, frames)
        self.held_out = open_moments(config.data, config.codes, config.videos, "val", weights, {}, frames)
        if not self.clips or not self.held_out:
            raise TrainingDataError(
                "no clip is long enough for a run of frames", "encode more clips with talkswap data codes"
            )
        self.strong = [
            c for c in self.clips if c.correlation >= config.weakest and len(c.starts) >= 2 * config.moments
        ] or self.clips
        self.right: list[tuple[Tensor, Tensor]] = []  # of the last batches: share that was right, chance
        self.judged = False

    def batch(self, step: int) -> Batch:
        config = self.config
        random = np.random.default_rng(step_seed(config.loop.seed, step))
        parts: dict[str, list[Tensor]] = {"lower": [], "mel": [], "group": [], "time": [], "shape": []}
        for group in range(max(1, config.loop.batch // config.moments)):
            clip = self.strong[int(random.integers(len(self.strong)))]
            starts = random.choice(clip.starts, min(config.moments, len(clip.starts)), replace=False)
            rows = clip.runs(starts)  # N F
            parts["lower"].append(torch.from_numpy(clip.lower_given(rows)))
            parts["mel"].append(clip.speech_during(starts, config.network.window))
            parts["group"].append(torch.full((len(starts),), group))
            parts["time"].append(torch.from_numpy(clip.times[starts]))
            parts["shape"].append(torch.from_numpy(clip.shape[rows]))
        return {key: torch.cat(values) for key, values in parts.items()}

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, float | Tensor]]:
        config, net = self.config, self.network
        lower = given_latents(self.frozen["lower"], batch["lower"])  # N F C H W
        lower = lower + config.noise * torch.randn_like(lower)
        # Hidden cells and noise: the expert also reads latents that no encoder made.
        lower = lower * (torch.rand_like(lower[:, :, :1]) >= config.lost)
        lips, sound = net.see(lower), net.hear(augment_mel(batch["mel"]))
        contrast = contrastive_loss(lips, sound, batch["group"], net.temperature.exp().clamp(max=50), batch["time"])
        middle = config.network.frames // 2
        measured = net.probe(lower[:, middle]).float()
        probe = F.smooth_l1_loss(measured, batch["shape"][:, middle])
        right, chance = self._retrieval(lips, sound, batch["group"])
        self.right.append((right, chance))
        total = contrast + config.probe * probe
        return total, {"contrast": contrast.detach(), "probe": probe.detach(), "right": right, "chance": chance}

    @staticmethod
    @torch.no_grad()
    def _retrieval(lips: Tensor, sound: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
        """Share of mouths whose own sound is the nearest of their clip's in the batch, and what guessing would give."""
        same = group[:, None] == group[None]
        # Other clips are easy to tell apart by voice and face; only the own clip's moments count.
        nearest = (lips @ sound.t()).masked_fill(~same, -2.0).argmax(1)
        right = (nearest == torch.arange(len(nearest), device=nearest.device)).float().mean()
        return right, (1 / same.sum(1)).mean()

    def after_step(self, step: int) -> None:
        """Judge the expert once, over the batches before ``checked_at`` (a resumed run over as many of its own).

        Raises:
            TrainingError: it is no better than guessing.
        """
        config = self.config
        self.right = self.right[-config.checked_over :]
        enough = len(self.right) >= min(config.checked_over, config.checked_at)
        if self.judged or not config.checked_at or step + 1 < config.checked_at or not enough:
            return
        self.judged = True
        figures = torch.stack([torch.stack(pair) for pair in self.right])
        right, chance = self.gathered(figures).mean(0).tolist()  # the same in all processes, which stop together
        if right < config.above_chance * chance:
            raise TrainingError(
                f"after {step + 1} steps the expert is right in {100 * right:.1f}% where chance gives {100 * chance:.1f}%",
                "check that lips and sound of the clips belong together (raise weakest, pass lags), or start from a trained speech encoder",
            )

    def seen_shapes(self, clip: TalkingMoments) -> FloatArray:
        """What the probe reads (T M) in a clip's own codes."""
        parts = [self.network.probe(part).float() for part in self._halves(clip, np.arange(len(clip.lower)))]
        return torch.cat(parts).cpu().numpy()

    def _halves(self, clip: TalkingMoments, rows: np.ndarray) -> Iterator[Tensor]:
        """Lower halves of frames or runs of frames, 32 at a time."""
        device = next(self.network.parameters()).device
        for first in range(0, len(rows), 32):
            stored = torch.from_numpy(clip.lower_given(rows[first : first + 32])).to(device)
            yield given_latents(self.frozen["lower"], stored)

    def score(self) -> dict[str, float]:
        """Share of mouths that find their sound among nine times 0.2 s apart, and how well the probe reads openings."""
        device = next(self.network.parameters()).device
        right, opening, error = [], [], []
        for clip in self.held_out:
            predicted = self.seen_shapes(clip)[:, 0]
            opening.append(pearson(predicted, clip.shape[:, 0]))
            error.append(float(np.abs(predicted - clip.shape[:, 0]).mean()))
            # Every third run: neighbours share most of their frames.
            starts = clip.starts[::3]
            lips = torch.cat([self.network.see(part) for part in self._halves(clip, clip.runs(starts))])
            middle = (clip.times[starts] + clip.times[starts + clip.frames - 1]) / 2
            cosines = []
            for shift in np.arange(-4, 5) * 0.2:
                mel = torch.from_numpy(clip.spoken.mel_windows(middle + shift, self.config.network.window)).to(device)
                cosines.append((lips * self.network.hear(mel)).sum(1))
            right.append(float((torch.stack(cosines).argmax(0) == 4).float().mean()))
        return {
            "right": float(np.mean(right)),
            "chance": 1 / 9,
            "probe-pearson": float(np.mean(opening)),
            "probe-error": float(np.mean(error)),
        }

    def sample(self, path: Path) -> None:
        """The training curve: there is no picture to show."""
        draw_curve(path.parent / "curve.jsonl", path)

    def export(self, folder: Path) -> None:
        stage.export_network(self.network, self.config.network, folder, "sync_expert")
        (folder / "clips.json").write_text(json.dumps([c.name for c in self.strong]))
