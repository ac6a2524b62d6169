from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from talkswap.checkpoints.manifest import read_catalogue, write_manifest
from talkswap.errors import InputMissingError, WeightsCorruptError, WeightsMissingError
from talkswap.train.losses import VGG19_FILE, VGG19_NAME, Vgg19, Vgg19Config, load_perceptual, perceptual_loss

SMALL = Vgg19Config(widths=(4, 6, 8, 8, 8))


def torchvision_layout(config: Vgg19Config) -> nn.Sequential:
    """VGG-19's `features` as its authors list them: numbers are channels, 0 a pooling."""
    a, b, c, d, e = config.widths
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    before = 3
    for width in (a, a, 0, b, b, 0, c, c, c, c, 0, d, d, d, d, 0, e, e, e, e, 0):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()] if width else [nn.MaxPool2d(2, 2)]
        before = width or before
    return nn.Sequential(*layers)


def published(config: Vgg19Config = SMALL) -> dict[str, Tensor]:
    """Tensors under torchvision's names, its classifier with them."""
    features = {f"features.{name}": value for name, value in torchvision_layout(config).state_dict().items()}
    return features | {"classifier.0.weight": torch.zeros(2, 2), "classifier.0.bias": torch.zeros(2)}


def pictures() -> Tensor:
    return torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("taps", [(1, 6, 11, 20, 29), (0, 8), (2, 7, 12, 21, 30), (36,)])
def test_features_are_those_of_torchvisions_layers(tmp_path: Path, taps: tuple[int, ...]) -> None:
    save_file(published(), tmp_path / "vgg.safetensors")
    network = load_perceptual(tmp_path / "vgg.safetensors", Vgg19Config(SMALL.widths, taps=taps))
    x = (pictures() + 1) / 2
    x = (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    expected = []
    with torch.no_grad():
        for number, layer in enumerate(torchvision_layout(SMALL)):
            x = layer(x)
            if number in taps:
                expected.append(x.clone())
    maps = network(pictures())
    assert len(maps) == len(taps)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(maps, expected, strict=True))


def test_the_defaults_are_torchvisions_sizes() -> None:
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in Vgg19(Vgg19Config(taps=(36,))).state_dict().items()}
        default = Vgg19().state_dict().keys()
    assert shapes["features.0.weight"] == (64, 3, 3, 3) and shapes["features.34.weight"] == (512, 512, 3, 3)
    assert sorted({int(n.split(".")[1]) for n in shapes}) == [
        0,
        2,
        5,
        7,
        10,
        12,
        14,
        16,
        19,
        21,
        23,
        25,
        28,
        30,
        32,
        34,
    ]
    assert max(int(name.split(".")[1]) for name in default) == 28, "conv5_1 is the last that eq. 3 looks at"
    with pytest.raises(ValueError, match="taps"):
        Vgg19(Vgg19Config(taps=(1, 37)))


def test_the_loss_takes_it(tmp_path: Path) -> None:
    save_file(published(), tmp_path / "vgg.safetensors")
    network = load_perceptual(tmp_path / "vgg.safetensors", SMALL)
    result = pictures().flip(0).requires_grad_(True)
    loss = perceptual_loss(network, result, pictures(), as_in_paper=True)
    loss.backward()
    assert float(loss.detach()) > 0 and result.grad is not None and float(result.grad.abs().sum()) > 0
    assert float(perceptual_loss(network, pictures(), pictures())) == 0


def test_a_stage_may_name_the_catalogues_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = next(entry for entry in read_catalogue() if entry.name == VGG19_NAME)
    assert (entry.file, entry.preset) == (VGG19_FILE, "paper")
    monkeypatch.setenv("TALKSWAP_WEIGHTS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsMissingError, match="perceptual/vgg19"):
        load_perceptual(Path(VGG19_NAME), SMALL)
    (tmp_path / "paper" / "perceptual").mkdir(parents=True)
    save_file(published(), tmp_path / "paper" / VGG19_FILE)
    write_manifest(tmp_path / "paper")
    network = load_perceptual(Path(VGG19_NAME), SMALL)
    assert isinstance(network, Vgg19) and not network.training
    assert torch.equal(network.state_dict()["features.28.bias"], published()["features.28.bias"])


def test_what_is_no_perceptual_network_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match="no perceptual network"):
        load_perceptual(tmp_path / "absent.safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"no tensors")
    with pytest.raises(WeightsCorruptError, match="no safetensors"):
        load_perceptual(tmp_path / "a.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(WeightsCorruptError, match="no perceptual network"):
        load_perceptual(tmp_path / "b.safetensors")
    save_file(published(), tmp_path / "c.safetensors")
    with pytest.raises(WeightsCorruptError, match="do not fit"):
        load_perceptual(tmp_path / "c.safetensors")
