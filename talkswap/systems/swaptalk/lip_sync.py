"""Lip-sync module (SwapTalk, section III-C, figure 2d): face warping, then lip transform.

    T_U - R_U -> offset map -> grid_sample(R_B) = T~_B          (pose transfer; bypassed when cross-driven)
    T~_B, speech -> UNet with cross-attention -> T^_B            (eq. 12)
    cat(T_U, T^_B)                                               (eq. 13)

The compact transform hears mel windows through a small encoder that also predicts the mouth's shape; that
shape modulates every block, because half an hour of speech is too little to learn it end to end.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talkswap.checkpoints.hub import HubNetwork
from talkswap.errors import UsageError
from talkswap.systems.swaptalk.backbones import ContextAttention, DiffusersUNet, LipTransformer, PlainUNet
from talkswap.voice.speech_encoder import SpeechEncoder, SpeechEncoderConfig


@dataclass(frozen=True)
class LipSyncConfig:
    """Sizes; the defaults are the compact preset."""

    backbone: str = "compact"  # compact | ldm-unet | unet | dit (the last three are Table V's)
    code_width: int = 256
    grid: int = 20  # cells along a side of the latent
    speech: str = "mel"  # mel | hubert
    speech_width: int = 80  # D of a speech feature
    window: int = 49  # speech features around a frame: 0.6 s of mel, 20 ms each of HuBERT
    widths: tuple[int, ...] = (144, 112, 112, 112)  # channels of the grid, and 2x, 4x, 8x below it
    blocks: tuple[int, ...] = (2, 1, 1, 1)  # residual blocks per level, on the way down and again up
    heads: int = 4
    margin: int = 3  # columns left and right that speech never moves (compact)
    encoder_width: int = 160  # of the speech encoder (compact)
    dilations: tuple[int, ...] = (1, 2, 4, 2)
    measures: int = 7  # of a mouth shape
    warp_width: int = 64
    warp_reach: float = 0.5  # largest offset, in halves of the grid
    depth: int = 12  # Transformer blocks (dit)
    quantize: bool = False  # whether a render replaces what was predicted by its nearest codes

    @property
    def encoder(self) -> SpeechEncoderConfig:
        """The speech encoder of the compact backbone."""
        return SpeechEncoderConfig(
            bins=self.speech_width,
            width=self.encoder_width,
            dilations=self.dilations,
            window=self.window,
            measures=self.measures,
        )


COMPACT = LipSyncConfig()
PAPER = LipSyncConfig(
    backbone="ldm-unet",
    speech="hubert",
    speech_width=768,
    window=20,
    widths=(256, 256, 512, 512),
    blocks=(2, 2, 2, 2),
    heads=8,
    margin=0,
    warp_width=256,
)


class FaceWarping(nn.Module):
    """Moves the reference's lower half to the target's pose; a fresh one moves nothing."""

    def __init__(self, config: LipSyncConfig) -> None:
        super().__init__()
        width = config.warp_width
        self.reach = config.warp_reach
        self.first = nn.Conv2d(config.code_width, width, 3, padding=1)
        # a turn of the head moves all cells alike: the coarse level sees the whole half
        self.coarse = nn.Sequential(
            nn.Conv2d(width, width, 3, stride=2, padding=1), nn.SiLU(), nn.Conv2d(width, width, 5, padding=2), nn.SiLU()
        )
        self.joined = nn.Conv2d(2 * width, width, 3, padding=1)
        self.offset = nn.Conv2d(width, 2, 3, padding=1)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]

    def offsets(self, target_upper: Tensor, reference_upper: Tensor) -> Tensor:
        """Offset map (B 2 H W: x, y in halves of the grid) from two upper halves (B C H W)."""
        fine = F.silu(self.first(target_upper - reference_upper))
        coarse = F.interpolate(self.coarse(fine), fine.shape[-2:], mode="nearest")
        return torch.tanh(self.offset(F.silu(self.joined(torch.cat([fine, coarse], 1))))) * self.reach

    def forward(self, target_upper: Tensor, reference_upper: Tensor, reference_lower: Tensor) -> Tensor:
        offset = self.offsets(target_upper, reference_upper).float().permute(0, 2, 3, 1)  # B H W 2
        batch, high, wide, _ = offset.shape
        y = (torch.arange(high, device=offset.device) * 2 + 1) / high - 1
        x = (torch.arange(wide, device=offset.device) * 2 + 1) / wide - 1
        rest = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)  # H W 2
        warped = F.grid_sample(
            reference_lower.float(), rest + offset, mode="bilinear", padding_mode="border", align_corners=False
        )
        return warped.to(reference_lower.dtype)


class ModulatedBlock(nn.Module):
    """Residual block whose inner scale and shift follow the wanted mouth shape; starts near the identity.

    Near and not at it: were the shape silent at the start, the network would first learn the mean mouth.
    """

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(math.gcd(32, width), width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.inner_norm = nn.GroupNorm(math.gcd(32, width), width)
        self.modulation = nn.Linear(condition, 2 * width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        with torch.no_grad():
            self.second.weight.mul_(0.3)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulation(condition)[:, :, None, None].chunk(2, 1)
        inner = self.inner_norm(self.first(F.silu(self.norm(x))))
        return x + self.second(F.silu(inner * (1 + scale) + shift))


class CompactUNet(nn.Module):
    """Four levels over the columns that speech moves; speech tokens enter at the 4x and 8x ones.

    The result is ``x + gate * (new - erased * x)``: gate, new content and erasure start at no change.
    """

    def __init__(self, config: LipSyncConfig) -> None:
        super().__init__()
        self.config = config
        widths, condition = config.widths, config.encoder_width
        self.shape = nn.Sequential(
            nn.Linear(config.measures, condition), nn.SiLU(), nn.Linear(condition, condition), nn.SiLU()
        )
        self.enter = nn.Linear(condition, widths[0])
        self.first = nn.Conv2d(config.code_width, widths[0], 3, padding=1)
        self.position = nn.Parameter(torch.zeros(1, widths[0], config.grid // 2, config.grid - 2 * config.margin))
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.merge, self.attention = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            self.down.append(nn.ModuleList([ModulatedBlock(width, condition) for _ in range(config.blocks[level])]))
            self.up.append(nn.ModuleList([ModulatedBlock(width, condition) for _ in range(config.blocks[level])]))
            attends = level >= len(widths) - 2
            self.attention.append(
                ContextAttention(width, config.encoder_width, config.heads) if attends else nn.Identity()
            )
            if level + 1 < len(widths):
                self.shrink.append(nn.Conv2d(width, widths[level + 1], 3, stride=2, padding=1))
                self.merge.append(nn.Conv2d(width + widths[level + 1], width, 1))
        self.norm = nn.GroupNorm(math.gcd(32, widths[0]), widths[0])
        self.last = nn.Conv2d(widths[0], config.code_width + 2, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, lower: Tensor, tokens: Tensor, shape: Tensor) -> Tensor:
        """Lower half (B C H W), speech tokens (B N D) and wanted shape (B M) to the new lower half."""
        margin = self.config.margin
        middle = lower[:, :, :, margin : lower.shape[3] - margin]
        condition = self.shape(shape.to(lower.dtype))
        x = self.first(middle) + self.position + self.enter(condition)[:, :, None, None]
        kept: list[Tensor] = []
        for level, blocks in enumerate(self.down):
            if level:
                x = self.shrink[level - 1](x)  # odd sides round up; the way back crops to what was kept
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, condition)
            if not isinstance(self.attention[level], nn.Identity):
                x = self.attention[level](x, tokens)
            kept.append(x)
        for level in reversed(range(len(self.up))):
            if level + 1 < len(kept):
                high, wide = kept[level].shape[-2:]
                grown = F.interpolate(x, scale_factor=2.0, mode="nearest")[:, :, :high, :wide]
                x = self.merge[level](torch.cat([kept[level], grown], 1))
            for block in self.up[level]:  # type: ignore[attr-defined]
                x = block(x, condition)
        new, gate, erased = self.last(F.silu(self.norm(x))).split([self.config.code_width, 1, 1], 1)
        change = torch.sigmoid(gate) * (new - torch.tanh(erased) * middle)
        return lower + F.pad(change, (margin, margin))


class LipTransform(nn.Module):
    """Deforms the mouth of a lower half (B C G/2 G) by what the speech window (B L D) says (eq. 12)."""

    def __init__(self, config: LipSyncConfig) -> None:
        super().__init__()
        self.config = config
        if config.backbone == "compact":
            self.speech = SpeechEncoder(config.encoder)
            self.unet = CompactUNet(config)
            return
        code, speech, widths, blocks = config.code_width, config.speech_width, config.widths, config.blocks
        if config.backbone == "ldm-unet":
            self.backbone: nn.Module = DiffusersUNet(code, speech, widths, blocks[0], config.heads)
        elif config.backbone == "unet":
            self.backbone = PlainUNet(code, speech, widths, blocks)
        elif config.backbone == "dit":
            self.backbone = LipTransformer(code, speech, widths[-1], config.grid, config.heads, config.depth)
        else:
            raise UsageError(f"there is no lip-sync backbone {config.backbone}", "take compact, ldm-unet, unet or dit")

    def forward(self, lower: Tensor, speech: Tensor, shape: Tensor | None = None) -> Tensor:
        """``shape`` (B M) overrides the shape that the compact encoder predicts; the other backbones take none."""
        if self.config.backbone != "compact":
            if shape is not None:
                raise UsageError(
                    f"the backbone {self.config.backbone} takes no mouth shape", "use the compact backbone"
                )
            return self.backbone(lower, speech)
        tokens = self.speech.tokens(speech)
        return self.unet(lower, tokens, self.speech.target_shape(tokens) if shape is None else shape)


class LipSync(nn.Module, HubNetwork):
    """Face warping and lip transform over whole latents."""

    hub_name = "swaptalk/lip_sync"
    hub_config = LipSyncConfig

    def __init__(self, config: LipSyncConfig = COMPACT) -> None:
        super().__init__()
        self.config = config
        self.warping = FaceWarping(config)
        self.transform = LipTransform(config)

    def forward(
        self, target: Tensor, reference: Tensor, speech: Tensor, warp: bool = False, shape: Tensor | None = None
    ) -> Tensor:
        """T^_VQ (eq. 13).

        Args:
            target, reference: latents B C G G; equal when cross-driven.
            speech: B L D, the window around each target frame.
            warp: whether the reference is moved to the target's pose first; off when cross-driven.
            shape: B M, a mouth shape that overrides the one predicted from speech (compact).

        Returns:
            B C G G: the target's upper half over the predicted lower half.
        """
        half = target.shape[2] // 2
        upper, lower = target[:, :, :half], reference[:, :, half:]
        if warp:
            lower = self.warping(upper, reference[:, :, :half], lower)
        return torch.cat([upper, self.transform(lower, speech, shape)], 2)
