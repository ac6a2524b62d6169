"""A preset folder, and verified reading of its files: nothing is loaded that differs from its manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talkswap.checkpoints import manifest, networks
from talkswap.checkpoints.manifest import file_path, read_records
from talkswap.checkpoints.networks import ANYTHING, Network, Requirements, network_of, tensor_files
from talkswap.errors import WeightsCorruptError, WeightsMissingError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PresetFolder:
    """A preset on this machine; its files may be spread over several roots."""

    name: str
    folders: tuple[Path, ...]  # existing ones, in the order of the roots; for every file the first that has it wins
    origins: tuple[str, ...]  # why each folder was looked into
    missing: tuple[str, ...]  # names of entries that a render needs and no folder has
    repair: str = ""  # hint where a file is missing or damaged; empty = that of the preset's name
    requirements: Requirements = ANYTHING  # of the system that it is read for

    @property
    def complete(self) -> bool:
        return bool(self.folders) and not self.missing

    @property
    def hint(self) -> str:
        """What brings a missing or damaged file back."""
        return self.repair or repair_hint(self.name)

    @property
    def sources(self) -> tuple[str, ...]:
        """Origins of the folders that some listed file is taken from."""
        owners = {self.owner(self.locate(file)) for file in weight_hashes(self)}
        return tuple(origin for folder, origin in zip(self.folders, self.origins, strict=True) if folder in owners)

    @property
    def notice(self) -> str:
        """One line for the user where a folder was packed before systems had folders of their own; else empty."""
        flat = [folder for folder in self.folders if manifest.is_flat(folder)]
        if not flat:
            return ""
        pack = f"`talkswap weights pack --base {flat[0]} --out NEW` makes a new one"
        return f"{flat[0]} is an old preset folder without a folder for each system; it works, and {pack}"

    @property
    def analyser(self) -> str:
        """The face analyser that this preset's networks were made for."""
        return "insightface" if self.name == "paper" else "compact"

    def owner(self, path: Path) -> Path:
        """The folder of this preset that a located file lies in."""
        return next(folder for folder in self.folders if path.is_relative_to(folder))

    def locate(self, file: str) -> Path:
        """Path of a file of this preset.

        Raises:
            WeightsMissingError: no folder has it.
        """
        for folder in self.folders:
            path = file_path(folder, file)
            if path.is_file():
                return path
        raise WeightsMissingError(f"the {self.name} preset has no {file}", self.hint)

    def locate_tensors(self, network: str) -> tuple[Path, ...]:
        """Paths of a network's tensors: one file, or all its shards, of the first folder that has them."""
        # Shards of one folder never complete those of another.
        for folder in self.folders:
            if files := tensor_files(folder, network):
                return tuple(file_path(folder, file) for file in files)
        raise WeightsMissingError(f"the {self.name} preset has no {network}.safetensors", self.hint)


def repair_hint(preset: str) -> str:
    """The command that brings a preset's files back."""
    if preset == "compact":
        return "reinstall talkswap, or restore weights/compact with `git checkout -- weights/compact`"
    return f"run `talkswap download {preset}`; `talkswap download --list` shows what has no public source"


def has(folder: Path, file: str) -> bool:
    """Whether a folder has a file; for a network's tensors all shards are as good as the whole."""
    if file_path(folder, file).is_file():
        return True
    network = network_of(file)
    return network is not None and file == f"{network}.safetensors" and bool(tensor_files(folder, network))


def has_network(preset: PresetFolder, network: str) -> bool:
    """Whether a preset has the tensors of a network ``ROOM/NAME`` that not every preset needs."""
    return any(has(folder, f"{network}.safetensors") for folder in preset.folders)


def weight_hashes(preset: PresetFolder) -> dict[str, str]:
    """File -> sha256 of everything that a preset's manifests list, its folders hold and its system may load.

    A file that lies in several folders has the hash of the one that is loaded; a listed one that no folder has
    is left out (:attr:`PresetFolder.missing` names it).
    """
    needs = preset.requirements
    entries = manifest.read_catalogue() if needs.downloads else ()
    downloads = {file for entry in entries if entry.name in needs.downloads for file in entry.results}
    hashes: dict[str, str] = {}
    # The report must name what is loaded, not what lies somewhere too.
    for folder in preset.folders:
        for file, record in read_records(folder).items():
            if needs.rooms and manifest.room_of(file) not in needs.rooms and file not in downloads:
                continue  # another system's
            network = network_of(file)
            if network is not None:
                keeper = next((other for other in preset.folders if tensor_files(other, network)), None)
                if keeper is not None and file not in tensor_files(keeper, network):
                    continue  # another folder's whole file goes before these shards, or the other way round
            first = next((other for other in preset.folders if file_path(other, file).is_file()), None)
            if first == folder or (first is not None and file not in hashes):
                hashes[file] = record.sha256
    return hashes


# --- Verified reading.


_verified: set[tuple[str, int, int]] = set()


def _verify(preset: PresetFolder, path: Path) -> Path:
    # A file is hashed once per process: size and time stand for its content from then on.
    status = path.stat()
    key = (str(path), status.st_size, status.st_mtime_ns)
    if key in _verified:
        return path
    folder = preset.owner(path)
    record = read_records(folder).get(manifest.with_room(path.relative_to(folder).as_posix()))
    if record is None:
        raise WeightsCorruptError(
            f"{path} is not listed in {folder / manifest.MANIFEST}", f"run `talkswap download --adopt {folder}`"
        )
    manifest.check_file(path, record, preset.hint)
    _verified.add(key)
    return path


def verify(preset: PresetFolder, file: str) -> Path:
    """Path of a file whose size and sha256 are those of its manifest.

    A file that its folder's manifest does not list (weights copied there by hand) is refused:
    `talkswap download --adopt` or :func:`talkswap.checkpoints.manifest.write_manifest` puts it on the list.

    Raises:
        WeightsMissingError: no folder has it.
        WeightsCorruptError: it differs from its manifest, or is on no list.
    """
    return _verify(preset, preset.locate(file))


def verify_tensors(preset: PresetFolder, network: str) -> tuple[Path, ...]:
    """Paths of a network's tensors, one file or all shards, each verified as by :func:`verify`."""
    return tuple(_verify(preset, path) for path in preset.locate_tensors(network))


def verify_all(preset: PresetFolder) -> None:
    """Verify every listed file of a preset, so that loading one later needs no check."""
    for file in weight_hashes(preset):
        verify(preset, file)


def verified_folder(preset: PresetFolder, files: Iterable[str]) -> Path:
    """The one folder that files of a preset which belong together lie in, each verified as by :func:`verify`.

    Raises:
        WeightsCorruptError: they lie in different folders.
    """
    return _common_folder([verify(preset, file) for file in files])


def network_folder(preset: PresetFolder, network: str) -> Path:
    """The one folder that a network's tensors and its configuration lie in; as :func:`verified_folder`."""
    return _common_folder([*verify_tensors(preset, network), verify(preset, f"{network}.json")])


def _common_folder(paths: list[Path]) -> Path:
    for path in paths[1:]:
        if path.parent != paths[0].parent:
            raise WeightsCorruptError(
                f"{paths[0]} and {path} belong together and lie apart", "put both files into one folder"
            )
    return paths[0].parent


def load_weights(preset: PresetFolder, name: str, device: str = "cpu") -> dict[str, Tensor]:
    """Tensors of ``NAME.safetensors`` or of its shards, verified first."""
    return networks.read_tensors(verify_tensors(preset, name), preset.hint, device)


def load_config(preset: PresetFolder, name: str) -> dict[str, Any]:
    """``NAME.json``: the configuration that belongs to ``NAME.safetensors``, verified first."""
    return networks.read_config(verify(preset, f"{name}.json"), preset.hint)


def preset_network(preset: PresetFolder, network: str, build: Callable[[Any], Network], config: type[Any]) -> Network:
    """A network ``ROOM/NAME`` of a preset, verified, in float32, frozen and in evaluation mode.

    Raises:
        WeightsMissingError, WeightsCorruptError: as :func:`verify`, or tensors and configuration do not fit.
    """
    name = network.rpartition("/")[2]
    built = networks.build_network(build, config, load_config(preset, network), name)
    return networks.load_network(built, load_weights(preset, network), name)
