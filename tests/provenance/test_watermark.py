"""The invisible mark: its code corrects errors, and a clip that was encoded again still carries it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from talkswap.faces.analyse import CompactAnalyser
from talkswap.faces.geometry import transform_points, warp_crop
from talkswap.faces.mask import face_mask, lower_face_mask
from talkswap.faces.paste import paste
from talkswap.faces.track import FaceTracker
from talkswap.provenance.verify import bursts, look, read_at
from talkswap.provenance.watermark import (
    CODED_BITS,
    MEMORY,
    MESSAGE_BITS,
    PLANE_BITS,
    Message,
    Watermark,
    affordable,
    carriers,
    cells_of,
    decode,
    encode,
    message_bits,
    read,
    residual,
    window,
)
from talkswap.types import Frame
from tests.provenance.conftest import encode as encode_clip

MESSAGE = Message(0xC0FFEE)


@dataclass(frozen=True)
class Marked:
    before: list[np.ndarray]
    after: list[np.ndarray]
    affines: list[np.ndarray]
    masks: list[np.ndarray]


@pytest.fixture(scope="module")
def marked(face_pictures: list[np.ndarray], analyser: CompactAnalyser) -> Marked:
    """The example's face, marked as a render marks its answers."""
    tracker, watermark = FaceTracker(analyser), Watermark(MESSAGE)
    found = Marked(face_pictures, [], [], [])
    for number, rgb in enumerate(face_pictures):
        (tracked,) = tracker.update(Frame(rgb, Fraction(number, 25), number))
        affine = tracked.affine(320)
        crop = warp_crop(rgb, affine, 320)
        mask = face_mask(transform_points(affine, tracked.landmarks), 320)
        found.after.append(paste(rgb, watermark(crop, mask, crop), affine, mask, target_crop=crop))
        found.affines.append(affine)
        found.masks.append(mask)
    return found


def test_carriers_are_orthonormal_and_inside_the_window() -> None:
    watermark = Watermark(MESSAGE)
    own = np.stack([watermark.carriers.pattern(one) for one in np.eye(PLANE_BITS, dtype=np.float32)])
    assert np.allclose(watermark.carriers.project(own), np.eye(PLANE_BITS), atol=1e-4)
    rows, columns = np.nonzero(window())
    assert not own[:, window()[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] == 0].any()
    assert carriers(watermark.config) is watermark.carriers


def test_the_margin_spends_the_budget_where_it_is_missing() -> None:
    said = np.array([-2.0, 0.0, 3.0], np.float32)
    margin = affordable(said, 5.0)
    assert margin == pytest.approx(0.2247, abs=1e-3)  # (m + 2)^2 + m^2 = 5; the third needs nothing


def test_it_hides_inside_the_mask(marked: Marked) -> None:
    for before, after, affine, mask in zip(marked.before, marked.after, marked.affines, marked.masks, strict=True):
        size = (before.shape[1], before.shape[0])
        back = cv2.warpAffine((mask > 0).astype(np.float32), affine, size, flags=cv2.WARP_INVERSE_MAP)
        inside = cv2.warpAffine(mask, affine, size, flags=cv2.WARP_INVERSE_MAP) > 0.5
        changed = (before != after).any(2)
        assert changed.any() and not changed[back == 0].any()
        crop = warp_crop(before, affine, 320)
        own = Watermark(MESSAGE)(crop, mask, crop)
        noise = np.square(own.astype(float) - crop)[mask > 0.5].mean()
        assert 10 * np.log10(255**2 / noise) >= 40
        assert np.abs(after.astype(int) - before)[inside].mean() < 3


def test_it_is_found_in_a_clip_encoded_anew(marked: Marked, analyser: CompactAnalyser, tmp_path: Path) -> None:
    clip = encode_clip(marked.after, tmp_path / "marked.mp4", crf="18", preset="veryfast")
    (found,) = look(clip, analyser, 20)
    assert found.finding.message == MESSAGE
    assert found.finding.false_positive < 1e-5 and (found.finding.agreement or 0) > 0.75
    known = read_at(clip, dict(enumerate(marked.affines)))
    assert known is not None and known.message == MESSAGE and (known.agreement or 0) > 0.8


def test_it_is_found_in_a_cut_picture(marked: Marked, analyser: CompactAnalyser, tmp_path: Path) -> None:
    cut = [picture[20:500, 130:830] for picture in marked.after]
    (found,) = look(encode_clip(cut, tmp_path / "cut.mp4", crf="20"), analyser, 20)
    assert found.finding.message == MESSAGE


@pytest.mark.parametrize(("share", "crf"), [(1.0, "28"), (0.5, "18")])
def test_it_is_found_in_a_poor_copy(
    marked: Marked, analyser: CompactAnalyser, tmp_path: Path, share: float, crf: str
) -> None:
    copies = [cv2.resize(picture, None, fx=share, fy=share, interpolation=cv2.INTER_AREA) for picture in marked.after]
    (found,) = look(encode_clip(copies, tmp_path / "copy.mp4", crf=crf), analyser, 20)
    assert found.finding.message == MESSAGE


def test_an_unmarked_clip_has_none(marked: Marked, analyser: CompactAnalyser, tmp_path: Path) -> None:
    clip = encode_clip(marked.before, tmp_path / "plain.mp4", crf="18", preset="veryfast")
    (found,) = look(clip, analyser, 20)
    assert found.finding.message is None and found.finding.false_positive == 1
    assert read_at(clip, {}) is None


def test_a_change_of_the_lower_face_stays_there(marked: Marked, analyser: CompactAnalyser) -> None:
    crop = warp_crop(marked.before[0], marked.affines[0], 320)
    mask = lower_face_mask(analyser.detect(crop)[0].landmarks, 320)
    own = Watermark(MESSAGE)(crop, mask, crop)
    shown = (own * mask[:, :, None] + crop * (1 - mask[:, :, None])).round().astype(np.uint8)
    assert (shown == crop)[mask == 0].all() and (shown != crop)[mask == 1].any()
    assert 10 * np.log10(255**2 / np.square(own.astype(float) - crop)[mask > 0.5].mean()) >= 40


def test_nothing_is_marked_where_nothing_is_changed(face_pictures: list[np.ndarray]) -> None:
    crop = np.ascontiguousarray(face_pictures[0][:320, :320])
    own = Watermark(MESSAGE)(crop, np.zeros((320, 320), np.float32), crop)
    assert (own == crop).all()


def test_it_takes_no_time_to_speak_of(marked: Marked) -> None:
    crop, mask = warp_crop(marked.before[0], marked.affines[0], 320), marked.masks[0]
    watermark = Watermark(MESSAGE)
    watermark(crop, mask, crop)
    took = []
    for _ in range(15):
        began = time.thread_time()
        watermark(crop, mask, crop)
        took.append(time.thread_time() - began)
    assert min(took) < 0.006  # about 1.4 ms on one core of an EPYC; a slower machine may take some times that


def test_equal_plans_give_equal_marks(marked: Marked) -> None:
    crop, mask = warp_crop(marked.before[3], marked.affines[3], 320), marked.masks[3]
    first, second = Watermark(MESSAGE), Watermark(MESSAGE)
    first(warp_crop(marked.before[0], marked.affines[0], 320), mask, crop)  # what came before does not matter
    assert (first(crop, mask, crop) == second(crop, mask, crop)).all()
    assert (first(crop, mask, crop) != Watermark(Message(1))(crop, mask, crop)).any()


def test_a_residual_is_blind_to_light(face_pictures: list[np.ndarray]) -> None:
    crop = np.ascontiguousarray(face_pictures[0][:320, :320])
    config = Watermark(MESSAGE).config
    brighter = cv2.add(crop // 2, np.full_like(crop, 40))
    plain = cv2.add(crop // 2, np.zeros_like(crop))
    for one, other in zip(cells_of(brighter), cells_of(plain), strict=True):
        assert np.allclose(residual(one, config), residual(other, config), atol=1e-3)


def test_it_leaves_luma_alone(marked: Marked) -> None:
    crop, mask = warp_crop(marked.before[0], marked.affines[0], 320), marked.masks[0]
    added = Watermark(MESSAGE)(crop, mask, crop).astype(float) - crop
    luma = added[mask > 0.5] @ (0.299, 0.587, 0.114)
    assert np.square(luma).mean() < 0.2 < 4 < np.square(added[mask > 0.5]).mean()  # rounding of three colours alone


def test_a_long_clip_is_looked_at_in_stretches(face_pictures: list[np.ndarray], tmp_path: Path) -> None:
    from talkswap.media.index import index_frames
    from talkswap.media.probe import probe

    small = [cv2.resize(face_pictures[k % 20], (96, 54)) for k in range(200)]
    index = index_frames(probe(encode_clip(small, tmp_path / "long.mp4", g="10")))
    chosen = bursts(index, 60)
    assert 50 <= len(chosen) <= 60 and chosen == tuple(sorted(set(chosen)))
    starts = [k for k in chosen if k - 1 not in chosen]
    assert set(starts) <= set(index.keyframes) and len(starts) == 6
    assert bursts(index, 500) == tuple(range(200))


def soft(message: Message) -> np.ndarray:
    return encode(message).astype(np.float32) * 2 - 1


@pytest.mark.parametrize("number", [0, 1, 0xDEADBE, 2**24 - 1])
def test_a_message_comes_back(number: int) -> None:
    assert len(encode(Message(number))) == CODED_BITS
    (bits,), agreeing = decode(soft(Message(number))[None])
    assert bits.tolist() == message_bits(Message(number)).tolist()
    assert read(bits) == Message(number) and agreeing[0] > CODED_BITS


def test_a_tenth_of_all_coded_bits_wrong_is_put_right() -> None:
    rng = np.random.default_rng(7)
    noisy = soft(Message(0x123456)) + rng.standard_normal((24, CODED_BITS)).astype(np.float32) * 0.8
    wrong = ((noisy > 0) != (encode(Message(0x123456)) > 0)).mean()
    assert wrong > 0.08
    assert [read(bits) for bits in decode(noisy)[0]] == [Message(0x123456)] * 24


def test_noise_is_no_message() -> None:
    noise = np.random.default_rng(3).standard_normal((60, CODED_BITS)).astype(np.float32)
    assert [read(bits) for bits in decode(noise)[0]] == [None] * 60


def test_one_wrong_bit_fails_the_check() -> None:
    bits = message_bits(Message(99))
    for place in range(MESSAGE_BITS):
        changed = bits.copy()
        changed[place] ^= 1
        assert read(changed) is None


def test_the_code_begins_where_it_ends() -> None:
    message = Message(0xBADA55)
    bits, coded = message_bits(message), soft(message).reshape(MESSAGE_BITS, -1)
    for turn in (1, MEMORY, 29):  # a circle has no first bit
        (turned,), _ = decode(np.roll(coded, turn, 0).reshape(1, -1))
        assert turned.tolist() == np.roll(bits, turn).tolist()


def test_an_id_is_told_in_six_digits() -> None:
    assert Message(0x00C0FF).text == "00c0ff"
