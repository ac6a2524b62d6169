"""The face swapping module (SwapTalk, section III-B): source and target latents in, the target with the source's face
out.

Target tokens are queries, source tokens keys and values (eq. 7).  The compact preset adds what a small network needs
on a CPU: only the cells that a face can cover are computed; and it is given the *guide*, the latent of the source's
skin warped onto the target (:mod:`talkswap.faces.guide`), from which it starts and which it mends.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talkswap.checkpoints.hub import HubNetwork
from talkswap.errors import UsageError
from talkswap.systems.swaptalk.backbones import SwapUNet

# Rows 4 to 19 of the 20 x 20 latent: first and last column that the face's mask reaches in more than 2% of our training
# pictures, both halves taken together so that a mirrored face is covered too.
COVER_GRID = 20
COVER_FIRST_ROW = 4
COVER = (
    (9, 10), (5, 14), (4, 15), (3, 16), (3, 16), (3, 16), (3, 16), (3, 16),
    (3, 16), (3, 16), (3, 16), (4, 15), (4, 15), (5, 14), (6, 13), (8, 11),
)  # fmt: skip
SOURCE, TARGET, GUIDE = 0, 1, 2


@dataclass(frozen=True)
class FaceSwapConfig:
    """Sizes; the defaults are the compact preset."""

    grid: int = 20  # cells along one side of the latent
    code_width: int = 256
    backbone: str = "transformer"  # transformer | unet | ldm-unet (Table IV)
    width: int = 256  # d_model; channels of a UNet's first level
    blocks: int = 3
    heads: int = 4
    expansion: int = 3  # of the MLP
    self_attention: bool = True  # target tokens also see each other
    relative_position: bool = True  # a learned bias per head and offset between cells
    cover: bool = True  # compute only the cells that a face can cover; the rest is the target's
    guide: str = "mesh"  # mesh | none
    guide_is_target: bool = False  # a render lets the guide stand for the target as well, and encodes one picture less
    guide_keys: bool = False  # the guide is also a second sequence of keys and values, beside the sum with the queries
    identity: int = 256  # numbers of an identity vector given as tokens; 0 = none
    identity_tokens: int = 2
    unit_length: bool = True  # codes of constant length, as the compact VQGAN's


COMPACT = FaceSwapConfig()
PAPER = FaceSwapConfig(
    width=512,
    blocks=12,
    heads=8,
    expansion=4,
    self_attention=False,
    relative_position=False,
    cover=False,
    guide="none",
    identity=0,
    unit_length=False,
)


def covered_cells(grid: int) -> Tensor:
    """Numbers (row * grid + column) of the cells that a face can cover."""
    mask = torch.zeros(1, 1, COVER_GRID, COVER_GRID)
    for row, (first, last) in enumerate(COVER):
        mask[0, 0, COVER_FIRST_ROW + row, first : last + 1] = 1
    if grid != COVER_GRID:
        mask = F.interpolate(mask, (grid, grid), mode="area")
    return (mask.flatten() > 0).nonzero()[:, 0]


SourceMemory = tuple[Tensor, ...]
"""What the module keeps of a source for all frames of a clip.

Transformer: keys and values, B heads N C/heads, of each block; UNet: the latent and the identity.
"""


class RelativeBias(nn.Module):
    """A learned number per head and offset between two cells, added to the attention's logits."""

    index: Tensor

    def __init__(self, heads: int, grid: int, cells: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(heads, (2 * grid - 1) ** 2))
        row, column = cells // grid, cells % grid
        offset = (row[:, None] - row[None] + grid - 1) * (2 * grid - 1) + (column[:, None] - column[None] + grid - 1)
        self.register_buffer("index", offset, persistent=False)  # N N

    def forward(self) -> Tensor:
        return self.table[:, self.index]  # heads N N


class SwapBlock(nn.Module):
    """Self-attention of the target (optional), cross-attention to source, guide and identity (eq. 7), MLP; all
    pre-norm.
    """

    def __init__(self, config: FaceSwapConfig, cells: Tensor) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.extra = config.identity_tokens if config.identity else 0
        self.guided = config.guide != "none" and config.guide_keys
        self.norm_cross = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.cross_joined = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.widen = nn.Linear(width, config.expansion * width)
        self.narrow = nn.Linear(config.expansion * width, width)
        last = [self.cross_joined, self.narrow]
        if config.self_attention:
            self.norm_self = nn.LayerNorm(width)
            self.query_key_value = nn.Linear(width, 3 * width)
            self.self_joined = nn.Linear(width, width)
            last.append(self.self_joined)
        self.self_attention = config.self_attention
        self.relative = config.relative_position
        if config.relative_position:
            self.source_bias = RelativeBias(config.heads, config.grid, cells)
            if self.guided:
                self.guide_bias = RelativeBias(config.heads, config.grid, cells)
            if config.self_attention:
                self.self_bias = RelativeBias(config.heads, config.grid, cells)
        for layer in last:  # small first steps: the sum of many blocks starts near its input
            nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2 * config.blocks))
            nn.init.zeros_(layer.bias)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)  # B heads N C/heads

    def keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (each B heads N C/heads) of tokens (B N C) that are attended to."""
        key, value = self.key_value(tokens).chunk(2, 2)
        return self._split(key), self._split(value)

    def _bias(self, like: Tensor) -> Tensor | None:
        if not self.relative:
            return None
        parts = [self.source_bias()]
        if self.extra:
            parts.append(parts[0].new_zeros(self.heads, parts[0].shape[1], self.extra))
        if self.guided:
            parts.append(self.guide_bias())
        return torch.cat(parts, 2)[None].to(like.dtype)  # 1 heads Nq Nk

    def forward(self, x: Tensor, key: Tensor, value: Tensor, guide: Tensor | None) -> Tensor:
        """``x`` B N C; ``key``, ``value`` of the source (and identity); ``guide`` B N C, normed, or None."""
        if self.self_attention:
            parts = [self._split(p) for p in self.query_key_value(self.norm_self(x)).chunk(3, 2)]
            bias = self.self_bias()[None].to(parts[0].dtype) if self.relative else None
            mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=bias)
            x = x + self.self_joined(mixed.transpose(1, 2).flatten(2))
        query = self._split(self.query(self.norm_cross(x)))
        key, value = key.to(query.dtype), value.to(query.dtype)
        if guide is not None:
            guide_key, guide_value = self.keys_values(guide)
            key, value = torch.cat([key, guide_key], 2), torch.cat([value, guide_value], 2)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=self._bias(query))
        x = x + self.cross_joined(mixed.transpose(1, 2).flatten(2))
        return x + self.narrow(F.gelu(self.widen(self.norm_mlp(x)), approximate="tanh"))


class SwapTransformer(nn.Module):
    """Tokenization, blocks, and a linear layer back (Fig. 2c)."""

    cells: Tensor
    lower: Tensor

    def __init__(self, config: FaceSwapConfig) -> None:
        super().__init__()
        self.config = config
        width, grid = config.width, config.grid
        cells = covered_cells(grid) if config.cover else torch.arange(grid * grid)
        self.register_buffer("cells", cells, persistent=False)
        self.register_buffer("lower", (cells >= grid * grid // 2).long(), persistent=False)
        self.tokens = nn.Linear(config.code_width, width)
        self.position = nn.Parameter(torch.randn(len(cells), width) * 0.02)
        self.role = nn.Parameter(torch.randn(3, width) * 0.02)  # source, target, guide
        self.halves = nn.Parameter(torch.randn(2, width) * 0.02)  # upper, lower
        self.memory_norm = nn.LayerNorm(width)
        self.guided = config.guide != "none"
        if self.guided:
            self.onto_target = nn.Linear(config.code_width, width)  # the guide's code at the query's own cell
            self.gate = nn.Linear(width, 1)
            nn.init.zeros_(self.gate.weight)
            nn.init.constant_(self.gate.bias, 5.0)  # sigmoid(5) = 0.993: it starts as the guide
        if config.identity:
            self.identity = nn.Linear(config.identity, config.identity_tokens * width)
        self.blocks = nn.ModuleList([SwapBlock(config, cells) for _ in range(config.blocks)])
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, config.code_width)
        if self.guided:
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)

    def _covered(self, latent: Tensor) -> Tensor:
        return latent.flatten(2).transpose(1, 2)[:, self.cells]  # B N C

    def _tokens(self, codes: Tensor, role: int) -> Tensor:
        return self.tokens(codes) + self.position + self.role[role] + self.halves[self.lower]

    def remember(self, source: Tensor, identity: Tensor | None) -> SourceMemory:
        tokens = self._tokens(self._covered(source), SOURCE)
        if self.config.identity:
            if identity is None:
                raise UsageError(
                    "this face swap needs the source's identity vector", "give it, or train with identity = 0"
                )
            # unit vectors have entries of 1/sqrt(D): bring them to the tokens' scale
            person = self.identity(identity * math.sqrt(self.config.identity))
            tokens = torch.cat([tokens, person.view(len(person), -1, self.config.width).to(tokens.dtype)], 1)
        tokens = self.memory_norm(tokens)
        parts: list[Tensor] = []
        for block in self.blocks:
            parts.extend(block.keys_values(tokens))  # type: ignore[operator]
        return tuple(parts)

    def swap(self, memory: SourceMemory, target: Tensor, guide: Tensor | None) -> Tensor:
        target_codes = self._covered(target)
        x, guide_tokens, guide_codes = self._tokens(target_codes, TARGET), None, target_codes
        if self.guided:
            if guide is None:
                raise UsageError("this face swap needs a guide", "give the guide's latent, or train with guide = none")
            guide_codes = self._covered(guide)
            x = x + self.onto_target(guide_codes)
            if self.config.guide_keys:
                guide_tokens = self.memory_norm(self._tokens(guide_codes, GUIDE))
        for number, block in enumerate(self.blocks):
            x = block(x, memory[2 * number], memory[2 * number + 1], guide_tokens)
        x = self.norm(x)
        codes = self.last(x).float()
        if self.guided:
            codes = torch.lerp(target_codes.float(), guide_codes.float(), torch.sigmoid(self.gate(x).float())) + codes
        if self.config.unit_length:
            codes = F.normalize(codes, dim=2) * math.sqrt(self.config.code_width)
        if not self.config.cover:
            return codes.transpose(1, 2).unflatten(2, target.shape[2:])
        whole = target.float().flatten(2).transpose(1, 2).index_copy(1, self.cells, codes)  # B G*G C
        return whole.transpose(1, 2).unflatten(2, target.shape[2:])


class FaceSwap(nn.Module, HubNetwork):
    """The module of Fig. 2c, with the backbone that its config names."""

    hub_name = "swaptalk/face_swap"
    hub_config = FaceSwapConfig

    def __init__(self, config: FaceSwapConfig = COMPACT) -> None:
        super().__init__()
        if config.guide not in ("mesh", "none"):
            raise UsageError(f"no guide named {config.guide!r}", "guides are mesh and none")
        self.config = config
        self.backbone: nn.Module
        if config.backbone == "transformer":
            self.backbone = SwapTransformer(config)
        elif config.backbone in ("unet", "ldm-unet"):
            self.backbone = SwapUNet(
                config.code_width, config.grid, config.width, config.blocks, config.heads, config.identity,
                crossing=config.backbone == "ldm-unet", guided=config.guide != "none", unit_length=config.unit_length,
            )  # fmt: skip
        else:
            raise UsageError(
                f"no face swap backbone named {config.backbone!r}", "backbones are transformer, unet and ldm-unet"
            )

    def remember(self, source: Tensor, identity: Tensor | None = None) -> SourceMemory:
        """Read a source once for all frames.

        Args:
            source: B C G G latents.
            identity: B D unit vectors, where the config asks for them.
        """
        memory: SourceMemory = self.backbone.remember(source, identity)  # type: ignore[operator]
        return memory

    def swap(self, memory: SourceMemory, target: Tensor, guide: Tensor | None = None) -> Tensor:
        """Latents (B C G G) of ``target`` (B C G G) with the remembered face; ``guide`` B C G G where the config asks
        for it.
        """
        if len(memory[0]) != len(target):  # one source for a batch of frames
            memory = tuple(part.expand(len(target), *part.shape[1:]) for part in memory)
        latent: Tensor = self.backbone.swap(memory, target, guide)  # type: ignore[operator]
        return latent

    def forward(
        self, source: Tensor, target: Tensor, guide: Tensor | None = None, identity: Tensor | None = None
    ) -> Tensor:
        return self.swap(self.remember(source, identity), target, guide)
