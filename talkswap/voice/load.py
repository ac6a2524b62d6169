"""Any sound file, or the sound of a video, as one mono :class:`~talkswap.types.Voice`.

Time 0 of the voice is the start of the container (where a player starts), so a sound stream that
begins late gets silence in front, a hole in the stream is filled with silence, and what overlaps is
left out: speech stays where the pictures expect it.  :mod:`talkswap.media.mux` keeps the same clock.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from talkswap.errors import NoAudioError, UnreadableMediaError
from talkswap.media.containers import check_plain, container_options
from talkswap.types import FloatArray, Voice

if TYPE_CHECKING:
    from av import AudioFrame, AudioResampler
    from av.audio.stream import AudioStream
    from av.container import InputContainer

LEAST_HZ = 1000  # a header that states less makes hours of a moment; telephones have 8000
LONGEST_SECONDS = 6 * 3600  # damaged headers can announce years; 6 h of 16 kHz float32 is 1.4 GB
LONGEST_HOLE_SECONDS = 600  # a longer jump in the time stamps is damage, not a pause
LONGEST_OVERLAP_SECONDS = Fraction(1, 2)  # a longer jump back is a recording that starts anew, played on
SMALLEST_HOLE_SECONDS = Fraction(1, 20)  # below this, rounding of time stamps (mkv: 1 ms; mp3 in avi: more)
MOST_FAILURES_IN_A_ROW = 2000  # packets; then the rest of the file counts as damaged
MOST_READ_ERRORS = 64  # of the container in a row; then nothing more comes out of it


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
    container = _open(path)
    try:
        stream = _audio_stream(container, path)
        stated = stream.codec_context.sample_rate if stream.codec_context is not None else 0
        if 0 < stated < LEAST_HZ:
            raise UnreadableMediaError(
                f"the sound of {path} has {stated} samples a second, too few for speech", "its header may be damaged"
            )
        collected = _Collected(hz, _container_start(container))
        _decode(container, stream, collected, path)
    finally:
        container.close()
    return Voice(_finish(collected, path), hz)


def shift_voice(voice: Voice, seconds: Fraction) -> Voice:
    """The voice heard later by ``seconds`` (silence in front), or earlier where negative (its beginning cut)."""
    moved = round(seconds * voice.hz)
    if moved >= 0:
        return Voice(np.concatenate([np.zeros(moved, np.float32), voice.samples]), voice.hz)
    return Voice(voice.samples[-moved:].copy(), voice.hz)


@dataclass
class _Collected:
    """Resampled samples in order, and how many samples were read, were bad, and came out."""

    hz: int
    start: Fraction  # seconds: the container's first time stamp
    samples: array[float] = field(default_factory=lambda: array("f"))  # one that grows: pieces would be held twice
    read: int = 0  # samples decoded, all channels
    bad: int = 0  # of these, not finite
    frames: int = 0
    failures: int = 0

    @property
    def length(self) -> int:
        """Samples collected at :attr:`hz`."""
        return len(self.samples)

    def append(self, samples: FloatArray) -> None:
        self.samples.frombytes(samples.tobytes())

    def append_silence(self, count: int) -> None:
        self.append(np.zeros(count, np.float32))

    @property
    def full(self) -> bool:
        return self.length > LONGEST_SECONDS * self.hz


def _open(path: Path) -> InputContainer:
    check_plain(path, "voice ")
    import av
    import av.error

    try:
        # "file:" and the options keep a name such as "concat:x", or a playlist, from opening anything else.
        return av.open(f"file:{path}", mode="r", metadata_errors="replace", options=container_options())
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise UnreadableMediaError(
            f"voice {path} cannot be read as sound or video",
            "give a file that a media player can play, for example wav, flac, mp3, m4a or mp4",
        ) from error


def _audio_stream(container: InputContainer, path: Path) -> AudioStream:
    if not len(container.streams):
        raise UnreadableMediaError(f"voice {path} is damaged: no stream is left in it", "give a complete file")
    if not container.streams.audio:
        raise NoAudioError(f"{path} has no audio stream", "give a sound file, or a video with sound")
    best = container.streams.best("audio")  # the default track before a commentary
    for stream in container.streams.audio:
        if best is not None and stream.index == best.index:
            return stream
    return container.streams.audio[0]


def _container_start(container: InputContainer) -> Fraction:
    return Fraction(container.start_time or 0, 1_000_000)  # FFmpeg's AV_TIME_BASE


def _decode(container: InputContainer, stream: AudioStream, collected: _Collected, path: Path) -> None:
    """Decode packet by packet, so that one damaged packet costs that packet and no more."""
    import av.error

    mono = _MonoResampler(collected)
    packets = container.demux(stream)
    failures_in_a_row = read_errors = 0
    while not collected.full and failures_in_a_row < MOST_FAILURES_IN_A_ROW and read_errors < MOST_READ_ERRORS:
        try:
            packet = next(packets, None)
        except EOFError:
            break
        except (av.error.FFmpegError, OSError, ValueError):
            collected.failures += read_errors == 0  # one damaged place, however often it is knocked at
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
        except (av.error.FFmpegError, OSError, ValueError):
            collected.failures += 1
            failures_in_a_row += 1
            continue
        failures_in_a_row = 0
        for frame in frames:
            mono.add(frame)
    mono.flush()
    if collected.full:
        raise UnreadableMediaError(
            f"the sound of {path} runs past {LONGEST_SECONDS // 3600} hours", "cut the voice into shorter files"
        )


class _MonoResampler:
    """Decoded frames in, mono samples at the wanted rate out, with holes filled."""

    def __init__(self, collected: _Collected) -> None:
        self.collected = collected
        self.resampler: AudioResampler | None = None
        self.shape: tuple[str, str, int] | None = None  # format, layout, rate that the resampler was set up for
        self.overlap = 0  # samples at the wanted rate that were heard before, to be left out
        self.expected: Fraction | None = None  # seconds since the container's start, at the end of the last frame

    def add(self, frame: AudioFrame) -> None:
        if frame.samples <= 0 or frame.sample_rate < LEAST_HZ:
            return
        collected = self.collected
        collected.frames += 1
        self._fill_hole(frame)
        rate = frame.sample_rate
        frame = self._mixable(frame)
        shape = (frame.format.name, frame.layout.name, rate)
        if shape != self.shape:  # a stream may change its layout on the way
            self.flush()
            self._set_up(shape)
        assert self.resampler is not None
        frame.pts = None  # holes are filled here, so the resampler must not look at the clock
        for out in self.resampler.resample(frame):
            self._append(out)

    def _set_up(self, shape: tuple[str, str, int]) -> None:
        from av import AudioResampler

        self.resampler = AudioResampler(format="fltp", layout="mono", rate=self.collected.hz)
        self.shape = shape

    def flush(self) -> None:
        if self.resampler is not None:
            for out in self.resampler.resample(None):
                self._append(out)
        self.resampler = None
        self.shape = None

    def _append(self, out: AudioFrame) -> None:
        samples = np.array(out.to_ndarray().reshape(-1), np.float32)
        again = min(self.overlap, samples.size)
        self.overlap -= again
        self.collected.append(samples[again:])

    def _fill_hole(self, frame: AudioFrame) -> None:
        """Silence where the time stamp says that sound is missing, before the first frame too.

        Where it says that sound comes a second time, or lies before the container's start, that much is left out.
        """
        duration = Fraction(frame.samples, frame.sample_rate)
        if frame.pts is None or frame.time_base is None:
            self.expected = (self.expected or Fraction(0)) + duration
            return
        begins = frame.pts * Fraction(frame.time_base) - self.collected.start
        hole = begins - (self.expected or Fraction(0))
        first = self.expected is None
        smallest = Fraction(1, self.collected.hz) if first else SMALLEST_HOLE_SECONDS
        if hole > LONGEST_HOLE_SECONDS or hole < -LONGEST_OVERLAP_SECONDS:
            # A jump: play on without a break, and follow the new clock from here.
            self.collected.start += hole
            self.expected = begins - hole + duration
        elif abs(hole) >= smallest:
            self.flush()
            # Counted from the start and not from the hole, so that rounding does not add up.
            missing = round(begins * self.collected.hz) - self.collected.length
            self.overlap = max(0, -missing)
            self.collected.append_silence(max(0, missing))
            self.expected = begins + duration
        else:
            self.expected = (self.expected or Fraction(0)) + duration

    def _mixable(self, frame: AudioFrame) -> AudioFrame:
        """The frame itself, or, where it is not finite or its channels have no names, a cleaned copy."""
        channels = len(frame.layout.channels)
        floats = frame.format.name.startswith(("flt", "dbl"))
        named = channels > 0 and all(channel.name not in ("NONE", "UNK", "") for channel in frame.layout.channels)
        named = named and "channels" not in frame.layout.name
        if not floats and named:
            self.collected.read += frame.samples
            return frame
        planes = _planes(frame)
        if floats:
            good = np.isfinite(planes)
            self.collected.bad += int(planes.size - np.count_nonzero(good))
            self.collected.read += planes.size
            if named and good.all():
                return frame
            planes = np.where(good, planes, 0.0)
        else:
            self.collected.read += planes.size
        if not named:
            planes = planes.mean(axis=0, keepdims=True)  # which is the centre is unknown: all alike
        return _frame(planes, frame.layout.name if named else "mono", frame.sample_rate)


def _planes(frame: AudioFrame) -> np.ndarray:
    """Samples as float64, channels x samples, integers scaled to [-1, 1)."""
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(frame.samples, -1).T
    if values.dtype == np.uint8:
        return (values.astype(np.float64) - 128) / 128
    if np.issubdtype(values.dtype, np.integer):
        return values.astype(np.float64) / 2.0 ** (8 * values.dtype.itemsize - 1)
    return values.astype(np.float64)


def _frame(planes: np.ndarray, layout: str, rate: int) -> AudioFrame:
    from av import AudioFrame

    largest = np.finfo(np.float32).max / 4  # doubles beyond float32 would turn to infinity; room for the mix
    clipped = np.clip(planes, -largest, largest).astype(np.float32)
    frame = AudioFrame.from_ndarray(np.ascontiguousarray(clipped), format="fltp", layout=layout)
    frame.sample_rate = rate
    return frame


def _finish(collected: _Collected, path: Path) -> FloatArray:
    hint = "try to play the file, and export it again as wav"
    if collected.failures > collected.frames:
        raise UnreadableMediaError(f"the sound of {path} is damaged: most of it does not decode", hint)
    if collected.frames == 0 or collected.length == 0:
        raise NoAudioError(f"the audio stream of {path} has no samples", "give a file with at least a moment of sound")
    if collected.bad == collected.read:
        raise UnreadableMediaError(f"no sample in the sound of {path} is a number", hint)
    samples = np.frombuffer(collected.samples, np.float32)
    samples[~np.isfinite(samples)] = 0
    # Floats may be recorded beyond full scale: a few peaks are clipped, a whole track is turned down.
    if max(samples.max(), -samples.min()) > 1:
        typical_peak = float(np.quantile(np.abs(samples), 0.999))
        if typical_peak > 1:
            samples /= typical_peak
    return np.clip(samples, -1, 1, out=samples)
