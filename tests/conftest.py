"""Media that the corridor's tests share: short pieces of the example clip, really encoded."""

from __future__ import annotations

import os

# Tests run side by side, one process a core: more threads in each would only wait for each other. Before torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import signal
import wave
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# A shell starts what it runs in the background with Ctrl-C ignored, and every process of a test would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

EXAMPLES = Path(__file__).parents[1] / "examples"
WIDTH, HEIGHT = 480, 270

WriteClip = Callable[..., Path]

# What a property says does not depend on how busy the machine is.
settings.register_profile("talkswap", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("talkswap")


@pytest.fixture(scope="session")
def source_photo() -> Path:
    return EXAMPLES / "source.png"


@pytest.fixture(scope="session")
def example_pictures() -> list[np.ndarray]:
    """The first 16 pictures of the example clip at half size."""
    pictures = []
    with av.open(str(EXAMPLES / "target.mp4")) as container:
        for frame in container.decode(video=0):
            pictures.append(frame.reformat(WIDTH, HEIGHT, format="rgb24").to_ndarray())
            if len(pictures) == 16:
                break
    return pictures


def write_tone(path: Path, seconds: float, hz: int = 16000, loudness: float = 0.3) -> Path:
    """A tone whose loudness swells four times a second, as syllables do."""
    t = np.arange(round(seconds * hz)) / hz
    wave_form = loudness * np.sin(2 * np.pi * 180 * t) * (0.5 + 0.5 * np.sin(2 * np.pi * 4 * t))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(hz)
        file.writeframes((wave_form * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture(scope="session")
def write_clip(tmp_path_factory: pytest.TempPathFactory) -> WriteClip:
    """Encode pictures with given ticks of a time base, and a tone as long as the picture."""

    def write(
        pictures: Sequence[np.ndarray],
        name: str = "clip.mp4",
        ticks: Sequence[int] | None = None,
        time_base: Fraction = Fraction(1, 25),
        sound: bool = True,
    ) -> Path:
        path = tmp_path_factory.mktemp("clip") / name
        ticks = range(len(pictures)) if ticks is None else ticks
        options = {"video_track_timescale": str(time_base.denominator)} if path.suffix in (".mp4", ".mov") else {}
        with av.open(str(path), "w", options=options) as container:
            stream = container.add_stream("libx264", rate=25, options={"crf": "12", "preset": "veryfast"})
            stream.height, stream.width = pictures[0].shape[:2]
            stream.pix_fmt = "yuv420p"
            stream.codec_context.time_base = stream.time_base = time_base
            voice = container.add_stream("aac", rate=16000, layout="mono") if sound else None
            for picture, tick in zip(pictures, ticks, strict=True):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                frame.pts, frame.time_base = tick, time_base
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
            if voice is not None:
                count = round(float((ticks[-1] + 1) * time_base) * 16000)
                samples = (0.2 * np.sin(np.arange(count) * 0.07)).astype(np.float32)[None]
                frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = 16000, 0, Fraction(1, 16000)
                container.mux(voice.encode(frame))
                container.mux(voice.encode())
        return path

    return write


@pytest.fixture(scope="session")
def talking_clip(write_clip: WriteClip, example_pictures: list[np.ndarray]) -> Path:
    """Twelve frames of a face, with sound."""
    return write_clip(example_pictures[:12])


@pytest.fixture(scope="session")
def voice_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """0.48 s: exactly as long as the twelve frames."""
    return write_tone(tmp_path_factory.mktemp("voice") / "voice.wav", 0.48)


@pytest.fixture(scope="session")
def face_crops() -> tuple[np.ndarray, np.ndarray]:
    """Twelve frames of the example's face as the networks see it: aligned crops N 320 320 3, landmarks N 478 3 in them."""
    from talkswap.faces.analyse import load_analyser
    from talkswap.faces.geometry import align

    analyser = load_analyser("compact", Path(__file__).parents[1] / "weights" / "compact")
    faces = []
    landmarks = None
    with av.open(str(EXAMPLES / "target.mp4")) as container:
        for frame in container.decode(video=0):
            picture = frame.to_ndarray(format="rgb24")
            face = analyser.detect(picture)[0] if landmarks is None else analyser.follow(picture, landmarks)
            assert face is not None
            landmarks = face.landmarks
            faces.append(align(picture, landmarks, 320))
            if len(faces) == 12:
                break
    return np.stack([face.crop for face in faces]), np.stack([face.landmarks for face in faces])


@pytest.fixture(autouse=True, scope="session")
def settings_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Renders keep their local certificate in a folder of the tests', never in the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("settings")))
        patch.delenv("TALKSWAP_SIGN_CERT", raising=False)
        patch.delenv("TALKSWAP_SIGN_KEY", raising=False)
        yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave tests marked `cuda` out where no GPU answers, and say how many: they are deselected, not passed over."""
    marked = [item for item in items if item.get_closest_marker("cuda") is not None]
    if not marked:
        return
    import torch  # only here: most runs of a few tests need no torch

    if not torch.cuda.is_available():
        items[:] = [item for item in items if item not in marked]
        config.hook.pytest_deselected(items=marked)
