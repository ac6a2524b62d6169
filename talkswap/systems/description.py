"""What a system says of itself: its folder's ``SYSTEM``, which the registry reads and nothing else names.

A description is plain data.  Whatever needs torch is named as ``module:NAME`` and imported on use
(:func:`talkswap.checkpoints.networks.resolve`), so every command can list every system in a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from talkswap.checkpoints.networks import NetworkDescription
from talkswap.train.stages import StageDescription
from talkswap.types import option

if TYPE_CHECKING:
    from torch import Tensor, nn

    from talkswap.checkpoints.preset_folder import PresetFolder

__all__ = [
    "Ablation",
    "EvaluationRow",
    "Maker",
    "NoOptions",
    "PresetNeeds",
    "PublishedRow",
    "SystemDescription",
    "option",
]


@dataclass(frozen=True)
class NoOptions:
    """The options of a system that has none."""


@dataclass(frozen=True)
class PresetNeeds:
    """What a preset of a system needs beside the system's own networks."""

    downloads: tuple[str, ...] = ()  # entries of weights/manifest.toml, by name
    packages: tuple[str, ...] = ()  # importable names beyond talkswap's own requirements


@dataclass(frozen=True)
class Maker:
    """One of ``talkswap data NAME``: it makes training data that belong to this system alone."""

    name: str  # "codes", "pairs" …
    help: str  # one line
    config: str  # "module:Class": a frozen dataclass; fields become options (:func:`option`), its docstring their help
    run: str  # "module:function": (config, report of ProgressEvents, echo of lines) -> summary as JSON values


@dataclass(frozen=True)
class EvaluationRow:
    """One row that this system puts into the tables."""

    key: str
    label: str  # as the paper writes it
    about: str
    options: Mapping[str, Any] = field(default_factory=dict)  # its own render options that this row sets
    self_driven: Mapping[str, Any] = field(default_factory=dict)  # and those that it sets for a clip's own voice
    swaps: bool = True  # whether the source's face is put in: else its identity isn't measured
    note: str = ""  # what readers of its figures must know, one sentence without a full stop
    network: str = ""  # "room/name" of a preset's network that a render may be without, and this row may not


@dataclass(frozen=True)
class PublishedRow:
    """A row of a paper's table; facts only."""

    paper: str  # "SwapTalk"
    table: str  # "I"
    setting: str  # "self", "cross": the methods that the paper compares; "": a row of an :class:`Ablation`
    key: str  # of an :class:`EvaluationRow`, or the paper's own words where there is none
    label: str  # as the paper writes it
    values: dict[str, float]  # metric key -> figure
    choices: dict[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Ablation:
    """A table of the paper that ``talkswap eval ablation`` fills with one's own runs, each a preset folder."""

    number: str  # as in PublishedRow.table: "IV"
    title: str
    setting: Literal["self", "cross"]
    metrics: tuple[str, ...]  # keys of its columns
    choices: Callable[[PresetFolder], dict[str, str]]  # what a run chose, in the paper's own columns
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"": {}})
    """Name -> render options: each run has a row for every variant, and the options are columns too."""
    options: Mapping[str, Any] = field(default_factory=dict)  # render options of every row
    swap: bool = True  # False: the faces stay, so that the lip sync is judged alone
    sync: bool = True  # False: the lips stay, so that the face swap is judged alone


@dataclass(frozen=True)
class Workload:
    """A batch of a system with untrained networks, for ``talkswap bench --random-weights``."""

    stages: Mapping[str, Callable[[], Tensor]]  # name -> one pass of the whole batch
    source: Callable[[], Any]  # what is done once per clip
    networks: Mapping[str, nn.Module]  # whose parameters are counted
    crop_px: int


@dataclass(frozen=True)
class SystemDescription:
    """A way to dub a face: one folder below ``talkswap/systems``, or one entry point of the group ``talkswap.systems``."""

    name: str  # of --system, and of its room in a preset folder
    title: str  # as the paper writes it
    paper: str  # authors, title and where to find it
    system: str  # "module:Class"; its classmethod load(name, preset, device, options) makes a contract.System
    options: type[Any] = NoOptions  # frozen dataclass of its own render options, each field an :func:`option`
    networks: tuple[NetworkDescription, ...] = ()  # its own; those of faces and voice belong to every system
    stages: tuple[StageDescription, ...] = ()  # its own, in the order in which they are trained
    presets: Mapping[str, PresetNeeds] = field(default_factory=dict)  # name -> needs; none = it has no weights of ours
    makers: tuple[Maker, ...] = ()
    proxies: Mapping[str, str] = field(
        default_factory=dict
    )  # face swaps to learn from: name -> "module:Class", made of files
    bench: str = ""  # "module:function": (preset, device, batch size) -> :class:`Workload`; "" = it can't be timed so
    rows: tuple[EvaluationRow, ...] = ()
    published: str = ""  # "module:NAME" of a Sequence[PublishedRow]: all tables of its paper; "" = none
    ablations: str = ""  # "module:NAME" of a Sequence[Ablation]; "" = none
    missing: str = ""  # "module:function": (name of the system) -> parts that this machine lacks; "" = presets say it
    hashes: str = ""  # "module:function": (name of the system) -> {file: sha256} of its parts; "" = presets say it
