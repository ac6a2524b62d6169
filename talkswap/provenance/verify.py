"""Read every mark of synthetic media in a file, layer by layer, and say how sure each one is.

The search for the invisible mark allows for clips that were cut, resized and encoded again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from cv2.typing import MatLike

from talkswap.errors import InputMissingError, TalkswapError
from talkswap.faces.analyse import FaceAnalyser
from talkswap.faces.geometry import warp_crop
from talkswap.faces.track import FaceTracker
from talkswap.media.index import FrameIndex, index_frames
from talkswap.media.probe import probe
from talkswap.media.reader import ClipReader
from talkswap.media.timeline import Timeline
from talkswap.provenance import watermark
from talkswap.provenance.manifest import ManifestFinding, read_manifest, sidecar_of
from talkswap.provenance.tags import SOURCE_TYPES, PlainMarks, read_plain
from talkswap.types import FloatArray, UInt8Image

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
        # IPTC's types for what an algorithm made share this word.
        tagged = self.plain.source_type is not None and "lgorithmic" in self.plain.source_type
        signed = self.manifest is not None and self.manifest.synthetic
        return bool(self.plain.comment or tagged or signed or self.watermark)

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


# --- The invisible mark.
#
# It keeps its place in the aligned face, so the residuals of many frames are summed per person. A detector aligns the face
# a little differently than the render did, so the sum is projected on the carriers at many small moves; where they agree
# best with any message, the check decides.


CROP = 320  # px of the aligned crop that a detector cuts
BURSTS = 6  # stretches of a long clip that are decoded
LEAST_FRAMES = 4  # of a face that is worth a search
MOST_FACES = 4  # that are searched, the most frequent ones first


@dataclass(frozen=True)
class SearchConfig:
    """How far a face may lie from its place in the render, and how many places are read."""

    zooms: tuple[float, ...] = (0.975, 1.0, 1.025)
    turns: tuple[float, ...] = (-1.5, 0.0, 1.5)  # degrees
    shifts: tuple[float, ...] = (-1.0, 0.0, 1.0)  # cells, each way
    tries: int = 8  # best places whose check is read; each try adds to the chance of a false mark


@dataclass(frozen=True)
class Finding:
    """What one face says."""

    message: watermark.Message | None  # None: no mark
    false_positive: float  # bound on the probability that an unmarked face gives a message; 1 without a message
    agreement: float | None  # share of the coded bits that are right before correction; None without a message
    frames: int


class Evidence:
    """The summed residual of one face."""

    def __init__(self, config: watermark.WatermarkConfig | None = None) -> None:
        self.config = config or watermark.WatermarkConfig()
        rows, columns = watermark.window_box()
        self.total = np.zeros((watermark.PLANES, rows.stop - rows.start, columns.stop - columns.start), np.float32)
        self.frames = 0

    def add(self, crop: UInt8Image) -> None:
        """Count one aligned crop (S S 3)."""
        self.total += np.stack([watermark.residual(plane, self.config) for plane in watermark.cells_of(crop)])
        self.frames += 1

    def finding(self, search: SearchConfig | None = None) -> Finding:
        """The mark in the sum, if there is one."""
        search = search or SearchConfig()
        if self.frames == 0:
            return Finding(None, 1.0, None, 0)
        soft = project_at_places(self.total, self.config, search)  # places bits
        bits, agreement_of_path = watermark.decode(soft)
        # The likeliest places first; each further try is another chance for a false mark.
        for place in np.argsort(-agreement_of_path, kind="stable")[: search.tries]:
            message = watermark.read(bits[place])
            if message is not None:
                agreement = float(((soft[place] > 0) == (watermark.encode(message) > 0)).mean())
                return Finding(message, search.tries * 0.5**watermark.CHECK_BITS, agreement, self.frames)
        return Finding(None, 1.0, None, self.frames)


def project_at_places(total: FloatArray, config: watermark.WatermarkConfig, search: SearchConfig) -> FloatArray:
    """Projections on the carriers at each place (N CODED_BITS), in standard deviations.

    Args:
        total: summed residuals of Cb and Cr (2 rows columns).
    """
    patterns, box = watermark.carriers(config), watermark.window_box()
    field = np.zeros((watermark.PLANES, watermark.GRID, watermark.GRID), np.float32)
    field[:, *box] = total
    middle = (watermark.GRID - 1) / 2
    shifts = [(across, down) for across in search.shifts for down in search.shifts]
    places = []
    for zoom in search.zooms:
        for turn in search.turns:
            matrix = cv2.getRotationMatrix2D((middle, middle), turn, zoom)
            fields = np.stack([[_move(plane, matrix, x, y)[box] for plane in field] for x, y in shifts])
            bits = patterns.project(fields)  # shifts 2 bits
            # In standard deviations, so that places can be compared.
            bits /= np.sqrt(np.maximum((bits**2).mean(-1, keepdims=True), 1e-12))
            places.append(bits.transpose(0, 2, 1).reshape(len(shifts), watermark.CODED_BITS))
    return np.concatenate(places)  # N bits


def _move(field: FloatArray, matrix: MatLike, across: float, down: float) -> FloatArray:
    """A field (GRID GRID) through a similarity (2 3) and a shift in cells."""
    shifted = matrix.copy()
    shifted[:, 2] += np.array([across, down])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(field, shifted, (watermark.GRID, watermark.GRID), flags=flags), np.float32)


@dataclass(frozen=True)
class FaceFinding:
    """The finding for one person of a clip."""

    face: int  # number in order of appearance
    finding: Finding
    width: float  # px of the face's square, mean


def bursts(index: FrameIndex, frames: int) -> tuple[int, ...]:
    """Frames to decode: all of a short clip, else stretches that begin at keyframes, spread over it."""
    count = len(index.times)
    if count <= frames:
        return tuple(range(count))
    length = max(1, frames // BURSTS)
    pictures: dict[int, None] = {}
    for place in range(BURSTS):
        aim = place * (count - length) // max(BURSTS - 1, 1)
        # Frames between a keyframe and the aim would be decoded and thrown away.
        start = max((key for key in index.keyframes if key <= aim), default=0)  # decoding begins there anyway
        pictures.update(dict.fromkeys(range(start, min(start + length, count))))
    return tuple(sorted(pictures))


def look(path: Path, analyser: FaceAnalyser, frames: int) -> list[FaceFinding]:
    """Search the faces of a clip; those with a mark come first."""
    info = probe(path)
    index = index_frames(info)
    pictures = bursts(index, frames)
    timeline = Timeline(pictures, tuple(index.times[p] for p in pictures), index.duration)
    tracker = FaceTracker(analyser, embed=analyser.embed)
    evidence: dict[int, Evidence] = {}
    widths: dict[int, float] = {}
    with ClipReader(info, index) as reader:
        for frame in reader.frames_for(timeline):
            for tracked in tracker.update(frame):
                affine = tracked.affine(CROP)
                evidence.setdefault(tracked.track_id, Evidence()).add(warp_crop(frame.rgb, affine, CROP))
                widths[tracked.track_id] = (
                    widths.get(tracked.track_id, 0) + CROP / float(affine[0, :2] @ affine[0, :2]) ** 0.5
                )
    # A search costs as much as many frames: passers-by in a crowd are left out.
    often = sorted((i for i in evidence if evidence[i].frames >= LEAST_FRAMES), key=lambda i: -evidence[i].frames)
    faces = [FaceFinding(i, evidence[i].finding(), widths[i] / evidence[i].frames) for i in often[:MOST_FACES]]
    return sorted(faces, key=lambda face: face.finding.message is None)


def read_at(path: Path, affines: Mapping[int, FloatArray]) -> Finding | None:
    """The mark at the places of a render (frame -> 2 3, picture px -> crop px); None without any place."""
    if not affines:
        return None
    info = probe(path)
    index = index_frames(info)
    pictures = tuple(sorted(i for i in affines if i < len(index.times)))
    timeline = Timeline(pictures, tuple(index.times[p] for p in pictures), index.duration)
    evidence = Evidence()
    with ClipReader(info, index) as reader:
        for picture, frame in zip(pictures, reader.frames_for(timeline), strict=True):
            evidence.add(warp_crop(frame.rgb, affines[picture], CROP))
    return evidence.finding(SearchConfig(zooms=(1.0,), turns=(0.0,), shifts=(0.0,), tries=1))
