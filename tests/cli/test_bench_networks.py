"""``talkswap bench --random-weights``: the networks alone, in the sizes of a preset."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from talkswap.cli import bench as bench_networks
from talkswap.cli import main
from talkswap.device import choose_device
from talkswap.systems.description import Workload
from talkswap.systems.swaptalk import face_swap, lip_sync, vqgan
from talkswap.systems.swaptalk.bench import random_system


def test_every_stage_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_networks, "ROUNDS", 1)
    path = tmp_path / "figures.json"
    options = ["--preset", "compact", "--device", "cpu", "--batch-size", "1", "--output", str(path)]
    assert main(["bench", "--random-weights", *options]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures == json.loads(path.read_text())
    assert figures["random_weights"] is True and figures["preset"] == "compact" and figures["device"] == "cpu"
    times = figures["ms_per_frame"]
    assert list(times) == ["encode", "swap", "sync", "decode"] and min(times.values()) > 0
    assert figures["network_ms_per_frame"] == pytest.approx(sum(times.values()))
    assert figures["gpu_memory_mb"] is None and figures["peak_memory_mb"] > 0
    assert figures["parameters"]["vqgan"] == sum(p.numel() for p in vqgan.VQGAN().parameters())


def test_a_frame_costs_the_same_however_many_are_in_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_networks, "milliseconds", lambda work, device: float(len(work()) * 10))
    monkeypatch.setattr(
        "talkswap.systems.swaptalk.bench.random_workload",
        lambda preset, device, size: Workload({"encode": lambda: [0] * size}, list, {}, 64),
    )
    figures = bench_networks.time_networks("swaptalk", "compact", choose_device("cpu"), 4)
    assert figures["ms_per_frame"] == {"encode": 10.0} and figures["batch_size"] == 4


def test_paper_means_the_paper_s_sizes() -> None:
    system = random_system("paper", choose_device("cpu"))
    assert system.vqgan.config == vqgan.PAPER
    assert system.face_swap.config == face_swap.PAPER
    assert system.lip_sync.config == lip_sync.PAPER


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--preset", "compact", "--target", "clip.mp4"], "takes no clip"),
        (["--preset", "compact", "--seconds", "3"], "takes no clip"),
        ([], "the sizes of one preset"),
        (["--preset", "compact", "--system", "wav2lip"], "the system wav2lip says nothing of its stages"),
    ],
)
def test_what_random_weights_cannot_be_given(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--random-weights", *options]) == 2
    assert said in capsys.readouterr().err
