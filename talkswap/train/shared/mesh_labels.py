"""What the stage ``sync-former`` draws its samples from: displacements at any time of a clip, and the voice around it.

Some clips have all 478 points, some fewer.  Where a clip lacks points, a linear basis of those that have all fills them in
(*lifting*), for what the network reads; the loss looks at points that were there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from talkswap.animation.space import lip_opening, template_of
from talkswap.animation.sync_former import SyncFormerConfig
from talkswap.data.motion import MotionClip, spread_points
from talkswap.errors import TrainingDataError
from talkswap.faces.mesh import POINTS
from talkswap.types import FloatArray
from talkswap.voice.mel import SILENCE, MelConfig

LEAD = 0.25  # s of samples before a chunk's first frame


def mel_rows(net: SyncFormerConfig) -> tuple[int, int]:
    """Mel rows before frame 0 and in all, for one chunk."""
    before = net.mel.half + net.mel.stride
    last = (net.chunk - 1 + 0.5) / net.rate * net.mel.rate  # place of the last token, in rows after frame 0
    tokens = int(np.ceil((before + last - net.mel.half) / net.mel.stride)) + 2
    return before, (tokens - 1) * net.mel.stride + 2 * net.mel.half + 1


def sample_count(net: SyncFormerConfig) -> int:
    """Samples of one chunk for wav2vec2, from LEAD seconds before its first frame on."""
    return int((net.chunk / net.rate + 2 * LEAD) * 16000)


def held_out_names(path: Path | None) -> set[str]:
    """Speakers and clips in the lists of a JSON file.

    Raises:
        TrainingDataError: the file is missing.
    """
    if path is None:
        return set()
    if not path.is_file():
        raise TrainingDataError(
            f"no held-out list at {path}", "give a JSON file of speakers and clips, or leave it out"
        )
    stored = json.loads(path.read_text())
    lists = stored.values() if isinstance(stored, dict) else [stored]
    return {str(name) for names in lists if isinstance(names, list) for name in names}


def read_speech(folder: Path) -> list[tuple[FloatArray, NDArray[np.int8]]]:
    """Log-mel (T 80) and sound (T, see :data:`talkswap.train.shared.speech_labels.SOUNDS`) of speech without a mesh.

    Raises:
        TrainingDataError: there is none.
    """
    files = sorted(folder.glob("made-*.npz"))
    if not files:
        raise TrainingDataError(f"no labelled speech in {folder}", "run recipes/phonetics.py first")
    speech = []
    for file in files:
        with np.load(file) as stored:
            speech.append((stored["mel"], stored["sound"]))
    return speech


def opening_axis(clips: Sequence[MotionClip]) -> FloatArray:
    """Displacement per unit of lip opening (478 3): least squares within each clip that has all points."""
    total, square = np.zeros((POINTS, 3)), 0.0
    for clip in clips:
        if len(clip.points) < POINTS:
            continue
        shapes = clip.shapes[clip.seen].astype(np.float64)
        opening = lip_opening(shapes.astype(np.float32)).astype(np.float64)
        opening -= opening.mean()
        total += np.einsum("t,tpc->pc", opening, shapes - shapes.mean(0))
        square += float(opening @ opening)
    return np.asarray(total / max(square, 1e-9), np.float32)


class Lift:
    """Displacements of some of the points to all 478, by ridge regression.

    Args:
        clips: labels that have all points.
        points: P of the 478 that will be given.
        ridge: eye distances squared, per sample.
    """

    def __init__(self, clips: Sequence[MeshLabels], points: NDArray[np.int64], ridge: float = 1e-6) -> None:
        rows = sampled_rows(clips)
        given = rows[:, points].reshape(len(rows), -1)
        square = given.T @ given + ridge * len(rows) * np.eye(given.shape[1])
        self.matrix = np.linalg.solve(square, given.T @ rows.reshape(len(rows), -1)).astype(np.float32)
        self.points = points

    def __call__(self, displacements: FloatArray) -> FloatArray:
        """T P 3 to T 478 3; the given points stay as they are."""
        whole = (displacements.reshape(len(displacements), -1) @ self.matrix).reshape(len(displacements), -1, 3)
        whole[:, self.points] = displacements
        return whole


def sampled_rows(clips: Sequence[MeshLabels], count: int = 10000) -> NDArray[np.float64]:
    """About ``count`` displacements of all clips together (N 478 3)."""
    step = max(1, sum(int(clip.seen.sum()) for clip in clips) // count)
    return np.concatenate([clip.displacements[clip.seen][::step] for clip in clips]).astype(np.float64)


def measure_basis(
    clips: Sequence[MeshLabels], weights: FloatArray, count: int, unit: float
) -> tuple[FloatArray, FloatArray]:
    """Principal components of displacements, points weighted, so that a code's length is a mesh's weighted norm.

    Args:
        clips: labels that have all points.
        weights: 478, above 0.
        count: K.
        unit: eye distances, of the codes.

    Returns:
        (basis K 3P: a code's displacement in units, analysis K 3P: a displacement in units to its code).
    """
    root = np.sqrt(np.repeat(weights / weights.sum(), 3).astype(np.float64))  # 3P
    rows = sampled_rows(clips).reshape(-1, len(root)) * root / unit
    # Not centred: zero is the template, and it must stay where it is.
    _, axes = np.linalg.eigh(rows.T @ rows / len(rows))
    axes = axes[:, ::-1][:, :count].T  # K 3P
    return (axes / root).astype(np.float32), (axes * root).astype(np.float32)


class MeshLabels:
    """One clip: displacements from its own template, their codes, and its padded mel.

    Attributes:
        displacements: T P 3, half precision, zero where no face.
        codes: T D as :class:`~talkswap.animation.sync_former.SyncFormer` reads them, once :meth:`take_codes` was called.
        rest: D, mean code while the lips are most closed.
    """

    def __init__(self, clip: MotionClip, axis: FloatArray, room: int = 400) -> None:
        self.name, self.speaker, self.split, self.trust, self.lag = (
            clip.name, clip.speaker, clip.split, clip.trust, clip.lag,
        )  # fmt: skip
        self.times, self.points, self.seen = clip.times.astype(np.float64), clip.points, clip.seen
        whole = spread_points(clip)
        whole[~self.seen] = np.nan
        self.template = template_of(whole, axis)  # 478 3; of no use at points that are not there
        self.opening = np.where(self.seen, lip_opening(np.nan_to_num(whole)), np.nan).astype(np.float32)
        moved = whole[:, self.points] - self.template[self.points]
        self.displacements = np.nan_to_num(moved).astype(np.float16)
        self.voice = clip.voice
        self.codes = self.rest = np.zeros((0, 0), np.float32)
        self.room = room
        self.mel = np.pad(clip.mel, ((room, room), (0, 0)), constant_values=SILENCE).astype(np.float16)
        self.seconds = min(float(self.times[-1]), (len(clip.mel) - 1) / float(MelConfig().rate))

    def whole(self, lifts: Mapping[int, Lift]) -> FloatArray:
        """Displacements (T 478 3) with all points."""
        moved = self.displacements.astype(np.float32)
        return moved if len(self.points) == POINTS else lifts[len(self.points)](moved)

    def take_codes(self, codes: FloatArray) -> None:
        """Keep the codes (T D) of the clip's displacements."""
        closed = self.seen & (self.opening <= np.nanquantile(self.opening, 0.1))
        self.codes, self.rest = codes, codes[closed].mean(0)

    def voice_at(self, start: float, count: int) -> FloatArray:
        """Samples (``count``) at 16 kHz from a time on, silence beyond the ends, brought to mean 0 and variance 1."""
        first = round(start * 16000)
        piece = np.zeros(count, np.float32)
        low, high = max(first, 0), min(first + count, len(self.voice))
        if low < high:
            piece[low - first : high - first] = self.voice[low:high]
        return (piece - piece.mean()) / np.float32(np.sqrt(piece.var() + 1e-7))

    def mel_at(self, place: FloatArray) -> FloatArray:
        """Mel rows (L 80) at fractional places; silence beyond the ends."""
        place = np.clip(place + self.room, 0, len(self.mel) - 1.001)
        low = place.astype(np.int64)
        part = (place - low)[:, None].astype(np.float32)
        return self.mel[low].astype(np.float32) * (1 - part) + self.mel[low + 1].astype(np.float32) * part

    def at(self, times: NDArray[np.floating[Any]], series: FloatArray | None = None) -> tuple[FloatArray, FloatArray]:
        """Codes (N D), or another series with a row per frame, at times of the sound, and 1 where there is a face (N)."""
        series = self.codes if series is None else series
        place = np.asarray(times, np.float64) + self.lag  # s on the picture's clock
        high = np.searchsorted(self.times, place).clip(1, len(self.times) - 1)
        low = high - 1
        step = np.maximum(self.times[high] - self.times[low], 1e-6)
        part = ((place - self.times[low]) / step).clip(0, 1).astype(np.float32)
        part = part.reshape(-1, *[1] * (series.ndim - 1))
        inside = (place >= self.times[0] - 0.02) & (place <= self.times[-1] + 0.02) & (step < 0.2)
        values = series[low].astype(np.float32) * (1 - part) + series[high].astype(np.float32) * part
        return values, (inside & self.seen[low] & self.seen[high]).astype(np.float32)

    def reference_starts(self, first: float, last: float, length: float) -> tuple[float, float]:
        """Earliest and latest start of a reference of ``length`` seconds, apart from ``first`` to ``last`` if it can be."""
        before, after = first - length, self.seconds - length
        if after >= last and (before < 0 or after - last >= before):
            return last, after
        if before >= 0:
            return 0.0, before
        return 0.0, max(0.0, after)
