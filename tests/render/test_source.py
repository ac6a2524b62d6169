"""A source photo: its detail reaches the guide, and what makes it a poor photo is named."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from talkswap.faces.analyse import FaceAnalyser, load_analyser
from talkswap.faces.geometry import warp_crop
from talkswap.render.source import DETAIL_SIZE, SourceEncoder, guide_of, read_photo
from talkswap.types import FloatArray, UInt8Image

ROOT = Path(__file__).parents[2]
PHOTO = Path("photo.png")


@pytest.fixture(scope="module")
def analyser() -> FaceAnalyser:
    return load_analyser("compact", ROOT / "weights" / "compact")


@pytest.fixture(scope="module")
def photo() -> UInt8Image:
    return read_photo(ROOT / "examples" / "source.png")


def warnings(photo: UInt8Image, analyser: FaceAnalyser) -> list[str]:
    encode = SourceEncoder({PHOTO: photo}, analyser, 128)
    encode([PHOTO])
    return encode.warnings


def test_the_photo_keeps_its_own_resolution_for_the_guide(photo: UInt8Image, analyser: FaceAnalyser) -> None:
    for scale in (1.0, 4.0):
        picture = np.asarray(cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC), np.uint8)
        source = SourceEncoder({PHOTO: picture}, analyser, 128)([PHOTO]).source
        detail = source.detail
        assert source.face.crop.shape[0] == 128 and detail is not None
        # One px of the detail is one px of the photo, up to the limit.
        step = float(np.hypot(*detail.affine[0, :2]))
        assert step == pytest.approx(1, abs=0.01) or (step < 1 and detail.crop.shape[0] == DETAIL_SIZE)
        again = warp_crop(picture, detail.affine, detail.crop.shape[0])
        same = (again == detail.crop).all(2) if source.cover is None else np.ones(1, bool)
        assert same.all()
        guide = guide_of(source)
        assert guide.texture.levels[0].rgb.shape == detail.crop.shape


def test_a_good_photo_is_not_named(photo: UInt8Image, analyser: FaceAnalyser) -> None:
    assert warnings(photo, analyser) == []


def burn(photo: UInt8Image, landmarks: FloatArray) -> UInt8Image:
    x, y = landmarks[117, :2].round().astype(int)  # a cheek
    radius = int(np.ptp(landmarks[:, 0]) * 0.18)
    return np.asarray(cv2.circle(photo.copy(), (int(x), int(y)), radius, (255, 255, 255), -1), np.uint8)


@pytest.mark.parametrize("fault", ["blurred", "burnt out", "px wide"])
def test_a_poor_photo_is_named_with_what_helps(photo: UInt8Image, analyser: FaceAnalyser, fault: str) -> None:
    landmarks = max(analyser.detect(photo), key=lambda face: face.score).landmarks
    width = float(np.ptp(landmarks[:, 0]))
    if fault == "blurred":
        photo = np.asarray(cv2.GaussianBlur(photo, (0, 0), width * 0.03), np.uint8)
    elif fault == "burnt out":
        photo = burn(photo, landmarks)
    else:
        scale = 50 / width
        photo = np.asarray(cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
    lines = warnings(photo, analyser)
    assert len(lines) == 1 and fault in lines[0] and "gives a better result" in lines[0]
