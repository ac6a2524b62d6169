from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from talkswap.errors import TrainingDataError
from talkswap.train.loop import Trainer
from talkswap.train.shared.speech_encoder import (
    SpeechEncoderStage,
    SpeechEncoderStageConfig,
    augment_mel,
    read_lags,
    room_noise,
    warp_bands,
)
from talkswap.train.shared.speech_labels import ClipLabels, SpeechLabels, load_encoder
from talkswap.train.stage import LoopConfig
from talkswap.voice.speech_encoder import SpeechEncoderConfig
from tests.train.learning import fixed_figure

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
    assert 0.3 < scores["spread"] < 2, "on other clips than those the gain was measured on"
    assert scores["opening-in-silence"] >= 0
    assert isinstance(json.loads((tmp_path / "export" / "lags.json").read_text()), dict)
    agreement = json.loads((tmp_path / "export" / "agreement.json").read_text())
    assert sorted(agreement) == sorted(c.name for c in trained.calibration + trained.clips)
    again = stage(talking_folder, start=tmp_path / "export" / "speech_encoder.safetensors")
    assert float(again.encoder.gain[0]) > 0
    assert not torch.equal(again.encoder.offset, torch.zeros(7))
    again.network.eval()
    with torch.no_grad():  # with the gain, mouths of the clips it was measured on move as far as true ones
        moved = [again.predicted(c, c.own_times[c.seen]).std(0) for c in again.calibration]
    true = [c.own_shape[c.seen].std(0) for c in again.calibration]
    ratios = np.median([t[0] / m[0] for t, m in zip(true, moved, strict=True)])
    assert float(again.encoder.gain[0]) == pytest.approx(ratios, rel=0.01)
    # silence asks for a mouth more closed than the middle of a voice does
    clip = again.held_out[0]
    with torch.no_grad():
        silence = again.encoder(torch.full((1, SMALL.window, 80), -1.0))[1][0, 0]
    assert silence < clip.own_shape[:, 0].mean()


def test_a_late_picture_is_measured_as_lag(talking_folder: Any, tmp_path: Path) -> None:
    trained = stage(talking_folder)
    Trainer(trained, LOOP, tmp_path).train(echo=lambda line: None)
    trained.network.load_state_dict(Trainer(trained, LOOP, tmp_path).optimiser.average.module.state_dict())
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


def test_a_faster_piece_holds_the_same_sound_sooner() -> None:
    mel = np.repeat(np.linspace(-1, 1, 200, dtype=np.float32)[:, None], 80, 1)
    speech = SpeechLabels("ramp", mel, SMALL, 60)
    speech.name_sounds(np.repeat(np.arange(10), 20).astype(np.int8))
    speech.shape = torch.arange(100.0)[:, None].expand(-1, 7).clone()
    speech.weight = torch.ones(100)
    half = (SMALL.field - 1) // 2
    for speed in (1.0, 1.25):
        heard, shape, weight, sound, _ = speech.piece(40, 40, speed)
        place = 40 + speed * torch.arange(40)  # tokens
        inside = place <= 99
        assert torch.allclose(shape[inside, 0], place[inside])
        assert torch.equal(weight, inside.float())
        # the mel at each token is the one of the place that its labels come from
        at_tokens = heard[half : half + 39 * SMALL.stride + 1 : SMALL.stride, 0]
        assert torch.allclose(at_tokens[inside], -1 + 2 * place[inside] * SMALL.stride / 199, atol=1e-4)
        assert torch.equal(sound[inside], (place[inside].round().long() * 2 // 20))
        assert (sound[~inside] == -1).all()


def test_bands_are_stretched_by_no_more_than_asked() -> None:
    torch.manual_seed(0)
    mel = torch.linspace(-1, 1, 80).expand(16, 5, 80).contiguous()
    made = warp_bands(mel, 0.1)
    assert (made - mel).abs().max() > 0.05
    assert (made - mel).abs().max() < 0.1 * 2 + 2 * 2 / 79


def test_quiet_speakers_are_brought_nearer_to_the_spread_of_all(talking_folder: Any) -> None:
    plain, alike = stage(talking_folder), stage(talking_folder, alike=1.0)

    def spreads(clips: list[ClipLabels]) -> float:
        found = [float(c.shape[c.weight > 0, 0].std()) for c in clips]
        return max(found) / min(found)

    assert spreads(alike.clips) < spreads(plain.clips)
    assert torch.equal(alike.calibration[0].shape, plain.calibration[0].shape)  # the gain is measured on true shapes


def test_clips_that_agree_are_drawn_more_often(talking_folder: Any, tmp_path: Path) -> None:
    names = [c.name for c in stage(talking_folder).clips]
    path = tmp_path / "agreement.json"
    path.write_text(json.dumps({name: 0.5 if name == names[0] else 0.1 for name in names}))
    share = stage(talking_folder, agreement=path).share
    assert share[0] > 3 * share[1]


def test_sounds_and_a_teacher_are_learnt_from_speech_without_a_picture(talking_folder: Any, tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="no labelled speech"):
        stage(talking_folder, phonetics=tmp_path)
    teacher = stage(talking_folder)
    Trainer(teacher, LOOP, tmp_path / "teacher").train(echo=lambda line: None)
    random = np.random.default_rng(0)
    sound = np.repeat(random.integers(0, 17, 100), 8).astype(np.int8)
    mel = (sound[:, None] / 17 - 0.5 + random.normal(0, 0.05, (800, 80))).astype(np.float16)
    folder = tmp_path / "phonetics"
    folder.mkdir()
    np.savez(folder / "made-000.npz", mel=mel, sound=sound)
    np.savez(folder / f"heard-{teacher.clips[0].name}.npz", sound=np.full(193, 4, np.int8))
    pupil = stage(talking_folder, phonetics=folder, teachers=(tmp_path / "teacher" / "export",))
    assert len(pupil.other) == 1
    assert (pupil.clips[0].sound == 4).all()
    assert float(pupil.other[0].teaching.std()) > 0
    untrained = {name: fixed_figure(pupil, name) for name in ("naming", "taught")}
    scores = Trainer(pupil, LOOP, tmp_path / "pupil").train(echo=lambda line: None)
    assert fixed_figure(pupil, "naming") < 0.95 * untrained["naming"]
    assert fixed_figure(pupil, "taught") < untrained["taught"] - 0.1  # it holds a correlation: it may be negative
    assert scores["pearson-opening"] > 0.6
    # the head that names sounds stays behind
    assert load_encoder(tmp_path / "pupil" / "export").config == SMALL
    with pytest.raises(TrainingDataError, match="no speech_encoder"):
        load_encoder(tmp_path)


def test_room_noise_is_grainy_and_stays_below_speech() -> None:
    random = np.random.default_rng(0)
    even = room_noise(50, 80, random, noisy=False)
    noises = torch.stack([room_noise(50, 80, random, noisy=True) for _ in range(20)])
    assert even.max() == even.min() <= -0.5
    assert noises.shape == (20, 50, 80)
    assert noises.min() >= -1 and noises.mean((1, 2)).max() < -0.3
    assert noises.diff(dim=1).abs().mean() > 0.01
