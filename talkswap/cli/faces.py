"""``talkswap faces``: who is in a clip."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from talkswap.cli.output import note, table, to_json
from talkswap.errors import NoTargetFaceError, OutputUnwritableError

if TYPE_CHECKING:
    from talkswap.faces.people import Person


def write_thumbnails(people: list[Person], folder: Path) -> list[Path]:
    """One PNG per person.

    Raises:
        OutputUnwritableError: the folder cannot be made or written.
    """
    import cv2

    from talkswap.render.look import thumbnail

    paths = [folder / f"face-{person.index}.png" for person in people]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for person, path in zip(people, paths, strict=True):
            _, data = cv2.imencode(".png", thumbnail(person)[:, :, ::-1])
            path.write_bytes(data.tobytes())
    except OSError as error:
        raise OutputUnwritableError(
            f"cannot write thumbnails to {folder}: {error.strerror}", "choose another folder with --thumbnails"
        ) from error
    return paths


def command(
    clip: Annotated[Path, typer.Argument(help="Video to look through.", show_default=False)],
    thumbnails: Annotated[
        Path | None, typer.Option(help="Folder for a picture of each face.", show_default="CLIP-faces, in this folder")
    ] = None,
    preset: Annotated[Literal["auto", "compact", "paper"], typer.Option(help="Set of weights.")] = "auto",
    weights: Annotated[
        Path | None,
        typer.Option(help="Preset folder to use, instead of looking for the set.", readable=False, show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List who is in a clip, the most prominent first; `talkswap render --face NUMBER` takes the number."""
    from talkswap.checkpoints.presets import find_preset
    from talkswap.faces.analyse import load_analyser
    from talkswap.media.index import index_frames
    from talkswap.media.probe import probe
    from talkswap.render.look import people_in_clip
    from talkswap.systems.registry import requirements

    info = probe(clip)
    chosen = find_preset(preset, weights, requirements())
    people = people_in_clip(info, index_frames(info), load_analyser(chosen.analyser, chosen))
    if not people:
        raise NoTargetFaceError(f"no face was found in {clip}", "choose a clip in which a face is larger and in view")
    paths = write_thumbnails(people, thumbnails or Path(f"{clip.stem}-faces"))
    listed = [
        {
            "number": person.index,
            "share": round(person.share, 3),
            "seen_at_seconds": round(float(person.time), 3),
            "width_px": round(person.width),
            "thumbnail": path,
        }
        for person, path in zip(people, paths, strict=True)
    ]
    if as_json:
        typer.echo(to_json(listed))
        return
    rows = [
        [
            str(f["number"]),
            f"{f['share']:.0%}",
            f"{f['seen_at_seconds']:.1f} s",
            f"{f['width_px']} px",
            str(f["thumbnail"]),
        ]
        for f in listed
    ]
    typer.echo(table(["FACE", "IN VIEW", "BEST AT", "WIDTH", "THUMBNAIL"], rows))
    note(f"{len(people)} in {clip}, looked at now and then; `talkswap render --face NUMBER` takes the number")
