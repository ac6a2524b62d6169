"""The one final pass: encoded picture, voice and the target's other streams become the output, or nothing does."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import av
import ffmpeg
import numpy as np
from av.audio.stream import AudioStream
from av.format import Flags

from talkswap.errors import EncoderError, NoAudioError, OutputExistsError, OutputUnwritableError
from talkswap.media.codecs import CONTAINERS, container_of
from talkswap.media.containers import local_url, open_clip, video_stream
from talkswap.media.verify import FinishedClip, verify
from talkswap.types import Voice

__all__ = ["check_output", "find_ffmpeg", "mux", "staging_folder", "verify"]

DEFAULT_COMMENT = "Made with talkswap: face and voice in this clip were changed by a computer"
_AAC_RATES = (32000, 44100, 48000)
_OPUS_RATE = 48000
_BITS_A_CHANNEL = {"aac": 128_000, "libopus": 96_000}
_TEXT_SUBTITLES = {"mov_text", "subrip", "srt", "ass", "ssa", "webvtt", "text"}
_SUBTITLES_OF = {".mp4": "mov_text", ".mov": "mov_text", ".webm": "webvtt"}
# The sound's clock is that of talkswap.voice.load, so that lips and sound keep to the same moments.
_SMALLEST_HOLE = 0.05  # seconds: what lies under it is rounding of time stamps
_LONGEST_HOLE = 600  # seconds: a longer jump is damage, played on without a break
_LONGEST_OVERLAP = 0.5  # seconds: a longer jump back is a recording that starts anew, played on
_LAST_LINES = 6
_DISK_FULL = "No space left on device"


@dataclass(frozen=True)
class _Sound:
    """The voice as one of ffmpeg's inputs."""

    arguments: dict[str, Any]  # of ffmpeg.input
    url: str
    hz: int
    channels: int
    stream: int = 0  # which of the input's streams
    late: Fraction = Fraction(0)  # seconds after the file's start that ffmpeg would leave out


@dataclass(frozen=True)
class _Extras:
    """What of the target besides its picture goes into the output."""

    subtitles: tuple[tuple[int, str], ...]  # stream index, codec to write it in
    shift: Fraction  # seconds from the first frame to what ffmpeg takes for the file's start
    chapters_end: Fraction | None  # seconds; None without chapters


@functools.lru_cache(maxsize=1)
def find_ffmpeg() -> Path:
    """The ffmpeg program: from PATH if it runs, else the one that imageio-ffmpeg brings.

    Raises:
        EncoderError: neither is there.
    """
    on_path = shutil.which("ffmpeg")
    if on_path is not None and _runs(Path(on_path)):
        return Path(on_path)
    import imageio_ffmpeg  # only where PATH has none: it looks through the system's folders

    try:
        bundled = Path(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise EncoderError("no ffmpeg was found", "pip install imageio-ffmpeg, or install ffmpeg") from error
    if not _runs(bundled):
        raise EncoderError(f"{bundled} does not run", "pip install --force-reinstall imageio-ffmpeg")
    return bundled


def _runs(program: Path) -> bool:
    try:
        done = subprocess.run([program, "-version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def check_output(output: Path, overwrite: bool = False) -> None:
    """Make sure before a render that its result can be written.

    Raises:
        OutputUnwritableError: unknown ending, a directory, its folder is missing or read-only.
        OutputExistsError: it is there and ``overwrite`` is false.
    """
    container_of(output)
    folder = output.parent
    if not folder.is_dir():
        raise OutputUnwritableError(f"the folder {folder} does not exist", "make it first")
    if output.is_dir():
        raise OutputUnwritableError(f"{output} is a directory", "name a file")
    if output.exists() and not overwrite:
        raise OutputExistsError(f"{output} already exists", "choose another name, or allow it with --overwrite")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputUnwritableError(f"the folder {folder} is read-only", "choose another folder")


@contextmanager
def staging_folder(output: Path, overwrite: bool = False, within: Path | None = None) -> Iterator[Path]:
    """A private folder on the output's disk for what a render makes on its way; removed at the end, come what may.

    Args:
        output: what is being made.
        overwrite: whether it may exist.
        within: a folder on the same disk to make the private one in; the output's own without it.

    Raises:
        As :func:`check_output`.
    """
    check_output(output, overwrite)
    try:
        folder = Path(tempfile.mkdtemp(prefix=".talkswap-", dir=within or output.parent))
    except OSError as error:
        raise OutputUnwritableError(f"nothing can be written in {output.parent} ({error.strerror})") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def mux(
    video: Path,
    voice: Path | Voice,
    target: Path,
    output: Path,
    times: Sequence[Fraction],
    duration: Fraction,
    *,
    voice_offset: Fraction = Fraction(0),
    metadata: Mapping[str, str] | None = None,
    subtitles: bool = True,
    overwrite: bool = False,
    within: Path | None = None,
) -> FinishedClip:
    """Join picture and voice with what the target has besides, check the result, and put it in place.

    The encoded picture is copied bit by bit.  The voice is encoded (AAC; Opus in .webm) at exactly ``duration``:
    cut, or followed by silence.  The target's tags, subtitles and chapters are copied as far as they lie within
    the duration and the container can hold them.  The file is made in a private folder beside the output, verified,
    and renamed in one step; on any failure the output stays as it was.

    Args:
        video: what :class:`talkswap.media.writer.VideoWriter` wrote.
        voice: a sound or video file (its default audio stream, on the clock of
            :func:`talkswap.voice.load.load_voice`: the start of the file is heard with the first frame, a hole is
            silence), or samples.
        target: the target clip.
        output: the finished file; its ending (.mp4, .mov, .mkv, .webm) chooses the container.
        times: planned start of each frame in seconds.
        duration: planned length in seconds.
        voice_offset: seconds of silence before the voice; negative cuts its beginning.  For a target's own sound
            this is ``ClipInfo.audio_offset``.
        metadata: container tags besides the target's; mp4 and mov keep only well-known names (title, comment, ...).
            A ``comment`` that names talkswap is written unless one is given.
        subtitles: whether the target's subtitles and chapters are copied.
        overwrite: whether an existing output may be replaced.
        within: a folder on the output's disk for the private one; the output's own without it.

    Returns:
        What :func:`verify` read back.

    Raises:
        OutputExistsError, OutputUnwritableError: the output's place.
        NoAudioError: the voice has no sound.
        EncoderError: ffmpeg is missing or failed; its last lines are in the message.
        OutputCheckError: the result breaks the plan.
    """
    output = Path(output)
    with staging_folder(output, overwrite, within) as folder:
        sound = _sound(voice, folder)
        finished = folder / f"finished{output.suffix.lower()}"
        command = functools.partial(_command, video, sound, target, finished, duration, voice_offset, metadata or {})
        lost: tuple[str, ...] = ()
        try:
            _run(command(subtitles=subtitles), output)
        except EncoderError as error:
            if not subtitles or not _extras(target, output.suffix.lower()).subtitles:
                raise
            # A render is not thrown away for a subtitle that this ffmpeg cannot convert.
            _run(command(subtitles=False), output)
            lost = (f"the target's subtitles were left out: {error.message}",)
        found = verify(finished, times, duration)
        check_output(output, overwrite)  # someone may have written there meanwhile
        try:
            os.replace(finished, output)
        except OSError as error:
            raise OutputUnwritableError(f"{output} cannot be written ({error.strerror})", "check its rights") from error
    return replace(found, warnings=lost)


def _sound(voice: Path | Voice, folder: Path) -> _Sound:
    if isinstance(voice, Voice):
        samples = np.ascontiguousarray(voice.samples, "<f4")
        if not samples.size:
            raise NoAudioError("the voice has no samples", "give a sound with speech in it")
        raw = folder / "voice.f32"
        samples.tofile(raw)
        return _Sound({"format": "f32le", "ar": voice.hz, "ac": 1}, local_url(raw), voice.hz, 1)
    with open_clip(Path(voice)) as container:
        if not container.streams.audio:
            raise NoAudioError(f"{voice} has no sound", "give a file with an audio stream")
        # The default track before a commentary, as the features are made from it.
        best = container.streams.best("audio")
        index = container.streams.audio[0].index if best is None else best.index
        stream = cast(AudioStream, container.streams[index])
        late = Fraction(0)
        if Flags.ts_discont in Flags(container.format.flags) and stream.start_time is not None:
            # In MPEG-TS and its like, ffmpeg counts from the start of the streams it was told to use.
            late = stream.start_time * Fraction(stream.time_base or 0) - Fraction(
                container.start_time or 0, av.time_base
            )
        context = stream.codec_context
        channels = int(context.layout.nb_channels)
        return _Sound({}, local_url(Path(voice)), int(context.sample_rate), channels, index, late)


def _command(
    video: Path,
    sound: _Sound,
    target: Path,
    finished: Path,
    duration: Fraction,
    voice_offset: Fraction,
    metadata: Mapping[str, str],
    subtitles: bool,
) -> list[str]:
    """ffmpeg's argument list."""
    ending = finished.suffix
    encoder = "libopus" if ending == ".webm" else "aac"
    hz = sound.hz if encoder == "aac" and sound.hz in _AAC_RATES else _OPUS_RATE
    channels = min(sound.channels, 2)
    extras = _extras(target, ending) if subtitles else _Extras((), Fraction(0), None)
    picture = ffmpeg.input(local_url(video), protocol_whitelist="file")
    voice = ffmpeg.input(sound.url, protocol_whitelist="file", **sound.arguments)
    shift = {"itsoffset": f"{float(extras.shift):.6f}"} if extras.shift else {}
    besides = ffmpeg.input(local_url(target), protocol_whitelist="file", **shift)
    heard = _timed(
        voice[str(sound.stream)], hz, "mono" if channels == 1 else "stereo", duration, voice_offset, sound.late
    )
    # A map that matches nothing keeps the target among the inputs where only its tags are wanted.
    wanted = [besides[str(index)] for index, _ in extras.subtitles] or [besides["v:99?"]]
    options: dict[str, Any] = {
        "c:v": "copy",
        "c:a": encoder,
        "b:a": _BITS_A_CHANNEL[encoder] * channels,
        "format": CONTAINERS[ending],
    }
    # ffmpeg-python takes each option once; the number makes names differ and means nothing to ffmpeg.
    tags = _tags(ending, metadata).items()
    options |= {f"metadata:g:{place}": f"{name}={value}" for place, (name, value) in enumerate(tags)}
    options |= {f"c:s:{place}": codec for place, (_, codec) in enumerate(extras.subtitles)}
    if extras.subtitles:
        options["t"] = f"{float(duration):.6f}"
        # One that is on at the end would lengthen the file.
        options["bsf:s"] = f"setts=duration='min(DURATION,{float(duration):.6f}/TB-PTS)'"
    if ending in (".mp4", ".mov"):
        options["movflags"] = "+faststart"
        options["video_track_timescale"] = _timescale(video)

    def compiled(number: int) -> list[str]:
        # Chapters beyond the end of a clip that was cut would point nowhere.
        kept = number if extras.chapters_end is not None and extras.chapters_end <= duration + 1 else -1
        joined = ffmpeg.output(
            picture["v:0"], heard, *wanted, local_url(finished), map_metadata=number, map_chapters=kept, **options
        )
        joined = joined.global_args("-hide_banner", "-nostdin", "-loglevel", "error").overwrite_output()
        # Left alone, ffmpeg closes every hole over ten seconds in MPEG-TS.
        joined = joined.global_args("-dts_delta_threshold", str(_LONGEST_HOLE))
        return [str(argument) for argument in ffmpeg.compile(joined, cmd=str(find_ffmpeg()))]

    # ffmpeg-python numbers the inputs itself; where the target came to stand is read off a first result.
    inputs = [url for option, url in pairwise(compiled(0)) if option == "-i"]
    return compiled(len(inputs) - 1 - inputs[::-1].index(local_url(target)))


def _timed(stream: Any, hz: int, layout: str, duration: Fraction, offset: Fraction, late: Fraction) -> Any:
    """The voice on its file's clock, moved by ``offset``, at exactly ``round(duration * hz)`` samples.

    A late start and holes become silence, overlaps are cut.  Jumps that only damage explains are taken out
    before: the resampler would fill them in memory, however long they are.

    Args:
        late: seconds that ffmpeg's clock has lost against the file's.
    """
    step = "PTS-PREV_INPTS"
    jump = f"gt(({step})*TB,{_LONGEST_HOLE})+lt(({step})*TB,-{_LONGEST_OVERLAP})"
    begins = f"PTS+{float(late):.6f}/TB"
    first = f"if(gt(({begins})*TB,{_LONGEST_HOLE}),0,{begins})"
    clock = f"if(isnan(PREV_INPTS),{first},PREV_OUTPTS+if({jump},S/SR/TB,{step}))"
    filled = {"async": 1, "first_pts": 0, "min_hard_comp": _SMALLEST_HOLE}
    stream = stream.filter("asetpts", clock).filter("aresample", hz, **filled).filter("aformat", channel_layouts=layout)
    samples = round(duration * hz)
    moved = round(offset * hz)
    if moved > 0:
        stream = stream.filter("adelay", delays=f"{moved}S", all=1)
    elif moved < 0:
        stream = stream.filter("atrim", start_sample=-moved).filter("asetpts", "N/SR/TB")
    return stream.filter("apad", whole_len=samples).filter("atrim", end_sample=samples)


def _extras(target: Path, ending: str) -> _Extras:
    """Which of the target's subtitles the container can hold, and as what."""
    subtitles: list[tuple[int, str]] = []
    with open_clip(target) as container:
        for stream in container.streams.subtitles:
            name = stream.codec_context.codec.canonical_name if stream.codec_context else ""
            if name in _TEXT_SUBTITLES and ending in _SUBTITLES_OF:
                subtitles.append((stream.index, _SUBTITLES_OF[ending]))
            elif ending == ".mkv" and name:
                subtitles.append((stream.index, "subrip" if name == "mov_text" else "copy"))
        picture = video_stream(container, target)
        first = (picture.start_time or 0) * Fraction(picture.time_base or 0)
        # ffmpeg counts from the start of the whole file, the plan from the first frame.
        shift = Fraction(container.start_time or 0, av.time_base) - first
        chapters = [chapter["end"] * Fraction(chapter["time_base"] or 0) for chapter in container.chapters()]
    shift = shift if abs(shift) >= Fraction(1, 1000) else Fraction(0)
    return _Extras(tuple(subtitles), shift, max(chapters, default=None))


def _tags(ending: str, metadata: Mapping[str, str]) -> dict[str, str]:
    tags = {"comment": DEFAULT_COMMENT, **metadata}
    if ending in (".mkv", ".webm"):
        # Words of the mp4 container that would only be wrong elsewhere.
        tags = {"major_brand": "", "minor_version": "", "compatible_brands": "", **tags}
    return tags


def _timescale(video: Path) -> int:
    with open_clip(video) as container:
        return Fraction(video_stream(container, video).time_base or 0).denominator


def _run(arguments: list[str], output: Path) -> None:
    """Run ffmpeg without a shell and without a keyboard."""
    try:
        done = subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise EncoderError(f"ffmpeg could not be started ({error.strerror})", "install ffmpeg anew") from error
    if done.returncode == 0:
        return
    if _DISK_FULL in done.stderr:
        raise OutputUnwritableError(f"the disk is full: {output} could not be written", "free some space and try again")
    last = "; ".join(line.strip() for line in done.stderr.strip().splitlines()[-_LAST_LINES:])
    raise EncoderError(
        f"ffmpeg could not finish {output.name}: {last or 'it said nothing'}", "see ffmpeg's words above"
    )
