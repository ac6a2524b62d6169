"""The face swapping module: what its tokens may see, where it starts, both presets and the ablations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from talkswap.errors import UsageError
from talkswap.systems.swaptalk.face_swap import COMPACT, PAPER, FaceSwap, FaceSwapConfig, covered_cells

SMALL = FaceSwapConfig(grid=20, code_width=16, width=32, blocks=2, heads=2, identity=8)


def latents(count: int, config: FaceSwapConfig, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, config.code_width, config.grid, config.grid)
    return [F.normalize(torch.randn(shape, generator=generator), dim=1) * config.code_width**0.5 for _ in range(3)]


def people(count: int, config: FaceSwapConfig) -> Tensor:
    return F.normalize(torch.randn(count, config.identity, generator=torch.Generator().manual_seed(5)), dim=1)


def parameters(network: FaceSwap) -> float:
    return sum(p.numel() for p in network.parameters()) / 1e6


def test_covered_cells_are_a_symmetric_face() -> None:
    cells = covered_cells(20)
    assert 160 <= len(cells) <= 220
    assert set((cells // 20 * 20 + 19 - cells % 20).tolist()) == set(cells.tolist())
    assert len(covered_cells(40)) == 4 * len(cells)
    assert 0 < len(covered_cells(8)) < 64


@pytest.mark.parametrize("backbone", ["transformer", "unet", "ldm-unet"])
@pytest.mark.parametrize("guide", ["mesh", "none"])
def test_every_backbone_maps_latents_to_latents_and_learns(backbone: str, guide: str) -> None:
    config = replace(SMALL, backbone=backbone, guide=guide)
    network = FaceSwap(config)
    source, target, led = latents(2, config)
    made = network(source, target, led if guide == "mesh" else None, people(2, config))
    assert made.shape == target.shape and made.dtype == torch.float32
    assert made.detach().norm(dim=1).numpy() == pytest.approx(4.0, abs=1e-4)  # sqrt(16): codes of constant length
    (made - source).abs().mean().backward()
    reached = [p.grad is not None and bool(p.grad.any()) for p in network.parameters()]
    assert any(reached) and all(p.grad is None or bool(p.grad.isfinite().all()) for p in network.parameters())


def test_it_starts_as_the_guide_on_the_face_and_is_the_target_elsewhere() -> None:
    network = FaceSwap(SMALL)
    source, target, led = latents(2, SMALL)
    made = network(source, target, led, people(2, SMALL))
    cells = covered_cells(20)
    inside = torch.zeros(400, dtype=torch.bool)
    inside[cells] = True
    got, wanted, own = (x.flatten(2) for x in (made, led, target))
    assert (got - wanted)[:, :, inside].abs().mean() < 0.05
    assert torch.equal(got[:, :, ~inside], own[:, :, ~inside])


def test_a_plain_module_sees_the_source_and_each_cell_of_the_target() -> None:
    torch.manual_seed(0)
    plain = replace(SMALL, guide="none", identity=0, cover=False, self_attention=False, unit_length=False)
    network = FaceSwap(plain).eval()
    source, target, _ = latents(1, plain)
    first = network(source, target)
    other = source.clone()
    other[:, :, 10, 10] = -other[:, :, 10, 10]
    assert not torch.allclose(network(other, target), first, atol=1e-6)
    moved = target.clone()
    moved[:, :, 3, 3] = -moved[:, :, 3, 3]
    changed = (network(source, moved) - first).abs().amax(1)[0] > 1e-6
    assert changed[3, 3] and changed.sum() == 1  # eq. 7 alone: target cells do not see each other


def test_a_remembered_source_serves_many_frames() -> None:
    torch.manual_seed(1)
    network = FaceSwap(replace(SMALL, guide_keys=True)).eval()
    torch.nn.init.normal_(network.backbone.last.weight)  # type: ignore[union-attr, arg-type]
    source, target, led = latents(3, SMALL)
    person = people(1, SMALL)
    memory = network.remember(source[:1], person)
    together = network.swap(memory, target, led)
    alone = torch.cat([network(source[:1], target[k : k + 1], led[k : k + 1], person) for k in range(3)])
    assert torch.allclose(together, alone, atol=1e-4)
    elsewhere = network(source[1:2], target[:1], led[:1], person)
    assert not torch.allclose(elsewhere, alone[:1], atol=1e-3)


def test_half_precision_stays_near_float32() -> None:
    torch.manual_seed(2)
    network = FaceSwap(SMALL).eval()
    torch.nn.init.normal_(network.backbone.last.weight, std=0.1)  # type: ignore[union-attr, arg-type]
    source, target, led = latents(1, SMALL)
    with torch.inference_mode():
        wanted = network(source, target, led, people(1, SMALL))
        low = network.to(torch.bfloat16)
        given = [x.to(torch.bfloat16) for x in (source, target, led, people(1, SMALL))]
        made = low(*given)
    assert made.dtype == torch.float32  # codes keep their length whatever the networks run in
    assert (made - wanted).abs().mean() < 0.03


def test_missing_inputs_and_unknown_names_are_named() -> None:
    source, target, led = latents(1, SMALL)
    network = FaceSwap(SMALL)
    with pytest.raises(UsageError, match="guide"):
        network(source, target, None, people(1, SMALL))
    with pytest.raises(UsageError, match="identity"):
        network(source, target, led)
    for wrong in (replace(SMALL, backbone="mlp"), replace(SMALL, guide="map")):
        with pytest.raises(UsageError):
            FaceSwap(wrong)


def test_compact_is_small_enough_for_a_laptop() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    network = FaceSwap(COMPACT).eval()
    assert 2.0 < parameters(network) < 5.0
    source, target, led = latents(1, COMPACT)
    with torch.no_grad():
        memory = network.remember(source, people(1, COMPACT))
        with FlopCounterMode(display=False) as counter:
            network.swap(memory, target, led)
    assert counter.get_total_flops() < 3e9


@pytest.mark.parametrize(
    ("backbone", "width", "least", "most"),
    [("transformer", 512, 30, 60), ("unet", 256, 80, 150), ("ldm-unet", 256, 100, 150)],
)
def test_paper_sizes_run_backward(backbone: str, width: int, least: float, most: float) -> None:
    config = replace(PAPER, backbone=backbone, width=width)
    network = FaceSwap(config)
    assert least < parameters(network) < most
    source, target, _ = latents(1, config)
    made = network(source, target)
    assert made.shape == (1, 256, 20, 20)
    made.square().mean().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in network.parameters())
