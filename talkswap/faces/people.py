"""Who is in a clip, and which of them a render changes.

There are three ways to name a person: nothing (whoever is on screen most, largest and most central), the number that
``talkswap faces`` prints, or the identity vector of a photo.  A render never takes another face instead: below the
likeness threshold it leaves a frame alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from talkswap.faces.geometry import warp_crop
from talkswap.faces.track import FaceTracker, TrackedFace
from talkswap.types import AlignedFace, FloatArray, Frame, UInt8Image

PICTURE = 192  # px, side of the aligned crop that is kept of a person


@dataclass(frozen=True)
class SelectConfig:
    """When a face counts as the person that a render changes."""

    least_likeness: float = 0.35  # identity cosine to the photo, or to the person of the survey
    release: float = 0.25  # below this a face that counted as the person no longer does


@dataclass(frozen=True)
class Person:
    """One person of a clip, as a survey saw them."""

    index: int  # 0 = most on screen
    frames: int  # surveyed frames with this person
    share: float  # of the surveyed frames
    size: float  # mean side of the alignment square, as a share of the picture's height
    prominence: float  # sum over frames of size x closeness to the middle: the order of the list
    picture: UInt8Image  # 192 192 3: the aligned face where it is largest and least turned
    time: Fraction  # seconds, of that frame
    width: float  # px of the face's box in that frame
    first: AlignedFace  # from the first surveyed frame in which the face isn't turned away, if there is one
    embedding: FloatArray | None  # unit identity vector over all frames, where an identity network ran
    seen: tuple[Fraction, ...] = ()  # times of the surveyed frames in which the face isn't turned away


def prominence(face: TrackedFace, height: int, width: int) -> float:
    """How much a face claims to be the clip's subject: its size, halved toward the picture's edge."""
    size = float(np.hypot(*face.x)) / height
    away = (face.centre - np.array([width / 2, height / 2])) / np.array([width / 2, height / 2])
    return size * (1 - 0.5 * min(1.0, float(np.abs(away).max())))


@dataclass
class _Sighting:
    """Sums over a person's frames; of the frames themselves only the best and the first face stay."""

    first: AlignedFace
    first_fade: float
    frames: set[int] = field(default_factory=set)  # which of the surveyed ones show the person
    claims: float = 0.0
    sizes: float = 0.0
    best: float = -1.0
    picture: UInt8Image | None = None
    time: Fraction = Fraction(0)
    width: float = 0.0
    embedding: FloatArray | None = None
    seen: set[Fraction] = field(default_factory=set)

    def add(self, number: int, frame: Frame, face: TrackedFace) -> None:
        """Add one more view, of the surveyed frame ``number``."""
        if not self.first_fade and face.fade:
            self.first, self.first_fade = face.align(frame, self.first.crop.shape[0]), face.fade
        height, width = frame.rgb.shape[:2]
        claim = prominence(face, height, width)
        self.frames.add(number)
        if face.fade:
            self.seen.add(frame.time)
        self.claims += claim
        self.sizes += float(np.hypot(*face.x)) * 2 / height
        if claim * face.fade > self.best:
            self.best, self.time = claim * face.fade, frame.time
            self.picture = warp_crop(frame.rgb, face.affine(PICTURE), PICTURE)
            self.width = float(face.face.box[2] - face.face.box[0])
        if face.face.embedding is not None:
            self.embedding = face.face.embedding  # the tracker's mean, which grows

    def join(self, other: _Sighting) -> None:
        """Add another track of the same person; the more prominent one's best view stays."""
        if self.embedding is not None and other.embedding is not None:
            mean = self.embedding * len(self.frames) + other.embedding * len(other.frames)
            self.embedding = (mean / np.linalg.norm(mean)).astype(np.float32)
        if (not self.first_fade, self.first.index) > (not other.first_fade, other.first.index):
            self.first, self.first_fade = other.first, other.first_fade
        self.frames |= other.frames
        self.seen |= other.seen
        self.claims += other.claims
        self.sizes += other.sizes


def _same(one: _Sighting, other: _Sighting, least: float) -> bool:
    """Whether two numbers are one person: alike, and never in a frame together."""
    if one.embedding is None or other.embedding is None or one.frames & other.frames:
        return False
    return float(one.embedding @ other.embedding) >= least


def survey(
    frames: Iterable[Frame], tracker: FaceTracker, enough: int | None = None, size: int = PICTURE
) -> list[Person]:
    """List the people of a clip, most prominent first.

    Args:
        frames: some frames of the clip in order, for example two a second.
        tracker: a fresh tracker; with ``detect_every=1, follow=False`` where the frames lie far apart.
        enough: frames with a face after which the survey ends; None for all frames.
        size: px of each person's first face.
    """
    sightings: dict[int, _Sighting] = {}
    total = with_face = 0
    for frame in frames:
        faces = tracker.update(frame)
        for face in faces:
            if face.track_id not in sightings:
                sightings[face.track_id] = _Sighting(face.align(frame, size), face.fade)
            sightings[face.track_id].add(total, frame, face)
        total += 1
        with_face += bool(faces)
        if enough is not None and with_face >= enough:
            break
    # One person may have two numbers, given when the tracker had too few views of either.
    people: list[_Sighting] = []
    for sighting in sorted(sightings.values(), key=lambda s: -s.claims):
        person = next((p for p in people if _same(p, sighting, tracker.config.same_person)), None)
        if person is None:
            people.append(sighting)
        else:
            person.join(sighting)
    order = sorted(people, key=lambda s: -s.claims)
    return [
        Person(
            i, len(s.frames), len(s.frames) / total, s.sizes / len(s.frames), s.claims, s.picture, s.time, s.width,
            s.first, s.embedding, tuple(sorted(s.seen)),
        )
        for i, s in enumerate(order)
        if s.picture is not None
    ]  # fmt: skip


class FaceChooser:
    """Picks, frame by frame, the one face that a render changes.

    Args:
        reference: unit identity vector of the person (a photo's, or a surveyed person's); None means whoever is most
            prominent when a first face appears, and that person from then on.
        config: the likeness that a face needs.
    """

    def __init__(self, reference: FloatArray | None = None, config: SelectConfig | None = None) -> None:
        self.reference = reference
        self.fixed = reference is not None  # else the tracker's own mean is the reference, and grows
        self.config = config or SelectConfig()
        self.chosen: int | None = None

    def __call__(self, faces: Sequence[TrackedFace], height: int, width: int) -> TrackedFace | None:
        """The face to change in a frame of ``height`` x ``width`` px, or None to leave the frame alone."""
        for face in faces:
            if face.track_id == self.chosen:
                if self._still(face):
                    return face
                self.chosen = None
        if not faces:
            return None
        if self.reference is not None:
            likeness, face = max(
                ((float(f.face.embedding @ self.reference), f) for f in faces if f.face.embedding is not None),
                key=lambda entry: entry[0],
                default=(-1.0, faces[0]),
            )
            if likeness < self.config.least_likeness:
                return None
        else:
            face = max(faces, key=lambda f: prominence(f, height, width))
            self.reference = face.face.embedding  # from now on nobody else; without identity vectors, whoever leads
        self.chosen = face.track_id
        return face

    def likeness(self, face: TrackedFace) -> float:
        """Identity cosine of a face to the person; 0 without identity vectors."""
        if face.face.embedding is None or self.reference is None:
            return 0.0
        return float(face.face.embedding @ self.reference)

    def _still(self, face: TrackedFace) -> bool:
        """Whether the face of the frame before may still be the person, now that the tracker has more views of it."""
        view = face.face.embedding
        if view is None or self.reference is None:
            return True
        if not self.fixed:
            self.reference = view  # the mean of more views than at first
            return True
        return float(view @ self.reference) >= self.config.release


class PeopleChooser:
    """Picks, frame by frame, a face for each of several people, never one face for two.

    Args:
        references: unit identity vector of each person; of several people each must have one, a single None is
            whoever is most prominent.
        config: the likeness that a face needs.
    """

    def __init__(self, references: Sequence[FloatArray | None], config: SelectConfig | None = None) -> None:
        self.choosers = [FaceChooser(reference, config) for reference in references]

    def __call__(self, faces: Sequence[TrackedFace], height: int, width: int) -> list[TrackedFace | None]:
        """For each person their face in a frame of ``height`` x ``width`` px, or None."""
        if len(self.choosers) == 1:
            return [self.choosers[0](faces, height, width)]
        free = list(faces)
        choices: list[TrackedFace | None] = [None] * len(self.choosers)
        waiting = set(range(len(self.choosers)))
        # Rounds: everybody picks among the free faces; where several pick one, whoever it resembles most keeps it, and
        # the others pick again.
        while waiting and free:
            claims: dict[int, list[tuple[float, int, TrackedFace]]] = {}  # by number of the track
            for place in sorted(waiting):
                chooser = self.choosers[place]
                face = chooser(free, height, width)
                if face is None:
                    waiting.discard(place)
                    continue
                claims.setdefault(face.track_id, []).append((chooser.likeness(face), -place, face))
            for rivals in claims.values():
                _, place, face = max(rivals, key=lambda rival: rival[:2])
                choices[-place] = face
                waiting.discard(-place)
                free = [other for other in free if other.track_id != face.track_id]
                for _, other, _ in rivals:
                    if other != place:
                        self.choosers[-other].chosen = None
        return choices
