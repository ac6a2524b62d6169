"""Figures of a table from the results of pairs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from talkswap.evaluation.protocol.summary import commit, figures_of, set_figures
from talkswap.evaluation.results import Figure, PairResult

ROOT = Path(__file__).parents[3]


def test_figures_are_means_with_their_spread() -> None:
    pairs = [PairResult(n, "a", "b", "a", values) for n, values in enumerate([{"x": 1.0, "y": 5.0}, {"x": 3.0}, {}])]
    assert figures_of(pairs) == {"x": Figure(2.0, 2, 2**0.5), "y": Figure(5.0, 1)}


def test_a_checkout_states_its_commit() -> None:
    assert bool(re.fullmatch(r"[0-9a-f]{40}\+?", commit())) == (ROOT / ".git").exists()


def test_the_sets_figure_is_of_all_pairs_together(tmp_path: Path) -> None:
    """Two clips whose features differ in opposite ways: together they are like the truth, alone neither is."""
    random = np.random.default_rng(0)
    truth = random.standard_normal((2, 40, 3))
    made = truth + np.array([[[2.0]], [[-2.0]]]) * np.array([1, 0, 0])
    for number in range(2):
        np.save(tmp_path / f"pair{number}.npy", made[number])
        np.save(tmp_path / f"pair{number}-truth.npy", truth[number])
    alone = set_figures([tmp_path / "pair0"])["fid"]
    both = set_figures([tmp_path / "pair0", tmp_path / "pair1", tmp_path / "gone"])["fid"]
    assert alone.value == pytest.approx(4, abs=1e-6) and alone.count == 1
    assert both.count == 2 and both.value < 3  # the means agree, the spreads do not
    assert set_figures([tmp_path / "gone"]) == {}
