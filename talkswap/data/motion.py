"""Meshes and voices of talking people: what speech-to-mesh training reads.

``python -m talkswap.data.motion OUT --prepared DATA`` gathers them from what ``talkswap data prepare`` wrote; other sets can
be stored beside them (``recipes/motion.py``).  Sound and picture of many clips lie apart by up to a quarter of a second, so
each clip's lag is measured with the compact speech encoder, and how far its lips follow the sound at all.

Layout of OUT, one file per clip::

    NAME.npz   speaker · split · times T · shapes T P 3 (half precision, pose-free, nan where no face) · points P of the 478 ·
               mel M 80 (half precision) · voice N at 16 kHz (16 bit) · lag s by which the picture is later than the sound · trust 0.1 … 1.4
"""

import argparse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from talkswap.animation.space import lip_opening, pose_free
from talkswap.errors import TrainingDataError
from talkswap.faces.measures import pearson
from talkswap.faces.mesh import POINTS
from talkswap.files import write_arrays
from talkswap.types import FloatArray
from talkswap.voice.mel import MelConfig, log_mel


@dataclass(frozen=True)
class MotionClip:
    """One clip's mesh and voice."""

    name: str
    speaker: str
    split: str  # train | val
    times: FloatArray  # T s, growing
    shapes: FloatArray  # T P 3 pose-free, eye distances; nan where no face
    points: NDArray[np.int64]  # P of the 478
    mel: FloatArray  # M 80
    lag: float  # s by which the picture is later than its sound
    trust: float  # relative, how well lips and sound belong together; 1 is usual
    voice: NDArray[np.int16] = field(default_factory=lambda: np.zeros(0, np.int16))  # samples at 16 kHz, for wav2vec2

    @property
    def seen(self) -> NDArray[np.bool_]:
        """T: frames with a face."""
        return np.isfinite(self.shapes[:, 0, 0])


def read_prepared(folder: Path, split: str) -> Iterator[MotionClip]:
    """Clips of a prepared folder's split, lags not yet measured; a clip is its own speaker.

    Raises:
        TrainingDataError: nothing is prepared there.
    """
    files = sorted((folder / f"clips-{split}").glob("*.npz"))
    if not files:
        raise TrainingDataError(
            f"no prepared clips in {folder / f'clips-{split}'}", "run `talkswap data prepare` first"
        )
    for path in files:
        with np.load(path) as stored:
            times, landmarks, voice = stored["times"], stored["landmarks"], stored["voice"]
        shapes = pose_free(landmarks.astype(np.float32))
        mel = log_mel(voice.astype(np.float32))
        yield MotionClip(
            path.stem,
            path.stem,
            split,
            times.astype(np.float32),
            shapes,
            np.arange(POINTS),
            mel,
            0.0,
            1.0,
            sixteen_bits(voice),
        )


def sixteen_bits(samples: FloatArray) -> NDArray[np.int16]:
    """Samples in [-1, 1] as they are stored."""
    return np.round(np.clip(samples, -1, 1) * 32767).astype(np.int16)


def spread_points(clip: MotionClip) -> FloatArray:
    """A clip's shapes as T 478 3, zero where it lacks a point."""
    whole = np.zeros((len(clip.shapes), POINTS, 3), np.float32)
    whole[:, clip.points] = clip.shapes
    return whole


@dataclass(frozen=True)
class LagConfig:
    """Where a measured lag is believed."""

    farthest: float = 0.26  # s
    step: float = 0.02  # s
    least: float = 0.25  # correlation at the best lag
    height: float = 3.0  # of the peak over wrong lags, in their deviations
    doubtful: float = 0.15  # trust of a clip without a clear peak


def measure_lag(clip: MotionClip, config: LagConfig | None = None) -> MotionClip:
    """The clip with its lag and trust.

    Two curves are held against the lips' opening: what the compact speech encoder expects, and the voice's loudness.  The
    first alone or the mean of both correlations counts, whichever has the clearer peak.
    """
    from talkswap.data.talking import listener

    config = config or LagConfig()
    network = listener()
    curves = network(clip.mel)
    rate = float(MelConfig().rate) / network.network.config.stride
    opening, times = lip_opening(spread_points(clip))[clip.seen], clip.times[clip.seen]

    def agreement(lag: float) -> FloatArray:
        places = (times - lag) * rate
        return np.array(
            [pearson(opening, np.interp(places, np.arange(len(c)), c).astype(np.float32)) for c in curves], np.float32
        )

    count = round(config.farthest / config.step)
    lags = np.arange(-count, count + 1) * config.step
    near = np.stack([agreement(float(lag)) for lag in lags])  # L 2
    far = np.stack([agreement(sign * lag) for sign in (-1, 1) for lag in (0.6, 0.8, 1.0, 1.2, 1.4)])
    best, height = 0, -np.inf
    for peak, wrong in ((near[:, 0], far[:, 0]), (near.mean(1), far.mean(1))):
        place = int(peak.argmax())
        above = float((peak[place] - wrong.mean()) / max(float(wrong.std()), 1e-6))
        if above > height:
            best, height = place, above
    clear = near[best].max() >= config.least and height >= config.height
    trust = float(np.clip(near[best, 0] / 0.5, 0.1, 1.4)) if clear else config.doubtful
    return replace(clip, lag=float(round(lags[best], 3)) if clear else 0.0, trust=trust)


def store(clip: MotionClip, folder: Path) -> None:
    """Write a clip's file."""
    half = {"shapes": clip.shapes.astype(np.float16), "mel": clip.mel.astype(np.float16)}
    write_arrays(folder / f"{clip.name}.npz", {k: v for k, v in {**vars(clip), **half}.items() if k != "name"})


def open_motion(folder: Path) -> list[MotionClip]:
    """The clips of a gathered folder, by name.

    Raises:
        TrainingDataError: there is none.
    """
    clips = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as stored:
            clips.append(
                MotionClip(
                    path.stem, str(stored["speaker"]), str(stored["split"]), stored["times"].astype(np.float32),
                    stored["shapes"].astype(np.float32), stored["points"], stored["mel"].astype(np.float32),
                    float(stored["lag"]), float(stored["trust"]),
                    stored["voice"] if "voice" in stored else np.zeros(0, np.int16),
                )
            )  # fmt: skip
    if not clips:
        raise TrainingDataError(f"no meshes in {folder}", "run python -m talkswap.data.motion first")
    return clips


def gather(out: Path, clips: Iterable[MotionClip], echo: Callable[[str], None] = print) -> int:
    """Store every clip that OUT lacks, its lag measured; returns how many OUT holds."""
    out.mkdir(parents=True, exist_ok=True)
    present = {path.stem for path in out.glob("*.npz")}
    for clip in clips:
        if clip.name not in present and clip.seen.sum() > 30:
            measured = measure_lag(clip)
            store(measured, out)
            present.add(clip.name)
            echo(f"{clip.name}: lag {measured.lag:+.2f} s, trust {measured.trust:.2f}")
    return len(present)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--prepared", type=Path, required=True, help="folder of `talkswap data prepare`")
    args = parser.parse_args()
    clips = chain.from_iterable(read_prepared(args.prepared, split) for split in ("train", "val"))
    print(f"{gather(args.out, clips)} clips")


if __name__ == "__main__":
    main()
