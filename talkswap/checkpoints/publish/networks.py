"""The networks that a preset folder may hold, and how each is stored."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from talkswap.checkpoints.catalogue import RENDER, read_catalogue
from talkswap.checkpoints.networks import config_from, network_of, tensor_files
from talkswap.checkpoints.presets import COMPACT_NETWORKS
from talkswap.errors import InputMissingError, UsageError, WeightsCorruptError, WeightsMissingError

if TYPE_CHECKING:
    from torch import Tensor, nn

PRECISIONS = ("fp16", "int8", "float32")


@dataclass(frozen=True)
class NetworkKind:
    """One network of the system."""

    name: str  # of its files
    module: str
    network: str  # class
    config: str  # class
    purpose: str  # for the model card
    exact: bool  # its answers are positions or angles, which eight bits would move

    def build(self, settings: dict[str, Any]) -> nn.Module:
        """The network, not trained, from the JSON form of its configuration.

        Raises:
            WeightsCorruptError: the configuration does not fit.
        """
        module = import_module(self.module)
        try:
            network: nn.Module = getattr(module, self.network)(config_from(getattr(module, self.config), settings))
        except (TypeError, ValueError, RuntimeError) as error:
            raise WeightsCorruptError(
                f"{self.name}.json does not describe a {self.name} network: {error}", "export the run again"
            ) from error
        return network


_FACES, _SWAPTALK = "talkswap.faces", "talkswap.systems.swaptalk"
NETWORKS = {
    kind.name: kind
    for kind in (
        NetworkKind("detector", f"{_FACES}.detector", "DetectorNetwork", "DetectorConfig", "finds faces", True),
        NetworkKind(
            "landmarks", f"{_FACES}.landmarks", "LandmarkNetwork", "LandmarkConfig", "478 dense points of a face", True
        ),
        NetworkKind(
            "identity", f"{_FACES}.identity", "IdentityNetwork", "IdentityConfig", "who a face is, as a vector", True
        ),
        NetworkKind(
            "occlusion", f"{_FACES}.occlusion", "OcclusionNetwork", "OcclusionConfig",
            "what is in front of a face; without it a render paints over that", False,
        ),
        NetworkKind("vqgan", f"{_SWAPTALK}.vqgan", "VQGAN", "VQGANConfig", "the latent space of faces", False),
        NetworkKind(
            "face_swap", f"{_SWAPTALK}.face_swap", "FaceSwap", "FaceSwapConfig", "gives the target the source's face", False
        ),
        NetworkKind(
            "lip_sync", f"{_SWAPTALK}.lip_sync", "LipSync", "LipSyncConfig", "moves the lips with the voice", False
        ),
        NetworkKind(
            "sync_expert", f"{_SWAPTALK}.sync_expert", "SyncExpert", "SyncExpertConfig",
            "supervises training; a render does not need it", False,
        ),
        NetworkKind(
            "speech_encoder", f"{_SWAPTALK}.speech_encoder", "SpeechEncoder", "SpeechEncoderConfig",
            "mel to mouth shape; `lip_sync` holds it too, so a render does not need it", False,
        ),
    )
}  # fmt: skip


def kind_of(name: str) -> NetworkKind:
    """The network that files called ``name`` hold.

    Raises:
        UsageError: there is no such network.
    """
    if name not in NETWORKS:
        raise UsageError(f"no network is called {name}", f"networks are {', '.join(NETWORKS)}")
    return NETWORKS[name]


def needed_networks(preset: str) -> tuple[str, ...]:
    """The networks of our own without which a preset renders nothing."""
    if preset == "compact":
        return COMPACT_NETWORKS
    made = (e.file for e in read_catalogue() if e.preset == preset and e.made_by and RENDER in e.needed_by)
    return tuple(name for file in made if (name := network_of(file)) is not None)


def parameters(network: nn.Module) -> int:
    """Trained numbers of a network."""
    return sum(p.numel() for p in network.parameters())


def stored_form(weights: dict[str, Tensor], precision: str, kind: NetworkKind) -> dict[str, Tensor]:
    """Tensors as they go to disk.

    Args:
        weights: float tensors by name.
        precision: ``fp16``; ``int8``, in which networks that tell positions or identities stay fp16; ``float32``.
        kind: whose tensors they are.

    Raises:
        WeightsCorruptError: a number is not finite, or too large for half precision.
    """
    import torch

    from talkswap.checkpoints.networks import pack

    kept = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    if precision == "float32":
        stored = {name: value.float() if value.is_floating_point() else value for name, value in kept.items()}
    elif precision == "int8" and not kind.exact:
        stored = pack(kept)
    else:
        stored = {name: value.half() if value.is_floating_point() else value for name, value in kept.items()}
    for name, value in stored.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise WeightsCorruptError(
                f"{kind.name} has numbers in {name} that are not finite or do not fit into {precision}",
                "pack with --precision float32, or train the network again",
            )
    return stored


def stored_precision(stored: dict[str, Tensor]) -> str:
    """Which of :data:`PRECISIONS` tensors are stored in."""
    import torch

    kinds = {tensor.dtype for tensor in stored.values()}
    return "int8" if torch.int8 in kinds else "float32" if torch.float32 in kinds else "fp16"


# --- A finished run folder of `talkswap train`: its networks, and what it says of how they were trained.


EXPORT = "export"
FULL = "-float32"  # ending of a network's name where a stage exports full precision beside half
RECORDS = ("config.json", "curve.jsonl", "curve.png", "scores.json", "scores.jsonl", "README.md")
"""What a run leaves for readers; further JSON lists of its export folder (clips, pairs, lags) belong to it."""


@dataclass(frozen=True)
class Run:
    """What a run folder says."""

    folder: Path
    stage: str
    networks: tuple[str, ...]
    steps: int  # 0 = unknown
    minutes: float  # 0 = unknown
    hardware: str  # "" = unknown
    loop: dict[str, Any]
    scores: dict[str, float] = field(default_factory=dict)
    records: dict[str, Path] = field(default_factory=dict)  # name in runs/STAGE/ -> file
    tag: str = ""  # tells runs of the same stage apart

    @property
    def seed(self) -> int | None:
        """The seed that batches and noise depend on."""
        seed = self.loop.get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def label(self) -> str:
        """Its folder below runs/: the stage, or the network where a stage makes several in as many runs."""
        stage = "-".join(self.networks) if self.stage == "faces" else self.stage
        return f"{stage}-{self.tag}" if self.tag else stage


def read_json(path: Path) -> Any:
    """A record's content.

    Raises:
        WeightsCorruptError: it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WeightsCorruptError(f"{path} is no JSON: {error}", "repair the file, or train the run again") from error


def without_places(value: Any) -> Any:
    """JSON values with the last name alone of every absolute path: where a home folder lies is nobody's business."""
    if isinstance(value, dict):
        return {key: without_places(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_places(item) for item in value]
    if isinstance(value, str) and "\n" not in value:
        if PurePosixPath(value).is_absolute() or value.startswith("~"):
            return PurePosixPath(value).name
        if PureWindowsPath(value).is_absolute():
            return PureWindowsPath(value).name
    return value


def _numbers(values: Any) -> dict[str, float]:
    """The numbers of a scores file, nested ones with a dot."""
    found: dict[str, float] = {}
    for key, value in values.items() if isinstance(values, dict) else ():
        if isinstance(value, dict):
            found |= {f"{key}.{inner}": number for inner, number in _numbers(value).items()}
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[key] = value
    return found


def _last_row(path: Path) -> dict[str, Any]:
    """The last whole line of a curve."""
    for line in reversed(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # a run that was killed may have left half a line
        if isinstance(row, dict):
            return row
    return {}


def exported_files(run: Run, network: str) -> list[Path]:
    """The tensors of a run's network, in full precision where the stage exports it."""
    export = run.folder / EXPORT
    files = tensor_files(export, network + FULL) or tensor_files(export, network)
    return [export / file for file in files]


def read_run(folder: Path) -> Run:
    """What a finished run holds.

    Raises:
        InputMissingError: there is no such folder.
        WeightsMissingError: the run is not finished, or a network lacks its configuration.
        WeightsCorruptError: a record is damaged.
        UsageError: it holds a network that no preset knows.
    """
    if not folder.is_dir():
        raise InputMissingError(
            f"there is no run folder {folder}", "give the folder that was --run of `talkswap train`"
        )
    export = folder / EXPORT
    names = {name.removesuffix(FULL) for p in sorted(export.glob("*.safetensors")) if (name := network_of(p.name))}
    if not names or not (folder / "config.json").is_file():
        lacking = "config.json" if names else "weights in export/"
        raise WeightsMissingError(
            f"{folder} holds no finished run: it has no {lacking}", "let `talkswap train` reach its last step"
        )
    for name in sorted(names):
        kind_of(name)
        if not (export / f"{name}.json").is_file():
            raise WeightsMissingError(f"{export} has {name} without {name}.json", "export the run again")
    said = read_json(folder / "config.json")
    said = said if isinstance(said, dict) else {}
    loop: dict[str, Any] = said["loop"] if isinstance(said.get("loop"), dict) else {}
    last = _last_row(folder / "curve.jsonl")
    scores = _numbers(read_json(folder / "scores.json")) if (folder / "scores.json").is_file() else {}
    records = {name: folder / name for name in RECORDS if (folder / name).is_file()}
    for path in [*sorted(folder.glob("*.json")), *sorted(export.glob("*.json"))]:
        if path.stem not in names and path.name not in records:
            records[path.name] = path
    return Run(
        folder=folder,
        stage=str(said.get("stage", folder.name)),
        networks=tuple(name for name in NETWORKS if name in names),
        steps=int(last.get("step", loop.get("steps", 0))),
        minutes=float(last.get("minutes", 0.0)),
        hardware=str(said.get("hardware", "")),
        loop=loop,
        scores=scores,
        records=records,
    )
