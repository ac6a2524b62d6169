"""What becomes of the target's other streams: sounds, subtitles, cover pictures, attachments, chapters and tags.

Every stream is copied as it is if the output's container can hold it. Else sounds and text subtitles are encoded again,
and anything else is left out. Each outcome is one line for the user.
"""

import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av import VideoStream
from av.container import InputContainer
from av.error import FFmpegError
from av.format import Flags
from av.stream import Disposition, Stream

from talkswap.errors import EncoderError
from talkswap.media.codecs import CONTAINERS
from talkswap.media.index import FrameIndex
from talkswap.media.probe import open_clip, video_stream

MIXES = ("replace", "keep", "duck")
COPY = "copy"
# Codecs of cover pictures: the file name that players look for, and the media type.
COVERS = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}
_TEXT_SUBTITLES = {"mov_text", "subrip", "srt", "ass", "ssa", "webvtt", "text"}
_TEXT_OF = {".mp4": "mov_text", ".mov": "mov_text", ".mkv": "subrip", ".webm": "webvtt"}
# Beginnings of what was true of the target's encode only.
_STALE_TAGS = ("encoder", "duration", "bps", "number_of_", "_statistics", "rotate", "vendor_id")
# Tags of the container itself, and the time code, which the picture has.
_BRAND_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder", "timecode"}
_NO_SHIFT = Fraction(1, 1000)  # seconds that rounding may make of nothing


@dataclass(frozen=True)
class Track:
    """One of the target's streams that goes into the output."""

    index: int  # in the target
    codec: str  # "copy", or the encoder to encode it again with
    name: str  # for the user: "sound 2 (aac, deu)"
    dispositions: str  # its dispositions without the default, as ffmpeg takes them
    tags: Mapping[str, str]
    hz: int = 0  # of a sound
    channels: int = 0


@dataclass(frozen=True)
class Chapter:
    """One chapter in seconds of the output."""

    start: Fraction
    end: Fraction
    tags: Mapping[str, str]


@dataclass(frozen=True)
class OtherStreams:
    """Everything of a target that goes beside its picture."""

    own: Track | None = None  # its main sound
    sounds: tuple[Track, ...] = ()  # kept as tracks; the main one is among them unless a voice takes its place
    subtitles: tuple[Track, ...] = ()
    covers: tuple[Track, ...] = ()
    attachments: tuple[Track, ...] = ()
    chapters: tuple[Chapter, ...] = ()
    picture_tags: Mapping[str, str] = field(default_factory=dict)
    picture_dispositions: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    shift: Fraction = Fraction(0)  # seconds from the output's first frame to what ffmpeg takes for the file's start
    offset: Fraction = Fraction(0)  # seconds from the output's first frame to the file's start
    cut: bool = False  # the output shows only a part of the target
    outcomes: tuple[str, ...] = ()  # one line for each stream
    warnings: tuple[str, ...] = ()  # what the user has to know, one sentence each


def plan_streams(
    target: Path, ending: str, duration: Fraction, index: FrameIndex | None = None, mix: str = "", tracks: bool = True
) -> OtherStreams:
    """Decide for each of the target's streams what becomes of it.

    Args:
        ending: of the output: .mp4, .mov, .mkv, .webm.
        index: the target's frames that the output shows; None for all.
        mix: one of :data:`MIXES` for a voice; empty if the target keeps its own sound.
        tracks: whether subtitles, chapters, pictures and attachments are wanted.
    """
    with open_clip(target) as container:
        picture = video_stream(container, target)
        # Only the main sound gives way to a voice: a commentary is none of its business.
        best = container.streams.best("audio")
        own_index = None if best is None else best.index
        cut = index is not None and (index.partial or duration < index.duration)
        zero = first_frame_time(picture, index)
        planner = StreamPlanner(ending, len(container.chapters()))
        own = None
        sounds: list[Track] = []
        for stream in container.streams.audio:
            track = planner.sound(stream)
            own = track if stream.index == own_index else own
            if stream.index == own_index and mix in ("replace", "duck"):
                how = "replaced by the voice" if mix == "replace" else "mixed under the voice"
                planner.outcomes.append(f"{track.name}: {how}")
            else:
                sounds.append(planner.keep(track))
        # Pictures, texts and fonts by kind, in the target's own order.
        groups: dict[str, list[Track]] = {"subtitle": [], "cover": [], "attachment": []}
        from_start = index is None or index.before == 0
        for other in container.streams if tracks else ():
            planner.other(other, picture.index, groups, from_start)
        # Tags that stay true of another encode; a time code only where the first frame is the same.
        untrue = _STALE_TAGS if from_start else (*_STALE_TAGS, "timecode")
        picture_tags = {name: tag for name, tag in picture.metadata.items() if not name.lower().startswith(untrue)}
        chapters = planner.chapters(container, zero, duration, cut) if tracks else ()
        indices = [track.index for track in (*sounds, *(track for group in groups.values() for track in group))]
        # ffmpeg counts from the start of the whole file, the plan from the first frame.
        shift = file_start(container, indices) - zero
        return OtherStreams(
            own,
            tuple(sounds),
            tuple(groups["subtitle"]),
            tuple(groups["cover"]),
            tuple(groups["attachment"]),
            chapters,
            picture_tags,
            dispositions(picture),
            dict(container.metadata),
            shift if abs(shift) >= _NO_SHIFT else Fraction(0),
            Fraction(container.start_time or 0, av.time_base) - zero,
            cut,
            tuple(planner.outcomes),
            tuple(planner.warnings),
        )


class StreamPlanner:
    """Decides stream by stream, counts them by kind, and collects outcomes and warnings."""

    def __init__(self, ending: str, chapter_count: int) -> None:
        self.ending, self.chapter_count = ending, chapter_count
        self.outcomes: list[str] = []
        self.warnings: list[str] = []
        self._seen: dict[str, int] = {}

    def name(self, stream: Stream, kind: str) -> str:
        number = self._seen[kind] = self._seen.get(kind, 0) + 1
        facts = [codec_name(stream) or "unknown", stream.metadata.get("language", ""), stream.metadata.get("title", "")]
        return f"{kind} {number} ({', '.join(fact for fact in facts if fact and fact != 'und')})"

    def sound(self, stream: Any) -> Track:
        codec = codec_name(stream)
        return Track(
            stream.index,
            COPY if codec in holdable(self.ending) else "libopus" if self.ending == ".webm" else "aac",
            self.name(stream, "sound"),
            dispositions(stream),
            dict(stream.metadata),
            int(stream.codec_context.sample_rate or 0) if stream.codec_context else 0,
            int(stream.codec_context.layout.nb_channels) if stream.codec_context else 0,
        )

    def keep(self, track: Track) -> Track:
        """The track, with its outcome noted."""
        if track.codec == COPY:
            self.outcomes.append(f"{track.name}: copied")
        else:
            self.outcomes.append(f"{track.name}: encoded again as {track.codec}")
            self.warnings.append(f"{self.ending} files cannot hold {track.name} as it is, it was encoded again")
        return track

    def other(self, stream: Stream, picture: int, groups: dict[str, list[Track]], whole: bool) -> None:
        """Everything but sounds and the picture itself."""
        if stream.index == picture or stream.type == "audio":
            return
        cover = bool(stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails))
        kinds = {"subtitle": "subtitle", "attachment": "attachment", "video": "cover" if cover else "picture"}
        kind = kinds.get(stream.type, "data")
        if kind == "data" and self.chapter_count and stream.frames == self.chapter_count:
            return  # mp4 and mov write chapters a second time, as a track of text
        if kind == "data" and stream.metadata.get("timecode") and whole:
            return  # the picture's tag of that name says it too; mp4 and mov get their track of it
        name, codec = self.name(stream, kind), codec_name(stream)
        how = ""
        if kind == "subtitle":
            if codec in holdable(self.ending):
                how = COPY
            elif codec in _TEXT_SUBTITLES:
                how = _TEXT_OF[self.ending]
        elif kind == "attachment":
            how = COPY if self.ending == ".mkv" else ""
        elif kind == "cover":
            # Matroska has covers as attachments; FFmpeg leaves them out of mov.
            how = COPY if self.ending in (".mp4", ".mkv") and codec in COVERS else ""
        # What can't be kept is said: a subtitle must not be lost without a word.
        if not how:
            self.outcomes.append(f"{name}: left out")
            where = "a dubbed clip has one picture" if kind == "picture" else f"{self.ending} files cannot hold it"
            self.warnings.append(f"the target's {name} was left out: {where}")
            return
        self.outcomes.append(f"{name}: copied" if how == COPY else f"{name}: written as {how}")
        groups[kind].append(Track(stream.index, how, name, dispositions(stream), dict(stream.metadata)))

    def chapters(self, container: InputContainer, zero: Fraction, duration: Fraction, cut: bool) -> tuple[Chapter, ...]:
        """The target's chapters on the output's clock, whose start is ``zero`` on the target's."""
        chapters = []
        for chapter in container.chapters():
            unit = Fraction(chapter["time_base"] or 0)
            tags = {str(name): str(value) for name, value in chapter["metadata"].items()}
            chapters.append(Chapter(chapter["start"] * unit - zero, chapter["end"] * unit - zero, tags))
        if not chapters:
            return ()
        # A second of tolerance: the last chapter may end a little after the picture.
        if not cut and max(chapter.end for chapter in chapters) > duration + 1:
            # Chapters beyond the end of a clip that was cut would point nowhere.
            self.outcomes.append("chapters: left out")
            self.warnings.append("the target's chapters were left out: the clip's length changed")
            return ()
        inside = [Chapter(max(c.start, Fraction(0)), min(c.end, duration) if cut else c.end, c.tags) for c in chapters]
        chapters_shown = tuple(chapter for chapter in inside if chapter.end > chapter.start)
        self.outcomes.append(f"chapters: {len(chapters_shown)} of {len(chapters)} copied")
        return chapters_shown


@functools.cache
def holdable(ending: str) -> frozenset[str]:
    """Names of the codecs that a container can hold."""
    with av.open(io.BytesIO(), "w", format=CONTAINERS[ending]) as container:
        names = set(container.supported_codecs)
    # The container's list and the streams call some codecs by different names.
    aliases = {"dvdsub": "dvd_subtitle", "pgssub": "hdmv_pgs_subtitle", "dvbsub": "dvb_subtitle", "srt": "subrip"}
    names |= {alias for name, alias in aliases.items() if name in names}
    if ending != ".mkv":
        names -= {"text", "ssa", "ass", "subrip", "srt"}
    if ending == ".mov":
        names -= {"opus", "libopus", "flac", "truehd", "vorbis"}  # FFmpeg lists them, but writes them into mp4 only
    return frozenset(names)


def lost_tags(streams: OtherStreams, finished: Path, ending: str) -> list[str]:
    """Which tags of the target, and which languages and titles of its tracks, the finished file does not have."""
    with open_clip(finished) as container:
        tag_names = {name.lower() for name in container.metadata}
        sounds, subtitles = container.streams.audio, container.streams.subtitles
        # The voice comes first among the output's sounds, so the kept ones are its last.
        pairs = [
            *zip(streams.sounds, sounds[len(sounds) - len(streams.sounds) :], strict=False),
            *zip(streams.subtitles, subtitles, strict=False),
        ]
        lost = []
        for track, stream in pairs:
            language, title = track.tags.get("language", "und"), track.tags.get("title")
            # A language may come back by its other name: mov knows German as ger.
            if language != "und" and stream.metadata.get("language", "und") == "und":
                lost.append(f"{ending} files have no place for the language {language} of {track.name}")
            if title and title not in stream.metadata.values():
                lost.append(f"{ending} files have no place for the title of {track.name}")
    gone = sorted(name for name in streams.tags if name.lower() not in tag_names | _BRAND_TAGS)
    return [*lost, f"{ending} files have no place for the target's tags {', '.join(gone)}"] if gone else lost


def chapter_file(chapters: tuple[Chapter, ...]) -> str:
    """Chapters as FFmpeg's metadata text, in microseconds."""
    lines = [";FFMETADATA1"]
    for chapter in chapters:
        lines += ["[CHAPTER]", "TIMEBASE=1/1000000"]
        lines += [f"START={round(chapter.start * 1_000_000)}", f"END={round(chapter.end * 1_000_000)}"]
        lines += [f"{escaped(name)}={escaped(value)}" for name, value in chapter.tags.items()]
    return "\n".join(lines) + "\n"


def cover_file(target: Path, cover: Track, folder: Path, number: int) -> tuple[Path, str]:
    """A cover picture as a file of its own, and its media type; ``number`` counts from 1.

    Raises:
        EncoderError: the target says that it has a cover, and there is none.
    """
    with open_clip(target) as container:
        stream = container.streams[cover.index]
        name, media_type = COVERS[codec_name(stream)]
        try:
            # A cover is a video of one packet.
            packet = next((packet for packet in container.demux(stream) if packet.size), None)
        except FFmpegError as error:
            raise EncoderError(f"{cover.name} of {target} cannot be read ({error})", "leave it out") from error
        if packet is None:
            raise EncoderError(f"{cover.name} of {target} is empty", "leave it out")
        path = folder / (name if number == 1 else name.replace(".", f"-{number}."))
        path.write_bytes(bytes(packet))
    return path, media_type


def escaped(text: str) -> str:
    """Text as FFmpeg's metadata files want it."""
    return "".join("\\" + letter if letter in "=;#\\\n" else letter for letter in text)


def codec_name(stream: Stream) -> str:
    """FFmpeg's own name of a stream's codec; empty if it knows none."""
    context = stream.codec_context
    return context.codec.canonical_name if context is not None else ""


def dispositions(stream: Stream) -> str:
    """A stream's dispositions without the default, as ffmpeg takes them: ``forced+comment``."""
    flags = Disposition(stream.disposition) & ~Disposition.default
    return "+".join(str(flag.name) for flag in Disposition if flag & flags)


def first_frame_time(picture: VideoStream, index: FrameIndex | None) -> Fraction:
    """Seconds on the target's clock at which the output's first frame is shown there."""
    unit = Fraction(picture.time_base or 0)
    if index is not None and index.stamps is not None:
        return index.stamps[0] * unit
    return (picture.start_time or 0) * unit + (Fraction(0) if index is None else index.start)


def file_start(container: InputContainer, indices: list[int]) -> Fraction:
    """What ffmpeg takes for the file's start, in seconds: in MPEG-TS and its like, that of the streams it uses."""
    if Flags.ts_discont in Flags(container.format.flags):
        starts = [
            stream.start_time * Fraction(stream.time_base or 0)
            for stream in container.streams
            if stream.index in indices and stream.start_time is not None
        ]
        if starts:
            return min(starts)
    return Fraction(container.start_time or 0, av.time_base)
