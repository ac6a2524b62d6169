"""``talkswap download``: bring published weights here, or say what there is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from talkswap.cli.options import Quiet
from talkswap.cli.output import choose_progress, note, table
from talkswap.errors import TalkswapError, UsageError, WeightsCorruptError

if TYPE_CHECKING:
    from talkswap.checkpoints.manifest import CatalogueEntry, FileRecord


def _size(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:.1f} MB"


def _forbid_network(context: typer.Context) -> None:
    """What every part that might fetch looks at; for this command alone, when Python calls several."""
    before = os.environ.get("TALKSWAP_OFFLINE")
    os.environ["TALKSWAP_OFFLINE"] = "1"

    def restore() -> None:
        if before is None:
            os.environ.pop("TALKSWAP_OFFLINE", None)
        else:
            os.environ["TALKSWAP_OFFLINE"] = before

    context.call_on_close(restore)


def command(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Entries or presets, as --list shows them; none = all of the paper preset."),
    ] = None,
    listing: Annotated[
        bool, typer.Option("--list", help="Show what there is, from where, under which licence.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Hold what is here against size and sha256; fetch nothing.")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Never touch the network (so does HF_HUB_OFFLINE).")
    ] = False,
    sha256: Annotated[str | None, typer.Option(help="The pin for one entry that has none.", show_default=False)] = None,
    trust: Annotated[
        bool,
        typer.Option("--trust-on-first-use", help="Take entries without a pin as they come and remember their hash."),
    ] = False,
    adopt: Annotated[
        Path | None,
        typer.Option(help="List the weights in this folder as they are now in its manifest.toml.", show_default=False),
    ] = None,
    repository: Annotated[
        str | None,
        typer.Option("--repo", metavar="OWNER/NAME", help="A preset pushed to the model hub.", show_default=False),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Its commit, 40 hex digits; needed with --repo.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for it.", show_default="below the folder of all downloads")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with an access token, where --repo is private.", show_default=False)
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of --repo, only what this system needs.", show_default="all systems"),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Fetch weights, pinned by commit and sha256, into the user's cache or $TALKSWAP_WEIGHTS."""
    from talkswap.checkpoints import download
    from talkswap.checkpoints.manifest import MANIFEST, download_root, file_path, read_catalogue, write_manifest
    from talkswap.checkpoints.networks import PRESETS

    if adopt is not None:
        records = write_manifest(adopt)
        typer.echo(f"{adopt / MANIFEST}: {len(records)} files")
        return
    if repository is None and any(option is not None for option in (revision, out, token_file, system)):
        raise UsageError(
            "--revision, --out, --token-file and --system belong to --repo", "add --repo OWNER/NAME, or leave them out"
        )
    if repository is not None:
        if names or listing or check or trust or sha256 is not None:
            raise UsageError("--repo fetches one published preset and goes with no other choice", "leave the rest out")
        if offline:
            _forbid_network(context)
        _fetch_published(repository, revision, out, token_file, system, quiet)
        return
    from talkswap.systems.registry import stage_made

    # Weights that only training makes are listed too, or people would look for them.
    entries = [*read_catalogue(), *stage_made()]
    choices = {entry.name for entry in entries} | set(PRESETS)
    unknown = [name for name in names or () if name not in choices]
    if unknown:
        raise UsageError(f"there are no weights called {unknown[0]!r}", "`talkswap download --list` shows the names")
    if offline:
        _forbid_network(context)
    chosen = [e for e in entries if not names or e.name in names or e.preset in names]
    root = download_root()
    if listing:
        rows = []
        for entry in chosen:
            present = all(file_path(root / entry.preset, file).is_file() for file in entry.results)
            pin = "made here" if entry.source is None else "pinned" if entry.sha256 else "pin unknown"
            licence = entry.licence + (" (non-commercial)" if entry.non_commercial else "")
            origin = entry.source or f"`{entry.made_by}`"
            rows.append(
                [
                    entry.name,
                    entry.preset,
                    _size(entry.size),
                    "here" if present else "-",
                    pin,
                    ",".join(entry.needed_by),
                    licence,
                    origin,
                ]
            )
        typer.echo(table(["NAME", "PRESET", "SIZE", "STATE", "PIN", "NEEDED BY", "LICENCE", "ORIGIN"], rows))
        return
    if check:
        _check(chosen if names else entries, root, None if names and "compact" not in names else "compact")
        return
    if names == ["compact"]:
        raise UsageError(
            "the compact weights travel with talkswap and are not fetched", "`talkswap download --check` verifies them"
        )
    # Entries that a stage makes are fetched from nowhere; named, they say so.
    entries_to_fetch = [e for e in chosen if e.source is not None or names and e.name in names]
    if sha256 is not None and len(entries_to_fetch) != 1:
        raise UsageError("--sha256 is the pin of one entry", "name that entry")
    fetched: list[str] = []
    skipped: list[str] = []
    with choose_progress(quiet, "bytes") as progress:
        for entry in entries_to_fetch:
            pinned = entry.source is None or trust or (entry.sha256 or sha256) is not None
            # One entry without a pin must not keep the rest of its preset away; named by itself, it is refused.
            if not pinned and entry.name not in (names or ()) and download.entry_problem(entry, root / entry.preset):
                skipped.append(entry.name)
                continue
            if download.entry_problem(entry, root / entry.preset) is not None and entry.source is not None:
                warning = "; non-commercial use only" if entry.non_commercial else ""
                note(f"{entry.name}: {_size(entry.size)} from {entry.source}, licence {entry.licence}{warning}")
            if download.obtain(entry, root / entry.preset, trust, sha256, notify=progress):
                fetched.append(entry.name)
    here = len(entries_to_fetch) - len(fetched) - len(skipped)
    typer.echo(f"{root}: fetched {', '.join(fetched) or 'nothing'}; {here} already here")
    for name in skipped:
        note(f"{name} has no pin and was left out: `talkswap download {name}` says how to take it")
    for entry in chosen:
        if entry.source is None and entry not in entries_to_fetch:
            note(f"{entry.name} has no public source: make it with `{entry.made_by}`")


def _fetch_published(
    repository: str, revision: str | None, out: Path | None, token_file: Path | None, system: str | None, quiet: bool
) -> None:
    """Bring a preset that somebody pushed."""
    from talkswap.checkpoints.publish import fetch_preset, read_token
    from talkswap.systems.registry import requirements

    if revision is None:
        raise UsageError("--repo needs the commit to fetch", "give --revision and 40 hex digits; a branch can change")
    token = None if token_file is None else read_token(token_file)
    rooms = () if system is None else next(iter(requirements(system).values())).rooms
    with choose_progress(quiet, "bytes") as progress:
        done = fetch_preset(repository, revision, out, token, rooms, notify=progress)
    note(f"{done.name}, made like the {done.preset} preset, licence {done.licence}; README.md there says more")
    typer.echo(f"{done.folder}: fetched {len(done.fetched)} files; {done.here} already here")


def _check(entries: list[CatalogueEntry], root: Path, compact: str | None) -> None:
    """Print the state of every file; raise when one is damaged."""
    from talkswap.checkpoints import download
    from talkswap.checkpoints.manifest import file_path, read_records
    from talkswap.checkpoints.presets import preset_state

    rows: list[list[str]] = []
    damaged: list[str] = []
    if compact is not None:
        preset = preset_state(compact)
        for folder in preset.folders:
            for file, record in read_records(folder).items():
                problem = _problem(file_path(folder, file), record)
                rows.append([compact, file, problem or "whole"])
                if problem:
                    damaged.append(str(folder / file))
    for entry in entries:
        problem = download.entry_problem(entry, root / entry.preset)
        rows.append([entry.preset, entry.name, problem or "whole"])
        if problem not in (None, "missing"):
            damaged.append(entry.name)
    typer.echo(table(["PRESET", "FILE", "STATE"], rows))
    if damaged:
        raise WeightsCorruptError(
            f"damaged: {', '.join(damaged)}",
            "`talkswap download NAME` fetches an entry again; reinstall talkswap for compact",
        )


def _problem(path: Path, record: FileRecord) -> str | None:
    from talkswap.checkpoints.manifest import check_file

    try:
        check_file(path, record, "")
    except TalkswapError as error:
        return error.message
    return None
