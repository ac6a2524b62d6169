"""The frames of one render, from the target's picture to the finished one.

    ClipReader -> look (tracker, who is who) -> guide (painted by geometry) -> render (the system's performances)
        -> paste -> frames to encode

Each stage works ahead of the next in a thread of its own (:mod:`talkswap.render.pipeline`), so no stage waits for the
encoder and nothing holds a whole clip.
"""

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain

import cv2
import numpy as np

from talkswap.animation.talking_face import Painted
from talkswap.checkpoints.preset_folder import weight_hashes
from talkswap.device import Device, network_threads, peak_memory_mb, versions
from talkswap.errors import DeviceError, NoTargetFaceError
from talkswap.faces.occlusion import CoverFollower
from talkswap.faces.paste import add_change, lay_patch, paste
from talkswap.faces.people import PeopleChooser
from talkswap.faces.track import FaceTracker, TrackedFace
from talkswap.media.codecs import pixel_format_for
from talkswap.media.reader import ClipReader
from talkswap.provenance.stamp import Stamp
from talkswap.render.painter import guide_crop
from talkswap.render.people import Subject
from talkswap.render.pipeline import Stopwatch, ahead, batched, closing_source, each, side_by_side
from talkswap.render.prepare import Prepared, encoder_settings
from talkswap.types import AlignedFace, ClipInfo, FloatArray, Frame, RenderReport, UInt8Image

AHEAD = 6  # finished frames between two stages
SIMILARITY_EVERY = 10  # frames between two measurements of identity


@dataclass(frozen=True)
class Cut:
    """One person's face in one frame."""

    subject: int  # whose, of People.subjects
    face: AlignedFace
    landmarks: FloatArray  # 478 3, px of the frame
    fade: float = 1.0
    free: FloatArray | None = None  # share of the mask that nothing is in front of, where something is
    painted: Painted | None = None  # the guide at the frame's own resolution; None where nothing was painted
    crop: UInt8Image | None = None  # the system's answer


@dataclass(frozen=True)
class Work:
    """One frame on its way; without cuts it passes through untouched."""

    frame: Frame
    cuts: tuple[Cut, ...] = ()
    similarities: tuple[float, ...] = ()  # identity cosines of this frame's answers, where they were measured


@dataclass
class Tally:
    """What a report counts; it goes through JSON, so that a resumed render can count on."""

    faceless: list[int] = field(default_factory=list)  # output indices that passed through
    turned: list[int] = field(default_factory=list)  # output indices in which a change was faded out
    covered: int = 0  # frames in which something in front of a face was left
    seen: dict[str, int] = field(default_factory=dict)  # frames with each person that is changed, by their number
    damaged: int = 0  # frames of the target
    similarities: list[float] = field(default_factory=list)  # identity cosines of some answers
    warnings: list[str] = field(default_factory=list)  # what had to be done otherwise


class Corridor:
    """The frames of one render, from the target's picture to the finished one.

    Args:
        prepared: inputs and networks.
        stopwatch: counts the time of each stage.
        size: frames per network call; 0 = the plan's, or as many as suit the device.
        first: frame with which the work goes on, a multiple of ``size``.  Earlier ones are read and looked at again,
            so that whatever the tracker remembers is as it was, but they aren't rendered again.
        stamp: marks the rendered faces; None marks none.
    """

    def __init__(
        self, prepared: Prepared, stopwatch: Stopwatch, size: int = 0, first: int = 0, stamp: Stamp | None = None
    ) -> None:
        self.prepared, self.stopwatch, self.first, self.stamp = prepared, stopwatch, first, stamp
        self.subjects, analyser = prepared.people.subjects, prepared.networks.analyser
        self.size = size or prepared.plan.batch_size or batch_size(prepared.networks.device, prepared.clip.info)
        self.tracker = FaceTracker(analyser, embed=analyser.embed)
        self.choose = PeopleChooser([subject.person.embedding for subject in self.subjects])
        self.tally = Tally(seen={str(subject.person.index): 0 for subject in self.subjects})
        self._followers = [CoverFollower() for _ in self.subjects]
        self._most = self.size  # faces at once that the GPU's memory holds, as far as is known
        self._most_lock = threading.Lock()

    def frames(self) -> Iterator[Work]:
        """Finished frames in order of time, those before ``first`` unfinished; each stage in its own thread."""
        info = self.prepared.clip.info
        pixel_format = pixel_format_for(encoder_settings(self.prepared.plan), info.width, info.height, info.bits)
        with ClipReader(info, self.prepared.clip.index, deep=True, target_format=pixel_format) as reader:
            pictures = self.stopwatch.timed("read", reader.frames_for(self.prepared.timeline))
            faces = each(ahead(pictures, AHEAD, "read"), self._look)
            guides = each(ahead(faces, AHEAD, "faces"), self._paint)
            batches = batched(ahead(guides, max(AHEAD, self.size), "guide"), self.size)
            rendered = ahead(self._render(batches), 2, "network")
            with closing_source(ahead(self._paste(rendered), AHEAD, "paste")) as finished:
                yield from finished
            self.tally.damaged = reader.damaged

    # --- faces: where they are, and whose

    def _look(self, frame: Frame) -> Work:
        """Where the people's faces are in a frame, cut out for the system."""
        with self.stopwatch.measure("faces"):
            faces = self.choose(self.tracker.update(frame), *frame.rgb.shape[:2]) if self.subjects else []
            cuts = tuple(
                self._cut(number, face, frame)
                for number, face in enumerate(faces)
                if face is not None and face.fade > 0
            )
            if any(face is not None and face.fade < 1 for face in faces):
                self.tally.turned.append(frame.index)
            if not cuts:
                self.tally.faceless.append(frame.index)
            for cut in cuts:
                self.tally.seen[str(self.subjects[cut.subject].person.index)] += 1
            self.tally.covered += any(cut.free is not None for cut in cuts)
            return Work(frame, cuts)

    def _cut(self, number: int, tracked: TrackedFace, frame: Frame) -> Cut:
        """One face as the system takes it, and what of it is free."""
        face = tracked.align(frame, self.prepared.networks.system.crop.size)
        occlusion, free = self.prepared.networks.occlusion, None
        if occlusion is not None:
            free = self._followers[number](occlusion(face.crop), frame.time, tracked.fresh)
        return Cut(number, face, tracked.landmarks, tracked.fade, free)

    # --- guide: the faces as geometry alone paints them

    def _paint(self, work: Work) -> Work:
        """A frame's faces with their guides.  A face that the guide leaves as it is has nothing to be changed."""
        if work.frame.index < self.first or not self.prepared.networks.system.guided:
            return work
        with self.stopwatch.measure("guide"):
            cuts = []
            for cut in work.cuts:
                painter = self.subjects[cut.subject].painter
                painted = None if painter is None else painter.paint(work.frame.rgb, cut.landmarks, work.frame.time)
                if painted is not None:
                    guide = guide_crop(work.frame.rgb, painted, cut.face)
                    face = dataclasses.replace(cut.face, guide=guide)
                    cuts.append(dataclasses.replace(cut, face=face, painted=painted))
            return dataclasses.replace(work, cuts=tuple(cuts))

    # --- network: the system's answers

    def _render(self, batches: Iterator[list[Work]]) -> Iterator[list[Work]]:
        """Batches with their answers, in order.  None depends on another, so some are rendered side by side."""
        with network_threads(self.prepared.networks.device) as workers:
            yield from side_by_side(batches, self._render_batch, workers)

    def _render_batch(self, batch: list[Work]) -> list[Work]:
        """A batch with its answers; one before ``first`` goes by."""
        if batch[-1].frame.index < self.first:
            return batch
        with self.stopwatch.measure("network"):
            for number, subject in enumerate(self.subjects):
                batch = self._render_subject(batch, number, subject)
            return batch

    def _render_subject(self, batch: list[Work], number: int, subject: Subject) -> list[Work]:
        """A batch with the answers for one person, whose faces go through the networks together."""
        places = [(work.frame, cut) for work in batch for cut in work.cuts if cut.subject == number]
        if not places:
            return batch
        times, faces = [frame.time for frame, _ in places], [cut.face for _, cut in places]
        crops = self._perform(subject, faces, times)
        # Without a swap, lips that don't follow the voice are the target's own, and so are its pixels; a guide is
        # painted so.
        gated = subject.gate is not None and not self.prepared.plan.swap and not self.prepared.networks.system.guided
        fades = subject.gate.at(times) if subject.gate is not None and gated else None
        answers: dict[int, Cut] = {}
        similarities: dict[int, tuple[float, ...]] = {}
        for place, ((frame, cut), crop) in enumerate(zip(places, crops, strict=True)):
            fade = cut.fade if fades is None else cut.fade * float(fades[place])
            answers[frame.index] = dataclasses.replace(cut, crop=crop, fade=fade)
            if subject.identity is not None and frame.index % SIMILARITY_EVERY == 0:
                shown = cut.face if cut.face.guide is None else cut.face.guide
                view = self.prepared.networks.analyser.embed(crop, shown.landmarks)
                similarities[frame.index] = (float(view @ subject.identity),)
        return [
            dataclasses.replace(
                work,
                cuts=tuple(answers[work.frame.index] if cut.subject == number else cut for cut in work.cuts),
                similarities=work.similarities + similarities.get(work.frame.index, ()),
            )
            for work in batch
        ]

    def _perform(self, subject: Subject, faces: Sequence[AlignedFace], times: Sequence[Fraction]) -> list[UInt8Image]:
        """The system's crops, in smaller parts where the GPU's memory doesn't hold all faces at once.

        Raises:
            DeviceError: it doesn't hold a single one.
        """
        import torch

        most = self._most
        if len(faces) <= most:
            try:
                return subject.performance.render(faces, times)
            except torch.OutOfMemoryError as error:
                if len(faces) == 1:
                    raise DeviceError(
                        "the GPU's memory does not hold a single frame", "close other programs, or use --device cpu"
                    ) from error
            # Only here has the error let go of what it held in memory.
            torch.cuda.empty_cache()
            most = len(faces) // 2
            with self._most_lock:
                if most < self._most:
                    self._most = most
                    self.tally.warnings.append(
                        f"the GPU's memory did not hold {len(faces)} frames at once, from there on {most} go together"
                    )
        parts = [slice(start, start + most) for start in range(0, len(faces), most)]
        return [crop for part in parts for crop in self._perform(subject, faces[part], times[part])]

    # --- paste: the answers into the frames

    def _paste(self, batches: Iterator[list[Work]]) -> Iterator[Work]:
        with closing_source(batches) as iterator:
            for work in chain.from_iterable(iterator):
                if work.frame.index >= self.first:
                    self.tally.similarities += work.similarities
                with self.stopwatch.measure("paste"):
                    for cut in work.cuts:
                        self._paste_cut(work.frame, cut)
                yield work

    def _paste_cut(self, frame: Frame, cut: Cut) -> None:
        """One answer into the frame, marked as synthetic."""
        if cut.crop is None:  # before the frame with which the work goes on
            if self.stamp is not None:
                self.stamp.remember(cut.face)
            return
        mask = self.subjects[cut.subject].performance.mask(cut.face)
        crop = cut.crop if self.stamp is None else self.stamp.mark(cut.crop, mask, cut.face)
        if cut.painted is not None and cut.face.guide is not None:
            # The guide is what is fine, at the frame's resolution; networks and mark add to it what is coarse.
            patch, side = cut.painted.patch, crop.shape[0]
            if crop is not cut.face.guide.crop:
                change = cv2.subtract(crop, cut.face.guide.crop, dtype=cv2.CV_32F) * mask[:, :, None]
                patch = add_change(patch, np.asarray(change, np.float32), cut.face.affine)
            lay_patch(frame.rgb, patch, cut.face.affine, side, cut.fade, cut.free)
            return
        paste(
            frame.rgb, crop, cut.face.affine, mask,
            target_crop=cut.face.crop, fade=cut.fade, free=cut.free, in_place=True,
        )  # fmt: skip

    # --- what the render says at its end

    def check(self) -> None:
        """Raise when the clip had no face at all: then nothing was dubbed, and saying so is better than a copy."""
        if self.subjects and len(self.tally.faceless) == len(self.prepared.timeline):
            raise NoTargetFaceError(
                f"the chosen face was found in no frame of {self.prepared.plan.target}",
                "list who is there with `talkswap faces`",
            )

    def intervals(self, frames: list[int]) -> list[tuple[float, float]]:
        """Stretches of successive frames (output indices, rising), in seconds of the output."""
        timeline = self.prepared.timeline
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
        """What was done in ``seconds`` of wall time."""
        prepared, tally, passive = self.prepared, self.tally, not self.subjects
        warnings = [*prepared.warnings, *tally.warnings]
        count = len(prepared.timeline)
        if tally.faceless and not passive:
            warnings.append(f"{len(tally.faceless)} of {count} frames show no such face and passed through untouched")
        if tally.turned:
            warnings.append(f"in {len(tally.turned)} frames a head turns so far that the change is faded out")
        for subject in self.subjects:
            if not tally.seen[str(subject.person.index)] and len(tally.faceless) < count:
                warnings.append(f"face {subject.person.index} was found in no frame, and nothing of it was changed")
        if tally.damaged:
            warnings.append(f"{tally.damaged} frames of {prepared.plan.target} are damaged")
        duration = float(prepared.timeline.duration)
        return RenderReport(
            output=prepared.plan.output,
            frames_in=len(prepared.clip.index.times),
            frames_out=count,
            seconds=seconds,
            video_seconds=duration,
            real_time_factor=seconds / duration,
            preset=prepared.networks.preset.name,
            device=prepared.networks.device.name,
            faceless=[] if passive else self.intervals(tally.faceless),
            faceless_frames=0 if passive else len(tally.faceless),
            identity_similarity=float(np.mean(tally.similarities)) if tally.similarities else None,
            timings=dict(self.stopwatch.seconds),
            peak_memory_mb=peak_memory_mb(),
            warnings=warnings,
            turned=self.intervals(tally.turned),
            people=[{**s.to_json(), "frames": tally.seen[str(s.person.index)]} for s in self.subjects],
            covered_frames=tally.covered,
            weights=weight_hashes(prepared.networks.preset),
            versions=versions(),
            plan=dataclasses.asdict(prepared.plan),
        )


def batch_size(device: Device, info: ClipInfo) -> int:
    """Frames per network call: a few on a CPU, more where the GPU's memory holds them and the pictures are not huge.

    About six batches of whole pictures are on their way at any time, so a batch's pictures stay below 128 MB.
    """
    if device.name == "cpu":
        return 4
    pictures = 2**27 // (info.width * info.height * 3)
    return int(max(1, min(64, pictures, max(4, device.memory_gb // 0.25))))
