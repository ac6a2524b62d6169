"""Cutting to 25 frames per second, and why a piece is refused; a few frames each."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from talkswap.data.clip import ClipConfig, Refused, cut_voice, follow_face, region_size, to_region
from talkswap.data.cutting import Piece, Range, Source, cut, find_videos, read_piece
from talkswap.data.talking import LipCheckConfig, check_lips
from talkswap.errors import InputMissingError, TrainingDataError, UnreadableMediaError

from .conftest import Prepared, write_talk

SMALL = ClipConfig(smallest=60)


def levels(count: int) -> list[np.ndarray]:
    """Even pictures, each a little brighter, so that a frame's number can be read from it."""
    return [np.full((64, 96, 3), 20 + 2 * k, np.uint8) for k in range(count)]


def shown(piece: Piece) -> list[int]:
    return [round((float(rgb.mean()) - 20) / 2) for rgb in read_piece(piece)]


@pytest.mark.parametrize(("rate", "count"), [(25, 60), (50, 100), (30, 70), (12, 30)])
def test_every_frame_shows_the_picture_that_is_nearest_in_time(tmp_path: Path, rate: int, count: int) -> None:
    path = write_talk(tmp_path / "a.mp4", levels(count), None, clock=Fraction(1, rate))
    (piece,) = cut(Source(path), Fraction(10), Fraction(2), 25)
    assert abs(piece.frames - Fraction(count, rate) * 25) <= 3  # the last picture's length is the container's word
    for k, picture in enumerate(piece.pictures):
        assert abs(Fraction(picture, rate) - Fraction(k, 25)) <= Fraction(1, 2 * rate) or picture == count - 1
    assert np.abs(np.array(shown(piece)) - piece.pictures).max() <= 1


def test_pieces_follow_each_other_and_a_short_rest_is_dropped(tmp_path: Path) -> None:
    path = write_talk(tmp_path / "a.mp4", levels(110), None)
    pieces = cut(Source(path), Fraction(2), Fraction(1), 25)
    assert [(p.start, p.frames, p.pictures[0]) for p in pieces] == [(0, 50, 0), (2, 50, 50)]  # 0.4 s are left over
    inside = cut(Source(path, ranges=(Range(Fraction(1), Fraction(4)),)), Fraction(2), Fraction(1), 25)
    assert [(p.start, p.frames) for p in inside] == [(1, 50), (3, 25)]
    assert shown(inside[1])[0] in (74, 75, 76)


def test_a_listed_crop_is_scaled_to_the_file_and_checked(tmp_path: Path) -> None:
    pictures = levels(50)
    for picture in pictures:
        picture[16:48, 24:56] = 200
    path = write_talk(tmp_path / "a.mp4", pictures, None)
    (piece,) = cut(Source(path, ranges=(Range(box=(48, 32, 64, 64), lines=128),)), Fraction(2), Fraction(2), 25)
    assert piece.box == (24, 16, 32, 32)
    frame = next(iter(read_piece(piece)))
    assert frame.shape == (32, 32, 3) and frame.mean() > 190
    with pytest.raises(UnreadableMediaError, match="outside"):
        cut(Source(path, ranges=(Range(box=(480, 0, 64, 64)),)), Fraction(2), Fraction(2), 25)


def test_videos_are_found_in_folders_and_named_when_missing(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("deep/b.MP4", "a.mkv", "c.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [p.name for p in find_videos([tmp_path, tmp_path / "a.mkv"])] == ["a.mkv", "b.MP4"]
    with pytest.raises(InputMissingError, match="nowhere"):
        find_videos([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingDataError, match="no video in"):
        find_videos([tmp_path / "empty"])


def refusal(tmp_path: Path, pictures: list[np.ndarray], config: ClipConfig = SMALL) -> str:
    path = write_talk(tmp_path / "a.mp4", pictures, None)
    with pytest.raises(Refused) as refused:
        follow_face(Piece(path, Fraction(0), tuple(range(len(pictures)))), config)
    return refused.value.reason


def test_a_face_is_followed(tmp_path: Path, example_frames: list[np.ndarray]) -> None:
    path = write_talk(tmp_path / "a.mp4", example_frames[:8], None)
    followed = follow_face(Piece(path, Fraction(0), tuple(range(8))), SMALL)
    assert np.isfinite(followed.landmarks).all() and np.abs(followed.yaw).max() < 40
    assert followed.picture == (270, 480)


def test_pieces_with_no_face_two_faces_or_a_cut_are_refused(tmp_path: Path, example_frames: list[np.ndarray]) -> None:
    faces = example_frames[:4]
    empty = [np.full_like(faces[0], 90) for _ in range(3)]
    assert refusal(tmp_path, empty) == "no face"
    middle = [picture[:, 120:380] for picture in faces]
    assert refusal(tmp_path, [np.concatenate([m, m[:, ::-1]], 1) for m in middle]) == "two faces"
    noise = np.random.default_rng(0).integers(0, 255, (27, 48, 3), np.uint8).repeat(10, 0).repeat(10, 1)
    assert refusal(tmp_path, [*faces[:2], noise]) == "cut"
    assert refusal(tmp_path, faces, ClipConfig(smallest=300)) == "small face"


def test_lips_follow_their_own_sound_and_no_other(prepared: Prepared, example_sound: np.ndarray) -> None:
    clip = next(c for c in prepared.manifest["clips"] if c["start"] == 2.0)
    with np.load(prepared.out / f"clips-{clip['split']}" / f"{clip['name']}.npz") as stored:
        landmarks, voice, times = stored["landmarks"], stored["voice"], stored["times"].astype(np.float32)
    least = LipCheckConfig().least
    own = check_lips(landmarks, voice, times)
    assert own.correlation > 0.6 and own.lag == 0.0
    late = check_lips(landmarks, np.concatenate([voice[1920:], np.zeros(1920, np.float32)]), times)
    assert late.lag == pytest.approx(0.12) and late.correlation > 0.5  # the picture is later than its sound
    hum = (0.1 * np.sin(np.arange(32000) * 0.05)).astype(np.float32)
    assert check_lips(landmarks, hum, times).correlation < least
    assert check_lips(landmarks, voice[::-1].copy(), times).correlation < own.correlation - 0.2
    still = np.repeat(landmarks[:1], len(landmarks), 0)
    assert check_lips(still, voice, times).movement < LipCheckConfig().still


def test_voice_is_cut_to_the_sample_and_filled_with_silence() -> None:
    samples = np.arange(48000, dtype=np.float32)
    assert cut_voice(samples, Fraction(1), 25, 25).tolist() == list(range(16000, 32000))
    rest = cut_voice(samples, Fraction(5, 2), 25, 25)
    assert len(rest) == 16000 and rest[7999] == 47999 and not rest[8000:].any()


def test_points_move_into_the_region_by_the_centres_of_their_px() -> None:
    box = (100, 50, 200, 200)
    size = region_size(box, 0.5)
    assert size == (100, 100)
    moved = to_region(np.array([[100.5, 50.5, 10.0]], np.float32), box, size)
    assert moved[0].tolist() == [0.0, 0.0, 5.0]  # the middle of the first four px is the middle of the first px
