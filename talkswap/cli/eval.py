"""``talkswap eval …``: comparisons as in the papers, their ablations, and single clips."""

from __future__ import annotations

import shlex
import sys
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from talkswap.cli.options import DeviceName, PresetName, Quiet, WeightsFolder, command_group
from talkswap.cli.output import choose_progress, note, print_warning, table, to_json
from talkswap.errors import PartialError, UsageError
from talkswap.types import DEFAULT_SYSTEM

if TYPE_CHECKING:
    from talkswap.evaluation.results import Evaluation, MethodResult
    from talkswap.evaluation.study.scores import Answers, Interval, Score
    from talkswap.evaluation.study.study import StudyKey

MOST_NAMED = 20  # bad rows; the rest are counted

Data = Annotated[Path, typer.Option(help="Folder made by `talkswap data prepare`.", show_default=False)]
Out = Annotated[Path, typer.Option(help="Folder for the report; new, or with --resume.", show_default=False)]
SystemName = Annotated[str, typer.Option("--system", help="Whose rows and published tables are taken.")]
Pairs = Annotated[int, typer.Option(min=1, help="(source clip, target clip) pairs to draw; 112 is the paper's number.")]
Seed = Annotated[int, typer.Option(min=0, help="Decides which pairs are drawn.")]
Limit = Annotated[int, typer.Option(min=0, help="Run only the first so many of the drawn pairs; 0 = all.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what is in the folder; what failed is tried again.")]
Split = Annotated[
    Literal["val", "all"],
    typer.Option(help="val: held-out speakers. all: every clip, where nothing was ever trained on any of them."),
]
Seconds = Annotated[
    float | None, typer.Option(min=0.2, help="Use only the beginning of each clip.", show_default="whole clips")
]
Portraits = Annotated[
    Path | None,
    typer.Option(help="Folder of pictures that give the faces instead of the source clips.", show_default=False),
]
Identity = Annotated[
    Path | None,
    typer.Option(
        "--identity-network",
        help="ONNX face recognition network that judges identity; one that no training has seen.",
        show_default="buffalo_l's if downloaded, else our own",
    ),
]
Syncnet = Annotated[
    Path | None, typer.Option(help="SyncNet's weights (.safetensors).", show_default="syncnet_v2 if downloaded")
]
Inception = Annotated[
    Path | None, typer.Option(help="Inception's weights for FID.", show_default="inception if downloaded")
]


def exact_seconds(seconds: float | None) -> Fraction | None:
    """Seconds as typed, to a thousandth."""
    return None if seconds is None else Fraction(seconds).limit_denominator(1000)


def print_outcome(evaluation: Evaluation, out: Path) -> None:
    """Print the figures by setting and method; those of compact judges stand apart.

    Raises:
        PartialError: a method failed on a pair.
    """
    comparable = {column.metric.key: column.comparable for column in evaluation.columns}

    def figures(method: MethodResult) -> dict[str, Any]:
        if method.not_run:
            return {"not_run": method.not_run}
        values = {key: figure.value for key, figure in method.figures.items()}
        return {
            "pairs": len(method.pairs),
            "failed": len(method.failed),
            "figures": {key: value for key, value in values.items() if comparable.get(key) is True},
            "compact": {key: value for key, value in values.items() if comparable.get(key) is False},
        }

    note(f"report: {out / 'report.html'}")
    settings = {s.setting: {method.key: figures(method) for method in s.methods} for s in evaluation.settings}
    judges = {c.judge.kind: c.judge.name for c in evaluation.columns if c.judge is not None}
    typer.echo(to_json({"report": str(out / "report.html"), "judges": judges, "settings": settings}))
    # The figures stand already; an exit code alone tells scripts that some are missing.
    failures = [(s.setting, m.label, pair) for s in evaluation.settings for m in s.methods for pair in m.failed]
    if failures:
        setting, label, pair = failures[0]
        total = sum(len(m.pairs) for s in evaluation.settings for m in s.methods)
        raise PartialError(
            f"{len(failures)} of {total} results failed, first {label} on pair {pair.number + 1} ({setting}): {pair.error}",
            f"everything else is in {out / 'report.html'}; --resume tries the failed ones again",
        )


def hdtf(
    data: Data,
    out: Out,
    system: SystemName = DEFAULT_SYSTEM,
    setting: Annotated[
        Literal["self", "cross", "both"],
        typer.Option(help="self: the target's own voice. cross: the source clip's voice."),
    ] = "both",
    pairs: Pairs = 112,
    seed: Seed = 0,
    methods: Annotated[
        str,
        typer.Option(
            "--methods",
            "--method",
            help="Rows of any system, with commas between; `all` for every row. ground-truth is always there.",
            show_default="the system's own",
        ),
    ] = "",
    limit: Limit = 0,
    resume: Resume = False,
    split: Split = "val",
    seconds: Seconds = None,
    portraits: Portraits = None,
    preset: PresetName = "auto",
    weights: WeightsFolder = None,
    device: DeviceName = "auto",
    identity_network: Identity = None,
    syncnet: Syncnet = None,
    inception: Inception = None,
    quiet: Quiet = False,
) -> None:
    """Compare methods as the papers do: every method on every pair, scored beside the ground truth, as a report.

    The folder gets report.html, report.md and report.json, with the clips and pictures they show.  A method whose parts
    are not on this machine is named and not run.
    """
    from talkswap.evaluation.judges.judges import JudgeFiles
    from talkswap.evaluation.protocol.hdtf import evaluate
    from talkswap.evaluation.protocol.methods import Setup
    from talkswap.evaluation.protocol.plan import EvaluationPlan

    names = tuple(name.strip() for name in methods.split(",") if name.strip())
    plan = EvaluationPlan(
        data, out, system, setting, pairs, seed, names, limit, resume, split, portraits, exact_seconds(seconds),
        setup=Setup(preset, weights, device), judges=JudgeFiles(identity_network, syncnet, inception),
    )  # fmt: skip
    with choose_progress(quiet, "results") as progress:
        evaluation = evaluate(plan, progress, shlex.join(["talkswap", *sys.argv[1:]]))
    print_outcome(evaluation, out)


def clip(
    result: Annotated[Path, typer.Argument(help="Finished clip, with its sound.", readable=False, show_default=False)],
    target: Annotated[Path, typer.Option(help="Clip that it was made from.", readable=False, show_default=False)],
    source: Annotated[
        Path | None, typer.Option(help="Photo whose face was put in.", readable=False, show_default=False)
    ] = None,
    audio: Annotated[
        Path | None,
        typer.Option(
            help="Voice that drove the lips; best the clip it was spoken in. Without it: the target's own.",
            readable=False,
            show_default=False,
        ),
    ] = None,
    preset: PresetName = "auto",
    weights: WeightsFolder = None,
    identity_network: Identity = None,
    syncnet: Syncnet = None,
) -> None:
    """Score one finished clip, as JSON; FID and ID Retrieve need more than one."""
    from talkswap.evaluation.judges.judges import JudgeFiles
    from talkswap.evaluation.protocol.measure import ClipPlan, score_clip
    from talkswap.evaluation.protocol.methods import Setup
    from talkswap.evaluation.results import COMPACT_MARK

    judges = JudgeFiles(identity_network, syncnet)
    score = score_clip(ClipPlan(result, target, source, audio, setup=Setup(preset, weights), judges=judges))

    def figures(comparable: bool) -> dict[str, Any]:
        chosen = [c for c in score.columns if c.comparable is comparable and c.metric.key in score.values]
        return {
            c.metric.key: {
                "value": score.values[c.metric.key],
                "label": c.metric.label,
                "unit": c.metric.unit,
                "better": c.metric.better,
                "judge": c.judge.name if c.judge is not None else None,
            }
            for c in chosen
        }

    typer.echo(
        to_json(
            {
                "result": result,
                "setting": score.setting,
                "frames": score.frames,
                "figures": figures(True),
                "compact": {"note": COMPACT_MARK, "figures": figures(False)},
                "missing": score.missing,
            }
        )
    )


def ablation(
    table: Annotated[str, typer.Argument(help="Number of a table in the system's paper, such as IV.")],
    run: Annotated[list[str], typer.Option(help="NAME=PRESET_FOLDER, a row or two each.", show_default=False)],
    data: Data,
    out: Out,
    system: SystemName = DEFAULT_SYSTEM,
    pairs: Pairs = 112,
    seed: Seed = 0,
    limit: Limit = 0,
    resume: Resume = False,
    split: Split = "val",
    seconds: Seconds = None,
    preset: PresetName = "auto",
    device: DeviceName = "auto",
    identity_network: Identity = None,
    syncnet: Syncnet = None,
    inception: Inception = None,
    quiet: Quiet = False,
) -> None:
    """Fill a table of the paper's ablations with your own runs, packed by `talkswap weights pack`.

    --preset names the networks that analyse the results, the same for all rows.
    """
    from talkswap.evaluation.judges.judges import JudgeFiles
    from talkswap.evaluation.protocol.ablation import ablate, parse_runs
    from talkswap.evaluation.protocol.methods import Setup
    from talkswap.evaluation.protocol.plan import EvaluationPlan

    plan = EvaluationPlan(
        data, out, system, "both", pairs, seed, (), limit, resume, split, None, exact_seconds(seconds),
        setup=Setup(preset, None, device), judges=JudgeFiles(identity_network, syncnet, inception),
    )  # fmt: skip
    runs = parse_runs(run)
    with choose_progress(quiet, "results") as progress:
        evaluation = ablate(table, runs, plan, progress, shlex.join(["talkswap", *sys.argv[1:]]))
    print_outcome(evaluation, out)


def faces(
    clips: Annotated[Path, typer.Argument(help="Folder of clips: `videos` of a data set.", readable=False)],
    labels: Annotated[Path, typer.Argument(help="Folder of their landmarks: `clips-val`.", readable=False)],
    preset: PresetName = "auto",
    weights: WeightsFolder = None,
    device: DeviceName = "auto",
) -> None:
    """Score the networks that find and follow faces against stored landmarks, as JSON.

    Distances are in parts of the distance between the outer eye corners.
    """
    from talkswap.checkpoints.presets import find_preset
    from talkswap.device import choose_device
    from talkswap.evaluation.protocol.faces import score_faces
    from talkswap.faces.analyse import load_analyser

    folder = find_preset(preset, weights)
    analyser = load_analyser(folder.analyser, folder, choose_device(device).name)
    typer.echo(to_json(score_faces(analyser, clips, labels)))


def publish(
    report: Annotated[Path, typer.Argument(help="Folder of a report.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the copy.", show_default=False)],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier copy.")] = False,
) -> None:
    """Copy a report for others: all figures and plots, nobody's face, no path of this machine."""
    from talkswap.evaluation.report.report import publish as write

    typer.echo(str(write(report, out, overwrite).page))


def study(
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


def build_application(markup: Literal["rich"] | None) -> typer.Typer:
    """The ``eval`` group."""
    application = command_group("Measure results.", markup)
    application.command("hdtf", short_help="Compare methods on a prepared data set, as the papers do.")(hdtf)
    application.command("clip", short_help="Score one finished clip, as JSON.")(clip)
    application.command("ablation", short_help="Fill a table of the paper's ablations with your runs.")(ablation)
    application.command("faces", short_help="Score the networks that find and follow faces, as JSON.")(faces)
    application.command("publish", short_help="Copy a report without faces and paths.")(publish)
    application.command("study", short_help="Write a blinded page for raters, or score their answers.")(study)
    return application
