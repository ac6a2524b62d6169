"""A prepared data set, made once through the real command from short pieces of the example clip."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from talkswap.cli import main
from talkswap.media.sound import load_voice
from tests.data.talking_clips import talking_clips

__all__ = ["talking_clips"]

EXAMPLES = Path(__file__).parents[2] / "examples"
WIDTH, HEIGHT = 480, 270

WriteTalk = Callable[..., Path]


@pytest.fixture(scope="session")
def example_frames() -> list[np.ndarray]:
    """The example clip's first 104 pictures at half size."""
    pictures = []
    with av.open(str(EXAMPLES / "target.mp4")) as container:
        for frame in container.decode(video=0):
            pictures.append(frame.reformat(WIDTH, HEIGHT, format="rgb24").to_ndarray())
            if len(pictures) == 104:
                return pictures
    raise AssertionError("the example has become shorter")


@pytest.fixture(scope="session")
def example_sound() -> np.ndarray:
    """What the example's person says, 16 kHz."""
    return load_voice(EXAMPLES / "target.mp4").samples


def write_talk(
    path: Path, pictures: Sequence[np.ndarray], sound: np.ndarray | None, ticks: Sequence[int] | None = None,
    clock: Fraction = Fraction(1, 25),
) -> Path:  # fmt: skip
    """Really encode pictures at given ticks, and a voice beside them."""
    ticks = range(len(pictures)) if ticks is None else ticks
    options = {"video_track_timescale": str(clock.denominator)} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10", "preset": "veryfast"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = stream.time_base = clock
        voice = None if sound is None else container.add_stream("aac", rate=16000, layout="mono")
        for picture, tick in zip(pictures, ticks, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = tick, clock
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if voice is not None and sound is not None:
            count = round(float((ticks[-1] + 1) * clock) * 16000)
            part = np.pad(sound, (0, max(0, count - len(sound))))[:count].astype(np.float32)
            frame = av.AudioFrame.from_ndarray(part[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, 0, Fraction(1, 16000)
            container.mux(voice.encode(frame))
            container.mux(voice.encode())
    return path


@dataclass(frozen=True)
class Prepared:
    """What the command made of the videos."""

    videos: Path
    out: Path
    code: int
    summary: dict[str, Any]
    arguments: tuple[str, ...]  # the command without the output's folder

    @property
    def manifest(self) -> dict[str, Any]:
        return json.loads((self.out / "manifest.json").read_text())


@pytest.fixture(scope="session")
def videos(
    tmp_path_factory: pytest.TempPathFactory, example_frames: list[np.ndarray], example_sound: np.ndarray
) -> Path:
    """Two people, a copy of one of them, a film without sound and a file that is no video."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "more").mkdir()
    ann = write_talk(folder / "ann.mp4", example_frames, example_sound)
    mirrored = [picture[:, ::-1] for picture in example_frames[:60]]
    rounded = [round(k * 1000 / 30) for k in range(60)]  # 30 frames per second on Matroska's clock of milliseconds
    spoken = np.interp(np.arange(0, 2.1, 1 / 16000) * 1.2, np.arange(len(example_sound)) / 16000, example_sound)
    write_talk(folder / "more" / "bo.mkv", mirrored, spoken.astype(np.float32), rounded, Fraction(1, 1000))
    (folder / "more" / "again.mp4").write_bytes(ann.read_bytes())
    write_talk(folder / "silent.mp4", example_frames[:51], None)
    (folder / "broken.mp4").write_bytes(b"no video at all" * 99)
    (folder / "notes.txt").write_text("not looked at")
    return folder


@pytest.fixture(scope="session")
def prepared(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The videos as a data set, in clips of two seconds."""
    out = tmp_path_factory.mktemp("prepared") / "set"
    arguments = ("data", "prepare", str(videos), "--seconds", "2", "--smallest", "100", "--seed", "3", "--quiet")
    said = io.StringIO()
    with redirect_stdout(said):
        code = main([*arguments, "--workers", "1", "--out", str(out)])
    return Prepared(videos, out, code, json.loads(said.getvalue()), arguments)
