"""Speech whose sounds are known, for the phonetic half of the speech encoder's training.

``python recipes/phonetics.py OUT --data CACHE --voices FOLDER`` made the labels behind
``weights/compact/speech_encoder`` (its run: ``weights/compact/runs/speech-encoder``).

Half an hour of talking clips holds too few sounds to learn from lips alone what an m or an f is.  This module
writes speech with a label for every mel frame, from three sources:

* **espeak-ng** and **flite**, when they are installed: invented words (and any text given) in many languages, voices,
  speeds and pitches, in random rooms; the synthesiser itself says when which sound is spoken;
* the **clips** and other recordings: a phone recogniser (pocketsphinx, when installed) hears them.  It errs often; the
  encoder learns from it all the same, since errors do not repeat.

A label is an index of :data:`talkswap.train.shared.speech_labels.SOUNDS`: what the mouth has to do for a sound.

Layout of a folder::

    made-NNN.npz    mel T 80 (half precision) · sound T (int8, -1 = unknown)
    heard-NAME.npz  sound T of the clip of that name, and its mel where it is no clip
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import importlib
import re
import shutil
import subprocess
import tempfile
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from talkswap.errors import TrainingDataError
from talkswap.files import write_arrays
from talkswap.types import FloatArray
from talkswap.voice.mel import MelConfig, log_mel

_IPA = {
    1: "pbmɓʙɸβ",
    2: "fvʋɱ",
    3: "ʃʒɕʑʂʐ",
    4: "sz",
    5: "tdnlʈɖɳɭɬɫɾɲʎ",
    6: "θð",
    7: "kɡgŋxɣqχɢɴcɟç",
    8: "ɹrʁʀɻɽ",
    9: "wʍɥ",
    10: "hɦħʕ",
    11: "jʝ",
    12: "aɑæɐʌäɒ",
    13: "eɛəɜɚɝɘɵɤœø",
    14: "iɪɨᵻ",
    15: "oɔɞ",
    16: "uʊyʏɯʉ",
}
IPA = {symbol: number for number, symbols in _IPA.items() for symbol in symbols}
_ARPABET = {
    0: "sil pau",
    1: "p b m em",
    2: "f v",
    3: "sh zh ch jh",
    4: "s z",
    5: "t d n l dx en el",
    6: "th dh",
    7: "k g ng",
    8: "r er axr",
    9: "w",
    10: "hh",
    11: "y",
    12: "aa ae ah",
    13: "eh ax",
    14: "iy ih ix",
    15: "ao",
    16: "uw uh",
}
ARPABET: dict[str, tuple[int, ...]] = {
    **{symbol: (number,) for number, symbols in _ARPABET.items() for symbol in symbols.split()},
    **{"aw": (12, 16), "ay": (12, 14), "ey": (13, 14), "ow": (15, 16), "oy": (15, 14)},
}
Spoken = list[tuple[float, float, tuple[int, ...]]]
"""Sounds in order: first and last second, and the labels in between, in equal parts."""


@dataclass(frozen=True)
class PhoneticsConfig:
    """What to say, and with which voices."""

    out: Path
    minutes: float = 180.0  # of invented speech
    data: Path | None = None  # prepared clips, to be heard
    voices: Path | None = None  # folder of other recordings, to be heard
    text: tuple[Path, ...] = ()  # read besides invented words
    languages: str = "en-us en-gb en-gb-scotland de fr-fr es it pt-br ru pl nl sv cmn hi ro fi cs tr id sw el hu"
    kinds: str = (
        "plain m1 m3 m4 m7 f1 f2 f3 f4 f5 klatt klatt2 klatt4 Annie Gene Lee max steph belinda linda Michael Andrea"
    )
    flite: str = "awb rms slt kal16"
    english: float = 0.4  # share of flite's voices, where flite is installed
    seed: int = 0
    shard: float = 300.0  # seconds of speech per file
    onsets: str = "p b m f v w t d n l s z sh ch j k g h r th st pr bl br tr sp sm fl kl y qu gr"
    nuclei: str = "a e i o u ee oo ai ow a o e i ea oi au"
    codas: str = "- - - m n p b t d s f v k l r ng sh st mp nd th"  # - is none


def ipa_sounds(symbol: str) -> tuple[int, ...]:
    """Labels of an IPA symbol of espeak-ng: both vowels of a diphthong; empty when it is not a sound we know.

    An affricate (a stop written together with a fricative) is its fricative, as far as lips go.
    """
    sounds = [IPA[letter] for letter in symbol if letter in IPA]
    if len(sounds) > 1 and sounds[0] < 12:
        sounds = sounds[-1:] if sounds[-1] in (3, 4) else sounds[:1]
    return tuple(dict.fromkeys(sounds[:2]))


def labels_of(spoken: Spoken, frames: int) -> NDArray[np.int8]:
    """Label of each mel frame (T); frames that no sound covers are unknown (-1)."""
    rate = float(MelConfig().rate)
    labels = np.full(frames, -1, np.int8)
    for first, last, sounds in spoken:
        edges = np.linspace(first, last, len(sounds) + 1) * rate
        for number, sound in enumerate(sounds):
            labels[max(0, round(edges[number])) : max(0, round(edges[number + 1]))] = sound
    return labels


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # ms
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Espeak:
    """espeak-ng's library: text to samples and the times of its sounds."""

    RETRIEVAL, PHONEME_EVENTS, IPA_EVENTS, PHONEME, RATE, PITCH, RANGE, UTF8 = 1, 1, 2, 7, 1, 3, 4, 1

    def __init__(self) -> None:
        name = ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1"
        try:
            self.library = ctypes.CDLL(name)
        except OSError:
            raise TrainingDataError(
                "espeak-ng is not installed", "install it with the system's packages (espeak-ng)"
            ) from None
        self.hz = int(self.library.espeak_Initialize(self.RETRIEVAL, 0, None, self.PHONEME_EVENTS | self.IPA_EVENTS))
        self.samples: list[NDArray[np.int16]] = []
        self.events: list[tuple[float, str]] = []
        self.callback = _Callback(self._take)  # kept, since the library holds only its address
        self.library.espeak_SetSynthCallback(self.callback)

    def _take(self, samples: Any, count: int, events: Any) -> int:
        if samples and count:
            self.samples.append(np.ctypeslib.as_array(samples, (count,)).copy())
        number = 0
        while events[number].type:
            if events[number].type == self.PHONEME:
                symbol = bytes(events[number].id.string).decode("utf-8", "ignore")
                self.events.append((events[number].audio_position / 1000, symbol))
            number += 1
        return 0

    def say(self, text: str, voice: str, rate: int, pitch: int, span: int) -> tuple[FloatArray, Spoken]:
        """Samples at 16 kHz and the sounds in them; no samples when the voice is not there."""
        self.samples, self.events = [], []
        if self.library.espeak_SetVoiceByName(voice.encode()) != 0:
            return np.zeros(0, np.float32), []
        for parameter, value in ((self.RATE, rate), (self.PITCH, pitch), (self.RANGE, span)):
            self.library.espeak_SetParameter(parameter, value, 0)
        data = text.encode()
        self.library.espeak_Synth(data, len(data) + 1, 0, 0, 0, self.UTF8, None, None)
        self.library.espeak_Synchronize()
        if not self.samples:
            return np.zeros(0, np.float32), []
        samples: FloatArray = (np.concatenate(self.samples) / 32768).astype(np.float32)
        end = len(samples) / self.hz
        spoken: Spoken = []
        events = [e for e in self.events if not e[1].startswith("(")]  # "(de)" says that the language changes
        for (first, symbol), (last, _) in zip(events, [*events[1:], (end, "")], strict=True):
            sounds = (0,) if symbol == "" else ipa_sounds(symbol)
            if last > first and sounds:
                spoken.append((first, last, sounds))
        return resample(samples, self.hz, MelConfig().hz), spoken


def resample(samples: FloatArray, have: int, want: int) -> FloatArray:
    """Samples at another rate, band-limited (whole utterance through one Fourier transform)."""
    if have == want or not len(samples):
        return samples
    count = round(len(samples) * want / have)
    spectrum = np.fft.rfft(samples)[: count // 2 + 1]
    return (np.fft.irfft(spectrum, count) * (count / len(samples))).astype(np.float32)


def flite_say(text: str, voice: str, stretch: float) -> tuple[FloatArray, Spoken]:
    """flite's samples at 16 kHz and the sounds in them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        command = [
            "flite",
            "-voice",
            voice,
            "-psdur",
            "--setf",
            f"duration_stretch={stretch:.2f}",
            "-t",
            text,
            str(path),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not path.is_file():
            raise TrainingDataError(f"flite failed with voice {voice}", done.stderr.strip()[:200] or "try it by hand")
        with wave.open(str(path)) as file:
            hz = file.getframerate()
            whole = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    samples: FloatArray = (whole / 32768).astype(np.float32)
    spoken: Spoken = []
    first = 0.0
    for symbol, time in re.findall(r"([a-z]+):([0-9.]+)", done.stdout):
        if symbol in ARPABET:
            spoken.append((first, float(time), ARPABET[symbol]))
        first = float(time)
    return resample(samples, hz, MelConfig().hz), spoken


def in_a_room(samples: FloatArray, random: np.random.Generator) -> FloatArray:
    """The samples at a random loudness, often through a random echo, and with a little noise."""
    if random.random() < 0.5:
        length = int(16000 * random.uniform(0.05, 0.3))
        echo = random.standard_normal(length) * np.exp(-np.arange(length) / length * random.uniform(4, 8))
        echo *= random.uniform(0.1, 0.7) / max(float(np.sqrt((echo**2).sum())), 1e-6)
        echo[0] = 1.0
        size = 1 << int(np.ceil(np.log2(len(samples) + length)))
        echoed = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(echo, size), size)
        samples = echoed[: len(samples)].astype(np.float32)
    loud = float(np.sqrt(np.mean(np.square(samples)))) or 1.0
    samples = samples * np.float32(10 ** (random.uniform(-32, -15) / 20) / loud)
    noise = random.standard_normal(len(samples))
    if random.random() < 0.5:
        noise = np.convolve(noise, np.ones(4) / 2, "same")  # darker
    level = 10 ** (random.uniform(-90, -45) / 20)
    return np.clip(samples + noise * level, -1, 1).astype(np.float32)


def sentence(config: PhoneticsConfig, random: np.random.Generator) -> str:
    """Some invented words, with commas."""
    onsets, nuclei, codas = config.onsets.split(), config.nuclei.split(), config.codas.replace("-", "").split(" ")
    words = []
    for _ in range(int(random.integers(4, 12))):
        parts = [
            str(random.choice(sounds)) for _ in range(int(random.integers(1, 4))) for sounds in (onsets, nuclei, codas)
        ]
        words.append("".join(parts) + ("," if random.random() < 0.12 else ""))
    return " ".join(words) + "."


def invent(config: PhoneticsConfig) -> int:
    """Write ``made-NNN.npz`` until the minutes are full; returns the number of files."""
    espeak = Espeak()
    flite = shutil.which("flite") is not None
    read = " ".join(path.read_text(errors="ignore") for path in config.text)
    lines = [line.strip() for line in re.findall(r"[A-Z][a-z ,']{30,160}[.;:]", re.sub(r"\s+", " ", read))]
    files = int(np.ceil(config.minutes * 60 / config.shard))
    for number in range(files):
        path = config.out / f"made-{number:03d}.npz"
        if path.is_file():
            continue
        random = np.random.default_rng((config.seed, number))
        mels, labels, seconds = [], [], 0.0
        while seconds < config.shard:
            text = str(random.choice(lines)) if lines and random.random() < 0.5 else sentence(config, random)
            if flite and random.random() < config.english:
                samples, spoken = flite_say(
                    text, str(random.choice(config.flite.split())), float(random.uniform(0.8, 1.3))
                )
            else:
                kind = str(random.choice(config.kinds.split()))
                voice = str(random.choice(config.languages.split())) + (f"+{kind}" if kind != "plain" else "")
                samples, spoken = espeak.say(
                    text, voice, int(random.integers(120, 240)), int(random.integers(15, 85)), int(random.integers(80))
                )
            if len(samples) < 8000 or not spoken:
                continue
            mel = log_mel(in_a_room(samples, random))
            mels.append(mel.astype(np.float16))
            labels.append(labels_of(spoken, len(mel)))
            seconds += len(samples) / 16000
        write_arrays(path, {"mel": np.concatenate(mels), "sound": np.concatenate(labels)})
    return files


class Recogniser:
    """pocketsphinx as a phone recogniser: samples to sounds."""

    def __init__(self) -> None:
        try:
            pocketsphinx = importlib.import_module("pocketsphinx")
        except ImportError:
            raise TrainingDataError("pocketsphinx is not installed", "pip install pocketsphinx") from None
        phones = pocketsphinx.get_model_path("en-us/en-us-phone.lm.bin")
        self.decoder = pocketsphinx.Decoder(allphone=phones, lw=2.0, beam=1e-10, pbeam=1e-10, loglevel="FATAL")

    def hear(self, samples: FloatArray) -> Spoken:
        """The sounds that are heard in samples at 16 kHz."""
        loud = float(np.abs(samples).max()) or 1.0
        data = (samples * (0.5 / loud) * 32767).astype(np.int16)
        self.decoder.start_utt()
        self.decoder.process_raw(data.tobytes(), full_utt=True)
        self.decoder.end_utt()
        spoken: Spoken = []
        for segment in self.decoder.seg() or ():
            symbol = str(segment.word).lower()
            sounds = ARPABET.get(symbol, (0,) if symbol.startswith(("<", "+")) else ())
            if sounds:
                # a frame of the recogniser is 10 ms and its window 25.6 ms: the middle is 12.8 ms after its first sample
                spoken.append((segment.start_frame / 100 + 0.0128, (segment.end_frame + 1) / 100 + 0.0128, sounds))
        return spoken


def hear(config: PhoneticsConfig) -> int:
    """Write ``heard-NAME.npz`` of the training clips and the other recordings; returns the number of files."""
    recogniser = Recogniser()
    files = sorted((config.data / "clips-train").glob("*.npz")) if config.data else []
    files += (
        sorted(p for p in config.voices.iterdir() if p.suffix in (".flac", ".wav", ".mp3")) if config.voices else []
    )
    for file in files:
        path = config.out / f"heard-{file.stem}.npz"
        if path.is_file():
            continue
        if file.suffix == ".npz":
            with np.load(file) as stored:
                voice = stored["voice"].astype(np.float32)
        else:
            from talkswap.media.sound import load_voice

            voice = load_voice(file).samples
        mel = log_mel(voice)
        sound = labels_of(recogniser.hear(voice), len(mel))
        write_arrays(
            path, {"sound": sound} if file.suffix == ".npz" else {"sound": sound, "mel": mel.astype(np.float16)}
        )
    return len(files)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=180.0, help="of invented speech; 0: none")
    parser.add_argument("--data", type=Path, help="prepared clips, to be heard by the recogniser")
    parser.add_argument("--voices", type=Path, help="folder of other recordings, to be heard")
    parser.add_argument("--text", type=Path, nargs="*", default=[], help="read besides invented words")
    args = parser.parse_args()
    config = PhoneticsConfig(args.out, args.minutes, args.data, args.voices, tuple(args.text))
    args.out.mkdir(parents=True, exist_ok=True)
    if args.data or args.voices:
        print(f"heard {hear(config)} recordings")
    if config.minutes > 0:
        print(f"invented {invent(config)} files")


if __name__ == "__main__":
    main()
