import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from talkswap.animation.sync_former import SyncFormerConfig, sync_former_with_wav2vec2
from talkswap.checkpoints.manifest import read_catalogue, write_manifest
from talkswap.checkpoints.preset_folder import PresetFolder
from talkswap.errors import WeightsCorruptError, WeightsMissingError
from talkswap.voice.wav2vec2 import FOLDER, RENAMED, Wav2Vec2Encoder, Wav2Vec2Sizes, fill_wav2vec2

SMALL = Wav2Vec2Sizes(width=16, layers=2, heads=2, feedforward=24, channels=8, position_kernel=8, position_groups=2)


@pytest.fixture
def recogniser(tmp_path: Path) -> Wav2Vec2ForCTC:
    """A small random model, stored in ``tmp_path`` as the published one is: a recogniser with the norm's old names."""
    torch.manual_seed(5)
    model = Wav2Vec2ForCTC(Wav2Vec2Config(**SMALL.settings(), vocab_size=7)).eval()
    folder = tmp_path / FOLDER
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    for old, new in RENAMED.items():
        tensors = {name.replace(new, old): value for name, value in tensors.items()}
    assert {"wav2vec2.encoder.pos_conv_embed.conv.weight_g", "wav2vec2.masked_spec_embed", "lm_head.bias"} <= set(
        tensors
    )
    save_file(tensors, folder / "model.safetensors")
    return model


def samples() -> torch.Tensor:
    return torch.randn(2, 8000, generator=torch.Generator().manual_seed(2))


def test_tokens_are_those_of_transformers(recogniser: Wav2Vec2ForCTC, tmp_path: Path) -> None:
    encoder = Wav2Vec2Encoder(SMALL).eval()
    with torch.no_grad():
        expected = recogniser.wav2vec2(samples()).last_hidden_state
        assert not torch.allclose(encoder(samples()), expected, atol=1e-3)
        assert torch.allclose(fill_wav2vec2(encoder, tmp_path / FOLDER)(samples()), expected, atol=1e-6)


def test_the_weights_alone_are_enough(recogniser: Wav2Vec2ForCTC, tmp_path: Path) -> None:
    (tmp_path / FOLDER / "config.json").unlink()
    encoder = fill_wav2vec2(Wav2Vec2Encoder(SMALL), tmp_path / FOLDER)
    layer = recogniser.wav2vec2.encoder.layers[1].attention.k_proj.weight
    assert torch.equal(encoder.model.encoder.layers[1].attention.k_proj.weight, layer)


def test_another_model_is_named(recogniser: Wav2Vec2ForCTC, tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"do_stable_layer_norm": True}))
    with pytest.raises(WeightsCorruptError, match="do_stable_layer_norm"):
        fill_wav2vec2(Wav2Vec2Encoder(SMALL), folder)
    (folder / "config.json").unlink()
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("wav2vec2.encoder.layer_norm.bias")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(WeightsCorruptError, match="layer_norm.bias"):
        fill_wav2vec2(Wav2Vec2Encoder(SMALL), folder)
    with pytest.raises(WeightsMissingError, match="no wav2vec2"):
        fill_wav2vec2(Wav2Vec2Encoder(SMALL), tmp_path)


def test_a_sync_former_gets_its_voice_from_a_preset_folder(
    recogniser: Wav2Vec2ForCTC, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = SyncFormerConfig(
        audio="wav2vec2", wav2vec2=SMALL, width=16, feedforward=24, components=0, style_gain=False, style_scale=False
    )
    preset = PresetFolder("paper", (tmp_path,), ("here",), ())
    with pytest.raises(WeightsCorruptError, match="not listed"):
        sync_former_with_wav2vec2(preset, config)
    write_manifest(tmp_path)
    former = sync_former_with_wav2vec2(preset, config).eval()
    with torch.no_grad():
        expected = recogniser.wav2vec2(samples()).last_hidden_state
        assert torch.allclose(former.audio(samples()), expected, atol=1e-6)
    # A.1: all of it trains but the temporal convolutions
    still = {name for name, parameter in former.named_parameters() if not parameter.requires_grad}
    assert still == {n for n, _ in former.named_parameters() if n.startswith("audio.model.feature_extractor.")}
    assert (former.output.weight == 0).all()


def test_the_catalogue_puts_it_where_it_is_read() -> None:
    entry = next(entry for entry in read_catalogue() if entry.name == "wav2vec2")
    assert (entry.preset, entry.file) == ("paper", f"{FOLDER}/model.safetensors")
    assert entry.sha256 is not None and entry.commit is not None
