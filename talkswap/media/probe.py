"""What a container says of a clip, checked by decoding its first picture: the first step of every render.

The rest of the room follows in this order, from a clip's file to frames with exact times and back to a file::

    info = probe(target)                                                # ClipInfo, or a named error
    check_encoder(settings.encoder, output, settings, info.bits)        # before anything costs time
    index, _ = cut(index_frames(info), start, end)                      # every frame's time, by demuxing
    plan = plan_timeline(index.times, index.last_duration, voice.seconds, fit)
    with staging_folder(output, overwrite) as folder, ClipReader(info, index, deep=True) as clip:
        encoded = folder / f"video{picture_ending(settings.encoder)}"
        with VideoWriter(encoded, info, settings, plan.duration) as video:
            for frame in clip.frames_for(plan):                         # exactly len(plan) frames
                video.write(frame.rgb, frame.time, frame.fine)
        mux(encoded, audio, target, output, plan.times, plan.duration, index=index, overwrite=overwrite)

Times are seconds as fractions from the clip's first frame, whole ticks of ``info.time_base``.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import cast

from av.container import InputContainer
from av.error import FFmpegError
from av.sidedata.sidedata import SideData
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from talkswap.errors import NoVideoError, UnreadableMediaError
from talkswap.media.colour import UNSPECIFIED, check_convertible
from talkswap.media.containers import open_clip, video_stream
from talkswap.types import ClipInfo, ColourTags

FALLBACK_RATE = Fraction(25)
_MOST_DAMAGED_PACKETS = 300  # before the first picture; a decoder has to find one by then
_DOLBY_VISION_TAGS = ("dvh1", "dvhe", "dva1", "dvav")


def probe(path: Path) -> ClipInfo:
    """Read a clip's properties.

    The first picture is decoded, because a container can promise what its stream does not hold.

    Raises:
        InputMissingError: the path does not exist or is a directory.
        UnreadableMediaError: not a media file, truncated, or of colours that cannot be kept (HDR).
        NoVideoError: no video stream, cover art only, a still picture, or no frame that decodes.
    """
    path = Path(path)
    with open_clip(path) as container:
        stream = video_stream(container, path)
        codec = stream.codec_context
        if codec.codec_tag.lower() in _DOLBY_VISION_TAGS:
            raise UnreadableMediaError(f"{path} is a Dolby Vision clip, which is not supported", "convert it to SDR")
        colour_of_stream = ColourTags(
            matrix=int(codec.colorspace),
            primaries=int(codec.color_primaries),
            transfer=int(codec.color_trc),
            range=int(codec.color_range),
        )
        picture = first_picture(container, stream, path)
        colour = merged_tags(colour_of_stream, picture)
        check_convertible(str(path), colour)
        rotation, mirrored = display_orientation(picture)
        turned = rotation in (90, 270)
        aspect = Fraction(stream.sample_aspect_ratio or 1) or Fraction(1)
        time_base = Fraction(stream.time_base or 0)
        if time_base <= 0:
            raise UnreadableMediaError(f"{path} has a video stream without a clock", "remux it, for example to .mkv")
        has_audio, audio_duration = stated_sound(container)
        return ClipInfo(
            path=path,
            width=picture.height if turned else picture.width,
            height=picture.width if turned else picture.height,
            rate=nominal_rate(stream),
            time_base=time_base,
            duration=stated_duration(container, stream, time_base),
            frames=stream.frames,
            rotation=rotation,
            codec=codec.codec.canonical_name,
            pixel_format=picture.format.name,
            bits=max(component.bits for component in picture.format.components),
            colour=colour,
            has_audio=has_audio,
            audio_duration=audio_duration,
            sample_aspect_ratio=1 / aspect if turned else aspect,
            mirrored=mirrored,
            audio_offset=sound_offset(container, stream, picture) if has_audio else Fraction(0),
        )


def display_orientation(picture: VideoFrame) -> tuple[int, bool]:
    """(clockwise degrees, mirrored) from a decoded picture's display matrix.

    The matrix maps a stored pixel (x, y) to a x + c y, b x + d y (y down); a negative determinant means that
    the picture is mirrored left to right before it is turned.  Angles between right angles are rounded.
    """
    matrix = cast(Mapping[SideDataType, SideData], picture.side_data).get(SideDataType.DISPLAYMATRIX)
    if matrix is None:
        return 0, False
    a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    if a == 0 and b == 0:
        return 0, False
    return round(math.degrees(math.atan2(b, a)) / 90) * 90 % 360, mirrored


def first_picture(container: InputContainer, stream: VideoStream, path: Path) -> VideoFrame:
    """The first picture that decodes; damaged packets before it are passed over."""
    stream.thread_count = 1  # one picture needs no pipeline
    damaged = 0
    packets = container.demux(stream)
    while damaged < _MOST_DAMAGED_PACKETS:
        try:
            packet = next(packets)
            for picture in packet.decode():
                return picture
        except StopIteration:
            break
        except FFmpegError:
            damaged += 1
            packets = container.demux(stream)
    raise NoVideoError(f"{path} has a video stream but no frame that decodes", "the file may be damaged or empty")


def merged_tags(tags: ColourTags, picture: VideoFrame) -> ColourTags:
    """The stream's tags, completed by those of its first picture."""
    return ColourTags(
        matrix=int(picture.colorspace) if tags.matrix == UNSPECIFIED else tags.matrix,
        primaries=int(picture.color_primaries) if tags.primaries == UNSPECIFIED else tags.primaries,
        transfer=int(picture.color_trc) if tags.transfer == UNSPECIFIED else tags.transfer,
        range=tags.range or int(picture.color_range),
    )


def nominal_rate(stream: VideoStream) -> Fraction:
    """Frames per second as the container states them, where it states something possible."""
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate and 0 < rate < 1000:
            return Fraction(rate)
    return FALLBACK_RATE


def stated_duration(container: InputContainer, stream: VideoStream, time_base: Fraction) -> Fraction:
    """Seconds of the picture, else of the whole container; 0 if neither says."""
    if stream.duration and stream.duration > 0:
        return stream.duration * time_base
    if container.duration and container.duration > 0:
        return Fraction(container.duration, 1_000_000)
    return Fraction(0)


def stated_sound(container: InputContainer) -> tuple[bool, Fraction]:
    """(has sound, its seconds)."""
    if not container.streams.audio:
        return False, Fraction(0)
    sound = container.streams.audio[0]
    seconds = Fraction(sound.duration * (sound.time_base or 0) if sound.duration and sound.duration > 0 else 0)
    if not seconds and container.duration:
        seconds = Fraction(container.duration, 1_000_000)
    return True, seconds


def sound_offset(container: InputContainer, stream: VideoStream, picture: VideoFrame) -> Fraction:
    """The start of the container, where the sound's clock begins, seen from the first picture."""
    # An audio stream's own start is no measure: in mp4 it counts the encoder's delay, which nobody hears.
    first = picture.pts if picture.pts is not None else stream.start_time
    if first is None:
        return Fraction(0)
    return Fraction(container.start_time or 0, 1_000_000) - first * Fraction(stream.time_base or 0)
