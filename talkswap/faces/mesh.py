"""The dense face mesh: mean shape, triangles, and a texture warp from one face's mesh onto another's.

The mesh has the 478 points of the dense landmark network: 468 on the skin, 10 on the irises.  Its mean shape, mirror
pairs, triangles and shape components were measured on our own training portraits (``recipes/mean_face.py``) and are
stored beside this file.

A texture warp shows the source's skin in the target's pose and expression: each mesh triangle moves by its own affine
map.  It makes training pairs and, at render time, the guide, so it must cost a few milliseconds.  Triangles are
rasterised together, row by row, in plain array arithmetic on a coarse grid, and one ``remap`` does the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from talkswap.errors import WeightsMissingError
from talkswap.faces.geometry import neighbour_weights, smooth_step
from talkswap.types import FloatArray, UInt8Image

ASSET = Path(__file__).parent / "assets" / "mean_face.safetensors"
POINTS = 478
SMALLEST_EYES = 16.0  # px between the eyes: a smaller target needs no coarser skin
SKIN_POINTS = 468  # the rest are two irises of five points

# Rings of the mesh's own numbering, each in order around its contour.
FACE_OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
OUTER_LIPS = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)
INNER_LIPS = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95)
LEFT_EYE_RING = (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7)  # left in the picture
RIGHT_EYE_RING = (263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249)
# What speech and blinks leave alone: temples, forehead, nose bridge, corners of the eyes.
STEADY = (
    10, 338, 297, 332, 284, 251, 389, 356, 127, 162, 21, 54, 103, 67, 109, 151, 9, 8, 168, 6, 197, 195,
    33, 133, 362, 263,
)  # fmt: skip


@dataclass(frozen=True)
class MeanFace:
    """The measured mean face; unit = distance between the eye centres, origin between the eyes."""

    points: FloatArray  # 478 3: x right, y down, z toward the viewer negative
    triangles: NDArray[np.int32]  # T 3, all of one orientation seen from the front
    mirror: NDArray[np.int32]  # 478: index of the point on the other half of the face
    components: FloatArray  # K 478 3: directions of shape variation, unit length over all coordinates
    deviations: FloatArray  # K: standard deviation along each, same unit as points


@dataclass(frozen=True)
class WarpConfig:
    """How a texture is warped."""

    cells: tuple[int, int] = (64, 160)  # least and most along the crop's side on which the displacement is rasterised
    cell: float = 2.5  # px of the crop that one cell should have at most, within these bounds
    hidden_cosine: tuple[float, float] = (0.1, 0.5)  # skin seen this flat comes from the face's other half: all, none
    least_mirrored: float = 0.005  # share of points below which a source counts as frontal


@lru_cache(maxsize=1)
def mean_face() -> MeanFace:
    """The stored mean face, read once.

    Raises:
        WeightsMissingError: the installation lacks it.
    """
    from safetensors.numpy import load_file

    if not ASSET.is_file():
        raise WeightsMissingError(
            f"the mean face {ASSET.name} is not installed",
            "install talkswap again",
        )
    stored = load_file(ASSET)
    return MeanFace(
        stored["points"].astype(np.float32),
        stored["triangles"].astype(np.int32),
        stored["mirror"].astype(np.int32),
        stored["components"].astype(np.float32),
        stored["deviations"].astype(np.float32),
    )


def signed_areas(points: FloatArray, triangles: NDArray[np.int32]) -> FloatArray:
    """Twice the signed area in px^2 of each triangle (T); positive = turns as the mean face does, front seen."""
    a, b, c = (points[triangles[:, k], :2] for k in range(3))
    return (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])


def facing(points: FloatArray, triangles: NDArray[np.int32]) -> FloatArray:
    """Cosine between each triangle's normal and the viewing axis (T): 1 = seen full, 0 = edge on, negative = behind."""
    corners = np.asarray(points, np.float32)[triangles]  # T 3 3
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return normal[:, 2] / np.maximum(np.linalg.norm(normal, axis=1), 1e-6)


def rasterise(
    points: FloatArray, values: FloatArray, triangles: NDArray[np.int32], size: int
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Interpolate values over the visible triangles of a mesh on a square grid.

    Args:
        points: N 3, in cells of the grid (centre of the first cell = 0); z decides what hides what.
        values: T 3 C, the value at each triangle's corners.
        triangles: T 3.
        size: cells along one side.

    Returns:
        (map size size C, zero where no triangle lies; covered size size).
    """
    channels = values.shape[2]
    picture = np.zeros((size * size, channels), np.float32)
    covered = np.zeros(size * size, bool)
    area = signed_areas(points, triangles)
    seen = np.flatnonzero(area > 1e-3)
    # Painter's order: far triangles first, so that the nose hides the cheek behind it.
    seen = seen[np.argsort(-points[triangles[seen], 2].sum(1), kind="stable")]
    corners = points[triangles[seen], :2]  # M 3 2
    top = np.clip(np.ceil(corners[:, :, 1].min(1)).astype(np.int64), 0, size)
    bottom = np.clip(np.floor(corners[:, :, 1].max(1)).astype(np.int64) + 1, 0, size)
    rows = np.maximum(bottom - top, 0)
    of_row = np.repeat(np.arange(len(seen)), rows)  # R: which triangle
    y = np.arange(len(of_row)) - np.repeat(np.cumsum(rows) - rows, rows) + top[of_row]
    # Barycentric weight of corner k is (p_k x + q_k y + r_k), from the edge opposite to it.
    following, last = np.roll(corners, -1, 1), np.roll(corners, -2, 1)
    scale = 1 / area[seen][:, None]
    p = (following[:, :, 1] - last[:, :, 1]) * scale  # M 3
    q = (last[:, :, 0] - following[:, :, 0]) * scale
    r = (following[:, :, 0] * last[:, :, 1] - last[:, :, 0] * following[:, :, 1]) * scale
    p_row = p[of_row]
    rest = q[of_row] * y[:, None] + r[of_row]  # R 3
    with np.errstate(divide="ignore", invalid="ignore"):
        bound = -rest / p_row
    left = np.where(p_row > 0, bound, -np.inf).max(1)
    right = np.where(p_row < 0, bound, np.inf).min(1)
    # 1e-3: neighbours share an edge, and rounding must not open a crack between them.
    start = np.clip(np.ceil(left - 1e-3), 0, size).astype(np.int64)
    stop = np.clip(np.floor(right + 1e-3) + 1, 0, size).astype(np.int64)
    length = np.maximum(stop - start, 0)
    of_cell = np.repeat(np.arange(len(of_row)), length)
    x = np.arange(len(of_cell)) - np.repeat(np.cumsum(length) - length, length) + start[of_cell]
    # Along a row the value is affine in x: value = slope x + offset, both known per row.
    corner_values = values[seen]  # M 3 C
    slope = np.einsum("mk,mkc->mc", p, corner_values)[of_row]  # R C
    offset = np.einsum("rk,rkc->rc", rest, corner_values[of_row])
    cell = y[of_cell] * size + x
    picture[cell] = slope[of_cell] * x[:, None].astype(np.float32) + offset[of_cell]
    covered[cell] = True
    return picture.reshape(size, size, channels), covered.reshape(size, size)


def spread(values: FloatArray, covered: NDArray[np.bool_]) -> FloatArray:
    """Continue the map by a few cells past its border, so that enlarging it does not mix in zeros."""
    weight = covered.astype(np.float32)
    total = cv2.blur(values * weight[:, :, None], (5, 5))
    share = cv2.blur(weight, (5, 5))
    near = total / np.maximum(share, 1e-6)[:, :, None]
    return np.where(covered[:, :, None], values, near).astype(np.float32)


@lru_cache(maxsize=1)
def _neighbour_weights() -> FloatArray:
    """468 468, rows sum to one: a Gaussian of 0.08 eye distances over the mean face's surface points."""
    return np.asarray(neighbour_weights(mean_face().points[:SKIN_POINTS], 0.08), np.float32)


def _facing_points(landmarks: FloatArray, triangles: NDArray[np.int32]) -> FloatArray:
    """Cosine to the viewing axis at each of the 478 points, averaged over its triangles."""
    corners = triangles.ravel()
    total = np.bincount(corners, np.repeat(facing(landmarks, triangles), 3), POINTS)
    return np.asarray(total / np.maximum(np.bincount(corners, minlength=POINTS), 1), np.float32)


class MeshTexture:
    """A source face's skin, ready to be warped onto many targets.

    A turned source shows one cheek only.  The hidden one comes from the face's other half, mirrored and brought to
    the brightness of the skin along the seam; between the two the weights fade.

    Args:
        rgb: H W 3 uint8, the picture that holds the source face.
        landmarks: 478 3 in px of ``rgb``.
    """

    def __init__(self, rgb: UInt8Image, landmarks: FloatArray, config: WarpConfig | None = None) -> None:
        self.config = config or WarpConfig()
        mean = mean_face()
        self.triangles = mean.triangles
        self.rgb = rgb
        landmarks = np.asarray(landmarks, np.float32)
        self.other_rgb: UInt8Image | None = None
        # A point borrows from its mirror image where it is hidden itself and the other half is seen better.
        here = _facing_points(landmarks, self.triangles)
        there = here[mean.mirror]
        low, high = self.config.hidden_cosine
        borrowed = smooth_step(there - here, low, high) * (1 - smooth_step(here, low, high))  # 478
        borrowed[:SKIN_POINTS] = _neighbour_weights() @ borrowed[:SKIN_POINTS]  # the seam between two halves is soft
        borrowed[SKIN_POINTS:] = 0
        self.mirrored_share = float(borrowed[:SKIN_POINTS].mean())
        values = landmarks[:, :2]
        if self.mirrored_share > self.config.least_mirrored:
            values = np.concatenate([values, values[mean.mirror], borrowed[:, None]], 1)
            self.other_rgb = self._match_other_half(rgb, landmarks, borrowed, mean.mirror)
        self.values = values[self.triangles].astype(np.float32)  # T 3 C: x, y (, mirrored x, mirrored y, weight)

    @staticmethod
    def _match_other_half(
        rgb: UInt8Image, landmarks: FloatArray, borrowed: FloatArray, mirror: NDArray[np.int32]
    ) -> UInt8Image:
        """``rgb`` with the gain per channel that makes mirrored skin continue the seen skin along the seam."""
        seam = np.flatnonzero((borrowed > 0.05) & (borrowed < 0.95))
        if len(seam) == 0:
            return rgb
        side = max(1.0, float(np.ptp(landmarks[:, 0])) * 0.02)
        soft = cv2.GaussianBlur(rgb, (0, 0), side)
        places = np.round(landmarks[:, :2]).astype(int)
        x = np.clip(places[:, 0], 0, rgb.shape[1] - 1)
        y = np.clip(places[:, 1], 0, rgb.shape[0] - 1)
        colours = soft[y, x].astype(np.float32)  # 478 3
        gain = (colours[seam].mean(0) + 4) / (colours[mirror[seam]].mean(0) + 4)
        return np.clip(np.round(rgb * np.clip(gain, 0.5, 2.0)), 0, 255).astype(np.uint8)

    def displacement(self, target_landmarks: FloatArray, size: int) -> tuple[list[FloatArray], FloatArray]:
        """Where each px of the target crop looks in the source.

        Returns:
            ([x and y in source px: size size 2] and, for a turned source, [x and y of the mirrored place: size size 2,
            its weight: size size]; valid size size in [0, 1], soft over one grid cell).
        """
        grid = min(int(np.clip(round(size / self.config.cell), *self.config.cells)), size)
        points = np.asarray(target_landmarks, np.float32).copy()
        scale = grid / size
        points[:, :2] = (points[:, :2] + 0.5) * scale - 0.5  # px centres
        coarse, covered = rasterise(points, self.values, self.triangles, grid)
        coarse = spread(coarse, covered)
        parts = [coarse[:, :, :2]] if self.other_rgb is None else [coarse[:, :, :2], coarse[:, :, 2:4], coarse[:, :, 4]]
        parts.append(covered.astype(np.float32))
        parts = [np.ascontiguousarray(part) for part in parts]
        if grid != size:
            parts = [np.asarray(cv2.resize(part, (size, size)), np.float32) for part in parts]
        return parts[:-1], parts[-1]

    def warp(self, target_landmarks: FloatArray, size: int) -> tuple[UInt8Image, FloatArray]:
        """The source's skin in the target's shape.

        Args:
            target_landmarks: 478 3 in px of a ``size`` square.
            size: px.

        Returns:
            (rgb size size 3 uint8, black where the mesh does not reach; valid size size in [0, 1]).
        """
        where, valid = self.displacement(target_landmarks, size)
        rgb = _look_up(self.rgb, where[0])
        if self.other_rgb is not None:
            # Mostly one half borrows: the rest need not be looked up twice.
            x, y, width, height = cv2.boundingRect((where[2] > 0.002).view(np.uint8))
            part = (slice(y, y + height), slice(x, x + width))
            if width > 0:
                mirrored = _look_up(self.other_rgb, np.ascontiguousarray(where[1][part]))
                own, share = np.ascontiguousarray(rgb[part]), np.ascontiguousarray(where[2][part])
                rgb[part] = cv2.blendLinear(own, mirrored, 1 - share, share)
        return np.asarray(cv2.bitwise_and(rgb, rgb, mask=(valid > 0).view(np.uint8)), np.uint8), valid


class TexturePyramid:
    """A source face's skin at several sizes, so that a small target shows no shimmer and a large one all detail.

    Neighbouring levels differ by a factor of the square root of two: skin is never reduced by more than its fourth root,
    which bilinear sampling bears without aliasing.

    Args:
        rgb: H W 3 uint8, the picture that holds the source face.
        landmarks: 478 3 in px of ``rgb``.
    """

    def __init__(self, rgb: UInt8Image, landmarks: FloatArray, config: WarpConfig | None = None) -> None:
        points = np.asarray(landmarks, np.float32)
        self.eyes = _eye_distance(points)
        self.levels: list[MeshTexture] = []
        for level in range(max(1, 1 + int(2 * np.log2(max(self.eyes, 1) / SMALLEST_EYES)))):
            ratio = 2 ** (-level / 2)
            smaller, scaled = rgb, points
            if level > 0:
                width, height = (max(2, round(side * ratio)) for side in (rgb.shape[1], rgb.shape[0]))
                smaller = np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
                scales = np.array([width / rgb.shape[1], height / rgb.shape[0], ratio], np.float32)
                scaled = points * scales
                scaled[:, :2] += 0.5 * scales[:2] - 0.5
            self.levels.append(MeshTexture(smaller, scaled, config))

    def warp(self, target_landmarks: FloatArray, size: int, sharpen: float = 0.0) -> tuple[UInt8Image, FloatArray]:
        """As :meth:`MeshTexture.warp`.

        Args:
            sharpen: unsharp masking where the skin is enlarged, per doubling of its size; 0 = none.
        """
        enlarged = float(np.log2(max(_eye_distance(np.asarray(target_landmarks)), 1e-3) / max(self.eyes, 1e-3)))
        level = int(np.clip(round(-2 * enlarged), 0, len(self.levels) - 1))
        rgb, valid = self.levels[level].warp(target_landmarks, size)
        # Skin between two levels is enlarged a little, too; what that blurs is made up for, so that no step is seen.
        amount = sharpen * float(np.clip(enlarged + level / 2, 0, 1.5))
        if amount > 0.05:
            side = 3 if amount < 0.5 * sharpen else 5
            soft = cv2.GaussianBlur(rgb, (side, side), 0)
            rgb = np.asarray(cv2.addWeighted(rgb, 1 + amount, soft, -amount, 0), np.uint8)
        return rgb, valid


def _eye_distance(points: FloatArray) -> float:
    """Between the outer corners of the eyes, in three dimensions: a turned head's is not smaller."""
    return float(np.linalg.norm(points[33] - points[263]))


def _look_up(rgb: UInt8Image, where: FloatArray) -> UInt8Image:
    """The picture's colours at given places, by cubic interpolation, which keeps pores sharp (S S 2: x and y, px)."""
    # OpenCV takes both coordinates in one map, which its type stubs don't know.
    colours = cv2.remap(rgb, where, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    return np.asarray(colours, np.uint8)


def ring_mask(landmarks: FloatArray, rings: tuple[tuple[int, ...], ...], size: int, feather: float = 0.0) -> FloatArray:
    """Filled rings of the mesh as a soft mask.

    Args:
        landmarks: 478 x 2 or 3, px of the ``size`` square.
        rings: indices in order around each contour.
        feather: Gaussian sigma of the edge in px; 0 leaves an anti-aliased edge.

    Returns:
        size size float32 in [0, 1].
    """
    picture = np.zeros((size, size), np.uint8)
    for ring in rings:
        corners = np.round(np.asarray(landmarks, np.float32)[list(ring), :2] * 16).astype(np.int32)  # 1/16 px
        cv2.fillPoly(picture, [corners], 255, lineType=cv2.LINE_AA, shift=4)
    mask = picture.astype(np.float32) / np.float32(255)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), feather) if feather > 0 else mask, np.float32)


def inner_mouth_mask(landmarks: FloatArray, size: int, feather: float = 1.0) -> FloatArray:
    """Between the lips: teeth, tongue and gap (size size, [0, 1])."""
    return ring_mask(landmarks, (INNER_LIPS,), size, feather)
