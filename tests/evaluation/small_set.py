"""A prepared data set of a few frames a clip, made by the real preparation, and evaluations of it."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from talkswap.cli import main
from talkswap.data.clip import ClipConfig
from talkswap.data.cutting import Source
from talkswap.data.prepare import PrepareConfig, prepare
from talkswap.data.talking import LipCheckConfig
from talkswap.media.sound import load_voice

EXAMPLES = Path(__file__).parents[2] / "examples"
FRAMES = 10


@dataclass(frozen=True)
class Said:
    """How one command ended."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


def command(*arguments: str | Path) -> Said:
    """The command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Said(code, out.getvalue(), err.getvalue())


def _pictures(count: int) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    with av.open(str(EXAMPLES / "target.mp4")) as container:
        for frame in container.decode(video=0):
            found.append(frame.reformat(480, 270, format="rgb24").to_ndarray())
            if len(found) == count:
                return found
    raise AssertionError("the example has become shorter")


def _write(path: Path, pictures: Sequence[np.ndarray], sound: np.ndarray) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "14", "preset": "veryfast"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        voice = container.add_stream("aac", rate=16000, layout="mono")
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())
        heard = av.AudioFrame.from_ndarray(sound[None, : len(pictures) * 640], format="fltp", layout="mono")
        heard.sample_rate, heard.pts, heard.time_base = 16000, 0, Fraction(1, 16000)
        container.mux(voice.encode(heard))
        container.mux(voice.encode())
    return path


def make_set(folder: Path, people: Sequence[str] = ("ann", "bo")) -> Path:
    """A data set of one clip of each: the example's person, and the same mirrored under other names."""
    pictures, own = _pictures(20 + FRAMES), load_voice(EXAMPLES / "target.mp4").samples.astype(np.float32)
    (folder / "videos").mkdir(parents=True)
    sources = []
    for number, name in enumerate(people):
        taken = pictures[number * 10 : number * 10 + FRAMES]
        shown = [p[:, ::-1] for p in taken] if number % 2 else taken
        path = _write(folder / "videos" / f"{name}.mp4", shown, own[16000 + 4000 * number :])
        sources.append(Source(path, name))
    lips = LipCheckConfig(least=-1, still=0)
    length = Fraction(FRAMES, 25)
    made = prepare(
        sources,
        PrepareConfig(folder / "set", length, length, workers=1, clip=ClipConfig(smallest=100, lips=lips)),
    )
    assert made["counts"]["clips"] == len(people), made["refused"]
    return folder / "set"
