"""``talkswap render``: the whole corridor for one clip."""

from __future__ import annotations

import os
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from talkswap.cli.plans import carry_out, last_line, planned, save_plan, show
from talkswap.errors import OutputUnwritableError, UsageError
from talkswap.types import RenderPlan

__all__ = ["DEFAULTS", "command", "last_line"]

DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(RenderPlan)}


def named(given: list[str] | None, option: str, what: str) -> tuple[tuple[str, Path], ...]:
    """People and files of a repeatable ``ID=FILE``.

    Raises:
        UsageError: there is no ``=``, or nothing on one side of it.
    """
    pairs = [text.partition("=") for text in given or ()]
    for who, _, file in pairs:
        if not who or not file:
            raise UsageError(f"{option} takes ID={what}", f"for example {option} 0={what.lower()}")
    return tuple((who, Path(file)) for who, _, file in pairs)


def check_report(report: Path, plan: RenderPlan) -> None:
    """Refuse a report that could not be written when the render is done.

    Raises:
        UsageError: it would replace the clip, or something that the clip is made from.
        OutputUnwritableError: its folder is missing or read-only, or it is a folder itself.
    """
    named_paths = [path for _, path in (*plan.map, *plan.voices)]
    used = (plan.output, plan.target, plan.source, plan.audio, *plan.more_sources, *named_paths)
    others = [os.path.realpath(path) for path in used if path is not None]
    if os.path.realpath(report) in others:
        raise UsageError(f"the report {report} would replace a file of this render", "choose another name for --report")
    hint = "choose a folder that can be written with --report"
    if report.is_dir():
        raise OutputUnwritableError(f"the report {report} is a folder", hint)
    if report.exists() and not report.is_file():
        raise OutputUnwritableError(f"the report {report} is a pipe or a device, not a file", hint)
    if not report.parent.is_dir():
        raise OutputUnwritableError(f"there is no folder {report.parent} for the report", hint)
    if not os.access(report.parent, os.W_OK | os.X_OK):
        raise OutputUnwritableError(f"the folder {report.parent} of the report is read-only", hint)


def command(
    context: typer.Context,
    target: Annotated[
        Path | None,
        typer.Option(help="Clip whose person gets the face and the words.", readable=False, show_default=False),
    ] = None,
    source: Annotated[
        list[Path] | None,
        typer.Option(
            help="Photo of the face to put in; needed unless --no-swap. Again for more photos of the same person: "
            "the identity is their mean, the skin that of the best.",
            metavar="PHOTO",
            readable=False,
            show_default=False,
        ),
    ] = None,
    audio: Annotated[
        Path | None,
        typer.Option(
            help="Voice: a sound file, or a video whose sound is taken. Without it: the target's own sound.",
            readable=False,
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Clip to write. Without it: TARGET-dubbed.mp4 in the current folder.", show_default=False),
    ] = None,
    system: Annotated[
        str, typer.Option(help="What dubs: swaptalk, or a cascade of published parts such as wav2lip, for comparison.")
    ] = DEFAULTS["system"],
    preset: Annotated[
        Literal["auto", "compact", "paper"], typer.Option(help="Set of weights; auto takes the best complete one.")
    ] = DEFAULTS["preset"],
    weights: Annotated[
        Path | None,
        typer.Option(help="Preset folder to use, instead of looking for the set.", readable=False, show_default=False),
    ] = DEFAULTS["weights"],
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Where the networks run; auto says what it took.")
    ] = DEFAULTS["device"],
    mode: Annotated[
        Literal["cross", "self"],
        typer.Option(help="cross: any voice. self: the target's own voice, the first frame as reference."),
    ] = "cross",
    order: Annotated[
        Literal["swap-sync", "sync-swap"], typer.Option(help="Which of the two latent edits comes first.")
    ] = "swap-sync",
    swap: Annotated[bool, typer.Option("--swap/--no-swap", help="Give the target the source's face.")] = DEFAULTS[
        "swap"
    ],
    sync: Annotated[bool, typer.Option("--sync/--no-sync", help="Move the lips with the voice.")] = DEFAULTS["sync"],
    face: Annotated[
        str | None,
        typer.Option(help="Whose face: a number from `talkswap faces`, or a photo of the person.", show_default=False),
    ] = DEFAULTS["face"],
    faces: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            help="One person's face: ID=PHOTO, with ID as in --face. For each person once, and again for more photos.",
            metavar="ID=PHOTO",
            show_default=False,
        ),
    ] = None,
    voice: Annotated[
        list[str] | None,
        typer.Option(
            help="One person's voice: ID=SOUND. Without --audio the voices together are the clip's sound.",
            metavar="ID=SOUND",
            show_default=False,
        ),
    ] = None,
    silence: Annotated[
        Literal["neutral", "original"],
        typer.Option(
            help="What the mouth does where nobody speaks. neutral: rests, closed. original: as in the target."
        ),
    ] = DEFAULTS["silence"],
    occlusion: Annotated[
        bool,
        typer.Option(
            "--occlusion/--no-occlusion", help="Leave hands, microphones and hair in front of a face as they are."
        ),
    ] = DEFAULTS["occlusion"],
    fit: Annotated[
        Literal["clip", "voice", "loop", "bounce", "freeze"],
        typer.Option(
            help="When voice and clip differ in length. clip: exactly the target's frames, a longer voice is cut. "
            "voice: end with a shorter voice. loop, bounce, freeze: stretch the clip to a longer voice."
        ),
    ] = DEFAULTS["fit"],
    start: Annotated[
        str | None,
        typer.Option(
            help="Dub and write only from here on: seconds or HH:MM:SS.mmm; the voice begins there.",
            show_default=False,
            metavar="TIME",
        ),
    ] = None,
    end: Annotated[
        str | None,
        typer.Option(
            help="Dub and write only up to here: seconds or HH:MM:SS.mmm.", show_default=False, metavar="TIME"
        ),
    ] = None,
    audio_mix: Annotated[
        Literal["replace", "keep", "duck"],
        typer.Option(
            help="The target's own sound beside a voice. replace: the voice takes its place. keep: it stays as a second "
            "track. duck: it goes on under the voice, lower while somebody speaks. Other tracks always stay."
        ),
    ] = DEFAULTS["audio_mix"],
    crf: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Constant quality of the encoder: lower is better. Without it the encoder's own: 18 for libx264, "
            "which looks lossless.",
            show_default=False,
        ),
    ] = DEFAULTS["crf"],
    encoder: Annotated[
        str,
        typer.Option(
            help="Video encoder: libx264, libx265, libvpx-vp9, libsvtav1, prores_ks, ffv1, h264_nvenc, hevc_nvenc, "
            "h264_videotoolbox or hevc_videotoolbox. auto: libx264, in .webm libvpx-vp9."
        ),
    ] = DEFAULTS["encoder"],
    encoder_preset: Annotated[
        str,
        typer.Option(
            help="Effort of the encoder, ultrafast to veryslow; the profile of ProRes, proxy to 4444xq. "
            "auto: veryfast; hq for ProRes."
        ),
    ] = DEFAULTS["encoder_preset"],
    pixel_format: Annotated[
        str,
        typer.Option(
            help="yuv420p, yuv422p, yuv444p, or one of these with 10le at the end for ten bits. "
            "auto: as deep as the target, where the encoder can."
        ),
    ] = DEFAULTS["pixel_format"],
    batch_size: Annotated[
        int, typer.Option(min=0, help="Frames per network call; 0 = chosen from the device's memory.")
    ] = DEFAULTS["batch_size"],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = DEFAULTS["overwrite"],
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Do not go on where an interrupted render of this output stopped.")
    ] = DEFAULTS["fresh"],
    provenance: Annotated[
        bool,
        typer.Option("--provenance/--no-provenance", help="Mark the result as synthetic: tags, C2PA, invisible mark."),
    ] = DEFAULTS["provenance"],
    sign_cert: Annotated[
        Path | None,
        typer.Option(
            help="PEM chain that signs the C2PA manifest, or TALKSWAP_SIGN_CERT. Without it: a local certificate.",
            readable=False,
            show_default=False,
        ),
    ] = DEFAULTS["sign_cert"],
    sign_key: Annotated[
        Path | None,
        typer.Option(help="PEM key of --sign-cert, or TALKSWAP_SIGN_KEY.", readable=False, show_default=False),
    ] = DEFAULTS["sign_key"],
    timestamp_url: Annotated[
        str | None,
        typer.Option(help="Time-stamp authority to ask (reaches the network).", show_default=False, metavar="URL"),
    ] = DEFAULTS["timestamp_url"],
    plan_file: Annotated[
        Path | None,
        typer.Option(
            "--plan",
            help="Render what a plan file says: one plan or a list, from --save-plan or --dry-run.",
            show_default=False,
            metavar="FILE",
        ),
    ] = None,
    plan_to_save: Annotated[
        Path | None,
        typer.Option(
            "--save-plan", help="Write the plan for --plan, and render nothing.", show_default=False, metavar="FILE"
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check all inputs, make a few frames, print the plan with the time, memory and disk that it needs as "
            "JSON; write nothing.",
        ),
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write what the render did as JSON.", show_default=False, metavar="FILE")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress; warnings and the last line stay.")] = False,
) -> None:
    """Dub a clip: SOURCE's face, AUDIO's words, everything else as it was in TARGET."""
    if plan_file is not None:
        plans = planned(context, plan_file, overwrite, fresh)
        if report is not None:
            for one in plans:
                check_report(report, one)
        if dry_run:
            show(plans, several=len(plans) > 1)
        else:
            carry_out(plans, quiet, report)
        return
    if target is None:
        raise UsageError("there is no clip to dub", "name one with --target, or a plan with --plan")
    from talkswap.media.index import parse_time

    plan = RenderPlan(
        source=source[0] if source else None,
        more_sources=tuple(source[1:]) if source else (),
        map=named(faces, "--map", "PHOTO"),
        voices=named(voice, "--voice", "SOUND"),
        silence=silence,
        occlusion=occlusion,
        target=target,
        audio=audio,
        output=output or Path(f"{target.stem}-dubbed.mp4"),
        system=system,
        preset=preset,
        weights=weights,
        device=device,
        options={} if system != "swaptalk" else {"mode": mode, "order": order},
        swap=swap,
        sync=sync,
        face=face,
        fit=fit,
        start=parse_time(start, "--start") if start is not None else Fraction(0),
        end=parse_time(end, "--end") if end is not None else None,
        audio_mix=audio_mix,
        crf=crf,
        encoder=encoder,
        encoder_preset=encoder_preset,
        pixel_format=pixel_format,
        batch_size=batch_size,
        overwrite=overwrite,
        fresh=fresh,
        provenance=provenance,
        sign_cert=sign_cert,
        sign_key=sign_key,
        timestamp_url=timestamp_url,
    )
    if report is not None:
        check_report(report, plan)
    if plan_to_save is not None:
        save_plan(plan_to_save, plan, overwrite)
    if dry_run:
        show([plan], several=False)
    elif plan_to_save is None:
        carry_out([plan], quiet, report)
