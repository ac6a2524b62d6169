"""Stage ``joint``: lip transform and decoder trained together in pixels, the latent space fixed.

The paper trains both against codes alone (eq. 3 and 14).  A small code says little about where a lip ends, so mouths that
were right as codes came out soft, and the mouth that was covered shone through.  Here the encoder and the codebooks
stay frozen and the rest learns from what it shows:

* *plain* rows: crops decoded from the encoder's own vectors, from nearest codes, or from vectors with a little noise;
* *driven* rows: a frame of a clip, its mouth made from another frame of the same clip that is posed alike; the truth is known;
* *spoken* rows: what a render does.  The frame's own mouth has to become one of other speech.  No truth exists, so a landmark
  network reads the decoded mouth, a discriminator asks whether it looks real, and all that is not mouth must stay.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talkswap.data.stills import open_stills
from talkswap.faces.identity import load_identity
from talkswap.faces.landmarks import load_landmarks
from talkswap.faces.measures import INNER_BOTTOM, INNER_TOP, pearson
from talkswap.faces.mesh import OUTER_LIPS
from talkswap.systems.swaptalk.lip_sync import LipSync
from talkswap.systems.swaptalk.training import joint_rows
from talkswap.systems.swaptalk.training.codes import load_vqgan
from talkswap.systems.swaptalk.training.joint_rows import JointRows, JointStageConfig, mouth_crop, sharpness
from talkswap.systems.swaptalk.training.vqgan import PatchDiscriminator, gradients
from talkswap.systems.swaptalk.vqgan import VQGAN
from talkswap.train import stage
from talkswap.train.losses import load_perceptual, perceptual_loss
from talkswap.train.shared.speech_encoder import augment_mel, read_lags
from talkswap.train.stage import SAMPLES, Batch, Networks, Part, Stage, Work
from talkswap.types import FloatArray


class Joint(nn.Module):
    """Both networks, so that one optimiser and one running mean hold them."""

    def __init__(self, vqgan: VQGAN, lip_sync: LipSync) -> None:
        super().__init__()
        self.vqgan, self.lip_sync = vqgan, lip_sync


class JointStage(Stage):
    """Trains the decoder of a VQGAN and the transform of a lip-sync module together."""

    name = "joint"

    def __init__(self, config: JointStageConfig) -> None:
        super().__init__(config)
        self.config: JointStageConfig = config
        torch.manual_seed(config.loop.seed)
        vqgan, lip_sync = load_vqgan(config.vqgan), LipSync(config.network)
        stage.load_weights(lip_sync, config.lip_sync)
        if config.speech is not None:
            stage.load_weights(lip_sync.transform.speech, config.speech)
        vqgan.requires_grad_(False)
        vqgan.decoder.requires_grad_(True)
        lip_sync.requires_grad_(False)
        lip_sync.transform.unet.requires_grad_(True)
        self.network: Joint = Joint(vqgan, lip_sync)
        self.discriminator = PatchDiscriminator()
        self.reader = load_landmarks(config.landmark_network)
        teachers: dict[str, nn.Module] = {"landmarks": self.reader}
        if config.identity_network is not None:
            teachers["identity"] = load_identity(config.identity_network)
        if config.perceptual_network is not None:
            teachers["perceptual"] = load_perceptual(config.perceptual_network)
        self.frozen = nn.ModuleDict(teachers)
        window, lags = config.network.window, read_lags(config.lags)
        self.talking = joint_rows.open_talking_stills(config.data, "train", config.videos, lags, window)
        self.held_out = joint_rows.open_talking_stills(config.data, "val", config.videos, {}, window)
        self.rows = JointRows(config, self.talking, self.reader.config.size)
        self.gain = joint_rows.reading_gain(self.reader, self.talking)
        self._real: list[Tensor] = []
        self._made: list[Tensor] = []

    def _squares(self, faces: list[FloatArray]) -> Tensor:
        return joint_rows.landmark_squares(faces, self.network.vqgan.config.size, self.reader.config.size)

    def _read(self, crops: Tensor, squares: Tensor) -> Tensor:
        return joint_rows.mouth_measures(joint_rows.read_points(self.reader, crops, squares))

    def batch(self, step: int) -> Batch:
        return self.rows.batch(step)

    def _latents(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Latents to decode (B C G G), the driven rows' true ones, the shapes that were asked for."""
        config, net = self.config, self.network
        count = config.driven + config.spoken
        with torch.no_grad():
            raw = net.vqgan.embed(torch.cat([batch["crop"], batch["reference"]]))
            own, reference = raw[: len(batch["crop"])], raw[len(batch["crop"]) :]
            plain = own[count:]
            noise = torch.randn_like(plain) * config.noise
            kind = batch["kind"][:, None, None, None]
            plain = torch.where(kind < config.noisy, plain + noise, plain)
            if bool((kind > 1 - config.quantized).any()):
                plain = torch.where(kind > 1 - config.quantized, net.vqgan.quantize(plain), plain)
            transform = net.lip_sync.transform
            transform.speech.eval()
            tokens = transform.speech.tokens(augment_mel(batch["speech"]))
            expected = transform.speech.target_shape(transform.speech.tokens(batch["speech"])).float()
            target = torch.where(batch["from_speech"][:, None], expected, batch["request"])
            request = target + 0.05 * torch.randn_like(target)
            tokens = tokens * (~batch["hidden"])[:, None, None]
            half = raw.shape[2] // 2
            lower = reference[:, :, half:]
            # what reaches the transform in a render has been through the face swap, which smooths
            lower = lower + torch.randn_like(lower) * (0.15 * torch.rand(len(lower), 1, 1, 1, device=lower.device))
        moved = transform.unet(lower, tokens, request).float()
        latent = torch.cat([torch.cat([own[:count, :, :half], moved], 2), plain])
        return latent, own[: config.driven, :, half:], target

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, float | Tensor]]:
        config, crop = self.config, batch["crop"]
        latent, true, target = self._latents(batch)
        decoded = self.network.vqgan.decode(latent).float()
        # The terms' gradient is taken at the picture, then sent once through the decoder.
        picture = decoded.detach().requires_grad_()
        total, logs = self._terms(picture, batch, target)
        reals, fakes = self._windows(crop, batch), self._windows(picture, batch)
        self._real = [r.detach() for i, r in enumerate(reals) if i != 1]
        self._made = [f.detach() for f in fakes]
        gradient = torch.autograd.grad(total, picture, retain_graph=False)[0]
        if step >= config.adversarial_start:
            self.discriminator.requires_grad_(False)  # type: ignore[union-attr]
            scores = [-self.discriminator(f).mean() for f in fakes]  # type: ignore[misc]
            adversarial = torch.stack(scores).mean()
            sharp = torch.autograd.grad(adversarial, picture)[0]
            self.discriminator.requires_grad_(True)  # type: ignore[union-attr]
            weight = config.adversarial * min(1.0, (step - config.adversarial_start + 1) / 200)
            gradient = gradient + weight * sharp * (gradient.norm() / (sharp.norm() + 1e-9))
            logs["adversarial"] = adversarial.detach()
        # the value's gradient is the one wanted; its own size means nothing, so it is shifted to the loss
        value = (decoded * gradient).sum()
        code = (latent[: config.driven, :, latent.shape[2] // 2 :] - true).abs().mean()
        logs["code"] = code.detach()
        return value - value.detach() + total.detach() + config.code * code, logs

    def _windows(self, crops: Tensor, batch: Batch) -> list[Tensor]:
        """Mouths of driven rows, of spoken rows, and a part of each plain row's face."""
        config, side = self.config, self.config.mouth_side
        count = config.driven + config.spoken
        cut = [crops[i : i + 1, :, y : y + side, x : x + side] for i, (x, y) in enumerate(batch["mouth"].tolist())]
        room = crops.shape[-1] - config.focus
        x, y = (round(float(v) * room) for v in (0.15 + 0.7 * batch["kind"][0], 0.25 + 0.7 * batch["kind"][-1]))
        plain = crops[count:, :, y : y + config.focus, x : x + config.focus]
        return [torch.cat(cut[: config.driven]), torch.cat(cut[config.driven :]), plain]

    def _terms(self, decoded: Tensor, batch: Batch, target: Tensor) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Everything that is measured on the decoded pictures."""
        config, crop, weight = self.config, batch["crop"], batch["weight"]
        first, last = config.driven, config.driven + config.spoken
        truth = torch.cat([torch.arange(first), torch.arange(last, len(crop))])  # rows with a truth

        def near(rows: Tensor | slice) -> Tensor:
            a, b, w = decoded[rows], crop[rows], weight[rows]
            edges = [((x - y).abs() * w).mean() for x, y in zip(gradients(a), gradients(b), strict=True)]
            return config.pixel * ((a - b).abs() * w).mean() + config.gradient * torch.stack(edges).sum()

        close = near(truth)
        total = close + config.keep * near(slice(first, last))
        logs: dict[str, float | Tensor] = {"close": close.detach()}
        with torch.no_grad():
            # Plain rows alone tell how well the decoder shows what the encoder saw.
            error = ((decoded[last:].clamp(-1, 1) - crop[last:]) / 2).square().mean((1, 2, 3))
            logs["psnr"] = -10 * torch.log10(error).mean()
        if "perceptual" in self.frozen:
            fakes, reals = self._windows(decoded, batch), self._windows(crop, batch)
            perceptual = sum(
                (perceptual_loss(self.frozen["perceptual"], fakes[i], reals[i]) for i in (0, 2)), decoded.new_zeros(())
            )
            total = total + 0.5 * config.perceptual * perceptual
            logs["perceptual"] = 0.5 * perceptual.detach()
        if "identity" in self.frozen:
            with torch.no_grad():
                person = self.frozen["identity"](crop)
            identity = 1 - (self.frozen["identity"](decoded) * person).sum(1).mean()
            total = total + config.identity * identity
            logs["identity"] = identity.detach()
        # the reader sees each picture a little moved, and sometimes grey: a colour that only it takes for an opening pays nothing
        squares = batch["square"] + torch.randn_like(batch["square"]) * 0.01
        with torch.no_grad():
            before = joint_rows.read_points(self.reader, crop[:last], squares)
        shown = decoded[:last]
        grey = torch.rand(last, 1, 1, 1, device=decoded.device) < 0.6
        shown = torch.where(grey, shown.mean(1, keepdim=True).expand_as(shown), shown)
        after = joint_rows.read_points(self.reader, shown, squares)
        lips = list(OUTER_LIPS) + list(INNER_TOP) + list(INNER_BOTTOM)
        points = (after[:first, lips, :2] - before[:first, lips, :2]).abs().mean()
        change = joint_rows.mouth_measures(after[first:]) - joint_rows.mouth_measures(before[first:])
        intended = (target[first:] - batch["own"][first:]).clamp(-4, 4) * self.gain.to(change)
        part = F.smooth_l1_loss(change, intended, reduction="none")
        landmark = part[:, 0].mean() + 0.3 * part[:, 1:].mean()
        logs |= {"points": points.detach(), "landmark": landmark.detach()}
        hue = self._hue(decoded, crop, batch)
        logs["hue"] = hue.detach()
        return total + config.points * points + config.landmark * landmark + config.hue * hue, logs

    def _hue(self, decoded: Tensor, crop: Tensor, batch: Batch) -> Tensor:
        """L1 of red and blue against green over patches of 8 px, in the windows of spoken rows."""
        parts = []
        for pictures in (decoded, crop):
            coarse = F.avg_pool2d(self._windows(pictures, batch)[1], 8)
            parts.append(torch.cat([coarse[:, :1] - coarse[:, 1:2], coarse[:, 2:] - coarse[:, 1:2]], 1))
        return (parts[0] - parts[1]).abs().mean()

    def discriminator_loss(self, batch: Batch, step: int) -> Tensor | None:
        if self.discriminator is None or step + 100 < self.config.adversarial_start:
            return None
        real = torch.stack([F.relu(1 - self.discriminator(r)).mean() for r in self._real]).mean()
        fake = torch.stack([F.relu(1 + self.discriminator(f)).mean() for f in self._made]).mean()
        return 0.5 * (real + fake)

    def _spoken(self, count: int) -> tuple[np.ndarray, np.ndarray, Tensor]:
        """Held-out stills, the stills whose mouths they are asked for, and the decoded pictures."""
        talking, net = self.held_out, self.network
        random = np.random.default_rng(7)
        # Four stills of each clip, so that long clips don't decide the score.
        rows = np.concatenate([r[:: max(1, len(r) // 4)][:4] for r in talking.rows])[:count]
        models = random.permutation(len(talking.shape))[: len(rows)]
        decoded = []
        half = net.vqgan.config.grid // 2
        for part in np.array_split(np.arange(len(rows)), max(1, len(rows) // 6)):
            crop = stage.to_tensor([np.asarray(talking.stills.crops[i]) for i in rows[part]])
            latent = net.vqgan.embed(crop)
            tokens = net.lip_sync.transform.speech.tokens(torch.from_numpy(talking.speech[models[part]]))
            shape = torch.from_numpy(talking.shape[models[part]])
            lower = net.lip_sync.transform.unet(latent[:, :, half:], tokens, shape)
            decoded.append(net.vqgan.decode(torch.cat([latent[:, :, :half], lower.float()], 2)).float().clamp(-1, 1))
        return rows, models, torch.cat(decoded)

    def score(self) -> dict[str, float]:
        talking, stills = self.held_out, open_stills(self.config.data / "portraits-val")
        numbers = np.linspace(0, len(stills) - 1, self.config.validation).astype(int)
        psnr, sharp = [], []
        for part in np.array_split(numbers, max(1, len(numbers) // 8)):
            crop = stage.to_tensor([np.asarray(stills.crops[i]) for i in part])
            decoded = self.network.vqgan.decode(self.network.vqgan.embed(crop)).float().clamp(-1, 1)
            psnr += (-10 * torch.log10(((decoded - crop) / 2).square().mean((1, 2, 3)))).tolist()
            pictures, originals = stage.to_pictures(decoded), stage.to_pictures(crop)
            sharp += [sharpness(a) / sharpness(b) for a, b in zip(pictures, originals, strict=True)]
        rows, models, spoken = self._spoken(self.config.validation)
        read = self._read(spoken, self._squares(talking.faces(rows)))[:, 0].numpy()
        real = [sharpness(mouth_crop(talking.stills.crops[r], talking.stills.landmarks[r])) for r in rows]
        lips = [
            sharpness(mouth_crop(p, talking.stills.landmarks[r]))
            for p, r in zip(stage.to_pictures(spoken), rows, strict=True)
        ]
        return {
            "psnr": float(np.mean(psnr)),
            "sharpness": float(np.median(sharp)),
            "pearson": pearson(read, talking.shape[models, 0]),
            "pearson-own": pearson(read, talking.shape[rows, 0]),
            "spread": float(read.std() / max(talking.shape[models, 0].std() * float(self.gain[0]), 1e-3)),
            "mouth-sharpness": float(np.median(np.array(lips) / np.array(real))),
        }

    def sample(self, path: Path) -> None:
        """Rows of target, donor of the mouth, result; twelve held-out frames."""
        rows, models, spoken = self._spoken(self.config.validation)
        chosen = np.linspace(0, len(rows) - 1, 12).astype(int)
        crops = self.held_out.stills.crops
        decoded = stage.to_pictures(spoken)
        lines = [
            np.concatenate([np.asarray(p) for p in line], 1)
            for part in (chosen[:6], chosen[6:])
            for line in ([crops[rows[i]] for i in part], [crops[models[i]] for i in part], [decoded[i] for i in part])
        ]
        cv2.imwrite(str(path), np.concatenate(lines)[:, :, ::-1])

    def export(self, folder: Path) -> None:
        stage.export_network(self.network.vqgan, self.network.vqgan.config, folder, "vqgan", half=False)
        stage.export_network(self.network.lip_sync, self.network.lip_sync.config, folder, "lip_sync", half=False)


def networks(config: JointStageConfig) -> dict[str, nn.Module]:
    """The networks of this stage, for counting."""
    return {"vqgan": VQGAN(), "lip-sync": LipSync(config.network), "discriminator": PatchDiscriminator()}


def work(config: JointStageConfig, networks: Networks) -> Work:
    """What one sample runs through, for the estimate of `--dry-run`."""
    vqgan: Any = networks["vqgan"]
    lip_sync: Any = networks["lip-sync"]
    judge = networks["discriminator"]
    net, grid = config.network, vqgan.config.grid

    def coded() -> Tensor:
        with torch.no_grad():
            latent = vqgan.embed(torch.empty(SAMPLES, 3, vqgan.config.size, vqgan.config.size))
        return vqgan.decode(latent)

    def transform() -> object:
        latent = torch.empty(SAMPLES, net.code_width, grid, grid)
        return lip_sync(latent, latent, torch.empty(SAMPLES, net.window, net.speech_width))

    share = (config.driven + config.spoken) / config.loop.batch
    parts = [Part("vqgan", coded), Part("lip-sync", transform, share)]
    parts.append(Part("discriminator", lambda: judge(torch.empty(SAMPLES, 3, config.focus, config.focus)), 3.0))
    still = (vqgan.encoder, vqgan.upper, vqgan.lower, lip_sync.warping, lip_sync.transform.speech)
    return Work(parts, still, ("landmarks", "identity", "perceptual"))
