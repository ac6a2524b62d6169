"""Everything that a file says about being synthetic, layer by layer, and how sure that is."""

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
    """What was found in a file."""

    path: Path
    plain: PlainMarks
    manifest: ManifestFinding | None
    faces: tuple[FaceFinding, ...]
    not_looked: str | None  # why the invisible mark was not looked for

    @property
    def watermark(self) -> FaceFinding | None:
        """The first face with an invisible mark."""
        return next((one for one in self.faces if one.finding.message is not None), None)

    @property
    def synthetic(self) -> bool:
        """Whether any layer says that the picture was made or changed by a computer."""
        stated = self.plain.source_type is not None and "lgorithmic" in self.plain.source_type
        signed = self.manifest is not None and self.manifest.synthetic
        return bool(self.plain.comment or stated or signed or self.watermark)

    def told(self) -> dict[str, Any]:
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
                    {"face": one.face, "frames": one.finding.frames, "width_px": round(one.width)} for one in self.faces
                ],
                "not_looked": self.not_looked,
            },
        }

    def lines(self) -> list[str]:
        """The verdict in plain words, one line a layer."""
        plain, manifest, mark = self.plain, self.manifest, self.watermark
        told = [f"container tag: {plain.comment}" if plain.comment else "container tag: none of talkswap's"]
        told.append(f"digital source type: {(plain.source_type or 'none').removeprefix(SOURCE_TYPES)}")
        before = [(plain.target.source_type or "").removeprefix(SOURCE_TYPES), plain.target.comment or ""]
        if any(before):
            told.append(f"its target said: {'; '.join(word for word in before if word)}")
        if manifest is None:
            told.append("C2PA manifest: none")
        elif not manifest.intact:
            told.append(f"C2PA manifest: broken, the file was changed after signing ({', '.join(manifest.failures)})")
        else:
            belief = "trusted" if manifest.trusted else "intact, but nobody known vouches for the signer (untrusted)"
            where = " in the sidecar" if manifest.sidecar else ""
            kinds = ", ".join(one.removeprefix(SOURCE_TYPES) for one in manifest.source_types) or "no source type"
            told.append(
                f"C2PA manifest{where}: {belief}; signed by {manifest.signer}, made with {manifest.generator}, {kinds}"
            )
        if mark is not None and mark.finding.message is not None:
            told.append(
                f"invisible mark: talkswap render {mark.finding.message.text}, "
                f"{mark.finding.agreement or 0:.0%} of the coded bits right in {mark.finding.frames} frames, "
                f"false with a probability under {mark.finding.false_positive:.1g}"
            )
        else:
            why = self.not_looked or ("none read" if self.faces else "none read, no face was found")
            told.append(f"invisible mark: {why}")
        return told


def verify_file(
    path: Path,
    analyser: Callable[[], FaceAnalyser],
    frames: int,
    anchors: str | None = None,
) -> Verdict:
    """Read all layers of a file.

    Args:
        path: the file; a manifest beside it (``FILE.c2pa``) is read too where it has none itself.
        analyser: gives the face analyser, asked only if frames are looked at.
        frames: how many frames are searched for the invisible mark; 0 leaves that out.
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
        return Verdict(path, plain, manifest, (), "not looked for")
    try:
        found = analyser()
    except TalkswapError as error:  # the other layers need no weights
        return Verdict(path, plain, manifest, (), f"not looked for: {error.message}")
    return Verdict(path, plain, manifest, tuple(look(path, found, frames)), None)
