"""The Typer application: every command under its name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Literal

import typer

import talkswap
from talkswap.cli.output import colourful


def _version(show: bool) -> None:
    if show:
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


def build_application(arguments: Sequence[str]) -> typer.Typer:
    """A fresh application with all commands, their options fit for the system that the arguments name."""
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
    application.command("render", short_help="Dub one clip: the face of a photo, the words of a voice.")(
        render.build_command(arguments)
    )
    application.command("batch", short_help="Render every row of a table; what is done is skipped.")(batch.command)
    application.command("faces", short_help="List who is in a clip.")(faces.command)
    application.command("verify", short_help="Look for marks of synthetic media.")(verify.command)
    application.command("bench")(bench.command)
    application.command("doctor", short_help="Test whether this machine can render, and with what.")(doctor.command)
    application.command("download", short_help="Fetch published weights, or list them.")(download.command)
    application.command("train", short_help="Train one stage.")(train.command)
    application.add_typer(data.build_application(markup, arguments), name="data")
    application.add_typer(evaluation.build_application(markup), name="eval")
    application.add_typer(weights.build_application(markup), name="weights")
    return application
