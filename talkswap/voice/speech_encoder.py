"""Speech to tokens and to the mouth shape to make: what the compact lip transform hears.

Convolutions without padding, so that a window and a longer stretch of the same voice give the same
tokens; training on stretches then costs a tenth of training on windows.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talkswap.checkpoints.hub import HubNetwork

# What a mouth shape holds, in this order; see :func:`talkswap.faces.measures.mouth_shape`.
MEASURES = ("opening", "width", "height", "jaw", "upper lip", "lower lip", "inner width")


@dataclass(frozen=True)
class SpeechEncoderConfig:
    """Sizes; the defaults are the compact preset's (mel at 80 frames/s)."""

    bins: int = 80  # D of a speech feature
    width: int = 160
    stride: int = 2  # feature frames per token
    dilations: tuple[int, ...] = (1, 2, 4, 2)  # tokens; one residual convolution of three taps each
    window: int = 49  # feature frames: 0.6 s of mel
    measures: int = len(MEASURES)
    dropout: float = 0.2

    @property
    def field(self) -> int:
        """Feature frames that one token sees."""
        return 5 + 2 * self.stride * sum(self.dilations)

    @property
    def tokens(self) -> int:
        """Tokens of one window; odd, so that one is at its centre."""
        return (self.window - self.field) // self.stride + 1


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each time step: no statistic crosses time (B C T)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class DilatedBlock(nn.Module):
    """Residual convolution of three taps; the ends that it cannot see in full are cut off."""

    def __init__(self, width: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.dilation = dilation
        self.norm = ChannelNorm(width)
        self.taps = nn.Conv1d(width, 2 * width, 3, dilation=dilation)
        self.joined = nn.Conv1d(width, width, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        # A gated unit, as in WaveNet: one half of the channels decides how much of the other passes.
        value, gate = self.taps(self.norm(x)).chunk(2, 1)
        residual = self.joined(self.dropout(value * torch.sigmoid(gate)))
        return x[..., self.dilation : x.shape[-1] - self.dilation] + residual


class SpeechEncoder(nn.Module, HubNetwork):
    """Feature windows (B L D) to tokens (B N width) and the mouth shape that they ask for (B measures).

    The shape is what a regression can say, so it moves less than mouths do; :attr:`gain` and
    :attr:`offset`, measured after training, give it the spread and the mean of true mouths.
    """

    hub_name = "voice/speech_encoder"
    hub_config = SpeechEncoderConfig

    gain: Tensor
    offset: Tensor

    def __init__(self, config: SpeechEncoderConfig) -> None:
        super().__init__()
        self.config = config
        # The token at the centre is the answer, so there must be one.
        if config.window < config.field or config.tokens % 2 == 0:
            raise ValueError(f"a window of {config.window} gives no token at its centre (field {config.field})")
        self.first = nn.Conv1d(config.bins, config.width, 5, stride=config.stride)
        self.blocks = nn.Sequential(*[DilatedBlock(config.width, d, config.dropout) for d in config.dilations])
        self.norm = ChannelNorm(config.width)
        self.hidden = nn.Conv1d(config.width, config.width, 1)
        self.head = nn.Conv1d(config.width, config.measures, 1)
        self.register_buffer("gain", torch.ones(config.measures))
        self.register_buffer("offset", torch.zeros(config.measures))

    def tokens(self, features: Tensor) -> Tensor:
        """Features (B T D) to tokens (B N width); N = (T - field) // stride + 1."""
        x = F.gelu(self.first(features.transpose(1, 2)))
        return self.norm(self.blocks(x)).transpose(1, 2)  # B N C

    def shapes(self, tokens: Tensor) -> Tensor:
        """Mouth shapes (B N measures) that tokens (B N width) ask for, before gain and offset."""
        return self.head(F.gelu(self.hidden(tokens.transpose(1, 2)))).transpose(1, 2)

    def target_shape(self, tokens: Tensor) -> Tensor:
        """The mouth shape (B measures) at the centre of each window, with the spread of true mouths."""
        centre = tokens[:, tokens.shape[1] // 2 :][:, :1]  # B 1 C
        shape = self.shapes(centre)[:, 0].float() * self.gain.float() + self.offset.float()
        return torch.cat([shape[:, :1].clamp(min=0), shape[:, 1:]], 1)  # lips cannot be more than closed

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.tokens(windows)
        return tokens, self.target_shape(tokens)
