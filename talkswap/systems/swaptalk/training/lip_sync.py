"""Stage ``lip-sync``: face warping and lip transform in the latent space (SwapTalk, section III-C, eq. 14 to 16).

What a render needs decides what is drawn: cross-driven, the network gets the lower half of the very frame, with the mouth of other
speech, and no warp.  Most samples therefore take as reference the frame of the same clip whose head is turned most like the
target's while its mouth is open differently; the rest take any frame and learn the warp.  Some samples pair silence with the
clip's most closed mouth.

The compact transform is told the target's true mouth shape in most samples (what the landmarks measured), and the shape that
its speech encoder wants in the others.  How a mouth of a given shape looks is thus learned without the doubt about what speech
means, and mouths move as far as they are told to.
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

from talkswap.errors import InputMissingError, TrainingDataError, TrainingError
from talkswap.faces.measures import pearson
from talkswap.records import from_plain
from talkswap.systems.swaptalk.lip_sync import PAPER, LipSync, LipSyncConfig
from talkswap.systems.swaptalk.sync_expert import SyncExpert, SyncExpertConfig, sync_loss
from talkswap.systems.swaptalk.training.codes import code_hash, load_vqgan
from talkswap.systems.swaptalk.training.sync_expert import TalkingMoments, given_latents, open_moments
from talkswap.systems.swaptalk.training.vqgan import decoder_parts
from talkswap.train import stage
from talkswap.train.shared.speech_encoder import augment_mel, read_lags
from talkswap.train.stage import SAMPLES, Batch, LoopConfig, Networks, Part, Stage, Work, step_seed
from talkswap.types import FloatArray
from talkswap.voice.features import FeatureExtractor


@dataclass(frozen=True)
class LipSyncStageConfig:
    """Data and loss of the stage; the defaults are compact's."""

    data: Path = Path("cache")
    codes: Path = Path("cache/codes")
    vqgan: Path = Path("vqgan.safetensors")
    expert: Path | None = None  # folder of the stage sync-expert's export; eq. 15, the probe and the scores need it
    speech: Path | None = None  # trained speech encoder
    lags: Path | None = None
    videos: Path | None = None
    hubert: Path | None = None  # folder of the model, where the network hears HuBERT
    start: Path | None = None
    network: LipSyncConfig = LipSyncConfig()
    loop: LoopConfig = LoopConfig(steps=1000, batch=16, learning_rate=8e-4, warmup=20, ema=0.99, sample_every=500)
    sequences: int = 0  # runs of the expert's frames in a batch, for eq. 15; compact's expert is too weak to help
    far: float = 0.2  # share of samples with any reference and the warp
    mouth_pull: float = (
        0.012  # eye distances of head turn that one unit of another opening outweighs in a near reference
    )
    silent: float = 0.06  # share with silence and a closed mouth
    told: float = 0.85  # share of the others whose mouth shape is the true one
    untold_tokens: float = 0.3  # share whose speech tokens are hidden, so that the shape alone must do
    code: float = 1.0  # L1 on the lower half (eq. 14)
    square: float = 0.5  # mean square on the same cells: where L1 alone would rest at changing nothing
    entropy: float = 0.0  # cross-entropy over the codes of the cells that move; for modules that work on codes
    sharpness: float = 24.0  # scale of the cosines in it
    sync: float = 0.3  # eq. 15
    probe: float = 1.0  # the probe must read the shape that was asked for
    pixel: float = 3.0  # L1 of the decoded mouth against the decoded truth
    pixel_rows: int = 1  # samples decoded for it; 0 = none
    freeze_speech: bool = True  # the speech encoder stays as it was trained
    mouth_rows: tuple[int, int] = (1, 9)  # cells of the lower half that speech moves most
    mouth_columns: tuple[int, int] = (5, 15)
    elsewhere: float = 0.1  # weight of the other cells, against 1 at the mouth's centre; 1.0: all alike, as in eq. 14


PRESETS = {
    "compact": LipSyncStageConfig(),
    # Section IV-B names lambda_sync, batch, rate and Adam; steps, the window and the UNet's widths are ours
    "paper": LipSyncStageConfig(
        network=PAPER,  # III-C, eq. 12: the latent diffusion UNet, HuBERT at its 4x and 8x levels
        loop=LoopConfig(
            steps=200_000,
            batch=20,  # IV-B
            learning_rate=1e-4,  # IV-B
            betas=(0.9, 0.999),  # IV-B: Adam
            weight_decay=0.0,
            final_rate=1.0,
            warmup=1,
        ),
        sequences=4,  # of five frames: all 20 rows go through the expert
        far=1.0,  # III-C: target and reference are any two frames of one clip
        code=1.0,  # eq. 16
        elsewhere=1.0,  # eq. 14 weighs all cells alike
        square=0.0,  # not in eq. 16
        sync=0.3,  # IV-B: lambda_sync
        probe=0.0,  # not in eq. 16
        pixel=0.0,
        silent=0.0,
    ),
}


def networks(config: LipSyncStageConfig) -> dict[str, nn.Module]:
    """What the stage trains, untrained."""
    return {"lip-sync": LipSync(config.network)}


def work(config: LipSyncStageConfig, networks: Networks) -> Work:
    """What one sample runs through, for the estimate of `--dry-run`."""
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
    parts += decoder_parts(net.grid, net.code_width, compact, decoded)
    still = (network.transform.speech,) if compact and config.freeze_speech else ()
    return Work(parts, still, ("sync-expert",) if config.sync or config.probe else ())


def mouth_weight(config: LipSyncStageConfig) -> Tensor:
    """Importance of each cell of a lower half (G/2 G), mean 1: a hill over the mouth."""
    grid = config.network.grid
    places = (torch.arange(grid // 2).float(), torch.arange(grid).float())
    hills = []
    for place, (first, last) in zip(places, (config.mouth_rows, config.mouth_columns), strict=True):
        hills.append(torch.exp(-0.5 * ((place - (first + last - 1) / 2) / ((last - first) / 3.4)).square()))
    weight = config.elsewhere + (1 - config.elsewhere) * hills[0][:, None] * hills[1][None]
    return weight / weight.mean()


class LipSyncStage(Stage):
    """Trains :class:`~talkswap.systems.swaptalk.lip_sync.LipSync`."""

    name = "lip-sync"

    def __init__(self, config: LipSyncStageConfig) -> None:
        super().__init__(config)
        self.config: LipSyncStageConfig = config
        torch.manual_seed(config.loop.seed)
        self.network: LipSync = LipSync(config.network)
        self.compact = config.network.backbone == "compact"
        if config.start is not None:
            stage.load_weights(self.network, config.start)
        elif config.speech is not None and self.compact:
            stage.load_weights(self.network.transform.speech, config.speech)
        if config.freeze_speech and self.compact:
            self.network.transform.speech.requires_grad_(False)
        frozen: dict[str, nn.Module] = {"vqgan": load_vqgan(config.vqgan)}
        frames = 5
        if config.expert is None and config.sequences and config.sync:
            raise InputMissingError(
                "no lip-sync expert was given", "set expert=FOLDER of its export, or sync=0 to train without eq. 15"
            )
        if config.expert is not None:
            stored = json.loads((config.expert / "sync_expert.json").read_text())
            expert = from_plain(SyncExpertConfig, stored)
            frozen["expert"] = SyncExpert(expert)
            stage.load_weights(frozen["expert"], config.expert / "sync_expert.safetensors")
            frames = expert.frames
        self.frozen = nn.ModuleDict(frozen)
        self.frames = frames
        weights, lags = code_hash(frozen["vqgan"]), read_lags(config.lags)  # type: ignore[arg-type]
        features = self._features()
        self.clips, self.held_out = (
            open_moments(config.data, config.codes, config.videos, split, weights, late, frames, features)
            for split, late in (("train", lags), ("val", {}))
        )
        if not self.clips or not self.held_out:
            raise TrainingDataError(
                "no clip is long enough for a run of frames", "encode more clips with talkswap data codes"
            )
        sizes = np.array([len(c.lower) for c in self.clips], float) ** 0.5
        self.share = sizes / sizes.sum()
        self.weight = mouth_weight(config)

    def _features(self) -> FeatureExtractor | None:
        """What the network hears when that is not mel."""
        if self.config.network.speech == "mel":
            return None
        if self.config.hubert is None:
            raise TrainingError("this lip-sync network hears HuBERT, and no model is given", "pass --set hubert=FOLDER")
        from talkswap.device import choose_device
        from talkswap.voice.hubert import HubertFeatures

        return HubertFeatures(self.config.hubert, choose_device(self.config.loop.device).name)

    def _near(self, clip: TalkingMoments, row: int, random: np.random.Generator) -> int:
        """A frame with the head turned as in ``row`` and another mouth."""
        # The best of a few random frames: like the target's pose, unlike its mouth.
        others = random.integers(len(clip.lower), size=24)
        turns = np.abs(clip.pose[others] - clip.pose[row]).mean(1)
        mouth = np.abs(clip.shape[others] - clip.shape[row])[:, 0]
        return int(others[np.argmin(turns - self.config.mouth_pull * np.minimum(mouth, 1.5))])

    def batch(self, step: int) -> Batch:
        config = self.config
        random = np.random.default_rng(step_seed(config.loop.seed, step))
        names = ("lower", "upper", "from_lower", "from_upper", "number", "speech", "shape")
        rows: dict[str, list[np.ndarray]] = {name: [] for name in names}
        silent: list[bool] = []

        def add(clip: TalkingMoments, row: int, other: int, quiet: bool = False) -> None:
            both = np.array([row, other])
            for name, stored in (("lower", clip.lower_given(both)), ("upper", clip.upper_given(both))):
                rows[name].append(stored[0])
                rows[f"from_{name}"].append(stored[1])
            rows["number"].append(clip.lower[row].astype(np.int64))
            window = clip.speech(np.array([row]), config.network.window)[0].numpy()
            rows["speech"].append(clip.silence(1, len(window))[0].numpy() if quiet else window)
            rows["shape"].append(clip.shape[row])
            silent.append(quiet)

        def draw_clip() -> TalkingMoments:
            return self.clips[int(random.choice(len(self.clips), p=self.share))]

        count = config.loop.batch
        # Both halves of far rows must be stored, and only every k-th upper half is.
        far = round(config.far * count)  # the last rows are the far ones
        sounds = []
        window = self.frozen["expert"].config.window if "expert" in self.frozen else config.network.window
        for _ in range(config.sequences):
            clip = draw_clip()
            start = random.choice(clip.starts, 1)
            sounds.append(clip.speech_during(start, window)[0])
            for row in clip.runs(start)[0]:
                if len(silent) >= count - far:
                    add(clip, int(row), int(clip.upper_rows[int(random.integers(len(clip.upper_rows)))]))
                else:
                    add(clip, int(row), self._near(clip, int(row), random))
        while len(silent) < count:
            clip = draw_clip()
            row = int(random.integers(len(clip.lower)))
            if len(silent) >= count - far:  # both need their own upper half
                row, other = (int(clip.upper_rows[int(i)]) for i in random.integers(len(clip.upper_rows), size=2))
                add(clip, row, other)
            elif random.random() < config.silent:
                closed = np.argsort(clip.shape[:, 0])[: max(1, len(clip.lower) // 20)]
                row = int(random.choice(closed))
                add(clip, row, self._near(clip, row, random), quiet=True)
            else:
                add(clip, row, self._near(clip, row, random))
        batch = {name: torch.from_numpy(np.stack(values)) for name, values in rows.items()}
        batch["silent"] = torch.tensor(silent)
        batch["shape_given"] = torch.from_numpy(random.random(count) < config.told) & ~batch["silent"]
        batch["hidden"] = torch.from_numpy(random.random(count) < config.untold_tokens)
        if sounds:
            batch["sound"] = torch.stack(sounds)
        return batch

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, float | Tensor]]:
        config, net, vqgan = self.config, self.network, self.frozen["vqgan"]
        true = given_latents(vqgan.lower, batch["lower"])  # B C H W
        reference = given_latents(vqgan.lower, batch["from_lower"])
        far = round(config.far * len(true))
        if far:
            upper = given_latents(vqgan.upper, batch["upper"][-far:])
            other = given_latents(vqgan.upper, batch["from_upper"][-far:])
            warped = net.warping(upper, other, reference[-far:])
            reference = torch.cat([reference[:-far], warped])
        speech = batch["speech"]
        if config.network.speech == "mel":
            speech = torch.where(batch["silent"][:, None, None], speech, augment_mel(speech))
        lower, target = self._transformed(reference, speech, batch)
        lower = lower.float()
        weight = self.weight.to(lower.device)
        code = ((lower - true).abs() * weight).mean()
        total = config.code * code + config.square * ((lower - true).square() * weight).mean()
        logs: dict[str, float | Tensor] = {"code": code.detach()}
        with torch.no_grad():
            logs["untouched"] = ((reference.float() - true).abs() * weight).mean()  # what changing nothing would cost
        if config.entropy:
            entropy, right = self._entropy(lower, batch["number"])
            total = total + config.entropy * entropy
            logs |= {"entropy": entropy.detach(), "right": right}
        if "expert" in self.frozen:
            expert = self.frozen["expert"]
            read = expert.probe(lower).float()
            probe = F.smooth_l1_loss(read[:, 0], target[:, 0]) + 0.3 * F.smooth_l1_loss(read, target)
            total = total + config.probe * probe
            logs["probe"] = probe.detach()
            # Sequences come first in the batch, so their rows are the leading ones.
            if config.sequences and config.sync:
                runs = lower[: config.sequences * self.frames].unflatten(0, (config.sequences, self.frames))
                cosine = (expert.see(runs) * expert.hear(batch["sound"])).sum(1)
                sync = sync_loss(cosine)
                total = total + config.sync * sync
                logs |= {"sync": sync.detach(), "cosine": cosine.mean().detach()}
        if config.pixel and config.pixel_rows:
            pixel = self._pixel(lower, true, batch["upper"], step)
            total = total + config.pixel * pixel
            logs["pixel"] = pixel.detach()
        return total, logs

    def _transformed(self, reference: Tensor, speech: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The new lower half and the mouth shape that was asked for."""
        transform = self.network.transform
        if not self.compact:
            return transform(reference, speech), batch["shape"]
        if self.config.freeze_speech:
            transform.speech.eval()
        tokens = transform.speech.tokens(speech)
        expected = transform.speech.target_shape(tokens).detach()
        target = torch.where(batch["shape_given"][:, None], batch["shape"], expected)
        # a true shape is never known better than this; the noise keeps the network from reading more into it
        target = target + 0.05 * torch.randn_like(target)
        tokens = tokens * (~batch["hidden"])[:, None, None]
        return transform.unet(reference, tokens, target), torch.where(
            batch["shape_given"][:, None], batch["shape"], expected
        )

    def _entropy(self, lower: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy over the codes of the cells that speech moves, and the share that is right."""
        config, codebook = self.config, self.frozen["vqgan"].lower
        rows, columns = slice(*config.mouth_rows), slice(*config.mouth_columns)
        cells = F.normalize(lower[:, :, rows, columns].permute(0, 2, 3, 1).flatten(0, 2), dim=1)  # N C
        logits = cells @ F.normalize(codebook.codes, dim=1).t() * config.sharpness
        truth = index[:, rows, columns].flatten()
        return F.cross_entropy(logits.float(), truth), (logits.argmax(1) == truth).float().mean()

    def _pixel(self, lower: Tensor, true: Tensor, upper: Tensor, step: int) -> Tensor:
        """L1 in the mouth's part of the crop between decoded prediction and decoded truth."""
        config, vqgan = self.config, self.frozen["vqgan"]
        count = len(lower) - round(config.far * len(lower)) or len(lower)
        # Decoding costs most of the step; seven walks through all rows in turn.
        rows = [(step * config.pixel_rows + i) * 7 % count for i in range(config.pixel_rows)]
        above = given_latents(vqgan.upper, upper[rows])
        with torch.no_grad():
            truth = vqgan.decode(torch.cat([above, true[rows]], 2)).float()
        picture = vqgan.decode(torch.cat([above, lower[rows]], 2)).float()
        return (self._mouth(picture) - self._mouth(truth)).abs().mean()

    def _mouth(self, picture: Tensor) -> Tensor:
        """The mouth's part (B 3 h w) of crops (B 3 S S)."""
        config = self.config
        cell = picture.shape[-1] // config.network.grid
        half = config.network.grid // 2
        top, bottom = (half + r for r in config.mouth_rows)
        left, right = config.mouth_columns
        return picture[:, :, top * cell : bottom * cell, left * cell : right * cell]

    def _latents(self, clip: TalkingMoments, rows: np.ndarray) -> Tensor:
        """Latents (N C G G) of frames; the upper half is the nearest stored one."""
        device = next(self.network.parameters()).device
        vqgan = self.frozen["vqgan"]
        upper, lower = (torch.from_numpy(given(rows)).to(device) for given in (clip.upper_given, clip.lower_given))
        return torch.cat([given_latents(vqgan.upper, upper), given_latents(vqgan.lower, lower)], 2)

    def cross_driven(
        self, target: TalkingMoments, voice: TalkingMoments, step: int = 1, silent: bool = False
    ) -> tuple[Tensor, np.ndarray]:
        """Latents (N C G G) of ``target`` speaking with the sound of ``voice``, and the rows of ``voice`` they follow."""
        device = next(self.network.parameters()).device
        rows = np.arange(0, min(len(target.lower), len(voice.lower)), step)
        window = self.config.network.window
        speech = (voice.silence(len(rows), window) if silent else voice.speech(rows, window)).to(device)
        parts = [
            self.network(latent, latent, sound, warp=False).float()
            for latent, sound in zip(self._latents(target, rows).split(16), speech.split(16), strict=True)
        ]
        return torch.cat(parts), rows

    def _read(self, latent: Tensor) -> FloatArray:
        """Openings (N) that the probe reads, in units of the data's spread."""
        half = latent.shape[2] // 2
        return self.frozen["expert"].probe(latent[:, :, half:]).float()[:, 0].cpu().numpy()

    def pairs(self) -> list[tuple[TalkingMoments, TalkingMoments]]:
        """Each held-out clip with the voice of the one five places on, or the next where that would be its own."""
        clips = self.held_out
        apart = 5 if 5 % len(clips) else 1
        return [(clip, clips[(i + apart) % len(clips)]) for i, clip in enumerate(clips)]

    def score(self) -> dict[str, float]:
        """Cross-driven pairs: does the probe's opening follow the voice's own clip, and does silence close the mouth."""
        if "expert" not in self.frozen:
            return {}
        own, shifted, spread, quiet, codes, target = [], [], [], [], [], []
        for clip, voice in self.pairs():
            lower, rows = self.cross_driven(clip, voice, 2)
            opening, true = self._read(lower), voice.shape[rows, 0]
            second = round(1.0 / max(float(np.median(np.diff(voice.times[rows]))), 1e-3))
            own.append(pearson(opening, true))
            if len(true) > second + 10:
                shifted.append((own[-1], pearson(opening[:-second], true[second:])))
            target.append(pearson(opening, clip.shape[rows, 0]))
            spread.append(float(opening.std() / max(true.std(), 1e-3)))
            codes.append(pearson(self._read(self.frozen["vqgan"].quantize(lower)), true))
            closed, _ = self.cross_driven(clip, voice, 8, silent=True)
            quiet.append(float(self._read(closed).mean()))
        far = np.array(shifted)
        return {
            "pearson": float(np.mean(own)),
            "pearson-shifted": float(far[:, 1].mean()) if len(far) else 0.0,
            "above-shifted": float((far[:, 0] > far[:, 1]).mean()) if len(far) else 0.0,
            "pearson-target": float(np.mean(target)),
            "pearson-quantized": float(np.mean(codes)),
            "spread": float(np.mean(spread)),
            "opening-in-silence": float(np.mean(quiet)),
            "opening-of-truth": float(np.mean([c.shape[:, 0].mean() for c in self.held_out])),
        }

    def sample(self, path: Path) -> None:
        """Mouth strips of four pairs: target, the voice's own mouth, result, result of nearest codes, silence."""
        vqgan, sheet = self.frozen["vqgan"], []
        for clip, voice in self.pairs()[:8:2]:
            lower, rows = self.cross_driven(clip, voice, 3)
            chosen = np.arange(len(rows))[:10]
            closed, _ = self.cross_driven(clip, voice, 3, silent=True)
            kinds = (
                self._latents(clip, rows[chosen]), self._latents(voice, rows[chosen]), lower[chosen],
                vqgan.quantize(lower[chosen]), closed[chosen],
            )  # fmt: skip
            for latent in kinds:
                strip = self._mouth(vqgan.decode(latent).float())
                picture = ((strip.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
                sheet.append(np.concatenate(list(picture), 1))
        wide = max(s.shape[1] for s in sheet)
        sheet = [np.pad(s, ((0, 2), (0, wide - s.shape[1]), (0, 0))) for s in sheet]
        cv2.imwrite(str(path), np.concatenate(sheet)[:, :, ::-1])

    def export(self, folder: Path) -> None:
        stage.export_network(self.network, self.config.network, folder, "lip_sync")
        (folder / "clips.json").write_text(json.dumps([c.name for c in self.clips]))
