"""What is in a clip: its people (``talkswap faces``), and its marks of synthetic media (``talkswap verify``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from talkswap.cli.options import PresetName, WeightsFolder
from talkswap.cli.output import note, printable, table, to_json
from talkswap.errors import InputMissingError, NoMarkError, NoTargetFaceError, OutputUnwritableError

if TYPE_CHECKING:
    from talkswap.faces.analyse import FaceAnalyser
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


def faces(
    clip: Annotated[Path, typer.Argument(help="Video to look through.", show_default=False)],
    thumbnails: Annotated[
        Path | None, typer.Option(help="Folder for a picture of each face.", show_default="CLIP-faces, in this folder")
    ] = None,
    preset: PresetName = "auto",
    weights: WeightsFolder = None,
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
    entries = [
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
        typer.echo(to_json(entries))
        return
    rows = [
        [
            str(f["number"]),
            f"{f['share']:.0%}",
            f"{f['seen_at_seconds']:.1f} s",
            f"{f['width_px']} px",
            str(f["thumbnail"]),
        ]
        for f in entries
    ]
    typer.echo(table(["FACE", "IN VIEW", "BEST AT", "WIDTH", "THUMBNAIL"], rows))
    note(f"{len(people)} in {clip}, looked at now and then; `talkswap render --face NUMBER` takes the number")


def verify(
    file: Annotated[Path, typer.Argument(help="Clip to check.", show_default=False)],
    frames: Annotated[int, typer.Option(min=0, help="Frames to search for the invisible mark; 0 = none.")] = 240,
    trust: Annotated[
        Path | None,
        typer.Option(help="PEM file with certificates of authorities to trust.", readable=False, show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the marks as JSON.")] = False,
) -> None:
    """Look for marks of synthetic media: container tag, XMP, C2PA manifest, invisible mark; 22 where there are none."""
    from talkswap.checkpoints.presets import find_preset
    from talkswap.faces.analyse import load_analyser
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
