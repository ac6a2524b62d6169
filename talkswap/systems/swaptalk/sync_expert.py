"""Lip-sync expert in the VQ-embedding space (SwapTalk, section III-C, eq. 15), and the opening probe beside it.

The expert says whether five lower halves and a stretch of speech belong together; the probe reads the mouth's
shape from one lower half.  Both are trained on true codes and then supervise the lip transform.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talkswap.checkpoints.hub import HubNetwork
from talkswap.voice.speech_encoder import SpeechEncoder, SpeechEncoderConfig


@dataclass(frozen=True)
class SyncExpertConfig:
    """Sizes; the defaults are the compact preset."""

    code_width: int = 256
    grid: int = 20
    frames: int = 5  # consecutive lower halves
    speech_width: int = 80
    window: int = 57  # speech features around the middle frame
    margin: int = 4  # columns left and right that are not looked at
    width: int = 48
    embedding: int = 96
    encoder_width: int = 160
    dilations: tuple[int, ...] = (1, 2, 4, 2)
    measures: int = 7

    @property
    def encoder(self) -> SpeechEncoderConfig:
        """The audio side's convolutions."""
        return SpeechEncoderConfig(
            bins=self.speech_width,
            width=self.encoder_width,
            dilations=self.dilations,
            window=self.window,
            measures=self.measures,
        )


COMPACT = SyncExpertConfig()
PAPER = SyncExpertConfig(width=256, embedding=512, encoder_width=512, margin=0)


class LowerEncoder(nn.Module):
    """One lower half (B C G/2 G) to a vector (B W): the trunk that expert and probe are built from."""

    def __init__(self, config: SyncExpertConfig) -> None:
        super().__init__()
        width, self.margin = config.width, config.margin
        high, wide = config.grid // 2, config.grid - 2 * config.margin
        self.reduce = nn.Conv2d(config.code_width, width, 1)
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(math.gcd(8, width), width),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.GroupNorm(math.gcd(8, width), 2 * width),
            nn.SiLU(),
            nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1),
            nn.GroupNorm(math.gcd(8, width), 2 * width),
            nn.SiLU(),
        )
        cells = math.ceil(math.ceil(high / 2) / 2) * math.ceil(math.ceil(wide / 2) / 2)
        self.last = nn.Linear(2 * width * cells, 2 * width)

    def forward(self, lower: Tensor) -> Tensor:
        middle = lower[..., self.margin : lower.shape[-1] - self.margin]
        return self.last(self.layers(self.reduce(middle)).flatten(1))


class OpeningProbe(nn.Module):
    """Reads the mouth's measures (B M, the first is the opening) from a lower half (B C G/2 G)."""

    def __init__(self, config: SyncExpertConfig) -> None:
        super().__init__()
        self.encoder = LowerEncoder(config)
        self.head = nn.Linear(2 * config.width, config.measures)

    def forward(self, lower: Tensor) -> Tensor:
        return self.head(F.silu(self.encoder(lower)))


class SyncExpert(nn.Module, HubNetwork):
    """Unit embeddings of mouths and of speech, whose cosine says how well they fit in time."""

    hub_name = "swaptalk/sync_expert"
    hub_config = SyncExpertConfig

    def __init__(self, config: SyncExpertConfig = COMPACT) -> None:
        super().__init__()
        self.config = config
        self.lower = LowerEncoder(config)
        self.over_time = nn.Sequential(
            nn.Linear(2 * config.width * config.frames, 2 * config.embedding),
            nn.SiLU(),
            nn.Linear(2 * config.embedding, config.embedding),
        )
        self.speech = SpeechEncoder(config.encoder)
        self.over_tokens = nn.Sequential(
            nn.Linear(config.encoder_width * config.encoder.tokens, 2 * config.embedding),
            nn.SiLU(),
            nn.Linear(2 * config.embedding, config.embedding),
        )
        self.probe = OpeningProbe(config)
        self.temperature = nn.Parameter(torch.tensor(math.log(10.0)))  # logarithm of the cosine's scale while training

    def see(self, lower: Tensor) -> Tensor:
        """Lower halves (B F C G/2 G) to unit embeddings (B E); the frames stay in order: closing is not opening."""
        batch, frames = lower.shape[:2]
        each = self.lower(lower.flatten(0, 1)).view(batch, frames, -1)  # B F W
        return F.normalize(self.over_time(F.silu(each).flatten(1)).float(), dim=1)

    def hear(self, speech: Tensor) -> Tensor:
        """Speech windows (B L D) to unit embeddings (B E)."""
        return F.normalize(self.over_tokens(self.speech.tokens(speech).flatten(1)).float(), dim=1)

    def forward(self, lower: Tensor, speech: Tensor) -> Tensor:
        """Cosine (B) of lower halves (B F C G/2 G) and speech windows (B L D)."""
        return (self.see(lower) * self.hear(speech)).sum(1)


def sync_loss(cosine: Tensor, floor: float = 0.1) -> Tensor:
    """Mean of -log(cosine) (eq. 15), continued below ``floor`` by its tangent: finite, with a slope, down to -1."""
    safe = cosine.clamp(min=floor)
    return torch.where(cosine > floor, -safe.log(), -math.log(floor) + (floor - cosine) / floor).mean()


def contrastive_loss(mouths: Tensor, speech: Tensor, groups: Tensor, scale: Tensor, apart: Tensor) -> Tensor:
    """Each mouth must find its own speech among all others, and each speech its mouth (InfoNCE).

    Args:
        mouths, speech: N E, unit; row i of both belong together.
        groups: N, the clip a row comes from: shifts within a clip and other clips are negatives alike.
        scale: of the cosines.
        apart: N, seconds; rows of one clip nearer than 80 ms are no negatives of each other.
    """
    logits = mouths @ speech.t() * scale
    near = (groups[:, None] == groups[None]) & ((apart[:, None] - apart[None]).abs() < 0.08)
    near.fill_diagonal_(False)
    logits = logits.masked_fill(near, float("-inf"))
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.t(), own)) / 2
