"""What a GPU answers, held against the CPU; run where an NVIDIA GPU is at hand (see conftest.py)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from talkswap.cli.bench import time_networks
from talkswap.device import choose_device
from talkswap.render.render import render_clip
from talkswap.systems.swaptalk import vqgan
from talkswap.systems.swaptalk.face_swap import FaceSwap
from talkswap.systems.swaptalk.vqgan import VQGAN, VQGANConfig
from talkswap.types import RenderPlan

GPU = "cuda"
LOWEST_PSNR = 35.0  # dB, of a whole decoded picture: bfloat16 against float32, and both through a lossy encoder
CLOSE = 2e-3  # of the largest value: float32 on both sides, sums in another order

pytestmark = pytest.mark.cuda


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """Float32 as float32: TF32's ten bits would be measured instead of our networks."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def pictures_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * math.log10(255**2 / max(1e-9, float(np.square(a.astype(float) - b.astype(float)).mean())))


def difference(made: Tensor, wanted: Tensor) -> float:
    """Largest distance, as a share of the largest wanted value."""
    return float((made.cpu() - wanted).abs().max() / wanted.abs().max())


def half_crops(config: VQGANConfig) -> Tensor:
    """Two smooth half pictures in [-1, 1]: 2 3 S/2 S."""
    steps = torch.linspace(0, 6, config.size)
    rows, columns = torch.meshgrid(steps[: config.size // 2], steps, indexing="ij")
    waves = torch.stack([torch.sin(rows + 2 * columns), torch.cos(columns), torch.sin(rows) * torch.cos(columns)])
    return torch.stack([waves, -waves])


def test_a_render_shows_the_same_pictures(
    source_photo: Path, talking_clip: Path, voice_file: Path, tmp_path: Path
) -> None:
    plan = RenderPlan(source_photo, talking_clip, voice_file, tmp_path / "cpu.mp4", preset="compact", device="cpu")
    render_clip(plan)
    on_gpu = replace(plan, output=tmp_path / "gpu.mp4", device=GPU)
    report = render_clip(on_gpu)
    assert report.device == GPU and report.frames_out == 12 and report.faceless_frames == 0
    before, after = pictures_of(plan.output), pictures_of(on_gpu.output)
    assert min(psnr(a, b) for a, b in zip(before, after, strict=True)) >= LOWEST_PSNR
    untouched = pictures_of(talking_clip)
    assert min(psnr(a, b) for a, b in zip(untouched, after, strict=True)) < 40, "nothing was changed"


def test_equal_plans_give_equal_frames(
    source_photo: Path, talking_clip: Path, voice_file: Path, tmp_path: Path
) -> None:
    plan = RenderPlan(source_photo, talking_clip, voice_file, tmp_path / "one.mp4", preset="compact", device=GPU)
    render_clip(plan)
    again = replace(plan, output=tmp_path / "two.mp4")
    render_clip(again)
    assert min(psnr(a, b) for a, b in zip(pictures_of(plan.output), pictures_of(again.output), strict=True)) >= 45


@pytest.mark.parametrize("config", [vqgan.COMPACT, vqgan.PAPER], ids=["compact", "paper"])
def test_vqgan_encodes_and_decodes_alike(config: VQGANConfig) -> None:
    torch.manual_seed(0)
    network = VQGAN(config).eval()
    half = half_crops(config)
    with torch.inference_mode():
        # before the nearest code is taken: there, a difference in the last bit may choose another code
        raw = network.encoder(half)  # 2 C G/2 G
        latent = torch.cat([raw[:1], raw[1:]], 2)  # 1 C G G
        picture = network.decode(latent)
        network.to(GPU)
        assert difference(network.encoder(half.to(GPU)), raw) < CLOSE
        assert difference(network.decode(latent.to(GPU)), picture) < CLOSE


def test_the_face_swap_answers_alike() -> None:
    torch.manual_seed(0)
    swap = FaceSwap().eval()
    for parameter in swap.parameters():
        if not parameter.any():  # a fresh swap's last layer is silent: let it speak
            torch.nn.init.normal_(parameter, std=0.02)
    config = swap.config
    source, target, guide = torch.randn(3, 1, config.code_width, config.grid, config.grid)
    identity = torch.nn.functional.normalize(torch.randn(1, config.identity), dim=1)
    with torch.inference_mode():
        wanted = swap(source, target, guide, identity)
        swap.to(GPU)
        made = swap(source.to(GPU), target.to(GPU), guide.to(GPU), identity.to(GPU))
    assert difference(made, wanted) < CLOSE


def test_networks_of_the_paper_s_size_are_timed() -> None:
    figures = time_networks("swaptalk", "paper", choose_device(GPU), 2)
    assert figures["device"] == GPU and figures["gpu_memory_mb"] > 0
    assert min(figures["ms_per_frame"].values()) > 0
