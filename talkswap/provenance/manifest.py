"""The signed mark: a C2PA manifest that tells what the clip was made from, by what, and that it is synthetic.

Specification: C2PA Technical Specification 2.x.  The manifest goes into mp4 and mov; for Matroska and WebM, which
C2PA has no place in, it stands beside the file as ``OUTPUT.c2pa``, bound to it by the hash of the whole.
"""

from __future__ import annotations

import json
import mimetypes
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from c2pa import Builder, C2paError, C2paSignerInfo, Context, Reader  # type: ignore[import-untyped]
from c2pa import Signer as C2paSigner

import talkswap
from talkswap.errors import OutputCheckError, UsageError
from talkswap.provenance.certificate import Signer
from talkswap.provenance.tags import BOXED, SOURCE_TYPE

ASSERTION = "org.talkswap.render"
_RAW = "application/octet-stream"
_BOXED_KIND = {".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/quicktime"}


@dataclass(frozen=True)
class Claim:
    """What a manifest says."""

    title: str
    target: Path
    components: tuple[tuple[str, Path], ...]  # what each is ("photo", "voice"), and where it lies
    facts: dict[str, Any]  # weights, plan and watermark, in JSON's own types


@dataclass(frozen=True)
class ManifestFinding:
    """What a file's manifest says, and whether that can be believed."""

    state: str  # Trusted | Valid (signed by nobody known) | Invalid (changed since)
    failures: tuple[str, ...]  # C2PA's own codes
    signer: str | None
    generator: str | None
    source_types: tuple[str, ...]
    ingredients: tuple[str, ...]  # "parentOf target.mp4"
    sidecar: bool
    facts: dict[str, Any] = field(default_factory=dict)  # talkswap's own assertion

    @property
    def trusted(self) -> bool:
        """Whether a known authority vouches for the signer."""
        return self.state == "Trusted"

    @property
    def intact(self) -> bool:
        """Whether file and manifest still belong together."""
        return self.state in ("Trusted", "Valid")

    @property
    def synthetic(self) -> bool:
        """Whether it says that a computer made at least a part."""
        return any("lgorithmic" in one for one in self.source_types)


def _context(hosts: tuple[str, ...] = (), anchors: str | None = None) -> Context:
    """Settings of a reader or builder that reaches no network but ``hosts`` and makes no thumbnails."""
    settings: dict[str, Any] = {
        "version": 1,
        "builder": {
            "thumbnail": {"enabled": False},
            "intent": "edit",
            "claim_generator_info": {"name": "talkswap", "version": talkswap.__version__},
        },
        "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
        "core": {"allowed_network_hosts": list(hosts)},
    }
    if anchors is not None:
        settings["trust"] = {"user_anchors": anchors}
    return Context.from_dict(settings)


def kind_of(path: Path) -> str:
    """The MIME type that a file's name tells."""
    ending = path.suffix.lower()
    return _BOXED_KIND.get(ending) or mimetypes.guess_type(f"x{ending}")[0] or _RAW


def check_signer(signer: Signer) -> None:
    """Make sure before a render that a certificate can sign: a few bytes are signed with it.

    Raises:
        UsageError: it does not fit C2PA's certificate profile; the library's words say how.
    """
    import io

    try:
        builder = Builder({"title": "check", "format": _RAW}, context=_context())
        builder.set_no_embed()
        builder.sign(_c2pa_signer(signer, None), _RAW, io.BytesIO(b"talkswap"), io.BytesIO())
    except C2paError as error:
        raise UsageError(
            f"the certificate of {signer.name} cannot sign: {_words(error)}",
            "C2PA asks for a signing certificate with its chain: digital signature, e-mail protection, in its term",
        ) from error


def sign(path: Path, claim: Claim, signer: Signer, timestamp_url: str | None = None) -> bytes | None:
    """Sign a finished file.

    Args:
        path: mp4 and mov are replaced by a signed copy in one move; others stay as they are.
        claim: what the manifest says.
        signer: who says it.
        timestamp_url: an RFC 3161 authority to ask for the time; the only way in which signing reaches the network.

    Returns:
        The manifest for a sidecar; None where the file carries it.

    Raises:
        OutputCheckError: it cannot be signed.
    """
    boxed = path.suffix.lower() in BOXED
    hosts = (urlsplit(timestamp_url).hostname or "",) if timestamp_url else ()
    part = path.with_name(f"signed-{path.name}")
    try:
        builder = Builder(_definition(path, claim), context=_context(hosts))
        if not boxed:
            builder.set_no_embed()
        _add(builder, "target", claim.target, "parentOf")
        for place, (_, component) in enumerate(claim.components):
            _add(builder, f"component-{place}", component, "componentOf")
        with open(path, "rb") as source, open(part, "w+b") as signed:
            manifest = builder.sign(_c2pa_signer(signer, timestamp_url), kind_of(path), source, signed)
        if boxed:
            part.replace(path)
    except C2paError as error:
        raise OutputCheckError(
            f"the finished file could not be signed: {_words(error)}", "leave --timestamp-url out, or check the signer"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return None if boxed else bytes(manifest)


def _definition(path: Path, claim: Claim) -> dict[str, Any]:
    labels = [f"component-{place}" for place in range(len(claim.components))]
    edited: dict[str, Any] = {
        "action": "c2pa.edited",
        "digitalSourceType": SOURCE_TYPE,
        "softwareAgent": {"name": "talkswap", "version": talkswap.__version__},
    }
    if labels:
        edited["parameters"] = {"ingredientIds": labels}
    return {
        "title": _readable(claim.title),
        "format": kind_of(path),
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [edited]}},
            {"label": ASSERTION, "data": claim.facts},
        ],
    }


def _readable(name: str) -> str:
    """A file's name in letters; bytes of it that are none become question marks, since JSON has no place for them."""
    return name.encode("utf-8", "replace").decode()


def _add(builder: Builder, label: str, path: Path, relationship: str) -> None:
    """Name an ingredient.  The target brings the manifest that it has; a photo or voice does not, since a manifest
    may hold thumbnails of the person."""
    kind = kind_of(path)
    told = {"title": _readable(path.name), "relationship": relationship, "label": label, "format": kind}
    with open(path, "rb") as file:
        if relationship != "parentOf":
            builder.add_ingredient(told, _RAW, file)
            return
        try:
            builder.add_ingredient(told, kind, file)
        except C2paError:  # a name or a manifest that the library cannot make sense of
            file.seek(0)
            builder.add_ingredient(told, _RAW, file)


def _c2pa_signer(signer: Signer, timestamp_url: str | None) -> C2paSigner:
    return C2paSigner.from_info(
        C2paSignerInfo(signer.algorithm, signer.chain.encode(), signer.key.encode(), timestamp_url)
    )


def _words(error: C2paError) -> str:
    return " ".join(str(error).split()).rstrip(".")


def sidecar_of(path: Path) -> Path:
    """Where the manifest of a file that cannot hold one lies."""
    return path.with_name(f"{path.name}.c2pa")


def read_manifest(path: Path, sidecar: bytes | None = None, anchors: str | None = None) -> ManifestFinding | None:
    """The manifest in a file, or the one given for it; None without any.

    Args:
        path: the file.
        sidecar: a manifest from beside it.
        anchors: PEM certificates of authorities to trust besides the library's own.
    """
    try:
        with open(path, "rb") as file:
            if sidecar is not None:
                reader = Reader(kind_of(path), file, sidecar, context=_context(anchors=anchors))
            elif path.suffix.lower() in BOXED:
                found = Reader.try_create(kind_of(path), file, context=_context(anchors=anchors))
                if found is None:
                    return None
                reader = found
            else:
                return None
            return _finding(reader, sidecar is not None)
    except C2paError as error:
        return ManifestFinding("Invalid", (_words(error),), None, None, (), (), sidecar is not None)
    except (
        AttributeError,
        IndexError,
        KeyError,
        TypeError,
        ValueError,
    ):  # the library read it, and parts of it are gone
        broken = "the manifest is not well formed"
        return ManifestFinding("Invalid", (broken,), None, None, (), (), sidecar is not None)


def _finding(reader: Reader, sidecar: bool) -> ManifestFinding:
    store = json.loads(reader.json())
    active = store["manifests"][store["active_manifest"]]
    results = store.get("validation_results", {}).get("activeManifest", {})
    assertions = {one["label"]: one["data"] for one in active.get("assertions", [])}
    actions = [action for label, data in assertions.items() if "c2pa.actions" in label for action in data["actions"]]
    generators = active.get("claim_generator_info") or [{}]
    signature = active.get("signature_info") or {}
    return ManifestFinding(
        state=str(reader.get_validation_state() or "Invalid"),
        failures=tuple(one["code"] for one in results.get("failure", [])),
        signer=signature.get("common_name") or signature.get("issuer"),
        generator=" ".join(str(generators[0][part]) for part in ("name", "version") if generators[0].get(part)) or None,
        source_types=tuple(str(a["digitalSourceType"]) for a in actions if a.get("digitalSourceType")),
        ingredients=tuple(f"{one['relationship']} {one.get('title', '')}" for one in active.get("ingredients", [])),
        sidecar=sidecar,
        facts=dict(assertions.get(ASSERTION, {})),
    )
