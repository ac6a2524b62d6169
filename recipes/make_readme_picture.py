"""Draws docs/images/strip.jpg, the picture on top of the README: frames of the example clip, the photo, and the render.

    python recipes/make_readme_picture.py

It runs the README's own command on the example files, so the picture shows what a new user gets.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from talkswap.media.probe import probe
from talkswap.media.reader import ClipReader
from talkswap.types import UInt8Image

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
OUTPUT = ROOT / "docs" / "images" / "strip.jpg"
MOMENTS = (30, 48, 66, 84, 102)  # frames of the example in which much is said
SIDE = 220  # px of one picture
SQUARE = (slice(0, 500), slice(215, 715))  # rows and columns of the 960x540 example around the head


def frames_of(clip: Path) -> list[UInt8Image]:
    """The head at each of the moments, SIDE SIDE 3."""
    pictures = []
    with ClipReader(probe(clip)) as reader:
        for frame in reader.frames():
            if frame.index in MOMENTS:
                square = np.ascontiguousarray(frame.rgb[SQUARE])
                pictures.append(np.asarray(cv2.resize(square, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8))
    return pictures


def main() -> None:
    """Render the example and lay target and result under each other, the photo between them at the left."""
    with tempfile.TemporaryDirectory() as folder:
        dubbed = Path(folder) / "dubbed.mp4"
        command = [sys.executable, "-m", "talkswap", "render", "--output", str(dubbed), "--quiet"]
        for option, name in (("--source", "source.png"), ("--target", "target.mp4"), ("--audio", "voice.wav")):
            command += [option, str(EXAMPLES / name)]
        subprocess.run(command, check=True)
        rows = [np.concatenate(frames_of(clip), 1) for clip in (EXAMPLES / "target.mp4", dubbed)]
    photo = cv2.cvtColor(cv2.imread(str(EXAMPLES / "source.png")), cv2.COLOR_BGR2RGB)
    left = np.full((2 * SIDE, SIDE, 3), 255, np.uint8)
    left[SIDE // 2 : SIDE // 2 + SIDE] = cv2.resize(photo, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    picture = np.concatenate([left, np.concatenate(rows)], 1)
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(OUTPUT), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == "__main__":
    main()
