"""The latent space: shapes, sizes, two codebooks, moving codes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from talkswap.systems.swaptalk.vqgan import COMPACT, PAPER, PAPER_8X, VQGAN, Codebook, VQGANConfig

TINY = VQGANConfig(
    size=64,
    widths=(8, 16, 32),
    encoder_blocks=(1, 1, 1),
    decoder_blocks=(1, 1, 1),
    decoder_attention=1,
    codes=32,
    code_width=16,
)


def picture(size: int, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(
    ("config", "grid", "millions"),
    [(COMPACT, 20, (7, 10)), (PAPER, 20, (45, 55)), (PAPER_8X, 40, (40, 48))],
    ids=["compact", "paper", "paper-8x"],
)
def test_each_size_has_its_grid_and_its_parameter_count(
    config: VQGANConfig, grid: int, millions: tuple[float, float]
) -> None:
    with torch.device("meta"):
        network = VQGAN(config)
    assert config.grid == grid
    assert network.upper.codes.shape == network.lower.codes.shape == (2048, 256)
    count = sum(p.numel() for p in network.parameters()) / 1e6
    assert millions[0] < count < millions[1]


def test_compact_stays_within_a_laptops_budget() -> None:
    with torch.device("meta"):
        network = VQGAN(COMPACT)
        crop, latent = torch.empty(1, 3, 320, 320), torch.empty(1, 256, 20, 20)
    with FlopCounterMode(display=False) as counter:
        network.encoder(crop[:, :, :160])
        network.encoder(crop[:, :, 160:])
        network.decode(latent)
    assert counter.get_total_flops() / 1e9 < 25


def test_paper_size_runs_forward_and_backward() -> None:
    """At a quarter of the side: the layers are the paper's, the grid is 5 x 5."""
    torch.manual_seed(0)
    network = VQGAN(replace(PAPER, size=96))
    crop = picture(96, 1)
    upper, lower = network.encode(crop)
    assert upper.code.shape == lower.code.shape == (1, 256, 3, 6)
    made = network.decode(torch.cat([upper.code, lower.code], 2))
    assert made.shape == crop.shape
    loss = (made - crop).abs().mean() + sum((q.raw.detach() - q.chosen).abs().mean() for q in (upper, lower))
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters() if p.requires_grad)
    assert network.upper.codes.grad is not None and network.upper.codes.grad.abs().sum() > 0


def test_halves_are_read_apart_and_looked_up_in_their_own_codebook() -> None:
    torch.manual_seed(0)
    network = VQGAN(TINY).eval()
    crop = picture(64, 1)
    changed = crop.clone()
    changed[:, :, 32:] = -changed[:, :, 32:]
    one, two = network.indices(crop), network.indices(changed)
    assert torch.equal(one[:, :2], two[:, :2]), "the upper half's codes depend on the lower half"
    assert not torch.equal(one[:, 2:], two[:, 2:])
    with torch.no_grad():
        network.lower.codes.neg_()
    latent = network.lookup(one)
    assert torch.equal(latent[:, :, :2], network.upper.lookup(one[:, :2]))
    assert torch.equal(latent[:, :, 2:], network.lower.lookup(one[:, 2:]))


def test_latents_are_codes_and_quantizing_them_changes_nothing() -> None:
    torch.manual_seed(0)
    network = VQGAN(TINY).eval()
    latent = network.latent(picture(64))
    assert latent.shape == (2, 16, 4, 4)
    torch.testing.assert_close(latent, network.lookup(network.indices(picture(64))))
    torch.testing.assert_close(network.quantize(latent), latent)
    torch.testing.assert_close(latent.square().mean(1), torch.ones(2, 4, 4))  # unit variance


def test_modules_get_the_encoders_vectors_whose_nearest_codes_are_the_latent() -> None:
    torch.manual_seed(0)
    network = VQGAN(TINY).eval()
    torch.testing.assert_close(network.quantize(network.embed(picture(64))), network.latent(picture(64)))
    plain = VQGAN(replace(TINY, continuous=False)).eval()
    torch.testing.assert_close(plain.embed(picture(64)), plain.latent(picture(64)))


@pytest.mark.parametrize("cosine", [True, False])
def test_the_nearest_code_is_the_nearest_code(cosine: bool) -> None:
    torch.manual_seed(0)
    book = Codebook(replace(TINY, cosine=cosine))
    with torch.no_grad():
        book.codes.copy_(torch.randn(32, 16))
        if cosine:
            book.codes.copy_(F.normalize(book.codes, dim=1) * 4)
    raw = torch.randn(3, 16, 2, 4)
    quantized = book(raw)
    flat = quantized.raw.permute(0, 2, 3, 1).reshape(-1, 16)
    expected = torch.cdist(flat, book.codes.detach()).argmin(1)
    assert torch.equal(quantized.number.flatten(), expected)


def test_gradient_passes_straight_through_the_choice() -> None:
    torch.manual_seed(0)
    book = Codebook(replace(TINY, cosine=False, moving_codes=False))
    raw = torch.randn(1, 16, 2, 4, requires_grad=True)
    (book(raw).code * 3).sum().backward()
    assert raw.grad is not None
    torch.testing.assert_close(raw.grad, torch.full_like(raw, 3.0))


def test_moving_codes_reach_the_means_of_their_clusters_and_dead_ones_come_back() -> None:
    torch.manual_seed(0)
    book = Codebook(replace(TINY, codes=32))  # more codes than clusters: two may share one
    centres = F.normalize(torch.randn(8, 16), dim=1) * 4
    for _ in range(300):
        raw = centres[torch.randint(8, (64,))] + 0.05 * torch.randn(64, 16)
        quantized = book(raw.t().reshape(1, 16, 8, 8))
        book.follow(quantized.raw, quantized.number, decay=0.9, revive_below=0.02)
    distance = torch.cdist(centres, book.codes.detach()).min(1).values
    assert distance.max() < 0.2, "a cluster has no code of its own"


def test_another_crop_size_fits_by_interpolated_positions() -> None:
    torch.manual_seed(0)
    network = VQGAN(TINY).eval()
    assert network(picture(32)).shape == (2, 3, 32, 32)
