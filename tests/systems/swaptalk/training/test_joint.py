"""The joint stage on a tiny data set: what it draws, what it may change, and that gradients reach the mouth."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from talkswap.errors import TrainingDataError
from talkswap.faces.landmarks import LandmarkConfig, LandmarkNetwork, save_landmarks
from talkswap.faces.measures import MOUTH_SPREAD, mouth_shape
from talkswap.systems.swaptalk.lip_sync import LipSync, LipSyncConfig
from talkswap.systems.swaptalk.training.joint import JointStage
from talkswap.systems.swaptalk.training.joint_rows import (
    JointStageConfig,
    landmark_squares,
    mouth_measures,
    open_talking_stills,
    read_points,
    sharpness,
)
from talkswap.systems.swaptalk.vqgan import VQGAN, VQGANConfig
from talkswap.train.loop import Trainer
from talkswap.train.stage import LoopConfig
from talkswap.voice.mel import SILENCE

NETWORK = LipSyncConfig(
    code_width=16, grid=4, widths=(16, 16, 16, 16), blocks=(1, 1, 1, 1), heads=2, margin=0,
    encoder_width=16, dilations=(1, 2), window=33, warp_width=8,
)  # fmt: skip
LOOP = LoopConfig(steps=4, batch=4, learning_rate=1e-3, warmup=1, ema=0.5, precision="float32", threads=1, log_every=1)


def write_stills(folder: Path, points: np.ndarray, meta: list[dict[str, Any]], seed: int) -> None:
    """Crops of 64 px with a dark mouth as high as the landmarks say."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    crops = random.integers(90, 160, (len(points), 64, 64, 3)).astype(np.uint8)
    np.save(folder / "crops.npy", crops)
    np.save(folder / "landmarks.npy", points)
    (folder / "meta.json").write_text(json.dumps(meta))


@pytest.fixture(scope="module")
def config(talking_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> JointStageConfig:
    folder = tmp_path_factory.mktemp("joint")
    data = folder / "cache"
    data.mkdir()
    for split in ("train", "val"):
        (data / f"clips-{split}").symlink_to(talking_folder.data / f"clips-{split}")
        points, meta = [], []
        for file in sorted((data / f"clips-{split}").glob("*.npz")):
            with np.load(file) as stored:
                frames = range(0, len(stored["times"]), 5)
                points += [(stored["landmarks"][i] - 64) * 0.4 + 32 for i in frames]
                meta += [{"name": f"{file.stem}.mp4", "frame": i} for i in frames]
        write_stills(data / f"frames-{split}", np.stack(points).astype(np.float32), meta, 1)
        write_stills(data / f"portraits-{split}", np.stack(points[:6]).astype(np.float32), [{"name": "p"}] * 6, 2)
    torch.manual_seed(0)
    save_file({k: v.contiguous() for k, v in LipSync(NETWORK).state_dict().items()}, folder / "lip_sync.safetensors")
    landmarks = LandmarkNetwork(LandmarkConfig(size=32, widths=(8, 8, 8), blocks=(1, 1, 1), hidden=16, coefficients=4))
    mean = np.random.default_rng(0).normal(0, 0.2, (478, 3))
    landmarks.set_basis(mean.astype(np.float32), np.random.default_rng(1).normal(0, 0.02, (478, 3, 4)))
    torch.nn.init.normal_(landmarks.head.weight, std=0.3)
    save_landmarks(landmarks, folder / "landmarks")
    return JointStageConfig(
        data=data, vqgan=talking_folder.vqgan, lip_sync=folder / "lip_sync.safetensors",
        landmark_network=folder / "landmarks", network=NETWORK, loop=LOOP, driven=1, spoken=2, adversarial_start=1,
        focus=48, mouth_side=32, validation=8,
    )  # fmt: skip


def test_only_decoder_and_transform_learn_and_both_are_exported(config: JointStageConfig, tmp_path: Path) -> None:
    stage = JointStage(config)
    before = {k: v.clone() for k, v in stage.network.state_dict().items()}
    scores = Trainer(stage, LOOP, tmp_path).train(echo=lambda line: None)
    changed = {k for k, v in stage.network.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and all(k.startswith(("vqgan.decoder.", "lip_sync.transform.unet.")) for k in changed)
    assert any(k.startswith("vqgan.decoder.") for k in changed) and any(k.startswith("lip_sync.") for k in changed)
    assert {"psnr", "sharpness", "pearson", "pearson-own", "mouth-sharpness"} <= set(scores)
    assert all(np.isfinite(value) for value in scores.values())
    stored = json.loads((tmp_path / "export" / "vqgan.json").read_text())
    vqgan = VQGAN(VQGANConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}))
    vqgan.load_state_dict(load_file(tmp_path / "export" / "vqgan.safetensors"))
    lip_sync = LipSync(NETWORK)
    lip_sync.load_state_dict(load_file(tmp_path / "export" / "lip_sync.safetensors"))
    assert json.loads((tmp_path / "export" / "lip_sync.json").read_text())["grid"] == asdict(NETWORK)["grid"]
    assert (tmp_path / "sample.png").stat().st_size > 1000


def test_rows_are_driven_then_spoken_then_plain(config: JointStageConfig) -> None:
    stage = JointStage(replace(config, silent=0.5, loop=replace(LOOP, batch=8), spoken=6))
    batch = stage.batch(3)
    assert len(batch["crop"]) == 8 and len(batch["reference"]) == len(batch["request"]) == 7 and len(batch["kind"]) == 1
    assert torch.equal(batch["request"][0], batch["own"][0]), "a driven row asks for the mouth that it shows"
    assert not torch.equal(batch["reference"][0], batch["crop"][0])
    assert torch.equal(batch["reference"][1:], batch["crop"][1:7]), "a spoken row starts from itself, as a render does"
    silent = (batch["speech"] == SILENCE).all(2).all(1)
    assert silent.any() and not silent.all() and not silent[0]
    assert batch["request"][silent, 0].max() < batch["request"][~silent, 0].max()
    assert not (batch["from_speech"] & silent).any() and not batch["from_speech"][0]
    again = stage.batch(3)
    assert all(torch.equal(batch[key], again[key]) for key in batch)


def test_the_reader_s_gradient_reaches_the_transform(config: JointStageConfig) -> None:
    stage = JointStage(
        replace(config, keep=0.0, pixel=0.0, gradient=0.0, code=0.0, hue=0.0, points=0.0, adversarial_start=100)
    )
    loss, logs = stage.loss(stage.batch(0), 0)
    loss.backward()
    assert float(logs["landmark"]) > 0
    assert stage.network.lip_sync.transform.unet.last.weight.grad is not None
    assert float(stage.network.lip_sync.transform.unet.last.weight.grad.abs().sum()) > 0
    assert all(p.grad is None for p in stage.network.vqgan.encoder.parameters())


def test_measures_are_those_of_the_labels() -> None:
    points = np.random.default_rng(0).normal(0, 30, (5, 478, 3)).astype(np.float32)
    made = mouth_measures(torch.from_numpy(points)).numpy()
    true = mouth_shape(points)
    assert made[:, 0] == pytest.approx(true[:, 0], abs=1e-3)
    # the labels of the others are told from the clip's median
    assert made[:, 1:] - np.median(made[:, 1:], 0) == pytest.approx(true[:, 1:], abs=1e-3)
    assert made.shape == (5, len(MOUTH_SPREAD))


def test_the_reader_looks_where_the_landmark_reader_does(config: JointStageConfig) -> None:
    """A smooth picture, cut by grid_sample, against the same square cut by OpenCV."""
    import cv2

    from talkswap.faces.landmarks import affine_from_landmarks, cut_square

    talking = open_talking_stills(config.data, "train", None, {}, 33)
    x, y = np.meshgrid(np.arange(64), np.arange(64))
    smooth = np.stack([x * 3, y * 3, x + y], 2).astype(np.uint8)

    class Looking(torch.nn.Module):
        config = LandmarkConfig(size=32)

        def forward(self, square: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return square, square[:, 0, 0, 0]

    squares = landmark_squares(talking.faces([0]), 64, 32)
    crop = torch.from_numpy(smooth).permute(2, 0, 1)[None].float() / 127.5 - 1
    seen = ((read_points(Looking(), crop, squares)[0] + 1) * 127.5).permute(1, 2, 0).numpy()  # type: ignore[arg-type]
    affine = affine_from_landmarks(np.asarray(talking.stills.landmarks[0]), 32)
    wanted = cut_square(smooth, affine, 32)
    inside = cv2.erode((wanted.sum(2) > 0).astype(np.uint8), np.ones((5, 5))) > 0
    assert inside.sum() > 100
    assert np.abs(seen - wanted)[inside].mean() < 3


def test_a_still_without_its_clip_is_named(config: JointStageConfig, tmp_path: Path) -> None:
    (tmp_path / "clips-train").symlink_to(config.data / "clips-val")
    (tmp_path / "frames-train").symlink_to(config.data / "frames-train")
    with pytest.raises(TrainingDataError, match="belongs to no clip"):
        open_talking_stills(tmp_path, "train", None, {}, 33)


def test_sharpness_falls_with_blur() -> None:
    import cv2

    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    assert sharpness(np.asarray(cv2.GaussianBlur(noise, (0, 0), 2), np.uint8)) < 0.2 * sharpness(noise)
