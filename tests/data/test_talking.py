"""Talking clips: their poses, squares and order, and what training hears of them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import HubertConfig as HubertModelConfig
from transformers import HubertModel

from talkswap.data.talking import head_pose, open_spoken, smoothed_quads
from talkswap.errors import InputMissingError, TrainingDataError
from talkswap.types import Voice
from talkswap.voice.features import MelFeatures, listen
from talkswap.voice.hubert import HubertFeatures
from tests.data.talking_clips import landmarks


def test_pose_does_not_see_the_mouth_but_sees_a_turn() -> None:
    points = landmarks(2)
    points[1, (13, 14, 61, 291), 1] += 20
    assert np.abs(head_pose(points)[0] - head_pose(points)[1]).max() < 1e-4
    points[1, 1, 0] += 5  # the nose moves to the side
    assert np.abs(head_pose(points)[0] - head_pose(points)[1]).max() > 0.1


def tiny_hubert() -> HubertFeatures:
    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = HubertModelConfig(**sizes, conv_dim=(8,) * 7, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2)
    return HubertFeatures(HubertModel(config).eval())


@pytest.mark.parametrize("kind", ["mel", "hubert"])
@pytest.mark.parametrize("length", [20, 49])
def test_training_and_render_hear_the_same(talking_clips: Path, kind: str, length: int) -> None:
    features = tiny_hubert() if kind == "hubert" else None
    for clip in open_spoken(talking_clips / "cache", "train", talking_clips / "videos", features):
        with np.load(talking_clips / "cache" / "clips-train" / f"{clip.name}.npz") as stored:
            voice = Voice(stored["voice"], 16000)
        rate = 50 if clip.name == "train-1" else 25
        times = [Fraction(frame, rate) for frame in range(len(clip.times))]
        render = listen(voice, features or MelFeatures(), length, gate=False).at(times)
        assert np.abs(clip.speech_windows(clip.times, length) - render).max() < 1e-5
        if kind == "mel":
            assert np.array_equal(clip.mel_windows(clip.times, length), clip.speech_windows(clip.times, length))


def test_smoothing_spares_gaps_and_keeps_a_steady_motion() -> None:
    points = landmarks(6)
    points[3] = np.nan
    centres, sides = smoothed_quads(points)
    assert np.isnan(centres[3]).all() and np.isnan(sides[3]).all()
    assert centres[1, 0] - centres[0, 0] == pytest.approx(1 - 1 / 3, abs=1e-3)  # at an end one neighbour is missing
    assert np.isfinite(centres[[0, 1, 2, 4, 5]]).all()


def test_clips_come_real_first_then_by_correlation(talking_clips: Path) -> None:
    clips = open_spoken(talking_clips / "cache", "train", talking_clips / "videos")
    assert [c.name for c in clips] == ["train-1", "train-0"]
    assert clips[0].kind == "real" and clips[0].correlation == pytest.approx(0.2)
    assert clips[1].seen.sum() == 11
    assert clips[0].mel.shape[1] == 80


def test_missing_clips_are_named(talking_clips: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="no prepared clips"):
        open_spoken(tmp_path, "train")
    with pytest.raises(InputMissingError, match=r"no clips\.csv"):
        open_spoken(talking_clips / "cache", "train", tmp_path)
