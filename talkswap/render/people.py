"""Who in a clip is changed, into whom, and who speaks: the plan's names become people, photos and voices.

``--map ID=PHOTO`` and ``--voice ID=SOUND`` name people one by one; ``--source`` and ``--audio`` are for everybody who is
named without one; with neither it is the person of ``--face``, or the most prominent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from talkswap.errors import NoTargetFaceError, UsageError
from talkswap.faces.analyse import FaceAnalyser
from talkswap.faces.people import Person, SelectConfig
from talkswap.render.source import SourceFace, best_first, read_photo, read_source, source_face
from talkswap.systems.contract import SourceState, System
from talkswap.types import RenderPlan, UInt8Image, Voice
from talkswap.voice.activity import SpeechGate
from talkswap.voice.load import load_voice
from talkswap.voice.windows import SpeechTrack

SMALL_FACE = 64.0  # px: below, a source photo or a target face gives a poor result, and the user is told


@dataclass
class Wish:
    """What the plan says of one person, before anything is opened."""

    who: str | None  # number, photo, or None for the most prominent
    photos: list[Path] = field(default_factory=list)  # of the face to put in; empty without a swap
    voice: Path | None = None  # their own; None = what everybody hears


@dataclass(frozen=True)
class Role:
    """One person of the clip whose face is changed."""

    person: Person
    photos: tuple[Path, ...]  # the first is the one whose skin is taken, of all the identity is the mean
    source: SourceState | None
    voice: Path | None  # their own; None = what everybody hears
    listener: SpeechTrack
    gate: SpeechGate | None  # None: the lips follow the voice in silence too, and rest

    def told(self) -> dict[str, Any]:
        """For a plan's summary and a report."""
        return {
            "face": self.person.index,
            "photos": [str(path) for path in self.photos],
            "voice": None if self.voice is None else str(self.voice),
        }


def wishes(plan: RenderPlan) -> list[Wish]:
    """Everybody whom a plan names, in the order of their names; one person where it names nobody.

    Raises:
        UsageError: somebody gets two voices, or no photo though faces are swapped, or a photo is given to nobody.
    """
    named: dict[str | None, Wish] = {}
    for who, photo in plan.map:
        named.setdefault(who, Wish(who)).photos.append(photo)
    for who, voice in plan.voices:
        wish = named.setdefault(who, Wish(who))
        if wish.voice is not None:
            raise UsageError(f"--voice gives face {who} two voices", "give each person one, joined before")
        wish.voice = voice
    if plan.face is not None or not named:
        named.setdefault(plan.face, Wish(plan.face))
    if not plan.swap:
        if plan.map:
            raise UsageError("--map gives faces, and --no-swap takes none", "leave one of them out")
        return list(named.values())
    common = [*([plan.source] if plan.source is not None else []), *plan.more_sources]
    without = [wish for wish in named.values() if not wish.photos]
    if without and not common:
        of = f" of face {without[0].who}" if plan.map or plan.voices else ""
        raise UsageError(
            f"a face swap{of} needs a source photo", "give one with --source, or use --no-swap"
            if not of else f"give one with --map {without[0].who}=PHOTO or --source, or use --no-swap",
        )  # fmt: skip
    if common and not without:
        raise UsageError("nobody is left for the photo of --source: --map gives everybody one", "name them with --face")
    for wish in without:
        wish.photos = list(common)
    return list(named.values())


def read_photos(asked: Sequence[Wish]) -> dict[Path, UInt8Image]:
    """Every photo that is wished for, read once.

    Raises:
        InputMissingError, UnreadableMediaError: one cannot be read.
    """
    paths = dict.fromkeys(photo for wish in asked for photo in wish.photos)
    return {path: read_photo(path) for path in paths}


def read_voices(asked: Sequence[Wish]) -> dict[Path, Voice]:
    """Every voice of a person of their own, read once.

    Raises:
        InputMissingError, UnreadableMediaError, NoAudioError: one cannot be read.
    """
    paths = dict.fromkeys(wish.voice for wish in asked if wish.voice is not None)
    return {path: load_voice(path) for path in paths}


def together(voices: Sequence[Voice]) -> Voice:
    """Some voices heard at once, as long as the longest, turned down where they would clip; all at one rate."""
    longest = max(len(voice.samples) for voice in voices)
    total = np.zeros(longest, np.float32)
    for voice in voices:
        total[: len(voice.samples)] += voice.samples
    return Voice(total / np.float32(max(1.0, float(np.abs(total).max(initial=0)))), voices[0].hz)


def find_person(people: list[Person], who: str | None, target: Path, analyser: FaceAnalyser) -> Person:
    """The person of a clip with a number, or of a photo; the most prominent for None.

    Raises:
        NoTargetFaceError: nobody is there, or not the one asked for.
    """
    if not people:
        raise NoTargetFaceError(f"no face was found in {target}", "choose a clip that shows a face")
    if who is None:
        return people[0]
    if who.isdecimal() and not Path(who).exists():
        if int(who) >= len(people):
            there = "only 0" if len(people) == 1 else f"only 0 to {len(people) - 1}"
            raise NoTargetFaceError(f"there is no face {who} in {target}, {there}", "list them with `talkswap faces`")
        return people[int(who)]
    photo = read_photo(Path(who))
    face, _ = source_face(photo, analyser, 320, Path(who))
    wanted = analyser.embed(face.crop, face.landmarks)
    known = [(float(p.embedding @ wanted), -p.index, p) for p in people if p.embedding is not None]
    likeness, _, best = max(known, key=lambda one: one[:2], default=(-1.0, 0, people[0]))
    if likeness < SelectConfig().least_likeness:
        raise NoTargetFaceError(
            f"the person of {who} was not found in {target}", "list who is there with `talkswap faces`"
        )
    return best


def find_people(people: list[Person], asked: Sequence[Wish], target: Path, analyser: FaceAnalyser) -> list[Person]:
    """Whom each wish means.

    Raises:
        NoTargetFaceError: somebody is not there.
        UsageError: two wishes mean the same person.
    """
    found = [find_person(people, wish.who, target, analyser) for wish in asked]
    for place, person in enumerate(found):
        if person in found[:place]:
            twice = [asked[found.index(person)].who, asked[place].who]
            raise UsageError(f"{twice[0]} and {twice[1]} are the same person of {target}", "name each person once")
    return found


class Wardrobe:
    """Photos as the system wants them; those of several people are found and encoded once each.

    Args:
        photos: all pictures, by path.
        analyser: finds the faces.
        system: encodes them.
    """

    def __init__(self, photos: Mapping[Path, UInt8Image], analyser: FaceAnalyser, system: System) -> None:
        self.photos, self.analyser, self.system = photos, analyser, system
        self.warnings: list[str] = []
        self._made: dict[tuple[Path, ...], tuple[tuple[Path, ...], SourceState]] = {}

    def __call__(self, paths: Sequence[Path]) -> tuple[tuple[Path, ...], SourceState]:
        """The photos of one person, the one whose skin is taken first, and what the system made of them.

        Raises:
            NoSourceFaceError: a photo shows no face.
        """
        asked = tuple(paths)
        if asked not in self._made:
            size = self.system.crop.size
            faces = best_first([read_source(self.photos[path], self.analyser, size, path) for path in asked])
            self._warn(faces)
            best, others = faces[0].face, [one.face for one in faces[1:]]
            state = self.system.encode_source(best, others) if others else self.system.encode_source(best)
            self._made[asked] = (tuple(one.path for one in faces), state)
        return self._made[asked]

    def _warn(self, faces: list[SourceFace]) -> None:
        best = faces[0]
        if best.width < SMALL_FACE:
            self.warnings.append(
                f"the face in {best.path} is only {best.width:.0f} px wide, the result will lack detail"
            )
        for other in faces[1:]:
            if float(other.identity @ best.identity) < SelectConfig().release:
                self.warnings.append(f"{other.path} and {best.path} hardly look like the same person")
