"""From the results of pairs to the figures of a table, and the provenance of those figures."""

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

import talkswap
from talkswap.checkpoints.preset_folder import PresetFolder, weight_hashes
from talkswap.device import versions
from talkswap.errors import TalkswapError
from talkswap.evaluation.judges.judges import Judges
from talkswap.evaluation.metrics.frechet import FID, FeatureStatistics, frechet_distance
from talkswap.evaluation.protocol.methods import Method
from talkswap.evaluation.protocol.plan import EvaluationPlan, EvaluationSet, Pair
from talkswap.evaluation.results import ClipFacts, ClipRefused, Figure, PairResult, Provenance


def figures_of(pairs: Sequence[PairResult]) -> dict[str, Figure]:
    """Mean and spread of every metric over the pairs that have it."""
    gathered: dict[str, list[float]] = {}
    for pair in pairs:
        for key, value in pair.values.items():
            gathered.setdefault(key, []).append(value)
    return {key: mean_figure(values) for key, values in gathered.items()}


def mean_figure(values: Sequence[float]) -> Figure:
    """Mean of at least one value, and the standard deviation of at least two."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Figure(float(np.mean(values)), len(values), spread)


def set_figures(stems: Sequence[Path]) -> dict[str, Figure]:
    """Figures of all results together: the Frechet distance of their frames to the true ones.

    Args:
        stems: one for each result: ``STEM.npy`` holds its features (N D), ``STEM-truth.npy`` those of the truth.
    """
    results = truths = None
    count = 0
    for stem in stems:
        files = stem.with_name(f"{stem.name}.npy"), stem.with_name(f"{stem.name}-truth.npy")
        # A clip without features, as after a failure, is left out on both sides.
        if not all(file.is_file() for file in files):
            continue
        result, truth = (np.load(file) for file in files)
        if results is None or truths is None:
            results, truths = (FeatureStatistics.empty(result.shape[1]) for _ in range(2))
        results.add(result)
        truths.add(truth)
        count += 1
    if results is None or truths is None:
        return {}
    try:
        return {FID.key: Figure(frechet_distance(results, truths), count)}
    except TalkswapError:  # a single frame has no covariance
        return {}


def provenance(
    plan: EvaluationPlan,
    command: str,
    clips: EvaluationSet,
    drawn: Sequence[Pair],
    possible: int,
    unavailable: Mapping[str, str],
    preset: PresetFolder,
    judges: Judges,
    methods: Sequence[Method],
) -> Provenance:
    """Everything that a reader needs to repeat the run.

    Args:
        plan: of the run.
        command: as typed.
        clips: those that pairs were drawn from.
        drawn: all pairs, also those that the plan's limit leaves out.
        possible: how many pairs the clips would give.
        unavailable: clip -> why it isn't available here.
        preset: whose analyser saw the results.
        judges, methods: of the run.
    """
    pairs = drawn[: plan.limit or None]
    # Only clips of the pairs that ran decide the figures.
    by_name = {clip.name: clip for pair in pairs for clip in (pair.source, pair.target)}
    facts = tuple(
        ClipFacts(clip.name, clip.speaker, clip.frames, clip.seconds, dict(clip.stated))
        for _, clip in sorted(by_name.items())
    )
    refused = tuple(ClipRefused(name, reason) for name, reason in sorted(unavailable.items())) + clips.refused
    names = tuple((pair.source_name, pair.target.name) for pair in pairs)
    return Provenance(
        datetime.now(UTC).isoformat(timespec="seconds"), command, str(clips.folder), plan.seed, plan.pairs, possible,
        names, facts, refused, commit(), versions(), machine(), weight_hashes(preset), options_of(plan, preset),
        notes_of(plan, drawn, judges, clips, methods),
    )  # fmt: skip


def options_of(plan: EvaluationPlan, preset: PresetFolder) -> dict[str, str]:
    """Everything that decides the figures besides data and weights."""
    return {
        "system": plan.system, "setting": plan.setting, "split": plan.split, "limit": str(plan.limit or "none"), "crop": f"{plan.size} px",
        "seconds": "whole clips" if plan.seconds is None else f"{float(plan.seconds):g}", "preset": preset.name,
        "device": plan.setup.device, "portraits": str(plan.portraits or "none"),
    }  # fmt: skip


def notes_of(
    plan: EvaluationPlan, drawn: Sequence[Pair], judges: Judges, clips: EvaluationSet, methods: Sequence[Method]
) -> tuple[str, ...]:
    """What a reader must know before the figures."""
    notes = [shortage] if (shortage := plan.shortage(len(drawn), clips)) else []
    if 0 < plan.limit < len(drawn):
        notes.append(f"only the first {plan.limit} of the {len(drawn)} pairs that were drawn")
    notes.append(f"ID Retrieve chooses among {len({pair.source_name for pair in drawn})} sources")
    if plan.split != "val":
        notes.append(f"Clips are of split {plan.split}: that nothing was trained on them is the user's word")
    notes.append("Results are measured without the marks that a render carries otherwise")
    notes += dict.fromkeys(method.note for method in methods if method.note)
    notes += [f"{judge.name}: {judge.note}" for judge in judges.named() if judge.note]
    return tuple(notes)


def commit() -> str:
    """The checkout's commit, with a plus if tracked files differ from it; "" outside a checkout."""
    root = Path(talkswap.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return ""

    def git(*arguments: str) -> str:
        process = subprocess.run(
            ["git", "-C", str(root), *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
        )
        return process.stdout.strip() if process.returncode == 0 else ""

    try:
        # The plus tells a reader that the commit alone doesn't give these figures.
        head = git("rev-parse", "HEAD")
        return head + ("+" if head and git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.TimeoutExpired):
        return ""


def machine() -> dict[str, str]:
    """The machine of the run; figures of speed mean nothing without it."""
    facts = {"system": platform.platform(), "cores": str(os.cpu_count() or 0)}
    processors = Path("/proc/cpuinfo")  # on Linux
    if processors.is_file():
        lines = processors.read_text(encoding="utf-8", errors="replace").splitlines()
        if model := next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), ""):
            facts["processor"] = model
    if hasattr(os, "sysconf"):
        facts["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.1f} GB"
    return facts
