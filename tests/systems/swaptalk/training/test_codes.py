"""Clips as codes of one VQGAN: what is stored, what is kept, and what is refused."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from talkswap.data.talking import open_spoken
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

TINY = VQGANConfig(
    size=64, widths=(8, 16, 16), encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1), codes=32, code_width=16
)


@pytest.fixture(scope="module")
def folder(talking_clips: Path) -> Path:
    """The clips with a VQGAN beside them."""
    torch.manual_seed(0)
    save_file({k: v.contiguous() for k, v in VQGAN(TINY).state_dict().items()}, talking_clips / "vqgan.safetensors")
    (talking_clips / "vqgan.json").write_text(json.dumps(asdict(TINY)))
    return talking_clips


def config(folder: Path, out: Path, **changes: object) -> CodesConfig:
    given = {
        "data": folder / "cache",
        "videos": folder / "videos",
        "vqgan": folder / "vqgan.safetensors",
        "out": out,
        "batch": 4,
    }
    return CodesConfig(**{**given, **changes})  # type: ignore[arg-type]


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
    with pytest.raises(InputMissingError, match="no VQGAN"):
        ClipEncoder(config(folder, tmp_path, vqgan=tmp_path / "none.safetensors"))
    with pytest.raises(TrainingDataError, match="no codes"):
        open_codes(tmp_path, open_spoken(folder / "cache", "val"), "val", "0")
