"""The training loop: exact resume, time limit, atomic checkpoints, settings."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from talkswap.errors import TrainingError, UsageError
from talkswap.train.loop import Batch, LoopConfig, Stage, Trainer, rate_at, step_seed
from talkswap.train.stages import STAGES, _check_same, _with, stage_config


@dataclass(frozen=True)
class LineConfig:
    loop: LoopConfig = LoopConfig(
        steps=24, batch=16, learning_rate=0.05, warmup=4, ema=0.9, precision="float32", log_every=1, sample_every=100
    )
    slope: float = 3.0


class LineStage(Stage):
    """Fits a line with dropout, against a discriminator, so that every kind of state is in play."""

    name = "line"

    def __init__(self, config: LineConfig) -> None:
        super().__init__(config)
        torch.manual_seed(config.loop.seed)
        self.network = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.3), nn.Linear(8, 1))
        self.discriminator = nn.Linear(1, 1)

    def batch(self, step: int) -> Batch:
        generator = torch.Generator().manual_seed(step_seed(self.config.loop.seed, step))
        x = torch.randn(self.config.loop.batch, 1, generator=generator)
        return {"x": x, "y": self.config.slope * x + 1}

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, float | Tensor]]:
        self.made = self.network(batch["x"])
        assert self.discriminator is not None
        error = (self.made - batch["y"]).abs().mean()
        return error + 0.01 * self.discriminator(self.made).mean(), {"error": error.detach()}

    def discriminator_loss(self, batch: Batch, step: int) -> Tensor | None:
        assert self.discriminator is not None
        return self.discriminator(self.made.detach()).square().mean()

    def score(self) -> dict[str, float]:
        return {"slope": float((self.network(torch.ones(1, 1)) - self.network(torch.zeros(1, 1))).item())}

    def export(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "done").touch()


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "curve.jsonl").read_text().splitlines()]


def test_a_resumed_run_has_the_same_losses_and_weights_to_the_last_bit(tmp_path: Path) -> None:
    config = LineConfig()
    whole = Trainer(LineStage(config), config.loop, tmp_path / "whole")
    whole.train(echo=lambda line: None)
    first = Trainer(LineStage(config), config.loop, tmp_path / "parts")
    batches = first._batches(stop := __import__("threading").Event())
    for _ in range(9):
        first._one_step(next(batches))
        first.step += 1
    stop.set()
    first.save()
    second = Trainer(LineStage(config), config.loop, tmp_path / "parts")
    assert second.resume() and second.step == 9
    second.train(echo=lambda line: None)
    assert losses(tmp_path / "whole")[9:] == losses(tmp_path / "parts")
    for name in ("network", "average", "discriminator", "optimiser", "adversary"):
        one = load_file(tmp_path / "whole/checkpoint" / f"{name}.safetensors")
        two = load_file(tmp_path / "parts/checkpoint" / f"{name}.safetensors")
        assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one), name


def test_it_learns_and_exports_the_averaged_weights(tmp_path: Path) -> None:
    config = LineConfig(loop=replace(LineConfig().loop, steps=400))
    scores = Trainer(LineStage(config), config.loop, tmp_path).train(echo=lambda line: None)
    assert scores["slope"] == pytest.approx(3.0, abs=0.5)
    assert (tmp_path / "export/done").exists() and (tmp_path / "curve.png").exists()
    assert json.loads((tmp_path / "config.json").read_text())["config"]["slope"] == 3.0


def test_the_time_limit_saves_and_the_next_call_goes_on(tmp_path: Path) -> None:
    config = LineConfig(loop=replace(LineConfig().loop, max_minutes=1e-6))
    said: list[str] = []
    assert Trainer(LineStage(config), config.loop, tmp_path).train(echo=said.append) == {}
    assert "resume" in said[-1] and not (tmp_path / "export").exists()
    again = Trainer(LineStage(config), LineConfig().loop, tmp_path)
    assert again.resume() and again.step >= 1
    assert again.train(echo=lambda line: None)


def test_a_checkpoint_cut_off_while_it_was_written_leaves_the_last_one(tmp_path: Path) -> None:
    config = LineConfig()
    trainer = Trainer(LineStage(config), config.loop, tmp_path)
    trainer.step = 5
    trainer.save()
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")  # killed between the two renames
    (tmp_path / "checkpoint.new").mkdir()
    (tmp_path / "checkpoint.new" / "network.safetensors").write_bytes(b"half")
    again = Trainer(LineStage(config), config.loop, tmp_path)
    assert again.resume() and again.step == 5


def test_a_loss_that_is_not_finite_stops_with_advice(tmp_path: Path) -> None:
    config = LineConfig(slope=float("nan"))
    with pytest.raises(TrainingError, match="not finite at step 0") as caught:
        Trainer(LineStage(config), config.loop, tmp_path).train(echo=lambda line: None)
    assert "learning rate" in caught.value.hint


def test_an_error_while_a_batch_is_made_reaches_the_caller(tmp_path: Path) -> None:
    class Broken(LineStage):
        def batch(self, step: int) -> Batch:
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        Trainer(Broken(LineConfig()), LineConfig().loop, tmp_path).train(echo=lambda line: None)


def test_the_rate_rises_linearly_and_falls_along_a_cosine() -> None:
    config = LoopConfig(steps=110, warmup=10, final_rate=0.1)
    assert [rate_at(config, s) for s in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert rate_at(config, 60) == pytest.approx(0.55)
    assert rate_at(config, 110) == pytest.approx(0.1)


def test_settings_reach_nested_configs_and_wrong_ones_are_named() -> None:
    config = _with(LineConfig(), ["loop", "steps"], 7, "loop.steps")
    assert config.loop.steps == 7 and config.loop.batch == 16
    assert _with(config, ["slope"], 2, "slope").slope == 2.0
    with pytest.raises(UsageError, match="no setting loop.stepz"):
        _with(config, ["loop", "stepz"], 7, "loop.stepz")
    with pytest.raises(UsageError, match="'many' is no value for loop.steps"):
        _with(config, ["loop", "steps"], "many", "loop.steps")
    with pytest.raises(UsageError, match="no stage is called vqgam"):
        stage_config("vqgam", {})


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_a_compact_and_a_paper_config(stage: str) -> None:
    for preset in ("compact", "paper"):
        if stage in ("faces", "identity", "speech-encoder") and preset == "paper":
            continue  # at paper size faces come from insightface
        assert stage_config(stage, {"loop.steps": 3}, preset).loop.steps == 3


def test_a_run_is_not_taken_up_with_other_settings(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"config": {"loop": {"batch": 4, "threads": 1}, "pixel": 1.0}}))
    _check_same(tmp_path / "config.json", {"loop": {"batch": 4, "threads": 2}, "pixel": 1.0})
    with pytest.raises(TrainingError, match="another loop.batch"):
        _check_same(tmp_path / "config.json", {"loop": {"batch": 8, "threads": 1}, "pixel": 1.0})
