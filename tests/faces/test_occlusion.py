"""What is in front of a face: the network that ships, its answers from frame to frame, and what paste-back does of them."""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from talkswap.errors import WeightsMissingError
from talkswap.faces.mask import face_mask
from talkswap.faces.occlusion import (
    CoverFollower,
    FollowConfig,
    OcclusionConfig,
    OcclusionNetwork,
    OcclusionReader,
    load_occlusion,
    save_occlusion,
)
from talkswap.faces.paste import paste

COMPACT = Path(__file__).parents[2] / "weights" / "compact"
Crops = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def reader() -> OcclusionReader:
    return OcclusionReader(load_occlusion(COMPACT))


def with_microphone(crop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A dark ball on a grip before the chin of a 320 px crop, and where it is."""
    mask = np.zeros(crop.shape[:2], np.uint8)
    cv2.circle(mask, (160, 235), 34, 255, -1, cv2.LINE_AA)
    cv2.line(mask, (160, 235), (190, 330), 255, 22, cv2.LINE_AA)
    thing = np.full_like(crop, 38)
    cv2.circle(thing, (150, 225), 12, (70, 70, 72), -1)
    share = mask[..., None] / 255
    return (crop * (1 - share) + thing * share).astype(np.uint8), mask > 127


def test_a_free_face_is_free_and_a_microphone_is_not(reader: OcclusionReader, face_crops: Crops) -> None:
    crop, points = face_crops[0][0], face_crops[1][0]
    inside = cv2.resize(face_mask(points, 320), (64, 64), interpolation=cv2.INTER_AREA) > 0.5
    bare = reader(crop)
    assert bare.shape == (64, 64) and bare.dtype == np.float32 and bare.min() >= 0 and bare.max() <= 1
    assert (bare[inside] > 0.5).mean() < 0.01
    shown, where = with_microphone(crop)
    there = cv2.resize(where.astype(np.float32), (64, 64), interpolation=cv2.INTER_AREA) > 0.5
    found = (reader(shown) > 0.5) & inside
    wanted = there & inside
    assert (found & wanted).sum() / (found | wanted).sum() > 0.7


def test_the_cost_is_small(reader: OcclusionReader, face_crops: Crops) -> None:
    """Far above the two milliseconds that it takes on a quiet core: other tests may run beside it."""
    assert sum(p.numel() for p in reader.network.parameters()) <= 600_000
    assert (COMPACT / "faces" / "occlusion.safetensors").stat().st_size < 1.3e6
    taken = []
    for _ in range(8):
        began = time.perf_counter()
        reader(face_crops[0][0])
        taken.append(time.perf_counter() - began)
    assert min(taken) < 0.025


def test_any_crop_size_is_read_alike(reader: OcclusionReader, face_crops: Crops) -> None:
    shown, _ = with_microphone(face_crops[0][0])
    large = np.asarray(cv2.resize(shown, (512, 512), interpolation=cv2.INTER_CUBIC), np.uint8)
    assert np.abs(reader(shown) - reader(large)).mean() < 0.03


def answers(value: float) -> np.ndarray:
    grid = np.full((8, 8), 0.1, np.float32)
    grid[2:4, 2:4] = value
    return grid


def test_what_appears_counts_at_once_and_what_goes_fades_soon() -> None:
    follow, frame = CoverFollower(), Fraction(1, 25)
    assert follow(answers(0.1), 0 * frame) is None
    seen = follow(answers(0.95), 1 * frame)
    assert seen is not None and seen[2, 2] == 0 and seen[0, 0] == 1, "no frame late"
    flicker = follow(answers(0.3), 2 * frame)
    assert flicker is None or flicker[2, 2] > 0.9
    fast = CoverFollower(FollowConfig(hold=0.2))
    fast(answers(0.95), 0 * frame)
    held = fast(answers(0.3), 1 * frame)
    assert held is not None and 0 < held[2, 2] < 1, "a gap of one frame does not open wholly"
    assert fast(answers(0.3), 30 * frame) is None


def test_unclear_answers_leave_the_face_whole_and_a_cut_forgets() -> None:
    follow, frame = CoverFollower(FollowConfig(hold=1.0)), Fraction(1, 25)
    assert follow(answers(0.45), 0 * frame) is None
    assert follow(answers(0.99), 1 * frame) is not None
    assert follow(answers(0.2), 2 * frame, fresh=True) is None
    half = follow(answers(0.65), 3 * frame, fresh=True)
    assert half is not None and half[2, 2] == pytest.approx(0.5, abs=0.01)


def test_paste_keeps_what_is_in_front_to_the_bit() -> None:
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 255, (96, 96, 3)).astype(np.uint8)
    crop = np.full((64, 64, 3), 200, np.uint8)
    affine = np.array([[1, 0, -16], [0, 1, -16]], np.float32)
    mask = np.zeros((64, 64), np.float32)
    mask[8:56, 8:56] = 1
    free = np.ones((32, 32), np.float32)
    free[:, 16:] = 0  # the right half is covered
    whole = paste(picture, crop, affine, mask)
    covered = paste(picture, crop, affine, mask, free=free)
    np.testing.assert_array_equal(covered[:, 16 + 34 :], picture[:, 16 + 34 :])
    np.testing.assert_array_equal(covered[:, : 16 + 30], whole[:, : 16 + 30])
    assert (whole[40, 70] == 200).all()


def test_the_colour_of_what_is_in_front_does_not_run_into_the_face() -> None:
    """A blue thing over half of the mask's border: the face keeps the light of the free half."""
    crop, target = np.full((64, 64, 3), 120, np.uint8), np.full((64, 64, 3), 130, np.uint8)
    target[:, 40:] = (120, 120, 160)
    mask = np.asarray(cv2.GaussianBlur(np.pad(np.ones((40, 40), np.float32), 12), (0, 0), 4), np.float32)
    free = np.ones((32, 32), np.float32)
    free[:, 19:] = 0
    affine = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    plain = paste(target, crop, affine, mask, target_crop=target)
    aware = paste(target, crop, affine, mask, target_crop=target, free=free)
    grey = [float(np.ptp(made[32, 34].astype(float))) for made in (plain, aware)]
    assert grey[1] < 2 < grey[0]


def test_a_network_comes_back_from_its_folder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = OcclusionNetwork(OcclusionConfig(size=64, widths=(8, 8, 16)))
    save_occlusion(made, tmp_path)
    read = load_occlusion(tmp_path)
    assert read.config == made.config
    crop = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert read(crop).shape == (2, 32, 32)
        torch.testing.assert_close(read(crop), made.eval()(crop), atol=2e-2, rtol=0)
    with pytest.raises(WeightsMissingError, match="talkswap train occlusion|occlusion network"):
        load_occlusion(tmp_path / "none")
