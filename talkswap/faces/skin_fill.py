"""Bare the face of a photo: hair that lies on it isn't skin and must not be laid on somebody's forehead.

Hair is what doesn't have the colour of the face's own skin and reaches in from the outline.  It gives way to the other half of
the face, mirrored, where that shows skin, and else to the smooth colour of the skin around it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from talkswap.faces.geometry import smooth_step
from talkswap.faces.guide import FOREHEAD, LEFT_BROW, RIGHT_BROW, filled, on_grid, plain_skin, skin_likeness
from talkswap.faces.mesh import FACE_OVAL, LEFT_EYE_RING, OUTER_LIPS, RIGHT_EYE_RING, mean_face, rasterise, spread
from talkswap.types import FloatArray, UInt8Image

NOSTRILS = (98, 97, 2, 326, 327, 94, 19)
FEATURES = (LEFT_BROW, RIGHT_BROW, LEFT_EYE_RING, RIGHT_EYE_RING, OUTER_LIPS, NOSTRILS)
MOUTH_CORNERS = (61, 291)


@dataclass(frozen=True)
class SkinFillConfig:
    """What counts as hair, and how it's filled."""

    grid: int = 160  # cells along the picture's side
    skin_limit: float = 1.9  # how far from the skin's mean a colour may be
    least_likeness: float = 0.55  # of skin; below, a cell is hair
    widen: int = 11  # cells by which hair is widened: its shadow and its fringe go with it
    side: float = 0.72  # below the mouth only cells this far out count, in half widths of the face: a beard stays
    covered: float = 0.6  # likelihood of the occlusion network from which a spot counts as hair, whatever its colour
    working_size: int = 480  # px, side of the picture in which hair is replaced: filled skin is smooth
    least_share: float = 0.004  # of the face; less hair is left alone
    light: float = 0.06  # sigma, in sides of the picture, over which the mirrored half takes on the light


@dataclass(frozen=True)
class SkinFill:
    """A photo with its face bared."""

    rgb: UInt8Image  # S S 3
    share: float  # of the face that was filled
    cover: FloatArray  # G G in [0, 1]: where


def hair_mask(
    rgb: UInt8Image, landmarks: FloatArray, config: SkinFillConfig, covered: FloatArray | None = None
) -> tuple[FloatArray, FloatArray]:
    """Where hair lies on a face, and where plain skin is seen.

    Args:
        rgb: S S 3 uint8.
        landmarks: 478 3, px of the picture.
        covered: H H, likelihoods of the occlusion network over the picture; None = by colour alone.

    Returns:
        (hair: grid grid in {0, 1}; skin: grid grid in [0, 1], without brows, eyes, nostrils and lips).
    """
    size, grid = rgb.shape[0], config.grid
    scale = grid / size
    small = np.asarray(cv2.resize(rgb, (grid, grid), interpolation=cv2.INTER_AREA), np.float32)
    middle = 1 - filled(landmarks, (FOREHEAD,), grid, scale)
    likeness = skin_likeness(small, plain_skin(landmarks, grid, scale), middle, config.skin_limit)
    face = filled(landmarks, (FACE_OVAL,), grid, scale) > 0.5
    features = cv2.dilate(filled(landmarks, FEATURES, grid, scale), np.ones((5, 5)))
    unlike = (likeness < config.least_likeness) & (features < 0.3) & face
    if covered is not None:
        unlike |= (cv2.resize(covered, (grid, grid)) > config.covered) & (features < 0.3) & face
    # Below the mouth dark skin at the chin is a beard; hair hangs at the sides.
    cells = (landmarks[:, :2] + 0.5) * scale - 0.5
    rows, columns = np.mgrid[0:grid, 0:grid]
    half_width = np.ptp(cells[list(FACE_OVAL), 0]) / 2
    outside = np.abs(columns - cells[list(FACE_OVAL), 0].mean()) > config.side * half_width
    unlike &= (rows < cells[list(MOUTH_CORNERS), 1].mean()) | outside
    # Hair comes from outside: a mole or a shadow in the middle of a cheek stays.
    rim = cv2.dilate((~face).astype(np.uint8), np.ones((9, 9)))
    joined = cv2.morphologyEx(unlike.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(joined)
    hair = np.zeros((grid, grid), np.uint8)
    for label in range(1, count):
        piece = labels == label
        if statistics[label, cv2.CC_STAT_AREA] > 12 and (piece & (rim > 0)).any():
            hair[piece] = 1
    widened = cv2.dilate(hair, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (config.widen, config.widen)))
    # The other half's eye, mirrored over this one, is a second eye beside it.
    eyes = filled(landmarks, (LEFT_EYE_RING, RIGHT_EYE_RING), grid, scale)
    widened[cv2.dilate(eyes, np.ones((7, 7))) > 0.3] = 0
    skin = cv2.erode(np.clip(likeness, 0, 1), np.ones((3, 3))) * (1 - features) * face
    return np.asarray(widened, np.float32), np.asarray(skin, np.float32)


def bare_face(
    rgb: UInt8Image,
    landmarks: FloatArray,
    config: SkinFillConfig | None = None,
    covered: FloatArray | None = None,
) -> SkinFill:
    """A photo's square crop without the hair on its face.

    Args:
        rgb: S S 3 uint8, the aligned photo.
        landmarks: 478 3, px of it.
        covered: H H, likelihoods of the occlusion network over the crop; None = hair is known by its colour alone.
    """
    config = config or SkinFillConfig()
    size = rgb.shape[0]
    if size > config.working_size:
        # Fill a smaller picture, and take from it only what is filled: the rest keeps its detail and its bits.
        points = on_grid(landmarks, config.working_size / size)
        side = (config.working_size, config.working_size)
        fill = bare_face(np.asarray(cv2.resize(rgb, side, interpolation=cv2.INTER_AREA)), points, config, covered)
        if fill.share == 0:
            return SkinFill(rgb, 0.0, fill.cover)
        large = np.asarray(cv2.resize(fill.rgb, (size, size), interpolation=cv2.INTER_CUBIC), np.uint8)
        weight = cv2.resize(np.minimum(fill.cover * 2, 1), (size, size))
        mixed = np.asarray(cv2.blendLinear(large, rgb, weight, 1 - weight), np.uint8)
        return SkinFill(np.where(weight[:, :, None] > 0, mixed, rgb), fill.share, fill.cover)
    hair_cells, skin_cells = hair_mask(rgb, landmarks, config, covered)
    face_cells = filled(landmarks, (FACE_OVAL,), config.grid, config.grid / size) > 0.5
    share = float((hair_cells * face_cells).sum() / max(face_cells.sum(), 1))
    if share < config.least_share:
        return SkinFill(rgb, 0.0, np.zeros_like(hair_cells))
    soft = cv2.GaussianBlur(hair_cells, (0, 0), 1.2)
    hair, skin = (np.asarray(cv2.resize(cells, (size, size)), np.float32) for cells in (soft, skin_cells))
    where, covered = _mirrored_places(landmarks, size, config.grid)

    def mirrored(picture: FloatArray) -> FloatArray:
        found = cv2.remap(picture, where[:, :, 0], where[:, :, 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(found, np.float32)

    own = rgb.astype(np.float32)
    other, other_hair, other_skin = mirrored(own), mirrored(hair), mirrored(skin)
    # Only whole patches of the other half serve: single spots between strands would be speckles on a cheek.
    whole = cv2.morphologyEx(skin, cv2.MORPH_OPEN, np.ones((2 * (size // 80) + 1,) * 2))
    usable = (1 - other_hair) * covered * smooth_step(mirrored(np.asarray(whole, np.float32)), 0.1, 0.5)
    both = (1 - hair) * (1 - other_hair) * covered
    other = np.clip(other * _light_ratio(own, other, both, config.light * size), 0, 255)
    # Own skin where it's seen, then the other half's, and what neither shows from the skin around.
    known = 1 - hair + hair * usable
    joined = (own * (1 - hair)[:, :, None] + other * (hair * usable)[:, :, None]) / np.maximum(known, 1e-3)[:, :, None]
    seen = known * np.where(hair > 0.5, other_skin * usable, skin)
    around = _surroundings(joined, np.asarray(seen, np.float32), size)
    trust = (known * known * (3 - 2 * known))[:, :, None]
    result = joined * trust + around * (1 - trust)
    changed = np.where(hair[:, :, None] > 0.01, result, own)
    return SkinFill(np.clip(np.rint(changed), 0, 255).astype(np.uint8), share, np.asarray(soft, np.float32))


def _mirrored_places(landmarks: FloatArray, size: int, grid: int) -> tuple[FloatArray, FloatArray]:
    """Where each px's counterpart on the other half of the face lies (S S 2), and where the mesh covers (S S)."""
    mean = mean_face()
    points = np.asarray(landmarks, np.float32).copy()
    points[:, :2] = (points[:, :2] + 0.5) * (grid / size) - 0.5
    counterpart = np.asarray(landmarks, np.float32)[mean.mirror][:, :2]
    coarse, covered = rasterise(points, counterpart[mean.triangles], mean.triangles, grid)
    where = cv2.resize(spread(coarse, covered), (size, size))
    return np.asarray(where, np.float32), np.asarray(cv2.resize(covered.astype(np.float32), (size, size)), np.float32)


def _light_ratio(own: FloatArray, other: FloatArray, weight: FloatArray, sigma: float) -> FloatArray:
    """Gain (S S 3) that gives ``other`` the light that ``own`` has nearby, the whole face's where nothing is near."""
    w = weight[:, :, None]
    total = float(w.sum()) + 1e-3
    near = cv2.GaussianBlur(weight, (0, 0), sigma)[:, :, None]
    sums = []
    for picture in (own, other):
        mean = (picture * w).sum((0, 1)) / total
        sums.append((cv2.GaussianBlur(picture * w, (0, 0), sigma) + 0.01 * mean) / (near + 0.01))
    return np.asarray(np.clip((sums[0] + 2) / (sums[1] + 2), 0.6, 1.6), np.float32)


def _surroundings(picture: FloatArray, weight: FloatArray, size: int) -> FloatArray:
    """The smooth colour around each px (S S 3) by normalised convolution, wide kernels where narrow ones see nothing."""
    total, norm = np.zeros_like(picture), np.full((*picture.shape[:2], 1), 1e-6, np.float32)
    for sigma, trust in ((0.02, 1.0), (0.05, 0.03), (0.12, 0.001)):
        total += trust * cv2.GaussianBlur(picture * weight[:, :, None], (0, 0), sigma * size)
        norm += trust * cv2.GaussianBlur(weight, (0, 0), sigma * size)[:, :, None]
    return np.asarray(total / norm, np.float32)
