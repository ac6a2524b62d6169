"""Where somebody speaks: a gate for the mouth, so that it rests in silence and in mere noise.

Per mel band the level is compared with a floor that follows the band's own quiet moments; the mean excess over
the floor, in decibels, is the evidence for speech.  Steady noise lifts level and floor alike and gives none.
Hysteresis keeps a word in one piece, short bursts are dropped and short pauses bridged.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from talkswap.types import FloatArray
from talkswap.voice.mel import MelConfig, log_mel

BoolArray = NDArray[np.bool_]

# Steps of 10 ms, windows of 32 ms, bands of speech from 150 Hz (hum lies below) to 5 kHz.
BANDS = MelConfig(fft=512, hop=160, bins=24, low=150.0, high=5000.0, pre_emphasis=0.0, floor_db=-120.0, top_db=0.0)


@dataclass(frozen=True)
class ActivityConfig:
    """Thresholds in decibels of mean excess over the floor, times in seconds.

    Chosen on training clips, with noise, with pauses and quiet, to agree best with a neural detector.
    """

    on_db: float = 7.0
    off_db: float = 5.0
    loudest_bands: int = 4  # of 24: voiced sounds rise above noise in some bands only
    excess_cap_db: float = 18.0  # one loud band (a whistle, a beep) must not decide alone
    wide_seconds: float = 0.3  # about a syllable: speaks for its quiet moments, and against a click
    wide_weight: float = 0.5
    floor_seconds: float = 3.0  # long enough to hold a pause of any speaker
    floor_quantile: float = 0.2
    floor_margin_db: float = 3.0  # noise swings about its floor
    floor_under_speech_db: float = 25.0  # breath and the room of a clean recording are no speech
    quietest_db: float = -95.0  # full scale = 0; below is dither
    shortest_burst: float = 0.08  # a click
    hangover: float = 0.06  # bridges the closure of a plosive and the fading end of a word


def voice_activity(samples: FloatArray, times: Sequence[Fraction], config: ActivityConfig | None = None) -> BoolArray:
    """Whether speech sounds at each time.

    Args:
        samples: N, the voice at 16 kHz.
        times: seconds, for example of the video frames; outside of the voice there is silence.

    Returns:
        bool, one per time.  Where the samples around a time are all zero the answer is always no.
    """
    active = active_steps(samples, config)
    step = 1 / BANDS.rate
    index = np.array([round(Fraction(time) / step) for time in times], np.int64)
    inside = (index >= 0) & (index < len(active))
    result = np.zeros(len(index), bool)
    result[inside] = active[index[inside]]
    return result


def active_steps(samples: FloatArray, config: ActivityConfig | None = None) -> BoolArray:
    """Speech in steps of 10 ms: step k is centred at k / 100 seconds."""
    config = config or ActivityConfig()
    samples = np.asarray(samples, np.float32).reshape(-1)
    if samples.size == 0:
        return np.zeros(0, bool)
    evidence, silent = speech_evidence(samples, config)  # T, T
    active = hysteresis(evidence, config.on_db, config.off_db)
    per_second = float(BANDS.rate)
    active = without_bursts(active, round(config.shortest_burst * per_second))
    active = extend_runs(active, round(config.hangover * per_second))
    return active & ~silent


def speech_evidence(samples: FloatArray, config: ActivityConfig) -> tuple[FloatArray, BoolArray]:
    """Mean excess over the noise floor in dB (T), and the steps of digital silence (T)."""
    scale = BANDS.top_db - BANDS.floor_db
    level = (log_mel(samples, BANDS) + 1) / 2 * scale + BANDS.floor_db  # T bands, dB
    silent: BoolArray = np.all(level <= BANDS.floor_db, axis=1)
    if silent.all():
        return np.zeros(len(level), np.float32), silent
    loud = np.quantile(level[~silent], 0.95, axis=0)  # bands: this voice's own speech
    floor = noise_floor(moving_mean(level, 5), silent, config)
    np.maximum(floor, np.maximum(loud - config.floor_under_speech_db, config.quietest_db), out=floor)
    # In place from here on: of a long voice each of these arrays is as large as its features.
    excess = moving_mean(level, 3)
    del level
    excess -= floor
    excess -= config.floor_margin_db
    np.clip(excess, 0, config.excess_cap_db, out=excess)
    excess.sort(axis=1)
    loudest = excess[:, -config.loudest_bands :].mean(1, keepdims=True)  # T 1
    wide = 2 * round(config.wide_seconds * float(BANDS.rate) / 2) + 1
    evidence = (1 - config.wide_weight) * loudest + config.wide_weight * moving_mean(loudest, wide)
    return evidence[:, 0].astype(np.float32), silent


def noise_floor(level: np.ndarray, silent: BoolArray, config: ActivityConfig) -> np.ndarray:
    """Level of the quiet moments around each step (T bands): a moving quantile, taken four times a second."""
    window = max(2, round(config.floor_seconds * float(BANDS.rate)))
    stride = max(1, round(float(BANDS.rate) / 4))
    centres = np.arange(0, len(level) + stride, stride)
    knots = np.full((len(centres), level.shape[1]), np.nan)
    for row, centre in enumerate(centres):
        # At the ends the window is moved inside, so that it always holds floor_seconds where the voice does.
        first = int(np.clip(centre - window // 2, 0, max(0, len(level) - window)))
        piece = level[first : first + window][~silent[first : first + window]]
        if len(piece):
            rank = int(config.floor_quantile * (len(piece) - 1))
            knots[row] = np.partition(piece, rank, axis=0)[rank]
    sounding = ~np.isnan(knots[:, 0])
    steps = np.arange(len(level))
    floor = np.empty((len(level), level.shape[1]))
    for number, band in enumerate(knots.T):
        floor[:, number] = np.interp(steps, centres[sounding], band[sounding])
    return floor


def moving_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Centred mean over time of an odd number of steps; the ends are repeated."""
    padded = np.pad(values, ((width // 2 + 1, width // 2), (0, 0)), mode="edge").cumsum(0, dtype=np.float64)
    return (padded[width:] - padded[:-width]) / width


def hysteresis(evidence: FloatArray, on: float, off: float) -> BoolArray:
    """Runs above ``off`` that reach ``on`` somewhere: a word begins before it is loud."""
    above = evidence > off
    result = np.zeros(len(evidence), bool)
    for first, last in runs_of(above):
        result[first:last] = evidence[first:last].max() > on
    return result


def without_bursts(active: BoolArray, shortest: int) -> BoolArray:
    """Runs of at least so many steps; a click is no word."""
    result = active.copy()
    for first, last in runs_of(active):
        if last - first < shortest:
            result[first:last] = False
    return result


def extend_runs(active: BoolArray, steps: int) -> BoolArray:
    """Active for some steps more after each run; pauses up to that length close."""
    result = active.copy()
    for _, last in runs_of(active):
        result[last : last + steps] = True
    return result


def runs_of(active: BoolArray) -> list[tuple[int, int]]:
    """First and past-the-last step of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], active.astype(np.int8), [0]])))
    return [(int(first), int(last)) for first, last in zip(edges[::2], edges[1::2], strict=True)]


def ease(active: BoolArray, times: Sequence[Fraction], attack: float = 0.08, release: float = 0.16) -> FloatArray:
    """A gate that opens and closes smoothly instead of at once.

    It is open (1) at every active time: it begins to rise ``attack`` seconds before and is closed ``release``
    seconds after, along half a cosine.

    Args:
        active: N, speech at each time.
        times: N seconds, rising.
        attack, release: seconds; 0 is a hard edge.

    Returns:
        float32 N in [0, 1].
    """
    count = len(active)
    if count != len(times):
        raise ValueError(f"{count} activities for {len(times)} times")
    if attack < 0 or release < 0:
        raise ValueError(f"attack and release are durations, got {attack} and {release}")
    seconds = np.array([float(time) for time in times], np.float64)  # N
    active_times = seconds[np.asarray(active, bool)]
    if active_times.size == 0:
        return np.zeros(count, np.float32)
    # How far away the nearest speech is, on both sides.
    after = np.searchsorted(active_times, seconds, side="left")  # index of the first active time not before this
    until_next = np.where(
        after < len(active_times), active_times[np.minimum(after, len(active_times) - 1)] - seconds, np.inf
    )
    before = np.searchsorted(active_times, seconds, side="right") - 1
    since_last = np.where(before >= 0, seconds - active_times[np.maximum(before, 0)], np.inf)
    nearness = np.maximum(cosine_fall(until_next, attack), cosine_fall(since_last, release))
    return nearness.astype(np.float32)


def cosine_fall(distance: np.ndarray, length: float) -> np.ndarray:
    """1 at distance 0, 0 from ``length`` on, half a cosine between."""
    if length == 0:
        return (distance <= 0).astype(np.float64)
    return 0.5 + 0.5 * np.cos(np.pi * np.clip(distance / length, 0, 1))


class SpeechGate:
    """How open a mouth's gate is at any time of a voice; centred, so that it is never late.

    Args:
        bridge: seconds; in a shorter pause the speaker has not ended, and the gate stays open.
    """

    def __init__(self, samples: FloatArray, attack: float = 0.08, release: float = 0.16, bridge: float = 0.5) -> None:
        active = active_steps(samples)
        # Speakers don't shut the mouth between words; the ends of the voice are no pauses.
        for first, last in runs_of(~active):
            if first > 0 and last < len(active) and last - first < bridge * BANDS.rate:
                active[first:last] = True
        margin = math.ceil(max(attack, release) * BANDS.rate) + 1  # steps: it opens before the voice, closes after
        self._first = -margin
        steps = range(-margin, len(active) + margin)
        self._open = ease(np.pad(active, margin), [Fraction(k) / BANDS.rate for k in steps], attack, release)

    def at(self, times: Sequence[Fraction]) -> FloatArray:
        """1 while somebody speaks, 0 in silence, eased between: one per time (seconds)."""
        places = np.array([float(Fraction(time) * BANDS.rate) for time in times]) - self._first
        return np.interp(places, np.arange(len(self._open)), self._open, left=0, right=0).astype(np.float32)
