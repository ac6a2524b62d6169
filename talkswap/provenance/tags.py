"""The plain marks: a sentence in the container's comment, and IPTC's digital source type.

Mp4 and mov carry the type in an XMP packet (Adobe, "XMP Specification Part 3: Storage in Files", section 1.3.2: a
``uuid`` box of the file), Matroska and WebM in a tag.  The box goes behind all others, so that no chunk offset moves
and the index stays in front.
"""

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
from talkswap.media.probe import open_clip

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
XMP_BOX = uuid.UUID("be7acfcb-97a9-42e8-9c71-999491e3afac").bytes
TAG = "DIGITALSOURCETYPE"  # of Matroska and WebM
TARGETS = {
    "comment": "TARGET_COMMENT",
    "source_type": "TARGET_DIGITALSOURCETYPE",
}  # the target's own marks, in Matroska and WebM
BOXED = (".mp4", ".mov", ".m4v")
_MOST_XMP = 2**24  # bytes of the largest packet that is read
_MOST_TEXT = 2000  # characters kept of a target's comment

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
_SOURCE_TYPE = re.compile(rb"DigitalSourceType(?:\s*=\s*[\"']|\s+rdf:resource\s*=\s*[\"']|\s*>)\s*([^\"'<\s]+)")
_TARGET_MARK = re.compile(rb"talkswap:Target(Comment|Kind)=(\"[^\"]*\"|'[^']*')")


@dataclass(frozen=True)
class TargetMarks:
    """The target's own marks.  They move to other tags, since ours take their place."""

    comment: str | None = None  # the container's comment, whoever wrote it
    source_type: str | None = None  # IPTC's digital source type


@dataclass(frozen=True)
class PlainMarks:
    """The plain marks of a file."""

    comment: str | None  # the container's comment, where it names talkswap
    source_type: str | None  # IPTC's digital source type, whoever wrote it
    target: TargetMarks = TargetMarks()  # those of the clip that it was made from


def tool() -> str:
    """Name and version, as in every mark."""
    return f"talkswap {talkswap.__version__}"


def comment() -> str:
    """The sentence of the container's comment."""
    return f"Made with {tool()}: face or lips in this clip were changed by a computer"


def container_tags(ending: str, target: TargetMarks = TargetMarks()) -> dict[str, str]:
    """Tags to write with the file; the target's marks get tags of their own, or go into the XMP packet."""
    # In mp4 and mov the source type has its place in the XMP packet.
    if ending in BOXED:
        return {"comment": comment()}
    inherited = {tag: getattr(target, name) for name, tag in TARGETS.items() if getattr(target, name)}
    return {"comment": comment(), TAG: SOURCE_TYPE} | inherited


def boxes(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and length of each box of an ISO base media file; stops where the structure breaks."""
    end = file.seek(0, os.SEEK_END)
    start = 0
    while start + 8 <= end:
        file.seek(start)
        length, kind = struct.unpack(">I4s", file.read(8))
        # ISO 14496-12: 1 means a 64-bit length behind the name, 0 to the end of the file.
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

    Raises:
        OutputCheckError: the boxes do not fill the file, or the last one is open-ended.
    """
    marks = {"Comment": target.comment, "Kind": target.source_type}
    attributes = "".join(f"\n    talkswap:Target{key}={quoteattr(text)}" for key, text in marks.items() if text)
    if attributes:
        attributes = f'\n    xmlns:talkswap="urn:talkswap:marks"{attributes}'
    packet = _PACKET.format(tool=escape(tool()), source_type=SOURCE_TYPE, target=attributes).encode()
    with open(path, "r+b") as file:
        # A box can be added only if the ones before it fill the file exactly.
        last = list(boxes(file))[-1:]
        end = file.seek(0, os.SEEK_END)
        if not last or last[0][1] + last[0][2] != end:
            raise OutputCheckError("the finished file's boxes do not fill it", "this is a fault of talkswap or ffmpeg")
        file.seek(last[0][1])
        if file.read(4) == b"\0\0\0\0":  # such a box reaches to the end of the file, and would swallow ours
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
    """The marks of a target, before ours take their place."""
    text, source_type, _ = _read_marks(path)
    return TargetMarks(_printable(text), _printable(source_type))


def read_plain(path: Path) -> PlainMarks:
    """The container's marks."""
    text, source_type, target = _read_marks(path)
    return PlainMarks(text if text and "talkswap" in text else None, source_type, target)


def _printable(text: str | None) -> str | None:
    """``text`` as a tag and an attribute of XML can hold it."""
    return "".join(c if c.isprintable() else " " for c in text)[:_MOST_TEXT].strip() or None if text else None


def _read_marks(path: Path) -> tuple[str | None, str | None, TargetMarks]:
    """Comment, digital source type, and the marks of the clip that this one was made from."""
    with open_clip(path) as container:
        tags = {name.lower(): value for name, value in container.metadata.items()}
    source_type = tags.get(TAG.lower())
    target = {name: tags.get(tag.lower()) for name, tag in TARGETS.items()}
    packet = read_xmp(path)
    if packet is not None:
        if (match := _SOURCE_TYPE.search(packet)) is not None:
            source_type = match[1].decode("utf-8", "replace")
        for key, quoted in _TARGET_MARK.findall(packet):
            text = unescape(quoted[1:-1].decode("utf-8", "replace"), {"&quot;": '"'})
            target["comment" if key == b"Comment" else "source_type"] = text
    return tags.get("comment"), source_type, TargetMarks(**target)
