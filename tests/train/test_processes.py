"""Several processes: two real ones over gloo compute what one does with twice the batch."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from talkswap.errors import TrainingError
from talkswap.train import state
from talkswap.train.loop import Trainer
from talkswap.train.processes import Processes
from talkswap.train.stage import share_config

from .line import LineConfig, LineStage, rows

SCRIPT = Path(__file__).with_name("line.py")


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def start(arguments: list[str], run: Path, stop_at: int, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, *arguments, str(SCRIPT), str(run), str(stop_at)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        out, _ = process.communicate(timeout=150)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out


def test_two_processes_compute_what_one_does_with_twice_the_batch(tmp_path: Path) -> None:
    """One of two processes is told to end: both stop after the same step, once saved, and two others go on.  A lone
    process does all the steps in one go.
    """
    launched = start(["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"], tmp_path / "two", 4)
    code, said = ended(launched)
    assert code != 0 and said.count("interrupted and saved at step 8 of 24") == 1, said
    stored = state.read_newest(tmp_path / "two", pytest.fail)
    assert stored is not None and stored.values["step"] == 8
    # what a launcher on each of two hosts sets
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    hosts = [start([], tmp_path / "two", -1, RANK=str(r), LOCAL_RANK="0", **common) for r in range(2)]
    ends = [ended(host) for host in hosts]
    assert [code for code, _ in ends] == [0, 0], ends
    assert "step=24" in ends[0][1] and "step=" not in ends[1][1], "only the main process speaks"

    config = replace(LineConfig(), dropout=0.0)
    Trainer(LineStage(config), config.loop, tmp_path / "one").train(lambda text: None)
    whole, parts = (rows(tmp_path / name) for name in ("one", "two"))
    assert [r["step"] for r in parts] == list(range(1, 25))
    for name in ("loss", "error", "discriminator", "norm"):
        assert [r[name] for r in parts] == pytest.approx([r[name] for r in whole], rel=1e-4, abs=1e-6), name
    a, b = (state.read(tmp_path / name / "checkpoint").groups for name in ("one", "two"))
    for group in ("network", "average", "discriminator"):
        for name, value in a[group].items():
            torch.testing.assert_close(b[group][name], value, rtol=1e-4, atol=1e-5)
    assert "centre" in a["network"], "what moves without a gradient is among what was compared"


def test_one_process_is_its_own_company() -> None:
    alone = Processes("cpu", "float32")
    assert (alone.count, alone.rank, alone.main) == (1, 0, True)
    value = torch.arange(3.0)
    assert alone.gathered(value) is value and alone.mean(value) is value
    assert alone.anybody(True) and not alone.anybody(False) and alone.agree(5)


def test_shares_are_even_or_refused() -> None:
    assert share_config(LineConfig(), 8).loop.batch == 2
    with pytest.raises(TrainingError, match="5 processes"):
        share_config(LineConfig(), 5)
