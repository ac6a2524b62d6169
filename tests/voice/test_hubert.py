"""HuBERT windows: a tiny random model against transformers' own forward pass."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import HubertConfig as ModelConfig
from transformers import HubertModel

from talkswap.errors import WeightsCorruptError, WeightsMissingError
from talkswap.voice.hubert import HubertConfig, HubertFeatures

SHORT_WINDOWS = HubertConfig(window_seconds=4.0, context_seconds=1.0, fade_seconds=0.4)


def tiny_model(norm: str = "group") -> HubertModel:
    torch.manual_seed(3)
    config = ModelConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        conv_dim=(16,) * 7,
        conv_bias=norm == "layer",
        feat_extract_norm=norm,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    return HubertModel(config).eval()


def speech_like(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise whose level and colour wander, with a constant offset: nothing about it is stationary."""
    generator = np.random.default_rng(seed)
    count = round(seconds * 16000)
    time = np.arange(count) / 16000
    noise = generator.normal(size=count)
    tone = np.sin(2 * np.pi * (200 + 20 * np.sin(2 * np.pi * 0.3 * time)) * time)
    level = 0.05 + 0.2 * np.abs(np.sin(2 * np.pi * 0.7 * time)) * np.linspace(0.3, 1, count)
    return ((0.3 * noise + tone) * level + 0.01).astype(np.float32)


def reference(model: HubertModel, samples: np.ndarray) -> np.ndarray:
    """What transformers gives for the whole voice at once, input normalised as its feature extractor does."""
    voice = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
    with torch.no_grad():
        return model(torch.from_numpy(voice)[None]).last_hidden_state[0].numpy()


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("count", [400, 719, 720, 16000, 40123])
def test_one_window_is_transformers_own_forward(norm: str, count: int) -> None:
    model = tiny_model(norm)
    samples = speech_like(3)[:count]
    features = HubertFeatures(model)(samples)
    assert features.shape == ((count - 400) // 320 + 1, 32)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, reference(model, samples), atol=2e-4)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_convolutions_of_windows_are_those_of_the_whole_voice(norm: str) -> None:
    model = tiny_model(norm)
    hubert = HubertFeatures(model, config=SHORT_WINDOWS)
    voice = hubert._normalised(speech_like(15))
    with torch.no_grad():
        whole = model.feature_extractor(torch.from_numpy(voice)[None])
        moments = hubert._first_layer_moments(voice)
        windows = list(hubert._windows(whole.shape[2]))
        assert len(windows) > 3
        for first, last, _ in windows:
            part = hubert._convolve(hubert._piece(voice, first, last), moments)
            torch.testing.assert_close(part, whole[:, :, first:last], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_seam_parts_equal_the_whole_within_tolerance(norm: str) -> None:
    model = tiny_model(norm)
    samples = speech_like(15)
    whole = HubertFeatures(model, config=HubertConfig(window_seconds=60))(samples)
    parts = HubertFeatures(model, config=SHORT_WINDOWS)(samples)
    assert parts.shape == whole.shape
    scale = whole.std(0).mean()
    assert np.abs(parts - whole).mean() < 0.1 * scale
    # At a seam the step from one feature to the next is no larger than elsewhere.
    steps = np.linalg.norm(np.diff(parts, axis=0), axis=1)
    steps_whole = np.linalg.norm(np.diff(whole, axis=0), axis=1)
    for first, _, _ in list(HubertFeatures(model, config=SHORT_WINDOWS)._windows(len(whole)))[1:]:
        seam = first + 50
        assert steps[seam - 12 : seam + 12].max() < 1.2 * steps_whole[seam - 12 : seam + 12].max()


@pytest.mark.parametrize("count", [1, 199, 200, 201, 251, 300, 301, 349, 350, 351, 1000, 12345])
def test_window_weights_sum_to_one_everywhere(count: int) -> None:
    hubert = HubertFeatures(tiny_model(), config=SHORT_WINDOWS)
    total = np.zeros(count)
    for first, last, weight in hubert._windows(count):
        assert 0 <= first < last <= count and last - first <= 200
        total[first:last] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_frame_times_are_exact() -> None:
    hubert = HubertFeatures(tiny_model())
    assert (hubert.stride, hubert.receptive) == (320, 400)
    assert hubert.rate == 50
    assert hubert.start == Fraction(399, 32000)
    assert hubert.dimension == 32


def test_feature_is_centred_on_its_time() -> None:
    """The change made by a click lies symmetrically around the click: convolutions only."""
    hubert = HubertFeatures(tiny_model("layer"))
    quiet = np.zeros(32000, np.float32)
    feature = 40
    middle = feature * 320 + 199  # the receptive field's middle is at 199.5
    click = quiet.copy()
    click[middle : middle + 2] = 1
    with torch.no_grad():
        change = (
            hubert._convolve(torch.from_numpy(click)[None], None)
            - hubert._convolve(torch.from_numpy(quiet)[None], None)
        )[0]
    touched = np.flatnonzero(change.abs().sum(0).numpy() > 1e-6)
    assert touched.min() == feature and touched.max() == feature


def test_short_and_silent_voices_are_finite() -> None:
    hubert = HubertFeatures(tiny_model())
    for samples in (np.zeros(1, np.float32), np.zeros(399, np.float32), np.zeros(48000, np.float32)):
        features = hubert(samples)
        assert len(features) >= 1 and np.isfinite(features).all()


def test_silence_is_one_feature_and_lasts() -> None:
    model = tiny_model()
    torch.nn.init.normal_(model.encoder.layers[1].final_layer_norm.bias)  # else silence would be zero
    hubert = HubertFeatures(model)
    silence = hubert.silence()
    assert silence.shape == (32,)
    np.testing.assert_allclose(hubert(np.zeros(48000, np.float32))[60:90], np.tile(silence, (30, 1)), atol=1e-3)
    silence[:] = 0
    assert np.abs(hubert.silence()).max() > 0


def test_loudness_does_not_matter() -> None:
    hubert = HubertFeatures(tiny_model())
    samples = speech_like(2)
    np.testing.assert_allclose(hubert(samples), hubert(samples * 0.1), atol=2e-3)


def test_loads_a_local_folder_and_reaches_no_network(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path, safe_serialization=True)
    samples = speech_like(1)
    code = (
        "import socket, sys, numpy\n"
        "def refuse(*_): raise AssertionError('network')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "from talkswap.voice.hubert import HubertFeatures\n"
        "numpy.save(sys.argv[2], HubertFeatures(sys.argv[1])(numpy.load(sys.argv[3])))\n"
    )
    np.save(tmp_path / "in.npy", samples)
    out = tmp_path / "out.npy"
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(out), str(tmp_path / "in.npy")], check=True, cwd=root
    )
    np.testing.assert_allclose(np.load(out), reference(model, samples), atol=2e-4)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissingError, match="config.json"):
        HubertFeatures(tmp_path)
    tiny_model().save_pretrained(tmp_path, safe_serialization=True)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsCorruptError):
        HubertFeatures(tmp_path)
    weights.unlink()
    # A pickle beside it is never taken instead.
    torch.save(tiny_model().state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsMissingError, match="safetensors"):
        HubertFeatures(tmp_path)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tiny_model().save_pretrained(tmp_path, safe_serialization=True)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors = {name: value for name, value in tensors.items() if "layers.1" not in name}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsCorruptError, match="lack"):
        HubertFeatures(tmp_path)


def test_impossible_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="window"):
        HubertFeatures(tiny_model(), config=HubertConfig(window_seconds=2, context_seconds=1))
