"""VQGAN with two codebooks (SwapTalk, section III-A): the latent space in which all of SwapTalk works.

The aligned crop is cut into an upper and a lower half; one encoder reads both, each half has its own
codebook C_U, C_B, and one decoder turns the joined code maps back into the crop (eq. 1 and 2).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talkswap.checkpoints.hub import HubNetwork


@dataclass(frozen=True)
class VQGANConfig:
    """Sizes; the defaults are the compact preset."""

    size: int = 320  # px of the square crop
    patch: int = 4  # pixel-unshuffle before the first convolution
    widths: tuple[int, ...] = (64, 128, 192)  # channels per level; each level after the first halves the side
    encoder_blocks: tuple[int, ...] = (1, 2, 2)
    decoder_blocks: tuple[int, ...] = (2, 3, 2)
    encoder_attention: int = 1  # Transformer blocks on the latent grid
    decoder_attention: int = 2
    codes: int = 2048  # per codebook
    code_width: int = 256
    cosine: bool = True  # unit-length codes compared by angle; False: the paper's plain vectors
    moving_codes: bool = True  # codebooks follow the encoder by running means; False: by eq. 4's second term
    continuous: bool = (
        True  # modules are given the encoder's own vectors, not their nearest codes (decoder trained on both)
    )

    @property
    def downsampling(self) -> int:
        """Crop px per latent cell (the paper's f: 8 or 16)."""
        return int(self.patch * 2 ** (len(self.widths) - 1))

    @property
    def grid(self) -> int:
        """Cells along one side of the latent."""
        return self.size // self.downsampling


COMPACT = VQGANConfig()
PAPER = VQGANConfig(
    patch=1,
    widths=(128, 128, 256, 256, 512),
    encoder_blocks=(2, 2, 2, 2, 2),
    decoder_blocks=(3, 3, 3, 3, 3),
    encoder_attention=1,
    decoder_attention=1,
    cosine=False,
    moving_codes=False,
    continuous=False,
)
PAPER_8X = VQGANConfig(
    patch=1,
    widths=(128, 128, 256, 512),
    encoder_blocks=(2, 2, 2, 2),
    decoder_blocks=(3, 3, 3, 3),
    encoder_attention=1,
    decoder_attention=1,
    cosine=False,
    moving_codes=False,
    continuous=False,
)


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, convolution, SiLU, convolution, added to the input; starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(math.gcd(32, width), width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(self.norm(x)))))  # B C H W


class GridAttention(nn.Module):
    """A pre-norm Transformer block over the cells of a grid, so that each cell can see the whole face."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.joined = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 3 * width)
        self.narrow = nn.Linear(3 * width, width)
        for last in (self.joined, self.narrow):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        batch, width, high, wide = x.shape
        tokens = x.permute(0, 2, 3, 1).reshape(batch, high * wide, width)  # B N C
        parts = self.query_key_value(self.norm_attention(tokens)).view(batch, -1, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each B heads N C/heads
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, -1, width)
        tokens = tokens + self.joined(mixed)
        tokens = tokens + self.narrow(F.gelu(self.widen(self.norm_mlp(tokens)), approximate="tanh"))
        return tokens.view(batch, high, wide, width).permute(0, 3, 1, 2)


class Encoder(nn.Module):
    """One half of the crop (3 x S/2 x S) to raw code vectors (code_width x G/2 x G)."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        widths, grid = config.widths, config.grid
        self.patch = config.patch
        layers: list[nn.Module] = [nn.Conv2d(3 * config.patch**2, widths[0], 3, padding=1)]
        for level, width in enumerate(widths):
            if level:
                layers.append(nn.Conv2d(widths[level - 1], width, 3, stride=2, padding=1))
            layers += [ResidualBlock(width) for _ in range(config.encoder_blocks[level])]
        self.levels = nn.Sequential(*layers)
        self.position = nn.Parameter(torch.zeros(1, widths[-1], grid // 2, grid))
        self.attention = nn.Sequential(*[GridAttention(widths[-1]) for _ in range(config.encoder_attention)])
        self.norm = nn.GroupNorm(math.gcd(32, widths[-1]), widths[-1])
        self.last = nn.Conv2d(widths[-1], config.code_width, 1)

    def forward(self, half: Tensor) -> Tensor:
        x = F.pixel_unshuffle(half, self.patch) if self.patch > 1 else half
        x = self.levels(x)  # B C G/2 G
        x = self.attention(x + _fitted(self.position, x))
        return self.last(F.silu(self.norm(x)))


class Decoder(nn.Module):
    """Code map (code_width x G x G) to the crop (3 x S x S) in about [-1, 1]."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        widths, grid = config.widths, config.grid
        inner = max(widths[-1], 256) if config.patch > 1 else widths[-1]
        self.patch = config.patch
        self.first = nn.Conv2d(config.code_width, inner, 3, padding=1)
        self.position = nn.Parameter(torch.zeros(1, inner, grid, grid))
        self.attention = nn.Sequential(*[GridAttention(inner) for _ in range(config.decoder_attention)])
        layers: list[nn.Module] = [ResidualBlock(inner) for _ in range(config.decoder_blocks[-1])]
        width = inner
        for level in reversed(range(len(widths) - 1)):
            # sub-pixel convolution: cheaper than convolving the enlarged grid, and no checkerboard of its own
            layers += [nn.Conv2d(width, 4 * widths[level], 1), nn.PixelShuffle(2)]
            width = widths[level]
            layers += [ResidualBlock(width) for _ in range(config.decoder_blocks[level])]
        self.levels = nn.Sequential(*layers)
        self.norm = nn.GroupNorm(math.gcd(32, width), width)
        self.last = nn.Conv2d(width, 3 * config.patch**2, 3, padding=1)

    def forward(self, code: Tensor) -> Tensor:
        x = self.first(code)
        x = self.attention(x + _fitted(self.position, x))
        x = self.levels(x)
        x = self.last(F.silu(self.norm(x)))
        return F.pixel_shuffle(x, self.patch) if self.patch > 1 else x


def _fitted(position: Tensor, x: Tensor) -> Tensor:
    """The position map at the grid of ``x``; another crop size is trained or rendered by interpolation."""
    if position.shape[-2:] == x.shape[-2:]:
        return position
    return F.interpolate(position, x.shape[-2:], mode="bilinear", align_corners=False)


class Quantized(NamedTuple):
    """What a codebook makes of raw vectors."""

    code: Tensor  # B C H W: the chosen codes, gradient passed straight to ``raw``
    number: Tensor  # B H W: which codes they are
    raw: Tensor  # B C H W: the input, on the codes' scale
    chosen: Tensor  # B C H W: the codes with their own gradient (eq. 4)


class Codebook(nn.Module):
    """Nearest code of one half (Quant in eq. 1).

    With ``cosine`` raw vectors and codes have length sqrt(code_width), so that an entry has unit variance.
    """

    used: Tensor

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.cosine, self.moving = config.cosine, config.moving_codes
        self.scale = math.sqrt(config.code_width)
        start = torch.randn(config.codes, config.code_width)
        start = F.normalize(start, dim=1) * self.scale if config.cosine else start / config.codes
        self.codes = nn.Parameter(start, requires_grad=not config.moving_codes)
        self.register_buffer("used", torch.ones(config.codes))  # running mean of uses per batch

    def forward(self, raw: Tensor) -> Quantized:
        batch, width, high, wide = raw.shape
        with torch.autocast(raw.device.type, enabled=False):
            raw = raw.float()
            if self.cosine:
                raw = F.normalize(raw, dim=1) * self.scale
            flat = raw.permute(0, 2, 3, 1).reshape(-1, width)  # N C
            index = self.nearest(flat)
            chosen = F.embedding(index, self.codes)
            code = flat + (chosen - flat).detach()

            def as_map(x: Tensor) -> Tensor:
                return x.view(batch, high, wide, width).permute(0, 3, 1, 2)

            return Quantized(as_map(code), index.view(batch, high, wide), raw, as_map(chosen))

    @torch.no_grad()
    def nearest(self, flat: Tensor) -> Tensor:
        """Numbers (N) of the nearest codes to ``flat`` (N C)."""
        products = flat @ self.codes.t()
        if not self.cosine:
            products = products - 0.5 * self.codes.square().sum(1)
        return products.argmax(1)

    def lookup(self, index: Tensor) -> Tensor:
        """Code map (B C H W) of code numbers (B H W)."""
        return F.embedding(index, self.codes).permute(0, 3, 1, 2)

    @torch.no_grad()
    def start_at(self, raw: Tensor, part: int, parts: int) -> None:
        """Set the ``part``-th of ``parts`` equal runs of codes to random vectors of ``raw`` (B C H W)."""
        flat = raw.permute(0, 2, 3, 1).reshape(-1, raw.shape[1])
        run = len(self.codes) // parts
        self.codes[part * run : (part + 1) * run] = flat[torch.randperm(len(flat), device=flat.device)[:run]]
        self.used.fill_(len(flat) / len(self.codes))

    @torch.no_grad()
    def follow(self, raw: Tensor, index: Tensor, decay: float, revive_below: float) -> None:
        """Move the codes to the running mean of what chose them; a code hardly used restarts at an input.

        Args:
            raw: B C H W as in :class:`Quantized`.
            index: B H W.
            decay: of the running means.
            revive_below: a code used fewer times a batch than this, on a running mean, restarts.
        """
        flat = raw.permute(0, 2, 3, 1).reshape(-1, raw.shape[1])
        index = index.reshape(-1)
        count = torch.bincount(index, minlength=len(self.codes)).to(flat.dtype)
        self.used.mul_(decay).add_(count, alpha=1 - decay)
        if self.moving:
            total = torch.zeros_like(self.codes).index_add_(0, index, flat)
            share = ((1 - decay) * count / self.used.clamp(min=1e-4)).clamp(max=1.0)[:, None]
            mean = total / count.clamp(min=1)[:, None]
            moved = torch.where(count[:, None] > 0, self.codes + share * (mean - self.codes), self.codes)
            if self.cosine:
                moved = F.normalize(moved, dim=1) * self.scale
            self.codes.copy_(moved)
        dead = (self.used < revive_below).nonzero()[:, 0]
        if len(dead):
            picked = torch.randperm(len(flat), device=flat.device)[: len(dead)]
            dead = dead[: len(picked)]
            self.codes[dead] = flat[picked]
            self.used[dead] = float(count.mean())


class VQGAN(nn.Module, HubNetwork):
    """Enc_VQ and Dec_VQ (eq. 1 and 2)."""

    hub_name = "swaptalk/vqgan"
    hub_config = VQGANConfig

    def __init__(self, config: VQGANConfig = COMPACT) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.upper = Codebook(config)  # C_U
        self.lower = Codebook(config)  # C_B

    def encode(self, crop: Tensor) -> tuple[Quantized, Quantized]:
        """Both halves of crops (B 3 S S in [-1, 1]), quantized."""
        batch, _, high, _ = crop.shape
        halves = torch.cat([crop[:, :, : high // 2], crop[:, :, high // 2 :]])  # 2B 3 S/2 S
        raw = self.encoder(halves)  # 2B C G/2 G
        return self.upper(raw[:batch]), self.lower(raw[batch:])

    def latent(self, crop: Tensor) -> Tensor:
        """Enc_VQ: crops (B 3 S S) to latents (B code_width G G)."""
        upper, lower = self.encode(crop)
        return torch.cat([upper.code, lower.code], 2)

    def embed(self, crop: Tensor) -> Tensor:
        """What the modules work on: latents (B code_width G G) of crops (B 3 S S).

        Codes as in the paper, or with ``continuous`` the encoder's own vectors on the codes' scale: closer to
        the picture, and no search among codes.
        """
        if not self.config.continuous:
            return self.latent(crop)
        batch, _, high, _ = crop.shape
        raw = self.encoder(torch.cat([crop[:, :, : high // 2], crop[:, :, high // 2 :]])).float()
        raw = torch.cat([raw[:batch], raw[batch:]], 2)
        return F.normalize(raw, dim=1) * self.upper.scale if self.config.cosine else raw

    def indices(self, crop: Tensor) -> Tensor:
        """Code numbers (B G G) of crops (B 3 S S)."""
        upper, lower = self.encode(crop)
        return torch.cat([upper.number, lower.number], 1)

    def lookup(self, index: Tensor) -> Tensor:
        """Latents (B code_width G G) of code numbers (B G G)."""
        half = index.shape[1] // 2
        return torch.cat([self.upper.lookup(index[:, :half]), self.lower.lookup(index[:, half:])], 2)

    def quantize(self, latent: Tensor) -> Tensor:
        """Each cell of a latent (B code_width G G) replaced by its nearest code, gradient passed straight."""
        half = latent.shape[2] // 2
        return torch.cat([self.upper(latent[:, :, :half]).code, self.lower(latent[:, :, half:]).code], 2)

    def decode(self, latent: Tensor) -> Tensor:
        """Dec_VQ: latents (B code_width G G) to crops (B 3 S S)."""
        return self.decoder(latent)

    def forward(self, crop: Tensor) -> Tensor:
        return self.decode(self.latent(crop))
