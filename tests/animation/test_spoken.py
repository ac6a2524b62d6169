"""The spoken mesh: pose and upper face stay, the mouth is the voice's, strength goes from one to the other."""

from __future__ import annotations

import numpy as np
import pytest

from talkswap.animation.space import LIP_ROWS, LOWER_INNER, UPPER_INNER, move_inner_lips
from talkswap.animation.spoken import OPEN, SpeechSpace, speak, speech_share, true_lips, voiced_lips
from talkswap.faces.guide import canonical_shape
from talkswap.faces.mesh import INNER_LIPS, mean_face, signed_areas
from talkswap.types import FloatArray

EYES = 100.0


@pytest.fixture
def components() -> FloatArray:
    """Three movements that speech makes: the jaw opens, the corners widen, the lips round."""
    points = mean_face().points
    below = np.clip((points[:, 1] - points[13, 1]) / 0.2, 0, 1)
    near = np.exp(-((points[:, 1] - points[13, 1]) ** 2) / 0.02)
    zero = np.zeros_like(below)
    return np.stack(
        [
            np.stack([zero, below, zero], 1),
            np.stack([points[:, 0] * near, zero, zero], 1),
            np.stack([zero, zero, -near], 1),
        ]
    ).astype(np.float32)


def placed(shape: FloatArray, turn: float = 0.3) -> FloatArray:
    cosine, sine = np.cos(turn), np.sin(turn)
    rotation = np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]], np.float32)
    return np.asarray(shape @ rotation.T * EYES + np.array([300, 200, 5]), np.float32)


@pytest.fixture
def template() -> FloatArray:
    return canonical_shape(placed(mean_face().points, 0.0))


def test_the_upper_face_stays(template: FloatArray, components: FloatArray) -> None:
    landmarks = placed(template + 0.1 * components[0])
    spoken = speak(landmarks, template, 0.2 * components[0], SpeechSpace(components))
    upper = speech_share() == 0
    assert upper.sum() > 200
    np.testing.assert_allclose(spoken.landmarks[upper], landmarks[upper], atol=0.02)


def test_the_mouth_is_the_voices_whatever_the_frames_own_was(template: FloatArray, components: FloatArray) -> None:
    space, voice = SpeechSpace(components), 0.15 * components[0] + 0.3 * components[1]
    lips = list(INNER_LIPS)
    shapes = [
        speak(placed(template + own), template, voice, space).shape[lips]
        for own in (0 * components[0], 0.2 * components[0], -0.2 * components[1], 0.1 * components[2])
    ]
    for shape in shapes[1:]:
        np.testing.assert_allclose(shape, shapes[0], atol=0.01)
    np.testing.assert_allclose(shapes[0], (template + voice)[lips], atol=0.01)


def test_what_speech_does_not_move_stays(template: FloatArray, components: FloatArray) -> None:
    outline = np.zeros_like(template)
    outline[152, 0] = 0.05  # a chin to the side: no component moves anything so
    moved = speak(placed(template + outline), template, 0 * components[0], SpeechSpace(components))
    assert abs(float(moved.shape[152, 0] - template[152, 0]) - 0.05) < 0.01


@pytest.mark.parametrize("strength", [0.0, 0.25, 0.5, 1.0, 1.5])
def test_strength_goes_from_the_frames_mouth_to_the_voices(
    template: FloatArray, components: FloatArray, strength: float
) -> None:
    own, voice = 0.05, 0.2
    spoken = speak(
        placed(template + own * components[0]), template, voice * components[0], SpeechSpace(components), strength
    )
    gap = float((spoken.shape - template)[17, 1])  # under the lower lip
    share = float(components[0][17, 1])
    expected = own + strength * (voice - own) if strength <= 1 else voice * strength
    assert abs(gap - expected * share) < 0.01


def test_strength_zero_leaves_every_point(template: FloatArray, components: FloatArray) -> None:
    landmarks = placed(template + 0.1 * components[0])
    spoken = speak(landmarks, template, 0.2 * components[0], SpeechSpace(components), 0.0)
    np.testing.assert_allclose(spoken.landmarks, landmarks, atol=0.02)


def test_lips_never_pass_through_each_other(template: FloatArray, components: FloatArray) -> None:
    spoken = speak(placed(template), template, -0.3 * components[0], SpeechSpace(components))
    upper, lower = list(UPPER_INNER), list(LOWER_INNER)
    assert (spoken.shape[lower, 1] >= spoken.shape[upper, 1] - 1e-6).all()


def test_facing_points_are_mirror_images_across_the_mouth() -> None:
    points = mean_face().points
    for upper, lower in zip(UPPER_INNER, LOWER_INNER, strict=True):
        assert abs(points[upper, 0] - points[lower, 0]) < 0.05


def test_no_step_at_the_nose() -> None:
    share, height = speech_share(), mean_face().points[:, 1]
    order = np.argsort(height)
    steps = np.abs(np.diff(share[order])) / np.maximum(np.diff(height[order]), 1e-3)
    assert steps.max() < 30  # a smooth rise over a few hundredths of the face


def test_the_space_needs_no_orthogonal_components(template: FloatArray, components: FloatArray) -> None:
    mixed = np.stack([components[0] + components[1], components[0] - components[1], components[2], components[2]])
    part = SpeechSpace(mixed).part_of(0.3 * components[1])
    np.testing.assert_allclose(part, 0.3 * components[1], atol=1e-4)


def opened(gap: float) -> FloatArray:
    shape = mean_face().points.copy()
    upper, lower = list(UPPER_INNER), list(LOWER_INNER)
    middle = (shape[upper, 1] + shape[lower, 1]) / 2
    share = np.sin(np.linspace(0.25, np.pi - 0.25, 9))
    shape[upper, 1], shape[lower, 1] = middle - gap / 2 * share, middle + gap / 2 * share
    return shape


def gaps(shape: FloatArray) -> FloatArray:
    return np.asarray(shape[list(LOWER_INNER), 1] - shape[list(UPPER_INNER), 1])


def test_lips_that_read_as_shut_touch() -> None:
    assert np.abs(gaps(true_lips(opened(0.03), 0.03))).max() < 2e-3
    assert gaps(true_lips(opened(0.015), 0.03)).min() > -1e-6  # and never pass through each other


def test_wide_lips_are_where_they_read() -> None:
    np.testing.assert_allclose(true_lips(opened(OPEN + 0.02), 0.03), opened(OPEN + 0.02), atol=1e-5)


def test_the_true_opening_grows_with_the_reading() -> None:
    true = [gaps(true_lips(opened(gap), 0.04))[4] for gap in np.linspace(0, 0.2, 41)]
    assert (np.diff(true) >= 0).all()


def test_the_border_of_open_lips_moves_outward_and_that_of_shut_ones_stays() -> None:
    assert abs(gaps(true_lips(opened(0.2), 0.02, 0.01))[4] - gaps(opened(0.2))[4] - 0.02) < 1e-3
    np.testing.assert_allclose(true_lips(opened(0.0), 0.02, 0.01), opened(0.0), atol=1e-6)


@pytest.mark.parametrize("rest", [0.0, 0.02, 0.04])
def test_painted_lips_move_at_least_as_far_as_the_voice_asks(rest: float) -> None:
    """A painted opening is read as ``rest`` when shut and truly when wide; the reading keeps the voice's amplitude."""
    voice = np.linspace(0.0, 0.25, 51)
    painted = np.array([gaps(voiced_lips(opened(gap), rest))[4] for gap in voice])
    reading = np.where(painted < OPEN, rest + painted * (1 - rest / OPEN), painted)
    assert (np.diff(painted) >= -1e-6).all() and np.abs(np.diff(painted)).max() < 0.013, "no jump"
    assert painted[voice <= 0.45 * rest].max(initial=0.0) < 1e-3, "shut on m, b and p"
    assert 1.0 <= (reading[-1] - reading[0]) / voice[-1] <= 1.35


def test_lips_behind_the_border_follow_it_without_folding_over() -> None:
    shape = opened(0.1)
    moved = move_inner_lips(shape, np.array([0, -0.03, 0], np.float32), np.array([0, 0.03, 0], np.float32))
    triangles = mean_face().triangles
    lips = {*UPPER_INNER, *LOWER_INNER, *(point for upper, lower, _ in LIP_ROWS for point in (*upper, *lower))}
    near = triangles[[bool(lips & set(triangle.tolist())) for triangle in triangles]]
    before, after = (signed_areas(points * 100, near) for points in (shape, moved))
    assert (after[before > 2] > 0).mean() > 0.97
    for number, row in enumerate(LIP_ROWS):
        for half, points in enumerate(row[:2]):
            travel = np.abs((moved - shape)[list(points), 1])
            np.testing.assert_allclose(travel, 0.03 * row[2][half], atol=1e-5, err_msg=str(number))
