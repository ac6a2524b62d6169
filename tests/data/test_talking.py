from __future__ import annotations

import json
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import HubertConfig as HubertModelConfig
from transformers import HubertModel

from talkswap.data.talking import head_pose, open_spoken, smoothed_quads
from talkswap.errors import InputMissingError, TrainingDataError
from talkswap.systems.swaptalk.training.codes import (
    RAW_STEP,
    ClipEncoder,
    CodesConfig,
    code_hash,
    encode_clips,
    load_vqgan,
    open_codes,
)
from talkswap.systems.swaptalk.vqgan import VQGAN, VQGANConfig
from talkswap.types import Voice
from talkswap.voice.features import MelFeatures, listen
from talkswap.voice.hubert import HubertFeatures

TINY = VQGANConfig(
    size=64, widths=(8, 16, 16), encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1), codes=32, code_width=16
)


def landmarks(count: int, opening: float = 0.1) -> np.ndarray:
    """T 478 3: a face about the middle of 128 px that moves one px to the right per frame."""
    points = np.full((count, 478, 3), 64.0, np.float32)
    points[:, :, :2] += np.random.default_rng(0).uniform(-10, 10, (1, 478, 2)).astype(np.float32)
    for rows, place in (((33, 160, 158, 133, 153, 144), (50, 54)), ((362, 385, 387, 263, 373, 380), (78, 54))):
        points[:, list(rows)] = (*place, 0)
    points[:, 61], points[:, 291] = (56, 78, 0), (72, 78, 0)
    points[:, (82, 13, 312)], points[:, (87, 14, 317)] = (64, 78 - 14 * opening, 0), (64, 78 + 14 * opening, 0)
    points[:, :, 0] += np.arange(count)[:, None]
    return points


def write_clip(folder: Path, name: str, split: str, count: int, rate: int = 25, gap: int | None = None) -> None:
    """A real mp4 of random, moving texture, and its labels; no face at frame ``gap``."""
    videos, data = folder / "videos", folder / "cache" / f"clips-{split}"
    videos.mkdir(exist_ok=True)
    data.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(len(name) + count)
    texture = random.integers(0, 255, (16, 16, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(videos / f"{name}.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width = stream.height = 128
        stream.pix_fmt = "yuv420p"
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(np.roll(texture, index, 1), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    points = landmarks(count)
    if gap is not None:
        points[gap] = np.nan
    voice = random.standard_normal(16000 * count // rate).astype(np.float32) * 0.1
    np.savez(data / f"{name}.npz", times=np.arange(count) / rate, landmarks=points, voice=voice)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("talking")
    write_clip(made, "val-0", "val", 9)
    write_clip(made, "train-0", "train", 12, gap=5)
    write_clip(made, "train-1", "train", 13, rate=50)
    (made / "videos" / "clips.csv").write_text(
        "name,kind,mouth_audio_corr\nval-0.mp4,real,0.5\ntrain-0.mp4,generated,0.9\ntrain-1.mp4,real,0.2\n"
    )
    torch.manual_seed(0)
    save_file({k: v.contiguous() for k, v in VQGAN(TINY).state_dict().items()}, made / "vqgan.safetensors")
    (made / "vqgan.json").write_text(json.dumps(asdict(TINY)))
    return made


def config(folder: Path, out: Path, **changes: object) -> CodesConfig:
    given = {
        "data": folder / "cache",
        "videos": folder / "videos",
        "vqgan": folder / "vqgan.safetensors",
        "out": out,
        "batch": 4,
    }
    return CodesConfig(**{**given, **changes})  # type: ignore[arg-type]


def test_pose_does_not_see_the_mouth_but_sees_a_turn() -> None:
    points = landmarks(2)
    points[1, (13, 14, 61, 291), 1] += 20
    assert np.abs(head_pose(points)[0] - head_pose(points)[1]).max() < 1e-4
    points[1, 1, 0] += 5  # the nose moves to the side
    assert np.abs(head_pose(points)[0] - head_pose(points)[1]).max() > 0.1


def tiny_hubert() -> HubertFeatures:
    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = HubertModelConfig(**sizes, conv_dim=(8,) * 7, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2)
    return HubertFeatures(HubertModel(config).eval())


@pytest.mark.parametrize("kind", ["mel", "hubert"])
@pytest.mark.parametrize("length", [20, 49])
def test_training_and_render_hear_the_same(folder: Path, kind: str, length: int) -> None:
    features = tiny_hubert() if kind == "hubert" else None
    for clip in open_spoken(folder / "cache", "train", folder / "videos", features):
        with np.load(folder / "cache" / "clips-train" / f"{clip.name}.npz") as stored:
            voice = Voice(stored["voice"], 16000)
        rate = 50 if clip.name == "train-1" else 25
        times = [Fraction(frame, rate) for frame in range(len(clip.times))]
        render = listen(voice, features or MelFeatures(), length, gate=False).at(times)
        assert np.abs(clip.speech_windows(clip.times, length) - render).max() < 1e-5
        if kind == "mel":
            assert np.array_equal(clip.mel_windows(clip.times, length), clip.speech_windows(clip.times, length))


def test_smoothing_spares_gaps_and_keeps_a_steady_motion() -> None:
    points = landmarks(6)
    points[3] = np.nan
    centres, sides = smoothed_quads(points)
    assert np.isnan(centres[3]).all() and np.isnan(sides[3]).all()
    assert centres[1, 0] - centres[0, 0] == pytest.approx(1 - 1 / 3, abs=1e-3)  # at an end one neighbour is missing
    assert np.isfinite(centres[[0, 1, 2, 4, 5]]).all()


def test_clips_come_real_first_then_by_correlation(folder: Path) -> None:
    clips = open_spoken(folder / "cache", "train", folder / "videos")
    assert [c.name for c in clips] == ["train-1", "train-0"]
    assert clips[0].kind == "real" and clips[0].correlation == pytest.approx(0.2)
    assert clips[1].seen.sum() == 11
    assert clips[0].mel.shape[1] == 80


def test_encoding_stores_what_the_vqgan_says_of_each_frame(folder: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    assert encode_clips(config(folder, tmp_path), lines.append) == {"clips": 3, "frames": 9 + 11 + 7}
    assert len(lines) == 3
    weights = code_hash(load_vqgan(folder / "vqgan.safetensors"))
    fast, slow = open_codes(tmp_path, open_spoken(folder / "cache", "train", folder / "videos"), "train", weights)
    assert fast.frames.tolist() == [0, 2, 4, 6, 8, 10, 12]  # 50 fps: every second frame
    assert slow.frames.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]  # no face at 5
    assert slow.lower.shape == (11, 2, 4) and slow.upper_rows.tolist() == [0, 4, 8] and slow.upper.shape == (3, 2, 4)
    assert slow.lower_raw.shape == (11, 16, 2, 4) and slow.upper_raw.shape == (3, 16, 2, 4)
    # the nearest codes of the stored vectors are the stored codes
    network = load_vqgan(folder / "vqgan.safetensors")
    raw = torch.from_numpy(slow.lower_raw).float() * RAW_STEP
    assert (network.lower(raw).number.numpy() == slow.lower).mean() > 0.9
    assert raw.square().mean().sqrt() == pytest.approx(1, abs=0.05)


def test_a_second_run_keeps_what_is_there_and_another_vqgan_starts_anew(folder: Path, tmp_path: Path) -> None:
    encode_clips(config(folder, tmp_path), lambda line: None)
    assert encode_clips(config(folder, tmp_path), lambda line: None) == {"clips": 0, "frames": 0}
    torch.manual_seed(1)
    save_file({k: v.contiguous() for k, v in VQGAN(TINY).state_dict().items()}, tmp_path / "other.safetensors")
    (tmp_path / "other.json").write_text(json.dumps(asdict(TINY)))
    weights = code_hash(load_vqgan(tmp_path / "other.safetensors"))
    spoken = open_spoken(folder / "cache", "val", folder / "videos")
    with pytest.raises(TrainingDataError, match="of another VQGAN"):
        open_codes(tmp_path, spoken, "val", weights)
    assert encode_clips(config(folder, tmp_path, vqgan=tmp_path / "other.safetensors"), lambda line: None)["clips"] == 3
    assert len(open_codes(tmp_path, spoken, "val", weights)) == 1


def test_bursts_thin_training_clips_and_a_limit_validation_clips(folder: Path, tmp_path: Path) -> None:
    encode_clips(config(folder, tmp_path, burst=2, gap=2, held_out=4, weakest=0.5), lambda line: None)
    weights = code_hash(load_vqgan(folder / "vqgan.safetensors"))
    for split, wanted in (("train", [0, 1, 4, 8, 9]), ("val", [0, 1, 2, 3])):
        clips = open_codes(tmp_path, open_spoken(folder / "cache", split, folder / "videos"), split, weights)
        assert [c.frames.tolist() for c in clips] == [wanted]  # train-1 is too weak


def test_codes_only_where_modules_work_on_codes(folder: Path, tmp_path: Path) -> None:
    save_file({k: v.contiguous() for k, v in VQGAN(TINY).state_dict().items()}, tmp_path / "vqgan.safetensors")
    (tmp_path / "vqgan.json").write_text(json.dumps({**asdict(TINY), "continuous": False}))
    encoder = ClipEncoder(config(folder, tmp_path / "out", vqgan=tmp_path / "vqgan.safetensors"))
    clip = open_spoken(folder / "cache", "val", folder / "videos")[0]
    assert encoder.encode(clip, "val") == 9
    stored = open_codes(tmp_path / "out", [clip], "val", encoder.weights)[0]
    assert stored.lower.shape == (9, 2, 4)
    assert stored.lower_raw.size == 0


def test_missing_inputs_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="no prepared clips"):
        open_spoken(tmp_path, "train")
    with pytest.raises(InputMissingError, match=r"no clips\.csv"):
        open_spoken(folder / "cache", "train", tmp_path)
    with pytest.raises(InputMissingError, match="no VQGAN"):
        ClipEncoder(config(folder, tmp_path, vqgan=tmp_path / "none.safetensors"))
    with pytest.raises(TrainingDataError, match="no codes"):
        open_codes(tmp_path, open_spoken(folder / "cache", "val"), "val", "0")
