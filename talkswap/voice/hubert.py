"""HuBERT features of a voice of any length (paper size: facebook/hubert-base-ls960, 768-d at 50 per second).

A long voice goes through the network in overlapping windows.  What is exact and what is not:

* the input is brought to mean 0 and variance 1 once per voice, never per window;
* the group norm after HuBERT's first convolution averages over time, so its mean and variance are measured
  over the whole voice first (equal-time blocks, float64 sums) and then held: the seven convolutions of a
  window are, to rounding, those of the whole voice;
* the Transformer sees its window only.  Every kept feature has ``context_seconds`` of speech on both sides, and
  neighbouring windows are cross-faded, so a seam is a slow change and no step.

A voice that fits into one window gives what ``HubertModel`` itself gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from talkswap.errors import WeightsCorruptError, WeightsMissingError
from talkswap.types import FloatArray

if TYPE_CHECKING:
    import torch
    from transformers import HubertModel


@dataclass(frozen=True)
class HubertConfig:
    """How a long voice is cut for the network."""

    hz: int = 16000
    window_seconds: float = 20.0  # as long as the utterances that HuBERT learned from
    context_seconds: float = 3.0  # at each end of a window, read and then dropped
    fade_seconds: float = 1.0  # cross-fade of neighbouring windows


class HubertFeatures:
    """Speech features from a HuBERT model.

    Args:
        model: a folder with ``config.json`` and ``model.safetensors``, or a model at hand.

    Raises:
        WeightsMissingError: the folder lacks one of its files (nothing is fetched here).
        WeightsCorruptError: the file is not safetensors, or its tensors are not those of the model.
    """

    def __init__(
        self, model: Path | str | HubertModel, device: str | torch.device = "cpu", config: HubertConfig | None = None
    ) -> None:
        self.config = config or HubertConfig()
        # Any: transformers' parts are attributes that a type checker sees as Tensor | Module.
        self.model = cast(Any, load_model(Path(model)) if isinstance(model, Path | str) else model)
        self.model.to(device).eval().requires_grad_(False)
        self.device = device
        self._silence: FloatArray | None = None
        self.stride, self.receptive = strides(self.model.config)
        context = self._frames(self.config.context_seconds)
        fade = self._frames(self.config.fade_seconds)
        if context < fade or self._frames(self.config.window_seconds) <= 2 * context:
            raise ValueError("a window must be longer than its two contexts, and a context than a fade")

    @property
    def rate(self) -> Fraction:
        """Feature frames per second: 50."""
        return Fraction(self.config.hz, self.stride)

    @property
    def start(self) -> Fraction:
        """Seconds: the centre of feature 0's receptive field (400 samples: 199.5 / 16000)."""
        return Fraction(self.receptive - 1, 2 * self.config.hz)

    @property
    def dimension(self) -> int:
        """Numbers in one feature: 768."""
        return int(self.model.config.hidden_size)

    def silence(self) -> FloatArray:
        """The feature (768) of digital silence: the middle one of a silent second."""
        if self._silence is None:
            features = self(np.zeros(self.config.hz, np.float32))
            self._silence = features[len(features) // 2]
        return self._silence.copy()

    def __call__(self, samples: FloatArray) -> FloatArray:
        """Features of a voice at ``config.hz``.

        Args:
            samples: N; fewer than one receptive field is filled up with silence.

        Returns:
            float32 (T, 768), T = (N - 400) // 320 + 1; feature k is centred at ``start + k / rate`` seconds.
        """
        import torch

        with torch.inference_mode():
            voice = self._normalised(samples)
            count = (len(voice) - self.receptive) // self.stride + 1
            # Measured over the whole voice once: each window's own would differ from seam to seam.
            moments = self._first_layer_moments(voice)
            features = np.zeros((count, self.dimension), np.float32)
            for first, last, weight in self._windows(count):
                latent = self._convolve(self._piece(voice, first, last), moments)  # 1 C T
                hidden = self.model.feature_projection(latent.transpose(1, 2))  # 1 T D
                hidden = hidden[0] if isinstance(hidden, tuple) else hidden
                output = self.model.encoder(hidden).last_hidden_state[0]  # T D
                features[first:last] += output.float().cpu().numpy() * weight[:, None]
        return features

    def _frames(self, seconds: float) -> int:
        return round(seconds * self.config.hz / self.stride)

    def _normalised(self, samples: FloatArray) -> FloatArray:
        """Mean 0 and variance 1 over the whole voice, as Wav2Vec2FeatureExtractor does."""
        voice = np.asarray(samples, np.float32).reshape(-1)
        if len(voice) < self.receptive:
            voice = np.pad(voice, (0, self.receptive - len(voice)))
        mean = float(voice.mean(dtype=np.float64))
        variance = float(np.square(voice - mean).mean(dtype=np.float64))
        return ((voice - mean) / np.sqrt(variance + 1e-7)).astype(np.float32)

    def _piece(self, voice: FloatArray, first: int, last: int) -> torch.Tensor:
        """The samples that features first to last are made of: 1 N."""
        import torch

        piece = voice[first * self.stride : (last - 1) * self.stride + self.receptive]
        return torch.from_numpy(piece).to(self.device)[None]

    def _first_layer_moments(self, voice: FloatArray) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Mean and variance over time of the first convolution's output (1 C 1 each); None where no layer needs it."""
        import torch

        if self.model.config.feat_extract_norm != "group":
            return None
        convolution = self.model.feature_extractor.conv_layers[0].conv
        kernel, stride = convolution.kernel_size[0], convolution.stride[0]
        count = (len(voice) - kernel) // stride + 1
        # In blocks as long as a window, so that memory stays the same for hours of voice.
        block = max(1, self._frames(self.config.window_seconds) * self.stride // stride)
        total = torch.zeros(convolution.out_channels, dtype=torch.float64)
        squares = torch.zeros_like(total)
        for first in range(0, count, block):
            last = min(first + block, count)
            piece = torch.from_numpy(voice[first * stride : (last - 1) * stride + kernel]).to(self.device)
            output = convolution(piece[None, None])[0]  # C T
            mean = output.mean(1)  # C
            # Around the block's own mean, so that a constant offset does not eat the digits.
            total += mean.double().cpu() * (last - first)
            squares += (output - mean[:, None]).square().sum(1).double().cpu()
            squares += mean.double().cpu().square() * (last - first)
        mean = total / count
        variance = (squares / count - mean.square()).clamp_min(0)
        return mean.float().to(self.device)[None, :, None], variance.float().to(self.device)[None, :, None]

    def _convolve(self, piece: torch.Tensor, moments: tuple[torch.Tensor, torch.Tensor] | None) -> torch.Tensor:
        """The seven convolutions: 1 N -> 1 C T, with the voice's own moments in the group norm."""
        first, *rest = self.model.feature_extractor.conv_layers
        hidden = piece[:, None]  # 1 1 N
        if moments is None:
            hidden = first(hidden)
        else:
            mean, variance = moments
            norm = first.layer_norm
            hidden = (first.conv(hidden) - mean) / (variance + norm.eps).sqrt()
            hidden = first.activation(hidden * norm.weight[:, None] + norm.bias[:, None])
        for layer in rest:
            hidden = layer(hidden)
        return hidden

    def _windows(self, count: int) -> Iterator[tuple[int, int, FloatArray]]:
        """Windows (first, last, weight per feature); the weights of all windows sum to 1 at every feature."""
        window = self._frames(self.config.window_seconds)
        context = self._frames(self.config.context_seconds)
        fade = self._frames(self.config.fade_seconds)
        if count <= window:
            yield 0, count, np.ones(count, np.float32)
            return
        # Each window keeps its middle; both ends only lend context.
        step = window - 2 * context
        seams = list(range(window - context, count - context, step))  # a window ends `context` behind its seam
        for first_seam, last_seam in zip([None, *seams], [*seams, None], strict=True):
            first = 0 if first_seam is None else first_seam - context
            last = count if last_seam is None else last_seam + context
            weight = np.ones(last - first, np.float32)
            if first_seam is not None:
                weight *= rising_weight(np.arange(first, last), first_seam, fade)
            if last_seam is not None:
                weight *= 1 - rising_weight(np.arange(first, last), last_seam, fade)
            yield first, last, weight


def rising_weight(index: np.ndarray, seam: int, fade: int) -> FloatArray:
    """0 before the seam, 1 behind it, a line over ``fade`` features around it."""
    return np.clip((index + 0.5 - seam) / max(fade, 1) + 0.5, 0, 1).astype(np.float32)


def strides(config: Any) -> tuple[int, int]:
    """Stride and receptive field of the convolutions, in samples: 320 and 400 for HuBERT."""
    stride, receptive = 1, 1
    for kernel, step in zip(config.conv_kernel, config.conv_stride, strict=True):
        receptive += (kernel - 1) * stride
        stride *= step
    return stride, receptive


def load_model(folder: Path) -> HubertModel:
    """A local ``HubertModel``; nothing is fetched."""
    # Checked here, since transformers would speak of the network.
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise WeightsMissingError(f"HuBERT's {name} is not in {folder}", "run: talkswap download")
    from safetensors import SafetensorError
    from transformers import HubertModel

    try:
        loaded: Any = HubertModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        model, report = loaded
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise WeightsCorruptError(f"HuBERT's files in {folder} cannot be loaded", "run: talkswap download") from error
    # The embedding of masked spans serves pre-training only, and some exports leave it out.
    absent = sorted(name for name in report["missing_keys"] if name != "masked_spec_embed")
    if absent:
        raise WeightsCorruptError(
            f"HuBERT's weights in {folder} lack {len(absent)} tensors, {absent[0]} first", "run: talkswap download"
        )
    return model
