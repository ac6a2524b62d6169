"""From the results of pairs to the figures of a table, and the provenance of those figures."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

import talkswap
from talkswap.device import versions
from talkswap.errors import TalkswapError
from talkswap.evaluation.metrics.frechet import FID, FeatureStatistics, frechet_distance
from talkswap.evaluation.protocol.pairs import EvaluationSet, Pair
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
    command: str,
    clips: EvaluationSet,
    pairs: Sequence[Pair],
    pairs_wanted: int,
    pairs_possible: int,
    seed: int,
    unavailable: Mapping[str, str],
    weights: dict[str, str],
    options: dict[str, str],
    notes: tuple[str, ...],
) -> Provenance:
    """Everything that a reader needs to repeat the run.

    Args:
        command: as typed.
        clips: those that pairs were drawn from.
        pairs: those that were run.
        pairs_wanted, pairs_possible: what the plan asks for, and what the clips would give.
        seed: of the draw.
        unavailable: clip -> why it isn't available here.
        weights: file -> sha256.
        options, notes: as the report shows them.
    """
    by_name = {clip.name: clip for pair in pairs for clip in (pair.source, pair.target)}
    facts = tuple(
        ClipFacts(clip.name, clip.speaker, clip.frames, clip.seconds, dict(clip.stated))
        for _, clip in sorted(by_name.items())
    )
    refused = tuple(ClipRefused(name, reason) for name, reason in sorted(unavailable.items())) + clips.refused
    names = tuple((pair.source_name, pair.target.name) for pair in pairs)
    return Provenance(
        datetime.now(UTC).isoformat(timespec="seconds"), command, str(clips.folder), seed, pairs_wanted, pairs_possible,
        names, facts, refused, commit(), versions(), machine(), weights, options, notes,
    )  # fmt: skip


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
