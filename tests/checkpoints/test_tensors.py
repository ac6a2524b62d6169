"""Tensors in one file or in shards: nobody who reads them notices, and half a set is no set."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from talkswap.checkpoints.manifest import write_manifest
from talkswap.checkpoints.networks import network_of, pack, read_tensors, shards, tensor_files, write_tensors
from talkswap.checkpoints.preset_folder import load_weights, network_folder, weight_hashes
from talkswap.checkpoints.presets import find_preset, folder_state, preset_state
from talkswap.errors import UsageError, WeightsCorruptError, WeightsMissingError
from talkswap.systems.registry import requirements

TENSORS = {f"layer.{index}": torch.full((100, 100), float(index)) for index in range(10)}  # 40 kB each


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_shards_hold_the_same_and_none_is_too_large(tmp_path: Path) -> None:
    files = write_tensors(TENSORS, tmp_path, "net", 100_000)
    assert files == [f"net-{index:05d}-of-00005.safetensors" for index in range(1, 6)]
    assert all((tmp_path / file).stat().st_size <= 100_000 for file in files)
    assert tensor_files(tmp_path, "net") == tuple(files)
    assert same(read_tensors([tmp_path / file for file in files], ""), TENSORS)


def test_a_small_network_stays_whole(tmp_path: Path) -> None:
    assert write_tensors(TENSORS, tmp_path, "net", 1_000_000) == ["net.safetensors"]
    assert write_tensors(TENSORS, tmp_path, "other") == ["other.safetensors"]
    assert tensor_files(tmp_path, "net") == ("net.safetensors",)


def test_eight_bit_tensors_may_lie_apart_from_their_steps(tmp_path: Path) -> None:
    packed = pack({"w": torch.randn(100, 100, generator=torch.Generator().manual_seed(0))})
    files = write_tensors(packed, tmp_path, "net", 10_300)
    assert len(files) == 2
    whole = write_tensors(packed, tmp_path / "whole", "net")
    assert same(
        read_tensors([tmp_path / f for f in files], ""), read_tensors([tmp_path / "whole" / f for f in whole], "")
    )


def test_a_tensor_too_large_for_any_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"layer\.0 alone takes") as caught:
        write_tensors(TENSORS, tmp_path, "net", 30_000)
    assert "--largest-mb 1" in caught.value.hint


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(600, 2000))
def test_every_tensor_is_in_one_shard_and_sizes_hold(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], largest: int
) -> None:
    tensors = {f"t{index}": torch.zeros(size) for index, size in enumerate(sizes)}
    groups = shards(tensors, largest)
    assert [name for group in groups for name in group] == list(tensors)
    folder = tmp_path_factory.mktemp("shards")
    for file in write_tensors(tensors, folder, "net", largest):
        assert (folder / file).stat().st_size <= largest


def test_a_missing_shard_leaves_nothing(tmp_path: Path) -> None:
    files = write_tensors(TENSORS, tmp_path, "net", 100_000)
    (tmp_path / files[2]).unlink()
    assert tensor_files(tmp_path, "net") == ()
    assert tensor_files(tmp_path / "nowhere", "net") == ()


def test_names_that_only_look_alike(tmp_path: Path) -> None:
    save_file({"w": torch.ones(1)}, tmp_path / "network-00001-of-00001.safetensors")
    assert tensor_files(tmp_path, "net") == ()
    assert network_of("a-00001-of-00002.safetensors") == "a"
    assert network_of("a-1-of-2.safetensors") == "a-1-of-2"
    assert network_of("a.json") is None


def test_two_shards_with_the_same_tensor_are_refused(tmp_path: Path) -> None:
    for index in (1, 2):
        save_file({"w": torch.ones(index)}, tmp_path / f"net-{index:05d}-of-00002.safetensors")
    with pytest.raises(WeightsCorruptError, match="another shard holds"):
        read_tensors([tmp_path / f for f in tensor_files(tmp_path, "net")], "")


@pytest.fixture
def sharded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compact preset, all networks in shards, as the only one below TALKSWAP_WEIGHTS."""
    folder = tmp_path / "weights" / "compact"
    for network in requirements()["compact"].networks:
        room, _, name = network.partition("/")
        write_tensors(TENSORS, folder / room, name, 100_000)
        (folder / f"{network}.json").write_text("{}")
    write_manifest(folder)
    monkeypatch.setenv("TALKSWAP_WEIGHTS", str(tmp_path / "weights"))
    return folder


def test_a_preset_of_shards_is_complete_and_loads(sharded: Path) -> None:
    preset = find_preset("compact", sharded)
    assert preset.folders == (sharded,)
    assert same(load_weights(preset, "swaptalk/vqgan"), TENSORS)
    assert network_folder(preset, "faces/detector") == sharded / "faces"
    assert len([file for file in weight_hashes(preset) if file.startswith("swaptalk/vqgan-")]) == 5


def test_own_shards_go_before_a_shipped_whole_file(sharded: Path) -> None:
    preset = preset_state("compact")
    assert len(preset.folders) == 2  # ours, then that of the checkout
    assert preset.locate_tensors("swaptalk/vqgan")[0].parent == sharded / "swaptalk"
    hashes = weight_hashes(preset)
    assert "swaptalk/vqgan.safetensors" not in hashes and "swaptalk/vqgan-00001-of-00005.safetensors" in hashes
    assert "swaptalk/sync_expert.safetensors" in hashes  # only the checkout has it


def test_a_lost_or_damaged_shard_is_named(sharded: Path) -> None:
    shard = sharded / "swaptalk/vqgan-00002-of-00005.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(WeightsCorruptError, match="vqgan-00002-of-00005.safetensors is damaged"):
        load_weights(folder_state(sharded), "swaptalk/vqgan")
    shard.unlink()
    with pytest.raises(WeightsMissingError, match="vqgan-00002-of-00005.safetensors"):
        find_preset("compact", sharded)


def test_a_folder_that_is_no_preset(tmp_path: Path, sharded: Path) -> None:
    with pytest.raises(WeightsMissingError, match="not there"):
        folder_state(tmp_path / "nowhere")
    with pytest.raises(WeightsMissingError, match="no manifest.toml"):
        folder_state(tmp_path)
    with pytest.raises(UsageError, match="holds a compact preset, not paper"):
        folder_state(sharded, "paper")
    manifest = sharded / "manifest.toml"
    manifest.write_text('preset = "huge"\n' + manifest.read_text())
    with pytest.raises(WeightsCorruptError, match="'huge'"):
        folder_state(sharded)


def test_files_can_be_read_by_others(tmp_path: Path) -> None:
    (file,) = write_tensors(TENSORS, tmp_path, "net")
    assert (tmp_path / file).stat().st_mode & 0o777 == 0o644
    assert same(load_file(tmp_path / file), TENSORS)
