"""A fifth paper is one folder: a stranger's package brings a system, and the real commands take it.

The package lies outside talkswap and is registered by an entry point, as `pip install` would do it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..evaluation.small_set import make_set

ROOT = Path(__file__).parents[2]

DESCRIPTION = """
from dataclasses import dataclass
from typing import Literal

from talkswap.checkpoints.networks import NetworkDescription
from talkswap.systems.description import EvaluationRow, Maker, SystemDescription, option
from talkswap.train.stages import StageDescription


@dataclass(frozen=True)
class ToyOptions:
    tint: Literal["none", "red"] = option("none", "Colour of the result.")


SYSTEM = SystemDescription(
    name="toy", title="Toy", paper="nobody's", system="toy_system.toy:Toy", options=ToyOptions,
    networks=(NetworkDescription(
        "gain", "toy", "toy_system.toy:Gain", "toy_system.toy:GainConfig", "brightness", "gain", presets=("compact",)),),
    stages=(StageDescription("gain", "toy_system.toy", "GainStageConfig", "GainStage"),),
    bench="toy_system.toy:workload",
    makers=(Maker("grey", "Make nothing.", "toy_system:ToyOptions", "toy_system.toy:make_grey"),),
    rows=(EvaluationRow("toy-red", "Toy, red", "a red copy", {"tint": "red"}),),
)
"""

MODULE = """
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from talkswap.checkpoints.networks import write_network
from talkswap.checkpoints.preset_folder import preset_network
from talkswap.faces.mask import face_mask
from talkswap.systems.contract import CropSpec
from talkswap.systems.description import Workload
from talkswap.train.stage import SAMPLES, Part, Work
from talkswap.train.stage import LoopConfig, Stage
from talkswap.voice.features import MelFeatures, listen


@dataclass(frozen=True)
class GainConfig:
    start: float = 0.5


class Gain(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, self.gain = config, nn.Parameter(torch.full((1,), config.start))

    def forward(self, rgb):
        return rgb * self.gain


@dataclass(frozen=True)
class GainStageConfig:
    data: Path = Path("data")
    network: GainConfig = GainConfig()
    loop: LoopConfig = LoopConfig(steps=2, batch=2, workers=0, device="cpu", precision="float32")


def networks(config):
    return {"gain": Gain(config.network)}


def work(config, networks):
    return Work([Part("gain", lambda: networks["gain"](torch.empty(SAMPLES, 3, 8, 8)))])


class GainStage(Stage):
    name = "gain"

    def __init__(self, config):
        super().__init__(config)
        self.network = Gain(config.network)

    def batch(self, step):
        return {"rgb": torch.ones(self.config.loop.batch, 3, 8, 8)}

    def loss(self, batch, step):
        return (self.network(batch["rgb"]) - 1).abs().mean(), {}

    def score(self):
        return {"gain": float(self.network.gain)}

    def export(self, folder):
        write_network(self.network, folder, "gain")


class Toy:
    name, crop, guided = "toy", CropSpec(64), False

    def __init__(self, gain, options):
        self.gain, self.options = gain, options

    @classmethod
    def load(cls, name, preset, device, options):
        return cls(preset_network(preset, "toy/gain", Gain, GainConfig), options)

    def listen(self, voice):
        return listen(voice, MelFeatures(), 9)

    def begin(self, portrait, source, features, gate=None):
        return self

    def render(self, faces, times):
        with torch.inference_mode():
            crops = [self.gain(torch.from_numpy(face.crop).float()).clamp(0, 255).byte().numpy() for face in faces]
        return [np.maximum(crop, [255, 0, 0]).astype(np.uint8) if self.options.tint == "red" else crop for crop in crops]

    def mask(self, face):
        return face_mask(face.landmarks, self.crop.size)


def workload(preset, device, batch_size):
    gain, rgb = Gain(GainConfig()), torch.ones(batch_size, 3, 64, 64)
    return Workload({"gain": lambda: gain(rgb)}, lambda: None, {"gain": gain}, 64)


def make_grey(options, report, echo):
    return {"tint": options.tint}
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the stranger's package is installed."""
    site = tmp_path_factory.mktemp("site")
    (site / "toy_system").mkdir()
    (site / "toy_system" / "__init__.py").write_text(DESCRIPTION)
    (site / "toy_system" / "toy.py").write_text(MODULE)
    about = site / "toy_system-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy_system\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[talkswap.systems]\ntoy = toy_system:SYSTEM\n")
    return site


def talkswap(site: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, beside the stranger's package."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(site), str(ROOT)))}
    command = [sys.executable, "-m", "talkswap", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=site)


@pytest.fixture(scope="module")
def weights(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy trained for two steps and packed, the shared networks from the shipped weights."""
    run, out = tmp_path_factory.mktemp("run") / "gain", tmp_path_factory.mktemp("weights") / "toy"
    trained = talkswap(toy, "train", "gain", "--system", "toy", "--data", toy, "--run", run)
    assert trained.returncode == 0, trained.stderr
    assert 0.5 < json.loads(trained.stdout)["gain"] < 1
    base = ROOT / "weights" / "compact"
    packed = talkswap(toy, "weights", "pack", run, "--system", "toy", "--base", base, "--out", out)
    assert packed.returncode == 0, packed.stderr
    assert (out / "toy" / "gain.safetensors").is_file() and (out / "toy" / "runs" / "gain" / "config.json").is_file()
    return out


def test_it_is_listed_trained_packed_and_checked(toy: Path, weights: Path) -> None:
    assert talkswap(toy, "weights", "check", weights, "--system", "toy").returncode == 0
    refused = talkswap(toy, "train", "gain", "--data", toy, "--run", toy / "run")
    assert refused.returncode == 2 and "swaptalk has no stage called gain" in refused.stderr
    estimate = json.loads(talkswap(toy, "train", "gain", "--system", "toy", "--dry-run").stdout)
    assert estimate["parameters"] == {"gain": 1} and estimate["trained"] == 1
    assert talkswap(toy, "train", "occlusion", "--system", "toy", "--dry-run").returncode == 0


def test_its_own_options_render(
    toy: Path, weights: Path, source_photo: Path, talking_clip: Path, voice_file: Path, tmp_path: Path
) -> None:
    media = ["--source", source_photo, "--target", talking_clip, "--audio", voice_file, "--weights", weights]
    report = tmp_path / "report.json"
    command = ["render", "--system", "toy", *media, "--output", tmp_path / "dubbed.mp4", "--report", report]
    done = talkswap(toy, *command, "--tint", "red")
    assert done.returncode == 0, done.stderr
    told = json.loads(report.read_text())
    assert told["plan"]["options"] == {"tint": "red"} and told["frames_out"] == 12
    assert "toy/gain.safetensors" in told["weights"] and not [f for f in told["weights"] if f.startswith("swaptalk/")]
    assert talkswap(toy, *command, "--order", "swap-sync").returncode == 2  # another system's option


def test_it_is_timed_and_makes_its_data(toy: Path) -> None:
    timed = talkswap(toy, "bench", "--system", "toy", "--random-weights", "--preset", "compact", "--device", "cpu")
    assert timed.returncode == 0, timed.stderr
    assert list(json.loads(timed.stdout)["ms_per_frame"]) == ["gain"]
    made = talkswap(toy, "data", "grey", "--system", "toy", "--tint", "red")
    assert json.loads(made.stdout) == {"tint": "red"}
    assert talkswap(toy, "data", "codes", "--system", "toy").returncode == 2


def test_its_rows_are_scored(toy: Path, weights: Path, tmp_path: Path) -> None:
    data = make_set(tmp_path / "set")
    arguments = ["--data", data, "--split", "all", "--out", tmp_path / "report", "--pairs", "1", "--setting", "self"]
    scored = talkswap(toy, "eval", "hdtf", "--system", "toy", *arguments, "--weights", weights)
    assert scored.returncode == 0, scored.stderr
    assert "toy-red" in (tmp_path / "report" / "report.json").read_text()
