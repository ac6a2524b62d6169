"""The one decoder of sound: any sound file, or the sound of a video, as mono samples on the container's clock.

Sample 0 lies at the container's start, where a player starts. A stream that begins late gets silence in front, a hole
is filled with silence, and what overlaps is left out, so speech stays where the pictures expect it. An encoder's delay
(edit list, pre-skip) is dropped by FFmpeg itself. :mod:`talkswap.media.mux` plays the same sound by the same limits.
"""

from __future__ import annotations

from array import array
from fractions import Fraction
from pathlib import Path

import numpy as np
from av import AudioFrame, AudioResampler, AudioStream
from av.container import InputContainer
from av.error import FFmpegError

from talkswap.errors import NoAudioError, UnreadableMediaError
from talkswap.media.probe import open_clip
from talkswap.types import FloatArray, Voice

SMALLEST_HOLE = Fraction(1, 20)  # seconds: anything shorter is rounding of time stamps (mkv: 1 ms; mp3 in avi: more)
LONGEST_HOLE = 600  # seconds: a longer jump ahead is damage, not a pause, and is played on without a break
LONGEST_OVERLAP = Fraction(1, 2)  # seconds: a longer jump back is a recording that starts again, and is played on
LEAST_HZ = 1000  # a header that states less turns a moment into hours; telephones have 8000
LONGEST_SECONDS = 6 * 3600  # damaged headers can announce years; 6 h of 16 kHz float32 are 1.4 GB
MOST_FAILURES_IN_A_ROW = 2000  # packets; after that the rest of the file counts as damaged
MOST_READ_ERRORS = 64  # of the container in a row; after that nothing more comes out of it


def load_voice(path: Path, hz: int = 16000) -> Voice:
    """Read a voice, mixed to mono and resampled.

    Args:
        path: a sound file or a video, of any layout, rate and sample format that FFmpeg decodes.
        hz: samples per second of the result.

    Returns:
        Samples float32 in [-1, 1]; sample 0 lies at the container's start.  Samples that are not
        numbers become silence; floats beyond full scale are scaled down or clipped.

    Raises:
        InputMissingError: no such file, or a directory.
        UnreadableMediaError: not media, damaged beyond use, no finite sample, too few a second, or over six hours.
        NoAudioError: media without an audio stream, or one without samples.
    """
    path = Path(path)
    with open_clip(path, "voice ") as container:
        stream = default_sound(container, path)
        source_hz = stream.codec_context.sample_rate if stream.codec_context is not None else 0
        # Refused by the header, before hours of silence are made of it.
        if 0 < source_hz < LEAST_HZ:
            raise UnreadableMediaError(
                f"the sound of {path} has {source_hz} samples a second, too few for speech", "its header may be damaged"
            )
        track = MonoTrack(hz, Fraction(container.start_time or 0, 1_000_000))  # in FFmpeg's AV_TIME_BASE
        failures = fill_track(container, stream, track)
    if track.full:
        raise UnreadableMediaError(
            f"the sound of {path} runs past {LONGEST_SECONDS // 3600} hours", "cut the voice into shorter files"
        )
    hint = "try to play the file, and export it again as wav"
    # One damaged packet is a click; when most are damaged nobody would understand a word.
    if failures > track.frames:
        raise UnreadableMediaError(f"the sound of {path} is damaged: most of it does not decode", hint)
    if not track.frames or not len(track.samples):
        raise NoAudioError(f"the audio stream of {path} has no samples", "give a file with at least a moment of sound")
    if track.bad == track.read:
        raise UnreadableMediaError(f"no sample in the sound of {path} is a number", hint)
    return Voice(within_full_scale(np.frombuffer(track.samples, np.float32)), hz)


def shift_voice(voice: Voice, seconds: Fraction) -> Voice:
    """The voice heard later by ``seconds`` (silence in front), or earlier where negative (its beginning cut)."""
    shift = round(seconds * voice.hz)
    if shift >= 0:
        return Voice(np.concatenate([np.zeros(shift, np.float32), voice.samples]), voice.hz)
    return Voice(voice.samples[-shift:].copy(), voice.hz)


def default_sound(container: InputContainer, path: Path) -> AudioStream:
    """The stream that counts as a file's sound: the default track before a commentary.

    Raises:
        UnreadableMediaError: the file has lost all its streams.
        NoAudioError: it has no sound.
    """
    if not len(container.streams):
        raise UnreadableMediaError(f"{path} is damaged: no stream is left in it", "give a complete file")
    if not container.streams.audio:
        raise NoAudioError(f"{path} has no audio stream", "give a sound file, or a video with sound")
    # FFmpeg's own choice prefers the default track.
    best = container.streams.best("audio")
    return (
        next((s for s in container.streams.audio if best is not None and s.index == best.index), None)
        or (container.streams.audio[0])
    )


def fill_track(container: InputContainer, stream: AudioStream, track: MonoTrack) -> int:
    """Fill ``track`` packet by packet, so that one damaged packet costs that packet and no more.

    Returns:
        How many packets or places of the file were damaged.
    """
    packets = container.demux(stream)
    failures = failures_in_a_row = read_errors = 0
    while not track.full and failures_in_a_row < MOST_FAILURES_IN_A_ROW and read_errors < MOST_READ_ERRORS:
        try:
            packet = next(packets, None)
        except EOFError:
            break
        except (FFmpegError, OSError, ValueError):
            failures += read_errors == 0  # one damaged place, however often it's tried again
            read_errors += 1
            packets = container.demux(stream)  # a generator that raised is finished; a new one reads on from there
            continue
        if packet is None:
            break
        read_errors = 0
        try:
            frames = packet.decode()
        except EOFError:
            break
        except (FFmpegError, OSError, ValueError):
            failures += 1
            failures_in_a_row += 1
            continue
        failures_in_a_row = 0
        for frame in frames:
            track.add(frame)
    track.flush()
    return failures


class MonoTrack:
    """Mono samples on the container's clock, collected from decoded frames of any layout, rate and format.

    Args:
        hz: samples per second to resample to.
        start: seconds, the container's first time stamp.
    """

    def __init__(self, hz: int, start: Fraction) -> None:
        self.hz = hz
        self.samples: array[float] = array("f")  # it grows in place: a list of pieces would be held twice
        self.frames = 0
        self.read = 0  # samples decoded, all channels
        self.bad = 0  # of these, not finite
        self._start = start
        self._end: Fraction | None = None  # seconds since the container's start, at the end of the last frame
        self._overlap = 0  # samples at ``hz`` that were heard before and are left out
        self._resampler: AudioResampler | None = None
        self._shape: tuple[str, str, int] | None = None  # format, layout, rate that the resampler is set up for

    @property
    def full(self) -> bool:
        """Whether it holds more than :data:`LONGEST_SECONDS`."""
        return len(self.samples) > LONGEST_SECONDS * self.hz

    def add(self, frame: AudioFrame) -> None:
        """Put a frame where its time stamp says."""
        if frame.samples <= 0 or frame.sample_rate < LEAST_HZ:
            return
        self.frames += 1
        # The clock comes first: silence that is missing belongs in front of this frame.
        self._follow_clock(frame)
        rate = frame.sample_rate
        frame = self._mixable(frame)
        shape = (frame.format.name, frame.layout.name, rate)
        if self._resampler is None or shape != self._shape:  # a stream may change its layout on the way
            self.flush()
            self._resampler = AudioResampler(format="fltp", layout="mono", rate=self.hz)
            self._shape = shape
        frame.pts = None  # the clock was followed above, so the resampler must not look at it
        for resampled in self._resampler.resample(frame):
            self._append(resampled)

    def flush(self) -> None:
        """Append what the resampler still holds."""
        if self._resampler is not None:
            for resampled in self._resampler.resample(None):
                self._append(resampled)
        self._resampler = self._shape = None

    def _append(self, resampled: AudioFrame) -> None:
        samples = np.array(resampled.to_ndarray().reshape(-1), np.float32)
        # What was heard before is cut off at the front of the next samples.
        again = min(self._overlap, samples.size)
        self._overlap -= again
        self.samples.frombytes(samples[again:].tobytes())

    def _follow_clock(self, frame: AudioFrame) -> None:
        """Append silence where the time stamp says that sound is missing, before the first frame too.

        Where it says that sound comes a second time, or lies before the container's start, that much is left out.
        """
        # Fractions, since hours of rounded durations would move the lips.
        duration = Fraction(frame.samples, frame.sample_rate)
        first, due = self._end is None, self._end or Fraction(0)
        if frame.pts is None or frame.time_base is None:
            self._end = due + duration
            return
        begins = frame.pts * Fraction(frame.time_base) - self._start
        hole = begins - due
        if hole > LONGEST_HOLE or hole < -LONGEST_OVERLAP:
            # A jump: play on without a break, and follow the new clock from here.
            self._start += hole
            self._end = due + duration
        elif abs(hole) >= (Fraction(1, self.hz) if first else SMALLEST_HOLE):
            self.flush()
            # Counted from the start and not from the hole, so that rounding doesn't add up.
            gap = round(begins * self.hz) - len(self.samples)
            self._overlap = max(0, -gap)
            self.samples.frombytes(bytes(4 * max(0, gap)))
            self._end = begins + duration
        else:
            self._end = due + duration

    def _mixable(self, frame: AudioFrame) -> AudioFrame:
        """The frame itself, or a cleaned copy if samples aren't finite or its channels have no names."""
        channels = frame.layout.channels
        floats = frame.format.name.startswith(("flt", "dbl"))
        has_names = bool(channels) and all(channel.name not in ("NONE", "UNK", "") for channel in channels)
        has_names = has_names and "channels" not in frame.layout.name
        if not floats and has_names:
            self.read += frame.samples
            return frame
        planes = float_planes(frame)  # C N
        self.read += planes.size
        if floats:
            good = np.isfinite(planes)
            self.bad += int(planes.size - np.count_nonzero(good))
            if has_names and good.all():
                return frame
            planes = np.where(good, planes, 0.0)
        if not has_names:
            planes = planes.mean(axis=0, keepdims=True)  # the centre channel is unknown: all count alike
        largest = np.finfo(np.float32).max / 4  # doubles beyond float32 would become infinite; leaves room for the mix
        clipped = np.ascontiguousarray(np.clip(planes, -largest, largest), np.float32)
        clean = AudioFrame.from_ndarray(clipped, format="fltp", layout=frame.layout.name if has_names else "mono")
        clean.sample_rate = frame.sample_rate
        return clean


def float_planes(frame: AudioFrame) -> np.ndarray:
    """Samples as float64 (C N), integers scaled to [-1, 1)."""
    values = frame.to_ndarray()  # C N, or 1 CN where channels are interleaved
    if not frame.format.is_planar:
        values = values.reshape(frame.samples, -1).T
    if values.dtype == np.uint8:
        return (values.astype(np.float64) - 128) / 128
    if np.issubdtype(values.dtype, np.integer):
        return values.astype(np.float64) / 2.0 ** (8 * values.dtype.itemsize - 1)
    return values.astype(np.float64)


def within_full_scale(samples: FloatArray) -> FloatArray:
    """The samples (N) in [-1, 1]: a few peaks beyond full scale are clipped, a whole track is turned down."""
    samples[~np.isfinite(samples)] = 0
    if max(samples.max(), -samples.min()) > 1:
        # One sample in a thousand may clip; if more lie beyond full scale, the whole track is too loud.
        typical_peak = float(np.quantile(np.abs(samples), 0.999))
        if typical_peak > 1:
            samples /= typical_peak
    return np.clip(samples, -1, 1, out=samples)
