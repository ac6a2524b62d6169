"""Read every mark of synthetic media in a file, layer by layer, and say how sure each one is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talkswap.errors import InputMissingError, TalkswapError
from talkswap.faces.analyse import FaceAnalyser
from talkswap.provenance.detect import FaceFinding, look
from talkswap.provenance.manifest import ManifestFinding, read_manifest, sidecar_of
from talkswap.provenance.tags import SOURCE_TYPES, PlainMarks, read_plain

MOST_SIDECAR = 2**26  # bytes


@dataclass(frozen=True)
class Verdict:
    """The marks of a file."""

    path: Path
    plain: PlainMarks
    manifest: ManifestFinding | None
    faces: tuple[FaceFinding, ...]
    skipped: str | None  # why there was no search for the invisible mark

    @property
    def watermark(self) -> FaceFinding | None:
        """The first face with an invisible mark."""
        return next((face for face in self.faces if face.finding.message is not None), None)

    @property
    def synthetic(self) -> bool:
        """Whether any layer says that a computer made or changed the picture."""
        stated = self.plain.source_type is not None and "lgorithmic" in self.plain.source_type
        signed = self.manifest is not None and self.manifest.synthetic
        return bool(self.plain.comment or stated or signed or self.watermark)

    def to_json(self) -> dict[str, Any]:
        """The verdict in JSON's own types."""
        manifest, mark = self.manifest, self.watermark
        return {
            "file": str(self.path),
            "marked": self.synthetic,
            "container_tag": self.plain.comment,
            "digital_source_type": self.plain.source_type,
            "target_said": {"comment": self.plain.target.comment, "digital_source_type": self.plain.target.source_type},
            "c2pa": None
            if manifest is None
            else {
                "state": manifest.state,
                "intact": manifest.intact,
                "trusted": manifest.trusted,
                "failures": list(manifest.failures),
                "signer": manifest.signer,
                "generator": manifest.generator,
                "digital_source_types": list(manifest.source_types),
                "ingredients": list(manifest.ingredients),
                "sidecar": manifest.sidecar,
                "render": manifest.facts,
            },
            "watermark": {
                "found": mark is not None,
                "id": mark.finding.message.text if mark and mark.finding.message else None,
                "false_positive": mark.finding.false_positive if mark else None,
                "bits_right": mark.finding.agreement if mark else None,
                "faces": [
                    {"face": face.face, "frames": face.finding.frames, "width_px": round(face.width)}
                    for face in self.faces
                ],
                "not_looked": self.skipped,
            },
        }

    def lines(self) -> list[str]:
        """The verdict in plain words, one line a layer."""
        plain, manifest, mark = self.plain, self.manifest, self.watermark
        lines = [
            f"container tag: {plain.comment or 'none'}",
            f"digital source type: {(plain.source_type or 'none').removeprefix(SOURCE_TYPES)}",
        ]
        before = [(plain.target.source_type or "").removeprefix(SOURCE_TYPES), plain.target.comment or ""]
        if any(before):
            lines.append(f"marks of its target: {'; '.join(word for word in before if word)}")
        if manifest is None:
            lines.append("C2PA manifest: none")
        elif not manifest.intact:
            lines.append(f"C2PA manifest: broken; the file changed after signing ({', '.join(manifest.failures)})")
        else:
            trust = "trusted" if manifest.trusted else "intact, but the signer is unknown (untrusted)"
            where = " in the sidecar" if manifest.sidecar else ""
            kinds = ", ".join(kind.removeprefix(SOURCE_TYPES) for kind in manifest.source_types) or "no source type"
            lines.append(
                f"C2PA manifest{where}: {trust}; signed by {manifest.signer}, made with {manifest.generator}, {kinds}"
            )
        if mark is not None and mark.finding.message is not None:
            lines.append(
                f"invisible mark: talkswap render {mark.finding.message.text}; "
                f"{mark.finding.agreement or 0:.0%} of the coded bits are right in {mark.finding.frames} frames, "
                f"and chance gives such a mark with a probability below {mark.finding.false_positive:.1g}"
            )
        else:
            lines.append(f"invisible mark: {self.skipped or ('none' if self.faces else 'none; no frame shows a face')}")
        return lines


def verify_file(
    path: Path,
    analyser: Callable[[], FaceAnalyser],
    frames: int,
    anchors: str | None = None,
) -> Verdict:
    """Read all layers of a file.

    Args:
        path: the file; a manifest beside it (``FILE.c2pa``) is read too where it has none itself.
        analyser: loads the face analyser; called only if frames are searched.
        frames: number of frames to search for the invisible mark; 0 leaves that out.
        anchors: PEM certificates of authorities to trust besides the library's own.

    Raises:
        InputMissingError, UnreadableMediaError, NoVideoError: the file.
    """
    if not path.is_file():
        raise InputMissingError(f"{path} does not exist", "check the path")
    plain = read_plain(path)
    manifest = read_manifest(path, None, anchors)
    beside = sidecar_of(path)
    if manifest is None and beside.is_file() and beside.stat().st_size <= MOST_SIDECAR:
        manifest = read_manifest(path, beside.read_bytes(), anchors)
    if frames <= 0:
        return Verdict(path, plain, manifest, (), "not searched")
    try:
        networks = analyser()
    except TalkswapError as error:  # the other layers need no weights
        return Verdict(path, plain, manifest, (), f"not searched: {error.message}")
    return Verdict(path, plain, manifest, tuple(look(path, networks, frames)), None)
