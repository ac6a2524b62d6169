from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from talkswap.errors import TrainingDataError, TrainingError
from talkswap.systems.swaptalk.sync_expert import SyncExpertConfig
from talkswap.systems.swaptalk.training.codes import load_vqgan
from talkswap.systems.swaptalk.training.sync_expert import (
    PRESETS,
    SyncExpertStage,
    SyncExpertStageConfig,
    given_latents,
)
from talkswap.train.loop import Trainer
from talkswap.train.stage import Batch, LoopConfig
from tests.train.learning import fixed_figure

SMALL = SyncExpertConfig(
    code_width=16, grid=4, margin=0, width=8, embedding=12, encoder_width=16, dilations=(1, 2), window=33
)
LOOP = LoopConfig(
    steps=60, batch=24, learning_rate=5e-3, warmup=5, ema=0.9, precision="float32", threads=1, log_every=20
)


def configured(folder: Any, **changes: Any) -> SyncExpertStageConfig:
    given = {"data": folder.data, "codes": folder.codes, "vqgan": folder.vqgan, "network": SMALL, "loop": LOOP}
    return SyncExpertStageConfig(**{**given, "moments": 6, "weakest": -1.0, "checked_at": 0, **changes})


@pytest.fixture
def plain_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sound as it was recorded: with the augmentation, which hides most of it, learning takes thousands of steps."""
    monkeypatch.setattr("talkswap.systems.swaptalk.training.sync_expert.augment_mel", lambda mel: mel)


class ShuffledSound(SyncExpertStage):
    """Every mouth is given the sound of another moment."""

    def batch(self, step: int) -> Batch:
        batch = super().batch(step)
        order = torch.from_numpy(np.random.default_rng(step).permutation(len(batch["mel"])))
        return {**batch, "mel": batch["mel"][order]}


@pytest.mark.usefixtures("plain_sound")
def test_a_short_run_reads_the_mouth_and_beats_chance(talking_folder: Any, tmp_path: Path) -> None:
    loop = replace(LOOP, steps=100)
    config = configured(talking_folder, loop=loop, lost=0.0, noise=0.05, checked_at=100, checked_over=20)
    stage = SyncExpertStage(config)
    chance, untrained = fixed_figure(stage, "chance"), fixed_figure(stage, "probe")
    assert chance == pytest.approx(1 / 6, abs=1e-5)
    Trainer(stage, loop, tmp_path).train(echo=lambda line: None)
    assert fixed_figure(stage, "probe") < 0.7 * untrained
    assert fixed_figure(stage, "right") > 1.5 * chance
    stored = load_file(tmp_path / "export" / "sync_expert.safetensors")
    assert stored["temperature"].dtype == torch.float16
    assert (
        SyncExpertConfig(
            **{
                k: tuple(v) if isinstance(v, list) else v
                for k, v in json.loads((tmp_path / "export" / "sync_expert.json").read_text()).items()
            }
        )
        == SMALL
    )
    assert len(json.loads((tmp_path / "export" / "clips.json").read_text())) == 4


@pytest.mark.usefixtures("plain_sound")
@pytest.mark.parametrize("preset", ["compact", "paper"])
def test_an_expert_whose_sound_is_shuffled_stops_with_advice(
    talking_folder: Any, tmp_path: Path, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every preset checks; only the step at which it does is brought forward."""
    chosen = PRESETS[preset]
    assert 0 < chosen.checked_at <= chosen.loop.steps / 2 and chosen.above_chance > 1.2
    loop = replace(LOOP, steps=40, betas=chosen.loop.betas)
    folders = {"data": talking_folder.data, "codes": talking_folder.codes, "vqgan": talking_folder.vqgan}
    config = replace(chosen, **folders, network=SMALL, loop=loop, moments=6, weakest=-1.0, checked_at=30)
    told: list[str] = []
    with pytest.raises(TrainingError, match="after 30 steps the expert is right in .*chance gives 16.7%") as caught:
        Trainer(ShuffledSound(config), loop, tmp_path).train(echo=told.append)
    assert "raise weakest" in caught.value.hint
    assert "right=0." in told[0] and "chance=0.1667" in told[0]  # the level is printed beside what was reached


def test_the_check_waits_for_enough_batches_of_a_resumed_run(talking_folder: Any) -> None:
    stage = SyncExpertStage(configured(talking_folder, checked_at=50, checked_over=4))
    wrong, chance = torch.tensor(0.1), torch.tensor(0.2)
    for step in range(60, 63):
        stage.right.append((wrong, chance))
        stage.after_step(step)
    stage.right.append((wrong, chance))
    with pytest.raises(TrainingError, match="after 64 steps .* 10.0% where chance gives 20.0%"):
        stage.after_step(63)
    unchecked = SyncExpertStage(configured(talking_folder, checked_at=0))
    unchecked.right = [(wrong, chance)] * 100
    unchecked.after_step(500)


def test_a_resumed_run_computes_the_same_losses(talking_folder: Any, tmp_path: Path) -> None:
    loop = replace(LOOP, steps=6, log_every=1)
    Trainer(SyncExpertStage(configured(talking_folder)), loop, tmp_path / "whole").train(echo=lambda line: None)
    Trainer(SyncExpertStage(configured(talking_folder)), replace(loop, max_minutes=1e-6), tmp_path / "parts").train(
        echo=lambda line: None
    )
    later = Trainer(SyncExpertStage(configured(talking_folder)), loop, tmp_path / "parts")
    assert later.resume()
    later.train(echo=lambda line: None)
    curves = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "curve.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)


def test_codes_of_another_vqgan_are_refused(talking_folder: Any, tmp_path: Path) -> None:
    other = {k: v + 0.01 if v.is_floating_point() else v for k, v in load_file(talking_folder.vqgan).items()}
    save_file(other, tmp_path / "vqgan.safetensors")
    (tmp_path / "vqgan.json").write_text(talking_folder.vqgan.with_suffix(".json").read_text())
    with pytest.raises(TrainingDataError, match="of another VQGAN"):
        SyncExpertStage(configured(talking_folder, vqgan=tmp_path / "vqgan.safetensors"))


def test_lags_shift_the_sound_of_training_clips_only(talking_folder: Any, tmp_path: Path) -> None:
    (tmp_path / "lags.json").write_text(json.dumps({"train-0": 0.1, "val-0": 0.1}))
    straight = SyncExpertStage(configured(talking_folder))
    shifted = SyncExpertStage(configured(talking_folder, lags=tmp_path / "lags.json"))
    by_name = [{c.name: c.times[0] for c in (*s.clips, *s.held_out)} for s in (straight, shifted)]
    assert by_name[1]["train-0"] == pytest.approx(by_name[0]["train-0"] - 0.1)
    assert by_name[1]["train-1"] == by_name[0]["train-1"]
    assert by_name[1]["val-0"] == by_name[0]["val-0"]


def test_both_stored_forms_become_latents(talking_folder: Any) -> None:
    codebook = load_vqgan(talking_folder.vqgan).lower
    index = torch.tensor([[[0, 5], [7, 31]]])
    made = given_latents(codebook, index)
    assert torch.equal(made, codebook.lookup(index))
    raw = torch.from_numpy(np.full((1, 16, 2, 2), 127, np.int8))
    assert given_latents(codebook, raw).max() == pytest.approx(4.0)
