"""From results of pairs to the figures of a table, and what decides them."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

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
    made = truth = None
    count = 0
    for stem in stems:
        files = stem.with_name(f"{stem.name}.npy"), stem.with_name(f"{stem.name}-truth.npy")
        if not all(file.is_file() for file in files):
            continue
        own, wanted = (np.load(file) for file in files)
        if made is None or truth is None:
            made, truth = FeatureStatistics.empty(own.shape[1]), FeatureStatistics.empty(own.shape[1])
        made.add(own)
        truth.add(wanted)
        count += 1
    if made is None or truth is None:
        return {}
    try:
        return {FID.key: Figure(frechet_distance(made, truth), count)}
    except TalkswapError:  # a single frame has no covariance
        return {}


def provenance(
    command: str,
    chosen: EvaluationSet,
    pairs: Sequence[Pair],
    wanted: int,
    possible: int,
    seed: int,
    troubles: Mapping[str, str],
    weights: dict[str, str],
    options: dict[str, str],
    notes: tuple[str, ...],
) -> Provenance:
    """All that a reader needs to repeat the run.

    Args:
        troubles: clip -> why it could not be had here.
        weights: file -> sha256.
    """
    taken = {clip.name: clip for pair in pairs for clip in (pair.source, pair.target)}
    clips = tuple(
        ClipFacts(clip.name, clip.speaker, clip.frames, clip.seconds, dict(clip.stated))
        for name, clip in sorted(taken.items())
    )
    refused = tuple(ClipRefused(name, reason) for name, reason in sorted(troubles.items())) + chosen.refused
    named = tuple((pair.source_name, pair.target.name) for pair in pairs)
    return Provenance(
        datetime.now(UTC).isoformat(timespec="seconds"), command, str(chosen.folder), seed, wanted, possible, named, clips,
        refused, commit(), versions(), machine(), weights, options, notes,
    )  # fmt: skip


def commit() -> str:
    """The checkout's commit, with a plus where tracked files differ from it; "" outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        found = git("rev-parse", "HEAD")
        return found + ("+" if found and git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.TimeoutExpired):
        return ""


def machine() -> dict[str, str]:
    """What the run was made on; figures of speed mean nothing without it."""
    facts = {"system": platform.platform(), "cores": str(os.cpu_count() or 0)}
    listed = Path("/proc/cpuinfo")
    if listed.is_file():
        lines = listed.read_text(encoding="utf-8", errors="replace").splitlines()
        if model := next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), ""):
            facts["processor"] = model
    if hasattr(os, "sysconf"):
        facts["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.1f} GB"
    return facts
