"""The one final pass: encoded picture, voice and the target's other streams become the output, or nothing does."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import av
import ffmpeg
import numpy as np
from av import AudioStream
from av.format import Flags

from talkswap.errors import EncoderError, NoAudioError, UsageError
from talkswap.files import write_error
from talkswap.media.codecs import CONTAINERS
from talkswap.media.index import FrameIndex
from talkswap.media.output import FinishedClip, check_output, staging_folder, verify
from talkswap.media.probe import open_clip, probe, video_stream
from talkswap.media.program import ffmpeg_url, find_ffmpeg, run_ffmpeg
from talkswap.media.sound import LONGEST_HOLE, LONGEST_OVERLAP, SMALLEST_HOLE, default_sound
from talkswap.media.streams import COPY, MIXES, OtherStreams, Track, chapter_file, cover_file, lost_tags, plan_streams
from talkswap.types import Voice

DEFAULT_COMMENT = "Made with talkswap: face and voice in this clip were changed by a computer"
_AAC_RATES = (32000, 44100, 48000)
_OPUS_RATE = 48000
_BITS_A_CHANNEL = {"aac": 128_000, "libopus": 96_000}
_WARM_UP = 0.1  # seconds of sound before a cut that a decoder needs (Opus 80 ms); mp4 and mov hide them from the ear
# Under speech at its usual -20 dB the target's own sound goes 12 dB down: (20 dB - 34 dB) * (1 - 1 / 8).
_DUCK = {"threshold": 0.02, "ratio": 8, "attack": 20, "release": 400}
_LIMIT = {"limit": 0.97, "level": 0, "latency": 1}  # two loud sounds together must not clip


@dataclass(frozen=True)
class SoundInput:
    """One sound as one of ffmpeg's inputs."""

    url: str
    hz: int
    channels: int
    stream: int = 0  # which of the input's streams
    late: Fraction = Fraction(0)  # seconds after the file's start that ffmpeg would leave out
    offset: Fraction = Fraction(0)  # seconds of silence before it; negative cuts its beginning
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of ffmpeg.input

    @classmethod
    def of_voice(cls, voice: Path | Voice, offset: Fraction, folder: Path) -> SoundInput:
        """A voice; samples are written into ``folder`` first.

        Raises:
            NoAudioError: it has no sound.
        """
        if isinstance(voice, Voice):
            samples = np.ascontiguousarray(voice.samples, "<f4")
            if not samples.size:
                raise NoAudioError("the voice has no samples", "give a sound with speech in it")
            # Raw samples on the disk: a pipe would tie two programs together, and a wav ends at 4 GB.
            raw = folder / "voice.f32"
            samples.tofile(raw)
            format = {"format": "f32le", "ar": voice.hz, "ac": 1}
            return cls(ffmpeg_url(raw), voice.hz, 1, offset=offset, arguments=format)
        with open_clip(Path(voice)) as container:
            stream = default_sound(container, Path(voice)).index
        return cls.of_stream(Path(voice), stream, offset)

    @classmethod
    def of_stream(cls, path: Path, index: int, offset: Fraction) -> SoundInput:
        """One of a file's sounds."""
        with open_clip(path) as container:
            stream = cast(AudioStream, container.streams[index])
            late = Fraction(0)
            if Flags.ts_discont in Flags(container.format.flags) and stream.start_time is not None:
                # In MPEG-TS and its like, ffmpeg counts from the start of the streams that it uses.
                start = Fraction(container.start_time or 0, av.time_base)
                late = stream.start_time * Fraction(stream.time_base or 0) - start
            context = stream.codec_context
            channels = int(context.layout.nb_channels)
            return cls(ffmpeg_url(path), int(context.sample_rate), channels, index, late, offset)

    def on_clock(self, hz: int, layout: str, duration: Fraction) -> Any:
        """The sound in ffmpeg's filters, on its file's clock moved by ``offset``, at ``round(duration * hz)`` samples.

        A late start and holes become silence and overlaps are cut, by the limits of :mod:`talkswap.media.sound`, so
        that lips and sound keep to the same moments.
        """
        source = ffmpeg.input(self.url, protocol_whitelist="file", **self.arguments)
        # Jumps that only damage explains are taken out first: the resampler would fill them in memory, however long.
        step = "PTS-PREV_INPTS"
        jump = f"gt(({step})*TB,{LONGEST_HOLE})+lt(({step})*TB,-{float(LONGEST_OVERLAP)})"
        begins = f"PTS+{float(self.late):.6f}/TB"
        first = f"if(gt(({begins})*TB,{LONGEST_HOLE}),0,{begins})"
        clock = f"if(isnan(PREV_INPTS),{first},PREV_OUTPTS+if({jump},S/SR/TB,{step}))"
        resampling = {"async": 1, "first_pts": 0, "min_hard_comp": float(SMALLEST_HOLE)}
        sound = source[str(self.stream)].filter("asetpts", clock).filter("aresample", hz, **resampling)
        # Both inputs of a mix need one layout.
        sound = sound.filter("aformat", channel_layouts=layout)
        delay = round(self.offset * hz)
        if delay > 0:
            sound = sound.filter("adelay", delays=f"{delay}S", all=1)
        elif delay < 0:
            sound = sound.filter("atrim", start_sample=-delay).filter("asetpts", "N/SR/TB")
        return exactly(sound, round(duration * hz))


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
    output, ending = Path(output), Path(output).suffix.lower()
    if audio_mix not in MIXES:
        raise UsageError(f"there is no audio mix called '{audio_mix}'", f"choose one of {', '.join(MIXES)}")
    with staging_folder(output, overwrite, within) as folder:
        sound = None if voice is None else SoundInput.of_voice(voice, voice_offset, folder)
        finished = folder / f"finished{ending}"
        mix = audio_mix if voice is not None else ""
        streams = plan_streams(target, ending, duration, index, mix, subtitles)
        warnings = list(streams.warnings)
        # The first attempt keeps everything.
        while True:
            try:
                run_ffmpeg(final_pass(video, sound, target, finished, duration, streams, mix, metadata or {}), output)
                break
            except EncoderError as error:
                # A render isn't thrown away for a subtitle, then for another stream, that this ffmpeg can't write.
                fewer, what = fewer_streams(streams, ending)
                if fewer is None:
                    raise
                warnings.append(f"the target's {what} were left out: {error.message}")
                streams = fewer
        # Marks go in before the check, so that it sees the file which the user gets.
        if finishing is not None:
            finishing(finished)
        clip = verify(finished, times, duration, "voice" if sound else "own" if streams.sounds else "none")
        warnings += lost_tags(streams, finished, ending)
        check_output(output, overwrite)  # someone may have written there meanwhile
        try:
            os.replace(finished, output)
        except OSError as error:
            raise write_error(output, error) from error
    outcomes = streams.outcomes
    if any((time / clip.time_base).denominator != 1 for time in times):
        clock = f"times: each to the nearest {float(clip.time_base)} s, which is the clock of {ending} files"
        outcomes = (*outcomes, clock)
    return replace(clip, streams=outcomes, warnings=tuple(warnings))


def fewer_streams(streams: OtherStreams, ending: str) -> tuple[OtherStreams | None, str]:
    """A second and a third attempt: without subtitles, then with the sounds encoded again and nothing else."""
    # Subtitles go first: without them a clip is still whole in picture and sound.
    if streams.subtitles:
        outcomes = tuple(outcome for outcome in streams.outcomes if not outcome.startswith("subtitle "))
        return replace(streams, subtitles=(), outcomes=(*outcomes, "subtitles: left out")), "subtitles"
    copies = [track for track in streams.sounds if track.codec == COPY]
    if not (copies or streams.covers or streams.attachments or streams.chapters):
        return None, ""
    encoder = "libopus" if ending == ".webm" else "aac"
    sounds = tuple(replace(track, codec=encoder) for track in streams.sounds)
    outcomes = (*(f"{track.name}: encoded again as {encoder}" for track in sounds), "everything else: left out")
    fewer = replace(streams, sounds=sounds, covers=(), attachments=(), chapters=(), picture_tags={}, outcomes=outcomes)
    return fewer, "chapters, pictures and sounds as they are"


def final_pass(
    video: Path,
    sound: SoundInput | None,
    target: Path,
    finished: Path,
    duration: Fraction,
    streams: OtherStreams,
    mix: str,
    metadata: Mapping[str, str | None],
) -> list[str]:
    """ffmpeg's argument list: ffmpeg-python builds inputs, filters and maps, and each stream's options follow."""
    ending = finished.suffix
    # The muxer must count in the picture's own clock, or times would be rounded.
    with open_clip(video) as container:
        picture = video_stream(container, video)
        codec = picture.codec_context.codec.canonical_name
        timescale = Fraction(picture.time_base or 0).denominator
    shift = {"itsoffset": f"{float(streams.shift):.6f}"} if streams.shift else {}
    source = ffmpeg.input(ffmpeg_url(target), protocol_whitelist="file", **shift)
    maps = [ffmpeg.input(ffmpeg_url(video), protocol_whitelist="file")["v:0"]]
    options = ["-c:v", "copy", *stream_tags("v:0", streams.picture_tags)]
    if streams.picture_dispositions:
        options += ["-disposition:v:0", f"default+{streams.picture_dispositions}"]

    # Sounds: the voice first, so that players take it unasked, then the target's own.
    if sound is not None:
        under = streams.own if mix == "duck" else None
        own = SoundInput.of_stream(target, under.index, streams.offset) if under else None
        stream, encoder = encoded_sound(sound, own, ending, duration)
        maps.append(stream)
        options += [*stream_options("a:0", encoder), "-disposition:a:0", "default"]
        options += ["-metadata:s:a:0", "title=dubbed"] if mix == "keep" and streams.own else []
    for number, track in enumerate(streams.sounds, 0 if sound is None else 1):
        if track.codec == COPY:
            maps.append(source[str(track.index)])
            options += [f"-c:a:{number}", "copy", *cut_sound(f"a:{number}", streams, ending, duration)]
        else:
            own = SoundInput.of_stream(target, track.index, streams.offset)
            stream, encoder = encoded_sound(own, None, ending, duration)
            maps.append(stream)
            options += [*stream_options(f"a:{number}", encoder), *stream_tags(f"a:{number}", track.tags)]
        options += title_options(f"a:{number}", track, ending)
        if sound is not None:
            options += [f"-disposition:a:{number}", track.dispositions or "0"]

    # Copied subtitles keep their own times, which a cut has to move.
    for number, track in enumerate(streams.subtitles):
        maps.append(source[str(track.index)])
        options += [f"-c:s:{number}", track.codec, f"-bsf:s:{number}", cut_subtitle(streams, duration)]
        options += title_options(f"s:{number}", track, ending)

    # Cover pictures: Matroska has them as attachments, mp4 as streams.
    for number, track in enumerate(streams.covers, 1):
        if ending == ".mkv":
            cover, media_type = cover_file(target, track, finished.parent, number)
            place = f"s:t:{len(streams.attachments) + number - 1}"
            options += ["-attach", ffmpeg_url(cover), f"-metadata:{place}", f"mimetype={media_type}"]
            options += [f"-metadata:{place}", f"filename={cover.name}"]
        else:
            maps.append(source[str(track.index)])
            options += [f"-c:v:{number}", "copy", f"-disposition:v:{number}", "attached_pic"]
    for number, track in enumerate(streams.attachments):
        maps.append(source[str(track.index)])
        options += [f"-c:t:{number}", "copy"]

    # A caller's tags go before ours; an empty one deletes what ffmpeg would copy from the target.
    tags = {"comment": DEFAULT_COMMENT, **metadata}
    if ending in (".mkv", ".webm"):
        # Words of the mp4 container that would be wrong elsewhere.
        tags = {"major_brand": "", "minor_version": "", "compatible_brands": "", **tags}
    if streams.cut:
        tags["timecode"] = ""  # the first frame may be another
    options += [word for name, tag in tags.items() if tag is not None for word in ("-metadata:g", f"{name}={tag}")]

    if ending in (".mp4", ".mov"):
        options += ["-movflags", "+faststart", "-video_track_timescale", str(timescale)]
        options += ["-tag:v:0", "hvc1"] if codec == "hevc" else []  # Apple's players take no other name
    if video.suffix == ".mkv" and (info := probe(target)).sample_aspect_ratio != 1:
        # PyAV leaves the shape of pixels out of Matroska.
        shape = info.sample_aspect_ratio * info.width / info.height
        options += ["-aspect:v:0", f"{shape.numerator}:{shape.denominator}"]
    if streams.chapters:
        chapters = finished.with_name("chapters.txt")
        chapters.write_text(chapter_file(streams.chapters), encoding="utf-8")
        maps.append(ffmpeg.input(ffmpeg_url(chapters), protocol_whitelist="file", format="ffmetadata")["v:98?"])
    # A map that matches nothing keeps the target among the inputs even if only its tags are used.
    maps.append(source["v:99?"])

    # No shell reads this command, and standard input is closed: a prompt would wait for ever.
    run = ffmpeg.output(*maps, ffmpeg_url(finished), format=CONTAINERS[ending])
    run = run.global_args("-hide_banner", "-nostdin", "-loglevel", "error").overwrite_output()
    # Left alone, ffmpeg closes every hole over ten seconds in MPEG-TS.
    run = run.global_args("-dts_delta_threshold", str(LONGEST_HOLE))
    arguments = [str(argument) for argument in ffmpeg.compile(run, cmd=str(find_ffmpeg().path))]
    # ffmpeg-python numbers the inputs itself, so their places are read off its result.
    inputs = [url for option, url in pairwise(arguments) if option == "-i"]
    options += ["-map_metadata", str(last_place(inputs, ffmpeg_url(target)))]
    options += ["-map_chapters", str(last_place(inputs, ffmpeg_url(chapters)) if streams.chapters else -1)]
    end = last_place(arguments, ffmpeg_url(finished))
    return [*arguments[:end], *options, *arguments[end:]]


def encoded_sound(
    sound: SoundInput, under: SoundInput | None, ending: str, duration: Fraction
) -> tuple[Any, dict[str, str]]:
    """A sound to be encoded, alone or over another, and its encoder's options."""
    encoder = "libopus" if ending == ".webm" else "aac"
    # Resampling a voice costs quality, so AAC keeps its rate wherever the encoder takes it; Opus has one rate.
    hz = sound.hz if encoder == "aac" and sound.hz in _AAC_RATES else _OPUS_RATE
    if under is not None and encoder == "aac" and under.hz in _AAC_RATES:
        hz = max(hz, under.hz)
    channels = min(max(sound.channels, under.channels if under else 0), 2)
    layout = "mono" if channels == 1 else "stereo"
    stream = sound.on_clock(hz, layout, duration)
    if under is not None:
        # The voice is needed twice: it turns the other sound down, and it's heard.
        split = stream.filter_multi_output("asplit")
        ducked = ffmpeg.filter([under.on_clock(hz, layout, duration), split[0]], "sidechaincompress", **_DUCK)
        stream = ffmpeg.filter([ducked, split[1]], "amix", inputs=2, duration="longest", normalize=0)
        stream = exactly(stream.filter("alimiter", **_LIMIT), round(duration * hz))
    return stream, {"c": encoder, "b": str(_BITS_A_CHANNEL[encoder] * channels)}


def exactly(sound: Any, samples: int) -> Any:
    """The sound cut, or followed by silence, at a number of samples."""
    return sound.filter("apad", whole_len=samples).filter("atrim", end_sample=samples)


def cut_sound(place: str, streams: OtherStreams, ending: str, duration: Fraction) -> list[str]:
    """Drop a copied sound's packets around the part that is shown; a whole clip keeps every one."""
    if not streams.cut:
        return []
    # Matroska has no way to hide sound before the first picture: it would move the picture.
    before = _WARM_UP if ending in (".mp4", ".mov") else 0
    outside = f"lt(pts*tb,-{before})+gte(pts*tb,{float(duration):.6f})"
    return [f"-bsf:{place}", f"noise=drop='{outside}'"]


def cut_subtitle(streams: OtherStreams, duration: Fraction) -> str:
    """Subtitles end with the clip at the latest, or they would lengthen the file, and begin with it at the earliest."""
    end = f"{float(duration):.6f}"
    outside = f"gte(pts*tb,{end})" + ("+lt(pts*tb,0)*lte((pts+duration)*tb,0)" if streams.cut else "")
    start = "max(PTS,0)" if streams.cut else "PTS"
    times = f"pts='{start}':dts='{start.replace('PTS', 'DTS')}':duration='min(PTS+DURATION,{end}/TB)-{start}'"
    return f"noise=drop='{outside}',setts={times}"


def stream_options(place: str, options: Mapping[str, str]) -> list[str]:
    """ffmpeg's options for one output stream, such as ``a:0``."""
    return [word for name, value in options.items() for word in (f"-{name}:{place}", value)]


def stream_tags(place: str, tags: Mapping[str, str]) -> list[str]:
    """ffmpeg's options for the tags of one output stream."""
    return [word for name, value in tags.items() for word in (f"-metadata:s:{place}", f"{name}={value}")]


def title_options(place: str, track: Track, ending: str) -> list[str]:
    """mp4 and mov have no titles of tracks, but a name that players show instead."""
    title = track.tags.get("title")
    return [f"-metadata:s:{place}", f"handler_name={title}"] if title and ending in (".mp4", ".mov") else []


def last_place(words: Sequence[str], word: str) -> int:
    """Where a word stands last."""
    return len(words) - 1 - words[::-1].index(word)
