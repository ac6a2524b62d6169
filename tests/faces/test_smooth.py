"""One-Euro smoothing: a still face stops trembling, a talking one does not lag, at any frame rate."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from talkswap.faces.geometry import ffhq_quad
from talkswap.faces.mesh import INNER_LIPS, OUTER_LIPS, mean_face
from talkswap.faces.smooth import LandmarkSmoother, OneEuro, OneEuroConfig, SquareSmoother, head_motion
from talkswap.types import FloatArray

EYES = 80.0  # px


def face(mouth: float = 0.0, x: float = 400.0, y: float = 300.0, size: float = EYES, roll: float = 0.0) -> FloatArray:
    points = mean_face().points.astype(np.float64).copy()
    lower = [*INNER_LIPS[11:], *OUTER_LIPS[11:], 18, 200, 199, 175, 152]
    points[lower, 1] += mouth
    turned = (points[:, 0] + 1j * points[:, 1]) * size * np.exp(1j * roll) + complex(x, y)
    return np.stack([turned.real, turned.imag, points[:, 2] * size], 1).astype(np.float32)


def noisy(shape: FloatArray, generator: np.random.Generator) -> FloatArray:
    return (shape + generator.normal(size=shape.shape) * 0.01 * EYES).astype(np.float32)


def opening(shapes: list[FloatArray]) -> FloatArray:
    stacked = np.stack(shapes)
    return np.asarray((stacked[:, 14, 1] - stacked[:, 13, 1]) / EYES)


def lag_ms(wanted: FloatArray, got: FloatArray, times: FloatArray) -> float:
    """Delay that best explains ``got`` as a late copy of ``wanted``."""
    delays = np.arange(-0.02, 0.12, 0.001)
    errors = [np.mean((np.interp(times - d, times, wanted)[8:] - got[8:]) ** 2) for d in delays]
    return float(delays[int(np.argmin(errors))] * 1000)


def test_a_still_face_stops_trembling() -> None:
    generator = np.random.default_rng(0)
    raw = [noisy(face(), generator) for _ in range(80)]
    smoother, square = LandmarkSmoother(), SquareSmoother()
    times = [Fraction(k, 25) for k in range(80)]
    smooth = [smoother(points, time) for points, time in zip(raw, times, strict=True)]
    before, after = np.diff(raw, axis=0)[10:, :, :2].std(), np.diff(smooth, axis=0)[10:, :, :2].std()
    assert after < 0.4 * before
    squares = np.array([np.concatenate(square(p, t)) for p, t in zip(smooth, times, strict=True)])
    raw_squares = np.array([np.concatenate(ffhq_quad(p)) for p in raw])
    assert np.diff(squares, axis=0)[10:].std() < 0.08 * np.diff(raw_squares, axis=0)[10:].std()


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(25), Fraction(60)])
def test_a_fast_mouth_does_not_lag(rate: Fraction) -> None:
    generator = np.random.default_rng(1)
    smoother = LandmarkSmoother()
    times = [k / rate for k in range(int(4 * rate))]
    wanted = [face(0.12 * (1 - np.cos(2 * np.pi * 3.5 * float(t)))) for t in times]
    got = [smoother(noisy(points, generator), time) for points, time in zip(wanted, times, strict=True)]
    true, seen = opening(wanted), opening(got)
    assert lag_ms(true, seen, np.array(times, np.float32)) <= 20
    assert np.corrcoef(true, seen)[0, 1] > 0.94
    assert np.polyfit(true, seen, 1)[0] > 0.85  # the mouth still opens as far


def test_a_moving_head_is_followed_and_its_square_too() -> None:
    smoother, square = LandmarkSmoother(), SquareSmoother()
    errors, offsets = [], []
    for k in range(100):
        time = Fraction(k, 25)
        turn = float(np.sin(2 * np.pi * 0.5 * float(time)))
        points = face(x=400 + 60 * turn, roll=0.15 * turn)
        smooth = smoother(points, time)
        centre, x = square(smooth, time)
        true_centre, true_x = ffhq_quad(points)
        errors.append(np.abs(smooth - points)[:, :2].max() / EYES)
        offsets.append(np.hypot(*(centre - true_centre)) / np.hypot(*true_x))
    assert max(errors) < 0.08
    assert max(offsets) < 0.08


def test_variable_frame_times_need_no_special_case() -> None:
    """The filter's answer depends on time, not on the number of frames: skipping frames costs little."""
    generator = np.random.default_rng(2)
    times = np.cumsum(generator.choice([1 / 60, 1 / 30, 1 / 15], 120))
    smoother = LandmarkSmoother()
    wanted = [face(0.1 * (1 - np.cos(2 * np.pi * 2 * t))) for t in times]
    got = [smoother(points, float(t)) for points, t in zip(wanted, times, strict=True)]
    assert np.corrcoef(opening(wanted), opening(got))[0, 1] > 0.97


def test_size_of_the_face_does_not_matter() -> None:
    small, large = LandmarkSmoother(), LandmarkSmoother()
    for k in range(20):
        mouth = 0.1 * np.sin(k)
        a = small(face(mouth, 40 + k, 30, 8), k / 25)
        b = large(face(mouth, 400 + 10 * k, 300, 80), k / 25)
    np.testing.assert_allclose(a * 10, b, atol=0.02)


def test_reset_and_backward_time_start_anew() -> None:
    smoother, square = LandmarkSmoother(), SquareSmoother()
    first, second = face(), face(x=900, y=100, size=40)
    smoother(first, 0.0)
    square(first, 0.0)
    smoother.reset()
    square.reset()
    np.testing.assert_allclose(smoother(second, 0.04), second, atol=1e-2)
    np.testing.assert_allclose(square(second, 0.04)[0], ffhq_quad(second)[0], atol=1e-2)
    np.testing.assert_allclose(smoother(first, 0.01), first, atol=1e-2)


def test_one_euro_follows_its_equation() -> None:
    """Two steps by hand at cutoff 1 Hz, beta 0: share = 1 / (1 + 1 / (2 pi dt))."""
    one = OneEuro(OneEuroConfig(1.0, 0.0))
    assert one(np.array([[2.0]], np.float32), 0)[0, 0] == 2
    share = 1 / (1 + 1 / (2 * np.pi * 0.1))
    assert one(np.array([[3.0]], np.float32), 0.1)[0, 0] == pytest.approx(2 + share)
    fast = OneEuro(OneEuroConfig(1.0, 50.0))
    fast(np.array([[2.0]], np.float32), 0)
    assert fast(np.array([[3.0]], np.float32), 0.1)[0, 0] > 2.9
    floored = OneEuro(OneEuroConfig(1.0, 50.0, floor=100.0))
    floored(np.array([[2.0]], np.float32), 0)
    assert floored(np.array([[3.0]], np.float32), 0.1)[0, 0] == pytest.approx(2 + share)


def test_head_motion_reads_place_size_and_roll() -> None:
    a, b = head_motion(face(0.2, x=123, y=45, size=66, roll=0.3))
    assert abs(a) == pytest.approx(66, rel=1e-4)
    assert np.angle(a) == pytest.approx(0.3, abs=1e-4)
    assert (b.real, b.imag) == (pytest.approx(123, abs=0.01), pytest.approx(45, abs=0.01))
