"""Plain marks in all four containers, and an XMP packet that breaks nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from talkswap.errors import OutputCheckError, UnreadableMediaError
from talkswap.provenance.tags import SOURCE_TYPE, PlainMarks, add_xmp, boxes, comment, read_plain, read_xmp


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
