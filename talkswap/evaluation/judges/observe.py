"""One pass over a clip for all metrics: landmarks, FFHQ crops, sound and times.

The truth (the target clip as it is) comes first and decides where the crops lie.  A result is cut by the same squares,
frame for frame, so that two crops differ in their pictures and never in their framing.  The landmarks of both come from
the same analyser, each from its own pictures.

Crops are in a file that is mapped into memory, so that an evaluation's memory doesn't grow with a clip's length.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from talkswap.errors import NoSourceFaceError, NoTargetFaceError
from talkswap.evaluation.metrics.metric import has_face
from talkswap.faces import analyse, geometry, mesh
from talkswap.faces.people import FaceChooser
from talkswap.faces.track import FaceTracker, TrackedFace
from talkswap.files import write_arrays, write_error
from talkswap.media.index import index_frames
from talkswap.media.probe import probe
from talkswap.media.reader import ClipReader
from talkswap.media.sound import load_voice, shift_voice
from talkswap.render.source import read_photo
from talkswap.types import FloatArray, UInt8Image, Voice

LEAST_OVERLAP = 0.3  # of a result's face with the truth's, as boxes: below, it is somebody else's


@dataclass(frozen=True)
class Photo:
    """A source face."""

    name: str  # of the clip or file that it shows
    speaker: str
    path: Path
    crop: UInt8Image  # S S 3, FFHQ
    landmarks: FloatArray  # 478 3 in px of the crop


@dataclass(frozen=True)
class ClipTrack:
    """Where the analyser sees a clip's face, before any crop is cut."""

    times: NDArray[np.float64]  # T seconds
    landmarks: FloatArray  # T 478 3 in px of the picture, nan where no face is
    affines: FloatArray  # T 2 3, picture px -> crop px; without a face, that of the last one
    width: int  # px of the picture
    height: int


@dataclass(frozen=True)
class Observation:
    """What the metrics see of one clip; all arrays have one row per frame."""

    video: Path
    times: NDArray[np.float64]  # T seconds from the first frame
    crops: NDArray[np.uint8]  # T S S 3, mapped from a file
    landmarks: FloatArray  # T 478 3 in px of the crops, nan where no face is
    affines: FloatArray  # T 2 3, picture px -> crop px
    voice: Voice  # the clip's sound on its pictures' clock
    width: int  # px of the picture
    height: int
    rows: NDArray[np.intp]  # T: the truth's frame that each is compared with

    @property
    def picture_landmarks(self) -> FloatArray:
        """The landmarks (T 478 3) in px of the picture."""
        points = np.full_like(self.landmarks, np.nan)
        for row in np.flatnonzero(has_face(self.landmarks)):
            points[row] = geometry.transform_points(geometry.invert_affine(self.affines[row]), self.landmarks[row])
        return points

    def pictures(self) -> Iterator[UInt8Image]:
        """The whole pictures (H W 3) of the frames, decoded anew."""
        with ClipReader(probe(self.video)) as reader:
            for frame in reader.frames():
                if frame.index >= len(self.times):
                    return
                yield frame.rgb


def open_photo(name: str, speaker: str, path: Path, analyser: analyse.FaceAnalyser, size: int) -> Photo:
    """Read a photo and cut its largest face out.

    Raises:
        NoSourceFaceError: there is none.
        InputMissingError, UnreadableMediaError.
    """
    picture = read_photo(path)
    faces = analyser.detect(picture)
    if not faces:
        raise NoSourceFaceError(f"no face was found in {path}", "choose a photo with one face seen from the front")
    # A photo may show bystanders; the largest face is the one that is meant.
    face = max(faces, key=lambda f: float((f.box[2] - f.box[0]) * (f.box[3] - f.box[1])))
    aligned = geometry.align(picture, face.landmarks, size)
    return Photo(name, speaker, path, aligned.crop, aligned.landmarks)


def sound_of(video: Path) -> Voice:
    """The sound of a clip on its pictures' clock.

    Raises:
        NoAudioError, UnreadableMediaError.
    """
    return shift_voice(load_voice(video), probe(video).audio_offset)


def track_clip(
    video: Path, analyser: analyse.FaceAnalyser, size: int, cache: Path | None = None, end: float = math.inf
) -> ClipTrack:
    """Follow the most prominent face of a clip.

    Args:
        size: px of the crops that will be cut.
        cache: a file for the track; if it is there already, it is read instead of the clip.
        end: seconds from which frames are left out.

    Raises:
        NoTargetFaceError: no frame shows a face.
        UnreadableMediaError, OutputUnwritableError.
    """
    if cache is not None and cache.is_file():
        with np.load(cache) as stored:
            width, height = (int(n) for n in stored["size"])
            return ClipTrack(stored["times"], stored["landmarks"], stored["affines"], width, height)
    info = probe(video)
    # The analyser's embedding tells people apart, so that the same face is followed through crossings and cuts.
    tracker, choose = FaceTracker(analyser, embed=analyser.embed), FaceChooser()
    times, landmarks = [], []
    affines: list[FloatArray | None] = []
    with ClipReader(info) as reader:
        for frame in reader.frames():
            if frame.time >= end:
                break
            face = choose(tracker.update(frame), *frame.rgb.shape[:2])
            times.append(float(frame.time))
            landmarks.append(np.full((mesh.POINTS, 3), np.nan, np.float32) if face is None else face.face.landmarks)
            affines.append(None if face is None else face.affine(size))
    # Without a face the square stays where it was last; before the first face it is where that one will be.
    last = next((affine for affine in affines if affine is not None), None)
    if last is None:
        raise NoTargetFaceError(f"no face was found in {video}", "leave the clip out")
    squares = []
    for affine in affines:
        last = last if affine is None else affine
        squares.append(last)
    track = ClipTrack(
        np.array(times), np.stack(landmarks), np.stack(squares).astype(np.float32), info.width, info.height
    )
    if cache is not None:
        arrays = {"times": track.times, "landmarks": track.landmarks, "affines": track.affines}
        write_arrays(cache, {**arrays, "size": np.array([info.width, info.height])})
    return track


def observe_truth(video: Path, voice: Voice, track: ClipTrack, size: int, folder: Path | None) -> Observation:
    """A target clip as it is, cut where its own face lies.

    Args:
        voice: its sound, on its pictures' clock.
        size: px of the crops.
        folder: for the file of crops, which is replaced; the caller removes it.  None: without crops, for a clip that
            only gives a voice and its mouth.

    Raises:
        UnreadableMediaError, OutputUnwritableError.
    """
    count = len(track.times)
    crops: Any = np.zeros((count if folder is None else 0, 0, 0, 3), np.uint8)
    if folder is not None:
        path = folder / f"{video.stem}.crops.npy"
        try:
            # Tens of megabytes per clip: the crops live in a mapped file, and the caller's folder goes with the pair.
            crops = create_crop_file(path, count, size)
            with ClipReader(probe(video)) as reader:
                for row, frame in zip(range(count), reader.frames(), strict=False):
                    crops[row] = geometry.warp_crop(frame.rgb, track.affines[row], size)
            crops.flush()
        except OSError as error:
            raise write_error(path, error) from error
    aligned = np.stack([geometry.transform_points(m, p) for m, p in zip(track.affines, track.landmarks, strict=True)])
    return Observation(
        video, track.times, crops, aligned, track.affines, voice, track.width, track.height, np.arange(count)
    )


def observe_result(
    video: Path, truth: Observation, analyser: analyse.FaceAnalyser, folder: Path, end: float = math.inf
) -> Observation:
    """A finished clip, cut by the truth's squares.

    A result as long as the truth is compared frame by frame.  In any other, each frame is compared with the truth's
    nearest in time, and frames beyond the truth's end are left out.

    Args:
        folder: for the file of crops, which is replaced; the caller removes it.
        end: seconds from which frames are left out.

    Raises:
        NoTargetFaceError: no frame shows a face where the truth has one.
        UnreadableMediaError, NoAudioError, OutputUnwritableError.
    """
    info = probe(video)
    # The index tells the times without decoding, so that rows can be matched before the first frame.
    index = index_frames(info)
    rows = matching_rows(np.array([float(t) for t in index.times if t < end]), truth.times)
    size = truth.crops.shape[1]
    tracker = FaceTracker(analyser, embed=analyser.embed)
    path = folder / f"{video.stem}.crops.npy"
    places = truth.picture_landmarks
    times: list[float] = []
    landmarks = np.full((len(rows), mesh.POINTS, 3), np.nan, np.float32)
    try:
        crops = create_crop_file(path, len(rows), size)
        with ClipReader(info, index) as reader:
            for row, frame in enumerate(reader.frames()):
                if row >= len(rows):
                    break
                affine = truth.affines[rows[row]]
                face = face_at(tracker.update(frame), places[rows[row]])
                times.append(float(frame.time))
                crops[row] = geometry.warp_crop(frame.rgb, affine, size)
                if face is not None:
                    landmarks[row] = geometry.transform_points(affine, face.face.landmarks)
        crops.flush()
    except OSError as error:
        raise write_error(path, error) from error
    count = len(times)  # fewer than the index where frames are damaged
    if not np.isfinite(landmarks[:count]).any():
        raise NoTargetFaceError(f"no face was found in {video} where the target has one", "check the clip")
    return Observation(
        video, np.array(times), crops[:count], landmarks[:count], truth.affines[rows[:count]], sound_of(video),
        info.width, info.height, rows[:count],
    )  # fmt: skip


def matching_rows(times: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.intp]:
    """The truth's frame that each frame of a result is compared with; shorter than the result if the truth ends first.

    Args:
        times: seconds, ascending.
        truth: seconds, ascending.
    """
    if len(times) == len(truth):
        return np.arange(len(times))
    step = float(np.median(np.diff(truth))) if len(truth) > 1 else 1.0
    inside = times < truth[-1] + step - 1e-6  # its last frame is shown for as long as the others
    # Each frame of the result goes to the truth's frame whose middle is nearest.
    edges = (truth[1:] + truth[:-1]) / 2
    return np.searchsorted(edges, times[inside]).astype(np.intp)


def matched_truth(truth: Observation, result: Observation, folder: Path) -> Observation:
    """The truth with one row for each row of the result.

    Args:
        folder: for a file of crops if the rows aren't simply the first ones.
    """
    rows = result.rows
    if (rows == np.arange(len(rows))).all():
        crops = truth.crops[: len(rows)]
    else:
        crops = create_crop_file(folder / f"{result.video.stem}.truth.npy", len(rows), truth.crops.shape[1])
        for row, own in enumerate(rows):
            crops[row] = truth.crops[own]
    return replace(
        truth, times=result.times, crops=crops, landmarks=truth.landmarks[rows], affines=truth.affines[rows], rows=rows
    )


def face_at(faces: list[TrackedFace], place: FloatArray) -> TrackedFace | None:
    """The face of a result at the place (landmarks, 478 3) of the truth's face, whoever it shows by now."""
    if not faces:
        return None
    if not np.isfinite(place[0, 0]):  # the truth has no face in this frame
        return faces[0]
    # A swap changes identity, so the face is recognised by its place and not by who it is.
    shares = [
        geometry.box_overlap(geometry.box_around(face.face.landmarks), geometry.box_around(place)) for face in faces
    ]
    best = int(np.argmax(shares))
    return faces[best] if shares[best] >= LEAST_OVERLAP else None


def create_crop_file(path: Path, count: int, size: int) -> Any:
    """A memory-mapped array (count size size 3); an earlier file of that name is unlinked, not overwritten."""
    path.unlink(missing_ok=True)
    return np.lib.format.open_memmap(path, "w+", np.uint8, (count, size, size, 3))
