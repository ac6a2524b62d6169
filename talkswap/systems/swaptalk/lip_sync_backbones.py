"""The lip transform's published backbones (Table V): LDM UNet, plain UNet and DiT, each of (lower half, speech).

All take B C G/2 G and B L D and give B C G/2 G; whatever padding their levels need stays inside.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talkswap.errors import DependencyError
from talkswap.systems.swaptalk.vqgan import ResidualBlock

if TYPE_CHECKING:
    from talkswap.systems.swaptalk.lip_sync import LipSyncConfig


class SpeechAttention(nn.Module):
    """Cells of a grid (queries) look at speech tokens (keys and values); starts as the identity."""

    def __init__(self, width: int, speech: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(math.gcd(32, width), width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(speech, 2 * width)
        self.joined = nn.Linear(width, width)
        nn.init.zeros_(self.joined.weight)
        nn.init.zeros_(self.joined.bias)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """``x`` B C H W, ``tokens`` B N D."""

        def heads(part: Tensor) -> Tensor:
            return part.unflatten(2, (self.heads, -1)).transpose(1, 2)

        query = heads(self.query(self.norm(x).flatten(2).transpose(1, 2)))
        key, value = (heads(part) for part in self.key_value(tokens).chunk(2, 2))
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return x + self.joined(mixed).transpose(1, 2).unflatten(2, x.shape[2:])


def padded(x: Tensor, multiple: int) -> Tensor:
    """``x`` (B C H W) grown to multiples of ``multiple`` by repeating its right and lower edge."""
    high, wide = x.shape[-2:]
    return F.pad(x, (0, -wide % multiple, 0, -high % multiple), mode="replicate")


class DiffusersUNet(nn.Module):
    """The UNet of latent diffusion without time: cross-attention at the 4x and 8x levels (eq. 12)."""

    def __init__(self, config: LipSyncConfig) -> None:
        super().__init__()
        try:
            from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
        except ImportError as error:
            raise DependencyError("the ldm-unet backbone needs diffusers", "pip install 'talkswap[paper]'") from error
        self.multiple = 2 ** (len(config.widths) - 1)
        plain = len(config.widths) - 2
        self.unet = UNet2DConditionModel(
            in_channels=config.code_width,
            out_channels=config.code_width,
            down_block_types=("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",) * plain,
            mid_block_type="UNetMidBlock2DCrossAttn",
            block_out_channels=config.widths,
            layers_per_block=config.blocks[0],
            cross_attention_dim=config.speech_width,
            attention_head_dim=config.heads,
            norm_num_groups=math.gcd(32, *config.widths),
        )

    def forward(self, lower: Tensor, speech: Tensor) -> Tensor:
        high, wide = lower.shape[-2:]
        grown = padded(lower, self.multiple)
        moment = torch.zeros(len(lower), dtype=torch.long, device=lower.device)  # one pass, no diffusion time
        made = self.unet(grown, moment, encoder_hidden_states=speech).sample
        return lower + made[:, :, :high, :wide]


class PlainUNet(nn.Module):
    """A UNet without attention: the window's pooled speech is added to every cell of each level."""

    def __init__(self, config: LipSyncConfig) -> None:
        super().__init__()
        widths = config.widths
        self.multiple = 2 ** (len(widths) - 1)
        self.first = nn.Conv2d(config.code_width, widths[0], 3, padding=1)
        self.heard = nn.ModuleList([nn.Linear(config.speech_width, width) for width in widths])
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.merge = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            self.down.append(nn.Sequential(*[ResidualBlock(width) for _ in range(config.blocks[level])]))
            self.up.append(nn.Sequential(*[ResidualBlock(width) for _ in range(config.blocks[level])]))
            if level + 1 < len(widths):
                self.shrink.append(nn.Conv2d(width, widths[level + 1], 3, stride=2, padding=1))
                self.merge.append(nn.Conv2d(width + widths[level + 1], width, 1))
        self.norm = nn.GroupNorm(math.gcd(32, widths[0]), widths[0])
        self.last = nn.Conv2d(widths[0], config.code_width, 3, padding=1)

    def forward(self, lower: Tensor, speech: Tensor) -> Tensor:
        high, wide = lower.shape[-2:]
        pooled = speech.mean(1)  # B D
        x = self.first(padded(lower, self.multiple))
        kept: list[Tensor] = []
        for level, blocks in enumerate(self.down):
            x = self.shrink[level - 1](x) if level else x
            x = blocks(x + self.heard[level](pooled)[:, :, None, None])
            kept.append(x)
        for level in reversed(range(len(self.up))):
            if level + 1 < len(kept):
                grown = F.interpolate(x, scale_factor=2.0, mode="nearest")
                x = self.merge[level](torch.cat([kept[level], grown], 1))
            x = self.up[level](x)
        return lower + self.last(F.silu(self.norm(x)))[:, :, :high, :wide]


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to speech and an MLP, scaled and shifted by pooled speech (adaLN-zero)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width, elementwise_affine=False) for _ in range(3)])
        self.itself = nn.MultiheadAttention(width, heads, batch_first=True)
        self.speech = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        self.modulation = nn.Linear(width, 9 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, cells: Tensor, tokens: Tensor, condition: Tensor) -> Tensor:
        """``cells`` B N W, ``tokens`` B L W, ``condition`` B W."""
        parts = self.modulation(F.silu(condition))[:, None].chunk(9, 2)
        x = self.norms[0](cells) * (1 + parts[0]) + parts[1]
        cells = cells + parts[2] * self.itself(x, x, x, need_weights=False)[0]
        x = self.norms[1](cells) * (1 + parts[3]) + parts[4]
        cells = cells + parts[5] * self.speech(x, tokens, tokens, need_weights=False)[0]
        x = self.norms[2](cells) * (1 + parts[6]) + parts[7]
        return cells + parts[8] * self.mlp(x)


class LipTransformer(nn.Module):
    """DiT over the cells of the lower half, without time."""

    def __init__(self, config: LipSyncConfig) -> None:
        super().__init__()
        width = config.widths[-1]
        self.first = nn.Linear(config.code_width, width)
        self.position = nn.Parameter(torch.randn(1, config.grid * (config.grid // 2), width) * 0.02)
        self.heard = nn.Linear(config.speech_width, width)
        self.blocks = nn.ModuleList([TransformerBlock(width, config.heads) for _ in range(config.depth)])
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, config.code_width)

    def forward(self, lower: Tensor, speech: Tensor) -> Tensor:
        cells = self.first(lower.flatten(2).transpose(1, 2)) + self.position  # B N W
        tokens = self.heard(speech)
        for block in self.blocks:
            cells = block(cells, tokens, tokens.mean(1))
        return lower + self.last(self.norm(cells)).transpose(1, 2).unflatten(2, lower.shape[2:])
