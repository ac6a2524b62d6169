"""Portraits of really encoded clips, with the compact weights that ship."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from talkswap.animation.portrait import Portrait
from talkswap.errors import InputMissingError, NoTargetFaceError, UsageError
from talkswap.faces.analyse import FaceAnalyser, load_analyser
from talkswap.faces.people import Person
from talkswap.media.index import FrameIndex, index_frames
from talkswap.media.probe import probe
from talkswap.media.timeline import Timeline
from talkswap.render.look import people_in_clip
from talkswap.render.portraits import (
    PortraitStore,
    Window,
    WindowConfig,
    frames_of,
    make_portraits,
    pack,
    shortcomings,
    style_clip,
    style_of,
    windows_of,
)
from talkswap.render.prepare import prepare
from talkswap.render.segments import PORTRAITS, WorkFolder, cut_spans, work_folder
from talkswap.types import AlignedFace, RenderPlan

WriteClip = Callable[..., Path]
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def analyser() -> FaceAnalyser:
    return load_analyser("compact", Path(__file__).parents[2] / "weights" / "compact")


def portraits_of(
    clip: Path, analyser: FaceAnalyser, folder: Path, fresh: bool = False
) -> tuple[list[Portrait], list[str]]:
    """Portraits of everybody in a clip, and the lines that were logged."""
    info, lines = probe(clip), list[str]()
    index = index_frames(info)
    people = people_in_clip(info, index, analyser, size=160)
    portraits = make_portraits(people, people, info, index, analyser, None, {"net": "1"}, folder, lines.append, fresh)
    return portraits, lines


def arrays(portraits: Sequence[Portrait]) -> dict[str, bytes]:
    packed = [pack(portrait, number) for number, portrait in enumerate(portraits)]
    return {name: f"{a.dtype}{a.shape}".encode() + a.tobytes() for one in packed for name, a in one.items()}


@pytest.fixture(scope="module")
def stored(
    talking_clip: Path, analyser: FaceAnalyser, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, bytes]]:
    """A folder with the portraits of the talking clip, and what they are."""
    folder = tmp_path_factory.mktemp("work")
    portraits, lines = portraits_of(talking_clip, analyser, folder)
    assert lines == [] and {path.name for path in folder.iterdir()} == set(PORTRAITS)
    return folder, arrays(portraits)


def test_a_short_clip_gives_all_that_it_shows(talking_clip: Path, analyser: FaceAnalyser, tmp_path: Path) -> None:
    (portrait,), _ = portraits_of(talking_clip, analyser, tmp_path)
    assert portrait.reference.index == 0
    assert portrait.style.shape == (12, 478, 3)
    assert 1 <= len(portrait.references) <= 8 and portrait.references[0].crop.shape == (320, 320, 3)
    assert 1 <= len(portrait.mouths) <= 8 and 40 < portrait.mouths[0].patch.rgb.shape[0] < 120  # px of the clip's own
    assert shortcomings(portrait, 0) == []


def test_stored_and_fresh_portraits_are_equal_bit_for_bit(
    stored: tuple[Path, dict[str, bytes]], talking_clip: Path, analyser: FaceAnalyser, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, expected = stored
    again, _ = portraits_of(talking_clip, analyser, folder, fresh=True)
    assert arrays(again) == expected
    monkeypatch.setattr("talkswap.render.portraits.look_closely", None)  # would be called for a look
    read, lines = portraits_of(talking_clip, analyser, folder)
    assert arrays(read) == expected and lines == []


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "record", "field"])
def test_damaged_portraits_are_made_again_with_one_line(
    stored: tuple[Path, dict[str, bytes]], talking_clip: Path, analyser: FaceAnalyser, damage: str
) -> None:
    folder, expected = stored
    values, record = (folder / name for name in PORTRAITS)
    content = values.read_bytes()
    if damage == "flip":
        values.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
    elif damage == "cut":
        values.write_bytes(content[: len(content) // 2])
    elif damage == "gone":
        values.unlink()
    elif damage == "record":
        record.write_text("{")
    else:
        record.write_text(json.dumps({"key": json.loads(record.read_text())["key"]}))
    portraits, lines = portraits_of(talking_clip, analyser, folder)
    assert arrays(portraits) == expected
    assert lines == [f"the portraits in {folder} are damaged and will be made again"]
    assert portraits_of(talking_clip, analyser, folder)[1] == []


def test_portraits_of_another_clip_are_not_taken(
    stored: tuple[Path, dict[str, bytes]],
    write_clip: WriteClip,
    example_pictures: list[np.ndarray],
    analyser: FaceAnalyser,
    tmp_path: Path,
) -> None:
    for path in stored[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    other = write_clip(example_pictures[4:16], sound=False)
    portraits, lines = portraits_of(other, analyser, tmp_path)
    assert lines == [] and arrays(portraits) != stored[1]


def test_without_a_folder_nothing_is_kept(talking_clip: Path, analyser: FaceAnalyser, tmp_path: Path) -> None:
    portraits, lines = portraits_of(talking_clip, analyser, tmp_path / "none")
    assert portraits and lines == [] and not (tmp_path / "none").exists()


def test_two_people_have_a_portrait_each_whatever_their_order(
    write_clip: WriteClip,
    example_pictures: list[np.ndarray],
    source_photo: Path,
    analyser: FaceAnalyser,
    tmp_path: Path,
) -> None:
    height = example_pictures[0].shape[0]
    photo = cv2.resize(cv2.imread(str(source_photo))[:, :, ::-1], (height, height), interpolation=cv2.INTER_AREA)
    clip = write_clip([np.hstack([picture, photo]) for picture in example_pictures], "two.mp4", sound=False)
    info = probe(clip)
    index = index_frames(info)
    people = people_in_clip(info, index, analyser)
    assert len(people) == 2

    def looks(chosen: list[Person]) -> list[dict[str, bytes]]:
        made = make_portraits(chosen, people, info, index, analyser, None, {}, tmp_path / "none", print)
        return [arrays([portrait]) for portrait in made]

    both = looks(people)
    assert both == looks(people[::-1])[::-1] and [both[1]] == looks(people[1:])
    speaker, still = sorted(
        make_portraits(people, people, info, index, analyser, None, {}, tmp_path, print), key=lambda p: -len(p.style)
    )
    assert len(speaker.style) >= 12 and len(still.style) == 0
    assert shortcomings(still, 1) == [
        "the clip shows no open mouth of face 1, its teeth are painted dark",
        "the clip doesn't show face 1 speaking, its lips move in a usual style; see --style-from",
    ]


def test_a_single_frame_gives_a_template_and_names_what_is_missing(
    write_clip: WriteClip, example_pictures: list[np.ndarray], analyser: FaceAnalyser, tmp_path: Path
) -> None:
    clip = write_clip(example_pictures[:1], "one.mp4", sound=False)
    (portrait,), _ = portraits_of(clip, analyser, tmp_path)
    assert np.isfinite(portrait.template).all() and len(portrait.references) == 1 and len(portrait.style) == 0
    assert len(shortcomings(portrait, 0)) == 2 - bool(portrait.mouths)


# --- where is looked


def person(*seen: float) -> Person:
    face = AlignedFace(np.zeros((8, 8, 3), np.uint8), np.eye(2, 3, dtype=np.float32), np.zeros((478, 3), np.float32), 0)
    times = tuple(Fraction(time) for time in seen)
    return Person(0, 1, 1.0, 0.5, 1.0, face.crop, times[0], 100.0, face, None, times)


def index_of(frames: int, rate: int, keyframes: tuple[int, ...] = (0,)) -> FrameIndex:
    return FrameIndex(
        tuple(Fraction(k, rate) for k in range(frames)), Fraction(1, rate), tuple(range(frames)), keyframes
    )


def test_windows_begin_where_the_person_was_seen_spread_over_the_clip() -> None:
    config = WindowConfig()
    assert windows_of(person(0), index_of(120, 25), config) == [Window(0, 120)]
    assert windows_of(person(0), index_of(1, 25), config) == [Window(0, 1)]
    hour = index_of(90000, 25)
    times = [*range(10), *range(10, 3600, 150)]
    assert [w.first / 25 for w in windows_of(person(*times), hour, config)] == [460, 1360, 2260, 3160]
    assert {w.last - w.first for w in windows_of(person(*times), hour, config)} == {30}
    # seen once: from there on, and no farther than the clip
    assert windows_of(person(100), hour, config)[0] == Window(2500, 2530)
    late = windows_of(person(3599.6), hour, config)
    assert late == [Window(89990, 90000)]


def test_every_second_frame_of_a_fast_clip_is_read_once(
    write_clip: WriteClip, example_pictures: list[np.ndarray]
) -> None:
    clip = write_clip(example_pictures * 2, "fast.mp4", range(32), Fraction(1, 50), sound=False)
    info = probe(clip)
    frames = list(frames_of([Window(3, 9), Window(6, 10), Window(20, 24)], info, index_frames(info)))
    assert [(w.first, f.source_index) for w, f in frames] == [
        (3, 3), (3, 5), (6, 6), (3, 7), (6, 8), (20, 20), (20, 22)
    ]  # fmt: skip
    assert all(frame.time == Fraction(frame.source_index, 50) for _, frame in frames)
    whole = list(frames_of([Window(0, 32)], info, index_frames(info)))
    assert np.array_equal(frames[0][1].rgb, next(f.rgb for _, f in whole if f.source_index == 4)) is False


# --- the style of another clip


def test_the_style_of_another_clip(analyser: FaceAnalyser) -> None:
    style = style_of(EXAMPLES / "target.mp4", analyser)
    assert style.shape == (90, 478, 3) and 0.01 < np.abs(style).max() < 1


def test_clips_that_lend_no_style_are_named(
    write_clip: WriteClip,
    example_pictures: list[np.ndarray],
    source_photo: Path,
    analyser: FaceAnalyser,
    tmp_path: Path,
) -> None:
    with pytest.raises(InputMissingError):
        style_of(tmp_path / "none.mp4", analyser)
    with pytest.raises(NoTargetFaceError, match="no face was found"):
        style_of(write_clip([np.full_like(example_pictures[0], 90)] * 5, "grey.mp4", sound=False), analyser)
    with pytest.raises(UsageError, match="in only 8 frames"):
        style_of(write_clip(example_pictures[:8], "short.mp4", sound=False), analyser)
    photo = cv2.resize(cv2.imread(str(source_photo))[:, :, ::-1], (320, 320), interpolation=cv2.INTER_AREA)
    with pytest.raises(UsageError, match="nobody speaks"):
        style_of(write_clip([photo] * 16, "still.mp4", sound=False), analyser)


@pytest.fixture
def plan(talking_clip: Path, voice_file: Path, tmp_path: Path) -> RenderPlan:
    return RenderPlan(None, talking_clip, voice_file, tmp_path / "out.mp4", preset="compact", device="cpu", swap=False)


def test_a_render_speaks_in_the_style_of_another_clip(plan: RenderPlan) -> None:
    def motion(style_from: Path | None) -> np.ndarray:
        painter = prepare(replace(plan, style_from=style_from), lambda event: None).people.subjects[0].painter
        assert painter is not None and painter.motion is not None
        return painter.motion.at([0.1, 0.2, 0.3])

    own = motion(None)
    assert np.array_equal(motion(Path("self")), own)
    assert np.abs(motion(EXAMPLES / "target.mp4") - own).max() > 1e-3


def test_a_style_is_asked_for_in_vain(plan: RenderPlan, tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match="none.mp4"):
        prepare(replace(plan, style_from=tmp_path / "none.mp4"), lambda event: None)
    alone = replace(plan, style_from=EXAMPLES / "target.mp4", options={"networks": "alone"})
    with pytest.raises(UsageError, match="--style-from is the guide's"):
        prepare(alone, lambda event: None)
    assert style_clip(replace(plan, style_from=tmp_path / "self")) is None
    assert style_clip(alone) == EXAMPLES / "target.mp4"


# --- the work folder


def test_whoever_goes_on_with_a_render_reads_its_portraits(plan: RenderPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    work_folder(plan.output).mkdir()

    def template_and_style() -> tuple[bytes, bytes]:
        painter = prepare(plan, lambda event: None).people.subjects[0].painter
        assert painter is not None and painter.motion is not None and painter.face.template is not None
        return painter.face.template.tobytes(), painter.motion.states.tobytes()

    fresh = template_and_style()
    monkeypatch.setattr("talkswap.render.portraits.look_closely", None)  # would be called for a look
    assert template_and_style() == fresh


def test_the_work_folder_keeps_portraits_as_long_as_segments(tmp_path: Path) -> None:
    lines: list[str] = []
    output = tmp_path / "out.mp4"
    timeline = Timeline(tuple(range(20)), tuple(Fraction(k, 25) for k in range(20)), Fraction(20, 25))
    with pytest.raises(KeyError), WorkFolder(output, False, lines.append) as folder:
        for name in PORTRAITS:
            (folder.path / name).write_text("portrait")
        folder.begin({"plan": 1}, 4)
        spans = cut_spans(timeline, 0.4, 4)
        folder.take_up(spans, ".mp4")
        folder.part(spans[0]).write_bytes(b"segment")
        folder.finish(spans[0], {})
        raise KeyError
    assert all((folder.path / name).read_text() == "portrait" for name in PORTRAITS)
    with WorkFolder(output, False, lines.append) as folder:
        assert folder.begin({"plan": 1}, 8) == 4 and folder.take_up(spans, ".mp4") == spans[0].last
        folder.begin({"plan": 2}, 4)
        assert {path.name for path in folder.path.iterdir()} == {"lock", "work.json", *PORTRAITS}
    assert not folder.path.exists()
    assert any("plan changed: 1 finished segment removed" in line for line in lines)


def test_nothing_is_written_into_a_folder_that_went_away(tmp_path: Path) -> None:
    store = PortraitStore(tmp_path / "gone", "key", print)
    store.write([])
    assert store.read() is None and replace(WindowConfig(), windows=2).windows == 2
