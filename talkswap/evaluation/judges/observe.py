"""Look at a clip once for all metrics: landmarks, FFHQ crops, sound and times.

The truth (the target clip as it is) is looked at first and decides where the crops lie; a result is cut by the same
squares, frame for frame, so that a difference between crops is a difference between pictures and never one of framing.
Landmarks of both come from the same analyser, each from its own pictures.

Crops lie in a file and are mapped into memory, so that what an evaluation needs does not grow with a clip's length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from talkswap.errors import NoTargetFaceError, OutputUnwritableError
from talkswap.faces.analyse import FaceAnalyser
from talkswap.faces.geometry import box_around, box_overlap, transform_points, warp_crop
from talkswap.faces.mesh import POINTS
from talkswap.faces.people import FaceChooser
from talkswap.faces.track import FaceTracker, TrackedFace
from talkswap.files import write_arrays
from talkswap.media.index import index_frames
from talkswap.media.probe import probe
from talkswap.media.reader import ClipReader
from talkswap.media.sound import load_voice, shift_voice
from talkswap.types import FloatArray, Voice

LEAST_OVERLAP = 0.3  # of a result's face with the truth's, as boxes: below, it is somebody else's


@dataclass(frozen=True)
class Observation:
    """What the metrics see of one clip; all arrays have one row per frame."""

    video: Path
    times: NDArray[np.float64]  # T seconds from the first frame
    crops: NDArray[np.uint8]  # T S S 3, mapped from a file
    landmarks: FloatArray  # T 478 3 in px of the crops, nan where no face was found
    affines: FloatArray  # T 2 3, picture px -> crop px
    voice: Voice  # the clip's sound on its pictures' clock
    width: int  # px of the picture
    height: int
    rows: NDArray[np.intp]  # T: the truth's frame that each is held against

    @property
    def rate(self) -> float:
        """Frames per second, on average."""
        return (len(self.times) - 1) / float(self.times[-1] - self.times[0]) if len(self.times) > 1 else 25.0

    @property
    def seen(self) -> NDArray[np.bool_]:
        """T: frames in which a face was found."""
        return np.isfinite(self.landmarks[:, 0, 0])

    @property
    def unaligned(self) -> FloatArray:
        """The landmarks (T 478 3) in px of the picture."""
        turned = np.full_like(self.landmarks, np.nan)
        for row in np.flatnonzero(self.seen):
            matrix = np.vstack([self.affines[row], [0, 0, 1]]).astype(np.float64)
            turned[row] = transform_points(np.linalg.inv(matrix)[:2].astype(np.float32), self.landmarks[row])
        return turned


def sound_of(video: Path) -> Voice:
    """The sound of a clip on its pictures' clock.

    Raises:
        NoAudioError, UnreadableMediaError.
    """
    return shift_voice(load_voice(video), probe(video).audio_offset)


@dataclass(frozen=True)
class Seen:
    """What the analyser found in a clip, before any crop is cut."""

    times: NDArray[np.float64]  # T seconds
    landmarks: FloatArray  # T 478 3 in px of the picture, nan where no face was found
    affines: FloatArray  # T 2 3, picture px -> crop px; where no face was found, those of the last one
    width: int  # px of the picture
    height: int


def look(video: Path, analyser: FaceAnalyser, size: int, keep: Path | None = None, end: float = math.inf) -> Seen:
    """Follow the most prominent face of a clip.

    Args:
        size: px of the crops that will be cut.
        keep: file for what was found; where it is there already, it is read and the clip is not looked at.
        end: seconds from which frames are left out.

    Raises:
        NoTargetFaceError: no frame shows a face.
        UnreadableMediaError, OutputUnwritableError.
    """
    if keep is not None and keep.is_file():
        with np.load(keep) as stored:
            width, height = (int(n) for n in stored["size"])
            return Seen(stored["times"], stored["landmarks"], stored["affines"], width, height)
    info = probe(video)
    tracker, choose = FaceTracker(analyser, embed=analyser.embed), FaceChooser()
    times, landmarks, affines = [], [], []
    with ClipReader(info) as reader:
        for frame in reader.frames():
            if frame.time >= end:
                break
            face = choose(tracker.update(frame), *frame.rgb.shape[:2])
            times.append(float(frame.time))
            landmarks.append(np.full((POINTS, 3), np.nan, np.float32) if face is None else face.face.landmarks)
            affines.append(None if face is None else face.affine(size))
    squares = _held(affines)
    if squares is None:
        raise NoTargetFaceError(f"no face was found in {video}", "leave the clip out")
    seen = Seen(np.array(times), np.stack(landmarks), squares, info.width, info.height)
    if keep is not None:
        arrays = {"times": seen.times, "landmarks": seen.landmarks, "affines": seen.affines}
        write_arrays(keep, {**arrays, "size": np.array([info.width, info.height])})
    return seen


def observe_truth(video: Path, voice: Voice, seen: Seen, size: int, folder: Path | None) -> Observation:
    """A target clip as it is, cut where its own face lies.

    Args:
        voice: its sound, on its pictures' clock.
        size: px of the crops.
        folder: for the file of crops, which is replaced; the caller removes it.  None: no crops are wanted, only what
            was seen and heard.

    Raises:
        UnreadableMediaError, OutputUnwritableError.
    """
    count = len(seen.times)
    crops: Any = np.zeros((count if folder is None else 0, 0, 0, 3), np.uint8)
    if folder is not None:
        path = folder / f"{video.stem}.crops.npy"
        try:
            crops = _crop_file(path, count, size)
            with ClipReader(probe(video)) as reader:
                for row, frame in zip(range(count), reader.frames(), strict=False):
                    crops[row] = warp_crop(frame.rgb, seen.affines[row], size)
            crops.flush()
        except OSError as error:
            raise OutputUnwritableError(f"cannot write {path}: {error.strerror}", "is the disk full?") from error
    aligned = np.stack([transform_points(m, p) for m, p in zip(seen.affines, seen.landmarks, strict=True)])
    return Observation(
        video, seen.times, crops, aligned, seen.affines, voice,
        seen.width, seen.height, np.arange(count),
    )  # fmt: skip


def observe_result(
    video: Path,
    truth: Observation,
    analyser: FaceAnalyser,
    folder: Path,
    end: float = math.inf,
) -> Observation:
    """Look at a finished clip, cut by the truth's squares.

    A result as long as the truth is compared frame by frame; of any other each frame goes with the truth's nearest in
    time, and what lies beyond the truth's end is left out.

    Args:
        folder: for the file of crops, which is replaced; the caller removes it.
        end: seconds from which frames are left out.

    Raises:
        NoTargetFaceError: no frame shows a face where the truth has one.
        UnreadableMediaError, NoAudioError, OutputUnwritableError.
    """
    info = probe(video)
    index = index_frames(info)
    rows = matching_rows(np.array([float(t) for t in index.times if t < end]), truth.times)
    size = truth.crops.shape[1]
    tracker = FaceTracker(analyser, embed=analyser.embed)
    path = folder / f"{video.stem}.crops.npy"
    places = truth.unaligned
    times: list[float] = []
    landmarks = np.full((len(rows), POINTS, 3), np.nan, np.float32)
    try:
        crops = _crop_file(path, len(rows), size)
        with ClipReader(info, index) as reader:
            for row, frame in enumerate(reader.frames()):
                if row >= len(rows):
                    break
                affine = truth.affines[rows[row]]
                face = _same_place(tracker.update(frame), _known(places[rows[row]]))
                found = None if face is None else face.face.landmarks
                times.append(float(frame.time))
                crops[row] = warp_crop(frame.rgb, affine, size)
                if found is not None:
                    landmarks[row] = transform_points(affine, found)
        crops.flush()
    except OSError as error:
        raise OutputUnwritableError(f"cannot write {path}: {error.strerror}", "is the disk full?") from error
    count = len(times)  # fewer than the index where frames are damaged
    if not np.isfinite(landmarks[:count]).any():
        raise NoTargetFaceError(f"no face was found in {video} where the target has one", "look at the clip")
    return Observation(
        video, np.array(times), crops[:count], landmarks[:count], truth.affines[rows[:count]], sound_of(video),
        info.width, info.height, rows[:count],
    )  # fmt: skip


def matching_rows(times: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.intp]:
    """For each frame of a result the truth's frame that it is held against; as many as have one.

    Args:
        times: seconds, ascending.
        truth: seconds, ascending.
    """
    if len(times) == len(truth):
        return np.arange(len(times))
    step = float(np.median(np.diff(truth))) if len(truth) > 1 else 1.0
    inside = times < truth[-1] + step - 1e-6  # its last frame is shown for as long as the others
    edges = (truth[1:] + truth[:-1]) / 2
    return np.searchsorted(edges, times[inside]).astype(np.intp)


def matched_truth(truth: Observation, result: Observation, folder: Path) -> Observation:
    """The truth with one row for each row of the result.

    Args:
        folder: for a file of crops where the rows are not simply the first ones.
    """
    rows = result.rows
    if (rows == np.arange(len(rows))).all():
        crops = truth.crops[: len(rows)]
    else:
        chosen = _crop_file(folder / f"{result.video.stem}.truth.npy", len(rows), truth.crops.shape[1])
        for row, own in enumerate(rows):
            chosen[row] = truth.crops[own]
        crops = chosen
    return replace(
        truth, times=result.times, crops=crops, landmarks=truth.landmarks[rows], affines=truth.affines[rows], rows=rows
    )


def _held(affines: list[FloatArray | None]) -> FloatArray | None:
    """T 2 3: where there is no face the square stays where it was last, before the first where it will be."""
    known = [affine for affine in affines if affine is not None]
    if not known:
        return None
    held, last = [], known[0]
    for affine in affines:
        last = last if affine is None else affine
        held.append(last)
    return np.stack(held).astype(np.float32)


def _same_place(faces: list[TrackedFace], place: FloatArray | None) -> TrackedFace | None:
    """The face of a result that lies where the truth's does: whoever it shows by now."""
    if not faces:
        return None
    if place is None:
        return faces[0]
    share, best = max((box_overlap(box_around(f.face.landmarks), box_around(place)), -k) for k, f in enumerate(faces))
    return faces[-best] if share >= LEAST_OVERLAP else None


def _known(landmarks: FloatArray) -> FloatArray | None:
    return landmarks if np.isfinite(landmarks[0, 0]) else None


def _crop_file(path: Path, count: int, size: int) -> Any:
    """A memory-mapped array (count size size 3); an earlier file of that name is unlinked, not overwritten."""
    path.unlink(missing_ok=True)
    return np.lib.format.open_memmap(path, "w+", np.uint8, (count, size, size, 3))
