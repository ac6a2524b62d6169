"""Plain marks in all four containers, and an XMP packet that breaks nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from talkswap.errors import OutputCheckError, UnreadableMediaError
from talkswap.provenance.tags import (
    SOURCE_TYPE,
    TAG,
    PlainMarks,
    TargetMarks,
    add_xmp,
    boxes,
    comment,
    container_tags,
    read_plain,
    read_target,
    read_xmp,
)


def pictures_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv", ".webm"])
def test_comment_and_source_type_are_read_back(plain_clip: dict[str, Path], tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"clip{ending}"
    shutil.copy(plain_clip[ending], path)
    if ending in (".mp4", ".mov"):
        assert read_plain(path) == PlainMarks(comment(), None)
        add_xmp(path)
    assert read_plain(path) == PlainMarks(comment(), SOURCE_TYPE)


@pytest.mark.parametrize("ending", [".mp4", ".mov"])
def test_the_packet_moves_no_box_and_no_picture(plain_clip: dict[str, Path], tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"clip{ending}"
    shutil.copy(plain_clip[ending], path)
    with open(path, "rb") as file:
        before = list(boxes(file))
    pictures, content = pictures_of(path), path.read_bytes()
    add_xmp(path)
    with open(path, "rb") as file:
        after = list(boxes(file))
    assert after[:-1] == before and after[-1][0] == b"uuid"
    kinds = [kind for kind, _, _ in after]
    assert kinds.index(b"moov") < kinds.index(b"mdat")
    assert path.read_bytes().startswith(content)
    assert all((a == b).all() for a, b in zip(pictures, pictures_of(path), strict=True))


def test_a_packet_that_others_wrote_is_read(plain_clip: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    shutil.copy(plain_clip[".mp4"], path)
    add_xmp(path)
    packet = read_xmp(path)
    assert packet is not None
    theirs = b"<Iptc4xmpExt:DigitalSourceType>http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture</x>"
    path.write_bytes(path.read_bytes().replace(packet, theirs + b" " * (len(packet) - len(theirs))))
    assert read_plain(path).source_type == "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"


def test_boxes_that_do_not_fill_the_file_are_refused(plain_clip: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    content = plain_clip[".mp4"].read_bytes()
    path.write_bytes(content[:-5])
    with pytest.raises(OutputCheckError, match="boxes"):
        add_xmp(path)
    path.write_bytes(content + b"\0\0\0\0free")
    with pytest.raises(OutputCheckError, match="no length"):
        add_xmp(path)


def test_what_is_no_media_is_named(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"\0\0\0\1uuid\0\0\0\0" * 40)
    with pytest.raises(UnreadableMediaError):
        read_plain(path)
    assert read_xmp(path) is None


GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def tagged(clip: Path, path: Path, tags: dict[str, str]) -> Path:
    """A copy of a clip with other tags."""
    with av.open(str(clip)) as source, av.open(str(path), "w") as copy:
        copy.metadata.update(tags)
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    return path


def test_what_the_target_said_is_kept_beside_our_own_marks(plain_clip: dict[str, Path], tmp_path: Path) -> None:
    words = 'Made by "others" <2026> & co'
    target = tagged(plain_clip[".mkv"], tmp_path / "target.mkv", {"comment": words, TAG: GENERATED})
    said = read_target(target)
    assert said == TargetMarks(words, GENERATED)
    boxed = Path(shutil.copy(plain_clip[".mp4"], tmp_path / "boxed.mp4"))
    add_xmp(boxed, said)
    assert read_plain(boxed) == PlainMarks(comment(), SOURCE_TYPE, said)
    open_one = tagged(plain_clip[".mkv"], tmp_path / "open.mkv", container_tags(".mkv", said))
    assert read_plain(open_one) == PlainMarks(comment(), SOURCE_TYPE, said)
    # a dub of a dub: the target's XMP packet is read, too
    assert read_target(boxed) == TargetMarks(comment(), SOURCE_TYPE)
