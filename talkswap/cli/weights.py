"""``talkswap weights …``: pack trained networks, publish them, check and list preset folders."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from talkswap.cli.options import SystemName, command_group
from talkswap.cli.output import colourful, note, table, to_json
from talkswap.errors import InputMissingError, WeightsCorruptError, WeightsMissingError
from talkswap.types import DEFAULT_SYSTEM


def _text(path: Path | None) -> str:
    """A Markdown file of the user's, or nothing."""
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputMissingError(f"cannot read {path} as text", "check the path") from error


def pack(
    out: Annotated[Path, typer.Option(help="Preset folder to make.", show_default=False)],
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Finished run folders of `talkswap train`.", show_default=False)
    ] = None,
    system: SystemName = DEFAULT_SYSTEM,
    name: Annotated[str | None, typer.Option(help="What to call it.", show_default="the folder's name")] = None,
    precision: Annotated[
        Literal["fp16", "int8", "float32"],
        typer.Option(help="Of the weights on disk; in int8 detector, landmarks and identity stay fp16."),
    ] = "fp16",
    largest_mb: Annotated[
        float, typer.Option("--largest-mb", min=0.01, help="A larger network is split into shards of at most this.")
    ] = 16.0,
    base: Annotated[
        Path | None,
        typer.Option(
            help="Preset folder that gives the networks which no run has; alone, it's written again in today's layout.",
            show_default=False,
        ),
    ] = None,
    earlier: Annotated[
        list[Path] | None,
        typer.Option(
            help="A run that a given one started from: its records are kept; may be repeated.",
            metavar="RUN",
            show_default=False,
        ),
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="For the model card; without one nothing can be pushed.", show_default=False)
    ] = None,
    hardware: Annotated[str, typer.Option(help="What the runs were trained on.", show_default="as the runs say")] = "",
    data: Annotated[
        Path | None, typer.Option(help="Markdown on the training data, for the model card.", show_default=False)
    ] = None,
    notes: Annotated[
        Path | None, typer.Option(help="Markdown on uses and limits, for the model card.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing preset folder.")] = False,
) -> None:
    """Make a preset folder from finished runs: weights, configurations, manifest, records, model card."""
    from talkswap.checkpoints.pack import PackConfig, pack_preset
    from talkswap.systems import registry

    own = registry.networks(system)
    done = pack_preset(
        runs or [],
        out,
        PackConfig(
            networks=tuple(own.values()),
            requirements=registry.requirements(system),
            others=tuple(network for path, network in registry.networks().items() if path not in own),
            name=name or "",
            precision=precision,
            earlier=tuple(earlier or ()),
            largest_mb=largest_mb,
            base=base,
            licence=licence,
            hardware=hardware,
            data=_text(data),
            notes=_text(notes),
            overwrite=overwrite,
        ),
    )
    size = sum(record.size for record in done.records.values())
    if licence is None:
        note("the model card names no licence; give --licence before you publish")
    typer.echo(f"{done.folder}: {len(done.networks)} networks like the {done.preset} preset, {size / 1e6:.1f} MB")


def check(
    folder: Annotated[Path, typer.Argument(help="Preset folder.", show_default=False)],
    system: SystemName = DEFAULT_SYSTEM,
    as_json: Annotated[bool, typer.Option("--json", help="Print the states as JSON.")] = False,
) -> None:
    """Hold every file of a preset folder against its manifest."""
    from talkswap.checkpoints.presets import check_preset, require_whole
    from talkswap.systems.registry import requirements

    needs = requirements(system)
    states = check_preset(folder)
    rows = [[s.file, str(s.size), "whole" if s.problem is None else s.problem.message] for s in states]
    if as_json:
        typer.echo(to_json([{"file": file, "size": int(size), "state": state} for file, size, state in rows]))
    else:
        typer.echo(table(["FILE", "BYTES", "STATE"], rows))
    missing = [s.file for s in states if isinstance(s.problem, WeightsMissingError)]
    damaged = [s.file for s in states if isinstance(s.problem, WeightsCorruptError)]
    repair = "pack the folder again, or fetch it again"
    if damaged:
        raise WeightsCorruptError(f"damaged or not listed: {', '.join(damaged)}", repair)
    if missing:
        raise WeightsMissingError(f"missing: {', '.join(missing)}", repair)
    preset = require_whole(folder, needs)
    if preset.notice:
        note(preset.notice)


def listing(
    system: SystemName = DEFAULT_SYSTEM,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the preset folders on this machine; `talkswap render --weights FOLDER` uses one."""
    from talkswap.checkpoints.presets import installed_presets
    from talkswap.systems.registry import requirements, systems

    presets = installed_presets(requirements(system))
    if as_json:
        typer.echo(to_json(presets))
        return
    rows = [
        [
            p.name,
            p.preset,
            f"{p.size / 1e6:.1f} MB",
            f"lacks {p.missing[0]}" if p.missing else "complete",
            str(p.folder),
        ]
        for p in presets
    ]
    typer.echo(table(["NAME", "PRESET", "SIZE", "STATE", "FOLDER"], rows))
    note(f"the states are those for --system {system}; systems are {', '.join(systems())}")


def push(
    repository: Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME on the hub.", show_default=False)],
    folder: Annotated[
        Path, typer.Option("--from", help="Preset folder made by `talkswap weights pack`.", show_default=False)
    ],
    system: SystemName = DEFAULT_SYSTEM,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch.", show_default="the main one")] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File that holds an access token; without it HF_TOKEN counts.", show_default=False),
    ] = None,
    message: Annotated[str, typer.Option(help="Of the commit.", show_default=False)] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the folder, list what would go, send nothing.")] = (
        False
    ),
) -> None:
    """Publish a preset folder on the model hub that HF_ENDPOINT names, in one commit."""
    from talkswap.checkpoints import publish as publishing
    from talkswap.systems.registry import requirements

    plan = publishing.plan_push(folder, repository, requirements(system))
    note(f"{len(plan.files)} files, {plan.size / 1e6:.1f} MB, licence {plan.licence}, to {repository}")
    if dry_run:
        rows = [[file, str((folder / file).stat().st_size)] for file in plan.files]
        typer.echo(table(["FILE", "BYTES"], rows))
        return
    token = publishing.read_token(token_file)
    done = publishing.push(plan, token, private, revision, message, progress=colourful(sys.stderr))
    typer.echo(f"{done.url}: commit {done.commit}")
    note(f"`talkswap download --repo {repository} --revision {done.commit}` fetches it")


def build_application(markup: Literal["rich"] | None) -> typer.Typer:
    """The ``weights`` group."""
    application = command_group("Pack, publish, check and list weights.", markup)
    application.command("pack", short_help="Make a preset folder from finished runs.")(pack)
    application.command("push", short_help="Publish a preset folder on a model hub.")(push)
    application.command("check")(check)
    application.command("list", short_help="List the preset folders on this machine.")(listing)
    return application
