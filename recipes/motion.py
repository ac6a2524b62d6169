"""Store the motion set's clips as meshes for the stage ``sync-former``; run once per set.

A *motion folder* holds landmarks and sound without pictures: ``motion-*.csv`` (name, speaker, split, ...) and
``motion-*.npz`` with, per clip, coded points and Ogg Opus bytes.  Run: ``python recipes/motion.py FOLDER OUT``.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from talkswap.animation.space import pose_free
from talkswap.data.motion import MotionClip, gather, sixteen_bits
from talkswap.media.sound import load_voice
from talkswap.types import FloatArray
from talkswap.voice.mel import log_mel


def decode_points(stored: dict[str, NDArray[np.generic]], shift: NDArray[np.generic]) -> FloatArray:
    """Landmarks (T P 3, 1/64 px where the outer eye corners are 100 px apart) of one coded clip.

    Frame 0 is ``q0``; differences to the frame before are stored in steps of ``1 << shift`` as a low and a high byte, less
    the frame's common shift ``c``, which counts in steps of 8.
    """
    step = 1 << shift.astype(np.int32)[None, :, None]  # 1 P 1
    residual = stored["lo"].astype(np.int32) | (stored["hi"].astype(np.int8).astype(np.int32) << 8)  # P 3 T-1
    common = stored["c"].astype(np.int32).T[:, None] * 8 // step  # T-1 P 3
    first = stored["q0"].astype(np.int64)[None]
    rest = first + np.cumsum(residual.transpose(2, 0, 1) + common, 0)
    return (np.concatenate([first, rest]) * step).astype(np.float32)


def decode_voice(data: bytes) -> FloatArray:
    """Samples at 16 kHz of an Ogg Opus file."""
    with tempfile.NamedTemporaryFile(suffix=".ogg") as file:
        file.write(data)
        file.flush()
        return load_voice(Path(file.name)).samples


def read_motion(folder: Path) -> Iterator[MotionClip]:
    """Clips of a motion folder, lags not yet measured."""
    rows: dict[str, dict[str, str]] = {}
    for path in sorted(folder.glob("motion-*.csv")):
        with open(path, newline="") as file:
            rows |= {row["name"]: row for row in csv.DictReader(file)}
    for path in sorted(folder.glob("motion-*.npz")):
        with np.load(path) as archive:
            points, shift = archive["points"].astype(np.int64), archive["shift"]
            for name in sorted({key.split("/")[0] for key in archive.files if "/" in key} & set(rows)):
                stored = {key: archive[f"{name}/{key}"] for key in ("q0", "lo", "hi", "c", "t", "opus")}
                shapes = pose_free(decode_points(stored, shift), points)
                times = (stored["t"] - stored["t"][0]).astype(np.float32)
                voice = decode_voice(stored["opus"].tobytes())
                row = rows[name]
                yield MotionClip(
                    name,
                    row["speaker"],
                    row["split"],
                    times,
                    shapes,
                    points,
                    log_mel(voice),
                    0.0,
                    1.0,
                    sixteen_bits(voice),
                )


if __name__ == "__main__":
    source, out = map(Path, sys.argv[1:])
    print(f"{gather(out, read_motion(source))} clips")
