"""The paper's ablation backbones: UNets and a DiT for the face swap (Table IV) and the lip transform (Table V).

Those of the lip transform take B C G/2 G and speech B L D and give B C G/2 G; whatever padding their levels need stays
inside.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talkswap.errors import DependencyError, UsageError
from talkswap.systems.swaptalk.vqgan import ResidualBlock


class ContextAttention(nn.Module):
    """Cells of a grid (queries) look at tokens (keys and values) of speech or of a source; starts as the identity.

    Eq. 7 and eq. 12 inside a UNet's level.
    """

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
            return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)  # B heads N C/heads

        query = split(self.query(self.norm(x).flatten(2).transpose(1, 2)))
        key, value = (split(part) for part in self.key_value(context).chunk(2, 2))
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return x + self.joined(mixed).transpose(1, 2).unflatten(2, x.shape[2:])


# --- face swap (Table IV)


class SwapUNet(nn.Module):
    """Three levels over the latent grid (G, G/2, G/4; odd sides are brought back by interpolation inside).

    ``unet`` reads the source beside the target, channel by channel; ``ldm-unet`` reads it by cross-attention on the
    two lower levels.  A guide, where configured, is read beside the target and is what the output starts from.
    """

    def __init__(
        self, code_width: int, grid: int, width: int, blocks: int, heads: int, identity: int, *,
        crossing: bool, guided: bool, unit_length: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.code_width, self.heads, self.identity_width = code_width, heads, identity
        self.crossing, self.guided, self.unit_length = crossing, guided, unit_length
        widths = [width, width * 2, width * 2]
        channels = code_width * (1 + guided + (not crossing))
        self.first = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.position = nn.Parameter(torch.zeros(1, widths[0], grid, grid))
        self.source_position = nn.Parameter(torch.randn(1, grid**2, code_width) * 0.02)
        if identity:
            self.identity = nn.Linear(identity, code_width if crossing else widths[-1])
        self.down = nn.ModuleList()
        self.shrink = nn.ModuleList()
        self.up = nn.ModuleList()
        self.grow = nn.ModuleList()
        per_level = max(1, blocks // 2)
        for level, width in enumerate(widths):
            self.down.append(self._level(width, per_level, level))
            if level + 1 < len(widths):
                self.shrink.append(nn.Conv2d(width, widths[level + 1], 3, stride=2, padding=1))
                self.grow.append(nn.Conv2d(widths[level + 1] + width, width, 3, padding=1))
                self.up.append(self._level(width, per_level, level))
        self.norm = nn.GroupNorm(math.gcd(32, widths[0]), widths[0])
        self.last = nn.Conv2d(widths[0], code_width, 3, padding=1)
        if guided:
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def _level(self, width: int, blocks: int, level: int) -> nn.ModuleList:
        layers: list[nn.Module] = []
        for _ in range(blocks):
            layers.append(ResidualBlock(width))
            if self.crossing and level:
                layers.append(ContextAttention(width, self.code_width, self.heads))
        return nn.ModuleList(layers)

    @staticmethod
    def _run(layers: nn.Module, x: Tensor, context: Tensor | None) -> Tensor:
        assert isinstance(layers, nn.ModuleList)
        for layer in layers:
            x = layer(x, context) if isinstance(layer, ContextAttention) else layer(x)
        return x

    def remember(self, source: Tensor, identity: Tensor | None) -> tuple[Tensor, ...]:
        if not self.identity_width:
            return (source,)
        if identity is None:
            raise UsageError("this face swap needs the source's identity vector", "give it, or train with identity = 0")
        return source, self.identity(identity * math.sqrt(self.identity_width))

    def swap(self, memory: tuple[Tensor, ...], target: Tensor, guide: Tensor | None) -> Tensor:
        source = memory[0]
        maps = [target] if self.crossing else [target, source]
        if self.guided:
            if guide is None:
                raise UsageError("this face swap needs a guide", "give the guide's latent, or train with guide = none")
            maps.append(guide)
        context = None
        if self.crossing:
            context = source.flatten(2).transpose(1, 2) + self.source_position  # B N C
            if self.identity_width:
                context = torch.cat([context, memory[1][:, None].to(context.dtype)], 1)
        x = self.first(torch.cat(maps, 1)) + self.position
        kept: list[Tensor] = []
        for level, layers in enumerate(self.down):
            x = self._run(layers, x, context)
            if level < len(self.shrink):
                kept.append(x)
                x = self.shrink[level](x)
        if self.identity_width and not self.crossing:
            x = x + memory[1][:, :, None, None]
        for level in reversed(range(len(self.up))):
            x = F.interpolate(x, kept[level].shape[2:], mode="nearest")
            x = self._run(self.up[level], self.grow[level](torch.cat([x, kept[level]], 1)), context)
        latent = self.last(F.silu(self.norm(x))).float()
        if guide is not None and self.guided:
            latent = latent + guide.float()
        if self.unit_length:
            latent = F.normalize(latent, dim=1) * math.sqrt(self.code_width)
        return latent


# --- lip transform (Table V)


def padded(x: Tensor, multiple: int) -> Tensor:
    """``x`` (B C H W) grown to multiples of ``multiple`` by repeating its right and lower edge."""
    high, wide = x.shape[-2:]
    return F.pad(x, (0, -wide % multiple, 0, -high % multiple), mode="replicate")


class DiffusersUNet(nn.Module):
    """The UNet of latent diffusion without time: cross-attention at the 4x and 8x levels (eq. 12)."""

    def __init__(self, code_width: int, speech_width: int, widths: tuple[int, ...], blocks: int, heads: int) -> None:
        super().__init__()
        try:
            from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
        except ImportError as error:
            raise DependencyError("the ldm-unet backbone needs diffusers", "pip install 'talkswap[paper]'") from error
        self.multiple = 2 ** (len(widths) - 1)
        plain = len(widths) - 2
        self.unet = UNet2DConditionModel(
            in_channels=code_width,
            out_channels=code_width,
            down_block_types=("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",) * plain,
            mid_block_type="UNetMidBlock2DCrossAttn",
            block_out_channels=widths,
            layers_per_block=blocks,
            cross_attention_dim=speech_width,
            attention_head_dim=heads,
            norm_num_groups=math.gcd(32, *widths),
        )

    def forward(self, lower: Tensor, speech: Tensor) -> Tensor:
        high, wide = lower.shape[-2:]
        step = torch.zeros(len(lower), dtype=torch.long, device=lower.device)  # one pass, no diffusion time
        change = self.unet(padded(lower, self.multiple), step, encoder_hidden_states=speech).sample
        return lower + change[:, :, :high, :wide]


class PlainUNet(nn.Module):
    """A UNet without attention: the window's pooled speech is added to every cell of each level."""

    def __init__(self, code_width: int, speech_width: int, widths: tuple[int, ...], blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.multiple = 2 ** (len(widths) - 1)
        self.first = nn.Conv2d(code_width, widths[0], 3, padding=1)
        self.heard = nn.ModuleList([nn.Linear(speech_width, width) for width in widths])
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.merge = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            self.down.append(nn.Sequential(*[ResidualBlock(width) for _ in range(blocks[level])]))
            self.up.append(nn.Sequential(*[ResidualBlock(width) for _ in range(blocks[level])]))
            if level + 1 < len(widths):
                self.shrink.append(nn.Conv2d(width, widths[level + 1], 3, stride=2, padding=1))
                self.merge.append(nn.Conv2d(width + widths[level + 1], width, 1))
        self.norm = nn.GroupNorm(math.gcd(32, widths[0]), widths[0])
        self.last = nn.Conv2d(widths[0], code_width, 3, padding=1)

    def forward(self, lower: Tensor, speech: Tensor) -> Tensor:
        high, wide = lower.shape[-2:]
        pooled = speech.mean(1)  # B D
        x = self.first(padded(lower, self.multiple))
        kept: list[Tensor] = []
        for level, layers in enumerate(self.down):
            x = self.shrink[level - 1](x) if level else x
            x = layers(x + self.heard[level](pooled)[:, :, None, None])
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

    def __init__(self, code_width: int, speech_width: int, width: int, grid: int, heads: int, depth: int) -> None:
        super().__init__()
        self.first = nn.Linear(code_width, width)
        self.position = nn.Parameter(torch.randn(1, grid * (grid // 2), width) * 0.02)
        self.heard = nn.Linear(speech_width, width)
        self.blocks = nn.ModuleList([TransformerBlock(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, code_width)

    def forward(self, lower: Tensor, speech: Tensor) -> Tensor:
        cells = self.first(lower.flatten(2).transpose(1, 2)) + self.position  # B N W
        tokens = self.heard(speech)
        for block in self.blocks:
            cells = block(cells, tokens, tokens.mean(1))
        return lower + self.last(self.norm(cells)).transpose(1, 2).unflatten(2, lower.shape[2:])
