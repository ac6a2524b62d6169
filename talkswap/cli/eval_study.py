"""``talkswap eval study``: a page on which raters judge an evaluation's clips, and the means of their answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from talkswap.cli.output import note, print_warning, table, to_json
from talkswap.errors import UsageError

if TYPE_CHECKING:
    from talkswap.evaluation.study.scores import Answers, Interval, Score
    from talkswap.evaluation.study.study import StudyKey

MOST_NAMED = 20  # bad rows; the rest are counted


def command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="REPORT | ANSWERS...",
            help="Folder of a report; with --score the files that raters saved.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write and to give to the raters.", show_default=False)
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(help="What undoes the blinding; never give it to raters.", show_default="OUT-key.json"),
    ] = None,
    score: Annotated[bool, typer.Option("--score", help="Read answers instead of writing a page.")] = False,
    pairs: Annotated[int, typer.Option(min=0, help="Pairs of each setting, drawn with the seed; 0: all.")] = 10,
    seed: Annotated[int, typer.Option(help="Decides pairs, names and order.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing study.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a page with blinded clips and 1 to 5 ratings; with --score, print the means of the answers."""
    if score:
        if key is None:
            raise UsageError("--score needs the study's key", "name it with --key KEY.json")
        if out is not None or overwrite:
            raise UsageError("--out and --overwrite write a study, --score reads answers", "leave one of them out")
        _score(paths, key, as_json)
        return
    if len(paths) != 1:
        raise UsageError(f"a study shows one report, not {len(paths)}", "read answers with --score")
    if out is None:
        raise UsageError("there is no folder to write the study to", "name one with --out")
    # resolved, so that `--out .` has a name too
    _build(
        paths[0], out, key or out.resolve().with_name(f"{out.resolve().name}-key.json"), pairs, seed, overwrite, as_json
    )


def _build(report: Path, out: Path, key: Path, pairs: int, seed: int, overwrite: bool, as_json: bool) -> None:
    from talkswap.evaluation.study.study import StudyConfig, build_study

    def progress(done: int, of: int) -> None:
        if done and (done == of or done % 10 == 0):
            note(f"{done} of {of} clips")

    study = build_study(report, out, key, StudyConfig(seed, pairs, overwrite), progress)
    for reason in study.left_out:
        print_warning(f"left out: {reason}")
    if as_json:
        typer.echo(to_json(study))
    else:
        pairs_named = "1 pair" if study.pairs == 1 else f"{study.pairs} pairs"
        typer.echo(f"{study.page}: {study.clips} clips, {pairs_named} of {study.methods} methods")
    note(f"give raters the whole folder {out}, and keep {study.key} to yourself: it says which clip is whose")
    note("some clips are synthetic: tell raters so, and ask the people in them before you show them")


def _score(paths: list[Path], key_path: Path, as_json: bool) -> None:
    from talkswap.evaluation.study.scores import read_answers, score
    from talkswap.evaluation.study.study import read_key

    key = read_key(key_path)
    answers = read_answers(paths, key)
    for row in answers.bad[:MOST_NAMED]:
        print_warning(f"{row.file}, line {row.line}: {row.reason}")
    if answers.bad:
        print_warning(f"rows that do not count: {len(answers.bad)}; ratings that do: {len(answers.ratings)}")
    scores = score(answers, key)
    if as_json:
        typer.echo(to_json(_summary(key, answers, scores)))
        return
    rows = [
        [
            one.setting, one.label, one.question, f"{one.interval.mean:.2f}", _interval(one.interval),
            str(one.interval.ratings), str(one.interval.raters), str(one.interval.clips),
        ]
        for one in scores
    ]  # fmt: skip
    typer.echo(table(["SETTING", "METHOD", "QUESTION", "MEAN", "95% INTERVAL", "RATINGS", "RATERS", "CLIPS"], rows))
    note("intervals: Student's t, variance clustered by rater and by clip")
    for remark in sorted({one.interval.note for one in scores if one.interval.note}):
        note(remark)


def _interval(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return "-"
    return f"{interval.low:.2f} to {interval.high:.2f}"


def _summary(key: StudyKey, answers: Answers, scores: tuple[Score, ...]) -> dict[str, Any]:
    from talkswap.evaluation.study.scores import CONFIDENCE

    return {
        "study": key.study,
        "title": key.title,
        "questions": key.questions,
        "confidence": CONFIDENCE,
        "interval": "Student's t, variance clustered by rater and by clip",
        "ratings": len(answers.ratings),
        "raters": len({rating.rater for rating in answers.ratings}),
        "bad_rows": answers.bad,
        "scores": scores,
    }
