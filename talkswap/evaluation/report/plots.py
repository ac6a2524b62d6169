"""Per-pair plots of a report: one small drawing a metric, one line a method, one dot a pair, as SVG without a library.

Colours and fonts come from the page, so that the drawing follows its light and dark side.  Every drawing has a title and a
description for those who hear the page, and every dot its pair's name where there are few enough to ask for.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from talkswap.evaluation.report.tables import figure
from talkswap.faces.geometry import outer_eye_distance
from talkswap.faces.mesh import OUTER_LIPS
from talkswap.files import write_atomically
from talkswap.types import FloatArray, UInt8Image

WIDTH = 460
LEFT, RIGHT, TOP, BOTTOM = 150, 16, 30, 44  # px around the field
LINE = 24  # px a method
NAMED_DOTS = 400  # up to this many dots of a drawing carry their pair's name
SPREAD = 5.0  # px by which dots of one line step aside, so that equal values do not hide each other
LONGEST_NAME = 24  # characters beside the field


@dataclass(frozen=True)
class Dots:
    """One method's line."""

    name: str
    values: tuple[tuple[str, float], ...]  # pair's name, value
    mean: float | None = None
    published: float | None = None  # the paper's figure, where it may stand here


def plain(text: str) -> str:
    """``text`` for HTML and SVG: escaped, on one line, without control characters."""
    return html.escape("".join(c if c.isprintable() else repr(c)[1:-1] for c in text))


def ticks(low: float, high: float, wanted: int = 5) -> tuple[float, ...]:
    """Round numbers from at most ``low`` to at least ``high``, in steps of 1, 2 or 5 times a power of ten."""
    if not low < high:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(place * step for place in range(first, last + 1))


def dot_plot(identity: str, title: str, axis: str, lines: Sequence[Dots]) -> str:
    """An ``<svg>`` element.

    Args:
        identity: unique in the page; of letters, digits and hyphens.
        title: the metric and the setting.
        axis: what the numbers are, with their unit and the better side.
        lines: from top to bottom; those without a value are left out.

    Raises:
        ValueError: no line has a value.
    """
    lines = [line for line in lines if line.values or line.published is not None]
    numbers = [value for line in lines for _, value in line.values]
    numbers += [line.published for line in lines if line.published is not None]
    if not numbers:
        raise ValueError("a plot without a value")
    marks = ticks(min(numbers), max(numbers))
    low, high = marks[0], marks[-1]
    height = TOP + LINE * len(lines) + BOTTOM
    floor = height - BOTTOM
    named = sum(len(line.values) for line in lines) <= NAMED_DOTS

    def across(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    parts = [
        f'<svg class="plot" role="img" aria-labelledby="{identity}-t {identity}-d" viewBox="0 0 {WIDTH} {height}"'
        f' width="{WIDTH}" height="{height}">',
        f'<title id="{identity}-t">{plain(title)}</title>',
        f'<desc id="{identity}-d">{plain(_described(axis, lines))}</desc>',
        f'<text class="name" x="{WIDTH / 2:g}" y="16" text-anchor="middle">{plain(title)}</text>',
    ]
    for mark in marks:
        x = across(mark)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{floor}"/>')
        parts.append(f'<text x="{x:.1f}" y="{floor + 14}" text-anchor="middle">{mark:.6g}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2:g}" y="{height - 8}" text-anchor="middle">{plain(axis)}</text>')
    for place, line in enumerate(lines):
        y = TOP + LINE * (place + 0.5)
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:g}" text-anchor="end">{plain(_short(line.name))}</text>')
        parts.append(_dots(line, y, across, named))
        if line.mean is not None:
            parts.append(f'<path class="mean" d="M{across(line.mean):.1f} {y - 9:g}v18"/>')
        if line.published is not None:
            x = across(line.published)
            parts.append(
                f'<path class="paper" d="M{x:.1f} {y - 6:g}l6 6-6 6-6-6z"><title>{figure(line.published)} in the paper'
                "</title></path>"
            )
    parts.append("</svg>")
    return "".join(parts)


def _dots(line: Dots, y: float, across: Callable[[float], float], named: bool) -> str:
    spots = [
        (name, value, across(value), y + SPREAD * ((number % 3) - 1))
        for number, (name, value) in enumerate(line.values)
    ]
    if named:
        return "".join(
            f'<circle class="dot" cx="{x:.1f}" cy="{down:g}" r="3"><title>{plain(name)}: {figure(value)}</title></circle>'
            for name, value, x, down in spots
        )
    # one stroke of no length a dot: a tenth of the bytes
    return f'<path class="dots" d="{"".join(f"M{x:.1f} {down:g}h0" for _, _, x, down in spots)}"/>' if spots else ""


def _described(axis: str, lines: Sequence[Dots]) -> str:
    said = []
    for line in lines:
        parts = []
        if line.values:
            values = [value for _, value in line.values]
            parts.append(
                f"{len(values)} {'pair' if len(values) == 1 else 'pairs'} from {figure(min(values))} to {figure(max(values))}"
            )
        if line.mean is not None:
            parts.append(f"mean {figure(line.mean)}")
        if line.published is not None:
            parts.append(f"{figure(line.published)} in the paper")
        said.append(f"{line.name}: {', '.join(parts)}")
    return f"{axis}. {'; '.join(said)}."


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


# --- The report's pictures: a row of faces and a row of mouths over time, cut out while a clip's frames go by.


GREY = 128  # of a tile without a face


@dataclass(frozen=True)
class SheetConfig:
    """How many pictures, and how large: two settings of twelve pairs and five methods stay under 6 MB in one page."""

    faces: int = 5  # moments in the row of faces
    mouths: int = 20  # moments in the row of mouths
    face_side: int = 112  # px of a tile
    mouth_width: int = 64
    mouth_height: int = 44
    face_eyes: float = 2.8  # side of the cut in outer eye distances: hair and collar show how well the paste fits
    mouth_eyes: float = 1.0  # width of the cut in outer eye distances
    quality: int = 78  # of JPEG


def moments(frames: int, count: int) -> tuple[int, ...]:
    """The middles of ``count`` equal parts of a clip, as frame numbers; fewer where the clip has fewer frames."""
    count = min(count, frames)
    return tuple(int((part + 0.5) * frames / count) for part in range(count))


class SheetMaker:
    """Takes the frames of one result in their order and keeps only the tiles.

    Args:
        frames: how many will come.
        config: what is cut out.
    """

    def __init__(self, frames: int, config: SheetConfig | None = None) -> None:
        self._config = config or SheetConfig()
        self._face_moments = frozenset(moments(frames, self._config.faces))
        self._mouth_moments = frozenset(moments(frames, self._config.mouths))
        self._faces: list[UInt8Image] = []
        self._mouths: list[UInt8Image] = []
        self._last: FloatArray | None = None

    def add(self, number: int, rgb: UInt8Image, landmarks: FloatArray | None) -> None:
        """Look at one frame.

        Args:
            number: of the frame, from 0.
            rgb: H x W x 3.
            landmarks: 478 x 2 or 3 in px of the frame; None where no face was found: the face's tile then shows the
                place of the last one, the mouth's tile is grey.
        """
        config = self._config
        known = landmarks is not None and bool(np.isfinite(landmarks[:, :2]).all())
        if known:
            self._last = landmarks
        if number in self._face_moments:
            self._faces.append(face_tile(rgb, self._last, config))
        if number in self._mouth_moments:
            self._mouths.append(mouth_tile(rgb, landmarks if known else None, config))

    def write(self, folder: Path, stem: str) -> tuple[Path, Path]:
        """Write ``STEM-faces.jpg`` and ``STEM-mouths.jpg``.

        Raises:
            OutputUnwritableError: the folder is read-only or the disk full.
        """
        config = self._config
        faces = self._faces or [face_tile(None, None, config)]
        mouths = self._mouths or [mouth_tile(None, None, config)]
        return (
            write_jpeg(folder / f"{stem}-faces.jpg", np.concatenate(faces, axis=1), config.quality),
            write_jpeg(folder / f"{stem}-mouths.jpg", np.concatenate(mouths, axis=1), config.quality),
        )


def face_tile(rgb: UInt8Image | None, landmarks: FloatArray | None, config: SheetConfig) -> UInt8Image:
    """A square around the face, ``config.face_side`` px; the middle of the picture where no face is known."""
    size = (config.face_side, config.face_side)
    if rgb is None:
        return np.full((*size, 3), GREY, np.uint8)
    if landmarks is None:
        side = float(min(rgb.shape[:2]))
        return _cut(rgb, (rgb.shape[1] / 2, rgb.shape[0] / 2), side, size)
    points = np.asarray(landmarks)[:, :2]
    middle = (points.min(0) + points.max(0)) / 2
    return _cut(rgb, (float(middle[0]), float(middle[1])), config.face_eyes * _eye_distance(points), size)


def mouth_tile(rgb: UInt8Image | None, landmarks: FloatArray | None, config: SheetConfig) -> UInt8Image:
    """The mouth at a size that does not follow its opening: grey where no face is known."""
    size = (config.mouth_width, config.mouth_height)
    if rgb is None or landmarks is None:
        return np.full((config.mouth_height, config.mouth_width, 3), GREY, np.uint8)
    points = np.asarray(landmarks)[:, :2]
    middle = points[list(OUTER_LIPS)].mean(0)
    return _cut(rgb, (float(middle[0]), float(middle[1])), config.mouth_eyes * _eye_distance(points), size)


def write_photo(path: Path, rgb: UInt8Image, landmarks: FloatArray | None, config: SheetConfig | None = None) -> Path:
    """The source photo as one tile.

    Raises:
        OutputUnwritableError.
    """
    config = config or SheetConfig()
    return write_jpeg(path, face_tile(rgb, landmarks, config), config.quality)


def write_jpeg(path: Path, rgb: UInt8Image, quality: int) -> Path:
    """Write a picture in one move.

    Raises:
        OutputUnwritableError.
    """
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(rgb[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    write_atomically(path, data.tobytes())
    return path


def _eye_distance(points: FloatArray) -> float:
    return max(1.0, float(outer_eye_distance(points)))


def _cut(rgb: UInt8Image, middle: Sequence[float], width: float, size: tuple[int, int]) -> UInt8Image:
    """A box of the picture at ``size`` (width, height) px; what lies outside of the picture repeats its edge."""
    height = width * size[1] / size[0]
    left, top = round(middle[0] - width / 2), round(middle[1] - height / 2)
    right, bottom = left + max(1, round(width)), top + max(1, round(height))
    rows = np.clip(np.arange(top, bottom), 0, rgb.shape[0] - 1)
    columns = np.clip(np.arange(left, right), 0, rgb.shape[1] - 1)
    box = np.ascontiguousarray(rgb[rows[:, None], columns])
    # INTER_AREA averages what it makes smaller, so that thin edges do not flicker along the row
    way = cv2.INTER_AREA if box.shape[1] > size[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(box, size, interpolation=way), np.uint8)
