"""``render --plan``: the renders of a plan file, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from talkswap.cli.output import choose_progress, note, print_error, print_warning, to_json, write_json
from talkswap.errors import OutputExistsError, OutputUnwritableError, PartialError, TalkswapError, UsageError
from talkswap.types import RenderPlan, RenderReport

BESIDE_A_PLAN = {"plan_file", "overwrite", "fresh", "dry_run", "report", "quiet"}


def last_line(report: RenderReport) -> str:
    """Where the clip is and what it took: the one line that a render prints on stdout."""
    return (
        f"{report.output}: {report.frames_out} frames, {report.video_seconds:.2f} s of video in {report.seconds:.1f} s"
        f", real-time factor {report.real_time_factor:.2f}, {report.preset} weights, {report.device}"
    )


def planned(context: typer.Context, file: Path, overwrite: bool, fresh: bool) -> list[RenderPlan]:
    """The plans of a file, where no option contradicts them.

    Raises:
        UsageError: an option was given that a plan decides, or the file is no plan.
        InputMissingError: there is no such file.
    """
    from talkswap.render.plan_file import read_plans

    typed = [
        name for name in context.params if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    if extra := sorted(name.replace("_", "-") for name in typed if name not in BESIDE_A_PLAN):
        raise UsageError(f"the plan {file} decides what --{', --'.join(extra)} would", "change the plan instead")
    return [replace(p, overwrite=p.overwrite or overwrite, fresh=p.fresh or fresh) for p in read_plans(file)]


def save_plan(file: Path, plan: RenderPlan, overwrite: bool) -> None:
    """Write a plan for ``--plan``.

    Raises:
        OutputExistsError: the file is there and ``overwrite`` is false.
        OutputUnwritableError: its folder is missing or read-only.
    """
    from talkswap.render.plan_file import write_plans

    if file.exists() and not file.is_file():
        raise OutputUnwritableError(
            f"{file} is a {'directory' if file.is_dir() else 'device'}", "name a file with --save-plan"
        )
    if file.exists() and not overwrite:
        raise OutputExistsError(f"{file} already exists", "choose another name, or allow it with --overwrite")
    write_plans(file, [plan])
    note(f"the plan is in {file}, nothing was rendered; `talkswap render --plan {file}` does it")


def show(plans: Sequence[RenderPlan], several: bool) -> None:
    """Print what the renders would do (``--dry-run``), as a file that ``--plan`` takes."""
    from talkswap.render.render import plan_summary

    summaries = [plan_summary(plan) for plan in plans]
    typer.echo(to_json({"plans": summaries} if several else summaries[0]))


def carry_out(plans: Sequence[RenderPlan], quiet: bool, report: Path | None) -> None:
    """Render one plan after another; of several, one that fails is named and the others go on.

    Raises:
        TalkswapError: the only plan's own, or how many of several failed.
    """
    from talkswap.render.render import render

    done: list[RenderReport] = []
    for plan in plans:
        try:
            with choose_progress(quiet) as progress:
                found = render(plan, progress)
        except TalkswapError as error:
            if len(plans) == 1:
                raise
            error.message = f"{plan.output}: {error.message}"
            print_error(error)
            continue
        for warning in found.warnings:
            print_warning(warning)
        typer.echo(last_line(found))  # before the report: the clip is there, whatever happens to that
        done.append(found)
    if report is not None and done:
        content: Any = done[0] if len(plans) == 1 else done
        write_json(report, content)
    if failed := len(plans) - len(done):
        raise PartialError(f"{failed} of {len(plans)} renders failed", "what failed stands above; the others are done")
