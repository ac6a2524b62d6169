"""The plain marks: a sentence in the container's comment, and IPTC's digital source type.

Mp4 and mov carry the type in an XMP packet (Adobe, "XMP Specification Part 3: Storage in Files", section 1.3.2: a
``uuid`` box of the file), Matroska and WebM in a tag.  The box is added behind all others, so that no chunk offset
moves and the index stays in front.
"""

from __future__ import annotations

import os
import re
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from xml.sax.saxutils import escape, quoteattr, unescape

import talkswap
from talkswap.errors import OutputCheckError
from talkswap.media.containers import open_clip

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
XMP_BOX = uuid.UUID("be7acfcb-97a9-42e8-9c71-999491e3afac").bytes
TAG = "DIGITALSOURCETYPE"  # of Matroska and WebM
TARGETS = {"comment": "TARGET_COMMENT", "source_type": "TARGET_DIGITALSOURCETYPE"}  # what the target said, there
BOXED = (".mp4", ".mov", ".m4v")
_MOST_XMP = 2**24  # bytes of a packet that is looked at
_MOST_SAID = 2000  # characters of what a target says that are kept

_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmp:CreatorTool="{tool}"
    Iptc4xmpExt:DigitalSourceType="{source_type}"{target}/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""
_STATED = re.compile(rb"DigitalSourceType(?:\s*=\s*[\"']|\s+rdf:resource\s*=\s*[\"']|\s*>)\s*([^\"'<\s]+)")
_TARGET_SAID = re.compile(rb"talkswap:Target(Comment|Kind)=(\"[^\"]*\"|'[^']*')")


@dataclass(frozen=True)
class TargetMarks:
    """What the target said of itself: kept, since our own marks take the place of its."""

    comment: str | None = None  # the container's comment, whoever wrote it
    source_type: str | None = None  # IPTC's digital source type


@dataclass(frozen=True)
class PlainMarks:
    """What a file says of itself."""

    comment: str | None  # the container's comment, where it names talkswap
    source_type: str | None  # IPTC's digital source type, whoever wrote it
    target: TargetMarks = TargetMarks()  # what its target had said


def tool() -> str:
    """Name and version, as they stand in every mark."""
    return f"talkswap {talkswap.__version__}"


def comment() -> str:
    """The sentence of the container's comment."""
    return f"Made with {tool()}: face or lips in this clip were changed by a computer"


def container_tags(ending: str, target: TargetMarks = TargetMarks()) -> dict[str, str]:
    """Tags to write while the file is made; what the target said stands in tags of its own, or in the XMP packet."""
    if ending in BOXED:
        return {"comment": comment()}
    said = {tag: getattr(target, name) for name, tag in TARGETS.items() if getattr(target, name)}
    return {"comment": comment(), TAG: SOURCE_TYPE} | said


def boxes(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and length of each box of an ISO base media file; stops where the structure breaks."""
    end = file.seek(0, os.SEEK_END)
    start = 0
    while start + 8 <= end:
        file.seek(start)
        length, kind = struct.unpack(">I4s", file.read(8))
        if length == 1:
            large = file.read(8)
            length = struct.unpack(">Q", large)[0] if len(large) == 8 else 0
        elif length == 0:
            length = end - start
        if length < 8 or start + length > end:
            return
        yield kind, start, length
        start += length


def add_xmp(path: Path, target: TargetMarks = TargetMarks()) -> None:
    """Put the XMP packet behind the last box of an mp4 or mov file.

    Args:
        path: the file.
        target: what its target said of itself.

    Raises:
        OutputCheckError: the boxes do not fill the file, or the last one is open-ended.
    """
    said = [
        (f"talkswap:Target{key}", text) for key, text in (("Comment", target.comment), ("Kind", target.source_type))
    ]
    kept = "".join(f"\n    {key}={quoteattr(text)}" for key, text in said if text)
    kept = kept and f'\n    xmlns:talkswap="urn:talkswap:marks"{kept}'
    packet = _PACKET.format(tool=escape(tool()), source_type=SOURCE_TYPE, target=kept).encode()
    with open(path, "r+b") as file:
        last = list(boxes(file))[-1:]
        end = file.seek(0, os.SEEK_END)
        if not last or last[0][1] + last[0][2] != end:
            raise OutputCheckError("the finished file's boxes do not fill it", "this is a fault of talkswap or ffmpeg")
        file.seek(last[0][1])
        if file.read(4) == b"\0\0\0\0":
            raise OutputCheckError("the finished file's last box has no length", "this is a fault of ffmpeg")
        file.seek(0, os.SEEK_END)
        file.write(struct.pack(">I4s", 24 + len(packet), b"uuid") + XMP_BOX + packet)


def read_xmp(path: Path) -> bytes | None:
    """The XMP packet of an mp4 or mov file; None without one, or where the file is of another kind."""
    with open(path, "rb") as file:
        for kind, start, length in boxes(file):
            if kind == b"uuid" and 24 <= length <= _MOST_XMP:
                file.seek(start + 8)
                content = file.read(length - 8)
                if content[:16] == XMP_BOX:
                    return content[16:]
    return None


def read_target(path: Path) -> TargetMarks:
    """What a target says of itself, before our marks take the place of its.

    Raises:
        InputMissingError, UnreadableMediaError: as of :func:`talkswap.media.containers.open_clip`.
    """
    said, source_type, _ = _stated(path)
    return TargetMarks(_shown(said), _shown(source_type))


def read_plain(path: Path) -> PlainMarks:
    """What the container says.

    Raises:
        InputMissingError, UnreadableMediaError: as of :func:`talkswap.media.containers.open_clip`.
    """
    said, source_type, target = _stated(path)
    return PlainMarks(said if said and "talkswap" in said else None, source_type, target)


def _shown(text: str | None) -> str | None:
    """``text`` as a tag and an attribute of XML can hold it."""
    return "".join(c if c.isprintable() else " " for c in text)[:_MOST_SAID].strip() or None if text else None


def _stated(path: Path) -> tuple[str | None, str | None, TargetMarks]:
    """Comment, digital source type, and what the file says that its target had said."""
    with open_clip(path) as container:
        found = {name.lower(): value for name, value in container.metadata.items()}
    source_type = found.get(TAG.lower())
    target = {name: found.get(tag.lower()) for name, tag in TARGETS.items()}
    packet = read_xmp(path)
    if packet is not None:
        if (stated := _STATED.search(packet)) is not None:
            source_type = stated[1].decode("utf-8", "replace")
        for key, quoted in _TARGET_SAID.findall(packet):
            text = unescape(quoted[1:-1].decode("utf-8", "replace"), {"&quot;": '"'})
            target["comment" if key == b"Comment" else "source_type"] = text
    return found.get("comment"), source_type, TargetMarks(**target)
