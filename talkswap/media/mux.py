"""The one final pass: encoded picture, voice and the target's other streams become the output, or nothing does."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
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

from talkswap.errors import EncoderError, NoAudioError, OutputUnwritableError, UsageError
from talkswap.media.codecs import CONTAINERS
from talkswap.media.containers import open_clip, video_stream
from talkswap.media.index import FrameIndex
from talkswap.media.probe import probe
from talkswap.media.program import ffmpeg_url, find_ffmpeg, run_ffmpeg
from talkswap.media.sound import LONGEST_HOLE, LONGEST_OVERLAP, SMALLEST_HOLE, default_sound
from talkswap.media.staging import check_output, staging_folder
from talkswap.media.streams import COPY, MIXES, Besides, Track, chapter_file, cover_file, lost_tags, survey
from talkswap.media.verify import FinishedClip, verify
from talkswap.types import Voice

__all__ = ["check_output", "find_ffmpeg", "mux", "staging_folder", "verify"]

DEFAULT_COMMENT = "Made with talkswap: face and voice in this clip were changed by a computer"
_AAC_RATES = (32000, 44100, 48000)
_OPUS_RATE = 48000
_BITS_A_CHANNEL = {"aac": 128_000, "libopus": 96_000}
_WARM_UP = 0.1  # seconds of sound before a cut that a decoder needs (Opus 80 ms); mp4 and mov hide them from the ear
# Under speech at its usual -20 dB the target's own sound goes 12 dB down: (20 dB - 34 dB) * (1 - 1 / 8).
_DUCK = {"threshold": 0.02, "ratio": 8, "attack": 20, "release": 400}
_LIMIT = {"limit": 0.97, "level": 0, "latency": 1}  # two loud sounds together must not clip


@dataclass(frozen=True)
class _Sound:
    """One sound as one of ffmpeg's inputs."""

    arguments: dict[str, Any]  # of ffmpeg.input
    url: str
    hz: int
    channels: int
    stream: int = 0  # which of the input's streams
    late: Fraction = Fraction(0)  # seconds after the file's start that ffmpeg would leave out
    offset: Fraction = Fraction(0)  # seconds of silence before it; negative cuts its beginning

    def timed(self, hz: int, layout: str, duration: Fraction) -> Any:
        """The sound in ffmpeg's filters, at exactly ``round(duration * hz)`` samples."""
        source = ffmpeg.input(self.url, protocol_whitelist="file", **self.arguments)
        return _timed(source[str(self.stream)], hz, layout, duration, self.offset, self.late)


def mux(
    video: Path,
    voice: Path | Voice | None,
    target: Path,
    output: Path,
    times: Sequence[Fraction],
    duration: Fraction,
    *,
    voice_offset: Fraction = Fraction(0),
    audio_mix: str = "replace",
    index: FrameIndex | None = None,
    metadata: Mapping[str, str | None] | None = None,
    subtitles: bool = True,
    overwrite: bool = False,
    within: Path | None = None,
    finishing: Callable[[Path], None] | None = None,
) -> FinishedClip:
    """Join picture and voice with what the target has besides, check the result, and put it in place.

    The encoded picture is copied bit by bit.  The voice is encoded (AAC; Opus in .webm) at exactly ``duration``:
    cut, or followed by silence.  The target's other streams are copied as :mod:`talkswap.media.streams` decides;
    of a part of a target, what lies in the part.  The file is made in a private folder beside the output, verified,
    and renamed in one step; on any failure the output stays as it was.

    Args:
        video: what :class:`talkswap.media.writer.VideoWriter` wrote.
        voice: a sound or video file (its default audio stream, on the clock of
            :func:`talkswap.media.sound.load_voice`: the start of the file is heard with the first frame, a hole is
            silence), or samples; None keeps the target's own sound, all its packets as they are.
        target: the target clip.
        output: the finished file; its ending (.mp4, .mov, .mkv, .webm) chooses the container.
        times: planned start of each frame in seconds.
        duration: planned length in seconds.
        voice_offset: seconds of silence before the voice; negative cuts its beginning.
        audio_mix: what becomes of the target's own sound beside a voice: ``replace`` (the voice takes its place),
            ``keep`` (it stays as a track behind the voice), ``duck`` (it goes on under the voice, 12 dB lower while
            somebody speaks at -20 dB).
        index: the target's frames that are shown; without it all.
        metadata: container tags besides the target's; mp4 and mov keep only well-known names (title, comment, ...).
            A ``comment`` that names talkswap is written unless one is given; None leaves a tag as the target has it.
        subtitles: whether the target's subtitles, chapters, cover pictures and attachments are copied.
        overwrite: whether an existing output may be replaced.
        within: a folder on the output's disk for the private one; the output's own without it.
        finishing: called with the finished file before it is verified and put in place, to mark it.

    Returns:
        What :func:`verify` read back, with what became of each stream and what could not be kept.

    Raises:
        OutputExistsError, OutputUnwritableError: the output's place.
        UsageError: there is no such ``audio_mix``.
        NoAudioError: the voice has no sound.
        EncoderError: ffmpeg is missing or failed; its last lines are in the message.
        OutputCheckError: the result breaks the plan.
    """
    output = Path(output)
    if audio_mix not in MIXES:
        raise UsageError(f"there is no audio mix called '{audio_mix}'", f"choose one of {', '.join(MIXES)}")
    with staging_folder(output, overwrite, within) as folder:
        sound = None if voice is None else replace(_sound(voice, folder), offset=voice_offset)
        ending = output.suffix.lower()
        finished = folder / f"finished{ending}"
        mix = audio_mix if voice is not None else ""
        besides = survey(target, ending, duration, index, mix, subtitles)
        lost: list[str] = []
        while True:
            try:
                run_ffmpeg(_command(video, sound, target, finished, duration, besides, mix, metadata or {}), output)
                break
            except EncoderError as error:
                # A render is not thrown away for a subtitle, then for another stream, that this ffmpeg cannot write.
                less, what = _less(besides, output.suffix.lower())
                if less is None:
                    raise
                lost.append(f"the target's {what} were left out: {error.message}")
                besides = less
        if finishing is not None:
            finishing(finished)
        heard = bool(sound or besides.sounds)
        found = verify(finished, times, duration, "voice" if sound else "own" if heard else "none")
        lost += lost_tags(besides, finished, ending)
        check_output(output, overwrite)  # someone may have written there meanwhile
        try:
            os.replace(finished, output)
        except OSError as error:
            raise OutputUnwritableError(f"{output} cannot be written ({error.strerror})", "check its rights") from error
    fates = besides.fates
    if any((time / found.time_base).denominator != 1 for time in times):
        fates = (*fates, f"times: each to the nearest {float(found.time_base)} s, which is the clock of {ending} files")
    return replace(found, streams=fates, warnings=(*besides.lost, *lost))


def _less(besides: Besides, ending: str) -> tuple[Besides | None, str]:
    """A second and a third attempt: without subtitles, then with the sounds encoded anew and nothing else."""
    if besides.subtitles:
        fates = tuple(f for f in besides.fates if not f.startswith("subtitle "))
        return replace(besides, subtitles=(), fates=(*fates, "subtitles: left out")), "subtitles"
    copied = [track for track in besides.sounds if track.codec == COPY]
    others = besides.covers or besides.attachments or besides.chapters
    if not copied and not others:
        return None, ""
    anew = "libopus" if ending == ".webm" else "aac"
    sounds = tuple(replace(track, codec=anew) for track in besides.sounds)
    fates = (*(f"{track.name}: encoded anew as {anew}" for track in sounds), "everything else: left out")
    return (
        replace(besides, sounds=sounds, covers=(), attachments=(), chapters=(), picture_tags={}, fates=fates),
        "chapters, pictures and sounds as they are",
    )


def _sound(voice: Path | Voice, folder: Path) -> _Sound:
    if isinstance(voice, Voice):
        samples = np.ascontiguousarray(voice.samples, "<f4")
        if not samples.size:
            raise NoAudioError("the voice has no samples", "give a sound with speech in it")
        raw = folder / "voice.f32"
        samples.tofile(raw)
        return _Sound({"format": "f32le", "ar": voice.hz, "ac": 1}, ffmpeg_url(raw), voice.hz, 1)
    with open_clip(Path(voice)) as container:
        index = default_sound(container, Path(voice)).index
    return _sound_of(Path(voice), index)


def _sound_of(path: Path, index: int, offset: Fraction = Fraction(0)) -> _Sound:
    """One of a file's sounds."""
    with open_clip(path) as container:
        stream = cast(AudioStream, container.streams[index])
        late = Fraction(0)
        if Flags.ts_discont in Flags(container.format.flags) and stream.start_time is not None:
            # In MPEG-TS and its like, ffmpeg counts from the start of the streams it was told to use.
            late = stream.start_time * Fraction(stream.time_base or 0) - Fraction(
                container.start_time or 0, av.time_base
            )
        context = stream.codec_context
        channels = int(context.layout.nb_channels)
        return _Sound({}, ffmpeg_url(path), int(context.sample_rate), channels, index, late, offset)


def _command(
    video: Path,
    sound: _Sound | None,
    target: Path,
    finished: Path,
    duration: Fraction,
    besides: Besides,
    mix: str,
    metadata: Mapping[str, str | None],
) -> list[str]:
    """ffmpeg's argument list."""
    ending = finished.suffix
    picture = ffmpeg.input(ffmpeg_url(video), protocol_whitelist="file")
    shift = {"itsoffset": f"{float(besides.shift):.6f}"} if besides.shift else {}
    source = ffmpeg.input(ffmpeg_url(target), protocol_whitelist="file", **shift)
    mapped = [picture["v:0"]]
    details = ["-c:v", "copy", *_marked("v:0", besides.picture_marks, besides.picture_tags)]
    before = 0
    if sound is not None:
        under = besides.own if mix == "duck" else None
        heard, coded = _heard(
            sound, _sound_of(target, under.index, besides.offset) if under else None, ending, duration
        )
        mapped.append(heard)
        details += [*_numbered("a:0", coded), "-disposition:a:0", "default"]
        details += ["-metadata:s:a:0", "title=dubbed"] if mix == "keep" and besides.own else []
        before = 1
    for number, track in enumerate(besides.sounds, before):
        if track.codec == COPY:
            mapped.append(source[str(track.index)])
            details += [f"-c:a:{number}", "copy", *_cut_sound(f"a:{number}", besides, ending, duration)]
        else:
            heard, coded = _heard(_sound_of(target, track.index, besides.offset), None, ending, duration)
            mapped.append(heard)
            details += [*_numbered(f"a:{number}", coded), *_marked(f"a:{number}", "", track.tags)]
        details += _named(f"a:{number}", track, ending)
        if sound is not None:
            details += [f"-disposition:a:{number}", track.marks or "0"]  # the voice is what plays unasked
    for number, track in enumerate(besides.subtitles):
        mapped.append(source[str(track.index)])
        details += [f"-c:s:{number}", track.codec, f"-bsf:s:{number}", _cut_subtitle(besides, duration)]
        details += _named(f"s:{number}", track, ending)
    for number, track in enumerate(besides.covers, 1):
        if ending == ".mkv":
            cover, media_type = cover_file(target, track, finished.parent, number)
            place = f"s:t:{len(besides.attachments) + number - 1}"
            details += ["-attach", ffmpeg_url(cover), f"-metadata:{place}", f"mimetype={media_type}"]
            details += [f"-metadata:{place}", f"filename={cover.name}"]
        else:
            mapped.append(source[str(track.index)])
            details += [f"-c:v:{number}", "copy", f"-disposition:v:{number}", "attached_pic"]
    for number, track in enumerate(besides.attachments):
        mapped.append(source[str(track.index)])
        details += [f"-c:t:{number}", "copy"]
    for name, value in _tags(ending, metadata).items():
        details += ["-metadata:g", f"{name}={value}"]
    details += ["-metadata:g", "timecode="] if besides.cut else []  # the first frame may be another
    options: dict[str, Any] = {"format": CONTAINERS[ending]}
    if ending in (".mp4", ".mov"):
        details += ["-movflags", "+faststart", "-video_track_timescale", str(_timescale(video))]
        details += ["-tag:v:0", "hvc1"] if _codec_of(video) == "hevc" else []  # Apple's players take no other name
    if video.suffix == ".mkv" and (info := probe(target)).sample_aspect_ratio != 1:
        # PyAV leaves the shape of pixels out of Matroska.
        shape = info.sample_aspect_ratio * info.width / info.height
        details += ["-aspect:v:0", f"{shape.numerator}:{shape.denominator}"]
    if besides.chapters:
        chapters = finished.with_name("chapters.txt")
        chapters.write_text(chapter_file(besides.chapters), encoding="utf-8")
        mapped.append(ffmpeg.input(ffmpeg_url(chapters), protocol_whitelist="file", format="ffmetadata")["v:98?"])
    # A map that matches nothing keeps the target among the inputs where only its tags are wanted.
    mapped.append(source["v:99?"])

    joined = ffmpeg.output(*mapped, ffmpeg_url(finished), **options)
    # Left alone, ffmpeg closes every hole over ten seconds in MPEG-TS.
    joined = joined.global_args("-hide_banner", "-nostdin", "-loglevel", "error").overwrite_output()
    joined = joined.global_args("-dts_delta_threshold", str(LONGEST_HOLE))
    arguments = [str(argument) for argument in ffmpeg.compile(joined, cmd=str(find_ffmpeg().path))]
    # ffmpeg-python numbers the inputs itself; where each came to stand is read off its result.
    inputs = [url for option, url in pairwise(arguments) if option == "-i"]
    details += ["-map_metadata", str(_last(inputs, ffmpeg_url(target)))]
    details += ["-map_chapters", str(_last(inputs, ffmpeg_url(chapters)) if besides.chapters else -1)]
    end = _last(arguments, ffmpeg_url(finished))
    return [*arguments[:end], *details, *arguments[end:]]


def _heard(sound: _Sound, under: _Sound | None, ending: str, duration: Fraction) -> tuple[Any, dict[str, str]]:
    """A sound to be encoded, alone or over another, and its encoder's options."""
    encoder = "libopus" if ending == ".webm" else "aac"
    hz = sound.hz if encoder == "aac" and sound.hz in _AAC_RATES else _OPUS_RATE
    if under is not None and encoder == "aac" and under.hz in _AAC_RATES:
        hz = max(hz, under.hz)
    channels = min(max(sound.channels, under.channels if under else 0), 2)
    layout = "mono" if channels == 1 else "stereo"
    heard = sound.timed(hz, layout, duration)
    if under is not None:
        split = heard.filter_multi_output("asplit")
        lowered = ffmpeg.filter([under.timed(hz, layout, duration), split[0]], "sidechaincompress", **_DUCK)
        mixed = ffmpeg.filter([lowered, split[1]], "amix", inputs=2, duration="longest", normalize=0)
        samples = round(duration * hz)
        heard = mixed.filter("alimiter", **_LIMIT).filter("apad", whole_len=samples).filter("atrim", end_sample=samples)
    return heard, {"c": encoder, "b": str(_BITS_A_CHANNEL[encoder] * channels)}


def _timed(stream: Any, hz: int, layout: str, duration: Fraction, offset: Fraction, late: Fraction) -> Any:
    """The voice on its file's clock, moved by ``offset``, at exactly ``round(duration * hz)`` samples.

    A late start and holes become silence, overlaps are cut, by the limits of :mod:`talkswap.media.sound`, so that lips
    and sound keep to the same moments.  Jumps that only damage explains are taken out
    before: the resampler would fill them in memory, however long they are.

    Args:
        late: seconds that ffmpeg's clock has lost against the file's.
    """
    step = "PTS-PREV_INPTS"
    jump = f"gt(({step})*TB,{LONGEST_HOLE})+lt(({step})*TB,-{float(LONGEST_OVERLAP)})"
    begins = f"PTS+{float(late):.6f}/TB"
    first = f"if(gt(({begins})*TB,{LONGEST_HOLE}),0,{begins})"
    clock = f"if(isnan(PREV_INPTS),{first},PREV_OUTPTS+if({jump},S/SR/TB,{step}))"
    filled = {"async": 1, "first_pts": 0, "min_hard_comp": float(SMALLEST_HOLE)}
    stream = stream.filter("asetpts", clock).filter("aresample", hz, **filled).filter("aformat", channel_layouts=layout)
    samples = round(duration * hz)
    moved = round(offset * hz)
    if moved > 0:
        stream = stream.filter("adelay", delays=f"{moved}S", all=1)
    elif moved < 0:
        stream = stream.filter("atrim", start_sample=-moved).filter("asetpts", "N/SR/TB")
    return stream.filter("apad", whole_len=samples).filter("atrim", end_sample=samples)


def _cut_sound(place: str, besides: Besides, ending: str, duration: Fraction) -> list[str]:
    """Leaves out a copied sound's packets around the part that is shown; a whole clip keeps every one."""
    if not besides.cut:
        return []
    # Matroska has no way to hide sound before the first picture: it would move the picture.
    before = _WARM_UP if ending in (".mp4", ".mov") else 0
    gone = f"lt(pts*tb,-{before})+gte(pts*tb,{float(duration):.6f})"
    return [f"-bsf:{place}", f"noise=drop='{gone}'"]


def _cut_subtitle(besides: Besides, duration: Fraction) -> str:
    """Subtitles end with the clip at the latest, or they would lengthen the file, and begin with it at the earliest."""
    end = f"{float(duration):.6f}"
    gone = f"gte(pts*tb,{end})" + ("+lt(pts*tb,0)*lte((pts+duration)*tb,0)" if besides.cut else "")
    start = "max(PTS,0)" if besides.cut else "PTS"
    times = f"pts='{start}':dts='{start.replace('PTS', 'DTS')}':duration='min(PTS+DURATION,{end}/TB)-{start}'"
    return f"noise=drop='{gone}',setts={times}"


def _numbered(place: str, options: Mapping[str, str]) -> list[str]:
    return [word for name, value in options.items() for word in (f"-{name}:{place}", value)]


def _marked(place: str, marks: str, tags: Mapping[str, str]) -> list[str]:
    """ffmpeg's options for one stream's dispositions and tags."""
    found = [f"-disposition:{place}", f"default+{marks}"] if marks else []
    for name, value in tags.items():
        found += [f"-metadata:s:{place}", f"{name}={value}"]
    return found


def _named(place: str, track: Track, ending: str) -> list[str]:
    """mp4 and mov have no titles of tracks, but a name that players show in their place."""
    title = track.tags.get("title")
    return [f"-metadata:s:{place}", f"handler_name={title}"] if title and ending in (".mp4", ".mov") else []


def _tags(ending: str, metadata: Mapping[str, str | None]) -> dict[str, str]:
    wanted = {"comment": DEFAULT_COMMENT, **metadata}
    tags = {name: value for name, value in wanted.items() if value is not None}
    if ending in (".mkv", ".webm"):
        # Words of the mp4 container that would only be wrong elsewhere.
        tags = {"major_brand": "", "minor_version": "", "compatible_brands": "", **tags}
    return tags


def _timescale(video: Path) -> int:
    with open_clip(video) as container:
        return Fraction(video_stream(container, video).time_base or 0).denominator


def _codec_of(video: Path) -> str:
    with open_clip(video) as container:
        return video_stream(container, video).codec_context.codec.canonical_name


def _last(words: Sequence[str], word: str) -> int:
    return len(words) - 1 - list(words)[::-1].index(word)
