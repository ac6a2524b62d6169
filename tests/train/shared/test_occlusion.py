"""Stage occlusion on a tiny prepared folder: composites with true answers, a network that learns them, its weights."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from talkswap.data.covered_faces import CoverConfig, CoveredFaces
from talkswap.data.face_views import StoredFaces, read_backgrounds
from talkswap.data.occluders import HELD, TRAINED, Materials
from talkswap.errors import TrainingDataError
from talkswap.faces.mesh import mean_face
from talkswap.faces.occlusion import OcclusionConfig, load_occlusion
from talkswap.train.loop import Trainer
from talkswap.train.shared.occlusion import OcclusionStage, OcclusionStageConfig
from talkswap.train.stage import LoopConfig
from tests.train.learning import fixed_figure

SKIN, HAIR = (205, 150, 120), (60, 40, 30)
FACES, BACKGROUNDS = 6, 54


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Skin-coloured ovals under dark hair as prepared crops, and 54 backgrounds."""
    root, generator = tmp_path_factory.mktemp("cache"), np.random.default_rng(0)
    points = (mean_face().points * 72 + np.array([160, 150, 0])).astype(np.float32)
    hull = cv2.convexHull(points[:, :2].round().astype(np.int32))
    for name in ("portraits-train", "frames-train", "portraits-val", "frames-val"):
        crops = np.full((FACES, 320, 320, 3), 90, np.uint8)
        for crop in crops:
            crop[:] = generator.integers(60, 120, 3)
            cv2.ellipse(crop, (160, 110), (110, 100), 0, 180, 360, HAIR, -1)
            cv2.fillPoly(crop, [hull], [int(c + generator.integers(-12, 13)) for c in SKIN])
        (root / name).mkdir()
        np.save(root / name / "crops.npy", crops)
        np.save(root / name / "landmarks.npy", np.repeat(points[None], FACES, 0))
    with tarfile.open(root / "backgrounds.tar", "w") as tar:
        for index in range(BACKGROUNDS):
            coarse = cv2.resize(generator.integers(0, 255, (5, 6, 3), np.uint8), (96, 80))
            stored = cv2.imencode(".png", coarse)[1].tobytes()
            entry = tarfile.TarInfo(f"{index:03d}.png")
            entry.size = len(stored)
            tar.addfile(entry, io.BytesIO(stored))
    return root


def makers(data: Path, **settings: float) -> CoveredFaces:
    config = CoverConfig(**settings)  # type: ignore[arg-type]
    faces = StoredFaces(data, ("portraits-train",))
    return CoveredFaces(config, faces, Materials(faces, read_backgrounds(data), config.size), mean_face().mirror)


def config(data: Path, steps: int) -> OcclusionStageConfig:
    loop = LoopConfig(
        steps=steps, batch=8, learning_rate=8e-3, warmup=5, threads=1, log_every=10, sample_every=1000,
        precision="float32", workers=0,
    )  # fmt: skip
    network = OcclusionConfig(size=64, widths=(8, 16, 24))
    return OcclusionStageConfig(data=data, scenes=data, network=network, views=CoverConfig(size=64), loop=loop)


@pytest.mark.parametrize("kind", [*TRAINED, *HELD])
def test_every_thing_covers_what_its_mask_says(data: Path, kind: str) -> None:
    """Where the mask is whole the face is gone, where it is empty the face is as it was."""
    maker = makers(data, shadows=0)
    draw = TRAINED[kind][0] if kind in TRAINED else HELD[kind]
    shares = []
    for seed in range(6):
        generator = np.random.default_rng(seed)
        thing = draw(maker.materials, 0, np.array([64.0, 80.0]), generator)
        assert thing.rgb.shape == (128, 128, 3) and thing.coverage.shape == (128, 128)
        assert thing.coverage.dtype == np.float32 and thing.coverage.min() >= 0 and thing.coverage.max() <= 1
        shares.append(float(thing.coverage.mean()))
        view = maker.cover(0, np.random.default_rng(seed), [draw], degraded=False)
        # the same numbers place the bare face alike
        bare, _ = maker.bare(0, np.random.default_rng(seed))
        far = cv2.dilate(view.covered, np.ones((5, 5))) == 0
        darkened = bare.astype(int)[far] - view.picture.astype(int)[far]
        assert (np.abs(darkened) <= 1).mean() > 0.4 and darkened.min() > -140  # the thing's own shadow may fall there
    assert 0.002 < np.mean(shares) < 0.7


def test_what_counts_is_the_face_without_its_fringe(data: Path) -> None:
    maker = makers(data)
    bare, points = maker.bare(0, np.random.default_rng(0))
    counted = maker.face(bare, points)
    x, y = points[4, :2].round().astype(int)
    assert counted[y, x] == 1 and counted[0, 0] == 0
    brow = int(points[[105, 334], 1].min())
    fringed = bare.copy()
    fringed[: brow - 3] = HAIR
    assert maker.face(fringed, points)[: brow - 3].sum() == 0 < counted[: brow - 3].sum()


def test_a_shadow_hides_nothing(data: Path) -> None:
    maker = makers(data, shadows=1.0)
    views = [maker.cover(0, np.random.default_rng(seed), [], degraded=False) for seed in range(4)]
    assert all(view.covered.max() == 0 for view in views)
    bare = [maker.bare(0, np.random.default_rng(seed))[0] for seed in range(4)]
    assert max(np.abs(v.picture.astype(int) - b).mean() for v, b in zip(views, bare, strict=True)) > 0.5


def test_it_learns_and_exports(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("talkswap.train.shared.occlusion.HELD_VIEWS", 4)
    settings = config(data, 50)
    stage = OcclusionStage(settings)
    untrained = fixed_figure(stage, "entropy")
    scores = Trainer(stage, settings.loop, tmp_path / "run").train(echo=lambda line: None)
    assert fixed_figure(stage, "entropy") < 0.85 * untrained
    assert {*TRAINED, *HELD, "overlap", "overlap_new_shapes", "portraits_false", "frames_false"} <= scores.keys()
    assert all(0 <= value <= 1 for value in scores.values()) and scores["portraits_false"] < 0.5
    assert cv2.imread(str(tmp_path / "run" / "sample.png")) is not None
    assert load_occlusion(tmp_path / "run" / "export").config == settings.network


def test_batches_depend_on_seed_and_step_only(data: Path) -> None:
    settings = config(data, 5)
    stage, twin = OcclusionStage(settings), OcclusionStage(settings)
    other = OcclusionStage(replace(settings, loop=replace(settings.loop, seed=1)))
    batch = stage.batch(3)
    assert batch["picture"].shape == (8, 3, 64, 64) and batch["covered"].shape == batch["counted"].shape == (8, 32, 32)
    assert all(torch.equal(value, twin.batch(3)[key]) for key, value in batch.items())
    assert not torch.equal(batch["picture"], stage.batch(4)["picture"])
    assert not torch.equal(batch["picture"], other.batch(3)["picture"])


def test_spots_outside_of_the_face_do_not_count(data: Path) -> None:
    stage = OcclusionStage(config(data, 1))
    batch = stage.batch(0)
    before, _ = stage.loss(batch, 0)
    flipped = torch.where(batch["counted"] == 0, 1 - batch["covered"], batch["covered"])
    after, _ = stage.loss({**batch, "covered": flipped}, 0)
    assert float(before.detach()) == pytest.approx(float(after.detach()), rel=1e-6)


def test_missing_data_are_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="backgrounds"):
        OcclusionStage(replace(config(data, 1), scenes=tmp_path))
    with pytest.raises(TrainingDataError, match="portraits-train"):
        OcclusionStage(replace(config(data, 1), data=tmp_path))
