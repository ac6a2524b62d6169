"""Stage face-swap: it learns on the loop, its terms switch, and what it exports loads again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from talkswap.errors import InputMissingError, TrainingDataError
from talkswap.faces import mesh
from talkswap.faces.geometry import ffhq_affine, transform_points
from talkswap.faces.identity import IdentityConfig, IdentityNetwork, save_identity
from talkswap.systems.swaptalk.face_swap import FaceSwap, FaceSwapConfig
from talkswap.systems.swaptalk.training.face_swap import FaceSwapStage, FaceSwapStageConfig
from talkswap.systems.swaptalk.training.pair_draw import PairConfig
from talkswap.systems.swaptalk.training.pairs import make_pairs
from talkswap.systems.swaptalk.vqgan import VQGAN, VQGANConfig
from talkswap.train.loop import Trainer
from talkswap.train.stage import LoopConfig
from tests.train.learning import fixed_figure

SIZE = 128
VQ = VQGANConfig(
    size=SIZE, widths=(8, 8, 16), encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1), code_width=16, codes=32,
    encoder_attention=0, decoder_attention=0,
)  # fmt: skip

SWAP = FaceSwapConfig(grid=8, code_width=16, width=24, blocks=1, heads=2, identity=12)


def faces(path: Path, names: list[str], key: str, seed: int) -> None:
    path.mkdir(parents=True)
    random = np.random.default_rng(seed)
    points = (mesh.mean_face().points * SIZE / 4 + SIZE / 2).astype(np.float32)
    points = transform_points(ffhq_affine(points, SIZE), points)
    crops = [cv2.resize(random.integers(50, 200, (9, 9, 3), np.uint8), (SIZE, SIZE)) for _ in names]
    np.save(path / "crops.npy", np.stack(crops))
    np.save(path / "landmarks.npy", np.stack([points] * len(names)))
    (path / "meta.json").write_text(json.dumps([{"name": f"{path.name}-{k}", key: n} for k, n in enumerate(names)]))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> FaceSwapStageConfig:
    """Prepared folders, tiny frozen networks and eight stored pairs; the config that trains on them."""
    root = tmp_path_factory.mktemp("face-swap")
    for split in ("train", "val"):
        faces(root / "cache" / f"portraits-{split}", ["ann", "ann", "bo", ""], "identity", 1)
        faces(root / "cache" / f"frames-{split}", ["a.mp4", "a.mp4", "b.mp4"], "name", 2)
    torch.manual_seed(0)
    save_file(VQGAN(VQ).state_dict(), root / "vqgan.safetensors")
    (root / "vqgan.json").write_text(json.dumps({name: getattr(VQ, name) for name in VQ.__dataclass_fields__}))
    save_identity(
        IdentityNetwork(IdentityConfig(size=96, widths=(8, 8, 8), blocks=(1, 1, 1), dimension=12)), root / "identity"
    )
    make_pairs(
        root / "cache", root / "vqgan.safetensors", root / "identity", root / "pairs", 8, config=PairConfig(picture=64)
    )
    return FaceSwapStageConfig(
        data=root / "cache",
        pairs=root / "pairs",
        vqgan=root / "vqgan.safetensors",
        identity_network=root / "identity",
        network=SWAP,
        code=1.0,
        loop=LoopConfig(steps=30, batch=4, learning_rate=3e-3, warmup=2, log_every=10, precision="float32", ema=0.5),
        validation=2,
    )


def test_it_learns_and_exports_what_loads_again(made: FaceSwapStageConfig, tmp_path: Path) -> None:
    config = replace(
        made, identity_source=0.0, identity_result=0.0, pixel=0.0, gradient=0.0, loop=replace(made.loop, steps=60)
    )
    stage = FaceSwapStage(config)
    guide = fixed_figure(stage, "code-guide")
    assert fixed_figure(stage, "code") > guide
    scores = Trainer(stage, config.loop, tmp_path / "run").train(lambda line: None)
    assert fixed_figure(stage, "code") < 0.985 * guide, "nearer to the truth than what it was given"
    assert {"code", "made-to-source", "made-to-target", "made-nearer", "proxy-to-source"} <= set(scores)
    assert all(np.isfinite(v) for v in scores.values())
    sheet = cv2.imread(str(tmp_path / "run" / "sample.png"))
    assert sheet is not None and sheet.shape == (2 * SIZE, 6 * SIZE, 3)
    settings = json.loads((tmp_path / "run" / "export" / "face_swap.json").read_text())
    again = FaceSwap(FaceSwapConfig(**settings))
    stored = load_file(tmp_path / "run" / "export" / "face_swap.safetensors")
    assert all(value.dtype == torch.float16 for value in stored.values())
    again.load_state_dict({k: v.float() for k, v in stored.items()})
    assert settings["grid"] == 8


def test_each_term_can_be_switched(made: FaceSwapStageConfig) -> None:
    off = replace(made, identity_source=0.0, identity_result=0.0, pixel=0.0, gradient=0.0)
    stage = FaceSwapStage(off)
    batch = stage.batch(0)
    plain, logs = stage.loss(batch, 0)
    assert set(logs) == {"code", "code-guide"} and plain.item() == pytest.approx(float(logs["code"]))
    for field, name in (
        ("identity_source", "identity-source"),
        ("identity_result", "identity-result"),
        ("pixel", "pixel"),
        ("gradient", "edges"),
        ("cross_entropy", "cross-entropy"),
    ):
        stage = FaceSwapStage(replace(off, **{field: 2.0}))
        value, logs = stage.loss(batch, 0)
        assert float(logs[name]) > 0
        assert value.item() == pytest.approx(plain.item() + 2 * float(logs[name]), rel=1e-3)


def test_the_identity_terms_of_eq_9(made: FaceSwapStageConfig) -> None:
    """L1 on features as long as ArcFace's in the paper preset, 1 - cosine in compact."""
    off = replace(made, identity_source=1.0, identity_result=0.0, pixel=0.0, gradient=0.0, code=0.0)
    found = {}
    for paper in (False, True):
        stage = FaceSwapStage(replace(off, identity_l1=paper))
        stage.frozen.eval()
        batch = stage.batch(0)
        found[paper] = stage.loss(batch, 0)[0].item()
        latents = stage._latents(batch)
        swapped = stage.network(latents["source"], latents["target"], latents["guide"], batch["source_identity"])
        assert stage.identity is not None
        got, wanted = stage.identity(stage.vqgan.decode(swapped)), batch["source_identity"]
        wanted = torch.nn.functional.normalize(wanted, dim=1)
        expected = (12**0.5 * (got - wanted)).abs().mean() if paper else 1 - (got * wanted).sum(1).mean()
        assert found[paper] == pytest.approx(expected.item(), rel=1e-3)
    assert found[True] > found[False]


def test_held_out_pairs_keep_the_limits_of_the_stored_ones(made: FaceSwapStageConfig, tmp_path: Path) -> None:
    """And what cannot be scored is refused before the first step, not after the last one."""
    shutil.copytree(made.pairs, tmp_path / "pairs")
    described = json.loads((tmp_path / "pairs" / "pairs.json").read_text())
    described["config"]["source_forehead"] = 2.0  # more than all of it
    (tmp_path / "pairs" / "pairs.json").write_text(json.dumps(described))
    with pytest.raises(TrainingDataError, match="hair on the source's forehead"):
        FaceSwapStage(replace(made, pairs=tmp_path / "pairs"))


def test_the_code_term_is_zero_where_the_truth_is_given(made: FaceSwapStageConfig) -> None:
    stage = FaceSwapStage(replace(made, decoded_share=0.0, quantized=0.0))
    torch.nn.init.constant_(stage.network.backbone.gate.bias, 50.0)  # type: ignore[union-attr, arg-type]
    batch = stage.batch(0)
    batch["guide_raw"] = batch["result_raw"].clone()
    batch["target_raw"] = batch["result_raw"].clone()
    loss, _ = stage.loss(batch, 0)
    assert loss.item() < 1e-4
    batch["target_raw"] = -batch["result_raw"]
    assert stage.loss(batch, 0)[0].item() > 1e-3  # the cells beyond the face's cover are the target's


def test_batches_follow_the_store_and_then_the_seed(made: FaceSwapStageConfig) -> None:
    stage = FaceSwapStage(made)
    first = torch.cat([stage.batch(k)["result_index"] for k in range(2)])
    stored = np.load(made.pairs / "result_index.npy").astype(np.int64)
    assert np.array_equal(first.numpy(), stored)
    assert torch.equal(stage.batch(9)["result_index"], stage.batch(9)["result_index"])


def test_a_store_that_stands_still_is_an_error(made: FaceSwapStageConfig) -> None:
    stage = FaceSwapStage(replace(made, patience=0.0))
    done = made.pairs / "done"
    try:
        done.write_text("3")
        with pytest.raises(TrainingDataError, match="3 of 8"):
            stage.batch(0)
    finally:
        done.write_text("8")


def test_another_vqgan_or_no_identity_network_is_refused(made: FaceSwapStageConfig, tmp_path: Path) -> None:
    torch.manual_seed(9)
    save_file(VQGAN(VQ).state_dict(), tmp_path / "vqgan.safetensors")
    (tmp_path / "vqgan.json").write_text((made.vqgan.with_suffix(".json")).read_text())
    with pytest.raises(TrainingDataError, match="another VQGAN"):
        FaceSwapStage(replace(made, vqgan=tmp_path / "vqgan.safetensors"))
    with pytest.raises(InputMissingError):
        FaceSwapStage(replace(made, identity_network=None))
