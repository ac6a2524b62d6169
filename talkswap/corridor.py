"""The frames of one render, from the target's picture to the finished one.

Reader, face analysis, network and paste-back work ahead of each other (:mod:`talkswap.pipeline`); nothing holds a clip.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import numpy as np

from talkswap.checkpoints import weight_hashes
from talkswap.device import Device, network_threads
from talkswap.errors import NoTargetFaceError
from talkswap.faces.align import transform_points, warp_crop
from talkswap.faces.paste import paste
from talkswap.faces.people import FaceChooser
from talkswap.faces.track import FaceTracker
from talkswap.media.reader import ClipReader
from talkswap.pipeline import Stopwatch, ahead, batched, closing_source, each, side_by_side
from talkswap.preparation import Prepared
from talkswap.systems.contract import ClipState
from talkswap.types import AlignedFace, ClipInfo, FloatArray, Frame, RenderReport, UInt8Image

AHEAD = 6  # finished frames between two stages
SIMILARITY_EVERY = 10  # frames between two measurements of identity


@dataclass(frozen=True)
class Work:
    """One frame on its way; ``face`` is None where the frame passes through untouched."""

    frame: Frame
    face: AlignedFace | None = None
    fade: float = 1.0
    crop: UInt8Image | None = None  # the system's answer
    similarities: tuple[float, ...] = ()  # identity cosines of this frame's answers, where they were measured


@dataclass
class Tally:
    """What a report counts; it goes through JSON, so that a render that goes on can count on."""

    faceless: list[int] = field(default_factory=list)  # output indices that passed through
    turned: int = 0  # frames in which the change was faded out
    damaged: int = 0  # frames of the target
    similarities: list[float] = field(default_factory=list)  # identity cosines of some answers


class Corridor:
    """The frames of one render, from the target's picture to the finished one.

    Args:
        ready: inputs and networks.
        stopwatch: counts the time of each stage.
        size: frames per network call; 0 = the plan's, or as many as suit the device.
        first: frame with which the work goes on, a multiple of ``size``.  Earlier ones are read and looked at again,
            so that whatever is remembered of faces is as it was, but not made again.
    """

    def __init__(self, ready: Prepared, stopwatch: Stopwatch, size: int = 0, first: int = 0) -> None:
        self.ready, self.stopwatch, self.first = ready, stopwatch, first
        self.tally = Tally()
        self.size = size or ready.plan.batch_size or batch_size(ready.device, ready.info)
        self.passive = ready.person is None
        self.tracker = FaceTracker(ready.analyser, embed=ready.analyser.embed)
        self.choose = FaceChooser(ready.person.embedding if ready.person is not None else None)

    def frames(self) -> Iterator[Work]:
        """Finished frames in order of time, those before ``first`` unfinished; each stage in its own thread."""
        with ClipReader(self.ready.info, self.ready.index) as reader:
            read = self.stopwatch.timed("read", reader.frames_for(self.ready.timeline))
            found = each(ahead(read, AHEAD, "read"), self._look)
            made = self._make(batched(ahead(found, max(AHEAD, self.size), "faces"), self.size))
            with closing_source(ahead(self._paste(ahead(made, 2, "network")), AHEAD, "paste")) as finished:
                yield from finished
            self.tally.damaged = reader.damaged

    def _look(self, frame: Frame) -> Work:
        """Where the person's face is in a frame, cut out for the system."""
        size = self.ready.system.crop.size
        with self.stopwatch.measure("faces"):
            tracked = None if self.passive else self.choose(self.tracker.update(frame), *frame.rgb.shape[:2])
            if tracked is None or tracked.fade <= 0:
                self.tally.faceless.append(frame.index)
                return Work(frame)
            self.tally.turned += tracked.fade < 1
            affine = tracked.affine(size)
            points = transform_points(affine, tracked.landmarks)
            face = AlignedFace(warp_crop(frame.rgb, affine, size), affine, points, frame.index)
            return Work(frame, face, tracked.fade)

    def _make(self, batches: Iterator[list[Work]]) -> Iterator[list[Work]]:
        """The system's answers, some batches side by side; the first one alone, since it may set the reference."""
        state = ClipState()
        with network_threads(self.ready.device) as workers, closing_source(batches) as iterator:
            for batch in iterator:
                yield self._answer(batch, state)
                if any(work.face is not None for work in batch):
                    break
            yield from side_by_side(iterator, partial(self._answer_open, state=state), workers)

    def _answer_open(self, batch: list[Work], state: ClipState) -> list[Work]:
        """The answers of a batch that is still to be made; one before ``first`` goes by."""
        return batch if batch[-1].frame.index < self.first else self._answer(batch, state)

    def _answer(self, batch: list[Work], state: ClipState) -> list[Work]:
        ready = self.ready
        with self.stopwatch.measure("network"):
            faces = [w.face for w in batch if w.face is not None]
            if not faces:
                return batch
            times = [w.frame.time for w in batch if w.face is not None]
            crops = ready.system.render(ready.source, faces, ready.listener.at(times), state)
            alike = self._compare(faces, crops)
            answers = iter(crops)
            return [
                dataclasses.replace(w, crop=next(answers), similarities=alike.get(w.frame.index, ()))
                if w.face is not None
                else w
                for w in batch
            ]

    def _compare(self, faces: list[AlignedFace], crops: list[UInt8Image]) -> dict[int, tuple[float, ...]]:
        """Identity cosines of some answers, by frame."""
        source = self.ready.source
        chosen = [(f.index, c) for f, c in zip(faces, crops, strict=True) if f.index % SIMILARITY_EVERY == 0]
        if source is None or not chosen:
            return {}
        found = self.ready.system.similarity(source, [crop for _, crop in chosen])
        return {index: (one,) for (index, _), one in zip(chosen, found, strict=True)}

    def _paste(self, batches: Iterator[list[Work]]) -> Iterator[Work]:
        with closing_source(batches) as iterator:
            for work in chain.from_iterable(iterator):
                if work.face is not None and work.crop is not None:
                    if work.frame.index >= self.first:
                        self.tally.similarities += work.similarities
                    with self.stopwatch.measure("paste"):
                        mask: FloatArray = self.ready.system.mask(work.face)
                        paste(
                            work.frame.rgb, work.crop, work.face.affine, mask,
                            target_crop=work.face.crop, fade=work.fade, in_place=True,
                        )  # fmt: skip
                yield work

    def check(self) -> None:
        """Raise when the clip had no face at all: then nothing was dubbed, and saying so is better than a copy."""
        if not self.passive and len(self.tally.faceless) == len(self.ready.timeline):
            raise NoTargetFaceError(
                f"the chosen face was found in no frame of {self.ready.plan.target}",
                "list who is there with `talkswap faces`",
            )

    def intervals(self) -> list[tuple[float, float]]:
        """Stretches without the face, in seconds of the output."""
        timeline = self.ready.timeline
        ends = [*timeline.times[1:], timeline.duration]
        spans: list[tuple[float, float]] = []
        last = -2
        for number in self.tally.faceless:
            if number == last + 1 and spans:
                spans[-1] = (spans[-1][0], float(ends[number]))
            else:
                spans.append((float(timeline.times[number]), float(ends[number])))
            last = number
        return spans

    def report(self, seconds: float) -> RenderReport:
        """What was done."""
        from talkswap.environment import peak_memory_mb, versions

        ready, plan, tally = self.ready, self.ready.plan, self.tally
        warnings = list(ready.warnings)
        count = len(ready.timeline)
        if tally.faceless and not self.passive:
            warnings.append(f"{len(tally.faceless)} of {count} frames show no such face and passed through untouched")
        if tally.turned:
            warnings.append(f"in {tally.turned} frames the head turns so far that the change is faded out")
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
            faceless=self.intervals() if not self.passive else [],
            faceless_frames=len(tally.faceless) if not self.passive else 0,
            identity_similarity=float(np.mean(tally.similarities)) if tally.similarities else None,
            timings=dict(self.stopwatch.seconds),
            peak_memory_mb=peak_memory_mb(),
            warnings=warnings,
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
