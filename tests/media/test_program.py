"""Which ffmpeg is taken; and copies for raters: equal in everything but picture and sound, playable, failures named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from talkswap.errors import EncoderError, NoVideoError, UnreadableMediaError
from talkswap.media.program import VARIABLE, Program, even_sizes, find_ffmpeg, write_plain_copy


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The bundled ffmpeg; PATH is the test's own folder, and what was found is forgotten before and after."""
    monkeypatch.delenv(VARIABLE, raising=False)
    find_ffmpeg.cache_clear()
    path = find_ffmpeg().path
    monkeypatch.setenv("PATH", str(tmp_path))
    find_ffmpeg.cache_clear()
    yield path
    find_ffmpeg.cache_clear()


def program_at(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_the_bundled_ffmpeg_goes_before_one_on_path(bundled: Path, tmp_path: Path) -> None:
    (tmp_path / "ffmpeg").symlink_to(bundled)
    assert find_ffmpeg() == Program(bundled) and "imageio_ffmpeg" in str(bundled)


@pytest.mark.parametrize("name", ["mine", "{folder}/mine"])
def test_the_variable_names_another_program(
    bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "mine").symlink_to(bundled)
    monkeypatch.setenv(VARIABLE, name.format(folder=tmp_path))
    assert find_ffmpeg() == Program(tmp_path / "mine", f"named by {VARIABLE}")


@pytest.mark.parametrize("script", ["exit 1", "echo too old, it knows no noise", ""])
def test_a_named_program_that_does_not_serve_is_an_error(
    bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setenv(VARIABLE, str(program_at(tmp_path / "mine", script) if script else tmp_path / "missing"))
    with pytest.raises(EncoderError, match=f"which {VARIABLE} names, is no ffmpeg") as caught:
        find_ffmpeg()
    assert caught.value.hint == f"unset {VARIABLE}"


def test_path_takes_the_place_of_a_bundled_program_that_does_not_run(
    bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = program_at(tmp_path / "broken", "exit 1")
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", lambda: str(broken))
    with pytest.raises(EncoderError, match=f"no ffmpeg was found: {broken} does not run") as caught:
        find_ffmpeg()
    assert "pip install imageio-ffmpeg" in caught.value.hint
    on_path = tmp_path / "ffmpeg"
    on_path.symlink_to(bundled)
    assert find_ffmpeg() == Program(on_path, f"{broken} does not run, {on_path} on PATH takes its place")


def test_a_package_without_a_program_of_its_own_is_said(
    bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> str:
        raise RuntimeError("No ffmpeg exe could be found")

    (tmp_path / "ffmpeg").symlink_to(bundled)
    for answer in (missing, lambda: "ffmpeg"):
        monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", answer)
        find_ffmpeg.cache_clear()
        assert find_ffmpeg().note.startswith("the package imageio-ffmpeg has no program, ")


def facts(path: Path) -> dict[str, object]:
    with av.open(str(path)) as container:
        video, sound = container.streams.video[0], container.streams.audio
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return {
            "tags": dict(container.metadata),
            "streams": [dict(stream.metadata) for stream in container.streams],
            "codec": (video.codec_context.name, video.codec_context.pix_fmt),
            "sound": [(s.codec_context.name, s.codec_context.sample_rate, s.codec_context.layout.name) for s in sound],
            "frames": len(pictures),
            "pictures": pictures,
        }


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory, example_pictures: list[np.ndarray]) -> list[Path]:
    """Copies of one clip that came in two dresses: other codec, container, tags, sample rate."""
    folder = tmp_path_factory.mktemp("copies")
    given = []
    for name, codec, sound, hz in (("one.mp4", "libx264", "aac", 16000), ("two.mkv", "libvpx-vp9", "libopus", 48000)):
        path = folder / name
        with av.open(str(path), "w") as container:
            container.metadata["title"] = container.metadata["comment"] = "made by the method swaptalk"
            stream = container.add_stream(codec, rate=25, options={"crf": "10"})
            stream.height, stream.width, stream.pix_fmt = 270, 480, "yuv420p"
            voice = container.add_stream(sound, rate=hz, layout="mono")
            for picture in example_pictures[:8]:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
            tone = (0.2 * np.sin(np.arange(hz * 8 // 25) * 0.07)).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            frame.sample_rate = hz
            resampler = av.AudioResampler(format=voice.codec_context.format, layout="mono", rate=hz)
            for piece in resampler.resample(frame):
                container.mux(voice.encode(piece))
            container.mux(voice.encode())
        given.append(path)
    written = []
    for path in given:
        copy = folder / f"copy-{path.stem}.mp4"
        write_plain_copy(path, copy, "a clip")
        written.append(copy)
    return written


def test_copies_differ_in_picture_and_sound_alone(copies: list[Path]) -> None:
    one, two = (facts(path) for path in copies)
    for name in ("tags", "streams", "codec", "sound", "frames"):
        assert one[name] == two[name], name
    assert one["codec"] == ("h264", "yuv420p") and one["sound"] == [("aac", 48000, "stereo")]
    assert one["frames"] == 8
    assert one["tags"]["comment"] == "a clip"  # type: ignore[index]
    for path in copies:
        assert b"swaptalk" not in path.read_bytes() and b"Lavf" not in path.read_bytes()


def test_the_picture_stays_as_it_is(copies: list[Path], example_pictures: list[np.ndarray]) -> None:
    for path in copies:
        error = np.stack(facts(path)["pictures"]).astype(float) - np.stack(example_pictures[:8])  # type: ignore[call-overload]
        assert 10 * np.log10(255**2 / (error**2).mean()) > 34


def test_equal_sizes_change_nothing_that_plays(copies: list[Path], tmp_path: Path) -> None:
    files = [tmp_path / path.name for path in copies]
    for path, copy in zip(copies, files, strict=True):
        copy.write_bytes(path.read_bytes())
    assert len({path.stat().st_size for path in files}) == 2
    size = even_sizes(files)
    assert {path.stat().st_size for path in files} == {size}
    for path, copy in zip(copies, files, strict=True):
        np.testing.assert_array_equal(facts(copy)["pictures"], facts(path)["pictures"])
    assert even_sizes([]) > 0


def test_a_clip_without_sound_and_with_odd_sizes(tmp_path: Path, example_pictures: list[np.ndarray]) -> None:
    path = tmp_path / "odd.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 101, 151, "yuv444p"
        for picture in example_pictures[:3]:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:101, :151]), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    write_plain_copy(path, tmp_path / "copy.mp4", "a clip")
    found = facts(tmp_path / "copy.mp4")
    assert found["sound"] == [] and found["frames"] == 3
    assert found["pictures"][0].shape == (100, 150, 3)  # type: ignore[index]


def test_failures_are_named(tmp_path: Path, voice_file: Path, copies: list[Path]) -> None:
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(b"no video")
    with pytest.raises(UnreadableMediaError):
        write_plain_copy(damaged, tmp_path / "copy.mp4", "c")
    with pytest.raises(NoVideoError):
        write_plain_copy(voice_file, tmp_path / "copy.mp4", "c")
    with pytest.raises(EncoderError, match="could not be copied"):
        write_plain_copy(copies[0], tmp_path / "missing" / "copy.mp4", "c")
    assert not (tmp_path / "copy.mp4").exists()
