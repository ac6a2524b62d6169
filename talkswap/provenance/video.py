"""The invisible mark in a clip: which frames are looked at, and whose faces are in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from talkswap.faces.align import warp_crop
from talkswap.faces.analyze import FaceAnalyser
from talkswap.faces.track import FaceTracker
from talkswap.media.index import FrameIndex, index_frames
from talkswap.media.probe import probe
from talkswap.media.reader import ClipReader
from talkswap.media.timeline import Timeline
from talkswap.provenance.detect import Evidence, Finding, SearchConfig
from talkswap.types import FloatArray

CROP = 320  # px of the aligned crop that a detector cuts
BURSTS = 6  # stretches of a long clip that are looked at
LEAST_FRAMES = 4  # of a face that is worth a search
MOST_FACES = 4  # that are searched, those seen most often first


@dataclass(frozen=True)
class FaceFinding:
    """What one person's face says."""

    face: int  # number in order of appearance
    finding: Finding
    width: float  # px of the face's square, mean


def bursts(index: FrameIndex, frames: int) -> tuple[int, ...]:
    """Frames to look at: all of a short clip, else stretches that begin at keyframes, spread over it."""
    count = len(index.times)
    if count <= frames:
        return tuple(range(count))
    length = max(1, frames // BURSTS)
    chosen: dict[int, None] = {}
    for place in range(BURSTS):
        wanted = place * (count - length) // max(BURSTS - 1, 1)
        start = max((key for key in index.keyframes if key <= wanted), default=0)
        chosen.update(dict.fromkeys(range(start, min(start + length, count))))
    return tuple(sorted(chosen))


def look(path: Path, analyser: FaceAnalyser, frames: int) -> list[FaceFinding]:
    """What the faces of a clip say, those with a mark first.

    Args:
        path: the clip.
        analyser: finds the faces.
        frames: how many frames are looked at.

    Raises:
        As of :func:`talkswap.media.probe.probe` and :func:`talkswap.media.index.index_frames`.
    """
    info = probe(path)
    index = index_frames(info)
    pictures = bursts(index, frames)
    timeline = Timeline(pictures, tuple(index.times[p] for p in pictures), index.duration)
    tracker = FaceTracker(analyser, embed=analyser.embed)
    evidence: dict[int, Evidence] = {}
    widths: dict[int, float] = {}
    with ClipReader(info, index) as reader:
        for frame in reader.frames_for(timeline):
            for tracked in tracker.update(frame):
                affine = tracked.affine(CROP)
                evidence.setdefault(tracked.track_id, Evidence()).add(warp_crop(frame.rgb, affine, CROP))
                widths[tracked.track_id] = (
                    widths.get(tracked.track_id, 0) + CROP / float(affine[0, :2] @ affine[0, :2]) ** 0.5
                )
    often = sorted((one for one in evidence if evidence[one].frames >= LEAST_FRAMES), key=lambda i: -evidence[i].frames)
    found = [FaceFinding(i, evidence[i].finding(), widths[i] / evidence[i].frames) for i in often[:MOST_FACES]]
    return sorted(found, key=lambda one: one.finding.message is None)


def read_at(path: Path, affines: Mapping[int, FloatArray]) -> Finding | None:
    """What a clip says at places that are known (frame -> 2 3, picture px -> crop px); None where none is."""
    if not affines:
        return None
    info = probe(path)
    index = index_frames(info)
    pictures = tuple(sorted(i for i in affines if i < len(index.times)))
    timeline = Timeline(pictures, tuple(index.times[p] for p in pictures), index.duration)
    evidence = Evidence()
    with ClipReader(info, index) as reader:
        for picture, frame in zip(pictures, reader.frames_for(timeline), strict=True):
            evidence.add(warp_crop(frame.rgb, affines[picture], CROP))
    return evidence.finding(SearchConfig(zooms=(1.0,), turns=(0.0,), shifts=(0.0,), tries=1))
