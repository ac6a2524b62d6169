"""Stage ``speech-encoder``: speech to mouth shapes, the part of the compact lip transform that needs no picture.

Trained on stretches of the clips' voices against measures of the landmarks, with much augmentation, since half an hour of
speech is little.  Clips whose sound runs ahead of or behind the picture blur the lesson: a finished run measures every clip's
lag (``lags.json``), and a second run, started with that file, learns from the straightened labels.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from talkswap.data.talking import SpokenClip, open_spoken
from talkswap.errors import TrainingDataError
from talkswap.systems.swaptalk.speech_encoder import MEASURES, SpeechEncoder, SpeechEncoderConfig
from talkswap.train.loop import Batch, LoopConfig, Stage, step_seed
from talkswap.types import FloatArray
from talkswap.voice.mel import SILENCE, MelConfig

HIDDEN = -0.4  # what SpecAugment puts in place of a masked band: the usual level of speech


@dataclass(frozen=True)
class SpeechEncoderStageConfig:
    """Data and loss of the stage; the defaults are compact's."""

    data: Path = Path("cache")
    videos: Path | None = None  # folder with clips.csv, for the order of the clips
    network: SpeechEncoderConfig = SpeechEncoderConfig()
    loop: LoopConfig = LoopConfig(
        steps=600, batch=24, learning_rate=3e-3, weight_decay=0.05, ema=0.99, warmup=50, log_every=50, sample_every=200
    )
    start: Path | None = None
    lags: Path | None = None  # lags.json of an earlier run
    stretch: int = 96  # tokens per sample: 2.4 s
    silent: float = 0.08  # share of samples that are silence with a closed mouth
    correlation: float = 0.5  # weight of 1 - Pearson within a stretch
    calibration: int = 12  # every so-many-th training clip only sets gain and offset
    amplitude: float = 1.0  # spread of wanted shapes over that of true ones
    largest_lag: float = 0.15  # seconds; beyond it a clip keeps lag 0


class SpeechLabels:
    """One clip as padded mel and mouth shapes on the grid of the encoder's tokens."""

    def __init__(self, clip: SpokenClip, config: SpeechEncoderConfig, lag: float, room: int) -> None:
        self.name, self.count = clip.name, (len(clip.mel) - 1) // config.stride + 1
        half = (config.field - 1) // 2
        pad = ((half, half + room * config.stride), (0, 0))
        self.mel = torch.from_numpy(np.pad(clip.mel, pad, constant_values=SILENCE))
        self.length = 2 * half + (self.count - 1) * config.stride + 1
        self.times = np.arange(self.count) * config.stride / float(MelConfig().rate)  # s, of each token
        self.seen, self.own_times, self.own_shape = clip.seen, clip.times, clip.shape
        known = np.flatnonzero(clip.seen)
        place = self.times + lag  # where in the picture the sound of a token belongs
        shape = np.stack(
            [np.interp(place, clip.times[known], clip.shape[known, j]) for j in range(clip.shape.shape[1])], 1
        )
        inside = (np.interp(place, clip.times, clip.seen.astype(np.float32)) > 0.99) & (place <= clip.times[-1])
        self.shape = torch.from_numpy(shape.clip(-4, 6).astype(np.float32))  # N measures
        self.weight = torch.from_numpy(inside.astype(np.float32))  # N


def read_lags(path: Path | None) -> dict[str, float]:
    """Seconds by clip name: how much later than its sound a clip's picture is."""
    if path is None:
        return {}
    if not path.is_file():
        raise TrainingDataError(f"no lags at {path}", "train the speech encoder once; its export holds lags.json")
    return {name: float(lag) for name, lag in json.loads(path.read_text()).items()}


def augment_mel(mel: Tensor) -> Tensor:
    """Random loudness, spectral tilt and bend, noise floor, pitch shift and masks on log-mel (B T 80)."""
    batch, length, bins = mel.shape

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(batch, 1, 1).uniform_(low, high)

    ramp, time, band = torch.linspace(-1, 1, bins), torch.arange(length)[None, :, None], torch.arange(bins)[None, None]
    bend = torch.randn(batch, 1, 1) * 0.06 * torch.sin((ramp + 1) / 2 * uniform(2, 12) + uniform(0, 6))
    mel = mel + uniform(-0.3, 0.25) + uniform(-0.2, 0.2) * ramp + bend
    floor = uniform(-1.5, -0.45) + uniform(-0.3, 0.3) * ramp + torch.randn_like(mel) * 0.05
    mel = torch.maximum(mel, floor).clamp(-1, 1)
    mel = torch.roll(mel, int(torch.randint(-3, 4, (1,))), 2)
    for _ in range(2):
        first, width = torch.randint(0, bins, (batch, 1, 1)), torch.randint(0, bins // 8, (batch, 1, 1))
        mel = mel.masked_fill((band >= first) & (band < first + width), HIDDEN)
    for _ in range(max(1, length // 80)):
        first, width = torch.randint(0, length, (batch, 1, 1)), torch.randint(0, 7, (batch, 1, 1))
        mel = mel.masked_fill((time >= first) & (time < first + width), HIDDEN)
    return mel


def pearson(a: FloatArray, b: FloatArray) -> float:
    """Correlation of two series; 0 where one does not move."""
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / size) if size > 1e-9 else 0.0


class SpeechEncoderStage(Stage):
    """Trains :class:`~talkswap.systems.swaptalk.speech_encoder.SpeechEncoder`."""

    name = "speech-encoder"

    def __init__(self, config: SpeechEncoderStageConfig) -> None:
        super().__init__(config)
        self.config: SpeechEncoderStageConfig = config
        torch.manual_seed(config.loop.seed)
        self.network: SpeechEncoder = SpeechEncoder(config.network)
        if config.start is not None:
            self.network.load_state_dict({k: v.float() for k, v in load_file(config.start).items()})
        lags = read_lags(config.lags)

        def labelled(split: str) -> list[SpeechLabels]:
            clips = [c for c in open_spoken(config.data, split, config.videos) if c.seen.sum() > 20]
            straight = lags if split == "train" else {}
            return [SpeechLabels(c, config.network, straight.get(c.name, 0.0), config.stretch) for c in clips]

        train = labelled("train")
        self.lags = lags
        self.calibration = train[:: config.calibration]
        self.clips = [c for i, c in enumerate(train) if i % config.calibration] or train
        self.held_out = labelled("val")
        shapes = np.concatenate([c.shape[c.weight > 0].numpy() for c in self.clips])
        closed = shapes[shapes[:, 0] <= np.quantile(shapes[:, 0], 0.05)]
        self.rest = torch.from_numpy(np.median(closed, 0).astype(np.float32))  # measures of a closed mouth
        lengths = np.array([c.count for c in self.clips], float)
        self.share = lengths / lengths.sum()

    def batch(self, step: int) -> Batch:
        config, net = self.config, self.config.network
        random = np.random.default_rng(step_seed(config.loop.seed, step))
        rows = (config.stretch - 1) * net.stride + net.field
        mels, shapes, weights = [], [], []
        for _ in range(config.loop.batch):
            if random.random() < config.silent:
                level = SILENCE + 0.5 * random.random() ** 2  # digital silence to room noise
                mels.append(torch.full((rows, net.bins), float(level)))
                shapes.append(self.rest.expand(config.stretch, -1))
                weights.append(torch.ones(config.stretch))
                continue
            clip = self.clips[int(random.choice(len(self.clips), p=self.share))]
            first = int(random.integers(max(1, clip.count - config.stretch + 1)))
            mels.append(clip.mel[first * net.stride : first * net.stride + rows])
            lacking = max(0, config.stretch - (clip.count - first))
            shapes.append(F.pad(clip.shape[first : first + config.stretch], (0, 0, 0, lacking)))
            weights.append(F.pad(clip.weight[first : first + config.stretch], (0, lacking)))
        return {"mel": torch.stack(mels), "shape": torch.stack(shapes), "weight": torch.stack(weights)}

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, float | Tensor]]:
        true, weight = batch["shape"], batch["weight"]
        mel = batch["mel"]
        quiet = (mel.amax((1, 2)) < -0.45)[:, None, None]
        made = self.network.measured(self.network.tokens(torch.where(quiet, mel, augment_mel(mel)))).float()
        each = (F.smooth_l1_loss(made, true, reduction="none") * weight[..., None]).sum((0, 1)) / weight.sum().clamp(
            min=1
        )
        share = (weight / weight.sum(1, keepdim=True).clamp(min=1))[..., None]
        a, b = made - (made * share).sum(1, keepdim=True), true - (true * share).sum(1, keepdim=True)
        together = (a * b * share).sum(1) / (
            (a * a * share).sum(1) * (b * b * share).sum(1) + 1e-3
        ).sqrt()  # B measures
        correlation = together[:, 0].mean() + 0.3 * together.mean()
        total = 2 * each[0] + each[1:].mean() - self.config.correlation * correlation
        return total, {
            "opening": each[0].detach(),
            "shape": each[1:].mean().detach(),
            "pearson": together[:, 0].mean().detach(),
        }

    def predicted(self, clip: SpeechLabels, times: FloatArray) -> FloatArray:
        """Measures (N M) before gain and offset at times in seconds."""
        device = next(self.network.parameters()).device
        made = (
            self.network.measured(self.network.tokens(clip.mel[None, : clip.length].to(device)))[0]
            .float()
            .cpu()
            .numpy()
        )
        return np.stack([np.interp(times, clip.times, made[:, j]) for j in range(made.shape[1])], 1)

    def score(self) -> dict[str, float]:
        own, shifted, measures = [], [], []
        for clip in self.held_out:
            times, true = clip.own_times[clip.seen], clip.own_shape[clip.seen]
            made = self.predicted(clip, times)
            measures.append([pearson(made[:, j], true[:, j]) for j in range(true.shape[1])])
            own.append(measures[-1][0])
            shifted.append(pearson(self.predicted(clip, times - 1.0)[times > 1.0, 0], true[times > 1.0, 0]))
        scores = {f"pearson-{n}": float(v) for n, v in zip(MEASURES, np.mean(measures, 0), strict=False)}
        return {
            **scores,
            "pearson-shifted": float(np.mean(shifted)),
            "above-shifted": float(np.mean(np.array(own) > shifted)),
        }

    def lag_of(self, clip: SpeechLabels) -> float:
        """Seconds by which the clip's picture is late, by the best correlation; 0 when no lag is clearly better."""
        tried = np.arange(-10, 11) * 0.025
        times, true = clip.own_times[clip.seen], clip.own_shape[clip.seen, 0]
        found = np.array([pearson(self.predicted(clip, times - lag)[:, 0], true) for lag in tried])
        best = int(found.argmax())
        clear = found[best] > 0.35 and found[best] > found[10] + 0.02 and abs(tried[best]) <= self.config.largest_lag
        return float(round(tried[best], 3)) if clear else 0.0

    def calibrate(self) -> None:
        """Set gain and offset from clips that were not trained on, silence being a closed mouth."""
        made = np.concatenate([self.predicted(c, c.own_times[c.seen]) for c in self.calibration])
        true = np.concatenate([c.own_shape[c.seen] for c in self.calibration])
        gain = self.config.amplitude * true.std(0) / np.maximum(made.std(0), 1e-3)
        offset = true.mean(0) - gain * made.mean(0)
        self.network.gain.copy_(torch.from_numpy(gain.astype(np.float32)))
        self.network.offset.copy_(torch.from_numpy(offset.astype(np.float32)))

    def sample(self, path: Path) -> None:
        """Curves of true and predicted opening of six held-out clips."""
        panels = []
        for clip in self.held_out[:6]:
            true = clip.own_shape[clip.seen, 0]
            made = self.predicted(clip, clip.own_times[clip.seen])[:, 0]
            panel = np.full((120, 900, 3), 255, np.uint8)
            x = np.linspace(5, 895, len(true))
            for series, colour in ((true, (150, 150, 150)), (made, (30, 30, 200))):
                y = 112 - 100 * np.clip(series / max(float(true.max()), 1e-3), 0, 1)
                cv2.polylines(panel, [np.stack([x, y], 1).astype(np.int32)], False, colour, 1, cv2.LINE_AA)
            cv2.putText(
                panel,
                f"{clip.name}: r = {pearson(made, true):.2f}",
                (8, 14),
                cv2.FONT_HERSHEY_SIMPLEX,
                0.45,
                (0, 0, 0),
                1,
            )
            panels.append(panel)
        cv2.imwrite(str(path), np.concatenate(panels))

    def export(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.calibrate()
        save_file(
            {k: v.contiguous() for k, v in self.network.state_dict().items()}, folder / "speech_encoder.safetensors"
        )
        (folder / "speech_encoder.json").write_text(json.dumps(asdict(self.config.network), indent=1))
        lags = {c.name: self.lag_of(c) for c in self.calibration + self.clips}
        (folder / "lags.json").write_text(json.dumps({n: lag for n, lag in sorted(lags.items()) if lag}, indent=1))
