"""Who in a clip is changed, into whom, and who speaks: the plan's names become people, photos and voices.

``--map ID=PHOTO`` and ``--voice ID=SOUND`` name people one by one; ``--source`` and ``--audio`` are for everybody who is
named without one; with neither it is the person of ``--face``, or the most prominent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from talkswap.errors import NoTargetFaceError, UsageError
from talkswap.faces.analyse import FaceAnalyser
from talkswap.faces.people import Person, SelectConfig
from talkswap.render.painter import Painter
from talkswap.render.source import read_photo, source_face
from talkswap.systems.contract import Performance
from talkswap.types import FloatArray, RenderPlan
from talkswap.voice.activity import SpeechGate


@dataclass
class PersonRequest:
    """What the plan says of one person, before anything is opened."""

    who: str | None  # number, photo, or None for the most prominent
    photos: list[Path] = field(default_factory=list)  # of the face to put in; empty without a swap
    voice: Path | None = None  # their own; None = what everybody hears


@dataclass(frozen=True)
class Subject:
    """One person of the clip whose face is changed."""

    person: Person
    photos: tuple[Path, ...]  # the first is the one whose skin is used, the identity is the mean over all
    identity: FloatArray | None  # of the photos, unit length; None without a swap
    voice: Path | None  # their own; None = what everybody hears
    gate: SpeechGate | None  # None: the lips follow the voice in silence too, and rest
    performance: Performance
    painter: Painter | None = None  # of the guide; None for a system without one

    def to_json(self) -> dict[str, Any]:
        """For a plan's summary and a report."""
        return {
            "face": self.person.index,
            "photos": [str(path) for path in self.photos],
            "voice": None if self.voice is None else str(self.voice),
        }


def person_requests(plan: RenderPlan) -> list[PersonRequest]:
    """Everybody whom a plan names, in the order of their names; one person where it names nobody.

    Raises:
        UsageError: somebody gets two voices, or no photo though faces are swapped, or a photo is given to nobody.
    """
    requests: dict[str | None, PersonRequest] = {}
    for who, photo in plan.map:
        requests.setdefault(who, PersonRequest(who)).photos.append(photo)
    for who, voice in plan.voices:
        request = requests.setdefault(who, PersonRequest(who))
        if request.voice is not None:
            raise UsageError(f"--voice gives face {who} two voices", "give each person one, joined before")
        request.voice = voice
    if plan.face is not None or not requests:
        requests.setdefault(plan.face, PersonRequest(plan.face))
    if not plan.swap:
        if plan.map:
            raise UsageError("--map gives faces, and --no-swap takes none", "leave one of them out")
        return list(requests.values())
    common = [*([plan.source] if plan.source is not None else []), *plan.more_sources]
    without = [request for request in requests.values() if not request.photos]
    if without and not common:
        of = f" of face {without[0].who}" if plan.map or plan.voices else ""
        raise UsageError(
            f"a face swap{of} needs a source photo", "give one with --source, or use --no-swap"
            if not of else f"give one with --map {without[0].who}=PHOTO or --source, or use --no-swap",
        )  # fmt: skip
    if common and not without:
        raise UsageError("nobody is left for the photo of --source: --map gives everybody one", "name them with --face")
    for request in without:
        request.photos = list(common)
    return list(requests.values())


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
    identity = analyser.embed(face.crop, face.landmarks)
    candidates = [(float(p.embedding @ identity), -p.index, p) for p in people if p.embedding is not None]
    likeness, _, best = max(candidates, key=lambda one: one[:2], default=(-1.0, 0, people[0]))
    if likeness < SelectConfig().least_likeness:
        raise NoTargetFaceError(
            f"the person of {who} was not found in {target}", "list who is there with `talkswap faces`"
        )
    return best


def find_people(
    people: list[Person], requests: Sequence[PersonRequest], target: Path, analyser: FaceAnalyser
) -> list[Person]:
    """Whom each request means.

    Raises:
        NoTargetFaceError: somebody is not there.
        UsageError: two requests mean the same person.
    """
    subjects = [find_person(people, request.who, target, analyser) for request in requests]
    for place, person in enumerate(subjects):
        if person in subjects[:place]:
            twice = [requests[subjects.index(person)].who, requests[place].who]
            raise UsageError(f"{twice[0]} and {twice[1]} are the same person of {target}", "name each person once")
    return subjects
