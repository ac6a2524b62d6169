"""The mesh motion of a whole voice for one person, made once and asked for at any time; the network comes from a preset.

The voice is cut into chunks of 100 mesh frames of which neighbours share 20 (ReSyncer 4).  Each chunk is spoken from the
template on, independently of the others, so chunks run side by side; where two overlap the later one fades in.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from talkswap.animation.space import LOWER_INNER, UPPER_INNER
from talkswap.animation.sync_former import NAME, SyncFormer, SyncFormerConfig
from talkswap.checkpoints.networks import read_network
from talkswap.checkpoints.preset_folder import PresetFolder, network_folder
from talkswap.device import Device
from talkswap.errors import WeightsMissingError
from talkswap.types import FloatArray

CHUNKS_AT_ONCE = 16
HZ = 16000  # of samples
BLOCK_SECONDS = 30  # of a voice that go through the voice encoder together


def load_sync_former(
    preset: PresetFolder, device: Device, log: Callable[[str], None] | None = None
) -> SyncFormer | None:
    """The network that moves a face's mesh with a voice, in float32, frozen and in evaluation mode.

    Args:
        preset: whose; every file is verified before it is read.
        device: where it goes.
        log: hears of a preset that has none.

    Returns:
        None where the preset has no such network: the paper preset doesn't, and a preset folder needn't.

    Raises:
        WeightsCorruptError: a file is damaged.
    """
    try:
        folder = network_folder(preset, NAME)
    except WeightsMissingError:
        # Optional by its description (presets=()), so that folders packed before it was there still render.
        if log is not None:
            log(f"the {preset.name} preset has no sync_former network: nothing moves the mesh with the voice")
        return None
    # In float32 on every device: states feed back for a hundred frames, and rounding would add up.
    return read_network(SyncFormer, SyncFormerConfig, folder, NAME, "sync-former").to(device.name)


class MeshMotion:
    """Displacements at any time of a voice.

    Args:
        states: N width, one per mesh frame, the first at time 0.
        weight, bias: 3P width and 3P, what turns a state into displacements in eye distances.
        rate: mesh frames per second.
    """

    def __init__(self, states: FloatArray, weight: FloatArray, bias: FloatArray, rate: int) -> None:
        self.states, self.rate = states, rate
        self._weight, self._bias = weight, bias

    def __len__(self) -> int:
        return len(self.states)

    def at(self, times: Sequence[Fraction | float]) -> FloatArray:
        """Displacements (T 478 3) at times in seconds on the voice's clock; the ends are held beyond it."""
        place = np.array([float(time) * self.rate for time in times]).clip(0, len(self) - 1)
        low = np.floor(place).astype(np.int64)
        high = np.minimum(low + 1, len(self) - 1)
        part = (place - low)[:, None].astype(np.float32)
        states = self.states[low] * (1 - part) + self.states[high] * part
        return np.asarray(states @ self._weight.T + self._bias, np.float32).reshape(len(states), -1, 3)


@torch.no_grad()
def mel_tokens(network: SyncFormer, mel: FloatArray, silence: float = -1.0) -> Tensor:
    """Tokens (1 N C) of a whole voice (M bins), the first at time 0, beyond the ends silence.

    Equal whatever the blocks: the convolutions see ``half`` features on each side and no more.
    """
    sizes = network.config.mel
    count = max(0, len(mel) - 1) // sizes.stride + 1
    device = network.opening_axis.device
    block = int(BLOCK_SECONDS * sizes.rate / sizes.stride)  # tokens
    tokens = torch.empty(1, count, network.audio.width, device=device)
    for first in range(0, count, block):
        last = min(first + block, count)
        begin, end = first * sizes.stride - sizes.half, (last - 1) * sizes.stride + sizes.half + 1  # of the features
        rows = np.full((end - begin, sizes.bins), silence, np.float32)
        inside = slice(max(begin, 0), min(end, len(mel)))
        rows[inside.start - begin : inside.stop - begin] = mel[inside]
        tokens[:, first:last] = network.audio(torch.from_numpy(rows).to(device)[None])
    return tokens


def sample_tokens(network: SyncFormer, samples: FloatArray) -> Tensor:
    """Tokens (1 N C) of a whole voice at 16 kHz by wav2vec2, in overlapping windows."""
    from talkswap.voice.hubert import HubertFeatures

    audio: Any = network.audio
    trained = [parameter for parameter in audio.parameters() if parameter.requires_grad]
    features = HubertFeatures(audio.model, network.opening_axis.device)(samples)  # the two models have the same parts
    for parameter in trained:  # a score in the middle of training must not end it
        parameter.requires_grad_(True)
    return torch.from_numpy(features).to(network.opening_axis.device)[None]


def chunk_starts(frames: int, chunk: int, overlap: int) -> list[int]:
    """First frames of chunks that cover a voice."""
    return list(range(0, max(frames - overlap, 1), chunk - overlap))


def fade_in(overlap: int) -> FloatArray:
    """Weight of the later chunk on each shared frame: a raised cosine, never quite 0 or 1."""
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * (np.arange(overlap) + 1) / (overlap + 1)), np.float32)


def mesh_motion(network: SyncFormer, voice: FloatArray, reference: FloatArray | None) -> MeshMotion:
    """The motion of a voice in a person's style.

    Args:
        network: in evaluation mode.
        voice: M 80, log-mel features of the whole voice; its samples (N) at 16 kHz where the network hears wav2vec2.
        reference: S 478 3, displacements of the person's own speaking at ``config.rate``; up to ``config.references`` of
            them are read, fewer will do.  None for a network with a constant style.

    Returns:
        One state per 1/25 s from time 0 to the end of the voice.
    """
    config = network.config
    if config.audio == "mel":
        frames = max(1, int((len(voice) - 1) * Fraction(config.rate, config.mel.rate)) + 1)
        return speak_tokens(network, mel_tokens(network, voice), -network.audio.start, frames, reference)
    frames = int(len(voice) * Fraction(config.rate, HZ)) + 1
    return speak_tokens(network, sample_tokens(network, voice), 0.0, frames, reference)


@torch.no_grad()
def speak_tokens(
    network: SyncFormer, tokens: Tensor, first: float, frames: int, reference: FloatArray | None
) -> MeshMotion:
    """:func:`mesh_motion` of voice tokens (1 N C) whose features began at ``first`` seconds."""
    config, device = network.config, network.opening_axis.device
    chosen = None
    if reference is not None:
        chosen = network.encode(torch.from_numpy(np.array(reference[: config.references], np.float32)).to(device))[None]
    style = network.style(chosen)
    starts = chunk_starts(frames, config.chunk, config.overlap)
    length = min(config.chunk, frames)
    states = np.zeros((frames, config.width), np.float32)
    fade = fade_in(config.overlap)[:, None]
    for group in range(0, len(starts), CHUNKS_AT_ONCE):
        batch = starts[group : group + CHUNKS_AT_ONCE]
        # Only these chunks' speech at once: a long voice's would need more memory than all pictures on their way.
        begin, end = batch[0], min(batch[-1] + length, frames)
        speech = network.align(tokens, end - begin, begin / config.rate - first)[0]  # T K C
        # The last chunk may end behind the voice; it hears the last frame's speech there, and is cut.
        rows = (torch.tensor(batch)[:, None] - begin + torch.arange(length)).clamp(max=end - begin - 1)
        spoken = network.speak(speech[rows.to(device)], style.expand(len(batch))).float().cpu().numpy()
        for start, chunk in zip(batch, spoken, strict=True):
            end = min(start + length, frames)
            shared = min(config.overlap, end - start) if start else 0
            old = states[start : start + shared]
            states[start : start + shared] = old + fade[:shared] * (chunk[:shared] - old)
            states[start + shared : end] = chunk[shared : end - start]
    weight, bias = network.scaled_head(style)  # 1 D width, 1 D
    weight, bias = network.decode(weight[0].T).flatten(1).T, network.decode(bias[0]).flatten()  # 3P width, 3P
    return MeshMotion(states, weight.float().cpu().numpy(), bias.float().cpu().numpy(), config.rate)


SYLLABLES = 4  # per second, of a style that nobody has shown


def usual_style(network: SyncFormer) -> FloatArray:
    """Displacements (S 478 3) of somebody who opens the mouth as far as training speakers usually did, for a person
    who was never seen to speak."""
    config = network.config
    axis = network.opening_axis.detach().float().cpu().numpy()  # 478 3
    gap = axis[list(LOWER_INNER)[3:6], 1].mean() - axis[list(UPPER_INNER)[3:6], 1].mean()
    deviation = float(network.usual[0].exp()) * config.unit / gap  # of the lips' distance, as it's measured for a style
    phase = 2 * np.pi * SYLLABLES * np.arange(config.references) / config.rate
    opening = deviation * np.sqrt(2) * (1 + np.sin(phase))  # never below 0
    return np.asarray(opening[:, None, None] * axis, np.float32)
