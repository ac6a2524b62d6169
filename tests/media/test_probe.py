"""What a clip is said to be, and the names of the ways in which it can be none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from talkswap.errors import InputMissingError, NoVideoError, TalkswapError, UnreadableMediaError
from talkswap.media.probe import probe

MakeClip = Callable[..., Path]


def test_properties_of_a_clip(make_clip: MakeClip) -> None:
    colour = {"colorspace": 1, "color_primaries": 1, "color_trc": 1, "color_range": 1}
    rate = Fraction(30000, 1001)
    info = probe(
        make_clip(count=30, rate=rate, time_base=Fraction(1, 30000), colour=colour, sound=True, aspect=Fraction(4, 3))
    )
    assert (info.width, info.height, info.rate, info.time_base) == (64, 48, rate, Fraction(1, 30000))
    assert (info.codec, info.pixel_format, info.bits) == ("h264", "yuv420p", 8)
    assert info.duration == 30 / rate
    assert info.frames == 30
    assert (info.colour.matrix, info.colour.primaries, info.colour.transfer, info.colour.range) == (1, 1, 1, 1)
    assert info.sample_aspect_ratio == Fraction(4, 3)
    assert info.has_audio and abs(info.audio_duration - info.duration) < Fraction(1, 10)
    assert (info.rotation, info.mirrored, info.audio_offset) == (0, False, 0)


@pytest.mark.parametrize("rotation", [90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_rotation_is_clockwise_and_size_is_upright(make_clip: MakeClip, rotation: int, mirrored: bool) -> None:
    info = probe(make_clip(rotation=rotation, mirrored=mirrored, aspect=Fraction(2, 1)))
    # FFmpeg's test matrix flips after turning; ours is read as a flip first, then the opposite turn.
    assert (info.rotation, info.mirrored) == ((360 - rotation) % 360 if mirrored else rotation, mirrored)
    turned = rotation != 180
    assert (info.width, info.height) == ((48, 64) if turned else (64, 48))
    assert info.sample_aspect_ratio == (Fraction(1, 2) if turned else Fraction(2))


def test_ten_bits_are_named(make_clip: MakeClip) -> None:
    info = probe(make_clip("deep.mkv", codec="ffv1", pixel_format="yuv420p10le", options={}))
    assert (info.bits, info.pixel_format) == (10, "yuv420p10le")


def test_names_with_colons_spaces_and_other_alphabets(make_clip: MakeClip) -> None:
    clip = make_clip("a.mp4")
    for name in ("http: a clip.mp4", "клип №1.mp4", "-i.mp4", "100%d.mp4"):
        assert probe(Path(shutil.copy(clip, clip.parent / name))).frames == 24


def test_missing_file_and_directory(tmp_path: Path) -> None:
    for path in (tmp_path / "none.mp4", tmp_path):
        with pytest.raises(InputMissingError) as caught:
            probe(path)
        assert caught.value.hint


def test_text_empty_and_truncated_files_are_unreadable(tmp_path: Path, make_clip: MakeClip) -> None:
    text, empty, truncated = tmp_path / "text.mp4", tmp_path / "empty.mp4", tmp_path / "truncated.mp4"
    text.write_text("this is not a video\n" * 50)
    empty.touch()
    whole = make_clip(count=50).read_bytes()
    truncated.write_bytes(whole[: len(whole) // 2])  # the index of an mp4 lies at its end
    for path in (text, empty, truncated):
        with pytest.raises(UnreadableMediaError) as caught:
            probe(path)
        assert str(path) in caught.value.message and caught.value.hint


def test_a_playlist_does_not_reach_the_network(tmp_path: Path) -> None:
    playlist = tmp_path / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(TalkswapError):
        probe(playlist)


def test_sound_alone_cover_art_and_stills_are_no_video(tmp_path: Path, make_voice: Callable[..., Path]) -> None:
    still = tmp_path / "still.png"
    av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), np.uint8), format="rgb24").save(str(still))
    cover = tmp_path / "cover.mkv"
    with av.open(str(cover), "w") as container:
        sound = container.add_stream("aac", rate=48000)
        container.add_attachment("cover.png", "image/png", still.read_bytes())
        block = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        block.sample_rate = 48000
        container.mux(sound.encode(block))
        container.mux(sound.encode(None))
    with av.open(str(cover)) as container:
        assert container.streams.video  # FFmpeg shows the cover as a video stream
    for path in (make_voice(0.5), still, cover):
        with pytest.raises(NoVideoError) as caught:
            probe(path)
        assert caught.value.hint


def test_a_video_stream_without_frames_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "hollow.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        container.start_encoding()
    with pytest.raises(NoVideoError):
        probe(path)


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused_with_a_way_out(make_clip: MakeClip, transfer: int, name: str) -> None:
    colour = {"colorspace": 9, "color_primaries": 9, "color_trc": transfer, "color_range": 1}
    with pytest.raises(UnreadableMediaError, match=name) as caught:
        probe(make_clip(colour=colour))
    assert "SDR" in caught.value.hint


def test_an_unconvertible_matrix_is_refused(make_clip: MakeClip) -> None:
    with pytest.raises(UnreadableMediaError, match="matrix"):
        probe(make_clip(colour={"colorspace": 8}))


def test_unreadable_rights_are_named(make_clip: MakeClip, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, os.strerror(13), str(clip))

    monkeypatch.setattr(av, "open", refuse)  # root reads every file, so rights alone would not show it
    with pytest.raises(UnreadableMediaError, match="permission"):
        probe(clip)
