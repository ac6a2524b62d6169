from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from talkswap.cli import main
from talkswap.data.shards import pack_shards, unpack_shards
from talkswap.errors import OutputUnwritableError, TrainingDataError

LIMIT = 300_000


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Small files, an empty one, one of several shards, a very long name, and what does not travel."""
    folder = tmp_path / "set"
    random = np.random.default_rng(0)
    long_name = "a" * 90 + "/" + "b" * 120 + ".npy"
    sizes = {"big.npy": 1_000_001, "empty": 0, "one": 1, "clips/a.npz": 511, "clips/b.npz": 512, long_name: 70_000}
    sizes |= {f"many/{k}.json": 3_000 + k for k in range(40)}
    for name, size in sizes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(random.bytes(size))
    (folder / "work").mkdir()
    (folder / "work" / "half").write_bytes(b"x")
    (folder / ".lock").touch()
    return folder


def test_there_and_back_is_the_same_to_the_bit(data: Path, tmp_path: Path) -> None:
    packed = pack_shards(data, tmp_path / "shards", LIMIT)
    wanted = {name: digest for name, digest in hashes(data).items() if name != ".lock" and not name.startswith("work/")}
    shards = sorted((tmp_path / "shards").glob("*.tar"))
    assert packed["files"] == len(wanted) and packed["shards"] == len(shards) == 5
    assert max(shard.stat().st_size for shard in shards) <= LIMIT
    assert min(shard.stat().st_size for shard in shards[:-1]) > LIMIT - 80_000  # filled
    made = unpack_shards(tmp_path / "shards", tmp_path / "back")
    assert hashes(tmp_path / "back") == wanted and made["files"] == len(wanted)


def test_the_same_data_give_the_same_shards(data: Path, tmp_path: Path) -> None:
    for out in ("a", "b"):
        pack_shards(data, tmp_path / out, LIMIT)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


def test_the_index_states_every_hash_and_any_tar_reads_the_shards(data: Path, tmp_path: Path) -> None:
    pack_shards(data, tmp_path / "shards", LIMIT)
    index = json.loads((tmp_path / "shards" / "index.json").read_text())
    there = hashes(tmp_path / "shards")
    assert {s["name"]: s["sha256"] for s in index["shards"]} == {k: v for k, v in there.items() if k != "index.json"}
    big = next(entry for entry in index["files"] if entry["path"] == "big.npy")
    assert len(big["parts"]) > 1
    joined = b""
    for part in big["parts"]:
        with tarfile.open(tmp_path / "shards" / part["shard"]) as tar:
            stored = tar.extractfile(part["member"])
            assert stored is not None
            joined += stored.read()
    assert joined == (data / "big.npy").read_bytes()


def test_files_that_are_right_stay_and_others_are_made_anew(data: Path, tmp_path: Path) -> None:
    pack_shards(data, tmp_path / "shards", LIMIT)
    unpack_shards(tmp_path / "shards", tmp_path / "back")
    (tmp_path / "back" / "one").write_bytes(b"?")
    (tmp_path / "back" / "clips" / "a.npz").unlink()
    kept = (tmp_path / "back" / "big.npy").stat().st_mtime_ns
    assert unpack_shards(tmp_path / "shards", tmp_path / "back")["files"] == 2
    assert (tmp_path / "back" / "one").read_bytes() == (data / "one").read_bytes()
    assert (tmp_path / "back" / "big.npy").stat().st_mtime_ns == kept


def test_a_shard_that_is_damaged_or_missing_is_named(data: Path, tmp_path: Path) -> None:
    pack_shards(data, tmp_path / "shards", LIMIT)
    path = tmp_path / "shards" / "shard-00002.tar"
    content = bytearray(path.read_bytes())
    content[100_000] ^= 1
    path.write_bytes(content)
    with pytest.raises(TrainingDataError, match="shard-00002.tar differs"):
        unpack_shards(tmp_path / "shards", tmp_path / "back")
    path.unlink()
    with pytest.raises(TrainingDataError, match="shard-00002.tar is missing"):
        unpack_shards(tmp_path / "shards", tmp_path / "back")


def test_an_index_that_points_outside_is_not_followed(data: Path, tmp_path: Path) -> None:
    pack_shards(data, tmp_path / "shards", LIMIT)
    index = tmp_path / "shards" / "index.json"
    told = json.loads(index.read_text())
    for wrong in ("../outside", "/outside", "clips/../../outside"):
        told["files"][0]["path"] = wrong
        index.write_text(json.dumps(told))
        with pytest.raises(TrainingDataError, match="outside"):
            unpack_shards(tmp_path / "shards", tmp_path / "back")
    index.write_text("{")
    with pytest.raises(TrainingDataError, match="damaged"):
        unpack_shards(tmp_path / "shards", tmp_path / "back")
    assert not (tmp_path / "outside").exists()


def test_shards_go_into_a_folder_of_their_own(data: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputUnwritableError, match="itself"):
        pack_shards(data, data / "shards", LIMIT)
    with pytest.raises(OutputUnwritableError, match="holds files"):
        pack_shards(data / "clips", data / "many", LIMIT)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(TrainingDataError, match="no file"):
        pack_shards(tmp_path / "nothing", tmp_path / "x", LIMIT)


def test_the_commands(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards, back = str(tmp_path / "shards"), str(tmp_path / "back")
    assert main(["data", "shard", str(data), "--out", shards, "--size", "0.3"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["shards"] == 5 and "packing" in said.err
    assert main(["data", "unshard", shards, "--out", back, "--quiet"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["files"] == 46 and said.err == ""
    assert main(["data", "unshard", str(data), "--out", back]) == TrainingDataError.exit_code
    assert "no index.json" in capsys.readouterr().err
    assert main(["data", "shard", str(tmp_path / "none"), "--out", shards]) == 3
