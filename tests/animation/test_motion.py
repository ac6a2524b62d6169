from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
import torch

from talkswap.animation import motion
from talkswap.animation.motion import MeshMotion, chunk_starts, fade_in, mel_tokens, mesh_motion
from talkswap.animation.sync_former import MelEncoderConfig, SyncFormer, SyncFormerConfig

SMALL = SyncFormerConfig(
    mel=MelEncoderConfig(width=16, dilations=(1, 2), dropout=0.0), points=20, width=16, feedforward=24, dropout=0.0,
    chunk=30, overlap=6, period=10, references=12, components=5, style_scale=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def former() -> SyncFormer:
    torch.manual_seed(0)
    made = SyncFormer(SMALL).eval()
    torch.nn.init.normal_(made.output.weight, std=0.3)
    axes = torch.linalg.qr(torch.randn(60, 5)).Q.T
    made.basis.copy_(axes)
    made.analysis.copy_(axes)
    return made


def voice(seconds: float, seed: int = 0) -> np.ndarray:
    """Log-mel that changes slowly, as speech does."""
    random = np.random.default_rng(seed)
    knots = random.uniform(-1, 0.5, (int(seconds * 8) + 2, 80))
    rows = np.linspace(0, len(knots) - 1, int(seconds * 80) + 1)
    return np.stack([np.interp(rows, np.arange(len(knots)), k) for k in knots.T], 1).astype(np.float32)


def style(seed: int = 1, frames: int = 12) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((frames, 20, 3)) * 0.1).astype(np.float32)


@pytest.mark.parametrize("seconds", [0.0, 0.03, 0.9, 1.2, 5.0])
def test_motion_is_as_long_as_the_voice(former: SyncFormer, seconds: float) -> None:
    spoken = mesh_motion(former, voice(seconds), style())
    assert len(spoken) == int(seconds * 25 + 1e-9) + 1
    assert np.isfinite(spoken.at([0, seconds])).all()


def test_chunks_cover_a_voice_and_share_their_overlap() -> None:
    for frames in (1, 29, 30, 31, 54, 55, 300):
        starts = chunk_starts(frames, 30, 6)
        assert starts[0] == 0
        assert set(np.diff(starts)) <= {24}
        assert starts[-1] + 30 >= frames
        assert len(starts) == 1 or starts[-1] + 6 < frames, "no chunk has only frames of the one before"
    weights = fade_in(6)
    assert (np.diff(weights) > 0).all()
    assert weights + weights[::-1] == pytest.approx(np.ones(6))


def test_seams_are_no_jumps(former: SyncFormer) -> None:
    spoken = mesh_motion(former, voice(20.0), style())
    change = np.linalg.norm(np.diff(spoken.at(np.arange(len(spoken)) / 25), axis=0), axis=(1, 2))
    seams = np.zeros(len(change), bool)
    for start in chunk_starts(len(spoken), 30, 6)[1:]:
        seams[start - 1 : start + 6] = True
    assert np.median(change[seams]) < np.quantile(change[~seams], 0.95)


def test_any_frame_rate_gives_the_same_motion(former: SyncFormer) -> None:
    spoken = mesh_motion(former, voice(2.0), style())
    own = spoken.at([Fraction(k, 25) for k in range(51)])
    twice = spoken.at([Fraction(k, 50) for k in range(101)])
    assert twice[::2] == pytest.approx(own, abs=1e-6)
    assert twice[1::2] == pytest.approx((own[1:] + own[:-1]) / 2, abs=1e-5)
    film = spoken.at([Fraction(k * 1001, 24000) for k in range(40)])
    assert np.abs(film - spoken.at([k * 1.001 / 24 for k in range(40)])).max() < 1e-5


def test_beyond_the_voice_the_ends_are_held(former: SyncFormer) -> None:
    spoken = mesh_motion(former, voice(1.0), style())
    held = spoken.at([-3.0, 0.0, 1.0, 9.0])
    assert np.array_equal(held[0], held[1])
    assert np.array_equal(held[2], held[3])


def test_tokens_of_a_long_voice_are_those_of_its_parts(former: SyncFormer, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = mel_tokens(former, voice(4.0))
    monkeypatch.setattr(motion, "BLOCK_SECONDS", 0.7)
    assert torch.allclose(mel_tokens(former, voice(4.0)), whole, atol=1e-5)


def test_batches_of_chunks_do_not_change_the_motion(former: SyncFormer, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = mesh_motion(former, voice(12.0), style()).states
    monkeypatch.setattr(motion, "CHUNKS_AT_ONCE", 2)
    assert mesh_motion(former, voice(12.0), style()).states == pytest.approx(whole, abs=1e-5)


def test_every_chunk_of_silence_is_alike(former: SyncFormer) -> None:
    frames = mesh_motion(former, np.full((401, 80), -1.0, np.float32), style()).at(np.arange(126) / 25)
    assert frames[30:48] == pytest.approx(frames[54:72], abs=1e-5), "a chunk is 24 frames after the one before"
    assert np.isfinite(frames).all()


def test_a_short_reference_will_do_and_a_long_one_is_cut(former: SyncFormer) -> None:
    long = style(frames=40)
    whole, cut = mesh_motion(former, voice(1.0), long), mesh_motion(former, voice(1.0), long[:12])
    assert np.array_equal(whole.states, cut.states)
    few = mesh_motion(former, voice(1.0), long[:5])
    assert np.abs(few.states - whole.states).max() > 0
    constant = SyncFormer(dataclasses.replace(SMALL, style="constant")).eval()
    assert len(mesh_motion(constant, voice(1.0), None)) == 26


def test_states_take_little_memory(former: SyncFormer) -> None:
    spoken = mesh_motion(former, voice(2.0), style())
    assert isinstance(spoken, MeshMotion)
    assert spoken.states.shape == (51, 16)
    assert spoken.states.dtype == np.float32
