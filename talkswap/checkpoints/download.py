"""Fetch published weights: pinned, resumable, checked, and put in place in one move.

What arrives counts only when its size and sha256 are those of the catalogue.  ``TALKSWAP_MIRROR`` replaces scheme and
host of every address (a mirror inside a company, or the tests' own server); the paths stay those of the origin.
"""

import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import talkswap
from talkswap.checkpoints import manifest
from talkswap.checkpoints.manifest import CatalogueEntry, FileRecord, check_file, inside
from talkswap.checkpoints.preset_folder import repair_hint
from talkswap.errors import DownloadError, OutputUnwritableError, WeightsCorruptError, WeightsMissingError
from talkswap.files import file_sha256, write_atomically
from talkswap.types import ProgressEvent

HUB = "https://huggingface.co"
CHUNK = 1 << 20  # bytes
PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP states that may be over in a moment
OFFLINE_VARIABLES = ("TALKSWAP_OFFLINE", "HF_HUB_OFFLINE")

Notify = Callable[[ProgressEvent], None]


@dataclass(frozen=True)
class FetchConfig:
    """Retries and time-outs of a download."""

    attempts: int = 5
    wait: float = 1.0  # seconds before the second attempt, doubled for each further one
    timeout: float = 30.0  # seconds without a byte


class _Interrupted(Exception):
    """The transfer broke off; another attempt may go on from there."""


def offline() -> bool:
    """Whether an environment variable forbids the network (TALKSWAP_OFFLINE, HF_HUB_OFFLINE)."""
    return any(os.environ.get(name, "").lower() in {"1", "true", "yes", "on"} for name in OFFLINE_VARIABLES)


def address(entry: CatalogueEntry) -> str:
    """Where an entry is fetched from: its URL, or the hub's file at the pinned commit.

    Raises:
        WeightsMissingError: the entry has no public source.
    """
    if entry.source is None:
        raise WeightsMissingError(
            f"{entry.name} of the {entry.preset} preset is not published anywhere", f"make it with `{entry.made_by}`"
        )
    if entry.url is None:
        return hub_address(entry.repository or "", entry.commit or "", entry.path or entry.file)
    return _through_mirror(entry.url)


def hub_endpoint() -> str:
    """The model hub: ``HF_ENDPOINT``, or the public one; without a slash at the end."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUB


def hub_address(repository: str, commit: str, path: str) -> str:
    """Where the hub has a file of OWNER/NAME at a commit.

    Raises:
        DownloadError: the address is not encrypted and no mirror is named.
    """
    return _through_mirror(f"{hub_endpoint()}/{repository}/resolve/{commit}/{quote(path)}")


def is_safe(url: str) -> bool:
    """Whether traffic to this address is private: encrypted, or within this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or parts.hostname in ("127.0.0.1", "::1", "localhost")


def _through_mirror(url: str) -> str:
    mirror = os.environ.get("TALKSWAP_MIRROR")
    # A mirror may be plain http: its files are checked like any other's.
    if mirror:
        return mirror.rstrip("/") + urlsplit(url).path
    if not is_safe(url):
        raise DownloadError(
            f"{url} is not encrypted", "use an https address, or name your own server in TALKSWAP_MIRROR"
        )
    return url


def _open(url: str, part: Path, timeout: float, token: str | None) -> tuple[http.client.HTTPResponse, int]:
    """The answer to a request for what ``part`` lacks, and the bytes of ``part`` that it continues."""
    start = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": f"talkswap/{talkswap.__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)
    if token is not None and is_safe(url):
        request.add_unredirected_header("Authorization", f"Bearer {token}")  # not for the host it may send us on to
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            if error.code in PASSING:
                raise _Interrupted(f"the server answered {error.code}") from error
            if error.code == 416:  # our beginning is no beginning of that file
                part.unlink(missing_ok=True)
                raise _Interrupted("the server refused to go on") from error
            raise DownloadError(
                f"{url} answered {error.code} {error.reason}",
                "the file may have moved; `talkswap download --list` names its origin",
            ) from error
    except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise _Interrupted(str(getattr(error, "reason", error)) or type(error).__name__) from error
    # A server without ranges sends the whole file again.
    continues = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
    return response, start if continues else 0


def _transfer(
    url: str,
    part: Path,
    size: int | None,
    config: FetchConfig,
    report: Callable[[int, int], None],
    token: str | None,
    most: int | None,
) -> None:
    """One attempt: append what is missing to ``part``."""
    present = part.stat().st_size if part.is_file() else 0
    if size is not None and present > size:
        part.unlink()
    elif size and present == size:
        return
    response, done = _open(url, part, config.timeout, token)
    with response, open(part, "ab" if done else "wb") as file:
        length = response.headers.get("Content-Length")
        total = size if size is not None else done + int(length) if length else 0
        limit, pin = (most, "that it may have") if size is None else (size, "of its pin")
        while True:
            try:
                chunk = response.read(CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _Interrupted(f"the connection broke after {done} bytes") from error
            if not chunk:
                break
            done += len(chunk)
            if limit is not None and done > limit:
                raise WeightsCorruptError(f"{url} is longer than the {limit} bytes {pin}", "do not use this server")
            file.write(chunk)
            report(done, total)
    if total and done < total:
        raise _Interrupted(f"the server stopped after {done} of {total} bytes")


def fetch(
    url: str,
    target: Path,
    size: int | None,
    sha256: str | None,
    config: FetchConfig | None = None,
    notify: Notify | None = None,
    label: str = "",
    token: str | None = None,
    most: int | None = None,
) -> str:
    """Download one file; an earlier ``.part`` is continued.

    Args:
        target: where the file goes once it is whole and right.
        size: expected bytes; None when unknown.
        sha256: expected hash; None takes whatever comes (and never continues an earlier part).
        token: shown to the address's own host, for files that are not public.
        most: bytes beyond which a file of unknown size is refused.

    Returns:
        sha256 of the file.

    Raises:
        DownloadError: it could not be fetched.
        WeightsCorruptError: what came has another size or hash; it is deleted.
        OutputUnwritableError: the folder cannot be written or the disk is full.
    """
    config = config or FetchConfig()
    part = target.with_name(target.name + ".part")
    label = label or target.name

    def report(done: int, total: int) -> None:
        if notify is not None:
            notify(ProgressEvent(label, done, total))

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if sha256 is None:
            part.unlink(missing_ok=True)
        # Known before the first byte, not after an hour.
        present = part.stat().st_size if part.is_file() else 0
        free = shutil.disk_usage(target.parent).free
        if size is not None and free < size - present:
            raise OutputUnwritableError(
                f"{label} needs {size - present} bytes, {target.parent} has {free} free",
                "free some space, or set TALKSWAP_WEIGHTS",
            )
        # Each attempt goes on where the one before stopped, after twice its pause.
        for attempt in range(config.attempts):
            try:
                _transfer(url, part, size, config, report, token, most)
                break
            except _Interrupted as error:
                if attempt + 1 == config.attempts:
                    raise DownloadError(
                        f"{label} could not be fetched in {config.attempts} attempts: {error}",
                        "run the command again; it goes on where it stopped",
                    ) from error
                pause = config.wait * 2**attempt
                if notify is not None:
                    notify(ProgressEvent(label, 0, 0, f"{label}: {error}; again in {pause:g} s"))
                time.sleep(pause)
        digest, length = file_sha256(part), part.stat().st_size
        if size is not None and length != size or sha256 is not None and digest != sha256:
            part.unlink()
            raise WeightsCorruptError(
                f"{label} from {url} is not the pinned file: expected {size} bytes with sha256 {sha256}, "
                f"got {length} with {digest}",
                "run the command again; if it stays so, the publisher changed the file and talkswap needs a new pin",
            )
        os.replace(part, target)
        return digest
    except OSError as error:
        raise OutputUnwritableError(
            f"cannot write {target}: {error.strerror}", "choose another folder with TALKSWAP_WEIGHTS"
        ) from error


def _extract(archive: Path, entry: CatalogueEntry, folder: Path) -> list[FileRecord]:
    """Take the listed members out of a zip; whatever else it holds stays inside."""
    records: list[FileRecord] = []
    try:
        with zipfile.ZipFile(archive) as file:
            for member in entry.members:

                def unpack(part: Path, path: str = member.path, record: FileRecord = member.record) -> None:
                    with file.open(path) as source, open(part, "wb") as content:
                        # One byte more than the record says is enough to notice a bomb.
                        rest = record.size + 1
                        while rest and (chunk := source.read(min(CHUNK, rest))):
                            content.write(chunk)
                            rest -= len(chunk)
                    check_file(part, record, repair_hint(entry.preset))

                write_atomically(inside(folder, member.record.file), unpack, parents=True)
                records.append(member.record)
    except (zipfile.BadZipFile, KeyError) as error:
        raise WeightsCorruptError(
            f"{archive} lacks what {entry.name} should hold: {error}", repair_hint(entry.preset)
        ) from error
    return records


def _convert(download: Path, target: Path, preset: str) -> None:
    """A published state dict (a pickle) as safetensors; only tensors are read, never code."""
    import pickle

    import torch
    from safetensors.torch import save_file

    try:
        state = torch.load(download, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise WeightsCorruptError(
            f"{download} holds more or less than tensors: {error}", repair_hint(preset)
        ) from error
    # Tied tensors share memory, which safetensors refuses.
    tensors = {name: value.contiguous().clone() for name, value in state.items() if isinstance(value, torch.Tensor)}
    write_atomically(target, lambda part: save_file(tensors, part, metadata={"format": "pt"}))


def entry_problem(entry: CatalogueEntry, folder: Path) -> str | None:
    """Why an entry's files in ``folder`` cannot be used; None when they are whole."""
    records = manifest.read_records(folder)
    # Members have pins of their own; converted files are listed when they are made.
    members = {member.record.file: member.record for member in entry.members}
    for file in entry.results:
        path = manifest.file_path(folder, file)
        record = members.get(file) or records.get(manifest.with_room(file))
        if record is None and entry.convert is None and entry.size is not None and entry.sha256 is not None:
            record = FileRecord(file, entry.size, entry.sha256)
        if not path.is_file():
            return "missing"
        if record is None:
            return f"{file} is on no list"
        try:
            check_file(path, record, repair_hint(entry.preset))
        except WeightsCorruptError as error:
            return error.message
    return None


def obtain(
    entry: CatalogueEntry,
    folder: Path | None = None,
    trust: bool = False,
    sha256: str | None = None,
    config: FetchConfig | None = None,
    notify: Notify | None = None,
) -> bool:
    """Bring one catalogue entry to this machine.

    Args:
        folder: the preset's folder; None = below :func:`talkswap.checkpoints.manifest.download_root`.
        trust: take an entry without a pin as it comes and remember its hash.
        sha256: the pin for an entry without one.

    Returns:
        False when it was there already, whole.

    Raises:
        WeightsMissingError: it is not published.
        DownloadError, WeightsCorruptError, OutputUnwritableError: as :func:`fetch`; an unpinned entry is refused.
    """
    folder = folder or manifest.download_root() / entry.preset
    if entry_problem(entry, folder) is None:
        return False
    pin = entry.sha256 or sha256
    url = address(entry)
    if pin is None and not trust:
        raise DownloadError(
            f"{entry.name} has no pin, so nobody can tell whether what comes is what was meant",
            "give its hash with --sha256, or --trust-on-first-use to take it as it comes and keep its hash",
        )
    if offline():
        raise DownloadError(
            f"{entry.name} is not on this machine and the network is forbidden",
            "unset TALKSWAP_OFFLINE and HF_HUB_OFFLINE",
        )
    target = inside(folder, entry.file)
    raw = bool(entry.convert or entry.members)  # what is kept differs from what is fetched
    download = target.with_name(target.name + ".fetched") if raw else target
    digest = fetch(url, download, entry.size, pin, config, notify, entry.name)
    if entry.members:
        files = _extract(download, entry, folder)
    else:
        if entry.convert:
            _convert(download, target, entry.preset)
            digest = file_sha256(target)
        files = [FileRecord(entry.file, target.stat().st_size, digest)]
    if raw:
        download.unlink()
    records = manifest.read_records(folder) | {record.file: record for record in files}
    manifest.write_records(folder, records.values())
    return True
