from __future__ import annotations

import dataclasses

import pytest
import torch

from talkswap.animation.sync_former import (
    COMPACT,
    PAPER,
    MelEncoderConfig,
    SyncFormer,
    SyncFormerConfig,
    period_bias,
    periodic_positions,
)
from talkswap.voice.wav2vec2 import Wav2Vec2Sizes

SMALL = SyncFormerConfig(
    mel=MelEncoderConfig(width=16, dilations=(1, 2), dropout=0.0), points=20, width=16, feedforward=24, dropout=0.0,
    chunk=30, overlap=6, period=10, references=12, components=0, style_scale=False,
)  # fmt: skip


def network(config: SyncFormerConfig = SMALL, spoken: bool = True) -> SyncFormer:
    """A random network in evaluation mode whose codes are its 20 points; ``spoken`` = its output layers are not zero."""
    torch.manual_seed(0)
    made = SyncFormer(config).eval()
    if spoken:
        torch.nn.init.normal_(made.output.weight, std=0.3)
        if made.style_output is not None:
            torch.nn.init.normal_(made.style_output.weight, std=0.1)
    return made


def mel(batch: int = 2, rows: int = 120) -> torch.Tensor:
    return torch.rand(batch, rows, 80, generator=torch.Generator().manual_seed(1)) * 2 - 1


def reference(batch: int = 2, scale: float = 2.0, frames: int = 12) -> torch.Tensor:
    """Codes of a style reference; ``scale`` is how far the face moves, in units."""
    return torch.randn(batch, frames, 60, generator=torch.Generator().manual_seed(2)) * scale


@torch.no_grad()
def test_training_starts_from_the_template() -> None:
    former = network(spoken=False)
    speech, style = former.speech(mel(), 30, 0.2), former.style(reference())
    assert former(speech, torch.randn(2, 30, 60), style).abs().max() == 0
    weight, bias = former.head(style)
    assert weight.abs().max() == bias.abs().max() == 0


@torch.no_grad()
def test_later_frames_and_their_speech_change_nothing_before() -> None:
    former = network()
    speech, style, before = former.speech(mel(), 30, 0.2), former.style(reference()), torch.randn(2, 30, 60)
    plain = former(speech, before, style)
    speech, before = speech.clone(), before.clone()
    speech[:, 20:] += 1
    before[:, 20:] += 1
    changed = former(speech, before, style)
    assert torch.equal(plain[:, :20], changed[:, :20])
    assert (plain[:, 20:] - changed[:, 20:]).abs().amax((0, 2)).min() > 0


@torch.no_grad()
def test_a_frame_hears_its_own_speech_only() -> None:
    former = network()
    speech, style, before = former.speech(mel(), 30, 0.2), former.style(reference()), torch.zeros(2, 30, 60)
    plain = former(speech, before, style)
    speech = speech.clone()
    speech[:, 7] += 1
    changed = (former(speech, before, style) - plain).abs().amax((0, 2)) > 0
    assert changed.nonzero().flatten().tolist() == [7]


def test_the_bias_steps_by_whole_periods() -> None:
    bias = period_bias(30, 4, 10)
    for head, slope in enumerate((1 / 4, 1 / 16, 1 / 64, 1 / 256)):
        for query, key in ((0, 0), (9, 0), (10, 0), (29, 9), (29, 10), (29, 29)):
            assert bias[head, query, key] == pytest.approx(-slope * ((query - key) // 10))
    assert torch.isinf(bias[:, 5, 6:]).all()


def test_positions_repeat_every_period() -> None:
    positions = periodic_positions(30, 16, 10)
    assert torch.equal(positions[:10], positions[10:20])
    assert positions[3, 0] == pytest.approx(torch.sin(torch.tensor(3.0)).item())
    assert positions[3, 1] == pytest.approx(torch.cos(torch.tensor(3.0)).item())
    assert len({tuple(row.tolist()) for row in positions[:10]}) == 10


@torch.no_grad()
def test_step_by_step_equals_all_at_once() -> None:
    former = network()
    speech, style = former.speech(mel(), 30, 0.2), former.style(reference())
    weight, bias = former.head(style)
    codes = former.speak(speech, style) @ weight.transpose(1, 2) + bias[:, None]
    before = torch.cat([torch.zeros(2, 1, 60), codes[:, :-1]], 1)
    assert torch.allclose(former(speech, before, style), codes, atol=1e-5)


@torch.no_grad()
def test_the_style_changes_the_output_and_a_constant_one_does_not() -> None:
    former = network()
    speech = former.speech(mel(), 30, 0.2)
    small, large = (former.speak(speech, former.style(reference(scale=s))) for s in (1.0, 4.0))
    assert (small - large).abs().max() > 1e-3
    constant = network(dataclasses.replace(SMALL, style="constant"))
    assert torch.equal(constant.style(reference(scale=1.0)).vector, constant.style(reference(scale=4.0)).vector)
    assert constant.style(None).vector.shape == (1, 16)


@torch.no_grad()
def test_frames_that_a_reference_lacks_do_not_count() -> None:
    former = network()
    seven = reference(frames=7)
    padded = torch.cat([seven, torch.randn(2, 5, 60)], 1)
    present = (torch.arange(12) < 7).float().expand(2, -1)
    assert torch.allclose(former.style(seven).vector, former.style(padded, present).vector, atol=1e-5)


@torch.no_grad()
def test_speech_is_read_at_each_frames_own_time() -> None:
    """Voice tokens that state their own time come out as the times of the frames, K of them around each."""
    former = network()
    times = former.audio.start + torch.arange(70) / former.audio.rate
    former.audio_embedding = torch.nn.Identity()  # type: ignore[assignment]
    aligned = former.align(times[None, :, None].float(), 20, 0.3)[0, :, :, 0]
    true = 0.3 + torch.arange(20)[:, None] / 25 + torch.tensor([-0.01, 0.01])
    assert torch.allclose(aligned, true, atol=1e-5)


@torch.no_grad()
def test_a_code_is_its_coefficients_in_the_basis() -> None:
    former = network(dataclasses.replace(SMALL, components=3))
    axes = torch.linalg.qr(torch.randn(60, 3)).Q.T
    former.basis.copy_(axes)
    former.analysis.copy_(axes)
    codes = torch.randn(5, 3)
    assert former.decode(codes).shape == (5, 20, 3)
    assert torch.allclose(former.encode(former.decode(codes)), codes, atol=1e-5)
    assert former.decode(codes).norm() == pytest.approx(0.05 * codes.norm().item(), rel=1e-4), "a unit is 0.05"


@torch.no_grad()
def test_a_face_that_moves_twice_as_far_in_the_reference_does_so_when_it_speaks() -> None:
    """With ``style_scale`` the network itself sees the same reference for both."""
    former = network(dataclasses.replace(SMALL, points=478, components=4, style_scale=True))
    mesh = torch.randn(4, 478, 3)
    mesh[:2, :, 0] *= 3  # some of the components are mostly sideways
    axes = torch.linalg.qr(mesh.flatten(1).T).Q.T
    former.basis.copy_(axes)
    former.analysis.copy_(axes)
    codes = torch.randn(1, 12, 4) * 6
    former.usual.copy_(former.deviations(codes, torch.ones(1, 12))[0])
    speech = former.speech(mel(1), 30, 0.2)
    spoken = []
    for factor in (1.0, 2.0):
        style = former.style(codes * factor)
        weight, bias = former.scaled_head(style)
        spoken.append(former.speak(speech, style) @ weight.transpose(1, 2) + bias[:, None])
        before = torch.cat([torch.zeros(1, 1, 4), spoken[-1][:, :-1]], 1)
        assert torch.allclose(former(speech, before, style), spoken[-1], atol=1e-3)
    assert torch.allclose(spoken[1], 2 * spoken[0], rtol=0.02, atol=0.05)


def test_compact_has_its_size() -> None:
    former = SyncFormer(COMPACT)
    assert sum(p.numel() for p in former.parameters()) < 2_000_000
    assert (COMPACT.width, COMPACT.chunk, COMPACT.heads, COMPACT.feedforward) == (128, 100, 4, 256)
    assert (COMPACT.period, COMPACT.rate, COMPACT.overlap, COMPACT.references) == (25, 25, 20, 90)


def test_the_paper_size_is_wav2vec2_base_and_one_block_of_each() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        former = SyncFormer(PAPER)
    audio = sum(p.numel() for p in former.audio.parameters())
    assert audio == 94_371_712 - 768, (
        "wav2vec2-base without the embedding of masked spans, which only pre-training reads"
    )
    fixed = {name for name, p in former.audio.named_parameters() if not p.requires_grad}
    assert fixed == {n for n, _ in former.audio.named_parameters() if n.startswith("model.feature_extractor.")}
    rest = sum(p.numel() for p in former.parameters()) - audio
    width, mesh = 128, 3 * 478
    attention, feed, norm = 4 * (width * width + width), 2 * 256 * width + 256 + width, 2 * width
    embeddings = (768 + 1) * width + 2 * (mesh + 1) * width + (width + 1) * mesh
    blocks = (2 * attention + feed + 3 * norm) + (attention + feed + 2 * norm)
    assert rest == embeddings + blocks + (2 * width + 1) * width
    assert (PAPER.components, PAPER.style_gain, PAPER.style_scale) == (0, False, False)


def test_a_small_wav2vec2_hears_fifty_tokens_a_second() -> None:
    sizes = Wav2Vec2Sizes(width=16, layers=1, heads=2, feedforward=16, channels=8, position_kernel=8, position_groups=2)
    former = network(dataclasses.replace(SMALL, audio="wav2vec2", wav2vec2=sizes))
    assert former.audio.rate == 50
    assert former.audio.start == pytest.approx(199.5 / 16000)
    with torch.no_grad():
        speech = former.speech(torch.randn(2, 16000), 25, 0.0)
        assert speech.shape == (2, 25, 2, 16)
        assert former.speak(speech, former.style(reference())).shape == (2, 25, 16)


def test_an_unknown_voice_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match="no voice encoder"):
        SyncFormer(dataclasses.replace(SMALL, audio="loudness"))
