from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from talkswap.errors import UsageError
from talkswap.systems.swaptalk.backbones import padded
from talkswap.systems.swaptalk.lip_sync import COMPACT, PAPER, FaceWarping, LipSync, LipSyncConfig

SMALL = LipSyncConfig(
    code_width=16,
    widths=(16, 16, 16, 16),
    blocks=(1, 1, 1, 1),
    heads=2,
    encoder_width=16,
    dilations=(1, 2),
    window=33,
    warp_width=8,
)
HUBERT = replace(SMALL, speech="hubert", speech_width=24, window=10, margin=0, depth=2)


def inputs(config: LipSyncConfig, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    grid = config.grid
    latents = [torch.randn(batch, config.code_width, grid, grid) for _ in range(2)]
    return latents[0], latents[1], torch.rand(batch, config.window, config.speech_width)


def disturb(network: nn.Module) -> None:
    """Give every zero-initialised layer some weight, so that a gradient reaches all of them."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))


@pytest.mark.parametrize("backbone", ["compact", "ldm-unet", "unet", "dit"])
@pytest.mark.parametrize("grid", [20, 40, 14])
def test_every_backbone_keeps_any_grid_and_the_upper_half(backbone: str, grid: int) -> None:
    config = replace(SMALL if backbone == "compact" else HUBERT, backbone=backbone, grid=grid)
    network = LipSync(config).eval()
    disturb(network)
    target, reference, speech = inputs(config)
    with torch.no_grad():
        made = network(target, reference, speech, warp=True)
    assert made.shape == target.shape
    assert torch.equal(made[:, :, : grid // 2], target[:, :, : grid // 2])
    assert not torch.allclose(made[:, :, grid // 2 :], reference[:, :, grid // 2 :], atol=1e-3)


@pytest.mark.parametrize("backbone", ["compact", "ldm-unet", "unet", "dit"])
def test_speech_reaches_the_result_and_every_parameter_a_gradient(backbone: str) -> None:
    config = replace(SMALL if backbone == "compact" else HUBERT, backbone=backbone)
    network = LipSync(config)
    disturb(network)
    target, reference, speech = inputs(config)
    speech.requires_grad_(True)
    network(target, reference, speech, warp=True)[:, :, config.grid // 2 :].square().mean().backward()
    assert speech.grad is not None and speech.grad.abs().sum() > 0
    without = [name for name, p in network.named_parameters() if p.grad is None]
    assert without == []


def test_a_fresh_compact_network_changes_nothing() -> None:
    network = LipSync(SMALL).eval()
    target, _, speech = inputs(SMALL)
    with torch.no_grad():
        assert torch.equal(network(target, target, speech), target)


def test_fresh_warping_moves_nothing_and_a_constant_offset_moves_by_whole_cells() -> None:
    warping = FaceWarping(SMALL)
    target, reference, _ = inputs(SMALL)
    with torch.no_grad():
        rest = warping(target[:, :, :10], reference[:, :, :10], reference[:, :, 10:])
        assert torch.allclose(rest, reference[:, :, 10:], atol=1e-4)
        warping.offset.bias[0] = torch.atanh(torch.tensor(0.1 / SMALL.warp_reach))  # 0.1 of half a grid: one cell of 20
        moved = warping(target[:, :, :10], reference[:, :, :10], reference[:, :, 10:])
    assert torch.allclose(moved[..., :-1], reference[:, :, 10:, 1:], atol=1e-4)


def test_columns_in_the_margin_never_change() -> None:
    network = LipSync(SMALL).eval()
    disturb(network)
    target, _, speech = inputs(SMALL)
    with torch.no_grad():
        changed = (network(target, target, speech) - target).abs().amax((0, 1, 2))  # columns
    assert changed[: SMALL.margin].max() == 0
    assert changed[-SMALL.margin :].max() == 0
    assert changed[SMALL.margin : -SMALL.margin].min() > 0


def test_a_given_shape_overrides_the_one_that_speech_wants() -> None:
    network = LipSync(SMALL).eval()
    disturb(network)
    target, _, speech = inputs(SMALL)
    with torch.no_grad():
        wanted = network.transform.speech(speech)[1]
        assert torch.allclose(network(target, target, speech, shape=wanted), network(target, target, speech), atol=1e-5)
        assert not torch.allclose(
            network(target, target, speech, shape=wanted + 3), network(target, target, speech), atol=1e-3
        )


def test_a_frame_does_not_depend_on_its_batch() -> None:
    network = LipSync(SMALL).eval()
    disturb(network)
    target, reference, speech = inputs(SMALL, 4)
    with torch.no_grad():
        together = network(target, reference, speech, warp=True)
        alone = torch.cat(
            [network(t[None], r[None], s[None], warp=True) for t, r, s in zip(target, reference, speech, strict=True)]
        )
    assert torch.allclose(together, alone, atol=1e-4)


def test_compact_and_paper_have_the_sizes_they_promise() -> None:
    compact = sum(p.numel() for p in LipSync(COMPACT).parameters())
    assert 4e6 < compact < 8e6
    with torch.device("meta"):
        paper = LipSync(PAPER)
    assert sum(p.numel() for p in paper.parameters()) > 5e7
    assert PAPER.speech == "hubert" and PAPER.speech_width == 768
    down = paper.transform.backbone.unet.down_blocks
    assert [hasattr(block, "attentions") for block in down] == [False, False, True, True]  # 4x and 8x


def test_bfloat16_stays_near_float32() -> None:
    network = LipSync(SMALL).eval()
    disturb(network)
    target, _, speech = inputs(SMALL)
    with torch.no_grad():
        exact = network(target, target, speech)
        network.to(torch.bfloat16)
        rough = network(target.bfloat16(), target.bfloat16(), speech.bfloat16())
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).abs().mean() < 0.05


def test_padding_reaches_the_next_multiple_and_repeats_the_edge() -> None:
    grown = padded(torch.arange(6.0).view(1, 1, 2, 3), 4)
    assert grown.shape == (1, 1, 4, 4)
    assert grown[0, 0, 3].tolist() == [3, 4, 5, 5]


def test_unknown_backbone_and_misplaced_shape_are_refused() -> None:
    with pytest.raises(UsageError, match="no lip-sync backbone"):
        LipSync(replace(SMALL, backbone="gru"))
    network = LipSync(replace(HUBERT, backbone="unet"))
    target, reference, speech = inputs(network.config)
    with pytest.raises(UsageError, match="takes no mouth shape"):
        network(target, reference, speech, shape=torch.zeros(2, 7))
