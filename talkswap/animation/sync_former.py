"""Style-SyncFormer (ReSyncer 3.1 and A.1): a voice and a speaking style to displacements of a face's mesh.

One Transformer encoder block reads displacements of a reference into a style vector, which is added to the mesh tokens.  One
decoder block, taken from FaceFormer, predicts each frame's displacement from those before it (causal attention, biased by
whole periods, periodic positions) and from the speech of that very frame (cross-attention, aligned frame by frame).

Inside, a displacement is a *code*: its coordinates in units of ``unit``, or, with ``components``, its coefficients in a
linear basis that the training measures.  Speech moves a face in few directions; the basis keeps out what it does not move.

The paper's voice is wav2vec2-base-960h, whole, only its temporal convolutions fixed.  Compact hears log-mel features through
the convolutions of the compact speech encoder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talkswap.animation.space import LOWER_INNER, MOUTH_CORNERS, UPPER_INNER
from talkswap.checkpoints.hub import HubNetwork
from talkswap.checkpoints.preset_folder import PresetFolder, verify
from talkswap.voice.speech_encoder import ChannelNorm, DilatedBlock
from talkswap.voice.wav2vec2 import FOLDER, Wav2Vec2Encoder, Wav2Vec2Sizes, fill_wav2vec2

NAME = "animation/sync_former"  # of its files, in a preset's folder


@dataclass(frozen=True)
class MelEncoderConfig:
    """Sizes of the compact voice encoder; field and stride as in the compact speech encoder."""

    bins: int = 80
    rate: int = 80  # feature frames per second
    width: int = 160
    stride: int = 2  # feature frames per token
    dilations: tuple[int, ...] = (1, 2, 4, 2)
    dropout: float = 0.2

    @property
    def half(self) -> int:
        """Feature frames that a token sees on each side of its own."""
        return 2 + self.stride * sum(self.dilations)


@dataclass(frozen=True)
class SyncFormerConfig:
    """Sizes and settings; the defaults are the compact preset's, and all but the voice encoder the paper's."""

    audio: str = "mel"  # mel | wav2vec2
    mel: MelEncoderConfig = field(default_factory=MelEncoderConfig)
    wav2vec2: Wav2Vec2Sizes = field(default_factory=Wav2Vec2Sizes)
    points: int = 478
    width: int = 128  # of a token
    heads: int = 4
    feedforward: int = 256
    dropout: float = 0.1
    rate: int = 25  # mesh frames per second
    period: int = 25  # frames: of the positions, and of the steps in the attention's bias
    chunk: int = 100  # tokens
    overlap: int = 20  # tokens that neighbouring chunks share
    audio_tokens: int = 2  # per frame
    style: str = "encoder"  # encoder | constant: one vector for everybody, as FaceFormer in the paper's Table 8
    references: int = 90  # T_S, frames of the style reference: 50 | 90 | 200 in the ablation
    unit: float = 0.05  # eye distances: what displacements are divided by inside the network
    components: int = 64  # of a linear basis in which meshes enter and leave; 0: the points themselves, as in the paper
    style_gain: bool = True  # the style also scales and shifts the output; False: it is only added to the tokens
    style_scale: bool = (
        True  # the network works on faces that move equally far, and the reference says how far this one does
    )

    @property
    def code(self) -> int:
        """Numbers in a code."""
        return self.components or 3 * self.points


COMPACT = SyncFormerConfig()
PAPER = SyncFormerConfig(audio="wav2vec2", components=0, style_gain=False, style_scale=False)


class MelEncoder(nn.Module):
    """Log-mel (B L bins) to tokens (B N width): the compact speech encoder's convolutions, unpadded."""

    def __init__(self, config: MelEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.first = nn.Conv1d(config.bins, config.width, 5, stride=config.stride)
        self.blocks = nn.Sequential(*[DilatedBlock(config.width, d, config.dropout) for d in config.dilations])
        self.norm = ChannelNorm(config.width)
        self.width = config.width
        self.rate = config.rate / config.stride  # tokens per second
        self.start = config.half / config.rate  # s from the first feature to the first token

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(self.blocks(F.gelu(self.first(features.transpose(1, 2))))).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head attention, its projections apart so that keys and values can be kept from step to step."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)  # ... H L D

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """Split heads (... H L D) to joined output (... L width); the bias is added to the logits."""
        share = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(query, key, value, bias, share)
        return self.out(x.transpose(-3, -2).flatten(-2))

    def forward(self, x: Tensor, source: Tensor, bias: Tensor | None = None) -> Tensor:
        keys, values = self.split(self.key(source)), self.split(self.value(source))
        return self.attend(self.split(self.query(x)), keys, values, bias)


def feed_forward(width: int, hidden: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width))


def periodic_positions(length: int, width: int, period: int) -> Tensor:
    """Sine and cosine positions (length width) that repeat every ``period`` tokens (FaceFormer, eq. 3)."""
    time = (torch.arange(length) % period).float()[:, None]
    frequency = torch.exp(torch.arange(0, width, 2).float() * (-math.log(10000.0) / width))
    return torch.stack([torch.sin(time * frequency), torch.cos(time * frequency)], 2).flatten(1)


def period_bias(length: int, heads: int, period: int) -> Tensor:
    """Causal bias (heads length length): head h adds -2^(-8 h / heads) per whole period that a key lies back.

    FaceFormer's eq. 4: no look ahead, and the nearest period counts most.
    """
    slopes = 2.0 ** (-8.0 * torch.arange(1, heads + 1) / heads)
    back = torch.arange(length)[:, None] - torch.arange(length)[None]
    bias = -slopes[:, None, None] * (back.clamp(min=0) // period)
    return bias.masked_fill(back < 0, float("-inf"))


class Style(NamedTuple):
    """A speaking style as the decoder takes it."""

    vector: Tensor  # B width
    scale: Tensor | None = None  # B D D: codes of a face that moves as far as faces usually do, to this face's
    unscale: Tensor | None = None  # B D D: the inverse

    def expand(self, batch: int) -> Style:
        """The same style ``batch`` times."""
        return Style(*(None if part is None else part.expand(batch, *part.shape[1:]) for part in self))  # type: ignore[arg-type]


class StyleEncoder(nn.Module):
    """Codes of a reference (B S D) to a style vector (B width): one Transformer encoder block.

    Mean and log deviation of its tokens over time are joined: how a person holds the mouth, and how far it moves.
    """

    def __init__(self, config: SyncFormerConfig) -> None:
        super().__init__()
        width = config.width
        self.embedding = nn.Linear(config.code, width)
        # no dropout: its noise would add to the deviation, which then would be another one outside training
        self.attention = Attention(width, config.heads, 0.0)
        self.feed = feed_forward(width, config.feedforward, 0.0)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.pooled = nn.Linear(2 * width, width)

    def forward(self, reference: Tensor, present: Tensor) -> Tensor:
        """``present`` (B S) is 1 where the reference has a frame."""
        bias = torch.where(present[:, None, None] > 0, 0.0, -1e4)  # B 1 1 S
        x = self.embedding(reference)
        x = x + self.attention(self.norms[0](x), self.norms[0](x), bias)
        x = x + self.feed(self.norms[1](x))
        share = (present / present.sum(1, keepdim=True).clamp(min=1))[..., None]
        mean = (x * share).sum(1)
        # the logarithm, since the gain of the output is an exponential: a face that moves twice as far has one step more
        deviation = ((x - mean[:, None]).square() * share).sum(1).add(1e-4).log() / 2
        return self.pooled(torch.cat([mean, deviation], 1))


class DecoderBlock(nn.Module):
    """Causal self-attention, cross-attention to each frame's own speech, feed-forward; normed after each."""

    def __init__(self, config: SyncFormerConfig) -> None:
        super().__init__()
        width = config.width
        self.tokens = config.audio_tokens
        self.past = Attention(width, config.heads, config.dropout)
        self.speech = Attention(width, config.heads, config.dropout)
        self.feed = feed_forward(width, config.feedforward, config.dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(config.dropout)

    def finish(self, x: Tensor, attended: Tensor, speech: Tensor) -> Tensor:
        """Everything behind the self-attention: x and its attention ``attended`` (B T C), speech (B T K C)."""
        x = self.norms[0](x + self.dropout(attended))
        x = self.norms[1](x + self.dropout(self.speech(x[:, :, None], speech)[:, :, 0]))
        return self.norms[2](x + self.dropout(self.feed(x)))

    def forward(self, x: Tensor, speech: Tensor, bias: Tensor) -> Tensor:
        return self.finish(x, self.past(x, x, bias), speech)


class SyncFormer(nn.Module, HubNetwork):
    """Voice features, earlier displacements and a style reference to displacements, in eye distances.

    Attributes:
        opening_axis: 478 3, displacement per unit of lip opening; makes templates
            (:func:`talkswap.animation.space.template_of`).
        usual: 2, mean log deviation of lip opening and mouth width of references, in codes' units; with ``style_scale``.
        basis, analysis: K 3P each, where there are components: a code's displacement, and a displacement's code.
    """

    hub_name = NAME
    hub_config = SyncFormerConfig

    opening_axis: Tensor
    basis: Tensor
    analysis: Tensor
    usual: Tensor
    positions: Tensor
    bias: Tensor

    def __init__(self, config: SyncFormerConfig) -> None:
        super().__init__()
        self.config = config
        if config.audio not in ("mel", "wav2vec2"):
            raise ValueError(f"no voice encoder is called {config.audio}")
        self.audio = MelEncoder(config.mel) if config.audio == "mel" else Wav2Vec2Encoder(config.wav2vec2)
        self.audio_embedding = nn.Linear(self.audio.width, config.width)
        self.mesh_embedding = nn.Linear(config.code, config.width)
        self.style_encoder = StyleEncoder(config) if config.style == "encoder" else None
        self.constant_style = nn.Parameter(torch.zeros(config.width)) if config.style == "constant" else None
        self.decoder = DecoderBlock(config)
        self.output = nn.Linear(config.width, config.code)
        self.style_output = nn.Linear(config.width, 2 * config.code) if config.style_gain else None
        for layer in (self.output, self.style_output):
            if layer is not None:  # training starts from the template
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
        self.register_buffer("basis", torch.zeros(config.components, 3 * config.points))
        self.register_buffer("analysis", torch.zeros(config.components, 3 * config.points))
        self.register_buffer("usual", torch.zeros(2))
        self.register_buffer("opening_axis", torch.zeros(config.points, 3))
        self.register_buffer(
            "positions", periodic_positions(config.chunk, config.width, config.period), persistent=False
        )
        self.register_buffer("bias", period_bias(config.chunk, config.heads, config.period), persistent=False)

    def speech(self, features: Tensor, frames: int, lead: float) -> Tensor:
        """Speech of each frame.

        Args:
            features: B L bins of log-mel, or B N samples.
            frames: T, one every ``1 / config.rate`` seconds.
            lead: seconds from the features' first time to frame 0.

        Returns:
            B T K width, K tokens around each frame's time.
        """
        return self.align(self.audio(features), frames, lead)

    def align(self, tokens: Tensor, frames: int, lead: float) -> Tensor:
        """Embeddings (B T K width) of voice tokens (B N C), interpolated at each frame's own times."""
        per_frame = self.config.audio_tokens
        part = (torch.arange(per_frame, device=tokens.device) + 0.5) / per_frame - 0.5
        times = (torch.arange(frames, device=tokens.device)[:, None] + part) / self.config.rate + lead  # T K s
        place = ((times - self.audio.start) * self.audio.rate).clamp(0, tokens.shape[1] - 1)
        low = place.floor().long().clamp(max=max(tokens.shape[1] - 2, 0))
        high = (low + 1).clamp(max=tokens.shape[1] - 1)
        share = (place - low)[..., None]
        return self.audio_embedding(tokens[:, low] * (1 - share) + tokens[:, high] * share)

    def encode(self, displacements: Tensor) -> Tensor:
        """Codes (... D) of displacements (... P 3)."""
        flat = displacements.flatten(-2) / self.config.unit
        return flat @ self.analysis.T if self.config.components else flat

    def decode(self, codes: Tensor) -> Tensor:
        """Displacements (... P 3) of codes (... D)."""
        flat = codes @ self.basis if self.config.components else codes
        return (flat * self.config.unit).unflatten(-1, (-1, 3))

    def style(self, reference: Tensor | None, present: Tensor | None = None) -> Style:
        """The style of a reference's codes (B S D); ``present`` (B S) marks the frames that there are."""
        if self.constant_style is not None:
            return Style(self.constant_style.expand(1 if reference is None else len(reference), -1))
        assert self.style_encoder is not None and reference is not None
        if present is None:
            present = torch.ones(reference.shape[:2], device=reference.device)
        if not self.config.style_scale:
            return Style(self.style_encoder(reference, present))
        with torch.autocast(reference.device.type, enabled=False):
            reference = reference.float()
            opening, width = (self.deviations(reference, present) - self.usual).clamp(-1.5, 1.5).unbind(1)
            sideways = (width - opening).exp()[:, None, None] - 1
            eye = torch.eye(self.config.code, device=reference.device)
            scale = opening.exp()[:, None, None] * (eye + sideways * self.sideways())
            unscale = torch.linalg.inv(scale)
            reference = reference @ unscale
        return Style(self.style_encoder(reference, present), scale, unscale)

    def sideways(self) -> Tensor:
        """What keeps of codes the motion from side to side (D D)."""
        across = self.basis.unflatten(1, (-1, 3)) * torch.tensor([1.0, 0.0, 0.0], device=self.basis.device)
        return across.flatten(1) @ self.analysis.T

    def deviations(self, codes: Tensor, present: Tensor) -> Tensor:
        """Log deviation (B 2) of lip opening and mouth width over the present frames of codes (B S D)."""
        mesh = self.basis.unflatten(1, (-1, 3))  # K P 3
        lower, upper = (mesh[:, list(ring)[3:6], 1].mean(1) for ring in (LOWER_INNER, UPPER_INNER))
        measures = torch.stack([lower - upper, mesh[:, MOUTH_CORNERS[1], 0] - mesh[:, MOUTH_CORNERS[0], 0]], 1)  # K 2
        values = codes @ measures
        share = (present / present.sum(1, keepdim=True).clamp(min=1))[..., None]
        less = values - (values * share).sum(1, keepdim=True)
        return ((less * less * share).sum(1) + 1e-4).log() / 2

    def head(self, style: Style) -> tuple[Tensor, Tensor]:
        """Weight (B D width) and bias (B D) of the layer that turns states into codes, before ``style.scale``."""
        batch = len(style.vector)
        weight, bias = self.output.weight.expand(batch, -1, -1), self.output.bias.expand(batch, -1)
        if self.style_output is None:
            return weight, bias
        gain, shift = self.style_output(style.vector).chunk(2, 1)
        return weight * gain.exp()[..., None], bias * gain.exp() + shift

    def scaled_head(self, style: Style) -> tuple[Tensor, Tensor]:
        """:meth:`head` with ``style.scale``: what a state says in this face's own codes."""
        weight, bias = self.head(style)
        if style.scale is None:
            return weight, bias
        return style.scale.transpose(1, 2) @ weight, (bias[:, None] @ style.scale)[:, 0]

    def forward(self, speech: Tensor, before: Tensor, style: Style) -> Tensor:
        """Codes (B T D) of all frames at once, for training.

        Args:
            speech: B T K width of :meth:`speech`.
            before: B T D, the code one frame earlier; zero where a chunk begins.
            style: of :meth:`style`.
        """
        frames = before.shape[1]
        if style.unscale is not None:
            before = before @ style.unscale
        x = self.mesh_embedding(before) + style.vector[:, None] + self.positions[:frames]
        x = self.decoder(x, speech, self.bias[:, :frames, :frames])
        weight, bias = self.scaled_head(style)
        return x @ weight.transpose(1, 2) + bias[:, None]

    @torch.no_grad()
    def speak(self, speech: Tensor, style: Style) -> Tensor:
        """States (B T width) of up to ``config.chunk`` frames, each from the displacements predicted before it.

        :meth:`scaled_head` makes codes of states.  It is linear, so states can be blended and interpolated in place of meshes, in a
        tenth of the memory.
        """
        batch, frames = speech.shape[:2]
        past = self.decoder.past
        size = (batch, past.heads, frames, self.config.width // past.heads)
        keys, values = torch.zeros(size, device=speech.device), torch.zeros(size, device=speech.device)
        before = torch.zeros(batch, self.config.code, device=speech.device)
        weight, shift = self.head(style)
        states = []
        for t in range(frames):
            x = (self.mesh_embedding(before) + style.vector + self.positions[t])[:, None]  # B 1 C
            keys[:, :, t : t + 1], values[:, :, t : t + 1] = past.split(past.key(x)), past.split(past.value(x))
            bias = self.bias[:, t : t + 1, : t + 1]
            attended = past.attend(past.split(past.query(x)), keys[:, :, : t + 1], values[:, :, : t + 1], bias)
            states.append(self.decoder.finish(x, attended, speech[:, t : t + 1])[:, 0])
            before = (weight @ states[-1][..., None])[..., 0] + shift
        return torch.stack(states, 1)


def sync_former_with_wav2vec2(preset: PresetFolder, config: SyncFormerConfig = PAPER) -> SyncFormer:
    """A SyncFormer ready to train: the published wav2vec2 of a preset folder as its voice, the rest untrained.

    Raises:
        WeightsMissingError: no folder of the preset has ``wav2vec2/model.safetensors``.
        WeightsCorruptError: it differs from its manifest, or from the configured sizes.
    """
    folder = verify(preset, f"{FOLDER}/model.safetensors").parent
    former = SyncFormer(config)
    assert isinstance(former.audio, Wav2Vec2Encoder), "only the paper's voice encoder is published"
    fill_wav2vec2(former.audio, folder)
    return former
