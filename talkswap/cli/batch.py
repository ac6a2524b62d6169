"""``talkswap batch``: many clips from one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from talkswap.cli.output import choose_progress, printable
from talkswap.cli.output import table as as_table
from talkswap.errors import PartialError


def command(
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
    with choose_progress(quiet, "jobs") as progress:
        results = run_jobs(jobs, results_file(jobs_table), workers, progress, ray)
    rows = [
        [r.state, f"{r.seconds:.1f} s", str(r.exit_code), printable(r.output), printable(r.message)] for r in results
    ]
    typer.echo(as_table(["STATE", "TIME", "CODE", "OUTPUT", "MESSAGE"], rows))
    failed = [result for result in results if result.state == FAILED]
    if failed:
        done = sum(result.state == DONE for result in results)
        raise PartialError(
            f"{len(failed)} of {len(results)} jobs failed, {done} were done now",
            f"mend what the table says and run the same command again; {results_file(jobs_table)} keeps what was said",
        )
