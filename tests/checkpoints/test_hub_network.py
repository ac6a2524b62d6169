"""from_pretrained and save_pretrained on our networks, with local folders."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from talkswap.checkpoints.networks import tensor_files, write_network, write_tensors
from talkswap.errors import DependencyError, WeightsCorruptError, WeightsMissingError
from talkswap.faces.detector import DetectorConfig, DetectorNetwork
from talkswap.faces.identity import IdentityConfig, IdentityNetwork
from talkswap.faces.landmarks import LandmarkConfig, LandmarkNetwork
from talkswap.systems.swaptalk.face_swap import FaceSwap, FaceSwapConfig
from talkswap.systems.swaptalk.lip_sync import LipSync, LipSyncConfig
from talkswap.systems.swaptalk.sync_expert import SyncExpert, SyncExpertConfig
from talkswap.systems.swaptalk.vqgan import VQGAN, VQGANConfig
from talkswap.voice.speech_encoder import SpeechEncoder, SpeechEncoderConfig

COMPACT = Path(__file__).parents[2] / "weights" / "compact"
SPEECH = {"encoder_width": 16, "dilations": (1, 2), "window": 33}


def networks() -> list[nn.Module]:
    """One small network of every kind, every setting different from the default's."""
    torch.manual_seed(0)
    blocks = {"encoder_blocks": (1, 1, 1), "decoder_blocks": (1, 1, 1), "decoder_attention": 1}
    return [
        DetectorNetwork(DetectorConfig(widths=(8, 12, 16))),
        LandmarkNetwork(LandmarkConfig(size=32, widths=(8, 8, 8), blocks=(1, 1, 1), hidden=16, coefficients=4)),
        IdentityNetwork(IdentityConfig(size=64, widths=(8, 12, 16), blocks=(1, 1, 1), dimension=24)),
        VQGAN(VQGANConfig(size=64, widths=(8, 16, 32), codes=32, code_width=16, **blocks)),
        FaceSwap(FaceSwapConfig(grid=4, code_width=16, width=16, blocks=1, heads=2, identity=24)),
        LipSync(LipSyncConfig(code_width=16, widths=(16,) * 4, blocks=(1,) * 4, heads=2, warp_width=8, **SPEECH)),
        SyncExpert(SyncExpertConfig(code_width=16, width=8, embedding=8, encoder_width=16)),
        SpeechEncoder(SpeechEncoderConfig(width=16, dilations=(1, 2), window=33)),
    ]


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(value.float(), theirs[name].float()) for name, value in a.state_dict().items())


@pytest.mark.parametrize("network", networks(), ids=lambda network: type(network).__name__)
def test_every_network_comes_back_as_it_went(network: nn.Module, tmp_path: Path) -> None:
    from huggingface_hub import PyTorchModelHubMixin

    kind = type(network)
    network.save_pretrained(tmp_path)
    assert {"config.json", "model.safetensors", "README.md"} == {p.name for p in tmp_path.iterdir()}
    again = kind.from_pretrained(tmp_path)
    assert isinstance(again, kind) and isinstance(again, PyTorchModelHubMixin)
    assert again.config == network.config and not again.training
    assert same_weights(network, again)
    again.save_pretrained(tmp_path / "second")
    assert (tmp_path / "second" / "config.json").read_text() == (tmp_path / "config.json").read_text()


def test_the_settings_are_those_of_the_config(tmp_path: Path) -> None:
    network = DetectorNetwork(DetectorConfig(widths=(8, 12, 16)))
    network.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {"widths": [8, 12, 16], "blocks": [1, 1, 2]}
    card = (tmp_path / "README.md").read_text()
    assert "library_name: talkswap" in card and "- detector" in card


def test_a_saved_network_still_works_copies_and_trains(tmp_path: Path) -> None:
    network = DetectorNetwork(DetectorConfig(widths=(8, 12, 16)))
    picture = torch.rand(1, 3, 64, 64)
    before = network.eval()(picture)
    network.save_pretrained(tmp_path)
    assert torch.equal(network(picture), before)
    assert torch.equal(copy.deepcopy(network)(picture), before)
    again = DetectorNetwork.from_pretrained(tmp_path)
    again.train()(picture).sum().backward()
    assert all(p.grad is not None for p in again.parameters())


def test_a_network_is_read_out_of_a_preset_folder() -> None:
    network = IdentityNetwork.from_pretrained(COMPACT)
    assert network.config == IdentityConfig() and next(network.parameters()).dtype == torch.float32


def test_shards_and_eight_bits_are_read(tmp_path: Path) -> None:
    network = DetectorNetwork(DetectorConfig(widths=(8, 12, 16)))
    write_network(network, tmp_path, "detector")
    whole = DetectorNetwork.from_pretrained(tmp_path)
    (tmp_path / "detector.safetensors").unlink()
    write_tensors({k: v.half() for k, v in network.state_dict().items()}, tmp_path, "detector", 20_000)
    assert len(tensor_files(tmp_path, "detector")) > 1
    assert same_weights(DetectorNetwork.from_pretrained(tmp_path), whole)


def test_a_folder_without_the_network_or_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissingError, match="holds no vqgan network"):
        VQGAN.from_pretrained(tmp_path)
    DetectorNetwork(DetectorConfig(widths=(8, 12, 16))).save_pretrained(tmp_path)
    with pytest.raises(WeightsCorruptError):
        IdentityNetwork.from_pretrained(tmp_path)


def test_saving_again_leaves_no_stale_shards(tmp_path: Path) -> None:
    write_tensors({"w": torch.ones(3000), "v": torch.ones(3000)}, tmp_path, "model", 13_000)
    assert len(tensor_files(tmp_path, "model")) == 2
    network = DetectorNetwork(DetectorConfig(widths=(8, 12, 16)))
    network.save_pretrained(tmp_path)
    assert [p.name for p in tmp_path.glob("*.safetensors")] == ["model.safetensors"]


def test_without_huggingface_hub_networks_work_and_saving_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setattr("talkswap.checkpoints.hub._classes", {})
    network = DetectorNetwork(DetectorConfig(widths=(8, 12, 16)))
    assert network(torch.rand(1, 3, 64, 64)).shape == (1, 12, 8, 8)
    with pytest.raises(DependencyError, match="huggingface_hub is not installed"):
        network.save_pretrained(tmp_path)
    with pytest.raises(DependencyError):
        DetectorNetwork.from_pretrained(tmp_path)


def test_building_networks_does_not_import_huggingface_hub() -> None:
    code = "import sys, talkswap.systems.swaptalk.vqgan; assert 'huggingface_hub' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
