"""The whole files that are spoilt: small clips, voices, photos, plans, weights, tables, a marked clip and a prepared set.

Made once into a folder; everything is small, so that a case takes a moment.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from talkswap.checkpoints.presets import find_preset
from talkswap.cli import main

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
FRAMES = 6
WIDTH, HEIGHT = 240, 136

CLIPS = ("clip.mp4", "clip.mov", "clip.mkv", "clip.avi", "clip.webm", "clip.ts", "clip.flv")
VOICES = ("voice.wav", "voice.flac", "voice.mp3", "voice.ogg", "voice.m4a", "voice.mka", "voice.aiff", "voice.au")
PHOTOS = ("photo.png", "photo.jpg", "photo.webp", "photo.bmp", "photo.tiff")


def make(folder: Path, with_data: bool = False) -> Path:
    """Make everything that is not there yet.

    Args:
        folder: where.
        with_data: whether the prepared data set is made, which takes longest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = _pictures(FRAMES)
    codecs = {
        "clip.webm": ("libvpx-vp9", "libopus"),
        "clip.avi": ("mpeg4", "libmp3lame"),
        "clip.flv": ("libx264", "aac"),
    }
    for name in CLIPS:
        picture, sound = codecs.get(name, ("libx264", "aac"))
        if not (folder / name).exists():
            write_clip(folder / name, pictures, picture, sound)
    for name in VOICES:
        if not (folder / name).exists():
            write_voice(folder / name, 48000 if name.endswith("ogg") else 16000)
    _photos(folder)
    _odd(folder, pictures)
    if not (folder / "marked.mp4").exists():
        _mark(folder)
    if with_data and not (folder / "data").exists():
        from ..evaluation.small_set import make_set

        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            made = make_set(folder / "data.part")
        made.rename(folder / "data")
    return folder


def _pictures(count: int) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    with av.open(str(EXAMPLES / "target.mp4")) as container:
        for frame in container.decode(video=0):
            found.append(frame.reformat(WIDTH, HEIGHT, format="rgb24").to_ndarray())
            if len(found) == count:
                break
    return found


def write_clip(
    path: Path,
    pictures: Sequence[np.ndarray],
    codec: str = "libx264",
    sound: str | None = "aac",
    layout: str = "mono",
    hz: int = 48000,
    pixels: str = "yuv420p",
) -> Path:
    """Encode pictures at 25 a second, with a sound as long as they are."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels
        voice = container.add_stream(sound, rate=hz, layout=layout) if sound else None
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())
        if voice is not None:
            _encode(container, voice, len(pictures) * hz // 25, hz, layout)
    return path


def write_voice(path: Path, hz: int = 16000, layout: str = "mono", seconds: float = 0.3) -> Path:
    """A tone in the codec that the ending stands for."""
    codec = {".flac": "flac", ".mp3": "libmp3lame", ".ogg": "libopus", ".m4a": "aac", ".mka": "libopus"}
    hz = 48000 if path.suffix == ".mka" else hz
    with av.open(str(path), "w") as container:
        kind = codec.get(path.suffix, "pcm_s16be" if path.suffix in (".aiff", ".au") else "pcm_s16le")
        voice = container.add_stream(kind, rate=hz, layout=layout)
        _encode(container, voice, int(seconds * hz), hz, layout)
    return path


def _encode(container: av.container.OutputContainer, voice: av.AudioStream, count: int, hz: int, layout: str) -> None:
    channels = len(av.AudioLayout(layout).channels)
    tone = (0.2 * np.sin(np.arange(count) * 0.05)).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(np.repeat(tone[None], channels, 0), format="fltp", layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = hz, 0, Fraction(1, hz)
    container.mux(voice.encode(frame))
    container.mux(voice.encode())


def _photos(folder: Path) -> None:
    bgr = cv2.resize(cv2.imread(str(EXAMPLES / "source.png")), (256, 256), interpolation=cv2.INTER_AREA)
    for name in PHOTOS:
        if not (folder / name).exists():
            cv2.imwrite(str(folder / name), bgr)


def _odd(folder: Path, pictures: Sequence[np.ndarray]) -> None:
    """Files that are whole and strange."""
    face = pictures[0]

    def sized(width: int, height: int, count: int = 2) -> list[np.ndarray]:
        return [cv2.resize(face, (width, height)) for _ in range(count)]

    clips = {
        "odd-1x1.mkv": (sized(1, 1), "ffv1", "yuv444p"),
        "odd-1x1.avi": (sized(1, 1), "rawvideo", "yuv420p"),
        "odd-2x2.mp4": (sized(2, 2), "libx264", "yuv420p"),
        "odd-17x31.mkv": (sized(17, 31), "ffv1", "yuv420p"),
        "odd-241x137.mkv": (sized(241, 137), "ffv1", "yuv420p"),
        "odd-3x900.mkv": (sized(3, 900), "ffv1", "yuv444p"),
        "odd-2000x2.mp4": (sized(2000, 2), "libx264", "yuv420p"),
        "odd-8k.mp4": (sized(7680, 4320, 1), "libx264", "yuv420p"),
        "odd-one-frame.mp4": (sized(240, 136, 1), "libx264", "yuv420p"),
        "odd-gray.mkv": (sized(240, 136), "ffv1", "gray"),
        "odd-rgb.mkv": (sized(240, 136), "ffv1", "bgr0"),
        "odd-12bit.mkv": (sized(240, 136), "ffv1", "yuv422p12le"),
        "odd-alpha.mov": (sized(240, 136), "png", "rgba"),
        "odd-gif.gif": (sized(240, 136, 3), "gif", "rgb8"),
    }
    for name, (frames, codec, pixels) in clips.items():
        if not (folder / name).exists():
            write_clip(folder / name, frames, codec, None, pixels=pixels)
    for layout, hz in (("5.1", 48000), ("6.1", 44100), ("stereo", 96000), ("mono", 8000)):
        name = f"odd-sound-{layout}-{hz}"
        if not (folder / f"{name}.wav").exists():
            write_voice(folder / f"{name}.wav", hz, layout)
            write_clip(folder / f"{name}.mkv", pictures[:3], "libx264", "pcm_s16le", layout, hz)
    if not (folder / "odd-no-sound.wav").exists():
        with wave.open(str(folder / "odd-no-sound.wav"), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
    for name, size in (("odd-1x1.png", (1, 1)), ("odd-3x2000.png", (3, 2000)), ("odd-grey.png", (240, 136))):
        if not (folder / name).exists():
            picture = cv2.resize(face, size)
            cv2.imwrite(str(folder / name), picture if "grey" not in name else picture[:, :, 0])
    for name, text in lists(folder).items():
        (folder / name).write_text(text)


def lists(folder: Path) -> dict[str, str]:
    """Files that only name others, on this machine and behind its network."""
    inside = folder / "clip.mp4"
    return {
        "odd-list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{inside}\n#EXT-X-ENDLIST\n",
        "odd-secret.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n/etc/passwd\n#EXT-X-ENDLIST\n",
        "odd-net.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
        "odd-list.ffconcat": "ffconcat version 1.0\nfile clip.mp4\nfile /etc/passwd\n",
        "odd-list.mpd": "<MPD><Period><AdaptationSet><BaseURL>http://127.0.0.1:9/</BaseURL></AdaptationSet></Period></MPD>",
        "odd-list.sdp": "v=0\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "odd-script.avs": 'FileSource("/etc/passwd")\n',
    }


def _mark(folder: Path) -> None:
    """Renders of talkswap with all their marks: in an mp4, and in an mkv with its manifest beside it."""
    from unittest import mock

    from ..resume_workshop import small_system

    for name in ("marked.mkv", "marked.mp4"):
        with (
            mock.patch("talkswap.render.prepare.load_system", small_system),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            code = main([
                "render", "--source", str(folder / "photo.png"), "--target", str(folder / "clip.mp4"), "--quiet",
                "--preset", "compact", "--device", "cpu", "--overwrite", "--output", str(folder / name),
            ])  # fmt: skip
        assert code == 0, name


def weights() -> Path:
    """The compact preset's folder."""
    return find_preset("compact").folders[0]
