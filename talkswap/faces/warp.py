"""Move a face's own skin with its mesh, at the picture's own resolution.

The mesh of the frame (478 points) goes to another shape, for example one whose mouth speaks.  A ring of points around the
face stays where it is, so that neck and background next to the jaw are stretched a little instead of being cut.  Where a
px of the result looks in the picture is piecewise affine in the triangles of that mesh; it is rasterised on a coarse grid
and enlarged, and one ``remap`` does the rest.  Where no point moves, every px keeps its bits.

The lips are two surfaces that meet: a flow enlarged across their border would look between them and squeeze the teeth of
an open mouth into the line of a shut one.  So each lip's flow is continued over the other, and the border is cut at full
resolution.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from talkswap.faces.mesh import FACE_OVAL, INNER_LIPS, POINTS, mean_face, rasterise
from talkswap.types import FloatArray, UInt8Image

UPPER_LIP = INNER_LIPS[:11]  # from corner to corner
LOWER_LIP = (INNER_LIPS[0], *INNER_LIPS[:9:-1])
CENTRE = (168, 2, 152)  # between the eyes, under the nose, chin: their mean lies inside the oval


@dataclass(frozen=True)
class SkinConfig:
    """How far around the face the skin gives way, and how finely it is moved."""

    outset: float = 1.3  # size of the still ring, in sizes of the face's oval
    cells: tuple[int, int] = (64, 192)  # least and most cells along the box's longer side
    cell: float = 3.0  # px of the picture that one cell should have at most, within these bounds
    least: float = 0.05  # px: a mesh that moves less than this moves nothing


@dataclass(frozen=True)
class Patch:
    """A rectangle of a picture, with its place."""

    rgb: UInt8Image  # h w 3
    x: int  # px of the picture: left column
    y: int  # px of the picture: top row

    @property
    def place(self) -> tuple[slice, slice]:
        """Rows and columns of the picture."""
        height, width = self.rgb.shape[:2]
        return slice(self.y, self.y + height), slice(self.x, self.x + width)


@lru_cache(maxsize=1)
def _triangles() -> NDArray[np.int32]:
    """The mesh's triangles and a strip between its oval and the still ring, all of one orientation (T 3)."""
    oval = np.array(FACE_OVAL, np.int32)
    ring = POINTS + np.arange(len(oval), dtype=np.int32)
    following, next_ring = np.roll(oval, -1), np.roll(ring, -1)
    # FACE_OVAL runs clockwise as seen in the picture, and so do these corners
    strip = np.concatenate([np.stack([oval, ring, following], 1), np.stack([following, ring, next_ring], 1)])
    return np.concatenate([mean_face().triangles, strip]).astype(np.int32)


def with_ring(points: FloatArray, outset: float) -> FloatArray:
    """A mesh and its still ring: the face's oval enlarged around the middle of the face.

    Args:
        points: 478 3, px.
        outset: size of the ring, in sizes of the oval.

    Returns:
        514 3; the ring lies behind the face.
    """
    centre = points[list(CENTRE)].mean(0)
    ring = centre + (points[list(FACE_OVAL)] - centre) * outset
    ring[:, 2] = points[:, 2].max()
    return np.concatenate([points, ring]).astype(np.float32)


def move_skin(
    rgb: UInt8Image, points: FloatArray, moved_points: FloatArray, config: SkinConfig | None = None
) -> Patch | None:
    """The skin of a face on another shape of its mesh.

    Args:
        rgb: H W 3 uint8, the picture.
        points: 478 3, its mesh, px.
        moved_points: 478 3, where the mesh goes, px.

    Returns:
        The part of the picture that changes; None where the mesh doesn't move, or lies outside the picture.
    """
    config = config or SkinConfig()
    before = with_ring(np.asarray(points, np.float32), config.outset)
    after = before.copy()
    after[:POINTS] = moved_points
    travel = (before - after)[:, :2]
    triangles = _triangles()
    # Only triangles with a corner that moves matter: for speech about half, and the box shrinks to the lower face.
    moving = (np.abs(travel) > config.least).any(1)[triangles].any(1)
    if not moving.any():
        return None
    corners = np.unique(triangles[moving])
    height, width = rgb.shape[:2]
    x0, y0 = np.floor(np.minimum(before, after)[corners, :2].min(0)).astype(int).clip(0) - 1
    x1, y1 = np.ceil(np.maximum(before, after)[corners, :2].max(0)).astype(int) + 2
    x0, y0, x1, y1 = max(int(x0), 0), max(int(y0), 0), min(int(x1), width), min(int(y1), height)
    if x0 >= x1 or y0 >= y1:
        return None
    side = max(x1 - x0, y1 - y0)
    grid = int(np.clip(round(side / config.cell), *config.cells))
    scale = grid / side
    cells = after.copy()
    cells[:, :2] = (cells[:, :2] - (x0, y0) + 0.5) * scale - 0.5  # px centres
    # all triangles: a nose that stays may hide a cheek that moves
    flow, covered = rasterise(cells, travel[triangles].astype(np.float32), triangles, grid)
    rows, columns = round((y1 - y0) * scale + 0.5), round((x1 - x0) * scale + 0.5)
    flow = np.ascontiguousarray(_over_the_lips(flow, covered)[: min(rows, grid), : min(columns, grid)])
    enlarged = cv2.resize(flow, None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_LINEAR)[: y1 - y0, : x1 - x0]
    full = np.zeros((y1 - y0, x1 - x0, 2), np.float32)
    full[: enlarged.shape[0], : enlarged.shape[1]] = enlarged
    map_x = full[:, :, 0] + np.arange(x0, x1, dtype=np.float32)
    map_y = full[:, :, 1] + np.arange(y0, y1, dtype=np.float32)[:, None]
    moved = np.asarray(cv2.remap(rgb, map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE), np.uint8)
    _part_the_lips(rgb, moved, after[:POINTS, :2] - np.array([x0, y0], np.float32), travel, flow, scale, (x0, y0))
    return Patch(moved, x0, y0)


def lip_lines(points: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray] | None:
    """Columns of the inner lips from corner to corner (11) with rows of the upper and of the lower border, px.

    Args:
        points: 478 2.

    Returns:
        None where the lips aren't a function of the column: a head that lies on its side.
    """
    upper, lower = points[list(UPPER_LIP)], points[list(LOWER_LIP)]
    if (np.diff(upper[:, 0]) <= 0).any() or (np.diff(lower[:, 0]) <= 0).any():
        return None
    columns = np.asarray((upper[:, 0] + lower[:, 0]) / 2, np.float32)
    rows = [np.interp(columns, lip[:, 0], lip[:, 1]).astype(np.float32) for lip in (upper, lower)]
    return columns, rows[0], rows[1]


def _part_the_lips(
    rgb: UInt8Image,
    moved: UInt8Image,
    points: FloatArray,
    travel: FloatArray,
    flow: FloatArray,
    scale: float,
    corner: tuple[int, int],
) -> None:
    """Render the surroundings of the lips' border again, in place: above it by the upper lip's flow, below by the lower's.

    Args:
        rgb: H W 3, the picture.
        moved: h w 3, a part of it whose left upper px lies at ``corner``.
        points: 478 2, the mesh in px of ``moved``.
        travel: 478 2, the flow at its points.
        flow: cells of ``moved``, ``scale`` per px.
    """
    lines = lip_lines(points)
    if lines is None:
        return
    columns, upper, lower = lines
    reach = 1 / scale  # px of a cell; over about one and a half the enlarged flow mixes both lips
    height, width = moved.shape[:2]
    x0, x1 = max(0, int(columns[0])), min(width, int(np.ceil(columns[-1])) + 1)
    y0, y1 = max(0, int(upper.min() - 2.5 * reach)), min(height, int(np.ceil(lower.max() + 2.5 * reach)) + 1)
    if x0 >= x1 or y0 >= y1:
        return
    # cells around the box
    left, right = max(0, int(x0 * scale) - 2), min(flow.shape[1], int(x1 * scale) + 3)
    first, last = max(0, int(y0 * scale) - 2), min(flow.shape[0], int(y1 * scale) + 3)
    flow = flow[first:last, left:right]
    lips = [
        _continued(
            flow,
            (columns + 0.5) * scale - 0.5 - left,
            (rows + 0.5) * scale - 0.5 - first,
            travel[list(points_of)],
            side,
        )
        for rows, points_of, side in ((upper, UPPER_LIP, 1), (lower, LOWER_LIP, -1))
    ]
    x, y = np.arange(x0, x1, dtype=np.float32), np.arange(y0, y1, dtype=np.float32)[:, None]
    matrix = np.array([[scale, 0, (x0 + 0.5) * scale - 0.5 - left], [0, scale, (y0 + 0.5) * scale - 0.5 - first]])
    flags, size = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, (x1 - x0, y1 - y0)
    pictures = []
    for lip in lips:
        near = cv2.warpAffine(lip, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        map_x, map_y = near[:, :, 0] + (x + corner[0]), near[:, :, 1] + (y + corner[1])
        pictures.append(cv2.remap(rgb, map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE))
    above = np.clip(np.interp(x, columns, (upper + lower) / 2) + 0.5 - y, 0, 1).astype(np.float32)
    parted = cv2.blendLinear(pictures[0], pictures[1], above, 1 - above)
    # only near the lips, where the enlarged flow isn't one lip's alone
    rows = [np.interp(x, columns, border).astype(np.float32) for border in (upper, lower)]
    inside = np.clip(np.minimum(y - rows[0], rows[1] - y) / reach + 2.5, 0, 1)
    share = np.asarray(inside * np.clip(np.minimum(x - columns[0], columns[-1] - x) / reach, 0, 1), np.float32)
    moved[y0:y1, x0:x1] = cv2.blendLinear(parted, np.ascontiguousarray(moved[y0:y1, x0:x1]), share, 1 - share)


def _continued(flow: FloatArray, columns: FloatArray, rows: FloatArray, travel: FloatArray, side: int) -> FloatArray:
    """One lip's flow continued beyond its border, with its slope there.

    Args:
        flow: cells.
        columns, rows: N, cells, the lip's inner border.
        travel: N 2, the flow on it.
        side: 1 for the upper lip, which is continued downward, -1 for the lower.
    """
    height, width = flow.shape[:2]
    every = np.arange(width)
    border = np.interp(every, columns, rows)
    there = np.stack([np.interp(every, columns, travel[:, k]) for k in range(2)], 1)  # W 2
    # the last cell that lies well inside the lip: nearer to the border a slope would be noise
    last = np.floor(border - 0.5) if side > 0 else np.ceil(border + 0.5)
    last = last.clip(0, height - 1).astype(int)
    slope = (there - flow[last, every]) / np.maximum(np.abs(border - last), 0.5)[:, None]
    beyond = (side * (np.arange(height)[:, None] - last)).clip(0, 2)  # H W, cells past the last one
    inside = flow[np.where(beyond > 0, last, np.arange(height)[:, None]), every]
    return np.asarray(inside + beyond[:, :, None] * slope, np.float32)


def _over_the_lips(flow: FloatArray, covered: NDArray[np.bool_]) -> FloatArray:
    """The flow continued over cells that no triangle covers, so that enlarging it doesn't mix in zeros at the lips."""
    weight = covered.astype(np.float32)
    share = cv2.blur(weight, (3, 3))
    near = cv2.blur(flow, (3, 3)) / np.maximum(share, 1e-6)[:, :, None]
    return np.where(covered[:, :, None], flow, near * (share > 0)[:, :, None]).astype(np.float32)
