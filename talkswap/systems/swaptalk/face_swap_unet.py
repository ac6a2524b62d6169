"""The two ablation backbones of the face swap (Table IV): a plain UNet, and a UNet with cross-attention as in latent
diffusion.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talkswap.errors import UsageError
from talkswap.systems.swaptalk.face_swap import FaceSwapConfig, SourceMemory
from talkswap.systems.swaptalk.vqgan import ResidualBlock


class SourceAttention(nn.Module):
    """Cells of a grid (queries) look at source tokens (keys and values): eq. 7 inside a UNet level."""

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(math.gcd(32, width), width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(context, 2 * width)
        self.joined = nn.Linear(width, width)
        nn.init.zeros_(self.joined.weight)
        nn.init.zeros_(self.joined.bias)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """``x`` B C H W, ``context`` B N D."""

        def split(tokens: Tensor) -> Tensor:
            return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)

        query = split(self.query(self.norm(x).flatten(2).transpose(1, 2)))
        key, value = (split(part) for part in self.key_value(context).chunk(2, 2))
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return x + self.joined(mixed).transpose(1, 2).unflatten(2, x.shape[2:])


class SwapUNet(nn.Module):
    """Three levels over the latent grid (G, G/2, G/4; odd sides are brought back by interpolation inside).

    ``unet`` reads the source beside the target, channel by channel; ``ldm-unet`` reads it by cross-attention on the
    two lower levels.  A guide, where configured, is read beside the target and is what the output starts from.
    """

    def __init__(self, config: FaceSwapConfig) -> None:
        super().__init__()
        self.config = config
        self.crossing = config.backbone == "ldm-unet"
        self.guided = config.guide != "none"
        widths = [config.width, config.width * 2, config.width * 2]
        given = config.code_width * (1 + self.guided + (not self.crossing))
        self.first = nn.Conv2d(given, widths[0], 3, padding=1)
        self.position = nn.Parameter(torch.zeros(1, widths[0], config.grid, config.grid))
        self.source_position = nn.Parameter(torch.randn(1, config.grid**2, config.code_width) * 0.02)
        if config.identity:
            target_width = config.code_width if self.crossing else widths[-1]
            self.identity = nn.Linear(config.identity, target_width)
        self.down = nn.ModuleList()
        self.shrink = nn.ModuleList()
        self.up = nn.ModuleList()
        self.grow = nn.ModuleList()
        per_level = max(1, config.blocks // 2)
        for level, width in enumerate(widths):
            self.down.append(self._level(width, per_level, level))
            if level + 1 < len(widths):
                self.shrink.append(nn.Conv2d(width, widths[level + 1], 3, stride=2, padding=1))
                self.grow.append(nn.Conv2d(widths[level + 1] + width, width, 3, padding=1))
                self.up.append(self._level(width, per_level, level))
        self.norm = nn.GroupNorm(math.gcd(32, widths[0]), widths[0])
        self.last = nn.Conv2d(widths[0], config.code_width, 3, padding=1)
        if self.guided:
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def _level(self, width: int, blocks: int, level: int) -> nn.ModuleList:
        layers: list[nn.Module] = []
        for _ in range(blocks):
            layers.append(ResidualBlock(width))
            if self.crossing and level:
                layers.append(SourceAttention(width, self.config.code_width, self.config.heads))
        return nn.ModuleList(layers)

    @staticmethod
    def _run(layers: nn.Module, x: Tensor, context: Tensor | None) -> Tensor:
        assert isinstance(layers, nn.ModuleList)
        for layer in layers:
            x = layer(x, context) if isinstance(layer, SourceAttention) else layer(x)
        return x

    def remember(self, source: Tensor, identity: Tensor | None) -> SourceMemory:
        if not self.config.identity:
            return SourceMemory((source,))
        if identity is None:
            raise UsageError("this face swap needs the source's identity vector", "give it, or train with identity = 0")
        return SourceMemory((source, self.identity(identity * math.sqrt(self.config.identity))))

    def swap(self, memory: SourceMemory, target: Tensor, guide: Tensor | None) -> Tensor:
        source = memory.parts[0]
        given = [target] if self.crossing else [target, source]
        if self.guided:
            if guide is None:
                raise UsageError("this face swap needs a guide", "give the guide's latent, or train with guide = none")
            given.append(guide)
        context = None
        if self.crossing:
            context = source.flatten(2).transpose(1, 2) + self.source_position  # B N C
            if self.config.identity:
                context = torch.cat([context, memory.parts[1][:, None].to(context.dtype)], 1)
        x = self.first(torch.cat(given, 1)) + self.position
        kept: list[Tensor] = []
        for level, layers in enumerate(self.down):
            x = self._run(layers, x, context)
            if level < len(self.shrink):
                kept.append(x)
                x = self.shrink[level](x)
        if self.config.identity and not self.crossing:
            x = x + memory.parts[1][:, :, None, None]
        for level in reversed(range(len(self.up))):
            x = F.interpolate(x, kept[level].shape[2:], mode="nearest")
            x = self._run(self.up[level], self.grow[level](torch.cat([x, kept[level]], 1)), context)
        made = self.last(F.silu(self.norm(x))).float()
        if guide is not None and self.guided:
            made = made + guide.float()
        if self.config.unit_length:
            made = F.normalize(made, dim=1) * math.sqrt(self.config.code_width)
        return made
