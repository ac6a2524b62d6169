"""Which weights are on this machine, where, and whether they are whole.

Two manifests, two purposes:

* ``weights/manifest.toml`` (:func:`read_catalogue`) lists what can be fetched or trained, with pins and licences;
* every preset folder has a ``manifest.toml`` of its own (:func:`write_manifest`) with size and sha256 of the
  files as they lie there; :func:`verify` holds a file against it before anything is loaded.

Weights are safetensors, never pickles, and nothing in this package reaches the network, but for
:class:`talkswap.checkpoints.hub.HubNetwork` when it is asked to.
"""

from talkswap.checkpoints.catalogue import (
    RENDER,
    CatalogueEntry,
    Member,
    cache_weights,
    catalogue_path,
    checkout_weights,
    download_root,
    packaged_weights,
    read_catalogue,
    weight_roots,
)
from talkswap.checkpoints.description import PRESETS
from talkswap.checkpoints.finding import (
    Resolution,
    absent_packages,
    find_preset,
    folder_state,
    preset_state,
    resolve_auto,
)
from talkswap.checkpoints.manifest import (
    LISTED,
    MANIFEST,
    FileRecord,
    check_file,
    inside,
    read_about,
    read_records,
    write_manifest,
    write_records,
)
from talkswap.checkpoints.presets import (
    COMPACT_NETWORKS,
    PACKAGES,
    PresetFolder,
    load_config,
    load_weights,
    network_folder,
    read_config,
    repair_hint,
    verified_folder,
    verify,
    verify_all,
    verify_tensors,
    weight_hashes,
)
from talkswap.checkpoints.tensors import network_of, read_tensors, tensor_files, write_tensors

__all__ = [
    "COMPACT_NETWORKS",
    "LISTED",
    "MANIFEST",
    "PACKAGES",
    "PRESETS",
    "RENDER",
    "CatalogueEntry",
    "FileRecord",
    "Member",
    "PresetFolder",
    "Resolution",
    "absent_packages",
    "cache_weights",
    "catalogue_path",
    "check_file",
    "checkout_weights",
    "download_root",
    "find_preset",
    "folder_state",
    "inside",
    "load_config",
    "load_weights",
    "network_folder",
    "network_of",
    "packaged_weights",
    "preset_state",
    "read_about",
    "read_catalogue",
    "read_config",
    "read_records",
    "read_tensors",
    "repair_hint",
    "resolve_auto",
    "tensor_files",
    "verified_folder",
    "verify",
    "verify_all",
    "verify_tensors",
    "weight_hashes",
    "weight_roots",
    "write_manifest",
    "write_records",
    "write_tensors",
]
