"""Makes target.mp4, voice.wav and source.png; run once, the results are tracked.

    pip install scikit-image && apt-get install espeak-ng
    python examples/make_examples.py [--teachers FOLDER] [--out examples]

The target is a photograph that learns to talk: the public-domain NASA portrait of Eileen Collins that scikit-image
carries, moved frame by frame with a thin-plate spline through the dense face landmarks (jaw, lips, eyelids), a
swaying head and a drifting camera.  The jaw follows the loudness of the sentence that espeak-ng speaks, so that the
clip's own sound and lips belong together.  Everything is a function of the frame's number: the script gives the same
clip again.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from talkswap.faces.mesh import FACE_OVAL, INNER_LIPS, LEFT_EYE_RING, OUTER_LIPS, RIGHT_EYE_RING
from talkswap.media.codecs import EncoderSettings
from talkswap.media.mux import mux
from talkswap.media.sound import load_voice
from talkswap.media.writer import VideoWriter
from talkswap.types import ClipInfo, ColourTags, FloatArray, UInt8Image

RATE = Fraction(25)  # frames per second
WIDTH, HEIGHT = 960, 540  # px
SCALE = WIDTH / 512  # the photograph is 512 px wide; its upper 288 rows fill the picture
OWN_WORDS = "Good morning from the space center. The countdown goes on, and all systems are ready for the flight."
NEW_WORDS = "This is another voice with other words. The lips should follow it, while everything else stays as it was."
CAVITY = (38, 16, 18)  # RGB of an open mouth
BROWS = (70, 63, 105, 66, 107, 336, 296, 334, 293, 300, 46, 53, 52, 65, 55, 285, 295, 282, 283, 276, 151, 9, 108, 337)
NOSE = (168, 6, 197, 195, 5, 4, 1, 2, 98, 327, 129, 358, 193, 417)  # at rest, as brows and cheeks: they hold the rest
CHEEKS = (50, 280, 116, 345, 118, 347, 230, 450, 228, 448, 205, 425)
UPPER_INNER = INNER_LIPS[:11]  # corner to corner
LOWER_INNER = (INNER_LIPS[0], *INNER_LIPS[:10:-1], INNER_LIPS[10])


def speak(words: str, path: Path, voice: str, pitch: int, speed: int) -> None:
    """A sentence as 16 kHz mono WAV."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "spoken.wav"
        subprocess.run(
            ["espeak-ng", "-v", voice, "-p", str(pitch), "-s", str(speed), "-w", str(raw), words], check=True
        )
        write_wav(path, load_voice(raw, 16000).samples)


def write_wav(path: Path, samples: FloatArray) -> None:
    """16 kHz, 16 bits, mono."""
    import wave

    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


def opening(samples: FloatArray, frames: int) -> FloatArray:
    """How far the mouth is open in each frame, 0 to 1: loudness around the frame's time, smoothed."""
    step = 16000 / float(RATE)
    loudness = np.zeros(frames, np.float32)
    for frame in range(frames):
        middle = round((frame + 0.5) * step)
        window = samples[max(0, middle - 480) : middle + 480]
        loudness[frame] = np.sqrt(np.mean(window**2)) if len(window) else 0.0
    loudness = np.clip(loudness / np.percentile(loudness, 90), 0, 1) ** 0.7
    kernel = np.array([0.2, 0.6, 0.2], np.float32)
    return np.convolve(loudness, kernel, "same").astype(np.float32)


def find_landmarks(rgb: UInt8Image, teachers: Path | None) -> FloatArray:
    """478 landmarks, by the teacher of the training data or by our own compact networks."""
    if teachers is not None:
        from talkswap.data.portraits import LandmarkTeacher

        with LandmarkTeacher(teachers, video=False) as teacher:
            landmarks = teacher(rgb)
    else:
        from talkswap.checkpoints.presets import find_preset
        from talkswap.faces.analyse import load_analyser

        landmarks = load_analyser(find_preset("compact")).detect(rgb)[0].landmarks
    assert landmarks is not None
    return landmarks


def spline(points: NDArray[np.float64], values: NDArray[np.float64], grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Thin-plate spline through ``values`` (N 2) at ``points`` (N 2), read at ``grid`` (M 2)."""

    def kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        squared = ((a[:, None] - b[None]) ** 2).sum(2)
        return squared * np.log(np.maximum(squared, 1e-9)) * 0.5

    count = len(points)
    plane = np.concatenate([np.ones((count, 1)), points], 1)
    system = np.zeros((count + 3, count + 3))
    system[:count, :count] = kernel(points, points) + 2.0 * np.eye(count)  # a little slack: lips may nearly touch
    system[:count, count:], system[count:, :count] = plane, plane.T
    weights = np.linalg.solve(system, np.concatenate([values, np.zeros((3, 2))]))
    return kernel(grid, points) @ weights[:count] + np.concatenate([np.ones((len(grid), 1)), grid], 1) @ weights[count:]


class TalkingPhoto:
    """A photograph whose mouth, eyes and head can be posed."""

    def __init__(self, rgb: UInt8Image, landmarks: FloatArray) -> None:
        self.rgb = rgb
        self.points = landmarks[:, :2].astype(np.float64)
        low, high = self.points.min(0), self.points.max(0)
        self.centre, self.size = (low + high) / 2, float((high - low).max())
        moving = {*FACE_OVAL, *INNER_LIPS, *OUTER_LIPS, *LEFT_EYE_RING, *RIGHT_EYE_RING}
        self.used = sorted(moving | {*BROWS, *NOSE, *CHEEKS})
        self.brow = float(self.points[159, 1] - self.points[52, 1])  # px from lid to brow
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        self.anchors = self.centre + self.size * np.stack([np.cos(angles), np.sin(angles)], 1)
        rows, columns = np.mgrid[0:HEIGHT:4, 0:WIDTH:4]
        self.grid = np.stack([columns.ravel(), rows.ravel()], 1).astype(np.float64)
        self.grid_shape = rows.shape
        distance = np.hypot(*(self.grid - self.centre).T) / self.size
        self.near = distance < 1.1
        self.head = np.clip((1.9 - distance) / 1.1, 0, 1) ** 2 * (3 - 2 * np.clip((1.9 - distance) / 1.1, 0, 1))

    def moved(self, jaw: float, wide: float, lids: float) -> NDArray[np.float64]:
        """Landmarks with the jaw dropped (0 closed lips, 1 open), lips widened, eyelids closed (0 to 1)."""
        points = self.points.copy()
        mouth = points[[61, 291]].mean(0)
        lips_width = float(np.hypot(*(points[291] - points[61])))
        gap = points[14, 1] - points[13, 1]  # as photographed: a smile that shows teeth
        drop = jaw * 0.27 * lips_width - 0.85 * gap  # closed lips first have to meet
        lower = {*LOWER_INNER[1:-1]}
        ring = list(OUTER_LIPS)
        lower |= set(ring[ring.index(291) + 1 :])
        for index in lower:
            aside = abs(points[index, 0] - mouth[0]) / (lips_width / 2)
            points[index, 1] += drop * max(0.0, 1 - aside**2)
        for index in FACE_OVAL:
            depth = np.clip((points[index, 1] - mouth[1]) / (points[152, 1] - mouth[1]), 0, 1)
            points[index, 1] += 0.8 * drop * depth
        for index in {*INNER_LIPS, *OUTER_LIPS}:
            points[index, 0] += wide * (self.points[index, 0] - mouth[0])
        for ring_points in (LEFT_EYE_RING, RIGHT_EYE_RING):
            under, over = ring_points[9:], ring_points[1:8]
            for index, below in zip(over, reversed(under), strict=True):
                points[index] += lids * 0.85 * (self.points[below] - self.points[index])
        return points

    def pose(self, jaw: float, wide: float, lids: float, turn: float, shift: tuple[float, float]) -> UInt8Image:
        """One picture: ``turn`` in radians about the neck, ``shift`` of the head in px."""
        points = self.moved(jaw, wide, lids)
        lid = [*LEFT_EYE_RING[1:8], *RIGHT_EYE_RING[1:8]]
        # the skin between lid and brow follows evenly; a spline left alone there overshoots
        skin = np.concatenate([self.points[lid] - [0, part * self.brow] for part in (0.3, 0.6)])
        follow = np.concatenate([(points - self.points)[lid] * (1 - part) for part in (0.3, 0.6)])
        places = np.concatenate([points[self.used], skin + follow, self.anchors])
        values = np.concatenate([(self.points - points)[self.used], -follow, np.zeros_like(self.anchors)])
        offsets = np.zeros_like(self.grid)
        fade = np.clip((1.1 - np.hypot(*(self.grid[self.near] - self.centre).T) / self.size) / 0.2, 0, 1)
        offsets[self.near] = spline(places, values, self.grid[self.near]) * fade[:, None]
        sources = (self.grid + offsets).astype(np.float32).reshape(*self.grid_shape, 2)
        maps = cv2.resize(sources, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
        # the coarse grid's px lie at multiples of four; resize centres them, so put that shift back
        maps -= cv2.resize(self.grid.reshape(*self.grid_shape, 2).astype(np.float32), (WIDTH, HEIGHT)) - full_grid()
        picture = cv2.remap(self.rgb, maps, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
        picture = self._open_mouth(picture, points)
        return self._sway(picture, turn, shift)

    def _open_mouth(self, picture: UInt8Image, points: NDArray[np.float64]) -> UInt8Image:
        """Teeth stay at the upper lip at their own size; below them the mouth is dark."""
        shift = float((points[list(UPPER_INNER)] - self.points[list(UPPER_INNER)])[:, 1].mean())
        matrix = np.array([[1, 0, 0], [0, 1, -shift]], np.float64)
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        teeth = cv2.warpAffine(self.rgb, matrix, (WIDTH, HEIGHT), flags=flags)
        inside = polygon(np.concatenate([points[list(UPPER_INNER)], points[list(LOWER_INNER)][::-1]]), 1.0)
        ring = np.concatenate([self.points[list(UPPER_INNER)], self.points[list(LOWER_INNER)][::-1]])
        shown = polygon(ring + [0, shift], 1.5)[..., None]
        cavity = teeth * shown + np.array(CAVITY, np.float32) * (1 - shown)
        open_by = float(points[14, 1] - points[13, 1]) - float(self.points[14, 1] - self.points[13, 1])
        weight = inside[..., None] * np.clip(open_by / 3, 0, 1)
        return np.clip(picture * (1 - weight) + cavity * weight, 0, 255).astype(np.uint8)

    def _sway(self, picture: UInt8Image, turn: float, shift: tuple[float, float]) -> UInt8Image:
        """The head moves, the suit and the background follow less and less."""
        neck = self.centre + [0, 0.9 * self.size]
        apart = self.grid - neck
        cos, sin = np.cos(turn), np.sin(turn)
        rotated = np.stack([cos * apart[:, 0] + sin * apart[:, 1], cos * apart[:, 1] - sin * apart[:, 0]], 1) + neck
        offsets = (rotated - self.grid - np.array(shift)) * self.head[:, None]
        field = cv2.resize(offsets.astype(np.float32).reshape(*self.grid_shape, 2), (WIDTH, HEIGHT))
        return cv2.remap(picture, full_grid() + field, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)


def full_grid() -> FloatArray:
    """x, y of every px."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    return np.stack([columns, rows], 2)


def polygon(points: NDArray[np.float64], feather: float) -> FloatArray:
    """1 inside, soft at the edge."""
    mask = np.zeros((HEIGHT, WIDTH), np.float32)
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 1.0, cv2.LINE_AA, 4)
    return cv2.GaussianBlur(mask, (0, 0), feather)


def blink(seconds: float, moments: tuple[float, ...]) -> float:
    """How closed the eyes are: a fifth of a second around each moment."""
    return max(0.0, *(1 - abs(seconds - moment) / 0.12 for moment in moments))


def make_target(photo: UInt8Image, teachers: Path | None, sound: Path, output: Path) -> None:
    """The talking photograph as a clip with its own sound."""
    base = cv2.resize(photo[:288], (WIDTH, HEIGHT), interpolation=cv2.INTER_LANCZOS4)
    talker = TalkingPhoto(base, find_landmarks(base, teachers))
    voice = load_voice(sound, 16000)
    count = int(voice.seconds * RATE) + 1
    mouth = opening(voice.samples, count)
    times = [index / RATE for index in range(count)]
    colour = ColourTags(matrix=1, primaries=1, transfer=1, range=1)
    with tempfile.TemporaryDirectory() as folder:
        silent = Path(folder) / "silent.mp4"
        info = ClipInfo(
            silent, WIDTH, HEIGHT, RATE, 1 / (RATE * 512), count / RATE, count, 0, "h264", "yuv420p", 8, colour, False
        )
        settings = EncoderSettings(crf=21, preset="slow")
        with VideoWriter(silent, info, settings, count / RATE) as writer:
            for index, when in enumerate(times):
                s = float(when)
                turn = 0.035 * np.sin(2 * np.pi * s / 3.7) + 0.012 * np.sin(2 * np.pi * s / 1.3)
                shift = (5.0 * np.sin(2 * np.pi * s / 4.6), 2.5 * np.sin(2 * np.pi * s / 2.1) + 2.0 * mouth[index])
                wide = 0.05 * np.sin(2 * np.pi * s / 0.83) * mouth[index]
                picture = talker.pose(float(mouth[index]), wide, blink(s, (0.9, 3.1, 5.4)), turn, shift)
                writer.write(camera(picture, s), when)
        mux(silent, voice, silent, output, times, count / RATE, overwrite=True)


def camera(picture: UInt8Image, seconds: float) -> UInt8Image:
    """A hand-held camera: a few px of drift inside a slightly enlarged picture."""
    matrix = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), 0.4 * np.sin(2 * np.pi * seconds / 5.9), 1.03)
    matrix[:, 2] += 4 * np.sin(2 * np.pi * seconds / 5.1), 3 * np.cos(2 * np.pi * seconds / 4.3)
    return cv2.warpAffine(picture, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)


def make_placeholder_source(photo: UInt8Image, output: Path) -> None:
    """Until our own networks invent somebody: the same portrait mirrored and in other colours."""
    head = cv2.resize(photo[0:220, 120:340][:, ::-1], (512, 512), interpolation=cv2.INTER_LANCZOS4)
    lab = cv2.cvtColor(head, cv2.COLOR_RGB2LAB).astype(np.float32)
    lab[..., 0] *= 0.82
    lab[..., 2] += 6
    cv2.imwrite(str(output), cv2.cvtColor(np.clip(lab, 0, 255).astype(np.uint8), cv2.COLOR_LAB2BGR))


def main() -> None:
    """Make all three files."""
    import skimage.data

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teachers", type=Path, help="folder with face_landmarker.task; without it: compact weights")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--source", action="store_true", help="also write the placeholder source.png")
    options = parser.parse_args()
    photo = skimage.data.astronaut()
    speak(NEW_WORDS, options.out / "voice.wav", "en-gb", 42, 180)
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "own.wav"
        speak(OWN_WORDS, own, "en-us+f3", 55, 170)
        make_target(photo, options.teachers, own, options.out / "target.mp4")
    if options.source:
        make_placeholder_source(photo, options.out / "source.png")


if __name__ == "__main__":
    main()
