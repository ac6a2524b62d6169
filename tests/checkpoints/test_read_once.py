"""What is loaded is what was checked, though the file be replaced in between."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from talkswap.checkpoints.manifest import FileRecord, check_file
from talkswap.checkpoints.networks import read_tensors, write_tensors
from talkswap.errors import WeightsCorruptError
from talkswap.files import file_sha256


def checked(folder: Path, value: float) -> Path:
    (name,) = write_tensors({"w": torch.full((8,), value)}, folder, "network")
    path = folder / name
    check_file(path, FileRecord(name, path.stat().st_size, file_sha256(path)), "fetch it again")
    return path


def test_a_file_replaced_after_its_check_is_refused(tmp_path: Path) -> None:
    path = checked(tmp_path, 1.0)
    content = path.read_bytes()
    (other,) = write_tensors({"w": torch.full((8,), 2.0)}, tmp_path / "other", "network")
    path.write_bytes((tmp_path / "other" / other).read_bytes())
    with pytest.raises(WeightsCorruptError, match="was replaced while it was being loaded"):
        read_tensors([path], "fetch it again")
    path.write_bytes(content)
    assert read_tensors([path], "")["w"].tolist() == [1.0] * 8


def test_what_was_read_does_not_change_with_the_file(tmp_path: Path) -> None:
    path = checked(tmp_path, 1.0)
    tensors = read_tensors([path], "")
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert tensors["w"].tolist() == [1.0] * 8


def test_what_this_process_writes_anew_is_read_anew(tmp_path: Path) -> None:
    checked(tmp_path, 1.0)
    (name,) = write_tensors({"w": torch.full((8,), 3.0)}, tmp_path, "network")
    assert read_tensors([tmp_path / name], "")["w"].tolist() == [3.0] * 8
