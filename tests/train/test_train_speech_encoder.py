from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from talkswap.errors import TrainingDataError
from talkswap.systems.swaptalk.speech_encoder import SpeechEncoderConfig
from talkswap.train.loop import LoopConfig, Trainer
from talkswap.train.speech_encoder import SpeechEncoderStage, SpeechEncoderStageConfig, augment_mel, pearson, read_lags

SMALL = SpeechEncoderConfig(width=24, dilations=(1, 2), window=33, dropout=0.0)
LOOP = LoopConfig(
    steps=60, batch=8, learning_rate=5e-3, warmup=5, ema=0.9, precision="float32", threads=1, log_every=20
)


def stage(folder: Any, **changes: Any) -> SpeechEncoderStage:
    return SpeechEncoderStage(
        SpeechEncoderStageConfig(data=folder.data, network=SMALL, loop=LOOP, stretch=40, calibration=4, **changes)
    )


def test_a_short_run_hears_loudness_and_writes_lags_and_gain(talking_folder: Any, tmp_path: Path) -> None:
    trained = stage(talking_folder)
    scores = Trainer(trained, LOOP, tmp_path).train(echo=lambda line: None)
    assert scores["pearson-opening"] > 0.6
    assert scores["pearson-opening"] > scores["pearson-shifted"]
    assert isinstance(json.loads((tmp_path / "export" / "lags.json").read_text()), dict)
    again = stage(talking_folder, start=tmp_path / "export" / "speech_encoder.safetensors")
    assert float(again.network.gain[0]) > 0
    assert not torch.equal(again.network.offset, torch.zeros(7))
    # silence asks for a mouth more closed than the middle of a voice does
    again.network.eval()
    clip = again.held_out[0]
    with torch.no_grad():
        silence = again.network(torch.full((1, SMALL.window, 80), -1.0))[1][0, 0]
    assert silence < clip.own_shape[:, 0].mean()


def test_a_late_picture_is_measured_as_lag(talking_folder: Any, tmp_path: Path) -> None:
    trained = stage(talking_folder)
    Trainer(trained, LOOP, tmp_path).train(echo=lambda line: None)
    trained.network.load_state_dict(Trainer(trained, LOOP, tmp_path).average)
    trained.network.eval()
    clip = trained.clips[0]
    with torch.no_grad():
        before = trained.lag_of(clip)
        clip.own_times = clip.own_times + 0.1
        after = trained.lag_of(clip)
    assert after - before == pytest.approx(0.1, abs=0.051)


def test_a_batch_depends_on_the_step_alone(talking_folder: Any) -> None:
    first, second = stage(talking_folder).batch(3), stage(talking_folder).batch(3)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["mel"], stage(talking_folder).batch(4)["mel"])


def test_augmentation_keeps_range_and_changes_the_sound() -> None:
    torch.manual_seed(0)
    mel = torch.rand(4, 60, 80) * 2 - 1
    made = augment_mel(mel)
    assert made.shape == mel.shape
    assert made.abs().max() <= 1
    assert (made - mel).abs().mean() > 0.05


def test_missing_lags_are_named(tmp_path: Path) -> None:
    assert read_lags(None) == {}
    with pytest.raises(TrainingDataError, match="no lags"):
        read_lags(tmp_path / "lags.json")


def test_pearson_of_a_still_series_is_zero() -> None:
    series = np.arange(5, dtype=np.float32)
    assert pearson(series, series * 2 + 1) == pytest.approx(1)
    assert pearson(series, np.ones(5, np.float32)) == 0
