"""Checkpoints: what is written is read, in files of at most 16 MB, and damage costs one save and not the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from talkswap.errors import TrainingError
from talkswap.train import state

GROUPS = {"network": {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(7)}, "average": {"a": torch.ones(3)}}


def saved(run: Path, step: int) -> Path:
    return state.save(run, {"step": step}, GROUPS)


def newest(run: Path) -> tuple[int | None, list[str]]:
    said: list[str] = []
    stored = state.read_newest(run, said.append)
    return (None if stored is None else stored.values["step"]), said


def cut(folder: Path) -> None:
    file = folder / "network-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def flip(folder: Path) -> None:
    file = folder / "network-00001.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    stored = state.read(saved(tmp_path, 3))
    assert stored.values["step"] == 3 and stored.groups.keys() == GROUPS.keys()
    for name, tensors in GROUPS.items():
        assert all(torch.equal(stored.groups[name][key], value) for key, value in tensors.items())


def test_large_sets_and_large_tensors_are_cut_into_files_of_at_most_16_mb(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    large = torch.randn(3, 3_000_000, generator=generator)  # 36 MB
    many = {f"layer.{i}.weight": torch.randn(1000, 300, generator=generator) for i in range(20)}  # 24 MB
    half = torch.randn(9_000_000, generator=generator).bfloat16().view(3000, 3000).t()  # not contiguous, 18 MB
    folder = state.save(tmp_path, {"step": 1}, {"network": {"large": large, **many, "half": half}, "empty": {}})
    files = sorted(folder.glob("network-*.safetensors"))
    assert len(files) >= 5 and max(f.stat().st_size for f in files) <= 16_000_000
    assert files[0].name == "network-00001.safetensors"
    assert set(json.loads((folder / "state.json").read_text())["files"]) == {f.name for f in files}
    read = state.read(folder).groups
    assert torch.equal(read["network"]["large"], large) and torch.equal(read["network"]["half"], half)
    assert all(torch.equal(read["network"][k], v) for k, v in many.items()) and read["empty"] == {}
    assert read["network"].keys() == {"large", "half", *many}


def test_a_machine_lost_between_the_two_moves_loses_nothing(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    saved(tmp_path, 2)
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.new")  # written whole, and never moved into place
    assert newest(tmp_path) == (2, [])


def test_a_half_written_state_is_passed_over_in_silence(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    (tmp_path / "checkpoint.new").mkdir()
    (tmp_path / "checkpoint.new/network-00001.safetensors").write_bytes(b"half")
    assert newest(tmp_path) == (1, [])
    (tmp_path / "checkpoint.old").rename(tmp_path / "elsewhere")
    assert newest(tmp_path) == (None, [])


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        flip,
        lambda folder: (folder / "average-00001.safetensors").unlink(),
        lambda folder: (folder / "state.json").unlink(),
        lambda folder: (folder / "state.json").write_text('{"version": 2, "st'),
        lambda folder: (folder / "state.json").write_text('{"step": 4}'),
        lambda folder: (folder / "state.json").write_text("[]"),
    ],
)
def test_a_damaged_state_costs_one_line_and_the_state_before_is_taken(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    saved(tmp_path, 1)
    damage(saved(tmp_path, 2))
    step, said = newest(tmp_path)
    assert step == 1 and len(said) == 1 and "checkpoint is damaged" in said[0] and "\n" not in said[0]


def test_the_state_that_was_taken_up_outlives_the_next_save(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    cut(saved(tmp_path, 2))
    state.settle(tmp_path, tmp_path / "checkpoint.old")
    cut(saved(tmp_path, 3))
    assert newest(tmp_path)[0] == 1


def test_a_run_of_which_nothing_is_whole_is_an_error(tmp_path: Path) -> None:
    cut(saved(tmp_path, 1))
    with pytest.raises(TrainingError, match="no state of the run"):
        newest(tmp_path)


def test_a_state_that_cannot_be_written_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 1)

    def full(tensors: object, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(TrainingError, match="No space left on device") as caught:
        saved(tmp_path, 2)
    assert "last good state is kept" in caught.value.hint and newest(tmp_path) == (1, [])
