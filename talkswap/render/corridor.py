"""The frames of one render, from the target's picture to the finished one.

Reader, face analysis, network and paste-back work ahead of each other (:mod:`talkswap.render.pipeline`); nothing holds a clip.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from talkswap.checkpoints import weight_hashes
from talkswap.device import Device, network_threads
from talkswap.errors import NoTargetFaceError
from talkswap.faces.geometry import transform_points, warp_crop
from talkswap.faces.occlusion import CoverFollower
from talkswap.faces.paste import paste
from talkswap.faces.people import PeopleChooser
from talkswap.faces.track import FaceTracker, TrackedFace
from talkswap.media.codecs import pixel_format_for
from talkswap.media.reader import ClipReader
from talkswap.provenance.stamp import Stamp
from talkswap.render.pipeline import Stopwatch, ahead, batched, closing_source, each, side_by_side
from talkswap.render.prepare import Prepared, encoder_settings
from talkswap.systems.contract import ClipState
from talkswap.types import AlignedFace, ClipInfo, FloatArray, Frame, RenderReport, UInt8Image

AHEAD = 6  # finished frames between two stages
SIMILARITY_EVERY = 10  # frames between two measurements of identity


@dataclass(frozen=True)
class Cut:
    """One person's face in one frame."""

    role: int  # whose, of Prepared.roles
    face: AlignedFace
    fade: float = 1.0
    free: FloatArray | None = None  # share of the mask that nothing is in front of, where something is
    crop: UInt8Image | None = None  # the system's answer


@dataclass(frozen=True)
class Work:
    """One frame on its way; without cuts it passes through untouched."""

    frame: Frame
    cuts: tuple[Cut, ...] = ()
    similarities: tuple[float, ...] = ()  # identity cosines of this frame's answers, where they were measured


@dataclass
class Tally:
    """What a report counts; it goes through JSON, so that a render that goes on can count on."""

    faceless: list[int] = field(default_factory=list)  # output indices that passed through
    turned: list[int] = field(default_factory=list)  # output indices in which a change was faded out
    covered: int = 0  # frames in which something in front of a face was left
    seen: dict[str, int] = field(default_factory=dict)  # frames with each person that is changed, by their number
    damaged: int = 0  # frames of the target
    similarities: list[float] = field(default_factory=list)  # identity cosines of some answers
    warnings: list[str] = field(default_factory=list)  # what a system had to do otherwise


class Corridor:
    """The frames of one render, from the target's picture to the finished one.

    Args:
        ready: inputs and networks.
        stopwatch: counts the time of each stage.
        size: frames per network call; 0 = the plan's, or as many as suit the device.
        first: frame with which the work goes on, a multiple of ``size``.  Earlier ones are read and looked at again,
            so that whatever is remembered of faces is as it was, but not made again.
        stamp: marks the faces that are made; None marks none.
    """

    def __init__(
        self, ready: Prepared, stopwatch: Stopwatch, size: int = 0, first: int = 0, stamp: Stamp | None = None
    ) -> None:
        self.stamp = stamp
        self.ready, self.stopwatch, self.first = ready, stopwatch, first
        self.tally = Tally()
        self.size = size or ready.plan.batch_size or batch_size(ready.device, ready.info)
        self.passive = not ready.roles
        self.tracker = FaceTracker(ready.analyser, embed=ready.analyser.embed)
        self.choose = PeopleChooser([role.person.embedding for role in ready.roles])
        self.tally.seen = {str(role.person.index): 0 for role in ready.roles}
        self._followers = [CoverFollower() for _ in ready.roles]
        self._states = [ClipState(warnings=self.tally.warnings) for _ in ready.roles]

    def frames(self) -> Iterator[Work]:
        """Finished frames in order of time, those before ``first`` unfinished; each stage in its own thread."""
        info = self.ready.info
        written = pixel_format_for(encoder_settings(self.ready.plan), info.width, info.height, info.bits)
        with ClipReader(info, self.ready.index, deep=True, written=written) as reader:
            read = self.stopwatch.timed("read", reader.frames_for(self.ready.timeline))
            found = each(ahead(read, AHEAD, "read"), self._look)
            made = self._make(batched(ahead(found, max(AHEAD, self.size), "faces"), self.size))
            with closing_source(ahead(self._paste(ahead(made, 2, "network")), AHEAD, "paste")) as finished:
                yield from finished
            self.tally.damaged = reader.damaged

    def _look(self, frame: Frame) -> Work:
        """Where the people's faces are in a frame, cut out for the system."""
        with self.stopwatch.measure("faces"):
            found = [] if self.passive else self.choose(self.tracker.update(frame), *frame.rgb.shape[:2])
            cuts = tuple(
                self._cut(role, tracked, frame)
                for role, tracked in enumerate(found)
                if tracked is not None and tracked.fade > 0
            )
            if any(tracked is not None and tracked.fade < 1 for tracked in found):
                self.tally.turned.append(frame.index)
            if not cuts:
                self.tally.faceless.append(frame.index)
            for cut in cuts:
                self.tally.seen[str(self.ready.roles[cut.role].person.index)] += 1
            self.tally.covered += any(cut.free is not None for cut in cuts)
            return Work(frame, cuts)

    def _cut(self, role: int, tracked: TrackedFace, frame: Frame) -> Cut:
        """One face as the system wants it, and what of it is free."""
        size = self.ready.system.crop.size
        affine = tracked.affine(size)
        points = transform_points(affine, tracked.landmarks)
        crop = warp_crop(frame.rgb, affine, size)
        free = None
        if self.ready.occlusion is not None:
            free = self._followers[role](self.ready.occlusion(crop), frame.time, tracked.fresh)
        return Cut(role, AlignedFace(crop, affine, points, frame.index), tracked.fade, free)

    def _make(self, batches: Iterator[list[Work]]) -> Iterator[list[Work]]:
        """The system's answers, some batches side by side; one in which somebody appears for the first time is made
        alone, since it may set the reference."""
        known: set[int] = set()
        opening: list[list[Work]] = []
        with network_threads(self.ready.device) as workers, closing_source(batches) as iterator:

            def until_somebody_appears() -> Iterator[list[Work]]:
                for batch in iterator:
                    there = {cut.role for work in batch for cut in work.cuts}
                    if not there <= known:
                        known.update(there)
                        opening.append(batch)
                        return
                    yield batch

            while True:
                yield from side_by_side(until_somebody_appears(), self._answer_open, workers)
                if not opening:
                    return
                yield self._answer(opening.pop())

    def _answer_open(self, batch: list[Work]) -> list[Work]:
        """The answers of a batch that is still to be made; one before ``first`` goes by."""
        return batch if batch[-1].frame.index < self.first else self._answer(batch)

    def _answer(self, batch: list[Work]) -> list[Work]:
        """The batch with its answers; each person's faces go through the networks together."""
        with self.stopwatch.measure("network"):
            for role in range(len(self.ready.roles)):
                batch = self._answer_role(batch, role)
            return batch

    def _answer_role(self, batch: list[Work], number: int) -> list[Work]:
        ready, role = self.ready, self.ready.roles[number]
        asked = [(work.frame, cut) for work in batch for cut in work.cuts if cut.role == number]
        if not asked:
            return batch
        times, faces = [frame.time for frame, _ in asked], [cut.face for _, cut in asked]
        gates = () if role.gate is None else (role.gate.at(times),)
        crops = ready.system.render(role.source, faces, role.listener.at(times), self._states[number], *gates)
        alike = self._compare(number, faces, crops)
        made: dict[int, Cut] = {}
        for place, ((frame, cut), crop) in enumerate(zip(asked, crops, strict=True)):
            # Without a swap, lips that do not follow the voice are the target's own, and so are its px.
            fade = cut.fade * float(gates[0][place]) if gates and not ready.plan.swap else cut.fade
            made[frame.index] = dataclasses.replace(cut, crop=crop, fade=fade)
        return [
            dataclasses.replace(
                work,
                cuts=tuple(made[work.frame.index] if cut.role == number else cut for cut in work.cuts),
                similarities=work.similarities + alike.get(work.frame.index, ()),
            )
            for work in batch
        ]

    def _compare(self, role: int, faces: list[AlignedFace], crops: list[UInt8Image]) -> dict[int, tuple[float, ...]]:
        """Identity cosines of some answers, by frame."""
        source = self.ready.roles[role].source
        chosen = [(f.index, c) for f, c in zip(faces, crops, strict=True) if f.index % SIMILARITY_EVERY == 0]
        if source is None or not chosen:
            return {}
        found = self.ready.system.similarity(source, [crop for _, crop in chosen])
        return {index: (one,) for (index, _), one in zip(chosen, found, strict=False)}

    def _paste(self, batches: Iterator[list[Work]]) -> Iterator[Work]:
        with closing_source(batches) as iterator:
            for work in chain.from_iterable(iterator):
                if work.frame.index >= self.first:
                    self.tally.similarities += work.similarities
                with self.stopwatch.measure("paste"):
                    for cut in work.cuts:
                        self._lay(work.frame, cut)
                yield work

    def _lay(self, frame: Frame, cut: Cut) -> None:
        """One answer into the frame."""
        if cut.crop is None:  # before the frame with which the work goes on
            if self.stamp is not None:
                self.stamp.remember(cut.face)
            return
        mask: FloatArray = self.ready.system.mask(cut.face)
        crop = cut.crop if self.stamp is None else self.stamp.mark(cut.crop, mask, cut.face)
        paste(
            frame.rgb, crop, cut.face.affine, mask,
            target_crop=cut.face.crop, fade=cut.fade, free=cut.free, in_place=True,
        )  # fmt: skip

    def check(self) -> None:
        """Raise when the clip had no face at all: then nothing was dubbed, and saying so is better than a copy."""
        if not self.passive and len(self.tally.faceless) == len(self.ready.timeline):
            raise NoTargetFaceError(
                f"the chosen face was found in no frame of {self.ready.plan.target}",
                "list who is there with `talkswap faces`",
            )

    def intervals(self, frames: list[int]) -> list[tuple[float, float]]:
        """Stretches of successive frames (output indices, rising), in seconds of the output."""
        timeline = self.ready.timeline
        ends = [*timeline.times[1:], timeline.duration]
        spans: list[tuple[float, float]] = []
        last = -2
        for number in frames:
            if number == last + 1 and spans:
                spans[-1] = (spans[-1][0], float(ends[number]))
            else:
                spans.append((float(timeline.times[number]), float(ends[number])))
            last = number
        return spans

    def report(self, seconds: float) -> RenderReport:
        """What was done."""
        from talkswap.device import peak_memory_mb, versions

        ready, plan, tally = self.ready, self.ready.plan, self.tally
        warnings = [*ready.warnings, *tally.warnings]
        count = len(ready.timeline)
        if tally.faceless and not self.passive:
            warnings.append(f"{len(tally.faceless)} of {count} frames show no such face and passed through untouched")
        if tally.turned:
            warnings.append(f"in {len(tally.turned)} frames a head turns so far that the change is faded out")
        for role in ready.roles:
            if not tally.seen[str(role.person.index)] and len(tally.faceless) < count:
                warnings.append(f"face {role.person.index} was found in no frame, and nothing of it was changed")
        if tally.damaged:
            warnings.append(f"{tally.damaged} frames of {plan.target} are damaged")
        duration = float(ready.timeline.duration)
        return RenderReport(
            output=plan.output,
            frames_in=len(ready.index.times),
            frames_out=count,
            seconds=seconds,
            video_seconds=duration,
            real_time_factor=seconds / duration,
            preset=ready.preset.name,
            device=ready.device.name,
            faceless=self.intervals(tally.faceless) if not self.passive else [],
            faceless_frames=len(tally.faceless) if not self.passive else 0,
            identity_similarity=float(np.mean(tally.similarities)) if tally.similarities else None,
            timings=dict(self.stopwatch.seconds),
            peak_memory_mb=peak_memory_mb(),
            warnings=warnings,
            turned=self.intervals(tally.turned),
            people=[{**role.told(), "frames": tally.seen[str(role.person.index)]} for role in ready.roles],
            covered_frames=tally.covered,
            weights=weight_hashes(ready.preset),
            versions=versions(),
            plan=dataclasses.asdict(plan),
        )


def batch_size(device: Device, info: ClipInfo) -> int:
    """Frames per network call: a few on a CPU, more where the GPU's memory holds them and the pictures are not huge.

    About six batches of whole pictures are on their way at any time, so a batch's pictures stay below 128 MB.
    """
    if device.name == "cpu":
        return 4
    pictures = 2**27 // (info.width * info.height * 3)
    return int(max(1, min(64, pictures, max(4, device.memory_gb // 0.25))))
