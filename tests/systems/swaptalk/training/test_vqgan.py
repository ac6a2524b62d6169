"""Stage vqgan through the real entry point: learns, goes on, tunes the decoder against a discriminator, exports."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from talkswap.errors import InputMissingError, TrainingDataError, TrainingError
from talkswap.faces.identity import IdentityConfig, IdentityNetwork, save_identity
from talkswap.faces.mesh import mean_face
from talkswap.systems.swaptalk.training.vqgan import PRESETS, VQGANStage, VQGANStageConfig
from talkswap.systems.swaptalk.vqgan import VQGAN, VQGANConfig
from talkswap.train.loop import Trainer
from talkswap.train.losses import LEVELS, TAPPED, load_perceptual, perceptual_loss
from talkswap.train.stage import LoopConfig, to_pictures, to_tensor
from tests.train.learning import fixed_figure

TINY = VQGANConfig(
    size=320, widths=(8, 8, 16), encoder_blocks=(0, 0, 1), decoder_blocks=(1, 0, 0), code_width=16, codes=64,
    encoder_attention=0, decoder_attention=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared folders with drawn faces."""
    root = tmp_path_factory.mktemp("cache")
    random = np.random.default_rng(0)
    for name in ("portraits-train", "frames-train", "portraits-val", "frames-val"):
        folder = root / name
        folder.mkdir()
        crops = np.zeros((6, 320, 320, 3), np.uint8)
        for crop in crops:
            crop[:] = random.integers(0, 256, 3)
            cv2.ellipse(crop, (160, 180), (90, 120), 0, 0, 360, random.integers(0, 256, 3).tolist(), -1)
        np.save(folder / "crops.npy", crops)
        points = (mean_face().points * 70 + np.array([160, 152, 0])).astype(np.float32)
        np.save(folder / "landmarks.npy", np.stack([points] * 6))
        (folder / "meta.json").write_text(json.dumps([{"name": str(i)} for i in range(6)]))
    return root


def settings(data: Path, **changes: object) -> VQGANStageConfig:
    loop = LoopConfig(
        steps=60, batch=2, learning_rate=3e-3, warmup=2, ema=0.8, log_every=1, sample_every=1000, precision="float32"
    )
    return replace(VQGANStageConfig(data=data, network=TINY, loop=loop, size=64, continuous=6, validation=4), **changes)  # type: ignore[arg-type]


def curve(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "curve.jsonl").read_text().splitlines()]


def perceptual_file(path: Path) -> Path:
    """A random network in the file format of the perceptual loss."""
    torch.manual_seed(0)
    weights, before = {"conv0.weight": torch.eye(3)[:, :, None, None], "conv0.bias": torch.zeros(3)}, 3
    for level, names in enumerate(LEVELS):
        for name in names:
            width = 4 * (level + 1)
            weights[f"conv{name}.weight"] = torch.randn(width, before, 3, 3) / (3 * before**0.5)
            weights[f"conv{name}.bias"] = torch.zeros(width)
            before = width
    save_file(weights, path)
    return path


def test_it_learns_and_exports_what_a_render_loads(data: Path, tmp_path: Path) -> None:
    config = settings(data)
    stage = VQGANStage(config)
    untrained = fixed_figure(stage, "pixel")
    scores = Trainer(stage, config.loop, tmp_path).train(echo=lambda line: None)
    assert fixed_figure(stage, "pixel") < 0.96 * untrained
    assert scores["psnr-portraits-val"] > 5 and curve(tmp_path)[-1]["used"] > 0
    network = VQGAN(VQGANConfig(**{**json.loads((tmp_path / "export/vqgan.json").read_text()), "widths": (8, 8, 16)}))
    network.load_state_dict({k: v.float() for k, v in load_file(tmp_path / "export/vqgan.safetensors").items()})
    assert cv2.imread(str(tmp_path / "sample.png")).shape == (256, 384, 3)
    assert (tmp_path / "curve.png").exists() and json.loads((tmp_path / "scores.json").read_text()) == scores


def test_the_codes_start_at_what_the_encoder_says(data: Path) -> None:
    config = settings(data, network=replace(TINY, codes=64))
    stage = VQGANStage(config)
    before = stage.network.lower.codes.clone()
    trainer = Trainer(stage, config.loop, Path("unused"))
    for _ in range(6):
        trainer.take_step([stage.batch(trainer.step)])
    changed = (stage.network.lower.codes != before).any(1)
    assert changed.float().mean() > 0.05
    torch.testing.assert_close(stage.network.lower.codes.norm(dim=1), torch.full((64,), 4.0))


def test_the_decoder_is_tuned_alone_and_sharpened(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    start = tmp_path / "start.safetensors"
    save_file(VQGAN(TINY).state_dict(), start)
    config = settings(
        data, start=start, decoder_only=True, unquantized=0.5, perceptual=0.1, focus=48,
        perceptual_network=perceptual_file(tmp_path / "p.safetensors"), adversarial=0.3, adversarial_balance=True,
        adversarial_start=3,
    )  # fmt: skip
    config = replace(config, loop=replace(config.loop, steps=6))
    Trainer(VQGANStage(config), config.loop, tmp_path / "run").train(echo=lambda line: None)
    old, new = load_file(start), load_file(tmp_path / "run/checkpoint/network-00001.safetensors")
    for name in old:
        assert torch.equal(old[name], new[name]) == (not name.startswith("decoder.")), name
    rows = curve(tmp_path / "run")
    assert "adversarial" not in rows[2] and {"adversarial", "discriminator", "perceptual"} <= rows[3].keys()


def test_a_balanced_term_pulls_as_hard_as_its_weight_says(data: Path) -> None:
    """With weight w the picture's gradient is close + w |close| sharp/|sharp|: its length grows by less than w."""
    config = settings(data, adversarial=0.5, adversarial_balance=True, focus=0, commitment=0.0)
    stage = VQGANStage(config)
    batch = stage.batch(0)
    norms = []
    for weight in (0.0, 0.5):
        stage.config = replace(config, adversarial=weight, continuous=10**6)
        torch.manual_seed(0)
        loss, _ = stage.loss(batch, 10_000)
        grads = torch.autograd.grad(loss, list(stage.network.decoder.parameters()))
        norms.append(torch.cat([g.flatten() for g in grads]))
    assert 0.01 < float((norms[1] - norms[0]).norm() / norms[0].norm()) < 2.0


def test_batches_depend_on_seed_and_step_only(data: Path) -> None:
    one, two = VQGANStage(settings(data)), VQGANStage(settings(data))
    assert torch.equal(one.batch(5)["crop"], two.batch(5)["crop"])
    assert not torch.equal(one.batch(5)["crop"], one.batch(6)["crop"])
    batch = one.batch(5)
    assert batch["crop"].shape == (2, 3, 64, 64) and batch["weight"].shape == (2, 1, 64, 64)
    assert batch["weight"][:, :, 20:30, 25:40].mean() > batch["weight"][:, :, :6, :6].mean(), "the face counts more"


def test_pictures_survive_the_way_to_tensors_and_back() -> None:
    crops = [np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8) for i in range(3)]
    assert np.array_equal(to_pictures(to_tensor(crops)), np.stack(crops))


def test_the_perceptual_loss_is_zero_for_equal_pictures_and_sees_blur(tmp_path: Path) -> None:
    network = load_perceptual(perceptual_file(tmp_path / "p.safetensors"))
    picture = torch.rand(1, 3, 64, 64) * 2 - 1
    taps = network(picture)
    assert len(taps) == len(TAPPED) and [t.shape[-1] for t in taps] == [64, 32, 16, 8, 4]
    assert float(perceptual_loss(network, picture, picture)) == 0
    assert float(perceptual_loss(network, torch.nn.functional.avg_pool2d(picture, 3, 1, 1), picture)) > 0.05
    with pytest.raises(InputMissingError):
        load_perceptual(tmp_path / "missing")


def test_missing_data_are_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="no prepared stills"):
        VQGANStage(settings(tmp_path))


def test_the_papers_weights_stand_in_its_preset() -> None:
    paper = PRESETS["paper"]
    assert (paper.loop.learning_rate, paper.loop.batch) == (4.5e-6, 12)
    assert (paper.pixel, paper.perceptual, paper.identity, paper.commitment, paper.codebook) == (
        1.0,
        1.0,
        1.0,
        1.0,
        1.0,
    )


def test_the_papers_loss_is_the_sum_of_its_terms(data: Path, tmp_path: Path) -> None:
    """Eq. 6 with all weights 1, on a network with plain codes that learn by gradient (eq. 4)."""
    torch.manual_seed(0)
    save_identity(IdentityNetwork(IdentityConfig(size=64, widths=(8, 8, 8), blocks=(1, 1, 1), dimension=16)), tmp_path)
    paper = PRESETS["paper"]
    config = replace(
        paper, data=data, size=64, validation=2, identity_network=tmp_path,
        network=replace(TINY, cosine=False, moving_codes=False),
        perceptual_network=perceptual_file(tmp_path / "p.safetensors"),
        loop=replace(paper.loop, batch=2, precision="float32"),
    )  # fmt: skip
    stage = VQGANStage(config)
    stage.frozen.eval()
    batch = stage.batch(0)
    assert torch.allclose(batch["weight"], torch.ones(())), "all pixels weigh alike"
    loss, logs = stage.loss(batch, 10_000)
    crop = batch["crop"]
    with torch.no_grad():
        upper, lower = stage.network.encode(crop)
        made = stage.network.decode(torch.cat([upper.code, lower.code], 2))
        raw, code = (torch.cat([getattr(upper, k), getattr(lower, k)], 2) for k in ("raw", "chosen"))
        features = zip(stage.frozen["perceptual"](crop), stage.frozen["perceptual"](made), strict=True)
        people = [4 * stage.frozen["identity"](x) for x in (crop, made)]
        terms = [
            (crop - made).abs().mean(), *((a - b).abs().mean() for a, b in features),  # eq. 3
            2 * (raw - code).abs().mean(),  # eq. 4: both terms have one value
            (people[0] - people[1]).abs().mean(),  # eq. 5
            -stage.discriminator(made).mean(),
        ]  # fmt: skip
    assert loss.item() == pytest.approx(torch.stack(terms).sum().item(), rel=1e-4)
    loss.backward()
    assert stage.network.lower.codes.grad is not None and float(stage.network.lower.codes.grad.abs().sum()) > 0
    assert {"pixel", "perceptual", "identity", "adversarial", "commitment"} <= logs.keys()


def test_a_sample_sheet_needs_no_six_pictures(data: Path, tmp_path: Path) -> None:
    for name in ("portraits-train", "frames-train", "frames-val"):
        (tmp_path / name).symlink_to(data / name)
    few = tmp_path / "portraits-val"
    few.mkdir()
    for name in ("crops.npy", "landmarks.npy"):
        np.save(few / name, np.load(data / "portraits-val" / name)[:1])
    (few / "meta.json").write_text('[{"name": "only"}]')
    VQGANStage(settings(tmp_path)).sample(tmp_path / "sample.png")
    assert cv2.imread(str(tmp_path / "sample.png")).shape == (256, 384, 3)


def test_a_run_of_other_settings_is_not_taken_up(data: Path, tmp_path: Path) -> None:
    from talkswap.systems.registry import find_stage
    from talkswap.train.stages import train

    tiny = {
        "data": str(data), "size": 64, "loop.steps": 2, "loop.batch": 1, "validation": 2, "network.codes": 32,
        "network.widths": [8, 8, 8], "network.code_width": 16, "network.encoder_blocks": [0, 0, 0],
        "network.decoder_blocks": [0, 0, 0], "network.encoder_attention": 0, "network.decoder_attention": 0,
        "loop.precision": "float32", "continuous": 0,
    }  # fmt: skip
    assert "psnr-portraits-val" in train(find_stage("vqgan"), tiny, tmp_path, echo=lambda line: None)
    with pytest.raises(TrainingError, match="another pixel"):
        train(find_stage("vqgan"), tiny | {"pixel": 0.5}, tmp_path, echo=lambda line: None)
    with pytest.raises(TrainingError, match="already holds a run"):
        train(find_stage("vqgan"), tiny, tmp_path, resume=False)
