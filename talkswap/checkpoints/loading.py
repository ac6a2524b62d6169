"""Verified reading of a preset's files: nothing is loaded that differs from its manifest."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talkswap.checkpoints.manifest import MANIFEST, check_file, read_records
from talkswap.checkpoints.presets import PresetFolder, weight_hashes
from talkswap.checkpoints.tensors import read_tensors
from talkswap.errors import WeightsCorruptError

if TYPE_CHECKING:
    from torch import Tensor

_verified: set[tuple[str, int, int]] = set()


def _verify(preset: PresetFolder, path: Path) -> Path:
    """A located file, once its size and sha256 are found to be those of its folder's manifest."""
    status = path.stat()
    key = (str(path), status.st_size, status.st_mtime_ns)
    if key in _verified:
        return path
    folder = preset.owner(path)
    record = read_records(folder).get(path.relative_to(folder).as_posix())
    if record is None:
        raise WeightsCorruptError(
            f"{path} is not listed in {folder / MANIFEST}", f"run `talkswap download --adopt {folder}`"
        )
    check_file(path, record, preset.hint)
    _verified.add(key)
    return path


def verify(preset: PresetFolder, file: str) -> Path:
    """Path of a file whose size and sha256 are those of its manifest; hashed once per process.

    A file that its folder's manifest does not list (weights that somebody laid there by hand) is refused:
    `talkswap download --adopt` or :func:`talkswap.checkpoints.write_manifest` puts it on the list.

    Raises:
        WeightsMissingError, WeightsCorruptError: as :func:`talkswap.checkpoints.check_file`, or the file is on no list.
    """
    return _verify(preset, preset.locate(file))


def verify_tensors(preset: PresetFolder, network: str) -> tuple[Path, ...]:
    """Paths of a network's tensors, one file or all shards, each verified.

    Raises:
        WeightsMissingError, WeightsCorruptError: as :func:`verify`.
    """
    return tuple(_verify(preset, path) for path in preset.locate_tensors(network))


def _common_folder(paths: list[Path]) -> Path:
    for path in paths[1:]:
        if path.parent != paths[0].parent:
            raise WeightsCorruptError(
                f"{paths[0]} and {path} belong together and lie apart", "put both files into one folder"
            )
    return paths[0].parent


def verified_folder(preset: PresetFolder, files: Iterable[str]) -> Path:
    """The one folder that some files of a preset lie in together, each verified.

    Args:
        preset: where to look.
        files: names that belong together.

    Raises:
        WeightsMissingError, WeightsCorruptError: as :func:`verify`, or the files lie in different folders.
    """
    return _common_folder([verify(preset, file) for file in files])


def network_folder(preset: PresetFolder, network: str) -> Path:
    """The one folder that a network's tensors and its configuration lie in, all verified.

    Raises:
        WeightsMissingError, WeightsCorruptError: as :func:`verified_folder`.
    """
    return _common_folder([*verify_tensors(preset, network), verify(preset, f"{network}.json")])


def verify_all(preset: PresetFolder) -> None:
    """Verify every listed file of a preset, so that whoever loads one later need not.

    Raises:
        WeightsMissingError, WeightsCorruptError: as :func:`verify`.
    """
    for file in weight_hashes(preset):
        verify(preset, file)


def load_weights(preset: PresetFolder, name: str, device: str = "cpu") -> dict[str, Tensor]:
    """Tensors of ``NAME.safetensors`` or of its shards, verified first.

    Raises:
        WeightsMissingError, WeightsCorruptError.
    """
    return read_tensors(verify_tensors(preset, name), preset.hint, device)


def read_config(path: Path, repair: str) -> dict[str, Any]:
    """A network's configuration.

    Raises:
        WeightsCorruptError: the file is no JSON object; ``repair`` is the hint.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WeightsCorruptError(f"{path} is no configuration: {error}", repair) from error
    if not isinstance(config, dict):
        raise WeightsCorruptError(f"{path} is no configuration", repair)
    return config


def load_config(preset: PresetFolder, name: str) -> dict[str, Any]:
    """``NAME.json``: the configuration that belongs to ``NAME.safetensors``, verified first.

    Raises:
        WeightsMissingError, WeightsCorruptError.
    """
    return read_config(verify(preset, f"{name}.json"), preset.hint)
