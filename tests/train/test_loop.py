"""The training loop: exact resume, time limit, signals, micro-batches, settings."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from talkswap.errors import DeviceError, TrainingError, UsageError
from talkswap.systems.registry import find_stage, stages
from talkswap.train import state
from talkswap.train.figures import StepProgress
from talkswap.train.loop import Trainer
from talkswap.train.optimiser import rate_at
from talkswap.train.stage import Batch, LoopConfig, draw_number, share_config
from talkswap.train.stages import StageDescription, check_same_settings, stage_config, train

from .line import LineConfig, LineStage, rows

TIMED = {"rate", "waiting", "minutes"}


def quiet(text: str) -> None:
    return


def settings(**changed: object) -> LineConfig:
    config = LineConfig()
    return replace(config, loop=replace(config.loop, **changed))  # type: ignore[arg-type]


def trainer(run: Path, config: LineConfig | None = None) -> Trainer:
    config = config or LineConfig()
    return Trainer(LineStage(share_config(config, 1)), config.loop, run)


@pytest.mark.parametrize(("log_every", "accumulate", "workers"), [(1, 1, 1), (5, 1, 0), (7, 2, 0)])
def test_a_resumed_run_has_the_same_rows_and_state_to_the_last_bit(
    tmp_path: Path, log_every: int, accumulate: int, workers: int
) -> None:
    config = settings(log_every=log_every, accumulate=accumulate, workers=workers)
    trainer(tmp_path / "whole", config).train(quiet)

    class Interrupted(LineStage):
        def after_step(self, step: int) -> None:
            super().after_step(step)
            if step == 8:  # in the middle of a row, when a row has several steps
                os.kill(os.getpid(), signal.SIGTERM)

    said: list[str] = []
    with pytest.raises(SystemExit) as caught:
        Trainer(Interrupted(share_config(config, 1)), config.loop, tmp_path / "parts").train(said.append)
    assert caught.value.code == 143 and "saved at step 9 of 24" in said[-1]
    later = trainer(tmp_path / "parts", config)
    assert later.resume() and later.step == 9
    later.train(quiet)

    def computed(run: Path) -> list[dict[str, float]]:
        return [{k: v for k, v in row.items() if k not in TIMED} for row in rows(run)]

    whole, parts = computed(tmp_path / "whole"), computed(tmp_path / "parts")
    assert {"loss", "error", "discriminator", "norm"} <= whole[0].keys()
    assert whole == parts, "floats are written in full, so equal text is equal bits"
    one, two = (state.read(tmp_path / name / "checkpoint").groups for name in ("whole", "parts"))
    assert set(one) == {"network", "average", "discriminator", "optimiser", "adversary"} == set(two)
    for name in one:
        assert one[name].keys() == two[name].keys() and all(torch.equal(one[name][k], two[name][k]) for k in one[name])


def test_rows_of_steps_that_are_done_again_are_written_once(tmp_path: Path) -> None:
    trainer(tmp_path, settings(steps=6)).train(quiet)
    state = json.loads((tmp_path / "checkpoint/state.json").read_text()) | {"step": 4}  # as if killed after step 6
    (tmp_path / "checkpoint/state.json").write_text(json.dumps(state))
    with open(tmp_path / "curve.jsonl", "a") as file:
        file.write('{"step": 7, "lo')  # cut off while it was written
    again = trainer(tmp_path, settings(steps=8))
    assert again.resume() and again.step == 4
    again.train(quiet)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_it_learns_and_exports_the_averaged_weights(tmp_path: Path) -> None:
    scores = trainer(tmp_path, settings(steps=400)).train(quiet)
    assert scores["slope"] == pytest.approx(3.0, abs=0.5)
    assert (tmp_path / "export/done").exists() and (tmp_path / "curve.png").exists()
    assert json.loads((tmp_path / "config.json").read_text())["config"]["slope"] == 3.0
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_the_discriminators_loss_alone_moves_the_discriminator(tmp_path: Path) -> None:
    class Idle(LineStage):
        def discriminator_loss(self, batch: Batch, step: int) -> None:
            return None

    stage = Idle(LineConfig())
    assert stage.discriminator is not None
    before = {k: v.clone() for k, v in stage.discriminator.state_dict().items()}
    one = Trainer(stage, LineConfig().loop, tmp_path)
    one.take_step([stage.batch(0)])
    after = stage.discriminator.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert all(p.grad is None for p in stage.discriminator.parameters())


def test_micro_batches_make_the_step_of_the_whole_batch(tmp_path: Path) -> None:
    config = replace(LineConfig(), dropout=0.0)
    parts = replace(config, loop=replace(config.loop, accumulate=4))
    for name, one in (("whole", config), ("parts", parts)):
        trainer(tmp_path / name, one).train(quiet)
    whole, made = (rows(tmp_path / name) for name in ("whole", "parts"))
    for name in ("loss", "error", "discriminator", "norm"):
        assert [r[name] for r in whole] == pytest.approx([r[name] for r in made], rel=1e-4)


def test_processes_and_micro_batches_draw_what_one_process_draws() -> None:
    two = [draw_number(step, 0, rank, 1, 2) for step in range(3) for rank in range(2)]
    assert two == [draw_number(step, micro, 0, 2, 1) for step in range(3) for micro in range(2)] == list(range(6))
    drawn = {draw_number(s, m, r, 3, 4) for s in range(5) for m in range(3) for r in range(4)}
    assert drawn == set(range(5 * 3 * 4))


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(TrainingError, match="a batch of 16 cannot be shared evenly by 3 processes") as caught:
        share_config(LineConfig(), 3)
    assert "multiple of 3" in caught.value.hint
    assert share_config(LineConfig(), 4).loop.batch == 4


def test_the_time_limit_saves_and_the_next_call_goes_on(tmp_path: Path) -> None:
    said: list[str] = []
    assert trainer(tmp_path, settings(max_minutes=1e-6)).train(said.append) == {}
    assert "resume" in said[-1] and not (tmp_path / "export").exists()
    again = trainer(tmp_path)
    assert again.resume() and again.step == 1
    assert again.train(quiet)


def test_it_stops_while_a_save_still_fits_before_the_limit(tmp_path: Path) -> None:
    one = trainer(tmp_path, settings(max_minutes=1.0))
    one._saving = 20.0
    assert not one._time_is_up(longest=10.0)  # 30 s for a save, 20 s for steps: 10 s are left
    assert one._time_is_up(longest=15.5)


@pytest.mark.parametrize(("number", "ends"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_while_a_batch_is_awaited_saves_what_there_is(
    tmp_path: Path, number: int, ends: type[BaseException]
) -> None:
    class Slow(LineStage):
        def batch(self, step: int) -> Batch:
            if step == 5:
                os.kill(os.getpid(), number)
            return super().batch(step)

    before = signal.getsignal(number)
    said: list[str] = []
    with pytest.raises(ends):
        Trainer(Slow(LineConfig()), LineConfig().loop, tmp_path).train(said.append)
    assert "saved at step 5" in said[-1] and signal.getsignal(number) is before
    again = trainer(tmp_path)
    assert again.resume() and again.step == 5


def test_a_loss_that_is_not_finite_stops_with_advice(tmp_path: Path) -> None:
    config = replace(LineConfig(), slope=float("nan"))
    with pytest.raises(TrainingError, match="not finite at step 0") as caught:
        trainer(tmp_path, config).train(quiet)
    assert "learning rate" in caught.value.hint and not (tmp_path / "checkpoint").exists()


def test_what_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    one.means.add(["loss"], torch.tensor([float("inf")]))  # as a GPU leaves it, which is not asked at every step
    with pytest.raises(TrainingError, match="not finite"):
        one.save()
    assert not (tmp_path / "checkpoint").exists()


def test_every_step_is_told_to_who_watches(tmp_path: Path) -> None:
    told: list[StepProgress] = []
    said: list[str] = []
    trainer(tmp_path, settings(steps=6, log_every=3)).train(said.append, told.append)
    assert [t.step for t in told] == [1, 2, 3, 4, 5, 6] and [t.step for t in told if t.row] == [3, 6]
    assert told[1].loss is None and told[-1].loss is not None and told[-1].seconds_left == 0
    assert "loss=" in told[2].line() and "left=0:0" in told[2].line()
    assert said == [said[-1]] and "waited for data" in said[-1]


def test_a_stage_that_makes_whole_batches_where_shares_are_due_is_a_mistake(tmp_path: Path) -> None:
    config = settings(accumulate=2)
    with pytest.raises(ValueError, match="share_config"):
        Trainer(LineStage(config), config.loop, tmp_path)


@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        ({"device": "cuda"}, DeviceError, "no CUDA device can be had"),
        ({"device": "tpu"}, DeviceError, "unknown device tpu"),
        ({"precision": "fp16"}, DeviceError, "fp16 needs a GPU"),
        ({"precision": "int8"}, UsageError, "no precision int8"),
    ],
)
def test_devices_and_precisions_that_cannot_be_had(
    tmp_path: Path, changed: dict[str, str], error: type[Exception], said: str
) -> None:
    if changed["device" if "device" in changed else "precision"] == "cuda" and torch.cuda.is_available():
        changed = {"device": "tpu"}
        said = "unknown device"
    with pytest.raises(error, match=said):
        trainer(tmp_path, settings(**changed))


def test_bfloat16_trains_on_a_cpu(tmp_path: Path) -> None:
    one = trainer(tmp_path, settings(steps=2, precision="bf16"))
    one.train(quiet)
    assert one.stage.made.dtype == torch.bfloat16  # type: ignore[attr-defined]


def test_the_rate_rises_linearly_and_falls_along_a_cosine() -> None:
    config = LoopConfig(steps=110, warmup=10, final_rate=0.1)
    assert [rate_at(config, s) for s in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert rate_at(config, 60) == pytest.approx(0.55)
    assert rate_at(config, 110) == pytest.approx(0.1)


def test_settings_reach_nested_configs_and_wrong_ones_are_named() -> None:
    stage = StageDescription("line", "tests.train.line", "LineConfig", "LineStage")
    config = stage_config(stage, {"loop.steps": 7, "slope": 2})
    assert config.loop.steps == 7 and config.loop.batch == 16 and config.slope == 2.0
    with pytest.raises(UsageError, match="stage line has no setting loop.stepz"):
        stage_config(stage, {"loop.stepz": 7})
    with pytest.raises(UsageError, match="'many' is no value for loop.steps"):
        stage_config(stage, {"loop.steps": "many"})
    with pytest.raises(UsageError, match="swaptalk has no stage called vqgam"):
        find_stage("vqgam")


@pytest.mark.parametrize("stage", stages())
def test_every_stage_has_a_compact_and_a_paper_config(stage: str) -> None:
    for preset in ("compact", "paper"):
        if stage in ("faces", "identity", "speech-encoder", "joint") and preset == "paper":
            continue  # at paper size faces come from insightface, and there is neither encoder nor joint tuning
        assert stage_config(find_stage(stage), {"loop.steps": 3}, preset).loop.steps == 3


def test_a_run_is_not_taken_up_with_other_settings(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"config": {"loop": {"batch": 4, "threads": 1}, "pixel": 1.0}}))
    check_same_settings(tmp_path / "config.json", {"loop": {"batch": 4, "threads": 2}, "pixel": 1.0})
    with pytest.raises(TrainingError, match="another loop.batch"):
        check_same_settings(tmp_path / "config.json", {"loop": {"batch": 8, "threads": 1}, "pixel": 1.0})


def test_a_run_of_another_network_is_not_taken_up(tmp_path: Path) -> None:
    trainer(tmp_path, settings(steps=2)).train(quiet)
    other = LineStage(LineConfig())
    other.network = torch.nn.Sequential(torch.nn.Linear(1, 9), torch.nn.Linear(9, 1))
    with pytest.raises(TrainingError, match="not of these networks"):
        Trainer(other, LineConfig().loop, tmp_path).resume()


def test_a_begun_run_needs_leave_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.old").mkdir()
    with pytest.raises(TrainingError, match="already holds a run"):
        train(find_stage("vqgan"), {}, tmp_path, resume=False)
