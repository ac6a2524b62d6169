"""The parts of the cascades: which published ONNX networks they are, where they lie, and opening one.

``talkswap download NAME`` fetches a part; a part that is not on this machine is named, and the cascades that need it are
not run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from talkswap.checkpoints import verify
from talkswap.checkpoints.finding import preset_state
from talkswap.errors import DependencyError, InputMissingError, UsageError, WeightsCorruptError, WeightsMissingError
from talkswap.faces.onnx_errors import onnx_errors


@dataclass(frozen=True)
class Part:
    """One published network."""

    name: str  # what `talkswap download` calls it
    file: str  # inside the paper preset's folder


PARTS = {
    "inswapper": Part("inswapper_128", "insightface/models/inswapper_128.onnx"),
    "arcface": Part("buffalo_l", "insightface/models/buffalo_l/w600k_r50.onnx"),
    "wav2lip": Part("wav2lip_96", "cascade/wav2lip_96.onnx"),
    "gfpgan": Part("gfpgan_1.4", "cascade/gfpgan_1.4.onnx"),
}

STEPS = {"swap": ("inswapper", "arcface"), "sync": ("wav2lip",), "restore": ("gfpgan",)}
"""What each step of a cascade needs."""

CASCADES: Mapping[str, tuple[str, ...]] = {
    "wav2lip": ("sync",),
    "wav2lip-restore": ("sync", "restore"),
    "cascade-sync-swap": ("sync", "swap"),
    "cascade-sync-swap-restore": ("sync", "swap", "restore"),
    "cascade-swap-sync": ("swap", "sync"),
    "cascade-swap-restore-sync": ("swap", "restore", "sync"),
}
"""The rows of Table I that are made of parts: name -> steps in order."""


def steps_of(name: str) -> tuple[str, ...]:
    """The steps of a cascade.

    Raises:
        UsageError: there is no such cascade.
    """
    if name not in CASCADES:
        raise UsageError(f"there is no system called {name!r}", f"choose swaptalk or {', '.join(CASCADES)}")
    return CASCADES[name]


def missing_parts(name: str) -> tuple[str, ...]:
    """Names for `talkswap download` of the parts that a cascade needs and this machine has not.

    Raises:
        UsageError: there is no such cascade.
    """
    folder = preset_state("paper")
    lacking = []
    for kind in dict.fromkeys(part for step in steps_of(name) for part in STEPS[step]):
        try:
            folder.locate(PARTS[kind].file)
        except WeightsMissingError:
            lacking.append(PARTS[kind].name)
    return tuple(lacking)


def part_path(kind: str) -> Path:
    """Where a part lies, its size and sha256 held against the manifest.

    Raises:
        WeightsMissingError: it is not on this machine.
        WeightsCorruptError: it is damaged, or on no manifest's list.
    """
    part = PARTS[kind]
    try:
        return verify(preset_state("paper"), part.file)
    except WeightsMissingError as error:
        raise WeightsMissingError(
            f"the part {part.name} of this cascade is not on this machine", f"run `talkswap download {part.name}`"
        ) from error


class OnnxNetwork:
    """An ONNX graph on the CPU whose inputs are what its user expects.

    Args:
        path: the ``.onnx`` file.
        inputs: name -> shape, None where any length will do; one without a name (``""``) stands for the only input.
        threads: CPU threads.

    Raises:
        InputMissingError: no file there.
        DependencyError: onnxruntime is not installed.
        WeightsCorruptError: the file is no network, or one with other inputs.
    """

    def __init__(self, path: Path, inputs: Mapping[str, Sequence[int | None]], threads: int = 1) -> None:
        if not path.is_file():
            raise InputMissingError(f"no network at {path}", "`talkswap download --list` shows what can be fetched")
        try:
            import onnxruntime
        except ImportError as error:
            raise DependencyError(
                "this needs the package onnxruntime", 'run `pip install "talkswap[paper]"`, or pip install onnxruntime'
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        wrong = WeightsCorruptError(f"{path.name} is not the network that belongs here", "fetch the file again")
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except onnx_errors() as error:
            raise wrong from error
        entries = {entry.name: entry.shape for entry in self._session.get_inputs()}
        if set(inputs) == {""} and len(entries) == 1:
            inputs = {next(iter(entries)): inputs[""]}
        if set(entries) != set(inputs) or not all(_fits(entries[name], inputs[name]) for name in inputs):
            raise wrong
        self.names = tuple(inputs)

    def __call__(self, *tensors: np.ndarray) -> np.ndarray:
        """The graph's first output for float32 tensors, in the order of ``inputs``."""
        given = {name: np.ascontiguousarray(t, np.float32) for name, t in zip(self.names, tensors, strict=True)}
        return np.asarray(self._session.run(None, given)[0])


def _fits(stated: Sequence[Any], wanted: Sequence[int | None]) -> bool:
    """Whether a graph's input takes tensors of this shape; what it leaves open (a name, None) takes any length."""
    return len(stated) == len(wanted) and all(
        not isinstance(have, int) or want is None or have == want for have, want in zip(stated, wanted, strict=True)
    )
