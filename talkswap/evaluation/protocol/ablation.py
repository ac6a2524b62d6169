"""A paper's ablations over one's own runs: preset folders that differ in the choice that a table is about.

The tables themselves belong to the system (:class:`talkswap.systems.description.Ablation`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from talkswap.checkpoints import networks, preset_folder, presets
from talkswap.errors import TalkswapError, UsageError
from talkswap.evaluation.protocol.hdtf import evaluate
from talkswap.evaluation.protocol.methods import Method, Rendering, Setup, Task, render_pair
from talkswap.evaluation.protocol.plan import EvaluationPlan, OnProgress, Table, published_rows
from talkswap.evaluation.results import Evaluation
from talkswap.systems import description, registry
from talkswap.types import DEFAULT_SYSTEM


def ablations(system: str = DEFAULT_SYSTEM) -> dict[str, description.Ablation]:
    """The tables of a system's paper that can be filled, by number.

    Raises:
        UsageError: there is no such system.
    """
    name = registry.find_system(system).ablations
    return {ablation.number: ablation for ablation in networks.resolve(name)} if name else {}


def parse_runs(texts: Sequence[str]) -> dict[str, Path]:
    """``NAME=FOLDER`` texts by name.

    Raises:
        UsageError: a text has another form, or a name is given twice.
    """
    runs: dict[str, Path] = {}
    for text in texts:
        name, sign, folder = text.partition("=")
        if not (name and sign and folder):
            raise UsageError(f"{text!r} is not NAME=FOLDER", "write --run unet=presets/unet")
        if not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise UsageError(f"the name {name!r} has more than letters, digits, - _ and .", "choose a plain name")
        if name in runs:
            raise UsageError(f"two runs are called {name}", "give each row a name of its own")
        runs[name] = Path(folder)
    return runs


def ablate(
    number: str, runs: Mapping[str, Path], plan: EvaluationPlan, progress: OnProgress | None = None, command: str = ""
) -> Evaluation:
    """Fill one table.

    Args:
        number: of the table.
        runs: row name -> preset folder.
        plan: system, data, pairs and judges; its setup analyses the results and renders none.

    Raises:
        UsageError: the system has no such table.
        WeightsMissingError, WeightsCorruptError: of a run's preset folder.
        and what :func:`talkswap.evaluation.protocol.hdtf.evaluate` raises.
    """
    tables = ablations(plan.system)
    if number not in tables:
        hint = f"choose one of: {', '.join(tables)}" if tables else "choose a system whose paper has ablations"
        raise UsageError(f"{plan.system} has no table {number!r} of ablations", hint)
    table = tables[number]
    methods = [method for name, folder in runs.items() for method in rows(plan.system, table, name, folder)]
    published = tuple(row for row in published_rows(plan.system) if row.table == number)
    target = Table("ablation", number, f"Table {number}: {table.title}", published, table.metrics)
    return evaluate(replace(plan, setting=table.setting), progress, command, methods, target)


def rows(system: str, table: description.Ablation, name: str, folder: Path) -> list[Method]:
    """The rows of one run, one for each variant of the table.

    Raises:
        WeightsMissingError, WeightsCorruptError.
    """
    needs = registry.requirements(system)
    preset = presets.find_preset("auto", folder, needs)
    try:
        # The columns are read from the run's own configuration, so that nobody has to type them.
        choices = table.choices(preset)
    except (KeyError, TypeError, ValueError, TalkswapError):
        choices = {}  # a network of another shape still has figures

    def render(options: Mapping[str, Any], task: Task, setup: Setup) -> Rendering:
        # The run's networks render; the plan's networks only analyse the results.
        own = Setup("auto", folder, setup.device)
        return render_pair(system, {**table.options, **options}, task, own, swap=table.swap, sync=table.sync)

    return [
        Method(
            f"{name}-{variant}" if variant else name, f"{name}, {variant}" if variant else name,
            f"the preset folder {folder}", partial(render, options), swaps=table.swap,
            choices={**choices, **{key: str(value) for key, value in options.items()}},
            hashes=lambda setup: preset_folder.weight_hashes(presets.find_preset("auto", folder, needs)),
        )
        for variant, options in table.variants.items()
    ]  # fmt: skip
