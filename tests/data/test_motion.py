from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from talkswap.data import motion
from talkswap.data.motion import MotionClip, gather, measure_lag, open_motion, read_prepared, spread_points
from talkswap.errors import TrainingDataError
from talkswap.faces.mesh import mean_face

LOWER = [87, 14, 317]


def loudness(times: np.ndarray, seed: int) -> np.ndarray:
    """A voice's strength over time, between 0 and 1."""
    random = np.random.default_rng(seed)
    knots = np.arange(-2, 14, 0.15)
    return np.interp(times, knots, random.uniform(0, 1, len(knots)))


def clip(lag: float = 0.0, seed: int = 0, other: int | None = None) -> MotionClip:
    """Eight seconds of a mouth that opens with the voice, its picture ``lag`` late; ``other`` = with another voice."""
    times = np.arange(200) / 25
    shapes = np.repeat(mean_face().points[None], 200, 0).copy()
    shapes[:, LOWER, 1] += 0.3 * loudness(times - lag, seed)[:, None]
    mel = -0.9 + 1.3 * loudness(np.arange(641) / 80, seed if other is None else other)[:, None] * np.ones(80)
    return MotionClip(
        f"clip-{seed}",
        "s1",
        "train",
        times.astype(np.float32),
        shapes,
        np.arange(478),
        mel.astype(np.float32),
        0.0,
        1.0,
    )


@pytest.mark.parametrize("lag", [-0.16, 0.0, 0.12])
def test_a_late_picture_is_measured(lag: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("talkswap.data.talking.listener", lambda: Loudness())
    measured = measure_lag(clip(lag))
    assert measured.lag == pytest.approx(lag, abs=0.021)
    assert measured.trust > 1


def test_lips_that_do_not_follow_keep_no_lag_and_little_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("talkswap.data.talking.listener", lambda: Loudness())
    measured = measure_lag(clip(0.1, other=9))
    assert (measured.lag, measured.trust) == (0.0, motion.LagConfig().doubtful)


class Loudness:
    """Stands in for the compact speech encoder: both its curves are the loudness."""

    class network:
        class config:
            stride = 2

    def __call__(self, mel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        curve = mel.mean(1)[::2]
        return curve, curve


def test_gathered_clips_come_back_and_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(motion, "measure_lag", lambda c: replace(c, lag=0.08, trust=0.5))
    few = np.array([13, 14, 61, 291])
    part = replace(clip(seed=1), points=few, shapes=clip(seed=1).shapes[:, few])
    empty = replace(clip(seed=2), shapes=np.full((200, 478, 3), np.nan, np.float32))
    lines: list[str] = []
    assert gather(tmp_path, [clip(), part, empty], lines.append) == 2, "a clip without a face is left out"
    assert len(lines) == 2
    assert gather(tmp_path, [clip()], lines.append) == 2
    assert len(lines) == 2, "what is there is not measured again"
    whole, stored = open_motion(tmp_path)
    assert (stored.name, stored.speaker, stored.split, stored.lag, stored.trust) == ("clip-1", "s1", "train", 0.08, 0.5)
    assert whole.shapes == pytest.approx(clip().shapes, abs=2e-3)
    assert spread_points(stored)[:, few] == pytest.approx(stored.shapes)
    assert np.delete(spread_points(stored), few, 1).max() == 0
    with pytest.raises(TrainingDataError, match="no meshes"):
        open_motion(tmp_path / "nowhere")


def test_prepared_clips_become_shapes(tmp_path: Path) -> None:
    (tmp_path / "clips-val").mkdir()
    landmarks = (mean_face().points[None] * 60 + 100).astype(np.float32).repeat(3, 0)
    landmarks[1] = np.nan
    np.savez(
        tmp_path / "clips-val" / "a.npz", times=np.arange(3) / 25, landmarks=landmarks, voice=np.zeros(2000, np.float32)
    )
    (only,) = read_prepared(tmp_path, "val")
    assert (only.name, only.speaker, only.split) == ("a", "a", "val")
    assert only.seen.tolist() == [True, False, True]
    assert only.shapes[0] == pytest.approx(mean_face().points, abs=1e-4)
    assert only.mel.shape == (11, 80)
    with pytest.raises(TrainingDataError, match="no prepared clips"):
        list(read_prepared(tmp_path, "train"))
