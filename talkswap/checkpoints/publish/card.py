"""The model card of a preset folder: README.md with the front matter that the model hub reads."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from talkswap import __version__
from talkswap.checkpoints.publish.runs import Run

CARD = "README.md"
HUB_LICENCES = {
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "lgpl-3.0", "mpl-2.0", "unlicense", "cc0-1.0",
    "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "openrail", "openrail++",
}  # fmt: skip
"""Licences that the hub knows by these names; any other is ``other`` with a name of its own."""

USE = """\
For research, and for people dubbing clips with the consent of everybody who is seen and heard. Results are synthetic
media: say so wherever you show them; in the European Union Article 50 of the AI Act asks for that."""

LIMITS = """\
The scores below are the training stages' own figures on data held out from training; they judge single networks, not
finished clips. People who look unlike those of the training data, faces turned far away, and hair, hands or glasses in
front of the face come out worse. Nothing here was tested for telling people apart, and it must not be used for that."""


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
        known = licence.lower()
        if known in HUB_LICENCES:
            lines.append(f"license: {known}")
        else:
            slug = re.sub(r"[^a-z0-9.]+", "-", known).strip("-")
            lines += ["license: other", f"license_name: {slug}"]
    lines += ["library_name: talkswap", "tags:"]
    lines += [f"- {tag}" for tag in ("talkswap", "lip-sync", "face-swap", "talking-face", "video-dubbing", preset)]
    return [*lines, f"model_name: {json.dumps(name, ensure_ascii=False)}"]  # a JSON string is a YAML string


def card_licence(text: str) -> str | None:
    """The licence that a card's front matter names; None when it names none."""
    matter = re.match(r"---\r?\n(.*?)\r?\n---\s*(?:\r?\n|$)", text, re.DOTALL)
    if matter is None:
        return None
    fields = dict(re.findall(r"^(license|license_name):[ \t]*(.*?)[ \t]*$", matter[1], re.MULTILINE))
    named = {key: value.strip("\"'") for key, value in fields.items()}
    licence = named.get("license", "")
    if licence == "other":
        licence = named.get("license_name", "")
    return None if licence in ("", "unknown", "null", "~") else licence


def _hardware(run: Run, said: str) -> str:
    device, precision = run.loop.get("device"), run.loop.get("precision")
    return run.hardware or said or ", ".join(str(word) for word in (device, precision) if word) or "not recorded"


def _run_row(run: Run, hardware: str) -> str:
    steps = f"{run.steps:,}" if run.steps else "not recorded"
    batch = run.loop.get("batch")
    minutes = f"{run.minutes:,.0f}" if run.minutes else "not recorded"
    seed = "-" if run.seed is None else str(run.seed)
    samples = f"{steps} of {batch}" if batch else steps
    return f"| [`{run.label}`]({run.place}) | {samples} | {minutes} | {_hardware(run, hardware)} | {seed} |"


def _score_lines(runs: Sequence[Run]) -> list[str]:
    scored = [run for run in runs if run.scores]
    if not scored:
        return ["No run recorded scores."]
    rows = [f"| `{run.label}` | {key} | {value:.4g} |" for run in scored for key, value in run.scores.items()]
    return ["| stage | figure | value |", "| --- | --- | --- |", *rows]


def _data_lines(facts: CardFacts) -> list[str]:
    lines = [facts.data.strip(), ""] if facts.data.strip() else []
    lists = sorted({f"{r.place}/{n}" for r in facts.runs for n in r.records if n in _LISTS})
    if lists:
        return [*lines, "What each run was trained on: " + ", ".join(f"[{name}]({name})" for name in lists) + "."]
    return lines or ["The runs recorded no list of what they were trained on."]


_LISTS = ("data.json", "clips.json", "pairs.json", "people.json")


def write_card(facts: CardFacts) -> str:
    """The whole model card."""
    total = sum(network.size for network in facts.networks)
    rows = [
        f"| `{n.name}` | {n.parameters / 1e6:.1f} M | {n.stored}, {n.size / 1e6:.1f} MB | {n.origin} | {n.purpose} |"
        for n in facts.networks
    ]
    theirs = f" under its licence, {facts.base_licence}" if facts.base_licence else ""
    base = [f"Networks whose origin is {facts.base} were taken from it unchanged{theirs}.", ""] if facts.base else []
    lines = [
        "---",
        *front_matter(facts.name, facts.licence, facts.preset),
        "---",
        "",
        f"# {facts.name}",
        "",
        "Weights for talkswap, a command-line tool that dubs clips (one photo, one clip, one voice in; the dubbed clip out), "
        f"packed by version {__version__} like its {facts.preset} preset: {len(facts.networks)} networks, {total / 1e6:.1f} MB.",
        "",
        "```",
        "talkswap render --weights THIS_FOLDER --source PHOTO --target CLIP --audio VOICE --output dubbed.mp4",
        "```",
        "",
        "`manifest.toml` states size and sha256 of every file, and `talkswap weights check THIS_FOLDER` compares them.",
        "",
        "| file | parameters | stored | origin | what it does |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
        *base,
        "## Licence",
        "",
        f"{facts.licence}." if facts.licence else "None was named, so nobody may use these weights yet.",
        "",
        "## Use and limits",
        "",
        USE,
        "",
        LIMITS,
        *(["", facts.notes.strip()] if facts.notes.strip() else []),
        "",
        "## Data",
        "",
        *_data_lines(facts),
        "",
        "## Training",
        "",
        "| stage | batches | minutes | hardware | seed |",
        "| --- | --- | --- | --- | --- |",
        *[_run_row(run, facts.hardware) for run in facts.runs],
        "",
        "Configuration, curve and scores of each run lie in its folder below `ROOM/runs/`.",
        "",
        "## Scores",
        "",
        *_score_lines(facts.runs),
    ]
    return "\n".join(lines) + "\n"
