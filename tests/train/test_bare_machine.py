"""A bare GPU machine trains: torch, numpy, opencv, safetensors and accelerate are all that the loop and stages load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NEVER = [
    "transformers", "diffusers", "onnxruntime", "mediapipe", "insightface", "av", "typer", "rich", "huggingface_hub",
    "imageio_ffmpeg", "ffmpeg", "torchvision", "scipy", "skimage", "tensorboard",
]  # fmt: skip

REPORT = """
import importlib, json, pkgutil, sys
from pathlib import Path

class Absent:  # as where tensorboard is not installed
    def find_spec(self, name, path=None, target=None):
        if name == "torch.utils.tensorboard":
            raise ModuleNotFoundError(name)

never = set(json.loads(sys.argv[1]))
sys.meta_path.insert(0, Absent())
import talkswap.systems.swaptalk.training, talkswap.train.shared
rooms = (talkswap.train, talkswap.train.shared, talkswap.systems.swaptalk.training)
modules = [f"{room.__name__}.{m.name}" for room in rooms for m in pkgutil.iter_modules(room.__path__)]
for module in modules:
    importlib.import_module(module)
sys.path.insert(0, sys.argv[2])
from line import LineConfig, LineStage
from dataclasses import replace
from talkswap.train.loop import Trainer
config = LineConfig()
said = []
Trainer(LineStage(config), replace(config.loop, steps=2), Path(sys.argv[3])).train(said.append)
print(json.dumps({"modules": modules, "loaded": sorted(never & set(sys.modules)), "said": said}))
"""


def test_training_loads_nothing_that_a_bare_gpu_machine_lacks(tmp_path: Path) -> None:
    command = [sys.executable, "-c", REPORT, json.dumps(NEVER), str(HERE), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["loaded"] == [], "loaded by importing the stages or by training"
    assert {
        "talkswap.train.loop",
        "talkswap.systems.swaptalk.training.vqgan",
        "talkswap.systems.swaptalk.training.lip_sync",
    } <= set(told["modules"])
    assert "tensorboard is not installed" in told["said"][0] and not (tmp_path / "tensorboard").exists()
    assert (tmp_path / "export/done").exists()
