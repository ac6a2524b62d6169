"""Features and sound of a render keep one clock where the target's own streams do not start together."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from talkswap.media.sound import load_voice
from talkswap.render.prepare import prepare
from talkswap.render.render import render_clip
from talkswap.types import RenderPlan

HZ = 16000
CLICK = 0.6  # seconds after the sound's own start


def write(path: Path, pictures: Sequence[np.ndarray], picture_begins: float, sound_begins: float) -> Path:
    """Twelve pictures at 25 a second, and a second of silence with a click in it."""
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=25, options={"preset": "veryfast"})
        video.height, video.width = pictures[0].shape[:2]
        video.pix_fmt = "yuv420p"
        audio: Any = container.add_stream("aac", rate=HZ, layout="mono")
        samples = 0.7 * np.exp(-(((np.arange(HZ) / HZ - CLICK) / 0.001) ** 2)).astype(np.float32)
        sound = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        sound.sample_rate, sound.time_base, sound.pts = HZ, Fraction(1, HZ), round(sound_begins * HZ)
        packets = [*audio.encode(sound), *audio.encode(None)]
        for number, rgb in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            frame.pts, frame.time_base = number + round(picture_begins * 25), Fraction(1, 25)
            packets += video.encode(frame)
        for packet in sorted([*packets, *video.encode(None)], key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
@pytest.mark.parametrize(("picture_begins", "sound_begins", "heard"), [(0.4, 0.0, 0.2), (0.4, 0.12, 0.32)])
def test_lips_and_sound_meet_when_the_picture_is_late(
    tmp_path: Path,
    example_pictures: list[np.ndarray],
    name: str,
    picture_begins: float,
    sound_begins: float,
    heard: float,
) -> None:
    clip = write(tmp_path / name, example_pictures[:12], picture_begins, sound_begins)
    plan = RenderPlan(None, clip, None, tmp_path / "out.mp4", preset="compact", device="cpu", swap=False, sync=False)
    features = np.abs(prepare(plan, lambda event: None).voices.common.samples).argmax() / HZ
    assert features == pytest.approx(heard, abs=0.005)
    render_clip(plan)
    played = np.abs(load_voice(plan.output).samples).argmax() / HZ
    assert played == pytest.approx(features, abs=0.005)
