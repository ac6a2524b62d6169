"""One face analyser behind one type, whichever networks do the work."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Protocol

from talkswap.checkpoints import PresetFolder, network_folder, verified_folder
from talkswap.errors import UsageError
from talkswap.types import Face, FloatArray, UInt8Image

ANALYSERS = ("compact", "insightface")
BUFFALO = "insightface/models/buffalo_l"  # inside a preset folder


class FaceAnalyser(Protocol):
    """Finds faces and their 478 landmarks."""

    name: str

    def detect(self, rgb: UInt8Image) -> list[Face]:
        """All faces of a picture (H W 3 uint8), best score first, each with 478 landmarks in px of the picture."""

    def follow(self, rgb: UInt8Image, landmarks: FloatArray) -> Face | None:
        """The face again, starting from where its landmarks (478 3) were one frame before; no detector runs.

        Returns None where no face is found there any more.
        """

    def embed(self, rgb: UInt8Image, landmarks: FloatArray) -> FloatArray:
        """Who the face with these landmarks (478 3, px of ``rgb``) is: a vector of unit length."""


def load_analyser(name: str, weights: PresetFolder | Path, device: str = "cpu") -> FaceAnalyser:
    """Make the analyser called ``name``.

    Args:
        name: one of :data:`ANALYSERS`.
        weights: a preset, whose folders are all searched and whose files are verified; or one plain folder that holds
            the files themselves, loaded as they are.
        device: a torch device.

    Raises:
        UsageError: no analyser has that name.
        WeightsMissingError: a file that it needs is nowhere.
        WeightsCorruptError: a file is not what its manifest states.
    """
    if name == "compact":
        from talkswap.faces.compact import CompactAnalyser

        where = partial(network_folder, weights) if isinstance(weights, PresetFolder) else weights
        return CompactAnalyser(where, device)
    if name == "insightface":
        from talkswap.faces.insightface import DETECTOR, LANDMARKS, RECOGNITION, InsightFaceAnalyser

        if isinstance(weights, PresetFolder):
            weights = verified_folder(weights, [f"{BUFFALO}/{file}" for file in (DETECTOR, LANDMARKS, RECOGNITION)])
        return InsightFaceAnalyser(weights, device)
    raise UsageError(f"no face analyser is called {name!r}", f"choose one of: {', '.join(ANALYSERS)}")
