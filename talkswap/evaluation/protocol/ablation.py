"""Tables II to VI of the paper over one's own runs: preset folders that differ in the choice that a table is about.

    II   compression of the VQGAN, judged by face swap alone      ID Retrieve, FID
    III  compression of the VQGAN, judged by lip sync alone       FID, SSIM, LMD of the mouth
    IV   identity losses and backbone of the face swap            ID Retrieve, FID
    V    expert and backbone of the lip sync                      FID, SSIM, LMD of the mouth
    VI   order of the two                                         FID, LSE-C, ID Retrieve, Consistency

Where one module is judged, the other is switched off.  Lip sync alone is judged self-driven, where its truth is known;
face swap alone hears nothing, so one setting is enough; the order is judged cross-driven, as in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from talkswap.checkpoints.presets import PresetFolder, find_preset, load_config, weight_hashes
from talkswap.errors import TalkswapError, UsageError
from talkswap.evaluation.protocol.hdtf import evaluate
from talkswap.evaluation.protocol.methods import Made, Method, Setup, Task, plan_of, run_plan
from talkswap.evaluation.protocol.plan import EvaluationPlan, Report, Table
from talkswap.evaluation.protocol.published import ABLATIONS
from talkswap.evaluation.results import Evaluation, Setting


@dataclass(frozen=True)
class Ablation:
    """One table."""

    number: str
    title: str
    setting: Setting
    metrics: tuple[str, ...]
    choices: Callable[[PresetFolder], dict[str, str]]  # what a run chose, in the paper's columns
    swap: bool = True
    sync: bool = True


def _compression(preset: PresetFolder) -> dict[str, str]:
    """How many px of the crop are one cell of the latent grid."""
    size, grid = load_config(preset, "vqgan")["size"], load_config(preset, "lip_sync")["grid"]
    return {"compression": f"{int(size) // int(grid)}x"}


def _backbone(network: str) -> Callable[[PresetFolder], dict[str, str]]:
    return lambda preset: {"backbone": str(load_config(preset, network)["backbone"])}


def _nothing(preset: PresetFolder) -> dict[str, str]:
    return {}


TABLES: Mapping[str, Ablation] = {
    table.number: table
    for table in (
        Ablation("II", "Compression, face swap", "self", ("id_retrieve", "fid"), _compression, sync=False),
        Ablation("III", "Compression, lip sync", "self", ("fid", "ssim", "lmd_m"), _compression, swap=False),
        Ablation("IV", "Face swap", "self", ("id_retrieve", "fid"), _backbone("face_swap"), sync=False),
        Ablation("V", "Lip sync", "self", ("fid", "ssim", "lmd_m"), _backbone("lip_sync"), swap=False),
        Ablation("VI", "Order", "cross", ("fid", "lse_c", "id_retrieve", "consistency"), _nothing),
    )
}


def parse_runs(texts: Sequence[str]) -> dict[str, Path]:
    """``NAME=FOLDER`` texts by name.

    Raises:
        UsageError: one is no such text, or a name is there twice.
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
    number: str, runs: Mapping[str, Path], plan: EvaluationPlan, progress: Report | None = None, command: str = ""
) -> Evaluation:
    """Fill one table.

    Args:
        number: of the table, ``II`` to ``VI``.
        runs: row name -> preset folder.
        plan: data, pairs and judges; its setup looks at the results and renders none.

    Raises:
        UsageError: there is no such table.
        WeightsMissingError, WeightsCorruptError: of a run's preset folder.
        and what :func:`talkswap.evaluation.protocol.hdtf.evaluate` raises.
    """
    if number not in TABLES:
        raise UsageError(f"there is no table {number!r} of ablations", f"choose of {', '.join(TABLES)}")
    table = TABLES[number]
    methods = [method for name, folder in runs.items() for method in rows(table, name, folder)]
    shown = Table("ablation", number, f"Table {number}: {table.title}", ABLATIONS[number], table.metrics)
    return evaluate(replace(plan, setting=table.setting), progress, command, methods, shown)


def rows(table: Ablation, name: str, folder: Path) -> list[Method]:
    """The rows of one run: two where the table is about the order.

    Raises:
        WeightsMissingError, WeightsCorruptError.
    """
    preset = find_preset("auto", folder)
    if table.number == "VI":
        return [
            _row(f"{name}-{order}", f"{name}, {order}", folder, table, {"order": order}, order)
            for order in ("sync-swap", "swap-sync")
        ]
    try:
        choices = table.choices(preset)
    except (KeyError, TypeError, ValueError, TalkswapError):
        choices = {}  # a network of another shape has its figures all the same
    return [_row(name, name, folder, table, choices)]


def _row(
    key: str, label: str, folder: Path, table: Ablation, choices: dict[str, str], order: str = "swap-sync"
) -> Method:
    def own(setup: Setup) -> Setup:
        return Setup("auto", folder, setup.device)

    def make(task: Task, setup: Setup) -> Made:
        return run_plan(plan_of(task, own(setup), order, table.swap, table.sync))

    return Method(
        key, label, f"the preset folder {folder}", make, lambda setup: "", swaps=table.swap, choices=choices,
        hashes=lambda setup: weight_hashes(find_preset("auto", folder)),
    )  # fmt: skip
