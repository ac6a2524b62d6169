from __future__ import annotations

import math

import pytest
import torch

from talkswap.systems.swaptalk.sync_expert import SyncExpert, SyncExpertConfig, contrastive_loss, sync_loss
from talkswap.voice.speech_encoder import SpeechEncoder, SpeechEncoderConfig

SMALL = SyncExpertConfig(
    code_width=16, grid=8, margin=1, width=8, embedding=12, encoder_width=16, dilations=(1, 2), window=33
)


def test_embeddings_have_unit_length_and_their_cosine_comes_back() -> None:
    torch.manual_seed(0)
    expert = SyncExpert(SMALL).eval()
    lower, speech = torch.randn(3, 5, 16, 4, 8), torch.rand(3, 33, 80)
    with torch.no_grad():
        seen, heard, cosine = expert.see(lower), expert.hear(speech), expert(lower, speech)
    assert seen.shape == heard.shape == (3, 12)
    assert seen.norm(dim=1).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert cosine.tolist() == pytest.approx((seen * heard).sum(1).tolist())


def test_the_order_of_frames_matters() -> None:
    torch.manual_seed(0)
    expert = SyncExpert(SMALL).eval()
    lower = torch.randn(1, 5, 16, 4, 8)
    with torch.no_grad():
        assert not torch.allclose(expert.see(lower), expert.see(lower.flip(1)), atol=1e-3)


@pytest.mark.parametrize("cosine", [1.0, 0.5, 0.11, 0.1, 0.05, 0.0, -1.0])
def test_sync_loss_is_finite_and_always_has_a_slope(cosine: float) -> None:
    value = torch.tensor([cosine], requires_grad=True)
    loss = sync_loss(value)
    loss.backward()
    loss = loss.detach()
    assert math.isfinite(float(loss))
    assert value.grad is not None and -10.001 <= float(value.grad) <= -1
    if cosine > 0.1:
        assert float(loss) == pytest.approx(-math.log(cosine), abs=1e-6)


def test_sync_loss_grows_as_the_cosine_falls() -> None:
    losses = [float(sync_loss(torch.tensor([c]))) for c in (1.0, 0.6, 0.2, 0.1, 0.09, 0.0, -0.5, -1.0)]
    assert losses == sorted(losses)
    assert losses[0] == pytest.approx(0)


def test_contrastive_loss_prefers_the_right_pairs_and_leaves_out_neighbours() -> None:
    seen = torch.eye(4)
    groups, times = torch.tensor([0, 0, 1, 1]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    scale = torch.tensor(10.0)
    right = contrastive_loss(seen, seen, groups, scale, times)
    wrong = contrastive_loss(seen, seen.roll(1, 0), groups, scale, times)
    assert float(right) < 0.01 < float(wrong)
    # two moments 40 ms apart look alike: they must not push each other away
    alike = torch.eye(4)[[0, 0, 2, 3]]
    near = contrastive_loss(alike, alike, groups, scale, torch.tensor([0.0, 0.04, 0.0, 1.0]))
    far = contrastive_loss(alike, alike, groups, scale, times)
    assert float(near) < 0.01 < float(far)


def test_probe_learns_an_opening_and_passes_a_gradient_to_the_latent() -> None:
    torch.manual_seed(0)
    probe = SyncExpert(SMALL).probe
    lower = torch.randn(64, 16, 4, 8)
    wanted = lower[:, 0].mean((1, 2), keepdim=False)[:, None].expand(-1, 7)
    optimiser = torch.optim.Adam(probe.parameters(), 1e-2)
    first = None
    for _ in range(60):
        loss = (probe(lower) - wanted).abs().mean()
        first = float(loss.detach()) if first is None else first
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert first is not None and float(loss.detach()) < 0.5 * first
    lower.requires_grad_(True)
    probe(lower)[:, 0].sum().backward()
    assert lower.grad is not None and lower.grad.abs().sum() > 0


def test_a_window_gives_the_tokens_of_the_longer_stretch_it_lies_in() -> None:
    torch.manual_seed(0)
    encoder = SpeechEncoder(SpeechEncoderConfig(width=16, dilations=(1, 2), window=33)).eval()
    features = torch.rand(1, 120, 80)
    with torch.no_grad():
        whole = encoder.tokens(features)
        first = 20
        window = encoder.tokens(features[:, first : first + 33])
    assert window.shape[1] == encoder.config.tokens
    begin = first // encoder.config.stride
    assert torch.allclose(window, whole[:, begin : begin + window.shape[1]], atol=1e-5)


def test_wanted_shape_is_read_at_the_centre_and_never_below_closed() -> None:
    torch.manual_seed(0)
    encoder = SpeechEncoder(SpeechEncoderConfig(width=16, dilations=(1, 2), window=33)).eval()
    encoder.offset[:] = -100
    with torch.no_grad():
        tokens, wanted = encoder(torch.rand(2, 33, 80))
        assert wanted[:, 0].tolist() == [0, 0]
        assert (wanted[:, 1:] < -90).all()
        encoder.offset[:] = 0
        centre = encoder.shapes(tokens)[:, tokens.shape[1] // 2]
        assert torch.allclose(encoder.target_shape(tokens)[:, 1:], centre[:, 1:], atol=1e-5)


def test_a_window_without_a_token_at_its_centre_is_refused() -> None:
    with pytest.raises(ValueError, match="no token at its centre"):
        SpeechEncoder(SpeechEncoderConfig(width=16, dilations=(1, 2), window=15))
