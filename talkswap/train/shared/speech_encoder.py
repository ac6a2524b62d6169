"""Stage ``speech-encoder``: speech to mouth shapes, the part of the compact lip transform that needs no picture.

Trained on stretches of the clips' voices against measures of the landmarks, with much augmentation, since half an hour of
speech is little.  Clips whose sound runs ahead of or behind the picture blur the lesson: a finished run measures every clip's
lag (``lags.json``) and how far it agrees with the encoder (``agreement.json``), and a second run, started with those
files, learns from the straightened labels, most from the clips whose lips follow their sound.

Lips alone say too little about speech.  With a folder of ``recipes/phonetics.py`` the tokens also learn to name the
sounds of much more speech than has a picture, and with ``teachers`` (exports of earlier runs) the mean of what those
want is a second label for all of it: one network then comes near to their ensemble.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talkswap.data.talking import open_spoken
from talkswap.errors import TrainingDataError
from talkswap.faces.measures import pearson
from talkswap.train import stage
from talkswap.train.shared.speech_labels import SOUNDS, ClipLabels, SpeechLabels, load_encoder, shape_at, teacher_shapes
from talkswap.train.stage import SAMPLES, Batch, LoopConfig, Networks, Part, Stage, Work, step_seed
from talkswap.types import FloatArray
from talkswap.voice.mel import SILENCE
from talkswap.voice.speech_encoder import MEASURES, SpeechEncoder, SpeechEncoderConfig

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
    noisy: float = 0.0  # of those, the share with noise in place of an even level; 0.6 closes lips in a noisy room
    correlation: float = 0.5  # weight of 1 - Pearson within a stretch
    calibration: int = 12  # every so-many-th training clip only sets gain and offset
    amplitude: float = 1.0  # spread of wanted shapes over that of true ones
    largest_lag: float = 0.15  # seconds; beyond it a clip keeps lag 0
    agreement: Path | None = None  # agreement.json of an earlier run: clips that agree are drawn more often
    alike: float = 0.0  # 0: shapes as they are; 1: every training clip's shapes scaled to the same spread
    speed: float = 0.0  # largest change of tempo, as a share
    warp: float = 0.0  # largest stretch of the bands, as a share: shorter and longer throats
    colour: float = 1.0  # strength of changes of loudness and tilt
    phonetics: Path | None = None  # folder of recipes/phonetics.py
    phonetic: float = 0.3  # weight of naming the sounds
    phonetic_share: tuple[float, float] = (0.6, 0.25)  # of samples that are speech without a picture: first, last step
    teachers: tuple[Path, ...] = ()  # export folders of earlier runs
    taught: float = 1.0  # weight of what the teachers want


def networks(config: SpeechEncoderStageConfig) -> dict[str, nn.Module]:
    """What the stage trains, untrained."""
    return {"speech-encoder": SpeechEncoder(config.network)}


def work(config: SpeechEncoderStageConfig, networks: Networks) -> Work:
    """What one sample runs through, for the estimate of `--dry-run`."""
    network: Any = networks["speech-encoder"]
    rows = (config.stretch - 1) * config.network.stride + config.network.field

    def run() -> Tensor:
        return network.shapes(network.tokens(torch.empty(SAMPLES, rows, config.network.bins)))

    return Work([Part("speech-encoder", run)])


class SpeechLearner(nn.Module):
    """The encoder and, for training only, the head that names sounds."""

    def __init__(self, config: SpeechEncoderConfig) -> None:
        super().__init__()
        self.encoder = SpeechEncoder(config)
        self.sounds = nn.Linear(config.width, len(SOUNDS))


def read_lags(path: Path | None) -> dict[str, float]:
    """Seconds by clip name: how much later than its sound a clip's picture is."""
    if path is None:
        return {}
    if not path.is_file():
        raise TrainingDataError(f"no lags at {path}", "train the speech encoder once; its export holds lags.json")
    return {name: float(lag) for name, lag in json.loads(path.read_text()).items()}


def augment_mel(mel: Tensor, strength: float = 1.0) -> Tensor:
    """Random loudness, spectral tilt and bend, noise floor, pitch shift and masks on log-mel (B T 80).

    ``strength`` scales loudness, tilt and bend only.
    """
    batch, length, bins = mel.shape
    place = mel.device

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(batch, 1, 1, device=place).uniform_(low, high)

    # Microphones differ by loudness, tilt and smooth bends of the spectrum.
    ramp = torch.linspace(-1, 1, bins, device=place)
    time = torch.arange(length, device=place)[None, :, None]
    band = torch.arange(bins, device=place)[None, None]
    bend = torch.randn(batch, 1, 1, device=place) * 0.06 * torch.sin((ramp + 1) / 2 * uniform(2, 12) + uniform(0, 6))
    mel = mel + strength * (uniform(-0.3, 0.25) + uniform(-0.2, 0.2) * ramp + bend)
    # Noise fills what lies below it, as in a real room.
    floor = uniform(-1.5, -0.45) + uniform(-0.3, 0.3) * ramp + torch.randn_like(mel) * 0.05
    mel = torch.maximum(mel, floor).clamp(-1, 1)
    mel = torch.roll(mel, int(torch.randint(-3, 4, (1,))), 2)
    for _ in range(2):
        first, width = (torch.randint(0, most, (batch, 1, 1), device=place) for most in (bins, bins // 8))
        mel = mel.masked_fill((band >= first) & (band < first + width), HIDDEN)
    for _ in range(max(1, length // 80)):
        first, width = (torch.randint(0, most, (batch, 1, 1), device=place) for most in (length, 7))
        mel = mel.masked_fill((time >= first) & (time < first + width), HIDDEN)
    return mel


def room_noise(rows: int, bins: int, random: np.random.Generator, noisy: bool) -> Tensor:
    """Log-mel (rows bins) without a voice: an even level, or noise up to about -48 dB."""
    if not noisy:
        return torch.full((rows, bins), float(SILENCE + 0.5 * random.random() ** 2))
    level = random.uniform(-1.0, -0.35) + random.uniform(-0.3, 0.35) * np.linspace(-1, 1, bins)
    grain = random.standard_normal((rows + 2, bins)) * random.uniform(0.04, 0.12)
    mel = level + (grain[:-2] + grain[1:-1] + grain[2:]) / np.sqrt(3)  # windows overlap, so frames are alike
    return torch.from_numpy(np.clip(mel, SILENCE, 1).astype(np.float32))


def warp_bands(mel: Tensor, most: float) -> Tensor:
    """Stretch the bands of each log-mel (B T 80) by a random share up to ``most``, as throats of other lengths do."""
    batch, _, bins = mel.shape
    start = torch.empty(batch, 1, device=mel.device)
    place = torch.arange(bins, device=mel.device) * (1 + start.uniform_(-most, most))
    place = (place + start.uniform_(-1, 1)).clamp(0, bins - 1)  # B 80
    low = place.floor().long().clamp(max=bins - 2)
    part = (place - low)[:, None]
    low = low[:, None].expand(-1, mel.shape[1], -1)
    return mel.gather(2, low) * (1 - part) + mel.gather(2, low + 1) * part


def correlations(answer: Tensor, true: Tensor, weight: Tensor) -> Tensor:
    """Pearson of each measure over the known tokens of each stretch (B T M) that has some; (B' M)."""
    some = weight.sum(1) > 8
    if not bool(some.any()):
        return torch.zeros(1, answer.shape[2], device=answer.device)
    answer, true, weight = answer[some], true[some], weight[some]
    share = (weight / weight.sum(1, keepdim=True))[..., None]
    a, b = answer - (answer * share).sum(1, keepdim=True), true - (true * share).sum(1, keepdim=True)
    return (a * b * share).sum(1) / ((a * a * share).sum(1) * (b * b * share).sum(1) + 1e-3).sqrt()


class SpeechEncoderStage(Stage):
    """Trains :class:`~talkswap.voice.speech_encoder.SpeechEncoder`."""

    name = "speech-encoder"

    def __init__(self, config: SpeechEncoderStageConfig) -> None:
        super().__init__(config)
        self.config: SpeechEncoderStageConfig = config
        torch.manual_seed(config.loop.seed)
        self.network: SpeechLearner = SpeechLearner(config.network)
        if config.start is not None:
            stage.load_weights(self.encoder, config.start)
        lags = read_lags(config.lags)
        net, room = config.network, round(config.stretch * (1 + config.speed)) + 1
        spoken = {
            split: [c for c in open_spoken(config.data, split, config.videos) if c.seen.sum() > 20]
            for split in ("train", "val")
        }
        spread = np.median([c.shape[c.seen].std(0) for c in spoken["train"]], 0) if config.alike > 0 else None
        self.calibration: list[ClipLabels] = []
        self.clips: list[ClipLabels] = []
        for number, clip in enumerate(spoken["train"]):
            # Clips kept for gain and offset mustn't be learnt by heart.
            kept = number % config.calibration == 0 and len(spoken["train"]) > 1
            labels = ClipLabels(clip, net, lags.get(clip.name, 0.0), room, None if kept else spread, config.alike)
            (self.calibration if kept else self.clips).append(labels)
        self.calibration = self.calibration or self.clips
        self.held_out = [ClipLabels(c, net, 0.0, room, None, 0.0) for c in spoken["val"]]
        self.other = self._other_speech(room)
        shapes = np.concatenate([c.shape[c.weight > 0].numpy() for c in self.clips])
        closed = shapes[shapes[:, 0] <= np.quantile(shapes[:, 0], 0.05)]
        self.rest = torch.from_numpy(np.median(closed, 0).astype(np.float32))  # measures of a closed mouth
        agreement = read_lags(config.agreement)
        # Long clips, and those whose lips follow their sound, are drawn more often.
        lengths = np.array([c.count * np.clip(agreement.get(c.name, 0.5) / 0.5, 0.1, 1.4) for c in self.clips])
        self.share = lengths / lengths.sum()
        self.other_share = np.array([c.count for c in self.other], float) / max(1, sum(c.count for c in self.other))
        if config.teachers:
            self._ask_teachers()

    @property
    def encoder(self) -> SpeechEncoder:
        return self.network.encoder

    def _other_speech(self, room: int) -> list[SpeechLabels]:
        """Recordings without a picture; the clips take their sounds from the same folder."""
        folder = self.config.phonetics
        if folder is None:
            return []
        files = sorted(folder.glob("*.npz"))
        if not files:
            raise TrainingDataError(
                f"no labelled speech in {folder}", "make it with recipes/phonetics.py of the repository"
            )
        clips = {f"heard-{c.name}": c for c in self.clips}
        other = []
        for file in files:
            with np.load(file) as stored:
                if file.stem in clips:
                    clips[file.stem].name_sounds(stored["sound"])
                elif "mel" in stored:
                    other.append(SpeechLabels(file.stem, stored["mel"], self.config.network, room))
                    other[-1].name_sounds(stored["sound"])
        return other

    @torch.no_grad()
    def _ask_teachers(self) -> None:
        """Set ``teaching`` of all speech to the mean of what the teachers want, in the spread of the labels."""
        teachers = [load_encoder(Path(folder)) for folder in self.config.teachers]
        for teacher in teachers:
            answer = torch.cat([teacher_shapes(teacher, c)[c.weight > 0] for c in self.clips])
            mean, spread = answer.mean(0), answer.std(0).clamp(min=1e-3)
            true = torch.cat([c.shape[c.weight > 0] for c in self.clips])
            # a regression moves less than mouths do; the teachers' share of that is the labels' own
            slope = ((answer - mean) * (true - true.mean(0))).mean(0) / spread.square()
            for speech in [*self.clips, *self.other]:
                target = (teacher_shapes(teacher, speech) - mean) * slope + true.mean(0)
                speech.teaching += target / len(teachers)

    def batch(self, step: int) -> Batch:
        config, net = self.config, self.config.network
        random = np.random.default_rng(step_seed(config.loop.seed, step))
        rows = (config.stretch - 1) * net.stride + net.field
        progress = step / max(1, config.loop.steps - 1)
        unseen = config.phonetic_share[0] + progress * (config.phonetic_share[1] - config.phonetic_share[0])
        pieces = []
        for _ in range(config.loop.batch):
            if random.random() < config.silent:
                rest = self.rest.expand(config.stretch, -1)
                sound = torch.zeros(config.stretch, dtype=torch.long)
                mel = room_noise(rows, net.bins, random, random.random() < config.noisy)
                pieces.append((mel, rest, torch.ones(config.stretch), sound, rest))
                continue
            source: SpeechLabels
            if self.other and random.random() < unseen:
                source = self.other[int(random.choice(len(self.other), p=self.other_share))]
            else:
                source = self.clips[int(random.choice(len(self.clips), p=self.share))]
            speed = float(1 + config.speed * random.uniform(-1, 1))
            first = int(random.integers(max(1, source.count - round(config.stretch * speed) + 1)))
            pieces.append(source.piece(first, config.stretch, speed))
        names = ("mel", "shape", "weight", "sound", "teaching")
        return {name: torch.stack(parts) for name, parts in zip(names, zip(*pieces, strict=True), strict=True)}

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, float | Tensor]]:
        true, weight = batch["shape"], batch["weight"]
        mel = batch["mel"]
        # Silence stays silence: augmented, it would teach that noise closes the mouth.
        quiet = (mel.amax((1, 2)) < -0.45)[:, None, None]
        warped = warp_bands(mel, self.config.warp) if self.config.warp > 0 else mel
        tokens = self.encoder.tokens(torch.where(quiet, mel, augment_mel(warped, self.config.colour)))
        predicted = self.encoder.shapes(tokens).float()
        each = (F.smooth_l1_loss(predicted, true, reduction="none") * weight[..., None]).sum(
            (0, 1)
        ) / weight.sum().clamp(min=1)
        together = correlations(predicted, true, weight)  # B' measures
        correlation = together[:, 0].mean() + 0.3 * together.mean()
        total = 2 * each[0] + each[1:].mean() - self.config.correlation * correlation
        more: dict[str, float | Tensor] = {}
        if self.other:
            logits = self.network.sounds(tokens).float().transpose(1, 2)
            naming = F.cross_entropy(logits, batch["sound"], ignore_index=-1)
            total = total + self.config.phonetic * naming
            more["naming"] = naming.detach()
        if self.config.teachers:
            apart = F.smooth_l1_loss(predicted, batch["teaching"], reduction="none").mean((0, 1))
            everywhere = torch.ones_like(weight)
            agreement = correlations(predicted, batch["teaching"], everywhere)
            teaching = 2 * apart[0] + apart[1:].mean() - self.config.correlation * agreement[:, 0].mean()
            total = total + self.config.taught * teaching
            more["taught"] = teaching.detach()
        return total, {
            **more,
            "opening": each[0].detach(),
            "shape": each[1:].mean().detach(),
            "pearson": together[:, 0].mean().detach(),
        }

    def shapes(self, clip: ClipLabels) -> FloatArray:
        """Measures at every token of a clip (N M), before gain and offset."""
        mel = clip.mel[None, : clip.length].to(next(self.network.parameters()).device)
        shapes: FloatArray = self.encoder.shapes(self.encoder.tokens(mel))[0].float().cpu().numpy()
        return shapes

    def predicted(self, clip: ClipLabels, times: FloatArray) -> FloatArray:
        """:meth:`shapes` at times in seconds."""
        return shape_at(clip, self.shapes(clip), times)

    def score(self) -> dict[str, float]:
        """Pearson per measure on the held-out clips, opening at a wrong time, spread and silence after calibration."""
        self.calibrate()
        gain, offset = self.encoder.gain.cpu().numpy(), self.encoder.offset.cpu().numpy()
        own, shifted, measures, ratios = [], [], [], []
        for clip in self.held_out:
            times, true = clip.own_times[clip.seen], clip.own_shape[clip.seen]
            curves = self.shapes(clip)
            shapes = shape_at(clip, curves, times)
            measures.append([pearson(shapes[:, j], true[:, j]) for j in range(true.shape[1])])
            own.append(measures[-1][0])
            shifted.append(pearson(shape_at(clip, curves, times - 1.0)[times > 1.0, 0], true[times > 1.0, 0]))
            opening = np.maximum(shapes[:, 0] * gain[0] + offset[0], 0)
            ratios.append(float(opening.std() / max(true[:, 0].std(), 1e-3)))
        scores = {f"pearson-{n}": float(v) for n, v in zip(MEASURES, np.mean(measures, 0), strict=False)}
        for kind in ("real", "generated"):
            among = [c for c in self.calibration if c.kind == kind]
            if among:
                values = [pearson(self.predicted(c, c.own_times[c.seen])[:, 0], c.own_shape[c.seen, 0]) for c in among]
                scores[f"calibration-{kind}"] = float(np.mean(values))
        device = next(self.network.parameters()).device
        silence = torch.full((1, self.config.network.window, self.config.network.bins), SILENCE, device=device)
        return {
            **scores,
            "pearson-shifted": float(np.mean(shifted)),
            "above-shifted": float(np.mean(np.array(own) > shifted)),
            "spread": float(np.median(ratios)),
            "opening-in-silence": float(self.encoder(silence)[1][0, 0]),
        }

    def agreement_of(self, clip: ClipLabels, lag: float) -> float:
        """Pearson of the opening that is wanted and the clip's own, once straightened."""
        times = clip.own_times[clip.seen]
        return pearson(self.predicted(clip, times - lag)[:, 0], clip.own_shape[clip.seen, 0])

    def lag_of(self, clip: ClipLabels) -> float:
        """Seconds by which the clip's picture is late, by the best correlation; 0 when no lag is clearly better."""
        lags = np.arange(-10, 11) * 0.025
        times, true = clip.own_times[clip.seen], clip.own_shape[clip.seen, 0]
        curves = self.shapes(clip)
        values = np.array([pearson(shape_at(clip, curves, times - lag)[:, 0], true) for lag in lags])
        best = int(values.argmax())
        clear = values[best] > 0.35 and values[best] > values[10] + 0.02 and abs(lags[best]) <= self.config.largest_lag
        return float(round(lags[best], 3)) if clear else 0.0

    def calibrate(self) -> None:
        """Set gain and offset from clips that were not trained on, silence being a closed mouth."""
        answers = [self.predicted(c, c.own_times[c.seen]) for c in self.calibration]
        true = [c.own_shape[c.seen] for c in self.calibration]
        # within each clip: how far people open differs, and one loud clip must not set the gain of all
        ratios = [t.std(0) / np.maximum(m.std(0), 1e-3) for m, t in zip(answers, true, strict=True)]
        gain = self.config.amplitude * np.median(ratios, 0)
        offset = np.concatenate(true).mean(0) - gain * np.concatenate(answers).mean(0)
        self.encoder.gain.copy_(torch.from_numpy(gain.astype(np.float32)))
        self.encoder.offset.copy_(torch.from_numpy(offset.astype(np.float32)))

    def sample(self, path: Path) -> None:
        """Curves of true and predicted opening of six held-out clips."""
        panels = []
        for clip in self.held_out[:6]:
            true = clip.own_shape[clip.seen, 0]
            predicted = self.predicted(clip, clip.own_times[clip.seen])[:, 0]
            panel = np.full((120, 900, 3), 255, np.uint8)
            x = np.linspace(5, 895, len(true))
            for series, colour in ((true, (150, 150, 150)), (predicted, (30, 30, 200))):
                y = 112 - 100 * np.clip(series / max(float(true.max()), 1e-3), 0, 1)
                cv2.polylines(panel, [np.stack([x, y], 1).astype(np.int32)], False, colour, 1, cv2.LINE_AA)
            label = f"{clip.name}: r = {pearson(predicted, true):.2f}"
            cv2.putText(panel, label, (8, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1)
            panels.append(panel)
        cv2.imwrite(str(path), np.concatenate(panels))

    def export(self, folder: Path) -> None:
        self.calibrate()
        stage.export_network(self.encoder, self.config.network, folder, "speech_encoder", half=False)
        lags = {c.name: self.lag_of(c) for c in self.calibration + self.clips}
        agreement = {c.name: round(self.agreement_of(c, lags[c.name]), 3) for c in self.calibration + self.clips}
        (folder / "agreement.json").write_text(json.dumps(dict(sorted(agreement.items())), indent=1))
        (folder / "lags.json").write_text(json.dumps({n: lag for n, lag in sorted(lags.items()) if lag}, indent=1))
