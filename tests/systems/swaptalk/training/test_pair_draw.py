"""Which pairs are refused, on pictures where the reason is known; and pairs made through the command."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from talkswap.cli import main
from talkswap.errors import TrainingDataError
from talkswap.faces.expression import gaze
from talkswap.faces.guide import FOREHEAD, FaceGuide
from talkswap.faces.mesh import INNER_LIPS, mean_face
from talkswap.systems.swaptalk.training.codes import load_vqgan
from talkswap.systems.swaptalk.training.pair_draw import DIFFERENT, PairConfig, PairDraw, load_proxy
from talkswap.systems.swaptalk.training.pairs import PairCodes
from talkswap.systems.swaptalk.vqgan import VQGAN, VQGANConfig
from tests.data.conftest import Prepared
from tests.systems.swaptalk.training.test_proxies import write_networks

TINY = VQGANConfig(
    size=320, widths=(8, 8, 16), encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1), code_width=16, codes=32,
    encoder_attention=0, decoder_attention=0,
)  # fmt: skip
SIDE = 160


def stills(folder: Path, crops: list[np.ndarray], landmarks: list[np.ndarray], who: list[str]) -> None:
    folder.mkdir(parents=True)
    np.save(folder / "crops.npy", np.stack(crops))
    np.save(folder / "landmarks.npy", np.stack(landmarks).astype(np.float32))
    rows = [{"name": f"{name}.mp4", "identity": name} for name in who]
    (folder / "meta.json").write_text(json.dumps(rows))


def points() -> np.ndarray:
    return (mean_face().points * SIDE / 4 + np.array([SIDE / 2, SIDE / 2, 0])).astype(np.float32)


def face(skin: tuple[int, int, int], hair: bool = False) -> np.ndarray:
    """An even face of some skin, with grain; bangs cover the forehead of some."""
    random = np.random.default_rng(sum(skin))
    picture = np.clip(np.array(skin) + random.normal(0, 4, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
    if hair:
        hull = cv2.convexHull(points()[list(FOREHEAD), :2].astype(np.int32))
        cv2.fillConvexPoly(picture, hull, (25, 18, 15))
    return picture


@pytest.fixture
def vqgan(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_file(VQGAN(TINY).state_dict(), tmp_path / "vqgan.safetensors")
    (tmp_path / "vqgan.json").write_text(json.dumps(asdict(TINY)))
    return tmp_path / "vqgan.safetensors"


def test_hair_on_a_source_s_forehead_is_refused_and_counted(tmp_path: Path) -> None:
    skins = [(200, 160, 140), (190, 150, 130), (185, 150, 135)]
    crops = [face(skins[0]), face(skins[1], hair=True), face(skins[2])]
    for name in ("portraits", "frames"):
        stills(tmp_path / f"{name}-train", crops, [points()] * 3, ["ann", "bo", "cy"])
    draw = PairDraw(tmp_path, PairConfig(same=0.0))
    assert draw._forehead((0, 1)) < 0.5 < 0.9 < draw._forehead((0, 0))
    for seed in range(12):
        pair = draw.draw(np.random.default_rng(seed))
        assert not np.array_equal(pair.source, crops[1])  # as a target hair is welcome
    assert draw.refused["hair on the source's forehead"] > 0


def test_faces_in_another_light_altogether_are_refused(tmp_path: Path) -> None:
    crops = [face((235, 225, 220)), face((40, 30, 25))]
    for name in ("portraits", "frames"):
        stills(tmp_path / f"{name}-train", crops, [points()] * 2, ["ann", "bo"])
    draw = PairDraw(tmp_path, PairConfig(same=0.0, tries=20))
    with pytest.raises(TrainingDataError, match="no compatible source"):
        draw.draw(np.random.default_rng(0))
    assert draw.refused["light"] > 5


def test_a_swap_that_hardly_covers_the_face_is_refused(tmp_path: Path) -> None:
    crops = [face((200, 160, 140)), face((190, 150, 130))]
    for name in ("portraits", "frames"):
        stills(tmp_path / f"{name}-train", crops, [points()] * 2, ["ann", "bo"])
    draw = PairDraw(tmp_path, PairConfig(same=0.0, covered=1.5, tries=20))
    with pytest.raises(TrainingDataError, match="covers enough"):
        draw.draw(np.random.default_rng(0))
    assert draw.refused == {"little of the face covered": 20}


def test_the_truth_keeps_the_target_s_gaze_mouth_and_surroundings(prepared: Prepared) -> None:
    draw = PairDraw(prepared.out, PairConfig(same=0.0), "train")
    other = PairDraw(prepared.out, PairConfig(same=0.0), "val")
    source, target = other._still((1, 0)), draw._still((1, 2))
    laid = FaceGuide(*source, draw.config.guide).lay(*target)
    inside = np.zeros((320, 320), np.uint8)
    cv2.fillPoly(inside, [cv2.convexHull(target[1][list(INNER_LIPS), :2].astype(np.int32))], 1)
    assert np.array_equal(laid.crop[laid.mask == 0], target[0][laid.mask == 0])
    assert 0.05 < laid.mask.mean() < 0.6
    moved = laid.landmarks - target[1]
    assert 0.2 < np.abs(moved[:468, :2]).max() < 40  # shape is taken over, in part
    assert np.abs(gaze(laid.landmarks) - gaze(target[1])).max() < 0.05
    if inside.sum() > 20:
        ring = list(INNER_LIPS)
        move = (laid.landmarks - target[1])[ring, :2].mean(0)  # teeth and tongue move along with the mouth
        shifted = cv2.warpAffine(target[0], np.array([[1, 0, move[0]], [0, 1, move[1]]]), (320, 320))
        there = np.zeros((320, 320), np.uint8)
        cv2.fillPoly(there, [cv2.convexHull(laid.landmarks[ring, :2].astype(np.int32))], 1)
        there = cv2.erode(there, np.ones((3, 3), np.uint8))
        assert np.abs(laid.crop[there > 0].astype(int) - shifted[there > 0]).mean() < 3


def test_pairs_through_the_command(
    prepared: Prepared, vqgan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = both_people(prepared, tmp_path)
    out = tmp_path / "pairs"
    arguments = ["data", "pairs", "--data", str(data), "--vqgan", str(vqgan), "--count", "3"]
    bangs = [*arguments, "--out", str(out), "--same", "0"]
    assert main(bangs) == TrainingDataError.exit_code  # the example's person has bangs
    assert "hair on the source's forehead" in capsys.readouterr().err
    assert main([*bangs, "--forehead", "0.5"]) == 0
    said = capsys.readouterr()
    summary = json.loads(said.out)
    assert summary["kinds"] == {"different": 3, "same": 0} and "pairs: 3/3" in said.err
    stored = PairCodes(out)
    stored.check(load_vqgan(vqgan))
    assert len(stored) == 3 and stored.meta["refused"] == summary["refused"] and stored.meta["proxy"] == "mesh"
    assert main([*arguments, "--out", str(out), "--proxy", "inswapper"]) == 2
    assert "needs its networks" in capsys.readouterr().err
    assert main([*arguments, "--out", str(out), "--inswapper", str(vqgan)]) == 2
    assert (
        main(["data", "pairs", "--data", str(tmp_path / "no"), "--vqgan", str(vqgan), "--out", "x", "--count", "1"])
        == 3
    )


def both_people(prepared: Prepared, tmp_path: Path) -> Path:
    """A training split with the people of both sides: the example's set has one person on each."""
    for kind in ("frames", "portraits"):
        parts = [prepared.out / f"{kind}-{split}" for split in ("train", "val")]
        folder = tmp_path / "both" / f"{kind}-train"
        folder.mkdir(parents=True)
        for name in ("crops.npy", "landmarks.npy"):
            np.save(folder / name, np.concatenate([np.load(part / name) for part in parts]))
        rows = [row for part in parts for row in json.loads((part / "meta.json").read_text())]
        (folder / "meta.json").write_text(json.dumps(rows))
    return tmp_path / "both"


def test_inswapper_makes_the_truth_where_its_file_is_given(
    prepared: Prepared, vqgan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    swapper, embedder = write_networks(tmp_path)
    data, out = both_people(prepared, tmp_path), tmp_path / "pairs"
    arguments = ["data", "pairs", "--data", str(data), "--vqgan", str(vqgan), "--count", "2", "--out", str(out)]
    arguments += [
        "--proxy",
        "inswapper",
        "--inswapper",
        str(swapper),
        "--arcface",
        str(embedder),
        "--forehead",
        "0.5",
        "--quiet",
    ]
    assert main(arguments) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["proxy"] == "inswapper" and summary["kinds"] == {"different": 2, "same": 0}
    config = PairConfig(same=0.0, source_forehead=0.5)
    plain = PairDraw(data, config)
    swapped = PairDraw(data, config, proxy=load_proxy("inswapper", swapper, embedder))
    ours, theirs = (draw.draw(np.random.default_rng([0, 1])) for draw in (plain, swapped))
    assert np.array_equal(ours.source, theirs.source) and np.array_equal(ours.target, theirs.target)
    assert np.array_equal(ours.guide, theirs.guide)  # what a render lays is the mesh's
    assert not np.array_equal(ours.result, theirs.result) and theirs.kind == DIFFERENT
    outside = np.abs(theirs.result.astype(int) - theirs.target)[theirs.mask == 0]
    assert (
        outside.max() <= 4 and outside.mean() < 0.01
    )  # a swapper's own soft edge fades out below what its mask counts
