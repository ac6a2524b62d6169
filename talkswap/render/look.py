"""Look through a clip for the people in it, at a bounded number of frames.

A render needs to know whose face it changes before it meets the first frame, and must never take another face
when that one is away.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from talkswap.faces.analyse import FaceAnalyser
from talkswap.faces.people import PICTURE, Person, survey
from talkswap.faces.track import FaceTracker, TrackConfig
from talkswap.media.index import FrameIndex
from talkswap.media.reader import ClipReader
from talkswap.media.timeline import Timeline
from talkswap.types import ClipInfo, Frame, UInt8Image


@dataclass(frozen=True)
class LookConfig:
    """How closely a clip is looked through."""

    opening_frames: int = 240  # decoded one after another
    step: int = 24  # every k-th of them is looked at, in a short clip more
    least_looks: int = 8  # frames of a short clip that are looked at, if it has them
    later_keyframes: int = 24  # at most that many of the rest
    enough: int = 12  # where the whole clip has to be searched: frames with a face after which that ends

    def step_for(self, frames: int) -> int:
        """Which k-th frame is looked at in the opening of a clip of so many frames."""
        return max(1, min(self.step, frames // self.least_looks))


def sample_frames(info: ClipInfo, index: FrameIndex, config: LookConfig) -> Iterator[Frame]:
    """Frames to look at: regularly in the opening, then at keyframes, where decoding can start."""
    step = config.step_for(len(index.times))
    with ClipReader(info, index) as reader:
        # the picture behind the opening is needed too: with it the reading stops
        for frame in reader.frames({*range(0, config.opening_frames, step), config.opening_frames}):
            if frame.index >= config.opening_frames:
                break
            yield frame
    later = [k for k in index.keyframes if k >= config.opening_frames]
    if not later:
        return
    chosen = np.linspace(0, len(later) - 1, min(len(later), config.later_keyframes)).astype(int)
    pictures = tuple(dict.fromkeys(later[i] for i in chosen))
    timeline = Timeline(pictures, tuple(index.times[p] for p in pictures), index.duration)
    with ClipReader(info, index) as reader:
        yield from reader.frames_for(timeline)


def remaining_frames(info: ClipInfo, index: FrameIndex, config: LookConfig) -> Iterator[Frame]:
    """Frames of the whole clip, decoded one after another, that lie between those of :func:`sample_frames`."""
    step = config.step_for(len(index.times))
    with ClipReader(info, index) as reader:
        yield from reader.frames(range(step // 2, len(index.times), step))


def people_in_clip(
    info: ClipInfo,
    index: FrameIndex,
    analyser: FaceAnalyser,
    config: LookConfig | None = None,
    size: int = PICTURE,
) -> list[Person]:
    """Everybody seen, the most prominent first; a person's ``index`` is what ``--face`` takes.

    ``size`` is the side of each person's first face in px.  Where the samples show nobody, as after a long title, the
    whole clip is decoded until somebody appears.
    """
    config = config or LookConfig()
    # The frames lie far apart: each is searched by itself, and who is who goes by likeness, else by place.
    track = TrackConfig(detect_every=1, follow=False)
    people = survey(sample_frames(info, index, config), FaceTracker(analyser, track, analyser.embed), size=size)
    if people:
        return people
    frames = remaining_frames(info, index, config)
    return survey(frames, FaceTracker(analyser, track, analyser.embed), config.enough, size)


def thumbnail(person: Person, size: int = 128) -> UInt8Image:
    """The person's aligned face (size size 3) where it is largest and least turned."""
    return np.asarray(cv2.resize(person.picture, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
