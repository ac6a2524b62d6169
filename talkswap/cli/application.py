"""The Typer application: every command under its name."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer

import talkswap
from talkswap.cli.output import colourful


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"talkswap {talkswap.__version__}")
        raise typer.Exit()


def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Dub a clip: the face of a photo, the words of a voice, everything else as it was."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def build_application() -> typer.Typer:
    """A fresh application with all commands."""
    from talkswap.cli import batch, bench, data, doctor, download, faces, render, train, verify, weights
    from talkswap.cli import eval as evaluation

    # boxes and colours only for eyes: a pipe gets plain text
    markup: Literal["rich"] | None = "rich" if colourful(sys.stdout) else None
    application = typer.Typer(
        name="talkswap",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=markup,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    application.callback(invoke_without_command=True)(_root)
    application.command("render")(render.command)
    application.command("batch")(batch.command)
    application.command("faces")(faces.command)
    application.command("verify")(verify.command)
    application.command("bench")(bench.command)
    application.command("doctor")(doctor.command)
    application.command("download")(download.command)
    application.command("train")(train.command)
    application.add_typer(data.build_application(markup), name="data")
    application.add_typer(evaluation.build_application(markup), name="eval")
    application.add_typer(weights.build_application(markup), name="weights")
    return application
