from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from talkswap.animation.space import lip_opening
from talkswap.animation.sync_former import MelEncoderConfig, SyncFormer, SyncFormerConfig
from talkswap.data.motion import MotionClip, store
from talkswap.errors import TrainingDataError
from talkswap.faces.mesh import mean_face
from talkswap.train.loop import Trainer
from talkswap.train.shared.lip_measures import measure_matrix, point_weights
from talkswap.train.shared.mesh_labels import Lift, MeshLabels, held_out_names, measure_basis, mel_rows, opening_axis
from talkswap.train.shared.mesh_scores import closed_share
from talkswap.train.shared.sync_former import SyncFormerStage, SyncFormerStageConfig, networks
from talkswap.train.stage import LoopConfig
from talkswap.voice.wav2vec2 import Wav2Vec2Sizes

LOWER, UPPER, CHIN = [95, 88, 178, 87, 14, 317, 402, 318, 324], [191, 80, 81, 82, 13, 312, 311, 310, 415], [152, 17]
SMALL = SyncFormerConfig(
    mel=MelEncoderConfig(width=16, dilations=(1, 2), dropout=0.0), width=32, feedforward=32, dropout=0.0, chunk=40,
    overlap=8, references=24, components=6,
)  # fmt: skip
LOOP = LoopConfig(
    steps=60, batch=8, learning_rate=5e-3, warmup=5, ema=0.8, precision="float32", threads=1, log_every=20, workers=0,
    sample_every=1000,
)  # fmt: skip
FEW = np.array(sorted({0, 1, 4, 6, 10, 33, 61, 133, 263, 291, 362, 78, 308, *LOWER, *UPPER, *CHIN}))


def clip(
    name: str, speaker: str, seed: int, loud: float, split: str = "train", points: np.ndarray | None = None
) -> MotionClip:
    """Eight seconds of a mouth that opens ``loud`` times as far as its voice is strong."""
    random = np.random.default_rng(seed)
    times = np.arange(200) / 25
    strength = np.interp(times, np.arange(0, 8.2, 0.2), random.uniform(0, 1, 41) * (random.random(41) > 0.3))
    shapes = np.repeat(mean_face().points[None], 200, 0).copy()
    middle = (shapes[:, LOWER] + shapes[:, UPPER]) / 2
    shapes[:, LOWER], shapes[:, UPPER] = middle, middle
    shapes[:, LOWER + CHIN, 1] += (loud * 0.3 * strength)[:, None]
    shapes[:, [61, 291], 0] += (0.05 * np.sin(times * 3 + seed))[:, None] * [1, -1]
    shapes += random.normal(0, 1e-4, shapes.shape)
    shapes[50] = np.nan
    mel = -0.9 + 1.2 * np.interp(np.arange(641) / 80, times, strength)[:, None] * random.uniform(0.9, 1.1, 80)
    points = np.arange(478) if points is None else points
    noise = 3000 * random.normal(0, 1, 128000) * np.interp(np.arange(128000) / 16000, times, strength)
    return MotionClip(
        name, speaker, split, times.astype(np.float32), shapes[:, points].astype(np.float32), points,
        mel.astype(np.float32), 0.0, 1.0, noise.astype(np.int16),
    )  # fmt: skip


@pytest.fixture(scope="module")
def meshes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("meshes")
    for number in range(4):
        store(clip(f"train-{number}", f"train-{number}", number, (0.5, 1.0)[number % 2]), folder)
    store(clip("few", "s1", 7, 0.8, points=FEW), folder)
    for number in range(2):
        store(clip(f"held-{number}", f"s{2 + number}", 20 + number, (0.5, 1.0)[number], points=FEW), folder)
    store(clip("val-0", "val-0", 30, 0.8, "val"), folder)
    (folder / "held.json").write_text(json.dumps({"speakers": ["s2", "s3"], "why": "few"}))
    return folder


def stage(folder: Path, **changes: Any) -> SyncFormerStage:
    settings = {"data": folder, "held_out": folder / "held.json", "network": SMALL, "loop": LOOP, **changes}
    return SyncFormerStage(SyncFormerStageConfig(**settings))


def test_a_short_run_opens_the_mouth_with_the_voice(meshes: Path, tmp_path: Path) -> None:
    trained = stage(meshes, silent=0.1, warp=0.0)
    scores = Trainer(trained, LOOP, tmp_path).train(echo=lambda line: None)
    assert scores["held-opening"] > 0.6
    assert scores["val-opening"] > 0.6
    assert abs(scores["held-opening-shifted"]) < scores["held-opening"] - 0.2
    assert 0.3 < scores["held-amplitude"] < 2
    assert {"lip-components", "style-amplitude", "seams", "opening-in-silence"} <= set(scores)
    assert (tmp_path / "sample.png").stat().st_size > 1000
    stored = json.loads((tmp_path / "export" / "sync_former.json").read_text())
    assert stored["components"] == 6
    again = SyncFormer(SMALL)
    again.load_state_dict(load_file(tmp_path / "export" / "sync_former.safetensors"))
    assert again.basis.abs().max() > 0


def test_a_resumed_run_is_the_same_run(meshes: Path, tmp_path: Path) -> None:
    short = dataclasses.replace(LOOP, steps=4, save_minutes=0.0)
    whole = Trainer(stage(meshes, loop=short), short, tmp_path / "whole")
    whole.train(echo=lambda line: None)
    first = Trainer(stage(meshes, loop=short), short, tmp_path / "parts")
    for number in range(2):
        first.take_step([first.stage.batch(number)])
    first.save()
    second = Trainer(stage(meshes, loop=short), short, tmp_path / "parts")
    assert second.resume()
    second.train(echo=lambda line: None)
    for key, value in whole.stage.network.state_dict().items():
        assert torch.equal(value, second.stage.network.state_dict()[key]), key


def test_held_out_speakers_are_never_drawn(meshes: Path) -> None:
    made = stage(meshes)
    assert sorted(c.name for c in made.clips) == ["few", "train-0", "train-1", "train-2", "train-3"]
    assert {name: [c.name for c in clips] for name, clips in made.groups.items()} == {
        "held": ["held-0", "held-1"], "clips": [], "val": ["val-0"],
    }  # fmt: skip
    assert held_out_names(meshes / "held.json") == {"s2", "s3"}
    with pytest.raises(TrainingDataError, match="no held-out list"):
        held_out_names(meshes / "none.json")


def test_a_batch_depends_on_the_step_alone(meshes: Path) -> None:
    first, second = stage(meshes).batch(3), stage(meshes).batch(3)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["voice"], stage(meshes).batch(4)["voice"])
    assert first["target"].shape == (8, 40, 6)
    assert first["reference"].shape == (8, 24, 6)


def test_a_sample_is_the_clip_at_its_own_time(meshes: Path) -> None:
    """Without augmentation the opening that a code states follows the loudness of the mel around it."""
    made = stage(meshes, silent=0.0, speed=0.0, scale=0.0, widths=0.0, short=0.0)
    batch = made.batch(0)
    before, _ = mel_rows(SMALL)
    for row in range(8):
        opening = (batch["target"][row] @ made.measures)[:, 0]
        places = before + np.arange(40) / 25 * 80
        loud = np.interp(places, np.arange(batch["voice"].shape[1]), batch["voice"][row].mean(1))
        there = batch["weight"][row].numpy() > 0
        assert np.corrcoef(opening.numpy()[there], loud[there])[0, 1] > 0.97


def test_a_clip_and_its_style_grow_together(meshes: Path) -> None:
    made = stage(meshes)
    codes = made.clips[0].codes[:30]
    whole = made.former.decode(torch.from_numpy(codes)).numpy()
    scaled = made.former.decode(torch.from_numpy(made.scaled(codes, 1.5, 0.8))).numpy()
    assert scaled[..., 1] == pytest.approx(1.5 * whole[..., 1], abs=2e-3)
    assert 1.1 < np.ptp(scaled[:, 61, 0]) / np.ptp(whole[:, 61, 0]) < 1.4, "1.2, as far as six components allow"


def test_a_mirrored_clip_moves_the_other_corner_of_the_mouth(meshes: Path) -> None:
    made = stage(meshes, mirrored=1.0, silent=0.0)
    plain = stage(meshes, mirrored=0.0, silent=0.0)
    assert made.mirror is not None
    corners, random = [61, 291], np.random.default_rng
    kept, exchanged = plain._piece(random(3)), made._piece(random(3))
    assert np.array_equal(kept[0], exchanged[0])  # the voice
    for one, other in ((kept[1], exchanged[1]), (kept[5], exchanged[5])):  # target and reference
        here, there = (made.former.decode(torch.from_numpy(codes))[:, corners, 0] for codes in (one, other))
        assert torch.allclose(there, -here.flip(1), atol=5e-3) and here.abs().max() > 0.02


def test_the_level_is_that_of_the_style(meshes: Path) -> None:
    """A network that says too much at every moment loses by ``level`` alone of the lips' terms."""
    made = stage(meshes, level=1.0, silent=0.0)
    batch = made.batch(0)
    codes, offset = batch["target"], torch.linalg.pinv(made.measures[:, :1].T)[:, 0] * 0.1
    plain, moved = made._lip_loss(codes, batch), made._lip_loss(codes + offset, batch)
    assert float(moved[1]["level"]) > float(plain[1]["level"]) + 0.1
    assert float(moved[0] - plain[0]) == pytest.approx(float(moved[1]["level"] - plain[1]["level"]), abs=1e-4)


def test_points_that_are_not_there_do_not_count(meshes: Path) -> None:
    made = stage(
        meshes, network=dataclasses.replace(SMALL, components=0, style_scale=False), correlation=0.0, spread=0.0
    )
    made.share = np.array([c.name == "few" for c in made.clips], float)
    batch = made.batch(0)
    assert (batch["points"].sum(1) == 3 * len(FEW)).all()
    made.network.eval()
    own = made.loss(batch, 0)[0]
    missing = batch["points"] == 0
    batch["target"] = torch.where(missing[:, None], batch["target"] + 9.0, batch["target"])
    assert torch.allclose(made.loss({**batch, "before": batch["before"]}, 0)[0], own), "the network is still at zero"
    batch["target"] = batch["target"] + 1.0
    assert made.loss(batch, 0)[0] > own


def test_frames_without_a_face_do_not_count(meshes: Path) -> None:
    made = stage(meshes)
    batch = made.batch(1)
    batch["weight"][:, 10:15] = 0
    made.network.eval()
    own = made.loss(batch, 0)[0]
    batch["target"][:, 10:15] += 5
    assert torch.allclose(made.loss(batch, 0)[0], own)


def test_lifting_gives_back_what_the_other_points_do() -> None:
    clips = [clip(str(n), str(n), n, 0.8) for n in range(3)]
    axis = opening_axis(clips)
    labels = [MeshLabels(c, axis) for c in clips]
    lift = Lift(labels[:2], FEW)
    true = labels[2].displacements.astype(np.float32)
    lifted = lift(true[:, FEW])
    assert np.array_equal(lifted[:, FEW], true[:, FEW])
    assert np.abs(lifted - true).max() < 5e-3
    assert lip_opening((mean_face().points + axis)[None]) - lip_opening(mean_face().points[None]) == pytest.approx(
        1, abs=0.05
    )


def test_the_basis_keeps_the_weighted_norm_and_inverts() -> None:
    labels = [MeshLabels(c, opening_axis([c])) for c in [clip("a", "a", 0, 1.0), clip("b", "b", 1, 0.5)]]
    weights = point_weights(0.1, 3.0).numpy()
    basis, analysis = measure_basis(labels, weights, 6, 0.05)
    assert basis @ analysis.T == pytest.approx(np.eye(6), abs=1e-4)
    rows = labels[0].displacements[60:90].reshape(30, -1).astype(np.float32) / 0.05
    codes = rows @ analysis.T
    assert codes @ basis == pytest.approx(rows, abs=0.05)
    norm = np.sqrt(rows**2 @ np.repeat(weights / weights.sum(), 3))
    assert np.linalg.norm(codes, axis=1) == pytest.approx(norm, rel=0.02, abs=5e-3)


def test_the_lips_measures_are_what_they_say() -> None:
    moved = torch.zeros(478, 3)
    moved[[87, 14, 317], 1] = 0.2
    moved[61, 0], moved[291, 0] = -0.1, 0.1
    measures = moved.flatten() @ measure_matrix()
    assert measures[0] == pytest.approx(0.2)
    assert measures[1] == pytest.approx(0.2)
    assert measures[2:].tolist() == [0, 0, 0, 0]


def test_speech_without_a_mesh_names_its_sounds_and_shuts_the_lips(meshes: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    sound = np.repeat(random.integers(0, 17, 200), 10).astype(np.int8)
    np.savez(tmp_path / "made-000.npz", mel=random.uniform(-1, 0.5, (2000, 80)).astype(np.float16), sound=sound)
    made = stage(meshes, phonetics=tmp_path, phonetic_batch=3)
    batch = made.batch(0)
    torch.nn.init.normal_(made.former.output.weight, std=0.3)
    opening = torch.linalg.pinv(made.measures[:, :1].T)[:, 0]  # the code that opens the mouth by 1
    with torch.no_grad():
        made.former.output.bias.add_(opening)
    loss, figures = made.loss(batch, 0)
    loss.backward()
    assert {"naming", "bilabial"} <= set(figures)
    assert float(figures["bilabial"]) > 0
    assert batch["speech"].shape[0] == len(batch["sound"]) == 3
    named = made.network.sounds.weight.grad
    assert named is not None and named.abs().max() > 0
    with pytest.raises(TrainingDataError, match="no labelled speech"):
        stage(meshes, phonetics=meshes / "nowhere")


def test_lips_count_as_shut_where_they_are() -> None:
    times = np.arange(75) / 25
    sound = np.full(240, 12)
    sound[40:48] = sound[120:128] = sound[200:208] = 1
    opening = np.full(75, 0.2, np.float32)
    opening[(times > 0.5) & (times < 0.6)] = 0.01  # the first of three
    opening[(times > 2.45) & (times < 2.65)] = 0.025  # the last: within 15% of how far this mouth opens
    assert closed_share(opening, times, sound) == (2, 3)
    assert closed_share(opening, times, np.zeros(240, int)) == (0, 0)


def test_a_run_can_start_from_a_speech_encoder_or_from_itself(meshes: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(5)
    other = SyncFormer(SMALL)
    speech = {k.removeprefix("audio."): v for k, v in other.state_dict().items() if k.startswith("audio.")}
    save_file({**speech, "head.weight": torch.zeros(1)}, tmp_path / "speech.safetensors")
    started = stage(meshes, start=tmp_path / "speech.safetensors").former
    assert torch.equal(started.audio.first.weight, other.audio.first.weight)
    assert started.basis.abs().max() > 0
    save_file(other.state_dict(), tmp_path / "former.safetensors")
    again = stage(meshes, start=tmp_path / "former.safetensors").former
    assert torch.equal(again.mesh_embedding.weight, other.mesh_embedding.weight)


def test_missing_meshes_are_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="no meshes"):
        SyncFormerStage(SyncFormerStageConfig(data=tmp_path))


def test_both_presets_can_be_estimated() -> None:
    from talkswap.systems.registry import find_stage
    from talkswap.train.stages import configure

    for preset, least in (("compact", 1e6), ("paper", 9e7)):
        told = configure(find_stage("sync-former"), {}, preset)
        assert told["parameters"]["sync-former"] > least
    assert list(networks(SyncFormerStageConfig())) == ["sync-former"]


def test_a_small_wav2vec2_trains_on_samples_and_keeps_its_convolutions(meshes: Path, tmp_path: Path) -> None:
    sizes = Wav2Vec2Sizes(width=16, layers=1, heads=2, feedforward=16, channels=8, position_kernel=8, position_groups=2)
    net = dataclasses.replace(
        SMALL, audio="wav2vec2", wav2vec2=sizes, components=0, style_gain=False, style_scale=False
    )
    from transformers import Wav2Vec2Model

    torch.manual_seed(9)
    published = Wav2Vec2Model(SyncFormer(net).audio.model.config)
    published.save_pretrained(tmp_path / "wav2vec2")
    loop = dataclasses.replace(LOOP, steps=2)
    trained = stage(meshes, network=net, loop=loop, wav2vec2=tmp_path / "wav2vec2")
    before = {k: v.clone() for k, v in trained.former.state_dict().items()}
    assert torch.equal(
        before["audio.model.feature_projection.projection.weight"], published.feature_projection.projection.weight
    )
    scores = Trainer(trained, loop, tmp_path / "run").train(echo=lambda line: None)
    assert np.isfinite(list(scores.values())).all()
    moved = {k for k, v in trained.former.state_dict().items() if not torch.equal(v, before[k])}
    assert not any("feature_extractor" in key for key in moved), "A.1: the temporal convolutions stay"
    assert any("audio.model.encoder" in key for key in moved)
    assert all(p.requires_grad for n, p in trained.former.named_parameters() if "feature_extractor" not in n)
    with pytest.raises(TrainingDataError, match="no wav2vec2"):
        stage(meshes, network=net, wav2vec2=tmp_path)
