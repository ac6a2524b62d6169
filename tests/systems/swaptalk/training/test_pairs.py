"""Training pairs: who is drawn, what the truth is, and what is stored."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from talkswap.checkpoints.networks import pack
from talkswap.errors import InputMissingError, TrainingDataError
from talkswap.faces import mesh
from talkswap.faces.geometry import ffhq_affine, transform_points
from talkswap.faces.identity import IdentityConfig, IdentityNetwork, save_identity
from talkswap.systems.swaptalk.training.codes import code_hash, load_vqgan
from talkswap.systems.swaptalk.training.pair_draw import DIFFERENT, SAME, PairConfig, PairDraw
from talkswap.systems.swaptalk.training.pairs import PairCodes, make_pairs
from talkswap.systems.swaptalk.vqgan import VQGAN, VQGANConfig

SIZE = 128
TINY = VQGANConfig(
    size=SIZE, widths=(8, 8, 16), encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1), code_width=16, codes=32,
    encoder_attention=0, decoder_attention=0,
)  # fmt: skip


def folder(path: Path, names: list[str], key: str, seed: int, yaws: list[float] | None = None) -> None:
    path.mkdir(parents=True)
    random = np.random.default_rng(seed)
    crops, landmarks = [], []
    for number in range(len(names)):
        angle = np.radians((yaws or [0.0] * len(names))[number])
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        shape = mesh.mean_face().points + 0.02 * random.standard_normal((1, 3))
        points = (shape @ turn.T * SIZE / 4 + SIZE / 2).astype(np.float32)
        landmarks.append(transform_points(ffhq_affine(points, SIZE), points))
        crops.append(cv2.resize(random.integers(50, 200, (9, 9, 3), np.uint8), (SIZE, SIZE)))
    np.save(path / "crops.npy", np.stack(crops))
    np.save(path / "landmarks.npy", np.stack(landmarks))
    rows = [{"name": f"{path.name}-{k}", key: name} for k, name in enumerate(names)]
    (path / "meta.json").write_text(json.dumps(rows))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder(
        tmp_path / "cache" / "portraits-train", ["ann", "ann", "bo", "", "", ""], "identity", 1, [0, 5, 0, 0, 70, 10]
    )
    folder(tmp_path / "cache" / "frames-train", ["a.mp4", "a.mp4", "a.mp4", "b.mp4", "b.mp4"], "name", 2)
    return tmp_path / "cache"


@pytest.fixture
def weights(tmp_path: Path) -> tuple[Path, Path]:
    torch.manual_seed(0)
    save_file(VQGAN(TINY).state_dict(), tmp_path / "vqgan.safetensors")
    fields = {name: getattr(TINY, name) for name in TINY.__dataclass_fields__}
    (tmp_path / "vqgan.json").write_text(json.dumps(fields))
    identity = IdentityNetwork(IdentityConfig(size=96, widths=(8, 8, 8), blocks=(1, 1, 1), dimension=12)).eval()
    save_identity(identity, tmp_path / "identity")
    return tmp_path / "vqgan.safetensors", tmp_path / "identity"


def test_a_draw_depends_on_its_seed_alone(data: Path) -> None:
    draw = PairDraw(data)
    first, again, other = (draw.draw(np.random.default_rng([0, k])) for k in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first.guide, other.guide)


def test_different_people_get_the_proxy_as_truth(data: Path) -> None:
    draw = PairDraw(data, PairConfig(same=0.0))
    crops = [c for stills in draw.sets for c in stills.crops]
    for seed in range(12):
        pair = draw.draw(np.random.default_rng(seed))
        assert pair.kind == DIFFERENT
        untouched = pair.mask == 0
        assert np.array_equal(pair.result[untouched], pair.target[untouched])
        assert not np.array_equal(pair.result, pair.target)
        source, target = (next(k for k, c in enumerate(crops) if np.array_equal(c, x)) for x in pair[:2])
        assert 4 not in (source, target)  # turned by 70 degrees
        people = ["ann", "ann", "bo", "3", "4", "5", "a", "a", "a", "b", "b"]
        assert people[source] != people[target]


def test_same_person_pairs_hide_the_truth_under_somebody_else(data: Path) -> None:
    draw = PairDraw(data, PairConfig(same=1.0, same_photos=0.5))
    crops = [c for stills in draw.sets for c in stills.crops]
    owner = ["ann", "ann", "bo", "3", "4", "5", "a", "a", "a", "b", "b"]
    seen = set()
    for seed in range(10):
        pair = draw.draw(np.random.default_rng(seed))
        assert pair.kind == SAME
        source, truth = (
            next(k for k, c in enumerate(crops) if np.array_equal(c, x)) for x in (pair.source, pair.result)
        )
        assert source != truth and owner[source] == owner[truth]
        seen.add(owner[truth])
        assert np.abs(pair.target.astype(int) - pair.result).max() > 20  # covered
        assert np.array_equal(pair.target[pair.mask == 0], pair.result[pair.mask == 0])
    assert "ann" in seen and seen & {"a", "b"}


def test_without_disturbance_the_guide_is_the_proxy(data: Path) -> None:
    calm = PairConfig(same=0.0, light=0, colour=0, blur=0, compression=0, jitter=0)
    pair = PairDraw(data, calm).draw(np.random.default_rng(1))
    assert np.array_equal(pair.guide, pair.result)
    rough = PairDraw(data, replace(calm, jitter=2.0)).draw(np.random.default_rng(1))
    assert np.array_equal(rough.result, pair.result) and not np.array_equal(rough.guide, pair.guide)


def test_a_split_without_anybody_compatible_is_an_error(tmp_path: Path) -> None:
    folder(tmp_path / "portraits-train", ["", ""], "identity", 1, [70, 75])
    folder(tmp_path / "frames-train", ["a.mp4", "b.mp4"], "name", 2, [70, 70])
    with pytest.raises(TrainingDataError):
        PairDraw(tmp_path, PairConfig(same=0.0)).draw(np.random.default_rng(0))
    with pytest.raises(TrainingDataError):
        PairDraw(tmp_path, PairConfig(same=0.5))


def test_stored_codes_are_those_of_the_pictures(data: Path, weights: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "pairs"
    make_pairs(data, *weights, out, 5, seed=7)
    stored, network = PairCodes(out), load_vqgan(weights[0])
    assert len(stored) == 5
    stored.check(network)
    rows = stored.rows(np.array([4]))
    pair = PairDraw(data).draw(np.random.default_rng([7, 4]))
    crop = torch.from_numpy(pair.guide).permute(2, 0, 1)[None].float() / 127.5 - 1
    upper, lower = network.encode(crop)
    raw = torch.cat([upper.raw, lower.raw], 2)
    assert (rows["guide_raw"] - raw).abs().mean() < 0.05  # bf16 encoder, 8-bit storage
    nearest = torch.cat([upper.number, lower.number], 1)
    assert (rows["guide_index"] == nearest).float().mean() > 0.9
    assert rows["picture"].shape == (1, 3, 160, 160) and rows["picture"].abs().max() <= 1
    assert rows["mask"].shape == (1, 8, 8) and 0.05 < rows["mask"].mean() < 0.9
    assert rows["source_identity"].norm(dim=1).item() == pytest.approx(1, abs=1e-2)
    assert rows["kind"].item() == pair.kind


def test_weights_stored_in_eight_bits_are_read(weights: tuple[Path, Path], tmp_path: Path) -> None:
    whole = load_vqgan(weights[0]).state_dict()
    save_file(pack(whole), tmp_path / "packed.safetensors")
    (tmp_path / "packed.json").write_text(weights[0].with_suffix(".json").read_text())
    read = load_vqgan(tmp_path / "packed.safetensors").state_dict()
    assert read.keys() == whole.keys()
    assert all((read[k] - whole[k]).abs().max() < 0.02 * whole[k].abs().max() + 1e-3 for k in whole)


def test_codes_of_another_network_are_refused(weights: tuple[Path, Path], tmp_path: Path) -> None:
    network = load_vqgan(weights[0])
    own = code_hash(network)
    with torch.no_grad():
        network.decoder.last.weight.add_(1)
    assert code_hash(network) == own  # a decoder may go on training
    (tmp_path / "pairs.json").write_text(json.dumps({"hash": own, "count": 0}))
    with torch.no_grad():
        network.upper.codes.add_(1)
    assert code_hash(network) != own
    with pytest.raises(TrainingDataError):
        PairCodes(tmp_path / "nothing")
    with pytest.raises(InputMissingError):
        load_vqgan(tmp_path / "none.safetensors")
