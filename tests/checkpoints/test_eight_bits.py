"""Eight-bit weights: small, close, and back in their old shape."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from talkswap.checkpoints.networks import pack, unpack


def network() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "convolution.weight": torch.randn(64, 32, 3, 3) * torch.logspace(-3, 1, 64)[:, None, None, None],
        "linear.weight": torch.randn(96, 80),
        "linear.bias": torch.randn(96),
        "small.weight": torch.randn(8, 8),
        "upper.codes": torch.randn(512, 16),
        "empty.weight": torch.zeros(64, 64),
        "count": torch.arange(5),
    }


def test_every_weight_is_within_half_a_step_of_its_channel(tmp_path: Path) -> None:
    before = network()
    save_file(pack(before), tmp_path / "packed.safetensors")
    after = unpack(load_file(tmp_path / "packed.safetensors"))
    assert after.keys() == before.keys()
    for name in ("convolution.weight", "linear.weight", "empty.weight"):
        largest = before[name].flatten(1).abs().amax(1)
        error = (after[name] - before[name]).flatten(1).abs().amax(1)
        assert (error <= largest / 254 * 1.001 + 1e-12).all(), name
        assert after[name].shape == before[name].shape


def test_small_tensors_vectors_codes_and_integers_are_not_packed() -> None:
    packed = pack(network())
    assert {n for n, t in packed.items() if t.dtype == torch.int8} == {
        "convolution.weight",
        "linear.weight",
        "empty.weight",
    }
    assert packed["upper.codes"].dtype == torch.float16 and torch.equal(packed["count"], torch.arange(5))


def test_a_packed_file_is_about_a_quarter_of_float32(tmp_path: Path) -> None:
    before = {"weight": torch.randn(256, 256, 3, 3)}
    save_file(before, tmp_path / "float.safetensors")
    save_file(pack(before), tmp_path / "packed.safetensors")
    assert (tmp_path / "packed.safetensors").stat().st_size < 0.26 * (tmp_path / "float.safetensors").stat().st_size


def test_weights_that_were_never_packed_pass_through() -> None:
    before = network()
    assert all(torch.equal(t, before[n]) for n, t in unpack(before).items())
