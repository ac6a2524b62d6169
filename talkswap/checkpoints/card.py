"""Finished run folders and their records, and the model card of a preset folder."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from string import Template
from typing import Any

from talkswap import __version__
from talkswap.checkpoints.manifest import RUNS
from talkswap.checkpoints.networks import NetworkDescription, network_of, tensor_files
from talkswap.errors import InputMissingError, UsageError, WeightsCorruptError, WeightsMissingError

EXPORT = "export"
FULL = "-float32"  # ending of a network's name where a stage exports full precision beside half
# What a run leaves for readers; further JSON lists of its export folder (clips, pairs, lags) belong to it.
RECORDS = ("config.json", "curve.jsonl", "curve.png", "scores.json", "scores.jsonl", "README.md")


@dataclass(frozen=True)
class Run:
    """A finished run folder."""

    folder: Path
    stage: str
    networks: tuple[NetworkDescription, ...]
    steps: int  # 0 = unknown
    minutes: float  # 0 = unknown
    hardware: str  # "" = unknown
    loop: dict[str, Any]
    scores: dict[str, float] = field(default_factory=dict)
    records: dict[str, Path] = field(default_factory=dict)  # name in the preset -> file
    tag: str = ""  # tells runs of the same stage apart

    @property
    def seed(self) -> int | None:
        """The seed that batches and noise depend on."""
        seed = self.loop.get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def label(self) -> str:
        """Its folder below runs/: the stage, or the network where a stage makes several in as many runs."""
        stage = "-".join(network.name for network in self.networks) if self.stage == "faces" else self.stage
        return f"{stage}-{self.tag}" if self.tag else stage

    @property
    def place(self) -> str:
        """Where a preset keeps its records: ``ROOM/runs/LABEL``."""
        return f"{self.networks[0].room}/{RUNS}/{self.label}"


def read_json(path: Path) -> Any:
    """A record's content."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WeightsCorruptError(f"{path} is no JSON: {error}", "repair the file, or train the run again") from error


def without_places(value: Any) -> Any:
    """JSON values with every absolute path cut to its last name, for privacy."""
    if isinstance(value, dict):
        return {key: without_places(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_places(item) for item in value]
    if isinstance(value, str) and "\n" not in value:
        # The run may come from a machine with the other kind of paths.
        if PurePosixPath(value).is_absolute() or value.startswith("~"):
            return PurePosixPath(value).name
        if PureWindowsPath(value).is_absolute():
            return PureWindowsPath(value).name
    return value


def _numbers(values: Any) -> dict[str, float]:
    """The numbers of a scores file, nested ones with a dot."""
    numbers: dict[str, float] = {}
    for key, value in values.items() if isinstance(values, dict) else ():
        if isinstance(value, dict):
            numbers |= {f"{key}.{inner}": number for inner, number in _numbers(value).items()}
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            numbers[key] = value
    return numbers


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


def read_run(folder: Path, networks: Iterable[NetworkDescription]) -> Run:
    """Read a finished run folder.

    Raises:
        InputMissingError: there is no such folder.
        WeightsMissingError: the run is not finished, or a network lacks its configuration.
        WeightsCorruptError: a record is damaged.
        UsageError: it holds a network that the system doesn't have.
    """
    if not folder.is_dir():
        raise InputMissingError(
            f"there is no run folder {folder}", "give the folder that was --run of `talkswap train`"
        )
    export = folder / EXPORT
    # A stage may train one of several networks; the weights say which.
    names = {name.removesuffix(FULL) for p in sorted(export.glob("*.safetensors")) if (name := network_of(p.name))}
    if not names or not (folder / "config.json").is_file():
        lacking = "config.json" if names else "weights in export/"
        raise WeightsMissingError(
            f"{folder} holds no finished run: it has no {lacking}", "let `talkswap train` reach its last step"
        )
    by_name = {network.name: network for network in networks}
    for name in sorted(names):
        if name not in by_name:
            raise UsageError(
                f"{folder} holds {name}, which no network of this system is called",
                f"its networks are {', '.join(by_name)}; name another one with --system",
            )
        if not (export / f"{name}.json").is_file():
            raise WeightsMissingError(f"{export} has {name} without {name}.json", "export the run again")
    about = read_json(folder / "config.json")
    about = about if isinstance(about, dict) else {}
    loop: dict[str, Any] = about["loop"] if isinstance(about.get("loop"), dict) else {}
    # The curve knows the steps that were really taken, the configuration those that were planned.
    last = _last_row(folder / "curve.jsonl")
    scores = _numbers(read_json(folder / "scores.json")) if (folder / "scores.json").is_file() else {}
    records = {name: folder / name for name in RECORDS if (folder / name).is_file()}
    # Lists of clips, pairs and lags belong to the records, configurations of networks don't.
    for path in [*sorted(folder.glob("*.json")), *sorted(export.glob("*.json"))]:
        if path.stem not in names and path.name not in records:
            records[path.name] = path
    return Run(
        folder=folder,
        stage=str(about.get("stage", folder.name)),
        networks=tuple(network for name, network in by_name.items() if name in names),
        steps=int(last.get("step", loop.get("steps", 0))),
        minutes=float(last.get("minutes", 0.0)),
        hardware=str(about.get("hardware", "")),
        loop=loop,
        scores=scores,
        records=records,
    )


# --- The model card: README.md with the front matter that the model hub reads.


CARD = "README.md"
# Licences that the hub knows by these names; any other is `other` with a name of its own.
HUB_LICENCES = {
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "lgpl-3.0", "mpl-2.0", "unlicense", "cc0-1.0",
    "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "openrail", "openrail++",
}  # fmt: skip
DATA_LISTS = ("data.json", "clips.json", "pairs.json", "people.json")


@dataclass(frozen=True)
class CardNetwork:
    """A row of the card's first table."""

    name: str  # ROOM/NAME
    purpose: str
    parameters: int
    stored: str  # fp16 | int8 | float32 | as in the base
    origin: str  # the stage that made it, or the preset that it was taken from
    size: int  # bytes on disk


@dataclass(frozen=True)
class CardFacts:
    """All that a card says."""

    name: str
    preset: str
    licence: str | None
    networks: Sequence[CardNetwork]
    runs: Sequence[Run]
    base: str | None  # name of the preset that the rest was taken from
    base_licence: str | None  # as its own card names it
    hardware: str  # said by the user; "" = as the runs say
    data: str  # Markdown; "" = the lists in runs/ alone
    notes: str  # Markdown, added to the limits


def front_matter(name: str, licence: str | None, preset: str) -> list[str]:
    """The YAML lines between the two ``---``."""
    lines = []
    if licence is not None:
        name_on_hub = licence.lower()
        if name_on_hub in HUB_LICENCES:
            lines.append(f"license: {name_on_hub}")
        else:
            slug = re.sub(r"[^a-z0-9.]+", "-", name_on_hub).strip("-")
            lines += ["license: other", f"license_name: {slug}"]
    lines += ["library_name: talkswap", "tags:"]
    lines += [f"- {tag}" for tag in ("talkswap", "lip-sync", "face-swap", "talking-face", "video-dubbing", preset)]
    return [*lines, f"model_name: {json.dumps(name, ensure_ascii=False)}"]  # a JSON string is a YAML string


def card_licence(text: str) -> str | None:
    """The licence that a card's front matter names; None when it names none."""
    # The hub reads only this block, so nothing else may name the licence.
    matter = re.match(r"---\r?\n(.*?)\r?\n---\s*(?:\r?\n|$)", text, re.DOTALL)
    if matter is None:
        return None
    fields = dict(re.findall(r"^(license|license_name):[ \t]*(.*?)[ \t]*$", matter[1], re.MULTILINE))
    names = {key: value.strip("\"'") for key, value in fields.items()}
    licence = names.get("license", "")
    if licence == "other":
        licence = names.get("license_name", "")
    return None if licence in ("", "unknown", "null", "~") else licence


def _run_row(run: Run, hardware: str) -> str:
    steps = f"{run.steps:,}" if run.steps else "not recorded"
    batch = run.loop.get("batch")
    samples = f"{steps} of {batch}" if batch else steps
    minutes = f"{run.minutes:,.0f}" if run.minutes else "not recorded"
    # Older runs name no machine: then the user's word counts, then what the loop was told to run on.
    settings = ", ".join(str(word) for word in (run.loop.get("device"), run.loop.get("precision")) if word)
    machine = run.hardware or hardware or settings or "not recorded"
    seed = "-" if run.seed is None else str(run.seed)
    return f"| [`{run.label}`]({run.place}) | {samples} | {minutes} | {machine} | {seed} |"


def write_card(facts: CardFacts) -> str:
    """The whole model card, by the template ``assets/model_card.md``."""
    networks = [
        f"| `{n.name}` | {n.parameters / 1e6:.1f} M | {n.stored}, {n.size / 1e6:.1f} MB | {n.origin} | {n.purpose} |"
        for n in facts.networks
    ]
    base = notes = ""
    if facts.base:
        terms = f" under its licence, {facts.base_licence}" if facts.base_licence else ""
        base = f"\nNetworks whose origin is {facts.base} were taken from it unchanged{terms}.\n"
    if facts.notes.strip():
        notes = f"\n{facts.notes.strip()}\n"
    data = [facts.data.strip()] if facts.data.strip() else []
    lists = sorted({f"{run.place}/{name}" for run in facts.runs for name in run.records if name in DATA_LISTS})
    if lists:
        data.append("What each run was trained on: " + ", ".join(f"[{name}]({name})" for name in lists) + ".")
    scores = [f"| `{run.label}` | {key} | {value:.4g} |" for run in facts.runs for key, value in run.scores.items()]
    if scores:
        scores = ["| stage | figure | value |", "| --- | --- | --- |", *scores]
    template = Path(__file__).with_name("assets") / "model_card.md"
    return Template(template.read_text(encoding="utf-8")).substitute(
        front_matter="\n".join(front_matter(facts.name, facts.licence, facts.preset)),
        name=facts.name,
        version=__version__,
        preset=facts.preset,
        count=len(facts.networks),
        megabytes=f"{sum(network.size for network in facts.networks) / 1e6:.1f}",
        networks="\n".join(networks),
        base=base,
        licence=f"{facts.licence}." if facts.licence else "None was named, so nobody may use these weights yet.",
        notes=notes,
        data="\n\n".join(data) or "The runs recorded no list of what they were trained on.",
        runs="".join(f"{_run_row(run, facts.hardware)}\n" for run in facts.runs),
        scores="\n".join(scores) or "No run recorded scores.",
    )
