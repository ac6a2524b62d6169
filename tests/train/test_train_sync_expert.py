from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from talkswap.data.pairs import load_vqgan
from talkswap.errors import TrainingDataError, TrainingError
from talkswap.systems.swaptalk.sync_expert import SyncExpertConfig
from talkswap.train.loop import LoopConfig, Trainer
from talkswap.train.sync_expert import SyncExpertStage, SyncExpertStageConfig, given_latents

SMALL = SyncExpertConfig(
    code_width=16, grid=4, margin=0, width=8, embedding=12, encoder_width=16, dilations=(1, 2), window=33
)
LOOP = LoopConfig(
    steps=60, batch=24, learning_rate=5e-3, warmup=5, ema=0.9, precision="float32", threads=1, log_every=20
)


def configured(folder: Any, **changes: Any) -> SyncExpertStageConfig:
    given = {"data": folder.data, "codes": folder.codes, "vqgan": folder.vqgan, "network": SMALL, "loop": LOOP}
    return SyncExpertStageConfig(**{**given, "moments": 6, "weakest": -1.0, "checked_at": 0, **changes})


def test_a_short_run_reads_the_mouth_and_beats_chance(talking_folder: Any, tmp_path: Path) -> None:
    loop = replace(LOOP, steps=120)
    stage = SyncExpertStage(configured(talking_folder, loop=loop, lost=0.0, noise=0.05))
    scores = Trainer(stage, loop, tmp_path).train(echo=lambda line: None)
    assert scores["probe-pearson"] > 0.6
    last = json.loads((tmp_path / "curve.jsonl").read_text().splitlines()[-1])
    assert last["right"] > 1.3 * last["chance"]
    assert last["chance"] == pytest.approx(1 / 6, abs=1e-5)
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


def test_an_expert_that_stays_at_chance_stops_with_advice(talking_folder: Any, tmp_path: Path) -> None:
    loop = replace(LOOP, steps=6, learning_rate=0.0)
    stage = SyncExpertStage(configured(talking_folder, loop=loop, checked_at=5))
    with pytest.raises(TrainingError, match="after 5 steps the expert is right in .*chance gives 16.7%") as caught:
        Trainer(stage, loop, tmp_path).train(echo=lambda line: None)
    assert "raise weakest" in caught.value.hint


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
