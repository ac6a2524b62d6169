"""The parts of the cascades: which published ONNX networks they are, where they lie, and opening one.

``talkswap download NAME`` fetches a part; a part that is not on this machine is named, and the cascades that need it are
not run.
"""

from dataclasses import dataclass
from pathlib import Path

from talkswap.checkpoints.preset_folder import verify
from talkswap.checkpoints.presets import preset_state
from talkswap.errors import UsageError, WeightsMissingError
from talkswap.files import file_sha256
from talkswap.systems.cascade import CASCADES


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


def steps_of(name: str) -> tuple[str, ...]:
    """The steps of a cascade.

    Raises:
        UsageError: there is no such cascade.
    """
    if name not in CASCADES:
        raise UsageError(f"there is no system called {name!r}", f"choose one of: {', '.join(CASCADES)}")
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


def part_hashes(name: str) -> dict[str, str]:
    """File -> sha256 of the parts of a cascade.

    Raises:
        UsageError: there is no such cascade.
        WeightsMissingError, WeightsCorruptError: of a part.
    """
    kinds = dict.fromkeys(part for step in steps_of(name) for part in STEPS[step])
    return {PARTS[kind].file: file_sha256(part_path(kind)) for kind in kinds}


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
