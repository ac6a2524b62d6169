"""When each picture of the target is shown: what ``--fit`` means, as arithmetic on fractions.

Nothing here opens a file.  A target of n frames is n start times and the duration of the last frame; a
:class:`Timeline` says which of the n pictures is shown at which output time, so that a voice longer or
shorter than the clip needs no special case anywhere else.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from talkswap.errors import UsageError

FITS = ("clip", "voice", "loop", "bounce", "freeze")


@dataclass(frozen=True)
class Timeline:
    """The plan of a finished clip's picture: one entry per output frame."""

    picture: tuple[int, ...]  # source frame shown by each output frame
    times: tuple[Fraction, ...]  # start of each output frame in seconds; the first is 0
    duration: Fraction  # seconds: end of the last frame, and where the sound has to end
    warnings: tuple[str, ...] = ()  # what the user loses, one sentence each
    note: str = ""  # what was decided without loss; empty where there was nothing to decide
    difference: Fraction = Fraction(0)  # seconds by which the voice is longer than the clip, where no more than a frame

    def __len__(self) -> int:
        return len(self.picture)

    @property
    def description(self) -> str:
        """What ``fit`` does to voice and clip, in words for the plan: never empty."""
        if self.note or self.warnings:
            return self.note or "; ".join(self.warnings)
        if not self.difference:
            return "equal lengths"
        than = "longer" if self.difference > 0 else "shorter"
        return f"equal lengths within one frame: the voice is {float(abs(self.difference)):.4f} s {than}"


def frame_durations(times: Sequence[Fraction], last_duration: Fraction) -> list[Fraction]:
    """How long each frame stays on the screen, in seconds: the gap to the next one, and ``last_duration``."""
    return [*(after - before for before, after in zip(times, times[1:], strict=False)), last_duration]


def typical_step(times: Sequence[Fraction], last_duration: Fraction) -> Fraction:
    """Median frame duration in seconds; one of the clip's own durations, hence whole ticks of its time base."""
    durations = sorted(frame_durations(times, last_duration))
    return durations[len(durations) // 2]


def plan_timeline(
    times: Sequence[Fraction],
    last_duration: Fraction,
    voice_seconds: Fraction,
    fit: str = "clip",
    own_sound: bool = False,
) -> Timeline:
    """Decide which picture is shown when.

    Args:
        times: start of each of the target's frames in seconds, strictly increasing, the first 0.
        last_duration: seconds that the last frame is shown.
        fit: ``clip`` keeps exactly the target's frames; ``voice`` also ends with a shorter voice; ``loop``,
            ``bounce`` and ``freeze`` stretch the clip to a longer voice by starting again, by playing
            back and forth, or by holding the last picture (at the clip's own rate, so that lips still move).
        own_sound: whether the voice is the target's own sound, which is copied and never cut.

    Returns:
        The timeline.  Voice and clip that differ by no more than one frame count as equal, and then every
        ``fit`` gives the target's own frames.

    Raises:
        UsageError: ``fit`` is none of :data:`FITS`.
        ValueError: the times are empty, do not start at 0 or do not increase.
    """
    if fit not in FITS:
        raise UsageError(f"there is no fit called '{fit}'", f"choose one of {', '.join(FITS)}")
    if not times or times[0] != 0:
        raise ValueError("a timeline needs frame times that start at 0")
    if last_duration <= 0 or any(after <= before for before, after in zip(times, times[1:], strict=False)):
        raise ValueError("frame times have to increase and the last frame has to last")
    # Recorders often end sound and picture a frame apart, which is no reason to loop a clip.
    step = typical_step(times, last_duration)
    clip_seconds = times[-1] + last_duration
    excess = Fraction(voice_seconds) - clip_seconds  # positive where the voice is the longer
    if abs(excess) <= step:
        return replace(whole_clip(times, clip_seconds), difference=excess)
    if excess < 0:
        if fit == "voice":
            return ends_with_voice(times, clip_seconds, Fraction(voice_seconds), step)
        note = f"the voice ends {_seconds(-excess)} before the clip, silence follows it"
        return whole_clip(times, clip_seconds, note=note)
    # Copied sound can't be cut between its packets.
    if fit in ("clip", "voice") and own_sound:
        note = f"the target's own sound goes on {_seconds(excess)} after its last picture, as it did"
        return whole_clip(times, clip_seconds, note=note)
    if fit in ("clip", "voice"):
        warning = (
            f"the voice is {_seconds(excess)} longer than the clip and is cut at {_seconds(clip_seconds)}; "
            "loop, bounce or freeze would keep it"
        )
        return whole_clip(times, clip_seconds, warnings=(warning,))
    return stretched_clip(times, last_duration, Fraction(voice_seconds), step, fit)


def _seconds(value: Fraction) -> str:
    return f"{float(value):.2f} s"


def whole_clip(
    times: Sequence[Fraction], clip_seconds: Fraction, warnings: tuple[str, ...] = (), note: str = ""
) -> Timeline:
    return Timeline(tuple(range(len(times))), tuple(times), clip_seconds, warnings, note)


def end_of_last_frame(natural: Fraction, voice_seconds: Fraction, step: Fraction) -> Fraction:
    """Seconds at which the last frame ends: a long one is cut where the voice ends."""
    # A frame of a variable-rate clip may be on the screen for seconds; it is cut where the voice ends
    # then, while at a steady rate the last frame keeps its full length.
    return natural if natural - voice_seconds <= step else voice_seconds


def ends_with_voice(
    times: Sequence[Fraction], clip_seconds: Fraction, voice_seconds: Fraction, step: Fraction
) -> Timeline:
    """The target's frames that begin before the voice ends."""
    count = max(1, bisect_left(times, voice_seconds))  # frames that start before the voice ends
    natural = times[count] if count < len(times) else clip_seconds
    duration = max(
        end_of_last_frame(natural, voice_seconds, step), times[count - 1] + min(step, natural - times[count - 1])
    )
    note = f"the clip ends with the voice, its last {_seconds(clip_seconds - duration)} are left out"
    return Timeline(tuple(range(count)), tuple(times[:count]), duration, (), note)


def stretched_clip(
    times: Sequence[Fraction], last_duration: Fraction, voice_seconds: Fraction, step: Fraction, fit: str
) -> Timeline:
    """The target's frames, repeated as ``fit`` says until the voice ends."""
    # The last frame may begin just before the voice ends, and is cut like any long one.
    picture: list[int] = []
    starts: list[Fraction] = []
    now = Fraction(0)
    # Frames keep their own durations when they are shown again: a variable rate stays variable.
    for index, seconds in endless_frames(frame_durations(times, last_duration), step, fit):
        if now >= voice_seconds:
            break
        picture.append(index)
        starts.append(now)
        now += seconds
    clip_seconds = times[-1] + last_duration
    how = {
        "loop": "starts again",
        "bounce": "plays back and forth",
        "freeze": "holds its last picture",
    }[fit]
    note = f"the clip ({_seconds(clip_seconds)}) {how} until the voice ends ({_seconds(voice_seconds)})"
    duration = max(end_of_last_frame(now, voice_seconds, step), starts[-1] + min(step, now - starts[-1]))
    return Timeline(tuple(picture), tuple(starts), duration, (), note)


def endless_frames(durations: Sequence[Fraction], step: Fraction, fit: str) -> Iterator[tuple[int, Fraction]]:
    """(source frame, seconds shown) without end; a frame played backwards keeps its own duration."""
    forward = list(range(len(durations)))
    yield from zip(forward, durations, strict=True)
    while True:
        if fit == "freeze":
            yield forward[-1], step
        else:
            # The two ends are not shown twice in a row when the direction turns.
            order = forward if fit == "loop" else [*forward[-2:0:-1], *forward]
            for index in order:
                yield index, durations[index]
