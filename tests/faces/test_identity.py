"""The identity network: what it answers, where its gradients go, and what a weights folder may hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from talkswap.errors import WeightsCorruptError, WeightsMissingError
from talkswap.faces.identity import IdentityConfig, IdentityNetwork, load_identity, save_identity

SMALL = IdentityConfig(size=64, widths=(16, 24, 32), blocks=(1, 1, 1), dimension=32)


def network(seed: int = 0) -> IdentityNetwork:
    torch.manual_seed(seed)
    return IdentityNetwork(SMALL).eval()


def crops(count: int, side: int) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("side", [64, 160, 320])
def test_any_crop_gives_unit_vectors(side: int) -> None:
    vectors = network()(crops(3, side))
    assert vectors.shape == (3, 32)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=1e-5)


def test_only_the_face_counts() -> None:
    """What lies outside the face's square of the crop, hair and background, does not change the answer."""
    crop = crops(1, 320)
    framed = torch.ones_like(crop)
    x, y, side = SMALL.region
    left, top, extent = round((x - side / 2) * 320), round((y - side / 2) * 320), round(side * 320)
    framed[:, :, top : top + extent, left : left + extent] = crop[:, :, top : top + extent, left : left + extent]
    assert torch.equal(network()(framed), network()(crop))
    framed[:, :, 150:170, 150:170] = 1
    assert not torch.equal(network()(framed), network()(crop))


def test_the_same_face_at_two_sizes_is_the_same() -> None:
    smooth = torch.nn.functional.interpolate(crops(2, 12), (320, 320), mode="bicubic", align_corners=False)
    half = torch.nn.functional.interpolate(smooth, (160, 160), mode="bilinear", antialias=True, align_corners=False)
    cosine = (network()(smooth) * network()(half)).sum(1)
    assert cosine.min() > 0.99


def test_a_step_along_the_gradient_brings_the_result_nearer() -> None:
    net, person = network(), network()(crops(1, 96))
    result = torch.zeros(1, 3, 96, 96, requires_grad=True)
    before = 1 - (net(result) * person).sum()
    before.backward()
    assert result.grad is not None
    moved = result.detach() - 0.05 * result.grad / result.grad.abs().max()
    assert 1 - (net(moved) * person).sum() < before


def test_stored_weights_answer_alike(tmp_path: Path) -> None:
    net = network()
    save_identity(net, tmp_path)
    loaded = load_identity(tmp_path)
    assert loaded.config == SMALL and not loaded.training
    assert all(not p.requires_grad and p.dtype == torch.float32 for p in loaded.parameters())
    assert (net(crops(2, 160)) * loaded(crops(2, 160))).sum(1).min() > 0.9999


def test_missing_and_damaged_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissingError, match="identity"):
        load_identity(tmp_path)
    save_identity(network(), tmp_path)
    settings = json.loads((tmp_path / "identity.json").read_text())
    (tmp_path / "identity.json").write_text(json.dumps(settings | {"widths": [8, 8, 8]}))
    with pytest.raises(WeightsCorruptError):
        load_identity(tmp_path)
    (tmp_path / "identity.json").write_text(json.dumps(settings))
    whole = (tmp_path / "identity.safetensors").read_bytes()
    (tmp_path / "identity.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsCorruptError):
        load_identity(tmp_path)


def test_published_size_is_small() -> None:
    """The compact network fits its budget: 3 M parameters, and 0.4 GFLOP for one crop."""
    from torch.utils.flop_counter import FlopCounterMode

    net = IdentityNetwork(IdentityConfig.named("compact")).eval()
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, 320, 320))
    assert sum(p.numel() for p in net.parameters()) < 3e6
    assert counter.get_total_flops() < 0.4e9
    with pytest.raises(WeightsMissingError, match="huge"):
        IdentityConfig.named("huge")
