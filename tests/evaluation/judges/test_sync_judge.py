"""LSE with random SyncNet weights against a reference of plain loops, written here (tolerance 1e-3 of distances near 30):
nearest frame in time, pictures and cepstra cut one window at a time, one distance after another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from talkswap.checkpoints.manifest import read_catalogue, write_manifest
from talkswap.errors import TrainingDataError, WeightsCorruptError, WeightsMissingError
from talkswap.evaluation.judges.judges import load_sync_judge
from talkswap.evaluation.judges.syncnet import COUNTER, FILE, SyncNet, SyncNetJudge, cut_square, mfcc, square_places
from talkswap.faces.mesh import mean_face
from talkswap.types import FloatArray, UInt8Image


@pytest.fixture(scope="module")
def network_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights in which a different picture or sound gives a clearly different embedding."""
    torch.manual_seed(5)
    network = SyncNet()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d | torch.nn.Linear):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    with torch.no_grad():
        network.netcnnlip[0].weight.mul_(1 / 128)
    path = tmp_path_factory.mktemp("weights") / "syncnet_v2.safetensors"
    save_file({k: v for k, v in network.state_dict().items() if not k.endswith(COUNTER)}, path)
    return path


@pytest.fixture(scope="module")
def judge(network_file: Path) -> SyncNetJudge:
    return SyncNetJudge(network_file, published=True)


def moving_face(frames: int, side: int = 96) -> tuple[list[UInt8Image], FloatArray]:
    """Noise with a face that wanders through it, lost in one frame."""
    random = np.random.default_rng(2)
    pictures = [random.integers(0, 256, (side, side, 3)).astype(np.uint8) for _ in range(frames)]
    points = mean_face().points
    shape = (points - points.mean(0)) / np.ptp(points[:, 1]) * 0.5 * side
    landmarks = np.stack([shape + [side / 2 + k / 4, side / 2, 0] for k in range(frames)]).astype(np.float32)
    landmarks[4] = np.nan
    return pictures, landmarks


def test_equals_loops(judge: SyncNetJudge) -> None:
    frames, rate = 22, 30000 / 1001
    pictures, landmarks = moving_face(frames)
    times = np.arange(frames) / rate
    random = np.random.default_rng(3)
    voice = (0.1 * np.cumsum(random.normal(size=11200)) / 30).clip(-1, 1).astype(np.float32)  # 0.7 s

    places = square_places(landmarks)
    length = int(min(frames / rate, 0.7) * 25)
    squares = []
    for k in range(length):
        nearest = min(range(frames), key=lambda row: (abs(times[row] - k / 25), row))
        squares.append(cut_square(pictures[nearest], places[nearest], 224)[:, :, [2, 1, 0]].astype(np.float32))
    cepstra = mfcc(voice)
    mouths, sounds = [], []
    with torch.no_grad():
        for k in range(length - 5):
            run = torch.from_numpy(np.stack(squares[k : k + 5])).permute(3, 0, 1, 2)
            mouths.append(judge.network.see(run)[0])
            window = torch.from_numpy(cepstra[4 * k : 4 * k + 20].T.copy())
            sounds.append(judge.network.hear(window[None, None])[0])
    means = []
    for offset in range(-15, 16):
        distances = []
        for k, mouth in enumerate(mouths):
            inside = 0 <= k + offset < len(sounds)
            sound = sounds[k + offset] if inside else torch.zeros_like(mouth)
            distances.append(float((mouth - sound).pow(2).sum().sqrt()))
        means.append(sum(distances) / len(distances))
    ordered = sorted(means)

    found = judge(iter(pictures), landmarks, times, voice)
    assert found.frames == length - 5 == 12
    assert np.ptp(means) > 1  # else any offset would do
    assert found.distance == pytest.approx(ordered[0], abs=1e-3)
    assert found.confidence == pytest.approx(ordered[15] - ordered[0], abs=1e-3)
    assert found.offset == 15 - means.index(ordered[0])
    assert judge.judge.comparable and judge.judge.name == "syncnet_v2" and len(judge.judge.sha256) == 64


def test_a_named_file_is_not_called_the_published_one(network_file: Path) -> None:
    named = load_sync_judge(network_file).judge
    assert not named.comparable and named.name == f"SyncNet from {network_file.name}" and named.note


def test_a_clip_without_enough_is_refused(judge: SyncNetJudge) -> None:
    pictures, landmarks = moving_face(10)
    times = np.arange(10) / 25
    for voice in (np.zeros(3200, np.float32), np.zeros(0, np.float32)):  # 0.2 s are five frames
        with pytest.raises(TrainingDataError):
            judge(iter(pictures), landmarks, times, voice)
    with pytest.raises(TrainingDataError):
        judge(iter(pictures[:4]), landmarks, times, np.zeros(6400, np.float32))


def test_syncnet_judges_where_it_is_and_mouth_shapes_where_not(
    network_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALKSWAP_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stand_in = load_sync_judge().judge
    assert stand_in.kind == "syncnet" and not stand_in.comparable and "compact" in stand_in.name and stand_in.note
    with pytest.raises(WeightsMissingError):
        load_sync_judge(tmp_path / "absent.safetensors")
    file = tmp_path / "paper" / "evaluation" / "syncnet_v2.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(network_file.read_bytes())
    write_manifest(tmp_path / "paper")
    assert load_sync_judge().judge.comparable
    assert load_sync_judge(network_file).judge == load_sync_judge().judge
    file.write_bytes(network_file.read_bytes()[:-4] + b"none")
    with pytest.raises(WeightsCorruptError):
        load_sync_judge()


def test_the_catalogue_brings_the_file_to_where_it_is_looked_for() -> None:
    entry = next(entry for entry in read_catalogue() if entry.name == "syncnet_v2")
    assert (entry.preset, entry.file) == ("paper", f"{FILE}.safetensors")
