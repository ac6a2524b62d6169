"""All marks of one render: prepared before its first frame, written into the finished file, and read back from it.

A mark that can't be read back is an error.  The invisible one is an exception, since small faces and short clips may
not carry it: the report says whether it was read.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import talkswap
from talkswap.errors import OutputCheckError, OutputExistsError, OutputUnwritableError
from talkswap.provenance import tags
from talkswap.provenance.certificate import Signer, choose_signer
from talkswap.provenance.tags import BOXED, SOURCE_TYPE, TargetMarks
from talkswap.provenance.watermark import Message, Watermark
from talkswap.types import AlignedFace, FloatArray, RenderPlan, UInt8Image

LAW = (
    "no marks were written (--no-provenance): Article 50 of the EU AI Act demands machine-readable marks in synthetic "
    "video, and that whoever shows a deep fake says so"
)
LEAST_FACE = 96.0  # px of the face's square in the picture; smaller ones may lose the invisible mark
CHECKED_FRAMES = 48  # in which the finished file is searched for the invisible mark


@dataclass
class Places:
    """Where the invisible mark is, for reading it back and for the report."""

    frames: int = 0
    small: int = 0
    affines: dict[int, FloatArray] = field(default_factory=dict)  # output index -> 2 3, picture px -> crop px

    def add(self, index: int, affine: FloatArray, crop_side: int) -> None:
        """Count one marked face; ``affine`` leads to a crop of ``crop_side`` px."""
        self.frames += 1
        self.small += crop_side / float(np.hypot(affine[0, 0], affine[1, 0])) < LEAST_FACE
        if len(self.affines) < CHECKED_FRAMES:
            self.affines.setdefault(index, affine)

    def to_json(self) -> dict[str, Any]:
        """For a render that is interrupted before its last pass."""
        affines = {str(index): np.asarray(affine, np.float64).tolist() for index, affine in self.affines.items()}
        return {"frames": self.frames, "small": self.small, "affines": affines}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Places:
        """What :meth:`to_json` wrote."""
        affines = {int(index): np.asarray(affine, np.float32) for index, affine in record["affines"].items()}
        return cls(record["frames"], record["small"], affines)


class Stamp:
    """The marks of one render.

    Args:
        ingredients: everything that decides the frames; its hash names the render.
        plan_hash: that hash, 64 hex digits.
        tell: takes a line for the user.
        room: a folder on the output's disk in which a sidecar waits until the clip is in its place, so that a full
            disk shows before the output changes.

    Raises:
        UsageError, InputMissingError, OutputUnwritableError: the signer, see :func:`choose_signer`.
        OutputExistsError: a sidecar lies where this render's would, and may not be overwritten.
    """

    def __init__(
        self,
        plan: RenderPlan,
        ingredients: dict[str, Any],
        plan_hash: str,
        tell: Callable[[str], None],
        room: Path,
    ) -> None:
        self.plan, self.plan_hash = plan, plan_hash
        self._waiting = room / "manifest.c2pa"
        self.weights = dict(ingredients.get("weights", {}))
        self.synthetic = plan.swap or plan.sync
        self.enabled = plan.provenance and self.synthetic
        self.places = Places()
        self.signer: Signer | None = None
        self.watermark: Watermark | None = None
        self.warnings: list[str] = []
        self._layers: dict[str, Any] = {}
        self._sidecar: bytes | None = None
        self._target = TargetMarks()
        if self.enabled:
            self._prepare(tell)
        elif self.synthetic:
            self.warnings.append(LAW)

    def _prepare(self, tell: Callable[[str], None]) -> None:
        from talkswap.provenance.manifest import check_signer, sidecar_of

        self._target = tags.read_target(self.plan.target)
        self.signer = choose_signer(self.plan.sign_cert, self.plan.sign_key)
        # A certificate that can't sign is found now, not after the last frame.
        check_signer(self.signer)
        if self.signer.local:
            tell("signed with a certificate made on this machine: validators will call it untrusted")
        beside = sidecar_of(self.plan.output)
        if not self._boxed and beside.exists() and not self.plan.overwrite:
            raise OutputExistsError(f"{beside} already exists", "choose another name, or allow it with --overwrite")
        self.watermark = Watermark(Message(int(self.plan_hash[:6], 16)))

    @property
    def _boxed(self) -> bool:
        return self.plan.output.suffix.lower() in BOXED

    @property
    def tags(self) -> dict[str, str | None]:
        """Container tags to write; None keeps the target's."""
        if not self.enabled:
            return {"comment": None}
        return dict(tags.container_tags(self.plan.output.suffix.lower(), self._target))

    def mark(self, crop: UInt8Image, mask: FloatArray, face: AlignedFace) -> UInt8Image:
        """A system's result (S S 3) with the invisible mark, or unchanged without provenance."""
        if self.watermark is None:
            return crop
        self.remember(face)
        return self.watermark(crop, mask, face.crop)

    def remember(self, face: AlignedFace) -> None:
        """Note the place of a mark, also one from an interrupted run."""
        if self.watermark is not None:
            self.places.add(face.index, face.affine, face.crop.shape[0])

    def __call__(self, finished: Path) -> None:
        """Mark a finished file that is not in its place yet.

        Raises:
            OutputCheckError: a mark can't be written, or not be read back.
            OutputUnwritableError: the disk is full or read-only.
        """
        if not self.enabled or self.signer is None:
            return
        from talkswap.provenance.manifest import Claim, read_manifest, sign

        plan = self.plan
        # Everything that went into the clip is an ingredient, each once.
        photos = [plan.source, *plan.more_sources, *(photo for _, photo in plan.map)] if plan.swap else []
        voices = [plan.audio, *(voice for _, voice in plan.voices)]
        parts = [("photo", p) for p in photos if p is not None] + [("voice", v) for v in voices if v is not None]
        facts = {
            "tool": f"talkswap {talkswap.__version__}",
            "plan_sha256": self.plan_hash,
            "weights_sha256": self.weights,
            "watermark_id": self.watermark.message.text if self.watermark else None,
        }
        claim = Claim(plan.output.name, plan.target, tuple(dict.fromkeys(parts)), facts)
        try:
            if self._boxed:
                tags.add_xmp(finished, self._target)
            self._sidecar = sign(finished, claim, self.signer, plan.timestamp_url)
            if self._sidecar is not None:
                self._waiting.write_bytes(self._sidecar)
        except OSError as error:
            raise OutputUnwritableError(
                f"the marks of {plan.output} cannot be written ({error.strerror})",
                "free some space, or check the folder",
            ) from error
        # Read back from the file itself: muxers drop tags without a word.
        plain = tags.read_plain(finished)
        if (plain.comment, plain.source_type, plain.target) != (tags.comment(), SOURCE_TYPE, self._target):
            raise OutputCheckError("the finished file's plain marks cannot be read back", "this is a fault of talkswap")
        manifest = read_manifest(finished, self._sidecar)
        if manifest is None or not manifest.intact or SOURCE_TYPE not in manifest.source_types:
            codes = ", ".join(manifest.failures) if manifest else "none is there"
            raise OutputCheckError(
                f"the finished file's C2PA manifest is not valid ({codes})",
                "encode the target again with ffmpeg, or use --no-provenance",
            )
        self._layers["tag"] = plain.comment
        self._layers["xmp" if self._boxed else "source_type_tag"] = plain.source_type
        self._layers["c2pa"] = {
            "embedded": self._sidecar is None,
            "state": manifest.state,
            "certificate": "local, untrusted"
            if self.signer.local
            else ("trusted" if manifest.trusted else "untrusted"),
            "signer": self.signer.name,
            "timestamp_url": plan.timestamp_url,
        }
        self._layers["watermark"] = self._look(finished)

    def _look(self, finished: Path) -> dict[str, Any] | None:
        """Read the invisible mark back at the places where this render put it."""
        from talkswap.provenance.verify import read_at

        if self.watermark is None:
            return None
        # At the known places one look is enough; a search would take many.
        finding = read_at(finished, self.places.affines)
        read_back = finding.message == self.watermark.message if finding else None
        if self.places.frames and read_back is False:
            self.warnings.append("the finished clip lost the invisible mark; the others can be read")
        if self.places.small:
            self.warnings.append(
                f"in {self.places.small} frames the face is smaller than {LEAST_FACE:.0f} px, and the invisible mark "
                "may not survive"
            )
        return {
            "id": self.watermark.message.text,
            "frames": self.places.frames,
            "small_frames": self.places.small,
            "read_back": read_back,
            "bits_right": None if finding is None else finding.agreement,
            "bits": len(self.watermark.signs),
        }

    def finish(self) -> dict[str, Any]:
        """Put the sidecar beside the clip, which is in its place by now, and report the marks.

        Raises:
            OutputUnwritableError: the sidecar cannot be written.
        """
        if not self.enabled:
            why = "--no-provenance" if self.synthetic else "the picture is unchanged"
            return {"written": [], "reason": why}
        if self._sidecar is not None:
            from talkswap.provenance.manifest import sidecar_of

            beside = sidecar_of(self.plan.output)
            # The sidecar waited on the same disk, so this is a rename.
            try:
                os.replace(self._waiting, beside)
            except OSError as error:
                raise OutputUnwritableError(
                    f"{beside} cannot be written ({error.strerror})", "check the folder"
                ) from error
            self.warnings.append(
                f"{self.plan.output.suffix} files cannot hold a C2PA manifest: keep {beside.name} beside the clip"
            )
            self._layers["c2pa"]["sidecar"] = str(beside)
        target_marks = {"target_said": dataclasses.asdict(self._target)} if self._target != TargetMarks() else {}
        return {"written": list(self._layers), **self._layers, **target_marks}
