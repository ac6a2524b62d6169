"""Two people of one clip with faces and voices of their own, as they pass each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from wave import open as open_wave

import av
import cv2
import numpy as np
import pytest

from talkswap.errors import NoTargetFaceError, UsageError
from talkswap.faces.analyse import FaceAnalyser, load_analyser
from talkswap.render.corridor import Corridor, Work
from talkswap.render.people import PersonRequest, find_people, person_requests
from talkswap.render.pipeline import Stopwatch
from talkswap.render.prepare import Prepared, mix, prepare
from talkswap.render.render import render_clip
from talkswap.render.source import SourceEncoder, read_photo, read_source
from talkswap.types import Frame, RenderPlan, UInt8Image, Voice

ROOT = Path(__file__).parents[1]
COUNT = 16  # frames
SIDE = 150  # px of a person's square in the clip


def square_around(picture: np.ndarray, landmarks: np.ndarray, side: int) -> np.ndarray:
    """A square of a picture with the head in its middle."""
    low, high = landmarks[:, :2].min(0), landmarks[:, :2].max(0)
    middle, half = (low + high) / 2, float((high - low).max()) * 0.85
    corners = np.array([middle - half, middle + [half, -half], middle + [-half, half]], np.float32)
    wanted = np.array([[0, 0], [side, 0], [0, side]], np.float32)
    matrix = cv2.getAffineTransform(corners, wanted)
    return cv2.warpAffine(picture, matrix, (side, side), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT)


@pytest.fixture(scope="module")
def analyser() -> FaceAnalyser:
    return load_analyser("compact", ROOT / "weights" / "compact")


@pytest.fixture(scope="module")
def photos(
    analyser: FaceAnalyser, example_pictures: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Square photos of the example's two people: ``anna`` of the photo, ``bert`` of the clip."""
    folder = tmp_path_factory.mktemp("photos")
    made = {}
    for name, picture in (("anna", read_photo(ROOT / "examples" / "source.png")), ("bert", example_pictures[0])):
        face = analyser.detect(picture)[0]
        made[name] = folder / f"{name}.png"
        cv2.imwrite(str(made[name]), square_around(picture, face.landmarks, 256)[:, :, ::-1])
    return made


def places(frame: int) -> dict[str, tuple[int, int]]:
    """Left upper corners of the people's squares: anna goes right, bert left, a little lower."""
    share = frame / (COUNT - 1)
    return {"bert": (round(310 - 290 * share), 110), "anna": (round(20 + 290 * share), 10)}


@pytest.fixture(scope="module")
def crossing(photos: dict[str, Path], write_clip: Callable[..., Path]) -> Path:
    """Both on a grey wall; they pass each other in the middle of the clip, anna in front."""
    people = {n: cv2.resize(read_photo(p), (SIDE, SIDE), interpolation=cv2.INTER_AREA) for n, p in photos.items()}
    pictures = []
    for frame in range(COUNT):
        picture = np.full((270, 480, 3), 120, np.uint8)
        for name, (x, y) in places(frame).items():
            picture[y : y + SIDE, x : x + SIDE] = people[name]
        pictures.append(picture)
    return write_clip(pictures, "crossing.mp4")


def write_tone(path: Path, hz: int, seconds: float) -> Path:
    samples = 0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * 16000)) / 16000)
    with open_wave(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture
def plan(crossing: Path, photos: dict[str, Path], tmp_path: Path) -> RenderPlan:
    """Anna gets bert's face and bert anna's."""
    faces = ((str(photos["anna"]), photos["bert"]), (str(photos["bert"]), photos["anna"]))
    return RenderPlan(None, crossing, None, tmp_path / "out.mp4", preset="compact", device="cpu", map=faces)


def pictures_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def tones_of(path: Path) -> dict[int, float]:
    """Level of 400 and of 900 Hz."""
    with av.open(str(path)) as container:
        rate = container.streams.audio[0].rate
        sound = np.concatenate([f.to_ndarray().mean(0) for f in container.decode(audio=0)])
    strength = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    at = np.fft.rfftfreq(len(sound), 1 / rate)
    return {hz: float(strength[np.abs(at - hz) < 20].max() / np.median(strength)) for hz in (400, 900)}


def test_two_people_who_pass_each_other_keep_their_faces_and_voices(
    plan: RenderPlan, photos: dict[str, Path], analyser: FaceAnalyser
) -> None:
    low = write_tone(plan.output.with_name("low.wav"), 400, 0.64)
    high = write_tone(plan.output.with_name("high.wav"), 900, 0.4)
    spoken = replace(plan, voices=((str(photos["anna"]), low), (str(photos["bert"]), high)))
    report = render_clip(spoken)
    identities = {}
    for name, path in photos.items():
        face = analyser.detect(read_photo(path))[0]
        identities[name] = analyser.embed(read_photo(path), face.landmarks)
    before, after = pictures_of(plan.target), pictures_of(plan.output)

    def likeness(picture: UInt8Image, place: tuple[int, int]) -> dict[str, float]:
        """How much the one face of a square looks like either of them."""
        x, y = place
        square = np.ascontiguousarray(picture[y : y + SIDE, x : x + SIDE])
        (face,) = analyser.detect(square)
        embedding = analyser.embed(square, face.landmarks)
        return {name: float(embedding @ identity) for name, identity in identities.items()}

    for frame in (0, COUNT - 1):
        for name, place in places(frame).items():
            other = "bert" if name == "anna" else "anna"
            own, dubbed = likeness(before[frame], place), likeness(after[frame], place)
            # these squares are small: the other's face is told by how far the likeness moved, not by which is ahead
            assert dubbed[other] > own[other] + 0.2, f"{name} in frame {frame}"
            assert dubbed[name] < own[name] - 0.3, f"{name} in frame {frame}"
    assert len(after) == len(before) == COUNT
    people = {Path(one["photos"][0]).stem: one for one in report.people}
    assert set(people) == {"anna", "bert"}
    assert people["anna"]["frames"] >= COUNT // 2 and people["anna"]["voice"] == str(high)
    tones = tones_of(plan.output)
    assert min(tones.values()) > 50, "both voices are heard"


def test_nobody_else_is_touched(plan: RenderPlan, photos: dict[str, Path]) -> None:
    render_clip(replace(plan, map=plan.map[:1], sync=False, provenance=False))
    before, after = pictures_of(plan.target), pictures_of(plan.output)
    x, y = places(0)["bert"]
    same = before[0][y : y + SIDE, x : x + SIDE].astype(float) - after[0][y : y + SIDE, x : x + SIDE]
    x, y = places(0)["anna"]
    changed = before[0][y : y + SIDE, x : x + SIDE].astype(float) - after[0][y : y + SIDE, x : x + SIDE]
    assert np.square(same).mean() < 12 < 4 * 12 < np.square(changed).mean()


@pytest.fixture(scope="module")
def ready(crossing: Path, photos: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The same plan, prepared: networks loaded, people found."""
    faces = ((str(photos["anna"]), photos["bert"]), (str(photos["bert"]), photos["anna"]))
    out = tmp_path_factory.mktemp("out") / "out.mp4"
    plan = RenderPlan(None, crossing, None, out, preset="compact", device="cpu", map=faces, sync=False)
    return prepare(plan, lambda event: None)


def test_a_prepared_plan_says_who_gets_what(
    ready: Prepared, photos: dict[str, Path], analyser: FaceAnalyser, crossing: Path
) -> None:
    facts = [subject.to_json() for subject in ready.people.subjects]
    assert [one["photos"] for one in facts] == [[str(photos["bert"])], [str(photos["anna"])]]
    assert sorted(one["face"] for one in facts) == [0, 1] and all(one["voice"] is None for one in facts)
    requests = [PersonRequest(who) for who in ("0", str(photos["anna"]), "1")]
    with pytest.raises(UsageError, match="are the same person"):
        find_people(list(ready.people.everybody), requests, crossing, analyser)
    with pytest.raises(NoTargetFaceError, match="no face 7"):
        find_people(list(ready.people.everybody), [PersonRequest("7")], crossing, analyser)


def test_of_several_photos_the_best_gives_the_skin_and_all_the_identity(
    ready: Prepared, photos: dict[str, Path], analyser: FaceAnalyser, tmp_path: Path
) -> None:
    sharp = read_photo(photos["anna"])
    soft = np.asarray(cv2.GaussianBlur(sharp, (0, 0), 4), np.uint8)
    paths = (tmp_path / "soft.png", photos["anna"], photos["bert"])
    pictures = dict(zip(paths, (soft, sharp, read_photo(photos["bert"])), strict=True))
    encode = SourceEncoder(pictures, analyser, ready.networks.system.crop.size)
    person = encode(paths[:2])
    assert person.photos == (paths[1], paths[0]), "the sharp one first"
    assert not encode.warnings
    mean = sum(encode([path]).identity for path in paths[:2])
    np.testing.assert_allclose(person.identity, mean / np.linalg.norm(mean), atol=1e-4)
    encode(paths[1:])
    assert "hardly look like the same person" in encode.warnings[-1]
    whole, blurred = (
        read_source(picture, analyser, 256, soft_path) for picture, soft_path in ((sharp, paths[1]), (soft, paths[0]))
    )
    assert whole.quality > 2 * blurred.quality and abs(whole.yaw - blurred.yaw) < 5


def test_heads_that_turn_away_are_reported_with_their_times(ready: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the sixth frame on, every head counts as half turned."""
    now = [0]
    looked = Corridor._look

    def look(corridor: Corridor, frame: Frame) -> Work:
        now[0] = frame.index
        return looked(corridor, frame)

    monkeypatch.setattr(Corridor, "_look", look)
    monkeypatch.setattr("talkswap.faces.track.turned_away", lambda yaw, config: 1.0 if now[0] < 5 else 0.5)
    for subject in ready.people.subjects:
        monkeypatch.setattr(subject.performance, "render", lambda faces, times: [face.crop for face in faces])
    corridor = Corridor(ready, Stopwatch())
    assert {cut.fade for work in corridor.frames() for cut in work.cuts} == {1.0, 0.5}
    report = corridor.report(1.0)
    ((start, end),) = report.turned
    assert start == pytest.approx(5 / 25) and end == pytest.approx(COUNT / 25)
    assert any("turns so far" in warning for warning in report.warnings)


def named(plan: RenderPlan) -> list[tuple[str | None, list[str], str | None]]:
    return [
        (w.who, [p.name for p in w.photos], None if w.voice is None else w.voice.name) for w in person_requests(plan)
    ]


def test_a_plan_names_people_one_by_one_or_all_at_once() -> None:
    a, b, v = Path("a.png"), Path("b.png"), Path("v.wav")
    plain = RenderPlan(a, Path("t.mp4"), None, Path("o.mp4"))
    assert named(plain) == [(None, ["a.png"], None)]
    assert named(replace(plain, more_sources=(b,), face="1")) == [("1", ["a.png", "b.png"], None)]
    several = replace(plain, source=None, map=(("0", a), ("1", b), ("0", b)), voices=(("1", v),))
    assert named(several) == [("0", ["a.png", "b.png"], None), ("1", ["b.png"], "v.wav")]
    assert named(replace(plain, voices=(("0", v), ("2", v)))) == [("0", ["a.png"], "v.wav"), ("2", ["a.png"], "v.wav")]
    assert named(replace(plain, map=(("1", b),), face="0")) == [("1", ["b.png"], None), ("0", ["a.png"], None)]
    assert named(replace(plain, swap=False, voices=(("1", v),))) == [("1", [], "v.wav")]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": None}, "needs a source photo"),
        ({"source": None, "voices": (("1", Path("v.wav")),)}, "of face 1 needs a source photo"),
        ({"map": (("0", Path("b.png")),)}, "nobody is left for the photo"),
        ({"voices": (("0", Path("v.wav")), ("0", Path("w.wav")))}, "two voices"),
        ({"map": (("0", Path("b.png")),), "swap": False}, "--no-swap takes none"),
    ],
)
def test_contradictions_are_named(change: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        person_requests(replace(RenderPlan(Path("a.png"), Path("t.mp4"), None, Path("o.mp4")), **change))  # type: ignore[arg-type]


def test_voices_together_are_as_long_as_the_longest_and_never_clip() -> None:
    long, short = np.full(100, 0.4, np.float32), np.full(60, 0.9, np.float32)
    mixed = mix([Voice(long, 16000), Voice(short, 16000)])
    assert len(mixed.samples) == 100 and mixed.samples.max() == pytest.approx(1)
    assert mixed.samples[80] == pytest.approx(0.4 / 1.3)
    quiet = mix([Voice(long, 16000), Voice(0.5 * short, 16000)])
    np.testing.assert_allclose(quiet.samples[:60], 0.85, rtol=1e-6)
