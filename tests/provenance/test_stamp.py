"""What a render marks, from the plan to the report."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from talkswap.cli import main
from talkswap.errors import OutputCheckError, OutputExistsError, OutputUnwritableError, UsageError
from talkswap.provenance import manifest
from talkswap.provenance.manifest import read_manifest, sidecar_of
from talkswap.provenance.stamp import LAW, Places, Stamp
from talkswap.provenance.tags import SOURCE_TYPE, TargetMarks, comment, read_plain
from talkswap.provenance.verify import verify_file
from talkswap.render.render import render_clip
from talkswap.types import RenderPlan

HASH = "0123abcd" + "0" * 56


@pytest.fixture
def plan(source_photo: Path, talking_clip: Path, voice_file: Path, tmp_path: Path) -> RenderPlan:
    return RenderPlan(source_photo, talking_clip, voice_file, tmp_path / "dubbed.mp4", preset="compact", device="cpu")


def stamp_for(plan: RenderPlan) -> Stamp:
    return Stamp(plan, {"weights": {"vqgan.safetensors": "ab" * 32}}, HASH, lambda line: None, plan.output.parent)


def test_a_target_that_was_marked_stays_so(
    plan: RenderPlan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = render_clip(plan)
    assert "target_said" not in first.provenance
    again = render_clip(replace(plan, target=plan.output, output=tmp_path / "again.mp4", end=Fraction(1, 5)))
    assert again.provenance["target_said"] == {"comment": comment(), "source_type": SOURCE_TYPE}
    assert read_plain(tmp_path / "again.mp4").target == TargetMarks(comment(), SOURCE_TYPE)
    assert main(["verify", str(tmp_path / "again.mp4")]) == 0
    assert f"marks of its target: compositeWithTrainedAlgorithmicMedia; {comment()}" in capsys.readouterr().out


def test_a_render_carries_all_marks_and_reports_them(plan: RenderPlan) -> None:
    said: list[str] = []
    report = render_clip(plan, lambda event: said.append(event.message))
    told = report.provenance
    assert told["written"] == ["tag", "xmp", "c2pa", "watermark"]
    assert told["c2pa"]["certificate"] == "local, untrusted" and told["c2pa"]["state"] == "Valid"
    assert told["watermark"]["frames"] == 12 and told["watermark"]["read_back"] is not None
    assert any("untrusted" in line for line in said)
    plain, signed = read_plain(plan.output), read_manifest(plan.output)
    assert (plain.comment, plain.source_type) == (comment(), SOURCE_TYPE)
    assert signed is not None and signed.intact
    assert signed.facts["weights_sha256"] == report.weights
    assert signed.facts["watermark_id"] == told["watermark"]["id"] == signed.facts["plan_sha256"][:6]
    assert signed.ingredients == ("parentOf clip.mp4", "componentOf source.png", "componentOf voice.wav")


def test_without_provenance_nothing_is_written_and_the_law_is_named(plan: RenderPlan) -> None:
    report = render_clip(replace(plan, provenance=False))
    assert report.provenance == {"written": [], "reason": "--no-provenance"}
    assert report.warnings.count(LAW) == 1 and "Article 50" in LAW
    plain = read_plain(plan.output)
    assert (plain.comment, plain.source_type) == (None, None)
    assert read_manifest(plan.output) is None


def test_a_render_that_changes_nothing_is_not_called_synthetic(plan: RenderPlan) -> None:
    report = render_clip(replace(plan, swap=False, sync=False, source=None, audio=None))
    assert report.provenance == {"written": [], "reason": "the picture is unchanged"}
    assert LAW not in report.warnings
    assert not verify_file(plan.output, lambda: pytest.fail("frames were not to be looked at"), 0).synthetic


def test_a_sidecar_obeys_overwrite(plan: RenderPlan, plain_clip: dict[str, Path], tmp_path: Path) -> None:
    plan = replace(plan, output=tmp_path / "dubbed.mkv")
    plan.output.write_bytes(plain_clip[".mkv"].read_bytes())
    beside = tmp_path / "dubbed.mkv.c2pa"
    beside.write_text("somebody's")
    with pytest.raises(OutputExistsError, match=r"dubbed\.mkv\.c2pa already exists"):
        stamp_for(plan)
    stamp = stamp_for(replace(plan, overwrite=True))
    stamp(plan.output)
    assert beside.read_text() == "somebody's"  # until the clip is in its place
    told = stamp.finish()
    assert told["written"] == ["tag", "source_type_tag", "c2pa", "watermark"]
    assert [w for w in stamp.warnings if "cannot hold a C2PA manifest" in w]
    found = read_manifest(plan.output, beside.read_bytes())
    assert found is not None and found.intact and found.sidecar
    assert (beside.stat().st_mode & 0o777) == (plan.output.stat().st_mode & 0o777)


def test_a_mark_that_cannot_be_read_back_is_an_error(
    plan: RenderPlan, plain_clip: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = tmp_path / "finished.mp4"
    finished.write_bytes(plain_clip[".mp4"].read_bytes())
    monkeypatch.setattr(manifest, "read_manifest", lambda *_: None)
    with pytest.raises(OutputCheckError, match="is not valid"):
        stamp_for(replace(plan, target=plain_clip[".mp4"]))(finished)
    finished.write_bytes(plain_clip[".mp4"].read_bytes().replace(b"Made with talkswap", b"Made with somewhat"))
    with pytest.raises(OutputCheckError, match="plain marks"):
        stamp_for(replace(plan, target=plain_clip[".mp4"]))(finished)


def test_a_signer_that_cannot_sign_is_refused_before_the_render(plan: RenderPlan, authority) -> None:  # type: ignore[no-untyped-def]
    cert, key = authority.sign_for("a server", fit=False)
    with pytest.raises(UsageError, match="cannot sign"):
        render_clip(replace(plan, sign_cert=cert, sign_key=key))
    assert not plan.output.exists()


def test_small_faces_are_counted() -> None:
    places = Places()
    for number, side in enumerate([350.0, 95.0, 97.0]):
        places.add(number, np.array([[320 / side, 0, 0], [0, 320 / side, 0]], np.float32), 320)
    assert (places.frames, places.small, len(places.affines)) == (3, 1, 3)


def test_a_full_disk_is_noticed_before_the_output_is_touched(
    plan: RenderPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sidecar waits beside the segments; what cannot be written there leaves an older output and sidecar alone."""
    output = tmp_path / "dubbed.mkv"
    output.write_bytes(b"an older clip")
    sidecar_of(output).write_bytes(b"an older manifest")

    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputUnwritableError, match="No space left"):
        render_clip(replace(plan, output=output, overwrite=True))
    assert output.read_bytes() == b"an older clip" and sidecar_of(output).read_bytes() == b"an older manifest"
