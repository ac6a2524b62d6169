"""Stage faces on a tiny prepared folder: views and scenes with true labels, both parts learn and write weights."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from talkswap.data.detection import Scene, SceneConfig, ScenePainter, four_points
from talkswap.data.face_views import FaceViews, StoredFaces, ViewConfig, read_backgrounds, shape_space
from talkswap.errors import TrainingDataError, UsageError
from talkswap.faces.detector import DetectorConfig, face_square, load_detector
from talkswap.faces.guide import LEFT_BROW, RIGHT_BROW
from talkswap.faces.landmarks import LandmarkConfig, load_landmarks
from talkswap.faces.mesh import mean_face
from talkswap.train.loop import Trainer
from talkswap.train.shared.faces import DetectorSettings, FacesStage, FacesStageConfig
from talkswap.train.shared.landmarks import UPPER_LIDS, LandmarkSettings
from talkswap.train.stage import LoopConfig
from talkswap.types import FloatArray, UInt8Image
from tests.train.learning import fixed_figure

EYE = (250, 250, 20)  # colour of the dots drawn at the pupils


def drawn_face(seed: int) -> tuple[UInt8Image, FloatArray]:
    """A 320 px crop with a drawn face and its 478 points: an oval, bright dots at the pupils, a red mouth."""
    generator = np.random.default_rng(seed)
    mean = mean_face()
    points = mean.points + np.tensordot(generator.normal(size=3) * mean.deviations[:3], mean.components[:3], 1)
    points = (points * 72 + np.array([160, 150, 0])).astype(np.float32)
    rgb = np.full((320, 320, 3), generator.integers(0, 120, 3), np.uint8)
    hull = cv2.convexHull(points[:, :2].round().astype(np.int32))
    cv2.fillPoly(rgb, [hull], generator.integers(130, 220, 3).tolist())
    for index in (468, 473):
        cv2.circle(rgb, points[index, :2].round().astype(int).tolist(), 9, EYE, -1)
    cv2.fillPoly(rgb, [cv2.convexHull(points[[61, 0, 291, 17], :2].round().astype(np.int32))], (200, 20, 20))
    return rgb, points


def add_picture(tar: tarfile.TarFile, name: str, rgb: UInt8Image) -> None:
    stored = cv2.imencode(".png", rgb[:, :, ::-1])[1].tobytes()
    entry = tarfile.TarInfo(name)
    entry.size = len(stored)
    tar.addfile(entry, io.BytesIO(stored))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared crops, 60 backgrounds and 50 photographs with one listed face each."""
    root = tmp_path_factory.mktemp("cache")
    for position, name in enumerate(("portraits-train", "frames-train", "portraits-val", "frames-val")):
        folder = root / name
        folder.mkdir()
        faces = [drawn_face(100 * position + i) for i in range(10)]
        np.save(folder / "crops.npy", np.stack([rgb for rgb, _ in faces]))
        np.save(folder / "landmarks.npy", np.stack([points for _, points in faces]))
        (folder / "meta.json").write_text(json.dumps([{"name": f"{name}-{i}.webp"} for i in range(10)]))
    generator = np.random.default_rng(0)
    rows = []
    with tarfile.open(root / "backgrounds.tar", "w") as tar:
        for index in range(60):
            coarse = generator.integers(0, 255, (6, 8, 3), np.uint8)
            add_picture(tar, f"background-{index:03d}.png", cv2.resize(coarse, (160, 120)))
    with tarfile.open(root / "scenes.tar", "w") as tar:
        for index in range(50):
            rgb, points = drawn_face(1000 + index)
            add_picture(tar, f"scene-{index:03d}.png", rgb)
            listed = four_points(points).tolist()
            box = [*points[:, :2].min(0).tolist(), *points[:, :2].max(0).tolist()]
            rows.append({"name": f"scene-{index:03d}.png", "faces": [{"box": box, "points": listed}]})
    (root / "scenes.json").write_text(json.dumps(rows))
    return root


def config(data: Path, part: str, steps: int) -> FacesStageConfig:
    loop = LoopConfig(
        steps=steps,
        batch=8,
        learning_rate=8e-3,
        warmup=5,
        threads=1,
        log_every=10,
        sample_every=1000,
        precision="float32",
    )
    landmarks = LandmarkConfig(size=64, widths=(16, 16, 24, 32), blocks=(1, 1, 1, 1), hidden=48, coefficients=8)
    return FacesStageConfig(
        part=part,
        data=data,
        scenes=data,
        teachers=data / "none",
        loop=loop,
        landmarks=LandmarkSettings(network=landmarks, views=ViewConfig(size=64, careful=0)),
        detector=DetectorSettings(
            network=DetectorConfig(widths=(16, 24, 32)),
            pictures=SceneConfig(size=128, smallest=40, largest=120, most=1),
        ),
    )


def brightest_eyes(view: UInt8Image) -> FloatArray:
    """Middle of all px that have the drawn pupils' colour."""
    near = np.abs(view.astype(int) - EYE).max(2) < 60
    rows, columns = np.nonzero(near)
    return np.array([columns.mean(), rows.mean()], np.float32)


def test_views_carry_their_points_along(data: Path) -> None:
    """Turned, shifted, mirrored: the points stay on the drawn pupils, and left stays left in the picture."""
    faces = StoredFaces(data, ("portraits-train",))
    views = FaceViews(ViewConfig(size=128), faces, read_backgrounds(data), mean_face().mirror)
    generator, checked = np.random.default_rng(0), 0
    for index in range(len(faces)):
        for _ in range(4):
            view, points = views.positive(index, generator)
            assert points[468, 0] < points[473, 0]
            middle = (points[468, :2] + points[473, :2]) / 2
            if (points[[468, 473], :2] > 6).all() and (points[[468, 473], :2] < 121).all():
                found = brightest_eyes(view)
                checked += int(np.abs(found - middle).max() < 2)
    assert checked >= 30  # some pupils are covered on purpose


def test_negatives_show_no_centred_face(data: Path) -> None:
    faces = StoredFaces(data, ("portraits-train",))
    views = FaceViews(ViewConfig(size=128, negatives=1.0), faces, read_backgrounds(data), mean_face().mirror)
    view, points, face = views.draw(np.random.default_rng(0))
    assert view.shape == (128, 128, 3) and view.dtype == np.uint8
    assert not face and not points.any()


def test_shape_space_holds_the_training_shapes(data: Path) -> None:
    faces = StoredFaces(data, ("portraits-train", "frames-train"))
    mean, basis, missing = shape_space(faces, 8)
    assert mean.shape == (478, 3) and basis.shape == (478, 3, 8)
    assert missing < 0.002  # three directions of variation were drawn
    assert abs(float(mean[:, 0].mean())) < 0.05


def test_scenes_label_what_they_paint(data: Path) -> None:
    faces = StoredFaces(data, ("portraits-train",))
    painter = ScenePainter(
        SceneConfig(size=256, smallest=60, largest=200, photographs=0, empty=0, most=1),
        faces,
        [],
        read_backgrounds(data),
    )
    generator = np.random.default_rng(0)
    for index in range(8):
        picture = np.zeros((256, 256, 3), np.uint8)
        points = painter.paste(picture, [], generator, index)
        assert points is not None
        if (points > 4).all() and (points < 252).all():
            assert np.abs(brightest_eyes(picture) - points[:2].mean(0)).max() < 2.5


def test_photographs_keep_their_labels_when_turned(data: Path) -> None:
    rgb, points = drawn_face(7)
    scene = Scene(rgb, four_points(points)[None])
    settings = SceneConfig(size=256, smallest=90, largest=160, photographs=1)
    painter = ScenePainter(settings, StoredFaces(data, ("portraits-train",)), [scene], [])
    generator, checked = np.random.default_rng(0), 0
    for _ in range(12):
        picture, faces, _ = painter._photograph(generator)
        if (faces[0] > 4).all() and (faces[0] < 252).all():
            assert np.abs(brightest_eyes(picture) - faces[0, :2].mean(0)).max() < 2.5
            checked += 1
    assert checked >= 6


def test_landmarks_learn_and_export(data: Path, tmp_path: Path) -> None:
    settings = config(data, "landmarks", 80)
    settings = replace(settings, loop=replace(settings.loop, learning_rate=3e-3))
    stage = FacesStage(settings)
    untrained = fixed_figure(stage, "error")
    scores = Trainer(stage, settings.loop, tmp_path / "run").train(echo=lambda line: None)
    assert fixed_figure(stage, "error") < 0.8 * untrained
    assert scores["portraits_followed"] < scores["portraits_careless"]
    assert cv2.imread(str(tmp_path / "run" / "sample.png")) is not None
    assert load_landmarks(tmp_path / "run" / "export").config == settings.landmarks.network


def test_landmarks_take_up_earlier_weights_and_their_shape_basis(data: Path, tmp_path: Path) -> None:
    settings = config(data, "landmarks", 1)
    first = FacesStage(settings)
    first.export(tmp_path)
    later = FacesStage(replace(settings, landmarks=replace(settings.landmarks, start=tmp_path)))
    kept = first.network.state_dict()
    for key, value in later.network.state_dict().items():
        assert torch.allclose(value.float(), kept[key].float(), atol=2e-3), key
    assert all(p.requires_grad for p in later.network.parameters())


def test_lids_that_lie_wrong_cost_more_than_other_points(data: Path) -> None:
    """The same small error at the upper lids and at the brows."""
    stage = FacesStage(config(data, "landmarks", 1))
    batch = stage.batch(0)

    def cost(points: tuple[int, ...]) -> float:
        wanted = batch["points"].clone()
        moved = wanted.clone()
        moved[:, list(points), 1] += 1.0

        class Answers(torch.nn.Module):
            def forward(self, picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                return moved, torch.zeros(len(moved))

        stage._part.network = Answers()
        return float(stage._part.loss({**batch, "points": wanted}, 0)[0])

    assert cost(UPPER_LIDS) > 2 * cost((*LEFT_BROW[:5], *RIGHT_BROW[:5])) - cost(())


def test_a_folder_of_blinks_gets_its_share_of_the_draws(data: Path) -> None:
    names = ("portraits-train", "frames-train")
    faces = StoredFaces(data, names, {"frames-train": 0.25})
    generator = np.random.default_rng(0)
    drawn = np.array([faces.draw(generator) for _ in range(4000)])
    assert (drawn >= 10).mean() == pytest.approx(0.25, abs=0.03)
    with pytest.raises(ValueError, match="blinks"):
        StoredFaces(data, names, {"blinks-train": 0.3})


def test_detector_learns_and_exports(data: Path, tmp_path: Path) -> None:
    settings = config(data, "detector", 60)
    stage = FacesStage(settings)
    untrained = fixed_figure(stage)
    scores = Trainer(stage, settings.loop, tmp_path / "run").train(echo=lambda line: None)
    assert fixed_figure(stage) < 0.7 * untrained
    assert 0 <= scores["composites_found"] <= 1 and scores["false_alarms"] >= 0
    assert cv2.imread(str(tmp_path / "run" / "sample.png")) is not None
    assert load_detector(tmp_path / "run" / "export").config == settings.detector.network


@pytest.mark.parametrize("part", ["landmarks", "detector"])
def test_batches_depend_on_seed_and_step_only(data: Path, part: str) -> None:
    settings = config(data, part, 5)
    stage, twin = FacesStage(settings), FacesStage(settings)
    other = FacesStage(replace(settings, loop=replace(settings.loop, seed=1)))
    assert all(torch.equal(value, twin.batch(3)[key]) for key, value in stage.batch(3).items())
    assert not torch.equal(stage.batch(3)["picture"], stage.batch(4)["picture"])
    assert not torch.equal(stage.batch(3)["picture"], other.batch(3)["picture"])


def test_square_of_four_points_is_the_landmark_networks(data: Path) -> None:
    _, points = drawn_face(3)
    centre, side = face_square(four_points(points))
    low, high = centre - side / 2, centre + side / 2
    assert (points[:, :2] > low).all() and (points[:, :2] < high).all()


def test_unknown_part_and_missing_data_are_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ears"):
        FacesStage(replace(config(data, "landmarks", 1), part="ears"))
    with pytest.raises(TrainingDataError, match="portraits-train"):
        FacesStage(config(tmp_path, "landmarks", 1))
    with pytest.raises(TrainingDataError, match="backgrounds"):
        FacesStage(replace(config(data, "landmarks", 1), scenes=tmp_path))


@pytest.mark.parametrize("part", ["landmarks", "detector"])
def test_too_few_photographs_are_refused_at_once(data: Path, tmp_path: Path, part: str) -> None:
    generator = np.random.default_rng(0)
    with tarfile.open(tmp_path / "backgrounds.tar", "w") as tar:
        for index in range(50):
            add_picture(tar, f"{index}.png", generator.integers(0, 255, (40, 40, 3), np.uint8))
    for name in ("scenes.tar", "scenes.json"):
        (tmp_path / name).symlink_to(data / name)
    with pytest.raises(TrainingDataError, match="50 backgrounds, of which 50 are held out"):
        FacesStage(replace(config(data, part, 1), scenes=tmp_path))
