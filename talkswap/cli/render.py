"""``talkswap render``: the whole corridor for one clip, or for each plan of a file; ``talkswap batch``: for each row of a table.

The options are the fields of :class:`~talkswap.types.RenderPlan` and those of the system that ``--system`` names.
"""

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from talkswap.cli import output
from talkswap.cli.options import option_fields, option_parameters, option_values, system_among
from talkswap.errors import OutputExistsError, OutputUnwritableError, PartialError, TalkswapError, UsageError
from talkswap.types import RenderPlan, RenderReport

BESIDE_A_PLAN = {"plan_file", "overwrite", "fresh", "dry_run", "report", "quiet"}
"""Options that go together with ``--plan``."""


def build_command(arguments: Sequence[str]) -> Callable[..., None]:
    """The command, with the options of the system that the arguments name.

    Raises:
        UsageError: there is no such system.
    """
    system = system_among(arguments) if "render" in arguments else None
    own = [] if system is None else option_parameters(system.options)

    def command(
        context: typer.Context,
        *,
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
                help="Check all inputs, render a few frames, print the plan with the time, memory and disk that it "
                "needs as JSON; write nothing.",
            ),
        ] = False,
        report: Annotated[
            Path | None, typer.Option(help="Write what the render did as JSON.", show_default=False, metavar="FILE")
        ] = None,
        quiet: Annotated[
            bool, typer.Option("--quiet", "-q", help="No progress; warnings and the last line stay.")
        ] = False,
        **given: Any,
    ) -> None:
        """Dub a clip: SOURCE's face, AUDIO's words, everything else as it was in TARGET."""
        if plan_file is not None:
            plans = read_plan_file(context, plan_file, given["overwrite"], given["fresh"])
        else:
            plans = [plan_of(given, {} if system is None else option_values(system.options, given))]
        if report is not None:
            for plan in plans:
                check_report(report, plan)
        if plan_to_save is not None:
            save_plan(plan_to_save, plans[0], given["overwrite"])
        if dry_run:
            print_summaries(plans)
        elif plan_to_save is None:
            render_plans(plans, quiet, report)

    # Typer reads the signature: the fields of the plan and of the system stand where **given is.
    signature = inspect.signature(command, eval_str=True)
    fixed = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    command.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[fixed[0], *option_parameters(RenderPlan), *own, *fixed[1:]]
    )
    return command


def unknown_option(flag: str, arguments: Sequence[str]) -> UsageError | None:
    """Why ``render`` has no such option: another system has it; None where none does."""
    from talkswap.systems.registry import systems

    name = system_among(arguments).name
    owners = [s.name for s in systems().values() for own in option_fields(s.options) if flag == f"--{own.name}"]
    if not owners:
        return None
    return UsageError(f"the system {name} has no option {flag}", f"leave it out, or use --system {owners[0]}")


def plan_of(given: dict[str, Any], options: dict[str, Any]) -> RenderPlan:
    """The plan that a command's arguments stand for.

    Raises:
        UsageError: there is no target, or an option can't be read.
    """
    values = option_values(RenderPlan, given)
    if values["target"] is None:
        raise UsageError("there is no clip to dub", "name one with --target, or a plan with --plan")
    values["output"] = values["output"] or Path(f"{values['target'].stem}-dubbed.mp4")
    return RenderPlan(**values, options=options)


def check_report(report: Path, plan: RenderPlan) -> None:
    """Refuse a report that could not be written when the render is done.

    Raises:
        UsageError: it would replace the clip, or something that the clip is made from.
        OutputUnwritableError: its folder is missing or read-only, or it is a folder itself.
    """
    named_paths = [path for _, path in (*plan.map, *plan.voices)]
    paths = (plan.output, plan.target, plan.source, plan.audio, *plan.more_sources, *named_paths)
    if os.path.realpath(report) in [os.path.realpath(path) for path in paths if path is not None]:
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


def read_plan_file(context: typer.Context, file: Path, overwrite: bool, fresh: bool) -> list[RenderPlan]:
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
    output.note(f"the plan is in {file}, nothing was rendered; `talkswap render --plan {file}` does it")


def print_summaries(plans: Sequence[RenderPlan]) -> None:
    """What the renders would do (``--dry-run``), as a file that ``--plan`` takes."""
    from talkswap.render.forecast import plan_summary

    summaries = [plan_summary(plan) for plan in plans]
    typer.echo(output.to_json({"plans": summaries} if len(plans) > 1 else summaries[0]))


def render_plans(plans: Sequence[RenderPlan], quiet: bool, report: Path | None) -> None:
    """Render one plan after another; of several, one that fails is named and the others go on.

    Raises:
        TalkswapError: the only plan's own, or how many of several failed.
    """
    from talkswap.render.render import render_clip

    reports: list[RenderReport] = []
    for plan in plans:
        try:
            with output.choose_progress(quiet) as progress:
                finished = render_clip(plan, progress)
        except TalkswapError as error:
            if len(plans) == 1:
                raise
            error.message = f"{plan.output}: {error.message}"
            output.print_error(error)
            continue
        for warning in finished.warnings:
            output.print_warning(warning)
        typer.echo(last_line(finished))  # before the report: the clip is there, whatever happens to that
        reports.append(finished)
    if report is not None and reports:
        output.write_json(report, reports[0] if len(plans) == 1 else reports)
    if failed := len(plans) - len(reports):
        raise PartialError(f"{failed} of {len(plans)} renders failed", "what failed stands above; the others are done")


def last_line(report: RenderReport) -> str:
    """Where the clip is and what it took: the one line that a render prints on stdout."""
    return (
        f"{report.output}: {report.frames_out} frames, {report.video_seconds:.2f} s of video in {report.seconds:.1f} s"
        f", real-time factor {report.real_time_factor:.2f}, {report.preset} weights, {report.device}"
    )


def batch(
    jobs_table: Annotated[
        Path,
        typer.Argument(
            metavar="JOBS.csv", help="CSV with a heading: target, source, audio, output, and any other field of a plan."
        ),
    ],
    workers: Annotated[int, typer.Option(min=1, help="Renders at once on a machine.")] = 1,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Spread over a Ray cluster at this address, whose machines see the same files; `local` starts one here.",
            metavar="ADDRESS",
            show_default=False,
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress; the table at the end stays.")] = False,
) -> None:
    """Render every row of JOBS.csv; what is done already is skipped, what failed is tried again."""
    from talkswap.render.batch import DONE, FAILED, read_jobs, results_file, run_jobs

    jobs = read_jobs(jobs_table)
    with output.choose_progress(quiet, "jobs") as progress:
        results = run_jobs(jobs, results_file(jobs_table), workers, progress, ray)
    rows = [
        [r.state, f"{r.seconds:.1f} s", str(r.exit_code), output.printable(r.output), output.printable(r.message)]
        for r in results
    ]
    typer.echo(output.table(["STATE", "TIME", "CODE", "OUTPUT", "MESSAGE"], rows))
    failed = [result for result in results if result.state == FAILED]
    if failed:
        done = sum(result.state == DONE for result in results)
        raise PartialError(
            f"{len(failed)} of {len(results)} jobs failed, {done} were done now",
            f"mend what the table says and run the same command again; {results_file(jobs_table)} keeps what was said",
        )
