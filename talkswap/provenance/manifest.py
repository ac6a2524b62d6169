"""The signed mark: a C2PA manifest that names a clip's ingredients and tool and says that it is synthetic.

Specification: C2PA Technical Specification 2.x.  Mp4 and mov hold the manifest.  Matroska and WebM have no place for
it, so it lies beside the file as ``OUTPUT.c2pa``, bound to the file by its hash.
"""

import io
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
    components: tuple[tuple[str, Path], ...]  # kind ("photo", "voice") and file of each
    facts: dict[str, Any]  # weights, plan and watermark, in JSON's own types


@dataclass(frozen=True)
class ManifestFinding:
    """What a file's manifest says, and how far to believe it."""

    state: str  # Trusted | Valid (the signer is unknown) | Invalid (the file changed after signing)
    failures: tuple[str, ...]  # C2PA's own codes
    signer: str | None
    generator: str | None
    source_types: tuple[str, ...]
    ingredients: tuple[str, ...]  # "parentOf target.mp4"
    sidecar: bool
    facts: dict[str, Any] = field(default_factory=dict)  # talkswap's own assertion

    @property
    def trusted(self) -> bool:
        """Whether an authority on the validator's list vouches for the signer."""
        return self.state == "Trusted"

    @property
    def intact(self) -> bool:
        """Whether file and manifest still belong together."""
        return self.state in ("Trusted", "Valid")

    @property
    def synthetic(self) -> bool:
        """Whether it says that a computer made at least a part."""
        return any("lgorithmic" in kind for kind in self.source_types)


def _context(hosts: tuple[str, ...] = (), anchors: str | None = None) -> Context:
    """Settings of a reader or builder that contacts only ``hosts`` and makes no thumbnails."""
    # Nothing is fetched on its own: a manifest could name any address.
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
    """The MIME type of a file, by its name."""
    ending = path.suffix.lower()
    return _BOXED_KIND.get(ending) or mimetypes.guess_type(f"x{ending}")[0] or _RAW


def check_signer(signer: Signer) -> None:
    """Sign a few bytes with a certificate, so that a render doesn't fail at its end.

    Raises:
        UsageError: it does not fit C2PA's certificate profile; the message quotes the library.
    """
    try:
        builder = Builder({"title": "check", "format": _RAW}, context=_context())
        builder.set_no_embed()
        builder.sign(_c2pa_signer(signer, None), _RAW, io.BytesIO(b"talkswap"), io.BytesIO())
    except C2paError as error:
        raise UsageError(
            f"the certificate of {signer.name} cannot sign: {_words(error)}",
            "give a certificate that is valid today, with its chain, for digital signatures and e-mail protection",
        ) from error


def sign(path: Path, claim: Claim, signer: Signer, timestamp_url: str | None = None) -> bytes | None:
    """Sign a finished file.

    Args:
        path: a signed copy replaces an mp4 or mov file in one move; others stay as they are.
        timestamp_url: an RFC 3161 authority that states the time; without it, signing contacts no network.

    Returns:
        The manifest for a sidecar; None where the file carries it.

    Raises:
        OutputCheckError: signing failed.
    """
    boxed = path.suffix.lower() in BOXED
    hosts = (urlsplit(timestamp_url).hostname or "",) if timestamp_url else ()
    part = path.with_name(f"signed-{path.name}")
    try:
        builder = Builder(_definition(path, claim), context=_context(hosts))
        # The target is the parent of the new clip; photo and voice went into it.
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
            f"signing the finished file failed: {_words(error)}", "leave --timestamp-url out, or check the signer"
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
    """A file's name as JSON can hold it: bytes that are no letters become question marks."""
    return name.encode("utf-8", "replace").decode()


def _add(builder: Builder, label: str, path: Path, relationship: str) -> None:
    """Name an ingredient.

    The target keeps its own manifest.  A photo or voice doesn't, since a manifest may hold thumbnails of the person.
    """
    kind = kind_of(path)
    ingredient = {"title": _readable(path.name), "relationship": relationship, "label": label, "format": kind}
    with open(path, "rb") as file:
        if relationship != "parentOf":
            builder.add_ingredient(ingredient, _RAW, file)
            return
        try:
            builder.add_ingredient(ingredient, kind, file)
        except C2paError:  # the library doesn't understand the name or the manifest
            file.seek(0)
            builder.add_ingredient(ingredient, _RAW, file)


def _c2pa_signer(signer: Signer, timestamp_url: str | None) -> C2paSigner:
    return C2paSigner.from_info(
        C2paSignerInfo(signer.algorithm, signer.chain.encode(), signer.key.encode(), timestamp_url)
    )


def _words(error: C2paError) -> str:
    return " ".join(str(error).split()).rstrip(".")


def sidecar_of(path: Path) -> Path:
    """The path of the manifest of a file that cannot hold one."""
    return path.with_name(f"{path.name}.c2pa")


def read_manifest(path: Path, sidecar: bytes | None = None, anchors: str | None = None) -> ManifestFinding | None:
    """The manifest in a file, or the one beside it; None without any.

    Args:
        anchors: PEM certificates of authorities to trust besides the library's own.
    """
    try:
        with open(path, "rb") as file:
            if sidecar is not None:
                reader = Reader(kind_of(path), file, sidecar, context=_context(anchors=anchors))
            elif path.suffix.lower() in BOXED:
                embedded = Reader.try_create(kind_of(path), file, context=_context(anchors=anchors))
                if embedded is None:
                    return None
                reader = embedded
            else:
                return None
            return _finding(reader, sidecar is not None)
    except C2paError as error:
        return ManifestFinding("Invalid", (_words(error),), None, None, (), (), sidecar is not None)
    # The library accepts manifests that lack parts which the specification demands.
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        broken = "the manifest is not well formed"
        return ManifestFinding("Invalid", (broken,), None, None, (), (), sidecar is not None)


def _finding(reader: Reader, sidecar: bool) -> ManifestFinding:
    store = json.loads(reader.json())
    active = store["manifests"][store["active_manifest"]]
    results = store.get("validation_results", {}).get("activeManifest", {})
    assertions = {entry["label"]: entry["data"] for entry in active.get("assertions", [])}
    actions = [action for label, data in assertions.items() if "c2pa.actions" in label for action in data["actions"]]
    # Files of strangers: every part may be missing.
    generators = active.get("claim_generator_info") or [{}]
    signature = active.get("signature_info") or {}
    return ManifestFinding(
        state=str(reader.get_validation_state() or "Invalid"),
        failures=tuple(entry["code"] for entry in results.get("failure", [])),
        signer=signature.get("common_name") or signature.get("issuer"),
        generator=" ".join(str(generators[0][part]) for part in ("name", "version") if generators[0].get(part)) or None,
        source_types=tuple(str(a["digitalSourceType"]) for a in actions if a.get("digitalSourceType")),
        ingredients=tuple(
            f"{entry['relationship']} {entry.get('title', '')}" for entry in active.get("ingredients", [])
        ),
        sidecar=sidecar,
        facts=dict(assertions.get(ASSERTION, {})),
    )
