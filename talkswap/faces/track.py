"""Follow faces through a clip: detect now and then, follow in between, smooth, keep each person's number.

A detector on every frame would take most of a render's time.  So it runs every k-th frame, when a face is lost, while
there is none, and after a shot cut; in between, landmarks are refitted from the frame before.  Numbers stay with a
person by overlap from frame to frame and, where identity vectors are given, by likeness through cuts and gaps.

One view may be poor, and landmarks may slide to a neighbour or run on through a cut that nobody saw.  So detector runs
also check followed faces: a view that fits joins the person's mean, one that doesn't ends the following, and whoever
is there then appears under a number of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import combinations
from typing import TYPE_CHECKING

import cv2
import numpy as np

from talkswap.faces.geometry import box_overlap, quad_affine, smooth_step, transform_points, warp_crop
from talkswap.faces.measures import pearson, yaw_degrees
from talkswap.faces.smooth import LandmarkSmoother, SmoothConfig, SquareSmoother
from talkswap.types import AlignedFace, Face, FloatArray, Frame, UInt8Image

if TYPE_CHECKING:
    from talkswap.faces.analyse import FaceAnalyser  # imports torch

Embed = Callable[[UInt8Image, FloatArray], FloatArray]
"""(picture H W 3, landmarks 478 3) -> unit identity vector."""


@dataclass(frozen=True)
class TrackConfig:
    """How faces are followed."""

    detect_every: int = 10  # frames between two runs of the detector
    least_score: float = 0.5  # below this a face is lost
    least_overlap: float = 0.3  # intersection over union at which two boxes are one face
    follow: bool = True  # False where frames lie far apart: each is searched, and likeness decides numbers
    # Identity cosine of a view to a person's mean, compact network, 18 held-out clips: of 297 views of the same person
    # 1 lies below 0.4 and none below 0.25; of 5276 of somebody else 92 % lie below 0.25 and 0.8 % at 0.4 or above.
    same_person: float = 0.4  # from here a face is theirs
    other_person: float = 0.25  # below this it is somebody else
    doubts: int = 3  # views in a row between the two that a track survives
    views: int = 3  # followed faces checked in one detector run; in a crowd they take turns
    suspicion: float = 0.9  # correlation of neighbouring thumbnails below which the detector runs early
    soonest: int = 3  # frames between two runs even then, and while faces touch: fast motion looks like a cut
    patience: int = 3  # detector runs in a row that may miss a face which is still followed well
    gap: Fraction = Fraction(1, 4)  # seconds out of sight after which the filters restart
    memory: Fraction = Fraction(2)  # seconds out of sight after which a place no longer tells who is there
    cut_likeness: float = 0.7  # correlation of neighbouring thumbnails below which the shot has changed
    cut_change: float = 8.0  # and the mean change in levels that it takes besides
    yaw_limit: float = 50.0  # degrees up to which a face is changed fully
    yaw_end: float = 75.0  # degrees from which it is left alone
    smooth: SmoothConfig = field(default_factory=SmoothConfig)


@dataclass(frozen=True)
class TrackedFace:
    """One face in one frame, smoothed."""

    track_id: int  # the person's number, from 0 in order of appearance
    face: Face  # as measured in this frame
    landmarks: FloatArray  # 478 3 px, smoothed
    centre: FloatArray  # 2 px, of the smoothed alignment square
    x: FloatArray  # 2 px, from the centre to the middle of the square's right side
    yaw: float  # degrees, positive = nose toward the picture's right
    fade: float  # 1 = change fully, 0 = leave alone (turned away)
    fresh: bool  # first frame after a cut, a gap or the start

    def affine(self, size: int) -> FloatArray:
        """2 3, picture px -> px of the aligned crop of ``size``."""
        return quad_affine(self.centre, self.x, size)

    def align(self, frame: Frame, size: int) -> AlignedFace:
        """The face cut out of its frame, ``size`` px wide, along the smoothed square."""
        affine = self.affine(size)
        points = transform_points(affine, self.landmarks)
        return AlignedFace(warp_crop(frame.rgb, affine, size), affine, points, frame.index)


def turned_away(yaw: float, config: TrackConfig) -> float:
    """Fade factor of a turned head: 1 up to ``yaw_limit``, 0 from ``yaw_end``, smooth between."""
    return float(smooth_step(abs(yaw), config.yaw_end, config.yaw_limit))


class CutFinder:
    """Tells a shot cut from motion by thumbnails of a few hundred grey px.

    Their correlation ignores brightness, so that a flash or a fade is no cut; the smallest change in levels keeps
    noise in a nearly even picture from counting as one.
    """

    def __init__(self, config: TrackConfig) -> None:
        self.config = config
        self.last: FloatArray | None = None
        self.suspect = False  # the last picture differs as after a cut between similar shots, or in fast motion

    def __call__(self, rgb: UInt8Image) -> bool:
        """Whether this picture (H W 3) begins a shot; False for the very first."""
        step = max(1, min(rgb.shape[0] // 72, rgb.shape[1] // 128))
        grey = np.ascontiguousarray(rgb[::step, ::step, 1])  # green stands for brightness
        thumbnail = cv2.resize(grey, (32, 18), interpolation=cv2.INTER_AREA).astype(np.float32)
        last, self.last = self.last, thumbnail
        self.suspect = False
        if last is None:
            return False
        likeness = pearson(last, thumbnail)
        change = float(np.abs((last - last.mean()) - (thumbnail - thumbnail.mean())).mean())
        is_cut = likeness < self.config.cut_likeness and change > self.config.cut_change
        self.suspect = not is_cut and likeness < self.config.suspicion and change > self.config.cut_change / 2
        return is_cut


@dataclass(eq=False)
class _Track:
    """What the tracker remembers of one person."""

    track_id: int
    face: Face
    time: Fraction  # of the last frame with this face
    landmarks: LandmarkSmoother
    square: SquareSmoother
    views: FloatArray | None = None  # sum of the identity vectors that count as this person's
    clear: bool = False  # those vectors come from views that show who it is
    doubts: int = 0  # views in a row that hardly fit
    checked: Fraction = Fraction(-1)  # time of the last comparison
    misses: int = 0
    fresh: bool = True

    @property
    def embedding(self) -> FloatArray | None:
        """Unit mean of the views."""
        return None if self.views is None else self.views / max(float(np.linalg.norm(self.views)), 1e-6)

    def add(self, view: FloatArray, clear: bool) -> None:
        """Count a view as this person's; the first clear one replaces all that are not."""
        if self.views is None or (clear and not self.clear):
            self.views = view
        elif clear or not self.clear:
            self.views = self.views + view
        self.clear = self.clear or clear

    def likeness(self, view: FloatArray) -> float:
        """Cosine of a view (unit length) to the mean; -1 without any view."""
        mean = self.embedding
        return -1.0 if mean is None else float(mean @ view)


class FaceTracker:
    """All faces of a clip, frame by frame.

    Args:
        analyser: finds and follows.
        config: see :class:`TrackConfig`.
        embed: identity vector of a face, called for each face that appears and again at detector runs; None uses
            those that the detector gives, if any.
    """

    def __init__(self, analyser: FaceAnalyser, config: TrackConfig | None = None, embed: Embed | None = None) -> None:
        self.analyser = analyser
        self.config = config or TrackConfig()
        self.embed = embed
        self.is_cut = CutFinder(self.config)
        self.active: list[_Track] = []
        self.gone: list[_Track] = []
        self.people = 0
        self.since_detection = 0
        self.suspected = False  # something may have changed since the detector ran
        self.cuts = 0

    def update(self, frame: Frame) -> list[TrackedFace]:
        """Faces of the next frame, by number; an empty list where there are none."""
        if self.is_cut(frame.rgb):
            self.cuts += 1
            self._leave(self.active)
            self._forget_place(self.gone, frame)
        if not self.config.follow:
            self._leave(self.active)
        lost = self._follow(frame)
        self.since_detection += 1
        # Where two faces pass each other, landmarks may slide from one to the other: the detector runs sooner.
        touch = any(box_overlap(a.face.box, b.face.box) > 0 for a, b in combinations(self.active, 2))
        self.suspected = self.suspected or self.is_cut.suspect or touch
        pause = min(self.config.soonest, self.config.detect_every) if self.suspected else self.config.detect_every
        if lost or not self.active or self.since_detection >= pause:
            self._detect(frame)
        self._drop_doubles(frame)
        self.gone = [t for t in self.gone if t.embedding is not None or frame.time - t.time < self.config.memory]
        return [self._finish(track, frame) for track in sorted(self.active, key=lambda t: t.track_id)]

    def _leave(self, tracks: list[_Track]) -> None:
        """Move tracks from the active to the gone."""
        self.gone.extend(tracks)
        self.active = [t for t in self.active if not any(t is one for one in tracks)]

    def _forget_place(self, tracks: list[_Track], frame: Frame) -> None:
        """Let the places of these tracks no longer tell who is there."""
        for track in tracks:
            track.time = min(track.time, frame.time - self.config.memory)

    def _is_clear(self, face: Face) -> bool:
        """Whether a view shows who it is: faces turned far aside resemble each other more than themselves."""
        return abs(yaw_degrees(face.landmarks)) <= self.config.yaw_limit

    def _view(self, frame: Frame, face: Face) -> FloatArray | None:
        return self.embed(frame.rgb, face.landmarks) if self.embed is not None else None

    def _follow(self, frame: Frame) -> bool:
        """Refit every active face; returns whether one was lost."""
        lost = []
        for track in self.active:
            face = self.analyser.follow(frame.rgb, track.face.landmarks)
            if face is None or face.score < self.config.least_score:
                lost.append(track)
            else:
                track.face, track.time = face, frame.time
        self._leave(lost)
        return bool(lost)

    def _detect(self, frame: Frame) -> None:
        """Run the detector: confirm the faces that are followed, find those that are new or back."""
        self.since_detection, self.suspected = 0, False
        faces = [f for f in self.analyser.detect(frame.rgb) if f.score >= self.config.least_score]
        pairs = sorted(
            ((box_overlap(t.face.box, f.box), i, j) for i, t in enumerate(self.active) for j, f in enumerate(faces)),
            reverse=True,
        )
        # Pair tracks with detections, best overlap first.  A paired track keeps its own landmarks, which continue the
        # last frame's more smoothly than the detection would.
        detection_of: dict[int, int] = {}
        for share, i, j in pairs:
            if share >= self.config.least_overlap and i not in detection_of and j not in detection_of.values():
                detection_of[i] = j
        for i, track in enumerate(self.active):
            track.misses = 0 if i in detection_of else track.misses + 1
        wrong = self._check(frame, {self.active[i].track_id: faces[j] for i, j in detection_of.items()})
        paired = {j for i, j in detection_of.items() if self.active[i] not in wrong}
        self._leave([t for t in self.active if t.misses > self.config.patience])
        self._leave(wrong)
        self._forget_place(wrong, frame)  # somebody else is there
        for j, face in enumerate(faces):
            if j not in paired:
                self._appear(face, frame)

    def _check(self, frame: Frame, detections: dict[int, Face]) -> list[_Track]:
        """Compare followed faces with the people they stand for; returns the tracks that are on another face.

        Args:
            detections: the detector's faces by track number, for the identity vectors that some detectors give.
        """
        wrong = []
        for track in sorted(self.active, key=lambda t: (t.checked, t.track_id))[: self.config.views]:
            view = detections[track.track_id].embedding if track.track_id in detections else None
            view = self._view(frame, track.face) if view is None else view
            if view is None:
                continue
            track.checked = frame.time
            if not self._fits(track, view, self._is_clear(track.face)):
                wrong.append(track)
        return wrong

    def _fits(self, track: _Track, view: FloatArray, clear: bool) -> bool:
        """Whether a view may be of this person; a good one joins their mean."""
        if not (clear and track.clear):
            track.add(view, clear)  # too little to judge by
            return True
        likeness = track.likeness(view)
        if likeness >= self.config.same_person:
            track.doubts = 0
            track.add(view, clear)
            return True
        # Between the two thresholds a poor view is as likely as another face: bear a few, unless somebody fits better.
        track.doubts += 1
        others = [t.likeness(view) for t in (*self.active, *self.gone) if t is not track]
        is_other = max(others, default=-1.0) >= self.config.same_person
        return likeness >= self.config.other_person and track.doubts <= self.config.doubts and not is_other

    def _appear(self, face: Face, frame: Frame) -> None:
        """Give a new face its number: an old one by place or likeness, else the next."""
        if any(box_overlap(t.face.box, face.box) >= self.config.least_overlap for t in self.active):
            return  # a second box around a face that is followed already
        view = face.embedding if face.embedding is not None else self._view(frame, face)
        clear = self._is_clear(face)
        track = self._recall(face, view, clear, frame.time)
        if track is None:
            smooth = self.config.smooth
            track = _Track(self.people, face, frame.time, LandmarkSmoother(smooth), SquareSmoother(smooth))
            self.people += 1
        else:
            self.gone = [t for t in self.gone if t is not track]
            # After a gap the filters would drag the face from where it was: they restart.
            if frame.time - track.time > self.config.gap:
                track.landmarks.reset()
                track.square.reset()
                track.fresh = True
            track.face, track.time, track.misses, track.doubts = face, frame.time, 0, 0
        if view is not None:
            track.add(view, clear)
            track.checked = frame.time
        self.active.append(track)

    def _recall(self, face: Face, view: FloatArray | None, clear: bool, time: Fraction) -> _Track | None:
        """The earlier person that this face is, if any: by likeness, else by place where likeness allows it."""
        if view is not None and self.gone:
            likeness, _, track = max(
                ((t.likeness(view), -i, t) for i, t in enumerate(self.gone)), key=lambda entry: entry[:2]
            )
            if likeness >= self.config.same_person:
                return track
        near = [
            (box_overlap(t.face.box, face.box), -i, t)
            for i, t in enumerate(self.gone)
            if time - t.time < self.config.memory and self._may_be(t, view, clear)
        ]
        if near:
            share, _, track = max(near, key=lambda entry: entry[:2])
            if share >= self.config.least_overlap:
                return track
        return None

    def _may_be(self, track: _Track, view: FloatArray | None, clear: bool) -> bool:
        """Whether likeness doesn't speak against a view being this person's."""
        if view is None or track.views is None or not (clear and track.clear):
            return True
        return track.likeness(view) >= self.config.other_person

    def _drop_doubles(self, frame: Frame) -> None:
        """Of two tracks on one face, keep the one whose person it is; where nothing tells, the older.

        The other counts as gone, so that its person gets the same number on return.
        """
        kept: list[_Track] = []
        for track in sorted(self.active, key=lambda t: t.track_id):
            rival = next((k for k in kept if box_overlap(track.face.box, k.face.box) >= 0.7), None)
            if rival is None:
                kept.append(track)
                continue
            view = self._view(frame, track.face)
            if view is not None and track.likeness(view) > rival.likeness(view):
                kept[kept.index(rival)] = track
        dropped = [t for t in self.active if t not in kept]
        self._leave(dropped)
        self._forget_place([t for t in dropped if t.views is not None], frame)

    def _finish(self, track: _Track, frame: Frame) -> TrackedFace:
        """The smoothed face of an active track."""
        if track.views is not None:
            track.face = replace(track.face, embedding=track.embedding)
        landmarks = track.landmarks(track.face.landmarks, frame.time)
        centre, x = track.square(landmarks, frame.time)
        yaw = yaw_degrees(landmarks)
        fresh, track.fresh = track.fresh, False
        return TrackedFace(track.track_id, track.face, landmarks, centre, x, yaw, turned_away(yaw, self.config), fresh)
