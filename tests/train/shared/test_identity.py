"""Stage identity on a tiny prepared folder: reproducible batches, learning, scores, and weights that load."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from talkswap.data.identity import blend_people, label_folder, verification
from talkswap.errors import TrainingDataError
from talkswap.faces.identity import IdentityConfig, load_identity
from talkswap.faces.mesh import mean_face
from talkswap.train.loop import Trainer
from talkswap.train.shared.identity import IdentityStage, IdentityStageConfig
from talkswap.train.stage import LoopConfig
from talkswap.types import FloatArray, UInt8Image
from tests.train.learning import fixed_figure

SMALL = IdentityConfig(size=64, widths=(16, 24, 32), blocks=(1, 1, 1), dimension=256)


def landmarks() -> FloatArray:
    return (mean_face().points * 70 + np.array([160, 152, 0])).astype(np.float32)


def person(seed: int) -> UInt8Image:
    """An FFHQ crop of a drawn face; colours and features belong to the person."""
    generator = np.random.default_rng(seed)
    rgb = np.full((320, 320, 3), generator.integers(0, 255, 3), np.uint8)
    cv2.ellipse(rgb, (160, 190), (95, 120), 0, 0, 360, generator.integers(60, 255, 3).tolist(), -1)
    for x in (125, 195):
        cv2.circle(rgb, (x, 152), int(generator.integers(8, 20)), generator.integers(0, 255, 3).tolist(), -1)
    cv2.ellipse(rgb, (160, 233), (36, 12), 0, 0, 360, generator.integers(0, 255, 3).tolist(), -1)
    return rgb


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six drawn people for training, four for validation, seen twice each; labels are fixed random directions."""
    root = tmp_path_factory.mktemp("cache")
    generator = np.random.default_rng(0)
    for name, people in (("portraits-train", 6), ("frames-train", 6), ("portraits-val", 4), ("frames-val", 4)):
        folder = root / name
        folder.mkdir()
        first = 100 if name.endswith("val") else 0
        seeds = [first + i for i in range(people)] * 2
        np.save(folder / "crops.npy", np.stack([person(seed) for seed in seeds]))
        np.save(folder / "landmarks.npy", np.stack([landmarks()] * len(seeds)))
        rows = [{"name": f"{i}.webp", "identity": f"person {seed}"} for i, seed in enumerate(seeds)]
        (folder / "meta.json").write_text(json.dumps(rows))
        vectors = np.repeat(generator.normal(size=(people, 1, 256)), 2, 1)
        labels = np.concatenate([vectors, vectors]).astype(np.float32)
        np.save(root / f"identity-{name}.npy", labels / np.linalg.norm(labels, axis=2, keepdims=True))
    return root


def config(data: Path, steps: int = 40) -> IdentityStageConfig:
    loop = LoopConfig(
        steps=steps,
        batch=8,
        learning_rate=3e-3,
        warmup=5,
        threads=1,
        log_every=10,
        sample_every=1000,
        precision="float32",
    )
    return IdentityStageConfig(data=data, teachers=data / "none", network=SMALL, loop=loop, blend_sets=0)


def test_batches_depend_on_seed_and_step_only(data: Path) -> None:
    first, second = IdentityStage(config(data)), IdentityStage(config(data))
    a, b = first.batch(7), second.batch(7)
    assert a["square"].shape == (8, 3, 64, 64) and a["target"].shape == (8, 256)
    assert a["square"].min() >= -1 and a["square"].max() <= 1
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["square"], first.batch(8)["square"])


def test_loss_is_zero_where_the_answers_are_the_teachers(data: Path) -> None:
    stage = IdentityStage(config(data))
    stage.network.eval()
    batch = stage.batch(0)
    with torch.no_grad():
        batch["target"] = stage.network.embed_square(batch["square"])
        loss, logs = stage.loss(batch, 0)
    assert float(loss) == pytest.approx(0, abs=1e-5) and float(logs["cosine"]) == pytest.approx(1, abs=1e-5)


def test_training_learns_and_exports(data: Path, tmp_path: Path) -> None:
    stage = IdentityStage(config(data))
    untrained = fixed_figure(stage, "cosine")
    scores = Trainer(stage, config(data).loop, tmp_path / "run").train(echo=lambda line: None)
    assert fixed_figure(stage, "cosine") > untrained + 0.1
    assert 0 <= scores["portraits_auc"] <= 1 and scores["portraits_teacher_auc"] == 1
    assert cv2.imread(str(tmp_path / "run" / "sample.png")) is not None
    network = load_identity(tmp_path / "run" / "export")
    assert network.config == SMALL
    assert torch.isfinite(network(torch.zeros(1, 3, 320, 320))).all()


def test_missing_and_foreign_data_are_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="portraits-train"):
        IdentityStage(config(tmp_path))
    np.save(tmp_path / "labels.npy", np.zeros((3, 2, 256), np.float32))
    with pytest.raises(TrainingDataError, match="3 labels for 12 crops"):
        label_folder(data / "portraits-train", tmp_path / "teacher.onnx", tmp_path / "labels.npy")


def test_a_blend_has_something_of_both() -> None:
    a, b = person(1), person(2)
    blend = blend_people(a, b, np.random.default_rng(5))
    assert blend.shape == a.shape and blend.dtype == np.uint8
    assert not np.array_equal(blend, a) and not np.array_equal(blend, b)


def test_verification_counts_pairs() -> None:
    """Three vectors: the pair of one person is nearer than one of the two others, farther than the other."""
    vectors = np.array([[1, 0], [0.8, 0.6], [0.9, np.sqrt(1 - 0.81)]], np.float32)
    scores = verification(vectors, ["a", "a", "b"])
    assert scores["auc"] == 0.0 and scores["same"] == pytest.approx(0.8)
    assert verification(vectors, ["a", "b", "a"])["auc"] == pytest.approx(0.5)
    with pytest.raises(TrainingDataError):
        verification(vectors, ["a", "b", "c"])
