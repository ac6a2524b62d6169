from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from talkswap.errors import InputMissingError, TrainingError
from talkswap.systems.registry import find_stage
from talkswap.systems.swaptalk.lip_sync import LipSync, LipSyncConfig
from talkswap.systems.swaptalk.sync_expert import SyncExpertConfig
from talkswap.systems.swaptalk.training.lip_sync import LipSyncStage, LipSyncStageConfig
from talkswap.systems.swaptalk.training.sync_expert import SyncExpertStage, SyncExpertStageConfig, given_latents
from talkswap.train.loop import Trainer
from talkswap.train.stage import LoopConfig
from talkswap.train.stages import stage_config
from talkswap.voice.mel import SILENCE

NETWORK = LipSyncConfig(
    code_width=16, grid=4, widths=(16, 16, 16), blocks=(1, 1, 1), heads=2, margin=0,
    encoder_width=16, dilations=(1, 2), window=33, warp_width=8,
)  # fmt: skip
# Three widths, not four: torch 2.13 fills the weight gradient of a strided 3 x 3 convolution over a single cell with
# whatever lies in memory when it computes in bfloat16 on a CPU.
EXPERT = SyncExpertConfig(
    code_width=16, grid=4, margin=0, width=8, embedding=12, encoder_width=16, dilations=(1, 2), window=33
)
LOOP = LoopConfig(
    steps=40, batch=16, learning_rate=3e-3, warmup=5, ema=0.9, precision="float32", threads=1, log_every=10
)


@pytest.fixture(scope="module")
def expert(talking_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of an expert that hardly trained: no test here asks it to be right."""
    run = tmp_path_factory.mktemp("expert")
    loop = replace(LOOP, steps=4)
    config = SyncExpertStageConfig(
        data=talking_folder.data, codes=talking_folder.codes, vqgan=talking_folder.vqgan, network=EXPERT,
        loop=loop, moments=6, weakest=-1.0, checked_at=0,
    )  # fmt: skip
    Trainer(SyncExpertStage(config), loop, run).train(echo=lambda line: None)
    return run / "export"


def configured(folder: Any, expert: Path | None, **changes: Any) -> LipSyncStageConfig:
    given = {
        "data": folder.data,
        "codes": folder.codes,
        "vqgan": folder.vqgan,
        "expert": expert,
        "network": NETWORK,
        "loop": LOOP,
    }
    return LipSyncStageConfig(**{**given, "sequences": 2, "mouth_rows": (0, 2), "mouth_columns": (1, 3), **changes})


def agreement(stage: LipSyncStage) -> float:
    """Correlation of the mouth shape that a fixed set of samples asks for with the opening in the latents' answer.

    The clips are made so that the first six channels of the lower half are the opening and the others are noise.
    References show another mouth on purpose, so a network that changes nothing lies below zero.
    """
    openings, requests = [], []
    stage.network.eval()
    with torch.no_grad():
        for number in range(10**6, 10**6 + 3):  # far from the batches that a short run draws
            torch.manual_seed(number)
            batch = stage.batch(number)
            reference = given_latents(stage.frozen["vqgan"].lower, batch["from_lower"])
            latent, _ = stage._transformed(reference, batch["speech"], batch)
            openings.append(latent[:, :6].float().mean((1, 2, 3)))
            requests.append(batch["shape"][:, 0])
    stage.network.train()
    return float(np.corrcoef(torch.cat(openings), torch.cat(requests))[0, 1])


@pytest.mark.parametrize(("seed", "precision"), [(0, "float32"), (1, "bf16"), (2, "float32")])
def test_the_mouth_takes_the_shape_that_is_asked_for(
    talking_folder: Any, tmp_path: Path, seed: int, precision: str
) -> None:
    loop = replace(LOOP, steps=60, seed=seed, precision=precision)
    plain = {"sync": 0.0, "probe": 0.0, "pixel": 0.0, "sequences": 0, "far": 0.0, "silent": 0.0, "told": 1.0}
    stage = LipSyncStage(configured(talking_folder, None, loop=loop, **plain))
    assert agreement(stage) < 0
    Trainer(stage, loop, tmp_path).train(echo=lambda line: None)
    assert agreement(stage) > 0.7


def test_a_finished_run_leaves_scores_a_sheet_and_weights_that_load(
    talking_folder: Any, expert: Path, tmp_path: Path
) -> None:
    loop = replace(LOOP, steps=4, log_every=2)
    stage = LipSyncStage(configured(talking_folder, expert, loop=loop))
    scores = Trainer(stage, loop, tmp_path).train(echo=lambda line: None)
    assert {"pearson", "pearson-shifted", "spread", "opening-in-silence", "pearson-quantized"} <= set(scores)
    assert all(np.isfinite(value) for value in scores.values())
    row = json.loads((tmp_path / "curve.jsonl").read_text().splitlines()[-1])
    assert {"code", "untouched", "probe", "sync", "cosine", "pixel"} <= set(row)
    sheet = cv2.imread(str(tmp_path / "sample.png"))
    assert sheet.shape[0] > 5 * 32 and sheet.std() > 0
    stored = json.loads((tmp_path / "export" / "lip_sync.json").read_text())
    network = LipSync(LipSyncConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}))
    network.load_state_dict({k: v.float() for k, v in load_file(tmp_path / "export" / "lip_sync.safetensors").items()})


def test_a_batch_holds_silence_far_references_and_runs_of_frames(talking_folder: Any, expert: Path) -> None:
    stage = LipSyncStage(configured(talking_folder, expert, silent=0.5))
    batch = stage.batch(1)
    assert len(batch["lower"]) == LOOP.batch
    assert batch["sound"].shape == (2, EXPERT.window, 80)
    quiet = batch["silent"]
    assert quiet.any() and not quiet.all()
    assert (batch["speech"][quiet] == SILENCE).all()
    assert batch["shape"][quiet, 0].max() < batch["shape"][~quiet, 0].max()
    assert not (batch["shape_given"] & quiet).any()
    assert not torch.equal(batch["from_lower"], batch["lower"])
    again = stage.batch(1)
    assert all(torch.equal(batch[key], again[key]) for key in batch)


def test_near_references_share_the_pose_and_not_the_mouth(talking_folder: Any, expert: Path) -> None:
    stage = LipSyncStage(configured(talking_folder, expert))
    clip, random = stage.clips[0], np.random.default_rng(0)
    turned, mouths, anyone = [], [], []
    for row in range(60):
        other = stage._near(clip, row, random)
        turned.append(np.abs(clip.pose[other] - clip.pose[row]).mean())
        mouths.append(abs(float(clip.shape[other, 0] - clip.shape[row, 0])))
        anyone.append(np.abs(clip.pose[random.integers(60)] - clip.pose[row]).mean())
    assert np.mean(turned) < 0.8 * np.mean(anyone)
    assert np.mean(mouths) > 0.1


def test_other_backbones_train_without_shape_or_expert(talking_folder: Any, tmp_path: Path) -> None:
    network = replace(NETWORK, backbone="unet")
    loop = replace(LOOP, steps=2)
    stage = LipSyncStage(configured(talking_folder, None, network=network, loop=loop, sequences=0, entropy=0.05))
    assert Trainer(stage, loop, tmp_path).train(echo=lambda line: None) == {}
    assert (tmp_path / "export" / "lip_sync.safetensors").is_file()


def test_the_speech_encoder_stays_as_it_was_trained(talking_folder: Any, expert: Path, tmp_path: Path) -> None:
    loop = replace(LOOP, steps=3)
    stage = LipSyncStage(configured(talking_folder, expert, loop=loop))
    before = {k: v.clone() for k, v in stage.network.transform.speech.state_dict().items()}
    unet = stage.network.transform.unet.last.weight.detach().clone()
    Trainer(stage, loop, tmp_path).train(echo=lambda line: None)
    after = stage.network.transform.speech.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not torch.equal(unet, stage.network.transform.unet.last.weight)


def test_hubert_features_are_asked_for_by_name(talking_folder: Any) -> None:
    network = replace(NETWORK, backbone="unet", speech="hubert", speech_width=24, window=10)
    with pytest.raises(TrainingError, match="hears HuBERT"):
        LipSyncStage(configured(talking_folder, None, network=network, sequences=0))


def test_a_network_that_hears_hubert_trains(talking_folder: Any, tmp_path: Path) -> None:
    from transformers import HubertConfig, HubertModel

    torch.manual_seed(0)
    model = HubertModel(
        HubertConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, conv_dim=(16,) * 7,
                     num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2)
    )  # fmt: skip
    model.save_pretrained(tmp_path / "hubert", safe_serialization=True)
    network = replace(NETWORK, backbone="ldm-unet", speech="hubert", speech_width=24, window=10, margin=0)
    loop = replace(LOOP, steps=2, batch=6)
    stage = LipSyncStage(
        configured(talking_folder, None, network=network, loop=loop, sequences=0, pixel=0.0, hubert=tmp_path / "hubert")
    )
    assert stage.batch(0)["speech"].shape == (6, 10, 24)
    Trainer(stage, loop, tmp_path / "run").train(echo=lambda line: None)
    assert (tmp_path / "run" / "export" / "lip_sync.json").is_file()


def test_the_papers_numbers_are_the_paper_preset() -> None:
    config = stage_config(find_stage("lip-sync"), {}, "paper")
    assert (config.loop.learning_rate, config.loop.batch, config.sync, config.code) == (1e-4, 20, 0.3, 1.0)
    assert (config.square, config.probe, config.pixel, config.entropy) == (0, 0, 0, 0)
    assert config.network.backbone == "ldm-unet"


def test_runs_of_frames_take_any_reference_where_all_are_far(talking_folder: Any, expert: Path) -> None:
    """III-C: "different frames of the same video", in the runs that the expert sees as well."""
    loop = replace(LOOP, batch=10)
    looked: list[int] = []
    for far in (0.0, 1.0):
        stage = LipSyncStage(configured(talking_folder, expert, loop=loop, far=far, silent=0.0))
        near = set[int]()
        stage._near = lambda clip, row, random, near=near: near.add(row) or row  # type: ignore[method-assign]
        stage.batch(3)
        looked.append(len(near))
    assert looked[0] == 10 and looked[1] == 0


def test_no_expert_is_named_where_eq_15_wants_one(talking_folder: Any) -> None:
    with pytest.raises(InputMissingError, match="no lip-sync expert") as caught:
        LipSyncStage(configured(talking_folder, None))
    assert "sync=0" in caught.value.hint
    LipSyncStage(configured(talking_folder, None, sync=0.0))


def test_nobody_is_driven_by_their_own_voice(talking_folder: Any, expert: Path) -> None:
    stage = LipSyncStage(configured(talking_folder, expert))
    stage.held_out = [*stage.held_out, *stage.clips[:3]]  # five: five places on is the clip itself
    assert all(clip is not voice for clip, voice in stage.pairs())


def test_runs_and_the_warp_on_every_sample_go_together(talking_folder: Any, expert: Path, tmp_path: Path) -> None:
    loop = replace(LOOP, steps=2, batch=10)
    stage = LipSyncStage(configured(talking_folder, expert, loop=loop, far=1.0, pixel=0.0))
    assert len(stage.batch(0)["lower"]) == 10
    Trainer(stage, loop, tmp_path).train(echo=lambda line: None)
    assert stage.network.warping.offset.weight.abs().sum() > 0
