"""The portraits of a clip's people, from some windows of successive frames, kept with the render's work folder.

The survey's frames lie far apart, and a speaking style needs frames that follow each other.  So up to four windows of
about a second are read for each person, beginning where the survey saw them; a short clip is read whole.  What comes out
depends on the clip and its people only: every segment of a render, and whoever goes on with it, has the same portraits.
"""

import hashlib
import json
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from talkswap.animation.mouth import OpenMouth
from talkswap.animation.portrait import RATE, Portrait, PortraitCollector, PortraitConfig
from talkswap.errors import NoTargetFaceError, UsageError
from talkswap.faces.analyse import FaceAnalyser
from talkswap.faces.people import PeopleChooser, Person
from talkswap.faces.track import FaceTracker
from talkswap.faces.warp import Patch
from talkswap.files import file_sha256, write_atomically
from talkswap.media.index import FrameIndex, index_frames
from talkswap.media.probe import probe
from talkswap.media.reader import ClipReader
from talkswap.media.timeline import Timeline, typical_step
from talkswap.records import to_plain
from talkswap.render.look import people_in_clip
from talkswap.render.segments import PORTRAITS
from talkswap.types import AlignedFace, ClipInfo, FloatArray, Frame, RenderPlan, UInt8Image

ENDS = 2**20  # bytes at each end of a clip that tell it from another
VERSION = 2  # of what is stored, and of how it is gathered


@dataclass(frozen=True)
class WindowConfig:
    """Which frames the portraits are taken from."""

    windows: int = 4  # of each person
    seconds: Fraction = Fraction(6, 5)  # of a window
    portrait: PortraitConfig = field(default_factory=PortraitConfig)


@dataclass(frozen=True, order=True)
class Window:
    """Successive frames of a clip."""

    first: int  # position in the clip
    last: int  # the one after its last


def windows_of(person: Person, index: FrameIndex, config: WindowConfig) -> list[Window]:
    """Where to look at one person: the whole of a short clip, else windows spread over the times they were seen at."""
    times, count = index.times, len(index.times)
    if index.duration <= config.windows * config.seconds:
        return [Window(0, count)]
    # A window needs its full length, unless the person is seen at the end only.
    seen = [time for time in person.seen or (person.time,) if index.duration - time >= config.seconds]
    seen = seen or [person.time]
    windows: list[Window] = []
    for part in range(config.windows):
        middle = index.duration * (2 * part + 1) / (2 * config.windows)
        time = min(seen, key=lambda t: (abs(t - middle), t))
        first = min(bisect_left(times, time), count - 1)
        if windows and first < windows[-1].last:
            first = windows[-1].last  # the survey saw the person too seldom for windows apart
        if first < count:
            last = bisect_left(times, times[first] + config.seconds)
            windows.append(Window(first, max(first + 1, last)))
    return windows


def frames_of(windows: Sequence[Window], info: ClipInfo, index: FrameIndex) -> Iterator[tuple[Window, Frame]]:
    """Frames of ascending windows at about :data:`RATE` per second, with the window; windows may overlap.

    Windows after one keyframe are read in one go: each seek would decode the same pictures again.
    """
    step = max(1, round(1 / float(typical_step(index.times, index.last_duration)) / RATE))
    groups: dict[int, list[Window]] = {}
    for window in windows:
        groups.setdefault(bisect_right(index.keyframes, window.first), []).append(window)
    with ClipReader(info, index) as reader:
        for group in groups.values():
            positions = tuple(range(group[0].first, max(window.last for window in group)))
            timeline = Timeline(positions, tuple(index.times[p] for p in positions), index.duration)
            showing: dict[int, list[Window]] = {}
            for window in group:
                for position in range(window.first, window.last, step):
                    showing.setdefault(position, []).append(window)
            for frame in reader.frames_for(timeline, showing):
                for window in showing[frame.source_index]:
                    yield window, frame


def look_closely(
    people: Sequence[Person],
    everybody: Sequence[Person],
    info: ClipInfo,
    index: FrameIndex,
    analyser: FaceAnalyser,
    opening_axis: FloatArray | None = None,
    config: WindowConfig | None = None,
    cover: Callable[[UInt8Image], FloatArray] | None = None,
) -> list[PortraitCollector]:
    """Gather what the windows show of some people of a clip.

    Args:
        people: whose portraits are made.
        everybody: all people of the clip, so that nobody is taken for somebody else.
        info, index: the clip.
        analyser: finds and follows faces.
        opening_axis, cover: see :class:`~talkswap.animation.portrait.PortraitCollector`.
        config: see :class:`WindowConfig`.
    """
    config = config or WindowConfig()
    collectors = [PortraitCollector(person.first, opening_axis, config.portrait, cover) for person in people]
    own = [windows_of(person, index, config) for person in people]
    windows = sorted({window for several in own for window in several})
    # Who has no identity vector can only be told by place, and only alone.
    others = [one for one in everybody if one.embedding is not None and all(one is not person for person in people)]
    references = [person.embedding for person in (*people, *others)]
    trackers = {window: FaceTracker(analyser, embed=analyser.embed) for window in windows}
    choosers = {window: PeopleChooser(references) for window in windows}
    for window, frame in frames_of(windows, info, index):
        faces = trackers[window].update(frame)
        height, width = frame.rgb.shape[:2]
        for place, face in enumerate(choosers[window](faces, height, width)[: len(people)]):
            if face is None or window not in own[place]:
                continue
            number, several = own[place].index(window), own[place]
            share = (number + (frame.source_index - window.first) / (window.last - window.first)) / len(several)
            collectors[place].add(frame, face, number, int(share * config.portrait.most))
    return collectors


def make_portraits(
    people: Sequence[Person],
    everybody: Sequence[Person],
    info: ClipInfo,
    index: FrameIndex,
    analyser: FaceAnalyser,
    opening_axis: FloatArray | None,
    weights: Mapping[str, str],
    folder: Path,
    log: Callable[[str], None],
    fresh: bool = False,
    cover: Callable[[UInt8Image], FloatArray] | None = None,
) -> list[Portrait]:
    """The portraits of some people of a clip, from the work folder if they are there, else by looking.

    Args:
        people, everybody, info, index, analyser, opening_axis, cover: as of :func:`look_closely`.
        weights: file -> sha256 of the networks.
        folder: the render's work folder; it may be missing.
        log: takes a line for the user.
        fresh: look in any case.

    Raises:
        OutputUnwritableError: the disk is full or fails.
    """
    config = WindowConfig()
    store = PortraitStore(
        folder, portrait_key(people, info, index, weights, opening_axis, config, cover is not None), log
    )
    stored = None if fresh else store.read()
    if stored is not None and len(stored) == len(people):
        return stored
    collectors = look_closely(people, everybody, info, index, analyser, opening_axis, config, cover)
    portraits = [collector.finish() for collector in collectors]
    store.write(portraits)
    return portraits


def shortcomings(portrait: Portrait, who: int) -> list[str]:
    """What a clip doesn't show of a person whose lips are to move, and what comes of it."""
    lines = []
    if not portrait.mouths:
        lines.append(f"the clip shows no open mouth of face {who}, its teeth are painted dark")
    if not len(portrait.style):
        lines.append(f"the clip doesn't show face {who} speaking, its lips move in a usual style; see --style-from")
    return lines


def style_clip(plan: RenderPlan) -> Path | None:
    """The clip that lends the style, None for ``self``: the target."""
    path = plan.style_from
    return None if path is None or (path.name == "self" and not path.exists()) else path


def style_of(
    path: Path,
    analyser: FaceAnalyser,
    opening_axis: FloatArray | None = None,
    cover: Callable[[UInt8Image], FloatArray] | None = None,
) -> FloatArray:
    """The speaking style (S 478 3) of the most prominent person of a clip.

    Raises:
        InputMissingError, UnreadableMediaError, NoVideoError: the clip.
        NoTargetFaceError: it shows no face.
        UsageError: it shows too little of one, or nobody speaks.
    """
    config = WindowConfig()
    info = probe(path)
    index = index_frames(info)
    people = people_in_clip(info, index, analyser)
    if not people:
        raise NoTargetFaceError(f"no face was found in {path}", "give --style-from a clip of somebody who speaks")
    (collector,) = look_closely(people[:1], people, info, index, analyser, opening_axis, config, cover)
    frames, hint = (
        collector.usable_frames,
        "give --style-from a second or more of somebody who speaks, seen from the front",
    )
    if frames < config.portrait.least_rows:
        raise UsageError(f"{path} shows a face from the front in only {frames} frames of those looked at", hint)
    style = collector.finish().style
    if not len(style):
        raise UsageError(f"nobody speaks in {path} where it was looked at", hint)
    return style


# --- kept on the disk


class PortraitStore:
    """Portraits in a work folder: the arrays as safetensors, and a record that says what they are of.

    Args:
        folder: of the render; where it isn't there, nothing is kept.
        key: a digest of what decides the portraits.
        log: takes a line for the user.
    """

    def __init__(self, folder: Path, key: str, log: Callable[[str], None]) -> None:
        self.folder, self.key, self.log = folder, key, log
        self.arrays, self.record = (folder / name for name in PORTRAITS)

    def read(self) -> list[Portrait] | None:
        """The stored portraits; None where there are none of this clip and its people."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        if not self.record.exists():
            return None
        try:
            stored = json.loads(self.record.read_text(encoding="utf-8"))
            if stored["key"] != self.key:
                return None
            if file_sha256(self.arrays) == stored["sha256"]:
                values = load_file(self.arrays)
                return [unpack(values, number) for number in range(stored["people"])]
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            pass  # said below, as for arrays of another hash
        self.log(f"the portraits in {self.folder} are damaged and will be made again")
        return None

    def write(self, portraits: Sequence[Portrait]) -> None:
        """Keep the portraits.

        Raises:
            OutputUnwritableError: the disk is full or fails.
        """
        from safetensors.numpy import save_file

        if not self.folder.is_dir():
            return
        arrays = {name: a for number, portrait in enumerate(portraits) for name, a in pack(portrait, number).items()}
        # The record goes first and comes last: with it, the arrays are whole.
        self.record.unlink(missing_ok=True)
        write_atomically(self.arrays, lambda part: save_file(arrays, part), durable=True)
        record = {"key": self.key, "people": len(portraits), "sha256": file_sha256(self.arrays)}
        write_atomically(self.record, json.dumps(record, indent=1) + "\n", durable=True)


def portrait_key(
    people: Sequence[Person],
    info: ClipInfo,
    index: FrameIndex,
    weights: Mapping[str, str],
    opening_axis: FloatArray | None,
    config: WindowConfig,
    covers: bool,
) -> str:
    """A digest of what decides portraits: file, part of it, people, networks, settings.

    It holds no outcome of a network, which may differ in its last bits from machine to machine.
    """
    digest = hashlib.sha256()
    with open(info.path, "rb") as file:  # a whole long clip would take longer than the portraits
        size = file.seek(0, 2)
        for place in (0, max(0, size - ENDS)):
            file.seek(place)
            digest.update(file.read(ENDS))
    ingredients = [
        VERSION, size, index.start, index.times[-1], len(index.times), to_plain(config), covers, sorted(weights.items()),
        [(person.index, person.first.index, person.seen) for person in people],
    ]  # fmt: skip
    digest.update(json.dumps(to_plain(ingredients)).encode())
    digest.update(b"" if opening_axis is None else np.ascontiguousarray(opening_axis, np.float32).tobytes())
    return digest.hexdigest()


def pack(portrait: Portrait, number: int) -> dict[str, np.ndarray[Any, Any]]:
    """A portrait as named arrays."""
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "template": portrait.template,
        "style": portrait.style,
        "rest": np.array([portrait.rest], np.float64),
    }
    for place, face in enumerate((portrait.reference, *portrait.references)):
        arrays |= {
            f"face{place}.crop": face.crop,
            f"face{place}.affine": face.affine,
            f"face{place}.landmarks": face.landmarks,
            f"face{place}.index": np.array([face.index]),
        }
    for place, mouth in enumerate(portrait.mouths):
        arrays |= {
            f"mouth{place}.rgb": mouth.patch.rgb,
            f"mouth{place}.place": np.array([mouth.patch.x, mouth.patch.y]),
            f"mouth{place}.landmarks": mouth.landmarks,
        }
    return {f"{number}.{name}": np.ascontiguousarray(array) for name, array in arrays.items()}


def unpack(arrays: Mapping[str, np.ndarray[Any, Any]], number: int) -> Portrait:
    """The portrait that :func:`pack` gave the arrays of.

    Raises:
        KeyError: one is missing.
    """
    own = {name.partition(".")[2]: a for name, a in arrays.items() if name.partition(".")[0] == str(number)}
    faces = [
        AlignedFace(own[f"{key}.crop"], own[f"{key}.affine"], own[f"{key}.landmarks"], int(own[f"{key}.index"][0]))
        for key in (f"face{place}" for place in range(sum(name.endswith(".crop") for name in own)))
    ]
    mouths = [
        OpenMouth(
            Patch(own[f"{key}.rgb"], int(own[f"{key}.place"][0]), int(own[f"{key}.place"][1])), own[f"{key}.landmarks"]
        )
        for key in (f"mouth{place}" for place in range(sum(name.endswith(".rgb") for name in own)))
    ]
    return Portrait(faces[0], own["template"], own["style"], tuple(faces[1:]), tuple(mouths), float(own["rest"][0]))
