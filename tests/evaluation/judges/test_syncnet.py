"""SyncNet's layout against the published file's names and shapes, written out here; its answers against plain
functional calls on the stored tensors, one run of pictures at a time (tolerance 1e-4).

Cepstra against the package that SyncNet's authors used (1e-5), and against the definition with plain sums (1e-4)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from talkswap.errors import TrainingDataError, WeightsCorruptError, WeightsMissingError
from talkswap.evaluation.judges.syncnet import (
    COEFFICIENTS,
    GREY,
    SyncNet,
    cut_square,
    cut_squares,
    hear_all,
    load_syncnet,
    mfcc,
    see_all,
    square_places,
)
from talkswap.media.sound import load_voice
from talkswap.types import FloatArray, UInt8Image

# number in its sequence -> shape of the convolution's or layer's weight; a normalisation follows each but the last
PUBLISHED = {
    "netcnnaud": {
        0: (64, 1, 3, 3), 4: (192, 64, 3, 3), 8: (384, 192, 3, 3), 11: (256, 384, 3, 3), 14: (256, 256, 3, 3),
        18: (512, 256, 5, 4),
    },
    "netcnnlip": {
        0: (96, 3, 5, 7, 7), 4: (256, 96, 1, 5, 5), 8: (256, 256, 1, 3, 3), 11: (256, 256, 1, 3, 3),
        14: (256, 256, 1, 3, 3), 18: (512, 256, 1, 6, 6),
    },
    "netfcaud": {0: (512, 512), 3: (1024, 512)},
    "netfclip": {0: (512, 512), 3: (1024, 512)},
}  # fmt: skip


def published_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for part, layers in PUBLISHED.items():
        for number, weight in layers.items():
            shapes |= {f"{part}.{number}.weight": weight, f"{part}.{number}.bias": weight[:1]}
            if part.startswith("netfc") and number == 3:
                continue
            for name in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{part}.{number + 1}.{name}"] = weight[:1]
    return shapes


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    """Random ones that keep the signal's size, as the published file would hold them."""
    generator = torch.Generator().manual_seed(3)
    made = {}
    for name, shape in published_shapes().items():
        if name.endswith("running_var"):
            made[name] = torch.rand(shape, generator=generator) + 0.5
        elif len(shape) > 1:
            fan = float(np.prod(shape[1:]))
            scale = 2**0.5 / fan**0.5 / (128 if name == "netcnnlip.0.weight" else 1)
            made[name] = torch.randn(shape, generator=generator) * scale
        else:
            around = 1.0 if name.split(".")[1] in {"1", "5", "9", "12", "15", "19"} and name.endswith("weight") else 0.0
            made[name] = around + 0.1 * torch.randn(shape, generator=generator)
    return made


@pytest.fixture(scope="module")
def network_file(tensors: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("syncnet") / "syncnet_v2.safetensors"
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def network(network_file: Path) -> SyncNet:
    return load_syncnet(network_file)


def test_names_and_shapes_are_the_published_ones() -> None:
    own = {k: tuple(v.shape) for k, v in SyncNet().state_dict().items() if not k.endswith("num_batches_tracked")}
    assert own == published_shapes()


def normalised(x: Tensor, tensors: dict[str, Tensor], name: str) -> Tensor:
    mean, variance, weight, bias = (tensors[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
    return F.relu(F.batch_norm(x, mean, variance, weight, bias))


def head(x: Tensor, tensors: dict[str, Tensor], part: str) -> Tensor:
    x = F.linear(x.flatten(1), tensors[f"{part}.0.weight"], tensors[f"{part}.0.bias"])
    return F.linear(normalised(x, tensors, f"{part}.1"), tensors[f"{part}.3.weight"], tensors[f"{part}.3.bias"])


def seen(pictures: Tensor, t: dict[str, Tensor]) -> Tensor:
    """Five pictures (1 3 5 224 224), layer by layer as the paper's repository lists them."""

    def layer(x: Tensor, number: int, stride: int, padding: int) -> Tensor:
        weight, bias = t[f"netcnnlip.{number}.weight"], t[f"netcnnlip.{number}.bias"]
        x = F.conv3d(x, weight, bias, (1, stride, stride), (0, padding, padding))
        return normalised(x, t, f"netcnnlip.{number + 1}")

    x = F.max_pool3d(layer(pictures, 0, 2, 0), (1, 3, 3), (1, 2, 2))
    x = F.max_pool3d(layer(x, 4, 2, 1), (1, 3, 3), (1, 2, 2), (0, 1, 1))
    x = layer(layer(layer(x, 8, 1, 1), 11, 1, 1), 14, 1, 1)
    return head(layer(F.max_pool3d(x, (1, 3, 3), (1, 2, 2)), 18, 1, 0), t, "netfclip")


def heard(cepstra: Tensor, t: dict[str, Tensor]) -> Tensor:
    """0.2 s of cepstra (1 1 13 20)."""

    def layer(x: Tensor, number: int, padding: int = 1) -> Tensor:
        weight, bias = t[f"netcnnaud.{number}.weight"], t[f"netcnnaud.{number}.bias"]
        return normalised(F.conv2d(x, weight, bias, padding=padding), t, f"netcnnaud.{number + 1}")

    x = F.max_pool2d(layer(layer(cepstra, 0), 4), 3, (1, 2))
    x = F.max_pool2d(layer(layer(layer(x, 8), 11), 14), 3, 2)
    return head(layer(x, 18, 0), t, "netfcaud")


def test_sees_each_run_as_if_alone_and_in_opencvs_order(network: SyncNet, tensors: dict[str, Tensor]) -> None:
    squares = list(np.random.default_rng(0).integers(0, 256, (8, 224, 224, 3)).astype(np.uint8))
    found = see_all(network, iter(squares), batch=3)  # one whole stretch and a short one
    blue_first = torch.from_numpy(np.stack(squares)[..., ::-1].astype(np.float32))  # T 224 224 3
    with torch.no_grad():
        wanted = [seen(blue_first[k : k + 5].permute(3, 0, 1, 2)[None], tensors)[0].numpy() for k in range(4)]
    assert found.shape == (4, 1024) and found.std(0).max() > 1e-3
    np.testing.assert_allclose(found, np.stack(wanted), atol=1e-4, rtol=1e-4)
    assert see_all(network, squares[:4]).shape == (0, 1024)


def test_hears_windows_of_twenty_every_four(network: SyncNet, tensors: dict[str, Tensor]) -> None:
    cepstra = np.random.default_rng(1).normal(size=(34, 13)).astype(np.float32)
    found = hear_all(network, cepstra, 4)
    with torch.no_grad():
        wanted = [heard(torch.from_numpy(cepstra[4 * k : 4 * k + 20].T.copy())[None, None], tensors) for k in range(4)]
    np.testing.assert_allclose(found, torch.cat(wanted).numpy(), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError):
        hear_all(network, cepstra, 5)


def test_refuses_what_it_is_not(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    with pytest.raises(WeightsMissingError):
        load_syncnet(tmp_path / "absent.safetensors")
    torch.save(tensors["netfclip.0.bias"], tmp_path / "syncnet_v2.model")
    with pytest.raises(WeightsCorruptError) as pickled:
        load_syncnet(tmp_path / "syncnet_v2.model")
    assert "talkswap download" in pickled.value.hint
    save_file({k: v for k, v in tensors.items() if k != "netcnnlip.18.bias"}, tmp_path / "short.safetensors")
    with pytest.raises(WeightsCorruptError):
        load_syncnet(tmp_path / "short.safetensors")


VOICE = Path(__file__).parents[3] / "examples" / "voice.wav"


@pytest.fixture(scope="module")
def voice() -> FloatArray:
    return load_voice(VOICE).samples[8000:16000]


def whole_numbers(samples: FloatArray) -> np.ndarray:
    return np.clip(np.round(samples.astype(np.float64) * 32768), -32768, 32767).astype(np.int16)


@pytest.mark.parametrize("count", [8000, 1, 399, 400, 401, 560, 561])
def test_equals_python_speech_features(voice: FloatArray, count: int) -> None:
    """Package python_speech_features with its own defaults, tolerance 1e-5."""
    import python_speech_features as reference

    wanted = reference.mfcc(whole_numbers(voice[:count]), 16000)
    found = mfcc(voice[:count])
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 1e-5


def test_one_frame_by_its_definition(voice: FloatArray) -> None:
    """Every sum written out for the third frame, tolerance 1e-4."""
    samples = [float(x) for x in whole_numbers(voice)]
    emphasised = [samples[0]] + [b - 0.97 * a for a, b in zip(samples[:-1], samples[1:], strict=True)]
    frame = emphasised[320:720]
    power = []
    for k in range(257):
        turn = 2 * math.pi * k / 512
        real = math.fsum(x * math.cos(turn * n) for n, x in enumerate(frame))
        imaginary = math.fsum(x * math.sin(turn * n) for n, x in enumerate(frame))
        power.append((real**2 + imaginary**2) / 512)
    top = 2595 * math.log10(1 + 8000 / 700)
    corners = [math.floor(513 * 700 * (10 ** (top * i / 27 / 2595) - 1) / 16000) for i in range(28)]
    bands = []
    for low, middle, high in zip(corners, corners[1:], corners[2:], strict=False):
        rising = sum(power[k] * (k - low) / (middle - low) for k in range(low, middle))
        bands.append(math.log(rising + sum(power[k] * (high - k) / (high - middle) for k in range(middle, high))))
    wanted = [math.log(math.fsum(power))]
    for n in range(1, COEFFICIENTS):
        wave = math.fsum(band * math.cos(math.pi * n * (2 * m + 1) / 52) for m, band in enumerate(bands))
        wanted.append(wave * math.sqrt(2 / 26) * (1 + 11 * math.sin(math.pi * n / 22)))
    assert mfcc(voice)[2].tolist() == pytest.approx(wanted, abs=1e-4)


def test_silence_and_nothing() -> None:
    assert mfcc(np.zeros(0, np.float32)).shape == (0, COEFFICIENTS)
    silent = mfcc(np.zeros(1600, np.float32))
    assert np.isfinite(silent).all() and silent[0, 0] == pytest.approx(math.log(np.finfo(np.float64).eps))


# --- The protocol's face square against its closed form: a picture whose px say where they lie.


def face(left: float, top: float, right: float, bottom: float) -> FloatArray:
    """478 points in a box, two of them in its corners."""
    points = np.random.default_rng(0).uniform(size=(478, 3)).astype(np.float32)
    points[0, :2], points[1, :2] = 0, 1
    return points * np.array([right - left, bottom - top, 1], np.float32) + np.array([left, top, 0], np.float32)


def test_square_is_two_point_eight_times_half_the_face() -> None:
    place = square_places(face(100, 60, 160, 160)[None])[0]
    assert place.tolist() == pytest.approx([130, 110, 50])
    # x to the right in red, y down in green; the square spans 60 to 200 and 60 to 200
    y, x = np.mgrid[0:256, 0:256]
    square = cut_square(np.stack([x, y, 0 * x], 2).astype(np.uint8), place, 140)
    assert square[0, 0].tolist() == pytest.approx([60, 60, 0], abs=1)
    assert square[139, 139].tolist() == pytest.approx([199, 199, 0], abs=1)
    assert square[70, 35].tolist() == pytest.approx([95, 130, 0], abs=1)
    small = cut_square(np.stack([x, y, 0 * x], 2).astype(np.uint8), place, 35)  # each px the mean of four by four
    assert small[0, 0, :2].tolist() == pytest.approx([61.5, 61.5], abs=1)


def test_beyond_the_picture_is_grey() -> None:
    square = cut_square(np.full((100, 100, 3), 200, np.uint8), np.array([50.0, 80.0, 40.0]), 112)
    assert square[20, 56].tolist() == [200] * 3 and square[111, 56].tolist() == [GREY] * 3
    assert square[20, 0].tolist() == [GREY] * 3


def test_lost_frames_lie_between_their_neighbours_and_jumps_are_smoothed_away() -> None:
    track = np.stack([face(100 + k, 60, 160 + k, 160) for k in range(31)])
    track[10:13] = np.nan
    track[20] = face(300, 60, 360, 160)
    places = square_places(track)
    assert places[6:-6, 0].tolist() == pytest.approx([130 + k for k in range(6, 25)], abs=1.01)
    with pytest.raises(TrainingDataError):
        square_places(np.full((3, 478, 3), np.nan, np.float32))


def test_pictures_are_taken_once_and_used_as_often_as_chosen() -> None:
    pictures: list[UInt8Image] = [np.full((64, 64, 3), 10 * k, np.uint8) for k in range(5)]
    places = np.tile([32.0, 32.0, 10.0], (5, 1))
    found = [int(square[4, 4, 0]) for square in cut_squares(iter(pictures), places, [0, 0, 2, 3, 3], 8)]
    assert found == [0, 0, 20, 30, 30]
    with pytest.raises(TrainingDataError):
        list(cut_squares(iter(pictures[:3]), places, [0, 2, 4], 8))
