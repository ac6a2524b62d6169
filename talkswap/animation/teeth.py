"""Which px of an open mouth are upper teeth, and which move with the jaw: two layers from a person's open mouths.

Mouths must not be mixed: in one the tongue lies low, in another the teeth are clenched, and their mean has two rows of
edges.  So each layer comes from one mouth: the skull's from the one with the longest upper teeth above a clear edge, the
jaw's from the one with the deepest hollow under that edge.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from talkswap.types import FloatArray

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # Rec. 601


@dataclass(frozen=True)
class TeethConfig:
    """Thresholds in levels of 255, lengths in eye distances."""

    step: float = 0.03  # over which brightness above and below an edge is compared
    least_step: float = 14.0  # levels: a weaker edge isn't the teeth's
    least_length: float = 0.02  # of upper teeth that count
    hanging: float = (
        0.5  # of the way from dark to bright: what touches the upper lip is so bright, or hangs from nothing
    )
    slope: float = 0.35  # rows per column: the arch of the teeth is no steeper
    hollow: float = 0.06  # under the edge: how deep it's looked for the dark
    clenched: float = 0.12  # what a mouth whose hollow is as bright as its teeth loses, of its depth


@dataclass(frozen=True)
class MouthView:
    """One open mouth on the plane of the mouth."""

    picture: FloatArray  # S S 3
    inside: FloatArray  # S S in [0, 1]: between the lips
    edge: FloatArray  # S: row at which the upper teeth end in each column; the upper lip's border where there are none
    top: FloatArray  # S: row of the upper lip's border
    length: float  # of the upper teeth in the middle, eye distances; 0 where none are seen
    depth: float  # under the edge, eye distances, less for teeth that are clenched


def toothness(picture: FloatArray) -> FloatArray:
    """How bright and how little red px are (S S 3 -> S S): high for teeth, low for lips, tongue and the dark."""
    redness = picture[:, :, 0] - (picture[:, :, 1] + picture[:, :, 2]) / 2
    return np.asarray(picture @ LUMA - redness, np.float32)


def view_mouth(
    picture: FloatArray, inside: FloatArray, scale: float, config: TeethConfig | None = None
) -> MouthView | None:
    """Find the edge of the upper teeth.

    Args:
        picture: S S 3, RGB levels.
        inside: S S in [0, 1], between the lips, a little inside of their border.
        scale: px per eye distance.

    Returns:
        None where hardly anything is between the lips.
    """
    config = config or TeethConfig()
    opening = inside > 0.5
    columns = np.flatnonzero(opening.any(0))
    if len(columns) < 5:
        return None
    side = len(inside)
    top = np.full(side, np.nan)
    bottom = np.full(side, np.nan)
    top[columns] = opening[:, columns].argmax(0)
    bottom[columns] = side - 1 - opening[::-1, columns].argmax(0)
    every = np.arange(side)
    top, bottom = (np.interp(every, columns, rows[columns]) for rows in (top, bottom))
    light = cv2.GaussianBlur(toothness(picture), (0, 0), max(0.6, 0.006 * scale))
    reach = max(2, round(config.step * scale))
    # mean of the rows above less mean of the rows below each row
    sums = np.concatenate([np.zeros((1, side)), np.cumsum(light, 0)])
    row = np.arange(side)
    above = (sums[row + 1] - sums[(row + 1 - reach).clip(0)]) / reach
    below = (sums[(row + 1 + reach).clip(0, side)] - sums[row + 1]) / reach
    steps = above - below  # S S
    steps[(row[:, None] < top + reach - 1) | (row[:, None] > bottom - 1)] = -np.inf
    centre = round((columns[0] + columns[-1]) / 2)
    half = max(2, round(0.22 * (columns[-1] - columns[0])))
    middle = slice(max(columns[0], centre - half), min(columns[-1], centre + half) + 1)
    finite = np.where(np.isfinite(steps), steps, 0)
    # the middle teeth are longest and their edge is nearly level
    profile = finite[:, middle].mean(1)
    start = int(profile.argmax())
    usual_top, usual_bottom = float(np.median(top[middle])), float(np.median(bottom[middle]))
    length = (start + 1 - usual_top) / scale
    teeth, darkest = (float(np.percentile(light[opening], share)) for share in (95, 5))
    edge = top.copy()
    # lower teeth under a dark gap have an edge too, but nothing joins them to the upper lip
    upper = light[int(usual_top) : max(int(usual_top) + 1, (int(usual_top) + start + 1) // 2), middle]
    hangs = float(np.median(upper)) - darkest > config.hanging * (teeth - darkest)
    if profile[start] >= config.least_step and length >= config.least_length and hangs:
        edge = _follow_edge(finite, start, centre, columns, max(1, round(config.slope * reach)))
        edge = cv2.GaussianBlur(edge[None].astype(np.float32), (0, 0), 0.02 * scale)[0]
        edge = np.clip(edge, top, bottom)
    else:
        length, start = 0.0, int(usual_top)
    hollow = light[start + 2 : start + 2 + max(2, round(config.hollow * scale)), middle]
    bright = (float(np.median(hollow)) - darkest) / max(teeth - darkest, 1.0) if hollow.size else 1.0
    depth = (usual_bottom - start) / scale - config.clenched * float(np.clip(bright, 0, 1))
    return MouthView(picture, inside, np.asarray(edge, np.float32), np.asarray(top, np.float32), length, depth)


def _follow_edge(steps: FloatArray, start: int, centre: int, columns: NDArray[np.int64], reach: int) -> FloatArray:
    """Rows (S) of the strongest edge, followed from the middle to both sides a few rows at a time."""
    edge = np.full(steps.shape[1], float(start))
    strong = 0.4 * steps[start, centre]
    for direction in (1, -1):
        row = start
        for column in range(centre, int(columns[-1]) + 1) if direction > 0 else range(centre, int(columns[0]) - 1, -1):
            first = max(0, row - reach)
            near = steps[first : row + reach + 1, column]
            # a dark gap between two teeth has no edge: the row before it goes on
            if near.max() > strong:
                row = first + int(near.argmax())
            edge[column] = row
        if direction > 0:
            edge[column:] = row
        else:
            edge[: column + 1] = row
    return edge


def upper_layer(view: MouthView) -> tuple[FloatArray, FloatArray]:
    """The skull's layer (S S 3, S S): the upper teeth, continued upward behind the lip."""
    row = np.arange(len(view.edge))[:, None]
    above = np.clip(view.edge + 1 - row, 0, 1)
    cover = view.inside * above
    # the lip's border may be in the uppermost rows: what is as bright as a tooth isn't
    light = toothness(view.picture)
    if (cover > 0.5).any():
        # a highlight says nothing of how bright a tooth is, and drawn out upward it would be a white bar
        light = np.minimum(light, np.percentile(light[cover > 0.5], 75))
    light = np.where(cover > 0.5, light, -np.inf)
    certain = (light > 0.9 * light.max(0)) & (cover > 0.5)
    if certain.any():
        # a column that shows lip or shadow only takes its neighbour's tooth
        certain &= light > 0.6 * np.percentile(light[certain], 90)
    return _continued(view.picture, cover, certain)


def lower_layer(view: MouthView, scale: float) -> tuple[FloatArray, FloatArray]:
    """The jaw's layer (S S 3, S S): tongue and lower teeth, continued downward behind the lip."""
    row = np.arange(len(view.edge))[:, None]
    gap = 0.015 * scale  # the edge's own shadow stays with neither
    soft = 0.03 * scale + 1
    cover = view.inside * np.clip((row - view.edge - gap) / soft, 0, 1)
    # the lip's border may be in the lowermost rows
    border = max(1, round(0.025 * scale))
    certain = np.zeros(cover.shape, bool)
    certain[:-border] = (view.inside > 0.5)[border:] & (cover > 0.3)[:-border]
    picture, cover = _continued(view.picture[::-1], cover[::-1], certain[::-1])
    return picture[::-1], cover[::-1]


def _continued(picture: FloatArray, cover: FloatArray, certain: NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """A layer whose columns go on upward, beyond their first certain row, with that row's colour."""
    cover = np.asarray(cover, np.float32)
    columns = np.flatnonzero(certain.any(0))
    if len(columns) == 0:
        return picture, np.zeros_like(cover)
    every = np.arange(cover.shape[1])
    nearest = columns[np.abs(every[:, None] - columns).argmin(1)]  # columns beyond the corners take the last one's
    first = certain.argmax(0)[nearest]
    row = np.arange(len(cover))[:, None]
    # a row of one px would repeat its noise: the mean of a few px
    smooth = cv2.blur(picture, (3, 3))
    # Teeth differ along their arch slowly: single columns' colours, drawn out upward, would be stripes.
    beyond = cv2.GaussianBlur(smooth[first, nearest][None], (0, 0), 0.015 * len(cover))
    colour = np.where((row <= first)[:, :, None], beyond, picture[:, nearest])
    cover = np.where(row < first, cover.max(0), cover)
    return np.asarray(colour, np.float32), np.asarray(cv2.GaussianBlur(cover, (0, 0), 0.7), np.float32)


def draw_teeth(side: int, scale: float, end: float, light: FloatArray) -> tuple[FloatArray, FloatArray]:
    """A hint of upper teeth where nobody has shown any (S S 3, S S): eight soft shapes of one dim colour.

    Args:
        end: row at which the middle teeth end.
        light: RGB.
    """
    column = (np.arange(side, dtype=np.float32) - side / 2) / scale  # eye distances from the middle
    row = np.arange(side, dtype=np.float32)[:, None]
    edge = end - 0.35 * column**2 * scale  # the arch rises to the sides
    width = 0.075 * np.clip(1 - 0.5 * np.abs(column) / 0.3, 0.5, 1)
    gaps = np.abs(np.mod(column / width + 0.5, 1) - 0.5) * width * scale  # px from the nearest gap
    gaps = 1 - 0.12 * np.exp(-((gaps / (0.012 * scale)) ** 2))
    fall = np.clip(1 - (np.abs(column) / 0.3) ** 2, 0, 1)  # the side teeth lie deeper
    colour = light * (gaps * (0.55 + 0.45 * fall))[None, :, None] * np.ones((side, 1, 1), np.float32)
    soft = 0.02 * scale + 1
    cover = np.clip((edge - row) / soft, 0, 1) * np.minimum(fall * 3, 1)
    return np.asarray(colour, np.float32), np.asarray(cover, np.float32)
