"""``talkswap data …``: what training reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from talkswap.cli.output import to_json
from talkswap.errors import InputMissingError


def prepare(
    source: Annotated[Path, typer.Argument(help="Folder with faces/ (portraits in tar shards, CSV lists) and clips/.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; what is already there is kept.")],
    teachers: Annotated[Path, typer.Option(help="Folder with face_landmarker.task, which labels the faces.")],
    frame_step: Annotated[int, typer.Option(min=1, help="Every k-th frame of a clip becomes a still.")] = 8,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
) -> None:
    """Cut, align and label portraits and talking clips into arrays that training maps into memory."""
    for folder in (source, teachers):
        if not folder.is_dir():
            raise InputMissingError(f"{folder} is no folder", "check the path")
    from talkswap.data.prepare import PrepareConfig
    from talkswap.data.prepare import prepare as run

    typer.echo(to_json(run(PrepareConfig(source, teachers, out, frame_step, workers))))


def build_application(markup: Literal["rich"] | None) -> typer.Typer:
    """The ``data`` group."""
    application = typer.Typer(
        help="Prepare training data.", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=markup
    )
    application.callback()(lambda: None)
    application.command("prepare")(prepare)
    return application
