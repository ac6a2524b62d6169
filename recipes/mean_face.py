"""Measure the mean face that ``talkswap.faces.mesh`` works with, from prepared training portraits.

``python recipes/mean_face.py CACHE/portraits-train CACHE/frames-train`` made
``talkswap/faces/assets/mean_face.safetensors``.  Every number of it comes from these landmark sets; none is taken from a
published model.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from talkswap.errors import TrainingDataError
from talkswap.faces.geometry import spatial_similarity
from talkswap.faces.mesh import ASSET, FACE_OVAL, INNER_LIPS, LEFT_EYE_RING, POINTS, RIGHT_EYE_RING, SKIN_POINTS

Points = NDArray[np.float64]


@dataclass(frozen=True)
class MeanFaceConfig:
    """Where the landmarks lie and how much of their variation is kept."""

    folders: tuple[Path, ...]  # each with landmarks.npy, N 478 3
    output: Path = ASSET
    components: int = 64
    rounds: int = 4  # of Procrustes alignment; the mean stops moving after three
    open_mouth: float = 0.12  # of the eye distance: triangles are laid out on faces whose lips are apart


def mirror_pairs(points: Points) -> NDArray[np.int32]:
    """For each point the one nearest to its reflection; pairs are exclusive, midline points pair with themselves."""
    reflected = points * np.array([-1.0, 1.0, 1.0])
    distance = np.linalg.norm(points[:, None] - reflected[None], axis=2)
    distance = distance + distance.T  # both ways, so that a pair is judged once
    partner = np.full(len(points), -1, np.int32)
    for flat in np.argsort(distance, axis=None, kind="stable"):
        i, j = divmod(int(flat), len(points))
        if partner[i] < 0 and partner[j] < 0:
            partner[i], partner[j] = j, i
    return partner


def lay_triangles(points: Points) -> NDArray[np.int32]:
    """Delaunay triangles (T 3) of the skin points seen from the front, each with positive area (y down)."""
    flat = points[:SKIN_POINTS, :2] - points[:SKIN_POINTS, :2].min(0)
    flat = flat * (2000 / flat.max()) + 1  # Subdiv2D computes in single precision
    division = cv2.Subdiv2D((0, 0, int(flat[:, 0].max()) + 500, int(flat[:, 1].max()) + 500))
    for x, y in flat:
        division.insert((float(x), float(y)))
    triangles = []
    for corners in np.asarray(division.getTriangleList()).reshape(-1, 3, 2):
        distance = np.linalg.norm(flat[None] - corners[:, None], axis=2)  # 3 468
        if distance.min(1).max() < 0.01:  # the others touch Subdiv2D's own outer triangle
            triangles.append(distance.argmin(1))
    laid = np.array(triangles, np.int32)
    a, b, c = (flat[laid[:, k]] for k in range(3))
    turned = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0]) < 0
    laid[turned] = laid[turned][:, ::-1]
    return laid


def eye_frame(points: Points) -> Points:
    """Shift and scale so that the eyes' middle is the origin and their distance the unit."""
    left, right = points[list(LEFT_EYE_RING)].mean(0), points[list(RIGHT_EYE_RING)].mean(0)
    return (points - (left + right) / 2) / np.linalg.norm((right - left)[:2])


def measure(config: MeanFaceConfig) -> dict[str, NDArray[np.generic]]:
    """Align all landmark sets to their mean; returns the asset's arrays (see ``MeanFace``)."""
    sets = []
    for folder in config.folders:
        if not (folder / "landmarks.npy").is_file():
            hint = "prepare it with `talkswap data prepare`"
            raise TrainingDataError(f"{folder} has no landmarks.npy", hint)
        sets.append(np.load(folder / "landmarks.npy").astype(np.float64))
    shapes = np.concatenate(sets)
    mean = eye_frame(shapes.mean(0))
    for _ in range(config.rounds):
        aligned = np.empty_like(shapes)
        for index, shape in enumerate(shapes):
            scale, rotation, shift = spatial_similarity(shape, mean)
            aligned[index] = scale * shape @ rotation.T + shift
        mean = eye_frame(aligned.mean(0))
        partner = mirror_pairs(mean)
        mean = eye_frame((mean + mean[partner] * np.array([-1.0, 1.0, 1.0])) / 2)  # symmetric: faces ahead
    gap = np.linalg.norm(aligned[:, 13, :2] - aligned[:, 14, :2], axis=1)
    opened = aligned[gap > config.open_mouth].mean(0)
    opened = (opened + opened[partner] * np.array([-1.0, 1.0, 1.0])) / 2
    both = np.concatenate([aligned - mean, (aligned - mean)[:, partner] * np.array([-1.0, 1.0, 1.0])])
    flat = both.reshape(len(both), -1)
    values, vectors = np.linalg.eigh(flat.T @ flat / len(flat))
    kept = slice(None, -config.components - 1, -1)
    return {
        "points": mean.astype(np.float32),
        "triangles": lay_triangles(opened),
        "mirror": partner,
        "components": vectors[:, kept].T.reshape(-1, POINTS, 3).astype(np.float16),
        "deviations": np.sqrt(values[kept]).astype(np.float32),
    }


def main() -> None:
    """Measure from the folders on the command line and write the asset."""
    from safetensors.numpy import save_file

    config = MeanFaceConfig(tuple(Path(name) for name in sys.argv[1:]))
    arrays = measure(config)
    config.output.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, config.output)
    mirror = arrays["mirror"]
    closed = {
        name: bool((np.sort(mirror[list(ring)]) == np.sort(ring)).all())
        for name, ring in {"oval": FACE_OVAL, "inner lips": INNER_LIPS}.items()
    }
    print(json.dumps({"triangles": len(arrays["triangles"]), "rings closed under mirroring": closed}))


if __name__ == "__main__":
    main()
