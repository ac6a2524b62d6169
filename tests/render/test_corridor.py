"""The corridor's frames before they are encoded: what is in front of a face stays, and so does a mouth in silence."""

from __future__ import annotations

import wave
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from talkswap.checkpoints.preset_folder import PresetFolder
from talkswap.device import choose_device
from talkswap.faces.mask import face_mask
from talkswap.render.corridor import Corridor, Work
from talkswap.render.pipeline import Stopwatch
from talkswap.render.prepare import People, Prepared, load_occlusion_reader, prepare
from talkswap.types import RenderPlan

COMPACT = Path(__file__).parents[2] / "weights" / "compact"
COUNT = 4  # frames
WriteClip = Callable[..., Path]


def target_of(ready: Prepared) -> list[np.ndarray]:
    """The target's pictures as a corridor reads them."""
    return [work.frame.rgb.copy() for work in Corridor(replace(ready, people=People()), Stopwatch()).frames()]


def finished(ready: Prepared) -> tuple[list[Work], Corridor]:
    corridor = Corridor(ready, Stopwatch())
    return list(corridor.frames()), corridor


@pytest.fixture(scope="module")
def microphone(example_pictures: list[np.ndarray], write_clip: WriteClip) -> tuple[Path, np.ndarray]:
    """The example's face with a dark microphone before mouth and chin, and where that is whole."""
    from talkswap.faces.analyse import load_analyser

    analyser = load_analyser("compact", COMPACT)
    points = analyser.detect(example_pictures[0])[0].landmarks
    reach = float(np.linalg.norm(points[468, :2] - points[473, :2]))  # px between the pupils
    at = points[199, :2] + [0.1 * reach, -0.1 * reach]
    mask = np.zeros(example_pictures[0].shape[:2], np.uint8)
    cv2.circle(mask, at.round().astype(int).tolist(), round(0.45 * reach), 255, -1, cv2.LINE_AA)
    end = (at + [0.5 * reach, 3 * reach]).round().astype(int).tolist()
    cv2.line(mask, at.round().astype(int).tolist(), end, 255, round(0.35 * reach), cv2.LINE_AA)
    share = mask[..., None] / 255
    grain = np.random.default_rng(0).normal(0, 4, mask.shape)[..., None]
    pictures = [
        (p * (1 - share) + (40 + grain) * share).clip(0, 255).astype(np.uint8) for p in example_pictures[:COUNT]
    ]
    return write_clip(pictures, "microphone.mp4"), cv2.erode(mask, np.ones((5, 5))) > 250


def test_a_microphone_before_the_face_stays(
    microphone: tuple[Path, np.ndarray], source_photo: Path, voice_file: Path, tmp_path: Path
) -> None:
    clip, where = microphone
    plan = RenderPlan(
        source_photo, clip, voice_file, tmp_path / "o.mp4", preset="compact", device="cpu", provenance=False
    )
    ready = prepare(plan, lambda event: None)
    assert ready.networks.occlusion is not None
    before = target_of(ready)
    kept, aware = finished(ready)
    lost, blind = finished(replace(ready, networks=replace(ready.networks, occlusion=None)))
    size = ready.networks.system.crop.size
    cut = kept[0].cuts[0].face
    inside = cv2.warpAffine(face_mask(cut.landmarks, size), cut.affine, where.shape[::-1], flags=cv2.WARP_INVERSE_MAP)
    place = where & (inside > 0.9)
    assert place.sum() > 100
    change = [
        np.mean([np.abs(w.frame.rgb.astype(float) - b)[place].mean() for w, b in zip(works, before, strict=True)])
        for works in (kept, lost)
    ]
    assert change[0] < 0.3 * change[1] and change[1] > 5
    free = (inside > 0.9) & ~cv2.dilate(where.astype(np.uint8), np.ones((15, 15))).astype(bool)
    for ours, plain in zip(kept, lost, strict=True):
        assert np.abs(ours.frame.rgb.astype(float) - plain.frame.rgb)[free].mean() < 2, "the rest is changed as ever"
    assert aware.tally.covered == COUNT and blind.tally.covered == 0
    assert aware.report(1.0).covered_frames == COUNT


def test_a_preset_without_occlusion_says_so(tmp_path: Path) -> None:
    full, bare = (PresetFolder("compact", (folder,), ("a test",), ()) for folder in (COMPACT, tmp_path))
    device, lines = choose_device("cpu"), list[str]()
    assert load_occlusion_reader(full, device, lines.append) is not None
    assert lines == []
    assert load_occlusion_reader(bare, device, lines.append) is None
    assert len(lines) == 1 and "no occlusion network" in lines[0]


def test_a_plan_can_leave_occlusion_out(talking_clip: Path, voice_file: Path, tmp_path: Path) -> None:
    plan = RenderPlan(
        None, talking_clip, voice_file, tmp_path / "o.mp4", preset="compact", device="cpu", swap=False, occlusion=False
    )
    assert prepare(plan, lambda event: None).networks.occlusion is None


def test_in_silence_the_targets_own_mouth_shows_where_that_is_wanted(talking_clip: Path, tmp_path: Path) -> None:
    """Without a swap, ``original`` gives a silent voice's frames back to the bit, ``neutral`` shuts the mouth."""
    silent = tmp_path / "silent.wav"
    with wave.open(str(silent), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(2 * 7680))
    plan = RenderPlan(
        None, talking_clip, silent, tmp_path / "o.mp4", preset="compact", device="cpu", swap=False, provenance=False
    )
    ready = prepare(replace(plan, silence="original"), lambda event: None)
    before = target_of(ready)
    own, _ = finished(ready)
    assert all(np.array_equal(work.frame.rgb, b) for work, b in zip(own, before, strict=True))
    rest, _ = finished(prepare(plan, lambda event: None))
    assert all(np.abs(work.frame.rgb.astype(float) - b).max() > 8 for work, b in zip(rest, before, strict=True))
