"""Prepared clips small enough for a test, in which the mouth follows the loudness of the voice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from talkswap.systems.swaptalk.training.codes import code_hash, load_vqgan
from talkswap.systems.swaptalk.vqgan import VQGAN, VQGANConfig

TINY = VQGANConfig(
    size=64, widths=(8, 16, 16), encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1), codes=32, code_width=16
)


@dataclass(frozen=True)
class TalkingFolder:
    """Where the parts lie."""

    data: Path
    codes: Path
    vqgan: Path


def talking_landmarks(opening: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """T 478 3 px: eyes 60 px apart, inner lips ``opening`` eye distances apart, a head that sways a little."""
    points = np.zeros((len(opening), 478, 3), np.float32) + random.uniform(-20, 20, (1, 478, 3)).astype(np.float32)
    points[:, (33, 133)], points[:, (362, 263)] = (-30, -20, 0), (30, -20, 0)
    points[:, (61, 291)] = np.array([(-15, 30, 0), (15, 30, 0)], np.float32)
    for row in (82, 13, 312):
        points[:, row] = (0, 30, 0)
        points[:, row, 1] -= 30 * opening
    for row in (87, 14, 317):
        points[:, row] = (0, 30, 0)
        points[:, row, 1] += 30 * opening
    sway = np.sin(np.arange(len(opening)) / 7)[:, None, None] * np.array([2.0, 1.0, 0.0])
    return (points + 64 + sway).astype(np.float32)


def write_talking(
    folder: Path, name: str, split: str, seed: int, weights: str, continuous: bool, grid: int = 4
) -> None:
    """One clip of 60 frames: labels, voice, and codes whose first channels are the opening."""
    random = np.random.default_rng(seed)
    times = np.arange(60) / 25
    loud = np.clip(np.interp(np.arange(0, 2.41, 0.1), np.arange(0, 2.41, 0.3), random.uniform(0, 1, 9)), 0, 1)
    opening = 0.3 * np.interp(times, np.arange(0, 2.41, 0.1), loud)
    sound = np.arange(int(2.4 * 16000)) / 16000
    voice = (np.interp(sound, np.arange(0, 2.41, 0.1), loud) * 0.3 * random.standard_normal(len(sound))).astype(
        np.float32
    )
    target = folder / "cache" / f"clips-{split}"
    target.mkdir(parents=True, exist_ok=True)
    np.savez(target / f"{name}.npz", times=times, landmarks=talking_landmarks(opening, random), voice=voice)
    raw = random.integers(-30, 30, (60, 16, grid // 2, grid)).astype(np.int8)
    raw[:, :6] = (opening * 300).astype(np.int8)[:, None, None, None]
    upper_rows = np.arange(0, 60, 4)
    stored = folder / "codes" / f"talking-{split}"
    stored.mkdir(parents=True, exist_ok=True)
    np.savez(
        stored / f"{name}.npz",
        weights=np.array(weights),
        frames=np.arange(60),
        lower=random.integers(0, 32, (60, grid // 2, grid)).astype(np.uint16),
        upper_rows=upper_rows,
        upper=random.integers(0, 32, (len(upper_rows), grid // 2, grid)).astype(np.uint16),
        lower_raw=raw if continuous else np.zeros((60, 0), np.int8),
        upper_raw=raw[upper_rows] if continuous else np.zeros((len(upper_rows), 0), np.int8),
    )


@pytest.fixture(scope="session")
def talking_folder(tmp_path_factory: pytest.TempPathFactory) -> TalkingFolder:
    """Four training and two validation clips with codes of a tiny VQGAN."""
    folder = tmp_path_factory.mktemp("talking")
    torch.manual_seed(0)
    path = folder / "vqgan.safetensors"
    save_file({k: v.contiguous() for k, v in VQGAN(TINY).state_dict().items()}, path)
    import json
    from dataclasses import asdict

    (folder / "vqgan.json").write_text(json.dumps(asdict(TINY)))
    weights = code_hash(load_vqgan(path))
    for number in range(4):
        write_talking(folder, f"train-{number}", "train", number, weights, True)
    for number in range(2):
        write_talking(folder, f"val-{number}", "val", 100 + number, weights, True)
    return TalkingFolder(folder / "cache", folder / "codes", path)
