"""Choosing an analyser by name, lazily."""

from __future__ import annotations

import subprocess
import sys
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


def test_nothing_heavy_is_imported_before_an_analyser_is_made() -> None:
    program = (
        "import sys, talkswap.faces.analyse, talkswap.faces.track, talkswap.faces.people, talkswap.faces.paste\n"
        "print([m for m in ('torch', 'onnxruntime', 'insightface', 'av', 'safetensors') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
