"""``talkswap data``: helps, wrong inputs, HuBERT features and codes, as a user types them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from talkswap.cli import main
from talkswap.cli.data import COMMANDS
from talkswap.data.prepare import PrepareConfig, _features
from talkswap.data.talking import open_spoken
from talkswap.systems.swaptalk.training.codes import code_hash, load_vqgan, open_codes
from talkswap.systems.swaptalk.vqgan import VQGAN, VQGANConfig

TINY = VQGANConfig(
    size=64, widths=(8, 16, 16), encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1), codes=32, code_width=16
)


@pytest.mark.parametrize("command", [*COMMANDS, "codes", "pairs"])
def test_every_command_has_a_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", command, "--help"]) == 0
    assert f"Usage: talkswap data {command}" in capsys.readouterr().out


def failing(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(["data", *arguments])
    said = capsys.readouterr()
    assert said.err.count("\n\nhint: ") == 1 and "Traceback" not in said.err
    return code, said.err


def test_wrong_folders_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing, empty, out = str(tmp_path / "missing"), tmp_path / "empty", str(tmp_path / "out")
    empty.mkdir()
    vqgan = str(tmp_path / "vqgan.safetensors")
    for arguments, wanted in (
        (["prepare", missing, "--out", out], 3),
        (["prepare", str(empty), "--out", out], 17),
        (["hdtf", missing, "--videos", str(empty), "--out", out], 3),
        (["hdtf", str(empty), "--videos", str(empty), "--out", out], 17),
        (["codes", "--data", missing, "--vqgan", vqgan], 3),
        (["pairs", "--data", missing, "--vqgan", vqgan, "--out", out, "--count", "1"], 3),
        (["portraits", missing, out, "--teachers", str(empty)], 3),
    ):
        assert failing(arguments, capsys)[0] == wanted, arguments
    assert not Path(out).exists()


def test_nothing_usable_is_a_failure_that_says_what_was_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    assert main(["data", "prepare", str(tmp_path / "a.mp4"), "--out", str(tmp_path / "set"), "--workers", "1"]) == 17
    said = capsys.readouterr()
    assert json.loads(said.out)["refused_by_reason"] == {"unreadable": 1}
    assert "no clip was accepted (1 x unreadable)" in said.err and f"refused: {tmp_path / 'a.mp4'}" in said.err


def test_a_folder_that_is_a_file_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    (tmp_path / "set").write_text("a file")
    assert failing(["prepare", str(tmp_path / "a.mp4"), "--out", str(tmp_path / "set")], capsys)[0] == 10


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """One clip of six frames per split, as `data prepare` lays them out."""
    folder = tmp_path / "set"
    (folder / "videos").mkdir(parents=True)
    random = np.random.default_rng(0)
    points = np.full((6, 478, 3), 64.0, np.float32)
    points[:, :, :2] += random.uniform(-10, 10, (1, 478, 2)).astype(np.float32)
    for rows, place in (((33, 160, 158, 133, 153, 144), (50, 54)), ((362, 385, 387, 263, 373, 380), (78, 54))):
        points[:, list(rows)] = (*place, 0)
    points[:, 61], points[:, 291] = (56, 78, 0), (72, 78, 0)
    texture = random.integers(0, 255, (16, 16, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    for name, split in (("ann", "train"), ("bo", "val")):
        with av.open(str(folder / "videos" / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width = stream.height = 128
            stream.pix_fmt = "yuv420p"
            for shift in range(6):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(texture, shift, 1), format="rgb24")))
            container.mux(stream.encode(None))
        (folder / f"clips-{split}").mkdir()
        voice = random.normal(0, 0.1, 3840).astype(np.float32)
        np.savez(folder / f"clips-{split}" / f"{name}.npz", times=np.arange(6) / 25, landmarks=points, voice=voice)
    (folder / "videos" / "clips.csv").write_text("name,kind,mouth_audio_corr\nann.mp4,real,0.5\nbo.mp4,real,0.6\n")
    return folder


def vqgan(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    save_file({k: v.contiguous() for k, v in VQGAN(TINY).state_dict().items()}, path)
    path.with_suffix(".json").write_text(json.dumps(asdict(TINY)))
    return path


def test_codes_of_every_vqgan_have_a_folder_and_are_made_once(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = vqgan(tmp_path / "a.safetensors", 0), vqgan(tmp_path / "b.safetensors", 1)
    made = []
    for network in (first, second, first):
        assert main(["data", "codes", "--data", str(data), "--vqgan", str(network)]) == 0
        made.append(json.loads(capsys.readouterr().out))
    assert [m["encoded"]["clips"] for m in made] == [2, 2, 0]
    assert made[0]["codes"] == made[2]["codes"] != made[1]["codes"]
    assert all(m["stored"] == {"train": 1, "val": 1} for m in made)
    digest = code_hash(load_vqgan(first))
    assert made[0]["vqgan"] == digest and Path(made[0]["codes"]) == data / "codes" / digest[:16]
    (clip,) = open_codes(Path(made[0]["codes"]), open_spoken(data, "val", data / "videos"), "val", digest)
    assert clip.frames.tolist() == list(range(6))


def test_hubert_features_are_cached_per_model(data: Path, tmp_path: Path) -> None:
    from transformers import HubertConfig, HubertModel

    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    small = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    HubertModel(HubertConfig(**sizes, **small)).save_pretrained(tmp_path / "hubert")
    records = [{"name": "ann", "split": "train"}, {"name": "bo", "split": "val"}]
    config = PrepareConfig(data, workers=1, hubert=tmp_path / "hubert")
    folder = data / _features(records, config, lambda event: None)
    features = np.load(folder / "ann.npy")
    assert features.dtype == np.float16 and features.shape == (11, 32)  # (3840 - 400) // 320 + 1
    written = (folder / "ann.npy").stat().st_mtime_ns
    _features(records, config, lambda event: None)
    assert (folder / "ann.npy").stat().st_mtime_ns == written
