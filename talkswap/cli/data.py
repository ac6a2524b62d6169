"""``talkswap data …``: what training reads."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from talkswap.cli import options, output
from talkswap.errors import InputMissingError, TrainingDataError, UnreadableMediaError, UsageError

if TYPE_CHECKING:
    from talkswap.data.cutting import Source
    from talkswap.data.prepare import PrepareConfig
    from talkswap.systems.description import Maker

Out = Annotated[Path, typer.Option(help="Folder to write; what is already there is kept.", show_default=False)]
Workers = Annotated[int, typer.Option(min=1, help="Processes; each takes one core and about 0.6 GB.")]
Seed = Annotated[int, typer.Option(help="Decides what is drawn.")]
Hubert = Annotated[Path | None, typer.Option(help="Folder of HuBERT, for its features.", show_default=False)]
Teachers = Annotated[
    Path | None,
    typer.Option(help="Folder with face_landmarker.task; without it our own landmarks are used.", show_default=False),
]
Smallest = Annotated[float, typer.Option(min=32, help="Side in px of the FFHQ square below which a face is refused.")]
Correlation = Annotated[
    float, typer.Option("--least-correlation", help="Of mouth and sound; a clip below it is refused.")
]


def _folder(path: Path, what: str) -> Path:
    if not path.is_dir():
        raise InputMissingError(f"{path} is no folder", f"name {what}")
    return path


def _config(
    out: Path, workers: int, seed: int, hubert: Path | None, teachers: Path | None, smallest: float, least: float,
    **others: Any,
) -> PrepareConfig:  # fmt: skip
    from dataclasses import replace

    from talkswap.data.clip import ClipConfig
    from talkswap.data.prepare import PrepareConfig

    if teachers is not None:
        _folder(teachers, "the folder with face_landmarker.task")
    plain = ClipConfig()
    clip = replace(plain, smallest=smallest, teachers=teachers, lips=replace(plain.lips, least=least))
    return PrepareConfig(out, workers=workers, seed=seed, hubert=hubert, clip=clip, **others)


def _prepare(sources: list[Source], config: PrepareConfig, quiet: bool) -> dict[str, Any]:
    """Run the preparation and say what came of it, on stderr."""
    from talkswap.data.prepare import prepare as run

    with output.choose_progress(quiet, "jobs") as progress:
        manifest = run(sources, config, progress)
    counts = manifest["counts"]
    output.note(f"{counts['clips']} clips ({counts['seconds']:.0f} s) of {counts['sources']} videos in {config.out}")
    for reason, count in manifest["refused_by_reason"].items():
        output.note(f"refused: {count} x {reason}")
    if len(manifest["sources"]) and not manifest["speakers"]["val"]:
        output.print_warning("one speaker alone cannot be split, so nothing is held out; the stages want a second one")
    return manifest


def _summary(manifest: dict[str, Any], out: Path) -> dict[str, Any]:
    chosen = ("counts", "refused_by_reason", "refused", "speakers")
    return {"out": out, "manifest": out / "manifest.json", **{key: manifest[key] for key in chosen}}


def _judge(manifest: dict[str, Any]) -> None:
    """Leave with a failure's code where nothing came out, or a file could not be read.

    Raises:
        TrainingDataError: no clip was accepted.
        UnreadableMediaError: some videos are unreadable; the others are prepared.
    """
    if not manifest["counts"]["clips"]:
        why = ", ".join(f"{count} x {reason}" for reason, count in manifest["refused_by_reason"].items())
        raise TrainingDataError(f"no clip was accepted ({why or 'no video'})", "the list above says why")
    unreadable = sorted({r["source"] for r in manifest["refused"] if r["reason"] == "unreadable"})
    if unreadable:
        more = f" and {len(unreadable) - 1} more" if len(unreadable) > 1 else ""
        raise UnreadableMediaError(
            f"{unreadable[0]}{more} cannot be read; everything else is prepared", "replace or remove what is named"
        )


def prepare(
    videos: Annotated[list[Path], typer.Argument(help="Video files, or folders of them.", show_default=False)],
    out: Out,
    speakers: Annotated[
        Path | None, typer.Option(help="CSV with file,speaker; without it each video is one speaker.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=2, help="Length of a clip.")] = 10.0,
    seed: Seed = 0,
    frame_step: Annotated[int, typer.Option(min=1, help="Every k-th frame of a clip becomes a still.")] = 12,
    smallest: Smallest = 160.0,
    least_correlation: Correlation = 0.25,
    hubert: Hubert = None,
    teachers: Teachers = None,
    workers: Workers = 2,
    quiet: options.Quiet = False,
) -> None:
    """Cut anybody's videos into clips at 25 frames/s with faces, voices and features, split by speaker.

    Run it again after an interruption: finished clips are kept.  What was refused, and why, stands in manifest.json
    and in the JSON on stdout.
    """
    from talkswap.data.cutting import Source, find_videos
    from talkswap.data.prepare import read_speakers, speaker_of

    speaker_names = read_speakers(speakers) if speakers is not None else {}
    sources = [Source(video, speaker_of(video, speaker_names)) for video in find_videos(videos)]
    names = {key for source in sources for key in (str(source.path), source.path.name, source.path.stem)}
    if unknown := [name for name in speaker_names if name not in names]:
        output.print_warning(f"{len(unknown)} files of {speakers} are not among the videos, {unknown[0]} first")
    # Whole frames at 25 frames/s, so that clips end where a frame ends.
    length = Fraction(round(seconds * 25), 25)
    config = _config(
        out, workers, seed, hubert, teachers, smallest, least_correlation, seconds=length, frame_step=frame_step
    )
    manifest = _prepare(sources, config, quiet)
    typer.echo(output.to_json(_summary(manifest, out)))
    _judge(manifest)


def portraits(
    source: Annotated[Path, typer.Argument(help="Folder with faces/ (portraits in tar shards, CSV lists) and clips/.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; what is already there is kept.")],
    teachers: Annotated[Path, typer.Option(help="Folder with face_landmarker.task, which labels the faces.")],
    frame_step: Annotated[int, typer.Option(min=1, help="Every k-th frame of a clip becomes a still.")] = 8,
    workers: Workers = 2,
) -> None:
    """Label portraits in tar shards and clips that are cut already, as our compact weights' data are made."""
    for folder in (source, teachers):
        _folder(folder, "an existing folder")
    from talkswap.data.portraits import PortraitsConfig
    from talkswap.data.portraits import prepare as run

    typer.echo(output.to_json(run(PortraitsConfig(source, teachers, out, frame_step, workers), echo=output.note)))


def hdtf(
    lists: Annotated[Path, typer.Argument(help="Folder of HDTF's published lists (HDTF_dataset).", show_default=False)],
    videos: Annotated[Path, typer.Option(help="Folder of the videos, named as in the lists.", show_default=False)],
    out: Out,
    seed: Seed = 0,
    pairs: Annotated[int, typer.Option(min=0, help="Held-out (source, target) pairs of the protocol.")] = 112,
    smallest: Smallest = 160.0,
    least_correlation: Correlation = 0.25,
    hubert: Hubert = None,
    teachers: Teachers = None,
    workers: Workers = 2,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is there and what is missing.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Prepare the HDTF videos that you have by HDTF's own lists, and say which are missing.

    The summary on stdout lists the missing videos with their addresses; protocol.json in the output folder holds the
    split by speaker and the evaluation's pairs.
    """
    _folder(lists, "the folder HDTF_dataset of HDTF's repository")
    _folder(videos, "the folder with the videos")
    from talkswap.data.hdtf import find_listed, read_lists, write_protocol

    listing = read_lists(lists)
    for problem in listing.problems:
        output.print_warning(problem)
    sources, missing = find_listed(listing, videos)
    if missing:
        rows = [[entry.subset, entry.name, str(len(entry.ranges)), entry.address] for entry in missing]
        typer.echo(output.table(["SUBSET", "MISSING", "CLIPS", "ADDRESS"], rows), err=True)
    output.note(f"{len(sources)} of {len(listing.videos)} listed videos are in {videos}")
    listing_summary: dict[str, Any] = {
        "listed": len(listing.videos),
        "found": len(sources),
        "missing": [{"subset": e.subset, "name": e.name, "address": e.address} for e in missing],
        "problems": listing.problems,
    }
    if dry_run:
        typer.echo(output.to_json(listing_summary))
        return
    if not sources:
        raise TrainingDataError(f"none of the listed videos is in {videos}", "name them NAME.mp4 as in the lists")
    config = _config(out, workers, seed, hubert, teachers, smallest, least_correlation)
    manifest = _prepare(sources, config, quiet)
    protocol = write_protocol(out, manifest, pairs, seed, missing)
    typer.echo(output.to_json({**listing_summary, **_summary(manifest, out), "protocol": protocol}))
    _judge(manifest)


def maker_command(maker: Maker, system: str) -> Callable[..., None]:
    """The command of a system's own maker; its options are the fields of the maker's config."""
    from talkswap.checkpoints.networks import resolve

    kind = resolve(maker.config)

    def command(*, system: options.SystemName = system, quiet: options.Quiet = False, **given: Any) -> None:
        values = options.option_values(kind, given)
        for field in options.option_fields(kind):
            if field.default is MISSING and values[field.name] is None:
                raise UsageError(
                    f"data {maker.name} needs {options.flag_of(field)}", f"`talkswap data {maker.name} --help`"
                )
        with output.choose_progress(quiet, maker.name) as progress:
            summary = resolve(maker.run)(kind(**values), progress, output.note)
        typer.echo(output.to_json(summary))

    command.__doc__ = kind.__doc__
    # Typer reads the signature: the fields of the config stand where **given is.
    signature = inspect.signature(command, eval_str=True)
    fixed = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    command.__signature__ = signature.replace(parameters=[*options.option_parameters(kind), *fixed])  # type: ignore[attr-defined]
    return command


COMMANDS: dict[str, tuple[Callable[..., None], str]] = {  # with its line in the list of commands
    "prepare": (prepare, "Cut anybody's videos into clips to train on."),
    "hdtf": (hdtf, "Prepare HDTF's videos by its own lists."),
    "portraits": (portraits, "Label portraits in tar shards with a teacher."),
}


def build_application(markup: Literal["rich"] | None, arguments: Sequence[str]) -> typer.Typer:
    """The ``data`` group, with the makers of the system that the arguments name."""
    application = options.command_group("Prepare training data.", markup)
    for name, (command, short) in COMMANDS.items():
        application.command(name, short_help=short)(command)
    if "data" in arguments:
        system = options.system_among(arguments)
        for maker in system.makers:
            application.command(maker.name, short_help=maker.help)(maker_command(maker, system.name))
    return application
