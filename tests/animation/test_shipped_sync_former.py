"""The shipped Style-SyncFormer, and presets without one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from talkswap.animation.motion import load_sync_former, mesh_motion
from talkswap.animation.space import lip_opening, meet_lips
from talkswap.animation.sync_former import SyncFormer
from talkswap.checkpoints.manifest import write_manifest
from talkswap.checkpoints.preset_folder import PresetFolder
from talkswap.checkpoints.presets import folder_state
from talkswap.device import Device
from talkswap.errors import WeightsCorruptError
from talkswap.faces.mesh import mean_face
from talkswap.systems import registry
from talkswap.train.shared.mesh_scores import SHUT
from talkswap.voice.mel import SILENCE, log_mel

COMPACT = Path(__file__).parents[2] / "weights" / "compact"
CPU = Device("cpu", False, "for the test")
NEEDS = registry.requirements()


@pytest.fixture(scope="module")
def former() -> SyncFormer:
    network = load_sync_former(folder_state(COMPACT, requirements=NEEDS), CPU)
    assert network is not None
    return network


def style(former: SyncFormer, gain: float) -> np.ndarray:
    """A reference whose mouth opens and shuts four times a second (90 478 3)."""
    opening = gain * (0.5 - 0.5 * np.cos(np.arange(90) / 25 * 2 * np.pi * 4))
    return (opening[:, None, None] * former.opening_axis.numpy()).astype(np.float32)


def opening(former: SyncFormer, mel: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Lip opening at 25 frames per second of the mean face, its lips closed, that speaks."""
    motion = mesh_motion(former, mel, reference)
    face = mean_face().points.astype(np.float32)
    shut = face - lip_opening(face[None])[0] * former.opening_axis.numpy()
    return lip_opening(meet_lips(shut + motion.at([t / 25 for t in range(len(motion))])))


def syllables() -> np.ndarray:
    """Log-mel of two seconds of a buzz that comes and goes twice a second, like "ba ba"."""
    time = np.arange(32000) / 16000
    buzz = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 30))
    return log_mel((0.1 * buzz * (np.sin(2 * np.pi * 2 * time) > 0)).astype(np.float32))


def test_the_shipped_network_is_whole_and_frozen(former: SyncFormer) -> None:
    assert not former.training and not any(p.requires_grad for p in former.parameters())
    assert former.opening_axis.abs().sum() > 0 and former.usual.abs().sum() > 0
    identity = former.basis @ former.analysis.T  # half precision on disk keeps the basis orthonormal
    assert torch.allclose(identity, torch.eye(len(identity)), atol=2e-3)


def test_it_opens_the_mouth_for_a_voice_and_shuts_it_in_silence(former: SyncFormer) -> None:
    reference = style(former, 0.3)
    loud = opening(former, syllables(), reference)
    silent = opening(former, np.full((160, 80), SILENCE, np.float32), reference)
    assert loud.max() > 0.04 and silent[25:].max() < SHUT


def test_the_reference_says_how_far_the_mouth_opens(former: SyncFormer) -> None:
    small, large = (opening(former, syllables(), style(former, gain)).std() for gain in (0.15, 0.45))
    assert large > 1.7 * small


def without(tmp_path: Path) -> PresetFolder:
    """The compact preset as somebody packed it before there was a Style-SyncFormer."""
    folder = tmp_path / "old"
    shutil.copytree(COMPACT, folder, ignore=shutil.ignore_patterns("animation", "runs", "manifest.toml"))
    write_manifest(folder)
    return folder_state(folder, requirements=NEEDS)


def test_a_preset_may_lack_it(tmp_path: Path) -> None:
    preset = without(tmp_path)
    assert preset.complete
    lines: list[str] = []
    assert load_sync_former(preset, CPU, lines.append) is None
    assert lines == ["the compact preset has no sync_former network: nothing moves the mesh with the voice"]
    assert load_sync_former(PresetFolder("paper", (), (), ()), CPU) is None


def test_a_damaged_one_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(COMPACT, folder, ignore=shutil.ignore_patterns("runs"))
    path = folder / "animation" / "sync_former.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsCorruptError, match="sync_former"):
        load_sync_former(folder_state(folder, requirements=NEEDS), CPU)


def test_the_hub_reads_it_from_the_preset(former: SyncFormer) -> None:
    again = SyncFormer.from_pretrained(COMPACT)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in former.state_dict().items())
