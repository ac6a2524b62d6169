"""Fetch a published preset folder: a repository at one commit, every file held against the preset's own manifest."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from talkswap.checkpoints.catalogue import download_root
from talkswap.checkpoints.description import PRESETS
from talkswap.checkpoints.download import FetchConfig, Notify, fetch, hub_address, offline
from talkswap.checkpoints.manifest import (
    MANIFEST,
    FileRecord,
    check_file,
    inside,
    is_listed,
    read_about,
    read_records,
    room_of,
    write_records,
)
from talkswap.checkpoints.publish.card import CARD
from talkswap.checkpoints.publish.check import HUB, check_preset
from talkswap.checkpoints.publish.push import check_repository
from talkswap.errors import DownloadError, OutputUnwritableError, UsageError, WeightsCorruptError, WeightsMissingError

MOST_FILES, LONGEST_MANIFEST = 10_000, 4_000_000  # a preset has a few dozen files and a list of some kB


@dataclass(frozen=True)
class Fetched:
    """A published preset on this machine."""

    folder: Path
    name: str
    preset: str
    licence: str
    fetched: tuple[str, ...]
    here: int  # files that were there already, whole


def preset_place(repository: str, commit: str) -> Path:
    """Where a published preset goes unless the user says otherwise."""
    return download_root() / HUB / repository / commit


def fetch_preset(
    repository: str,
    commit: str,
    folder: Path | None = None,
    token: str | None = None,
    rooms: Collection[str] = (),
    config: FetchConfig | None = None,
    notify: Notify | None = None,
) -> Fetched:
    """Bring a published preset here; an interrupted fetch goes on where it stopped.

    The commit is the pin: it decides the manifest, and that decides every file.  The folder gets its manifest last, so
    that what is half fetched is no preset yet.

    Args:
        repository: OWNER/NAME on the hub that ``HF_ENDPOINT`` names.
        commit: 40 hex digits.
        folder: where it goes; None = :func:`preset_place`.
        token: for a repository that is not public.
        rooms: folders of the preset to bring, for example those that one system needs; () = all.
        config: patience.
        notify: progress in bytes.

    Raises:
        UsageError: the repository or the commit is not well formed.
        DownloadError: something could not be fetched, or the network is forbidden.
        WeightsCorruptError: a file is not what the manifest says, or the manifest lists what no preset holds.
        OutputUnwritableError: the folder cannot be written, or holds another preset.
    """
    check_repository(repository)
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise UsageError(
            f"{commit!r} is no commit", "give all 40 hex digits of --revision; a branch or a tag can change"
        )
    folder = folder or preset_place(repository, commit)
    origin = {"repository": repository, "commit": commit}
    if (folder / MANIFEST).is_file():
        about = read_about(folder)
        if {key: about.get(key) for key in origin} != origin:
            raise OutputUnwritableError(f"{folder} holds another preset", "choose another folder with --out")
        # an earlier fetch may have brought some rooms only
        here = about.get("rooms", "").split()
        rooms = () if "rooms" not in about else (*rooms, *here) if rooms else ()
        if set(rooms) == set(here) and all(state.problem is None for state in check_preset(folder)):
            return _fetched(folder, about, (), len(read_records(folder)))
    if offline():
        raise DownloadError(
            f"{repository} at {commit} is not whole on this machine and the network is forbidden",
            "unset TALKSWAP_OFFLINE and HF_HUB_OFFLINE",
        )
    arrived = folder / ".fetched"  # the manifest alone, in a folder of its own until all it lists is here
    fetch(
        hub_address(repository, commit, MANIFEST), arrived / MANIFEST, None, None, config, notify, MANIFEST, token,
        most=LONGEST_MANIFEST,
    )  # fmt: skip
    records, about = read_records(arrived), read_about(arrived)
    _check_list(records, about, repository)
    if rooms:
        records = {file: record for file, record in records.items() if room_of(file) in rooms}
        about["rooms"] = " ".join(dict.fromkeys(rooms))
    new: list[str] = []
    for file, record in sorted(records.items()):
        target = inside(folder, file)
        try:
            check_file(target, record, "")
            continue
        except (WeightsMissingError, WeightsCorruptError):
            pass
        url = hub_address(repository, commit, record.listed or file)  # an old flat preset gets today's folders here
        fetch(url, target, record.size, record.sha256, config, notify, file, token)
        new.append(file)
    fetch(
        hub_address(repository, commit, CARD), folder / CARD, None, None, config, notify, CARD, token,
        most=LONGEST_MANIFEST,
    )  # fmt: skip
    about |= origin
    _put_manifest(arrived, folder, records, about)
    return _fetched(folder, about, tuple(new), len(records) - len(new))


def _check_list(records: dict[str, FileRecord], about: dict[str, str], repository: str) -> None:
    """A stranger's manifest may list weights and configurations, nothing that could be mistaken for something else."""
    strange = [file for file in records if not is_listed(file) or "/." in f"/{file}"]
    if strange or not records or len(records) > MOST_FILES:
        what = f"lists {strange[0]!r}" if strange else f"lists {len(records)} files"
        raise WeightsCorruptError(f"the manifest of {repository} {what}, which is no preset", "do not use this source")
    if about.get("preset", "compact") not in PRESETS:
        raise WeightsCorruptError(
            f"{repository} is made like the preset {about['preset']!r}, which this talkswap does not know",
            "update talkswap",
        )


def _put_manifest(arrived: Path, folder: Path, records: dict[str, FileRecord], about: dict[str, str]) -> None:
    try:
        write_records(folder, records.values(), about)
        os.unlink(arrived / MANIFEST)
        arrived.rmdir()
    except OSError as error:
        raise OutputUnwritableError(f"cannot write {folder}: {error.strerror}", "choose another --out") from error


def _fetched(folder: Path, about: dict[str, str], new: tuple[str, ...], here: int) -> Fetched:
    name, licence = about.get("name", folder.name), about.get("licence", "not stated")
    return Fetched(folder, name, about.get("preset", "compact"), licence, new, here)
