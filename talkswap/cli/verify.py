"""``talkswap verify``: what a file says about being synthetic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from talkswap.cli.output import printable, to_json
from talkswap.errors import InputMissingError, NoMarkError


def command(
    file: Annotated[Path, typer.Argument(help="Clip to check.", show_default=False)],
    frames: Annotated[int, typer.Option(min=0, help="Frames to search for the invisible mark; 0 = none.")] = 240,
    trust: Annotated[
        Path | None,
        typer.Option(
            help="PEM file with certificates of authorities to trust.",
            readable=False,
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the marks as JSON.")] = False,
) -> None:
    """Look for marks of synthetic media: container tag, XMP, C2PA manifest, invisible mark; 22 where there are none."""
    from talkswap.checkpoints.presets import find_preset
    from talkswap.faces.analyse import FaceAnalyser, load_analyser
    from talkswap.media.probe import check_plain
    from talkswap.provenance.verify import verify_file

    def analyser() -> FaceAnalyser:
        chosen = find_preset("compact")
        return load_analyser(chosen.analyser, chosen)

    anchors = None
    if trust is not None:
        check_plain(trust)
        try:
            anchors = trust.read_text("ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise InputMissingError(f"{trust} cannot be read as PEM", "check the path") from error
    verdict = verify_file(file, analyser, frames, anchors)
    if as_json:
        typer.echo(to_json(verdict.to_json()))
    else:
        typer.echo("\n".join(printable(line) for line in verdict.lines()))
    if not verdict.synthetic:
        raise NoMarkError(
            f"{file} carries no mark of synthetic media",
            "that proves nothing: marks can be removed, and small or heavily compressed faces lose the invisible one",
        )
