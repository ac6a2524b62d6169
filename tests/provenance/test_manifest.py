"""C2PA: signed, read back, and broken by the smallest change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import av
import pytest
from c2pa import Reader

from talkswap.errors import OutputCheckError, UsageError
from talkswap.provenance.certificate import load_signer, local_signer
from talkswap.provenance.manifest import Claim, check_signer, read_manifest, sign
from talkswap.provenance.tags import SOURCE_TYPE, add_xmp, boxes, read_plain

EXAMPLES = Path(__file__).parents[2] / "examples"
FACTS = {"tool": "talkswap test", "plan_sha256": "ab" * 32, "weights_sha256": {"vqgan.safetensors": "cd" * 32}}


def claim_for(target: Path) -> Claim:
    parts = (("photo", EXAMPLES / "source.png"), ("voice", EXAMPLES / "voice.wav"))
    return Claim("dubbed", target, parts, FACTS)


def signed(clip: Path, folder: Path, target: Path | None = None) -> tuple[Path, bytes | None]:
    path = folder / f"dubbed{clip.suffix}"
    shutil.copy(clip, path)
    if clip.suffix in (".mp4", ".mov"):
        add_xmp(path)
    return path, sign(path, claim_for(target or clip), local_signer())


def change_picture(path: Path) -> None:
    """One bit of one byte in the middle of the picture's data."""
    content = bytearray(path.read_bytes())
    if path.suffix in (".mp4", ".mov"):
        with open(path, "rb") as file:
            (place,) = [start + length // 2 for kind, start, length in boxes(file) if kind == b"mdat"]
    else:
        place = len(content) // 2
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv", ".webm"])
def test_a_manifest_is_read_back_and_one_bit_breaks_it(
    plain_clip: dict[str, Path], tmp_path: Path, ending: str
) -> None:
    path, beside = signed(plain_clip[ending], tmp_path)
    assert (beside is None) == (ending in (".mp4", ".mov"))
    found = read_manifest(path, beside)
    assert found is not None
    assert (found.state, found.failures, found.trusted) == ("Valid", ("signingCredential.untrusted",), False)
    assert found.source_types == (SOURCE_TYPE,) and found.synthetic
    assert found.facts == FACTS
    assert found.generator is not None and found.generator.startswith("talkswap ")
    assert found.ingredients == (
        f"parentOf plain{ending}", "componentOf source.png", "componentOf voice.wav",
    )  # fmt: skip
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == 6
    assert read_plain(path).source_type == SOURCE_TYPE
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    change_picture(path)
    broken = read_manifest(path, beside)
    assert broken is not None and broken.state == "Invalid" and not broken.intact


def test_no_thumbnail_of_anybody_is_kept(plain_clip: dict[str, Path], tmp_path: Path) -> None:
    path, _ = signed(plain_clip[".mp4"], tmp_path)
    photo = tmp_path / "photo.mp4"  # a component with a manifest of its own stays without it
    shutil.copy(path, photo)
    again = tmp_path / "again.mp4"
    shutil.copy(plain_clip[".mp4"], again)
    sign(again, Claim("again", plain_clip[".mp4"], (("photo", photo),), {}), local_signer())
    with open(again, "rb") as file:
        text = Reader("video/mp4", file).json()
    assert "thumbnail" not in text
    assert len(json.loads(text)["manifests"]) == 1


def test_the_targets_own_manifest_is_kept(plain_clip: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    first, _ = signed(plain_clip[".mp4"], tmp_path / "first")
    second, _ = signed(plain_clip[".mp4"], tmp_path, target=first)
    with open(second, "rb") as file:
        store = json.loads(Reader("video/mp4", file).json())
    assert len(store["manifests"]) == 2
    (parent,) = [
        i for i in store["manifests"][store["active_manifest"]]["ingredients"] if i["relationship"] == "parentOf"
    ]
    assert parent["active_manifest"] in store["manifests"]
    found = read_manifest(second)
    assert found is not None and found.intact


def test_a_signer_below_a_known_authority_is_trusted(plain_clip: dict[str, Path], tmp_path: Path, authority) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "dubbed.mp4"
    shutil.copy(plain_clip[".mp4"], path)
    signer = load_signer(*authority.sign_for("a studio"))
    check_signer(signer)
    sign(path, claim_for(plain_clip[".mp4"]), signer)
    unknown, known = read_manifest(path), read_manifest(path, anchors=authority.pem)
    assert unknown is not None and known is not None
    assert (unknown.state, known.state) == ("Valid", "Trusted")
    assert known.signer == "a studio" and known.failures == ()


def test_a_certificate_for_another_purpose_is_refused_before_the_render(authority) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match="the certificate of a server cannot sign"):
        check_signer(load_signer(*authority.sign_for("a server", fit=False)))


def test_what_cannot_be_signed_is_named_and_left_as_it_was(tmp_path: Path, plain_clip: dict[str, Path]) -> None:
    path = tmp_path / "dubbed.mp4"
    path.write_bytes(b"no boxes at all")
    with pytest.raises(OutputCheckError, match="signing the finished file failed"):
        sign(path, claim_for(plain_clip[".mp4"]), local_signer())
    assert path.read_bytes() == b"no boxes at all"
    assert [one.name for one in tmp_path.iterdir()] == ["dubbed.mp4"]


def test_a_timestamp_is_asked_for_only_where_it_is_wanted(plain_clip: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "dubbed.mp4"
    shutil.copy(plain_clip[".mp4"], path)
    with pytest.raises(OutputCheckError, match="signing the finished file failed"):  # nobody listens there
        sign(path, claim_for(plain_clip[".mp4"]), local_signer(), "http://127.0.0.1:9/time")
    assert read_manifest(path) is None
