"""Proxy face swaps: teachers that turn a source and a target into Res, what the swap module learns from (eq. 8).

``mesh`` is ours and needs no weights; ``inswapper`` runs the network that the paper's authors used through Roop, where
its file is present.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from talkswap.errors import UsageError
from talkswap.faces.guide import FaceGuide, GuideConfig
from talkswap.faces.mask import face_mask
from talkswap.systems.cascade.networks import Inswapper
from talkswap.types import AlignedFace, FloatArray, UInt8Image


class Proxy(Protocol):
    """A face swap that needs no training of ours."""

    name: str

    def swap(self, source: AlignedFace, target: AlignedFace) -> UInt8Image:
        """The target's crop (S S 3 uint8) with the source's face."""
        ...


class MeshProxy:
    """Dense-landmark texture warp with the source's proportions and the target's light
    (:mod:`talkswap.faces.guide`).
    """

    name = "mesh"

    def __init__(self, config: GuideConfig | None = None) -> None:
        self.config = config or GuideConfig()

    def swap(self, source: AlignedFace, target: AlignedFace) -> UInt8Image:
        return FaceGuide(source.crop, source.landmarks, self.config).lay(target.crop, target.landmarks).crop


class InswapperProxy:
    """An inswapper network in ONNX form (:mod:`talkswap.systems.cascade.networks`), laid into the face's own outline.

    Args:
        path: the network's ``.onnx`` file.
        embedder: an ArcFace network (``.onnx``) of 512 numbers for 112 px squares, RGB in [-1, 1].
        threads: CPU threads.

    Raises:
        As :class:`~talkswap.systems.cascade.networks.Inswapper`.
    """

    name = "inswapper"

    def __init__(self, path: Path, embedder: Path, threads: int = 1) -> None:
        self._network = Inswapper(path, embedder, threads)

    def embed(self, face: AlignedFace) -> FloatArray:
        """The source as the network wants it (1 512)."""
        return self._network.embed([face])

    def swap(self, source: AlignedFace, target: AlignedFace) -> UInt8Image:
        made, inside = self._network.swap(self.embed(source), target.crop, target.landmarks)
        mask = np.ascontiguousarray(face_mask(target.landmarks, target.crop.shape[0]) * inside)
        return np.asarray(cv2.blendLinear(made, target.crop, mask, 1 - mask), np.uint8)


def load_proxy(name: str, inswapper: Path | None = None, embedder: Path | None = None) -> Proxy:
    """``mesh`` or ``inswapper``; the latter wants both files.

    Raises:
        UsageError: no such proxy, or its files were not given.
    """
    if name == "mesh":
        return MeshProxy()
    if name != "inswapper":
        raise UsageError(f"no proxy named {name!r}", "proxies are mesh and inswapper")
    if inswapper is None or embedder is None:
        raise UsageError(
            "the inswapper proxy needs two files", "give the inswapper and the ArcFace file, or use --proxy mesh"
        )
    return InswapperProxy(inswapper, embedder)


def compatible(
    source_yaw: float, target_yaw: float, source_limit: float = 35.0, target_limit: float = 55.0, between: float = 50.0
) -> bool:
    """Whether the mesh proxy can make this pair: it cannot show skin that the source photo does not (angles in
    degrees).
    """
    return (
        abs(source_yaw) <= source_limit and abs(target_yaw) <= target_limit and abs(source_yaw - target_yaw) <= between
    )
