"""Choosing an analyser by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from talkswap.errors import UsageError, WeightsMissingError
from talkswap.faces.analyse import ANALYSERS, load_analyser


@pytest.mark.parametrize("name", ANALYSERS)
def test_every_analyser_names_its_missing_weights(name: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsMissingError) as caught:
        load_analyser(name, tmp_path)
    assert str(tmp_path) in caught.value.message and caught.value.hint


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'dlib'") as caught:
        load_analyser("dlib", tmp_path)
    assert all(name in caught.value.hint for name in ANALYSERS)
