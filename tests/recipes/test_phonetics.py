from __future__ import annotations

import ctypes.util
import stat
import sys
from pathlib import Path

import numpy as np
import pytest

from recipes import phonetics
from recipes.phonetics import (
    Espeak,
    PhoneticsConfig,
    flite_say,
    in_a_room,
    ipa_sounds,
    labels_of,
    resample,
    sentence,
)
from talkswap.errors import TrainingDataError
from talkswap.train.shared.speech_labels import SOUNDS

FLITE = """#!{python}
import sys, wave
path = sys.argv[-1]
with wave.open(path, "wb") as file:
    file.setnchannels(1), file.setsampwidth(2), file.setframerate(8000)
    file.writeframes(b"\\0\\1" * 4000)
print("pau:0.100 m:0.200 ay:0.400 xx:0.450 pau:0.500 ")
"""


def test_sounds_say_what_the_lips_do() -> None:
    named = {symbol: [SOUNDS[i] for i in ipa_sounds(symbol)] for symbol in ("m", "p", "f", "uː", "aɪ", "tʃ", "ts", "?")}
    assert named["m"] == named["p"] == ["closed lips"]
    assert named["f"] == ["teeth on lip"]
    assert named["uː"] == ["round and narrow"]
    assert named["aɪ"] == ["open", "spread"]
    assert named["tʃ"] == ["pouted"]
    assert named["ts"] == ["narrow"]
    assert named["?"] == []


def test_labels_lie_where_the_sounds_are_and_gaps_are_unknown() -> None:
    labels = labels_of([(0.0, 0.1, (0,)), (0.1, 0.3, (12, 14)), (0.5, 0.9, (1,))], 60)  # 80 frames/s
    assert (labels[:8] == 0).all()
    assert (labels[8:16] == 12).all()
    assert (labels[16:24] == 14).all()
    assert (labels[24:40] == -1).all()
    assert (labels[40:] == 1).all()


def test_resampling_keeps_a_tone_and_its_level() -> None:
    tone = np.sin(2 * np.pi * 500 * np.arange(22050) / 22050).astype(np.float32)
    made = resample(tone, 22050, 16000)
    assert len(made) == 16000
    assert np.abs(made - np.sin(2 * np.pi * 500 * np.arange(16000) / 16000)).max() < 1e-3


def test_a_room_changes_sound_and_level_but_not_length() -> None:
    random = np.random.default_rng(0)
    voice = (random.standard_normal(8000) * np.linspace(0, 0.1, 8000)).astype(np.float32)
    rooms = [in_a_room(voice, random) for _ in range(6)]
    levels = [float(np.sqrt(np.mean(room**2))) for room in rooms]
    assert all(room.shape == voice.shape and room.dtype == np.float32 and np.abs(room).max() <= 1 for room in rooms)
    assert max(levels) > 1.3 * min(levels)


def test_sentences_are_invented_and_repeatable(tmp_path: Path) -> None:
    config = PhoneticsConfig(tmp_path)
    first, again, other = (sentence(config, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert first.endswith(".") and "-" not in first and len(first.split()) >= 4


def test_flite_tells_its_sounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "flite"
    program.write_text(FLITE.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    samples, spoken = flite_say("my", "slt", 1.0)
    assert len(samples) == 8000  # half a second, now at 16 kHz
    assert spoken == [(0.0, 0.1, (0,)), (0.1, 0.2, (1,)), (0.2, 0.4, (12, 14)), (0.45, 0.5, (0,))]
    program.write_text(f"#!{sys.executable}\nraise SystemExit('no such voice')\n")
    with pytest.raises(TrainingDataError, match="voice slt"):
        flite_say("my", "slt", 1.0)


def test_a_missing_synthesiser_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: "libthere-is-none.so")
    with pytest.raises(TrainingDataError, match="espeak-ng is not installed"):
        Espeak()


def test_recordings_are_heard_by_the_recogniser_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Recogniser:
        def hear(self, samples: np.ndarray) -> phonetics.Spoken:
            return [(0.0, len(samples) / 32000, (3,))]

    monkeypatch.setattr(phonetics, "Recogniser", Recogniser)
    (tmp_path / "clips-train").mkdir()
    np.savez(tmp_path / "clips-train" / "train-0001.npz", voice=np.zeros(16000, np.float32))
    config = PhoneticsConfig(tmp_path / "out", data=tmp_path)
    config.out.mkdir()
    assert phonetics.hear(config) == 1
    with np.load(config.out / "heard-train-0001.npz") as stored:
        assert sorted(stored) == ["sound"]
        assert (stored["sound"] == 3).sum() == 40
        assert len(stored["sound"]) == 81
