"""Many renders from one table, on this machine or on many; a rerun skips what is done.

Each job is a process of its own (``talkswap render --plan``), so that one that fails, or that the system kills for memory,
takes no other with it.  What became of each is one line of ``JOBS.results.jsonl`` beside the table, written when the job
ends; a job is done when its last line says so, nothing of it has changed since, and its output is still there.
"""

import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from talkswap.errors import DependencyError, InputMissingError, OutputUnwritableError, UsageError
from talkswap.render.plan_file import MOST_BYTES, plan_from_json, plan_to_json
from talkswap.systems.registry import find_system, systems
from talkswap.types import DEFAULT_SYSTEM, ProgressEvent, RenderPlan

DONE, FAILED, SKIPPED = "done", "failed", "skipped"
BETWEEN = ";"  # between several files in one cell
_YES, _NO = {"yes", "true", "1"}, {"no", "false", "0"}
GRACE_SECONDS = 10.0  # within which a render has to stop
_LAST_CHARACTERS = 2000  # of what a failed job said


@dataclass(frozen=True)
class Job:
    """One row of the table."""

    row: int  # line of the table on which it ends, the heading is line 1
    plan: RenderPlan


@dataclass(frozen=True)
class JobResult:
    """What became of one job."""

    row: int
    output: str
    state: str  # done | failed | skipped
    exit_code: int
    message: str  # what it said last
    seconds: float  # wall time
    key: str = ""  # what the result was made from, see `job_key`
    stamp: str = ""  # size and time of the output when it was finished


Notify = Callable[[ProgressEvent], None]


def read_jobs(table: Path) -> list[Job]:
    """The jobs of a CSV table.

    The heading names fields of :class:`~talkswap.types.RenderPlan` (``target`` is needed; dashes may stand for
    underscores); an empty cell is the default.  Paths are relative to the table's folder, several stand with ``;`` between,
    people as ``NUMBER=FILE``.  Without ``output`` it is ``TARGET-dubbed.mp4`` beside the table.

    Raises:
        InputMissingError: there is no such file.
        UsageError: no rows, an unknown column, a value of the wrong kind, or two rows with one output.
    """
    if not table.is_file():
        raise InputMissingError(f"there is no table {table}", "write one with a heading: source,target,audio,output")
    if table.stat().st_size > MOST_BYTES:
        raise UsageError(f"{table} is too large for a table of jobs", "save it as CSV in UTF-8")
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{table} is no CSV table: {error}", "save it as CSV in UTF-8") from error
    jobs = [Job(line, _plan(row, line, table)) for line, row in rows if any(_cells(row))]
    if not jobs:
        raise UsageError(f"{table} has no job in it", "write a heading and a row for each clip")
    first: dict[Path, int] = {}
    for job in jobs:
        place = Path(os.path.abspath(job.plan.output))
        if place in first:
            raise UsageError(
                f"rows {first[place]} and {job.row} of {table} both write {job.plan.output}", "give each its own output"
            )
        first[place] = job.row
    return jobs


def _cells(row: dict[str | Any, Any]) -> list[Any]:
    return [value.strip() for name, value in row.items() if name is not None and value is not None]


def _plan(row: dict[str | Any, Any], line: int, table: Path) -> RenderPlan:
    where = f"row {line} of {table}"
    if None in row:
        raise UsageError(f"{where} has more cells than the heading", "put cells with commas into quotes")
    system = (row.get("system") or "").strip() or DEFAULT_SYSTEM
    hints = {**get_type_hints(RenderPlan), **get_type_hints(find_system(system).options)}
    del hints["options"]  # a system's own have columns like all others
    record: dict[str, Any] = {"source": None, "audio": None}
    for heading, cell in row.items():
        name, text = heading.strip().replace("-", "_"), (cell or "").strip()
        if name in hints:
            if text:
                record[name] = _value(hints[name], text, f"{where}, column {heading}")
        elif text or name not in _columns():
            columns = ", ".join(hints)
            raise UsageError(f"{table} has a column {heading!r} that {system} doesn't know", f"columns are {columns}")
    if "target" in record:
        record.setdefault("output", f"{Path(record['target']).stem}-dubbed.mp4")
    return plan_from_json(record, table.parent, where)


@cache
def _columns() -> set[str]:
    """The columns of any system; one that a row's system lacks has to be empty there."""
    return {
        field.name for system in systems().values() for kind in (RenderPlan, system.options) for field in fields(kind)
    }


def _value(hint: Any, text: str, where: str) -> Any:
    """A cell's text in JSON's types, as :func:`talkswap.render.plan_file.plan_from_json` takes them."""
    inner = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return _value(next(part for part in inner if part is not type(None)), text, where)
    if get_origin(hint) is tuple:
        items = [item.strip() for item in text.split(BETWEEN) if item.strip()]
        if get_origin(inner[0]) is not tuple:
            return items
        pairs = [item.partition("=") for item in items]
        if not all(who and sign and file for who, sign, file in pairs):
            raise UsageError(f"{where} has {text!r}", "write NUMBER=FILE, several with ; between")
        return [[who, file] for who, _, file in pairs]
    if hint is bool:
        if text.lower() not in _YES | _NO:
            raise UsageError(f"{where} has {text!r}", "write yes or no")
        return text.lower() in _YES
    try:
        return hint(text) if hint in (int, float) else text
    except ValueError as error:
        raise UsageError(f"{where} has {text!r}", "write a number") from error


def job_key(plan: RenderPlan) -> str:
    """sha256 of a plan with size and time of its input files: changes whenever they may make another result.

    Weights are not among them: those of a preset are found by the render, perhaps on another machine.
    """
    record = plan_to_json(plan)
    del record["overwrite"], record["fresh"]
    stamps = [stamp(path) for path in input_files(plan)]
    return hashlib.sha256(json.dumps([record, stamps], sort_keys=True).encode()).hexdigest()


def input_files(plan: RenderPlan) -> Iterator[Path]:
    """Every file that a plan reads, except weights; among them photos that name a person, which may be none."""
    yield from (path for path in (plan.source, plan.target, plan.audio, *plan.more_sources) if path is not None)
    yield from (path for _, path in (*plan.map, *plan.voices))
    yield from (Path(who) for who in (plan.face, *(who for who, _ in (*plan.map, *plan.voices))) if who is not None)


def stamp(path: Path) -> str:
    """Size and time of a file, empty where there is none."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def results_file(table: Path) -> Path:
    """Where the results of a table's jobs are written."""
    return table.with_name(table.stem + ".results.jsonl")


def read_results(file: Path) -> dict[str, JobResult]:
    """The last result of each output; skips lines that a crash left half-written."""
    results: dict[str, JobResult] = {}
    if file.is_file():
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                result = JobResult(**json.loads(line))
            except (ValueError, TypeError):
                continue
            results[result.output] = result
    return results


def is_done(job: Job, results: dict[str, JobResult]) -> bool:
    """Whether a job's result is there, and nothing that decides it has changed since."""
    last = results.get(os.path.abspath(job.plan.output))
    return (
        last is not None
        and last.state == DONE
        and last.key == job_key(job.plan)
        and bool(last.stamp)
        and last.stamp == stamp(job.plan.output)
    )


class Children:
    """Running renders, so that all of them can be ended; one that starts after that ends at once."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._running: set[subprocess.Popen[str]] = set()

    def add(self, process: subprocess.Popen[str]) -> None:
        """List a process that was started."""
        self._running.add(process)
        if self.stopped.is_set():  # perhaps after `end` had looked
            process.terminate()

    def discard(self, process: subprocess.Popen[str]) -> None:
        """Forget one that has ended."""
        self._running.discard(process)

    def end(self) -> None:
        """Ask all to stop, so that they clean up behind them; kills processes that ignore SIGTERM."""
        self.stopped.set()
        running = list(self._running)
        for process in running:
            process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        while any(process.poll() is None for process in running) and time.monotonic() < deadline:
            time.sleep(0.1)
        for process in running:
            if process.poll() is None:
                process.kill()


def run_job(job: Job, threads: int, children: Children | None = None) -> JobResult:
    """Render one job in a process of its own.

    Args:
        job: what to do.
        threads: CPU threads that the process may use; 0 = its own choice.
        children: lists the process while it runs, so that the caller can end it.
    """
    started = time.perf_counter()
    key = job_key(job.plan)
    environment = dict(os.environ)
    if threads:
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    with tempfile.TemporaryDirectory(prefix="talkswap-batch-") as folder:
        plan = Path(folder) / "plan.json"
        plan.write_text(json.dumps(plan_to_json(job.plan)), encoding="utf-8")
        process = subprocess.Popen(
            # -P: a folder named talkswap in the current one, such as a clone, is not what runs.
            [sys.executable, "-P", "-m", "talkswap", "render", "--plan", str(plan), "--quiet"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True,
            encoding="utf-8", errors="replace",
        )  # fmt: skip
        if children is not None:
            children.add(process)
        output, errors = process.communicate()
        if children is not None:
            children.discard(process)
    good = process.returncode == 0
    return JobResult(
        job.row,
        os.path.abspath(job.plan.output),
        DONE if good else FAILED,
        process.returncode,
        _last_words(output if good else errors),
        round(time.perf_counter() - started, 2),
        key,
        stamp(job.plan.output) if good else "",
    )


def _last_words(text: str) -> str:
    """The error of a failed job with its hint, else its last line."""
    lines = [line.strip() for line in text[-_LAST_CHARACTERS:].splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    hints = [line for line in lines if line.startswith("hint: ")]
    if errors:
        return "; ".join([errors[-1], *hints[-1:]])
    return lines[-1] if lines else "no message"


def run_jobs(
    jobs: Sequence[Job], results: Path, workers: int = 1, notify: Notify | None = None, cluster: str | None = None
) -> list[JobResult]:
    """Work off all jobs that are not done.

    Args:
        jobs: from :func:`read_jobs`.
        results: the file that results are appended to, see :func:`results_file`.
        workers: jobs at once.
        notify: called when a job ends.
        cluster: address of a Ray cluster whose machines see the same files; ``local`` starts one here; None = no Ray.

    Returns:
        One result for each job, in the table's order.

    Raises:
        OutputUnwritableError: the results cannot be written.
        DependencyError: ``cluster`` was given and Ray is not installed.
        UsageError: no cluster answers at this address.
        KeyboardInterrupt: passed on; running renders are ended and keep their finished segments.
    """
    earlier = read_results(results)
    answers = {
        job.row: JobResult(job.row, os.path.abspath(job.plan.output), SKIPPED, 0, "done before", 0.0)
        for job in jobs
        if is_done(job, earlier)
    }
    waiting = [job for job in jobs if job.row not in answers]
    finished = len(answers)
    run = _on_cluster if cluster is not None else _on_this_machine
    for result in run(waiting, max(1, workers), cluster or ""):
        _append(results, result)
        answers[result.row] = result
        finished += 1
        if notify is not None:
            name = Path(result.output).name
            message = "" if result.state == DONE else f"{name} failed: {result.message}"
            notify(ProgressEvent("jobs", finished, len(jobs), message))
    return [answers[job.row] for job in jobs]


def _append(file: Path, result: JobResult) -> None:
    try:
        with open(file, "a", encoding="utf-8") as out:
            out.write(json.dumps(asdict(result)) + "\n")  # in ASCII: names can have bytes that are no text
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise OutputUnwritableError(
            f"the results file {file} cannot be written ({error.strerror})", "make the table's folder writable"
        ) from error


def _on_this_machine(jobs: Sequence[Job], workers: int, cluster: str) -> Iterator[JobResult]:
    """Results as they come; when the caller stops early, running renders are ended."""
    threads = max(1, (os.cpu_count() or 1) // workers) if workers > 1 else 0
    children = Children()

    def one(job: Job) -> JobResult | None:
        return None if children.stopped.is_set() else run_job(job, threads, children)

    with ThreadPoolExecutor(workers, thread_name_prefix="talkswap-batch") as pool:
        futures = [pool.submit(one, job) for job in jobs]
        try:
            for future in as_completed(futures):
                result = future.result()
                if result is not None:
                    yield result
        finally:
            children.stopped.set()
            for future in futures:
                future.cancel()
            children.end()


def _on_cluster(jobs: Sequence[Job], workers: int, cluster: str) -> Iterator[JobResult]:
    """Results as they come from a Ray cluster; Ray places one render per ``workers``-th part of a machine's cores."""
    try:
        import ray
    except ImportError as error:
        raise DependencyError("many machines need the package ray", 'run `pip install "talkswap[ray]"`') from error
    os.environ.setdefault("RAY_worker_niceness", "0")  # else a cluster of our own stands behind everything else
    try:
        # "local" is a cluster of our own, whichever may run here already
        ray.init(address=cluster, log_to_driver=False, include_dashboard=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(f"no Ray cluster answers at {cluster}", "give its address, or `--ray local`") from error
    try:
        cores = max(1, (os.cpu_count() or 1) // workers)
        remote = ray.remote(num_cpus=cores, max_retries=1)(run_job)
        pending = {remote.remote(job, cores): job for job in jobs}
        while pending:
            (ready, *_), _ = ray.wait(list(pending), num_returns=1)
            job = pending.pop(ready)
            try:
                yield ray.get(ready)
            except ray.exceptions.RayError as error:  # its machine went away, or wanted the memory back: one job less
                reason = str(error).strip().splitlines() or [type(error).__name__]
                yield JobResult(job.row, os.path.abspath(job.plan.output), FAILED, 1, reason[0], 0.0)
    finally:
        ray.shutdown()
