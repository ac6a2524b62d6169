"""wav2vec2-base-960h, the voice encoder of the paper-size SyncFormer (ReSyncer A.1), by transformers' Wav2Vec2Model.

The network is built from :class:`Wav2Vec2Sizes` and filled from ``model.safetensors`` alone.  The published file is that of
a recogniser (Wav2Vec2ForCTC): its tensors stand below ``wav2vec2.``, beside a head over letters that nothing here reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from talkswap.checkpoints.networks import fill, read_config, read_tensors
from talkswap.errors import WeightsCorruptError, WeightsMissingError

FOLDER = "wav2vec2"  # in the paper preset's folder
HINT = "run: talkswap download wav2vec2"
HZ = 16000
PREFIX = "wav2vec2."  # of the published tensors
# Only pre-training reads the embedding of masked spans, and only recognition the head over letters.
UNUSED = ("masked_spec_embed", "lm_head.")
# Weight normalisation's length and direction had other names when the file was published.
RENAMED = {
    "conv.weight_g": "conv.parametrizations.weight.original0",
    "conv.weight_v": "conv.parametrizations.weight.original1",
}


@dataclass(frozen=True)
class Wav2Vec2Sizes:
    """Sizes of the paper's voice encoder; the defaults are wav2vec2-base-960h's."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    feedforward: int = 3072
    channels: int = 512  # of the temporal convolutions
    kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    position_kernel: int = 128
    position_groups: int = 16

    def settings(self) -> dict[str, Any]:
        """The same sizes under the names of transformers' ``config.json``."""
        return {
            "hidden_size": self.width, "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "intermediate_size": self.feedforward, "conv_dim": [self.channels] * len(self.kernels),
            "conv_kernel": list(self.kernels), "conv_stride": list(self.strides),
            "num_conv_pos_embeddings": self.position_kernel, "num_conv_pos_embedding_groups": self.position_groups,
        }  # fmt: skip


class Wav2Vec2Encoder(nn.Module):
    """Samples at 16 kHz (B N; mean 0, variance 1) to tokens (B T width), 50 per second.

    All of it trains but the temporal convolutions (A.1).
    """

    def __init__(self, sizes: Wav2Vec2Sizes) -> None:
        super().__init__()
        from transformers import Wav2Vec2Config, Wav2Vec2Model

        self.sizes = sizes
        # What is not a size keeps transformers' defaults, which are those of wav2vec2-base-960h.
        self.model: Any = Wav2Vec2Model(Wav2Vec2Config(**sizes.settings(), mask_time_prob=0.0))
        self.model.feature_extractor.requires_grad_(False)
        self.width = sizes.width
        step, receptive = math.prod(sizes.strides), 1
        for number, kernel in enumerate(sizes.kernels):
            receptive += (kernel - 1) * math.prod(sizes.strides[:number])
        self.rate = HZ / step  # tokens per second
        self.start = (receptive - 1) / 2 / HZ  # s from the first sample to the first token's centre

    def forward(self, samples: Tensor) -> Tensor:
        tokens: Tensor = self.model(samples).last_hidden_state
        return tokens


def fill_wav2vec2(encoder: Wav2Vec2Encoder, folder: Path) -> Wav2Vec2Encoder:
    """Put published weights into the encoder; nothing is fetched, and what trains goes on training.

    Args:
        encoder: of the same sizes.
        folder: with ``model.safetensors``; where a ``config.json`` lies beside it, its sizes must be the encoder's.

    Raises:
        WeightsMissingError: the file is not there.
        WeightsCorruptError: its tensors, or the sizes in ``config.json``, are not those of the encoder.
    """
    path, settings = folder / "model.safetensors", folder / "config.json"
    if not path.is_file():
        raise WeightsMissingError(f"no wav2vec2 at {path}", HINT)
    if settings.is_file():
        stated = read_config(settings, HINT)
        # A larger model of the family has further differences, such as the order of its norms.
        expected = encoder.sizes.settings() | {"do_stable_layer_norm": False, "feat_extract_norm": "group"}
        for name, value in expected.items():
            if stated.get(name, value) != value:
                raise WeightsCorruptError(
                    f"{settings} describes another wav2vec2: {name} is {stated[name]!r:.60}", HINT
                )
    tensors: dict[str, Tensor] = {}
    for name, tensor in read_tensors([path], HINT).items():
        key = name.removeprefix(PREFIX)
        if key.startswith(UNUSED):
            continue
        for old, new in RENAMED.items():
            key = key.replace(old, new)
        tensors[key] = tensor
    fill(encoder.model, tensors, "wav2vec2")
    return encoder
