"""Stage ``vqgan``: the latent space (SwapTalk, section III-A, eq. 3 to 6).

The compact preset trains in three runs that start from each other: at half resolution, at full
resolution, then the decoder alone against a discriminator, the codes frozen so that what was trained on them
stays valid.
"""

from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from talkswap.data.stills import StillAugmentation, Stills, draw_still, importance, open_stills
from talkswap.errors import InputMissingError
from talkswap.systems.swaptalk.vqgan import COMPACT, PAPER, VQGAN, Quantized, VQGANConfig
from talkswap.train import stage
from talkswap.train.losses import identity_distance, load_perceptual, perceptual_loss
from talkswap.train.stage import SAMPLES, Batch, LoopConfig, Networks, Part, Stage, Work, step_seed
from talkswap.types import FloatArray, UInt8Image


@dataclass(frozen=True)
class VQGANStageConfig:
    """What the stage trains and how its loss is weighed; the defaults are compact's."""

    data: Path = Path("cache")
    network: VQGANConfig = VQGANConfig()
    loop: LoopConfig = LoopConfig()
    size: int = 320  # px fed; a smaller one fits the grid by interpolation of positions
    portraits: float = 0.6  # share of portraits in a batch, the rest are clip frames
    start: Path | None = None  # weights of an earlier run
    pixel: float = 1.0  # L1
    gradient: float = 1.0  # L1 of image gradients
    commitment: float = 0.06  # eq. 4, first term
    continuous: int = 0  # first steps without quantization; codes then start at what the encoder says
    codebook: float = 0.0  # eq. 4, second term; 1.0 for codes that learn by gradient
    perceptual: float = 0.0  # eq. 3, second term
    perceptual_network: Path | None = None  # a file, or vgg19 for the published network
    perceptual_sum: bool = False  # over layers, as in eq. 3; else a mean that does not depend on the network's scale
    identity: float = 0.0
    identity_network: Path | None = None  # folder
    identity_l1: bool = False  # as in eq. 5; else 1 - cosine
    adversarial: float = 0.0  # eq. 6; with adversarial_balance a share of the other terms' gradient
    adversarial_start: int = 0  # step
    adversarial_balance: bool = False
    focus: int = 0  # px: perceptual and adversarial terms look at a window of that side on the face; 0 = all
    decoder_only: bool = False
    unquantized: float = 0.0  # share of crops decoded from what the encoder said, as renders decode edited latents
    outside: float = 0.7  # importance outside the face, on it, on eyes and mouth
    face: float = 1.2
    parts: float = 2.0
    code_decay: float = 0.99
    revive_below: float = 0.02  # uses per batch
    validation: int = 64  # held-out portraits scored


class PatchDiscriminator(nn.Module):
    """Scores overlapping patches as real or made (hinge GAN of eq. 6)."""

    def __init__(self, width: int = 32, patch: int = 2) -> None:
        super().__init__()
        self.patch = patch
        widths = [width, 2 * width, 4 * width, 4 * width]
        layers: list[nn.Module] = [nn.Conv2d(3 * patch**2, widths[0], 3, padding=1), nn.LeakyReLU(0.2)]
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.GroupNorm(8, after), nn.LeakyReLU(0.2)]
        layers.append(nn.Conv2d(widths[-1], 1, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, rgb: Tensor) -> Tensor:
        return self.layers(F.pixel_unshuffle(rgb, self.patch))  # B 1 h w


def gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    """Differences to the right and lower neighbour, same size as ``x``."""
    return F.pad(x[..., 1:] - x[..., :-1], (0, 1)), F.pad(x[..., 1:, :] - x[..., :-1, :], (0, 0, 0, 1))


class VQGANStage(Stage):
    """Trains :class:`~talkswap.systems.swaptalk.vqgan.VQGAN`."""

    name = "vqgan"

    def __init__(self, config: VQGANStageConfig) -> None:
        super().__init__(config)
        self.config: VQGANStageConfig = config
        torch.manual_seed(config.loop.seed)
        self.network: VQGAN = VQGAN(config.network)
        if config.start is not None:
            stage.load_weights(self.network, config.start)
        if config.decoder_only:
            for part in (self.network.encoder, self.network.upper, self.network.lower):
                part.requires_grad_(False)
        if config.adversarial:
            self.discriminator = PatchDiscriminator()
        teachers = nn.ModuleDict()
        for name, weight, folder in (
            ("perceptual", config.perceptual, config.perceptual_network),
            ("identity", config.identity, config.identity_network),
        ):
            if weight and folder is None:
                raise InputMissingError(
                    f"no {name} network was given", f"set {name}_network, or {name}=0 to train without that term"
                )
        if config.perceptual and config.perceptual_network:
            teachers["perceptual"] = load_perceptual(config.perceptual_network)
        if config.identity and config.identity_network:
            from talkswap.faces.identity import load_identity

            teachers["identity"] = load_identity(config.identity_network)
        self.frozen = teachers
        self.sets: list[Stills] = [
            open_stills(config.data / "portraits-train"),
            open_stills(config.data / "frames-train"),
        ]
        self.augmentation = StillAugmentation()
        self._made: Tensor | None = None
        self._seen: list[list[tuple[Tensor, Tensor]]] = []  # raw vectors and numbers by half, of a step's micro-batches

    def batch(self, step: int) -> Batch:
        config = self.config
        random = np.random.default_rng(step_seed(config.loop.seed, step))
        crops: list[UInt8Image] = []
        weights: list[FloatArray] = []
        for _ in range(config.loop.batch):
            stills = self.sets[0 if random.random() < config.portraits else 1]
            crop, points = draw_still(stills, random, self.augmentation)
            weights.append(importance(points, crop.shape[0], config.outside, config.face, config.parts))
            if config.size != crop.shape[0]:
                crop = np.asarray(cv2.resize(crop, (config.size, config.size), interpolation=cv2.INTER_AREA), np.uint8)
            crops.append(crop)
        weight = F.interpolate(
            torch.from_numpy(np.stack(weights))[:, None], (config.size, config.size), mode="bilinear"
        )
        return {"crop": stage.to_tensor(crops), "weight": weight}

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, float | Tensor]]:
        config, crop = self.config, batch["crop"]
        with torch.set_grad_enabled(not config.decoder_only):
            upper, lower = self.network.encode(crop)
        latent = torch.cat([upper.code, lower.code], 2)
        quantizing = config.decoder_only or step >= config.continuous
        if not quantizing or config.unquantized:
            raw = torch.cat([upper.raw, lower.raw], 2)
            share = config.unquantized if quantizing else 1.0
            latent = torch.where(torch.rand(len(crop), 1, 1, 1, device=crop.device) < share, raw, latent)
        result = self.network.decode(latent).float()
        window = self._window(crop.shape[-1])
        self._real, self._made = crop[window], result.detach()[window]
        balanced = self.discriminator is not None and config.adversarial_balance and step >= config.adversarial_start
        # with a balance every term's gradient on the picture is needed by itself, before it goes on to the weights
        picture = result.detach().requires_grad_() if balanced else result
        total, logs = self._closeness(picture, crop, batch["weight"], window)
        if not config.decoder_only:
            coding, coding_logs = self._coding(upper, lower, quantizing)
            total, logs = total + coding, logs | coding_logs
        if self.discriminator is None or step < config.adversarial_start:
            return total, logs
        self.discriminator.requires_grad_(False)
        adversarial = -self.discriminator(picture[window]).mean()
        self.discriminator.requires_grad_(True)
        logs["adversarial"] = adversarial.detach()
        weight = config.adversarial * min(1.0, (step - config.adversarial_start + 1) / 200)
        if not balanced:
            return total + weight * adversarial, logs
        close = torch.autograd.grad(total, picture)[0]
        sharp = torch.autograd.grad(adversarial, picture)[0]
        sharp = sharp * (close[window].norm() / (sharp.norm() + 1e-9))
        # the value's gradient is the one wanted; its own size means nothing, so it is shifted to the loss
        value = (result * (close + weight * sharp)).sum()
        return value - value.detach() + total.detach(), logs

    def _window(self, size: int) -> tuple[slice | EllipsisType, ...]:
        """Where perceptual and adversarial terms look: a square somewhere on the middle of the crop."""
        side = self.config.focus
        if not side or side >= size:
            return (..., slice(0, size), slice(0, size))
        room = size - side
        x, y = (int((0.15 + 0.7 * float(torch.rand(()))) * room) for _ in range(2))
        y = min(room, y + room // 8)  # the face lies a little below the middle
        return (..., slice(y, y + side), slice(x, x + side))

    def _closeness(
        self, result: Tensor, crop: Tensor, weight: Tensor, window: tuple[slice | EllipsisType, ...]
    ) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Reconstruction and identity terms (eq. 3 and 5)."""
        config = self.config
        pixel = ((result - crop).abs() * weight).mean()
        edges = torch.stack(
            [((a - b).abs() * weight).mean() for a, b in zip(gradients(result), gradients(crop), strict=True)]
        ).sum()
        total = config.pixel * pixel + config.gradient * edges
        logs: dict[str, float | Tensor] = {"pixel": pixel.detach(), "edges": edges.detach()}
        with torch.no_grad():
            logs["psnr"] = -10 * torch.log10(((result.clamp(-1, 1) - crop) / 2).square().mean((1, 2, 3))).mean()
        if "perceptual" in self.frozen:
            perceptual = perceptual_loss(self.frozen["perceptual"], result[window], crop[window], config.perceptual_sum)
            total = total + config.perceptual * perceptual
            logs["perceptual"] = perceptual.detach()
        if "identity" in self.frozen:
            with torch.no_grad():
                target = self.frozen["identity"](crop)
            identity = identity_distance(self.frozen["identity"](result), target, config.identity_l1)
            total = total + config.identity * identity
            logs["identity"] = identity.detach()
        return total, logs

    def _coding(self, upper: Quantized, lower: Quantized, quantizing: bool) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Both terms of eq. 4, and how many codes are in use."""
        config = self.config
        self._seen.append([(q.raw.detach(), q.number) for q in (upper, lower)])
        # a mean over both halves: in eq. 4 they are one latent
        commitment = torch.stack([(q.raw - q.chosen.detach()).abs().mean() for q in (upper, lower)]).mean()
        codebook = torch.stack([(q.raw.detach() - q.chosen).abs().mean() for q in (upper, lower)]).mean()
        books = (self.network.upper, self.network.lower)
        used = torch.stack([(book.used > config.revive_below).float().mean() for book in books]).mean()
        total = config.commitment * commitment + config.codebook * codebook
        return total * float(quantizing), {"commitment": commitment.detach(), "used": used}

    def discriminator_loss(self, batch: Batch, step: int) -> Tensor | None:
        if self.discriminator is None or self._made is None or step + 100 < self.config.adversarial_start:
            return None
        real, fake = self.discriminator(self._real), self.discriminator(self._made)
        return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())

    def after_step(self, step: int) -> None:
        batches, self._seen = self._seen, []
        if self.config.decoder_only:
            return
        for half, codebook in enumerate((self.network.upper, self.network.lower)):
            # every process moves the codes by what all of them saw, so that the codebooks stay one
            raw, number = (torch.cat([self.gathered(halves[half][kind]) for halves in batches]) for kind in (0, 1))
            # early on the encoder moves fast: follow faster, so that codes do not lag behind it
            if step < self.config.continuous:
                if step >= self.config.continuous - 64:
                    codebook.start_at(raw, step - self.config.continuous + 64, 64)
                continue
            decay = min(self.config.code_decay, 0.9 + step / 20000)
            codebook.follow(raw, number, decay, self.config.revive_below)

    def _held_out(self, name: str, count: int) -> Tensor:
        stills = open_stills(self.config.data / name)
        rows = np.linspace(0, len(stills) - 1, min(count, len(stills))).astype(int)
        crops = [np.asarray(stills.crops[int(i)]) for i in rows]
        if self.config.size != crops[0].shape[0]:
            crops = [cv2.resize(c, (self.config.size,) * 2, interpolation=cv2.INTER_AREA) for c in crops]
        return stage.to_tensor(crops)

    def score(self) -> dict[str, float]:
        device = next(self.network.parameters()).device
        scores: dict[str, float] = {}
        for name in ("portraits-val", "frames-val"):
            psnr, cosine = [], []
            for crop in self._held_out(name, self.config.validation).split(8):
                crop = crop.to(device)
                result = self.network(crop).float().clamp(-1, 1)
                psnr.append(-10 * torch.log10(((result - crop) / 2).square().mean((1, 2, 3))))
                if "identity" in self.frozen:
                    identity = self.frozen["identity"]
                    cosine.append((identity(result).float() * identity(crop).float()).sum(1))
            scores[f"psnr-{name}"] = float(torch.cat(psnr).mean())
            if cosine:
                scores[f"identity-{name}"] = float(torch.cat(cosine).mean())
        return scores

    def sample(self, path: Path) -> None:
        """Up to six held-out portraits over what the network makes of them, then clip frames likewise."""
        device = next(self.network.parameters()).device
        rows = []
        for name in ("portraits-val", "frames-val"):
            crop = self._held_out(name, 6).to(device)
            result = torch.cat([self.network(c).float() for c in crop.split(4)])
            for pictures in (stage.to_pictures(crop), stage.to_pictures(result)):
                row = np.concatenate(list(pictures), 1)
                rows.append(np.pad(row, ((0, 0), (0, 6 * row.shape[0] - row.shape[1]), (0, 0))))
        cv2.imwrite(str(path), np.concatenate(rows)[:, :, ::-1])

    def export(self, folder: Path) -> None:
        """Write the network twice: as it was trained, and in half precision with its config."""
        stage.export_network(self.network, self.config.network, folder, "vqgan")
        exact = {name: value.contiguous() for name, value in self.network.state_dict().items()}
        save_file(exact, folder / "vqgan-float32.safetensors")


def networks(config: VQGANStageConfig) -> dict[str, nn.Module]:
    """The networks of this stage, for counting."""
    parts: dict[str, nn.Module] = {"vqgan": VQGAN(config.network)}
    if config.adversarial:
        parts["discriminator"] = PatchDiscriminator()
    return parts


def work(config: VQGANStageConfig, networks: Networks) -> Work:
    """What one sample runs through, for the estimate of `--dry-run`."""
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


PRESETS = {
    "compact": VQGANStageConfig(
        continuous=300, loop=LoopConfig(steps=4000, batch=8, learning_rate=6e-4, warmup=100, ema=0.998)
    ),
    # Section IV-B names weights, batch, rate and Adam.  It is silent on the rest: steps, adversarial_start (none), the
    # discriminator's shape, code revival and the running mean are ours; neither warm-up nor decay of the rate.
    "paper": VQGANStageConfig(
        network=PAPER,  # III-A and table II: f = 16, 2 x 2048 codes of 256; f = 8 is PAPER_8X, by --set network.widths
        gradient=0.0,  # not in eq. 3
        commitment=1.0,  # IV-B: lambda_VQ, both terms of eq. 4
        codebook=1.0,
        perceptual=1.0,  # IV-B: lambda_rec, both terms of eq. 3
        perceptual_sum=True,
        identity=1.0,  # IV-B: lambda_id, eq. 5
        identity_l1=True,
        adversarial=1.0,  # eq. 6
        outside=1.0,  # eq. 3 weighs all pixels alike
        face=1.0,
        parts=1.0,
        loop=LoopConfig(
            steps=1_000_000,
            batch=12,  # IV-B
            learning_rate=4.5e-6,  # IV-B, of both networks
            discriminator_rate=4.5e-6,
            betas=(0.9, 0.999),  # IV-B: Adam
            weight_decay=0.0,
            final_rate=1.0,
            warmup=1,
        ),
    ),
}


def decoder_parts(grid: int, code_width: int, compact: bool, times: float) -> list[Part]:
    """The frozen decoder that latents go through, if this is the preset's own latent."""
    config = COMPACT if compact else PAPER
    if not times or (config.grid, config.code_width) != (grid, code_width):
        return []
    decoder = VQGAN(config).decoder.requires_grad_(False)

    def run() -> Tensor:
        return decoder(torch.empty(SAMPLES, code_width, grid, grid).requires_grad_())

    return [Part("decoder (frozen)", run, times)]
