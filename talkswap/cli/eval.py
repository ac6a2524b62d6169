"""``talkswap eval …``: the paper's evaluation, its ablations, and single clips."""

from __future__ import annotations

import shlex
import sys
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from talkswap.cli import eval_study
from talkswap.cli.output import choose_progress, note, to_json
from talkswap.errors import PartialError

if TYPE_CHECKING:
    from talkswap.evaluation.judges.judges import JudgeFiles
    from talkswap.evaluation.results import Evaluation

Data = Annotated[Path, typer.Option(help="Folder made by `talkswap data prepare`.", show_default=False)]
Out = Annotated[Path, typer.Option(help="Folder for the report; new, or with --resume.", show_default=False)]
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
Preset = Annotated[Literal["auto", "compact", "paper"], typer.Option(help="Set of weights.")]
Weights = Annotated[
    Path | None,
    typer.Option(help="Preset folder to use, instead of looking for the set.", readable=False, show_default=False),
]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Where the networks run.")]
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
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


def _judges(identity: Path | None, syncnet: Path | None, inception: Path | None) -> JudgeFiles:
    from talkswap.evaluation.judges.judges import JudgeFiles

    return JudgeFiles(identity, syncnet, inception)


def _typed() -> str:
    return shlex.join(["talkswap", *sys.argv[1:]])


def _length(seconds: float | None) -> Fraction | None:
    return None if seconds is None else Fraction(seconds).limit_denominator(1000)


def _finish(found: Evaluation, out: Path) -> None:
    """Print the summary; leave with the code of partial work where a pair failed or a clip could not be had.

    Raises:
        PartialError.
    """
    typer.echo(to_json(_summary(found, out)))
    failed = [(s.setting, m.label, pair) for s in found.settings for m in s.methods for pair in m.failed]
    if failed:
        setting, label, pair = failed[0]
        total = sum(len(m.pairs) for s in found.settings for m in s.methods)
        raise PartialError(
            f"{len(failed)} of {total} results failed, first {label} on pair {pair.number + 1} ({setting}): {pair.error}",
            f"everything else is in {out / 'report.html'}; --resume tries the failed ones again",
        )


def _summary(found: Evaluation, out: Path) -> dict[str, Any]:
    """Figures by setting and method; those of compact judges stand apart."""
    kinds = {column.metric.key: column.comparable for column in found.columns}
    return {
        "report": str(out / "report.html"),
        "judges": {c.judge.kind: c.judge.name for c in found.columns if c.judge is not None},
        "settings": {
            s.setting: {
                m.key: {"not_run": m.not_run}
                if m.not_run
                else {
                    "pairs": len(m.pairs),
                    "failed": len(m.failed),
                    "figures": {k: f.value for k, f in m.figures.items() if kinds.get(k) is True},
                    "compact": {k: f.value for k, f in m.figures.items() if kinds.get(k) is False},
                }
                for m in s.methods
            }
            for s in found.settings
        },
    }


def hdtf(
    data: Data,
    out: Out,
    setting: Annotated[
        Literal["self", "cross", "both"],
        typer.Option(help="self: the target's own voice, first frame as reference. cross: the source clip's voice."),
    ] = "both",
    pairs: Pairs = 112,
    seed: Seed = 0,
    methods: Annotated[
        str, typer.Option(help="Rows, with commas between; ground-truth is always there.", show_default="all")
    ] = "",
    limit: Limit = 0,
    resume: Resume = False,
    split: Split = "val",
    seconds: Seconds = None,
    portraits: Portraits = None,
    preset: Preset = "auto",
    weights: Weights = None,
    device: Device = "auto",
    identity_network: Identity = None,
    syncnet: Syncnet = None,
    inception: Inception = None,
    quiet: Quiet = False,
) -> None:
    """Repeat the paper's table I: every method on every pair, scored beside the ground truth, as a report.

    The folder gets report.html, report.md and report.json, with the clips and pictures they show.  A method whose parts
    are not on this machine is named and not run.
    """
    from talkswap.evaluation.protocol.hdtf import evaluate
    from talkswap.evaluation.protocol.methods import Setup
    from talkswap.evaluation.protocol.plan import EvaluationPlan

    plan = EvaluationPlan(
        data, out, setting, pairs, seed, tuple(name.strip() for name in methods.split(",") if name.strip()), limit,
        resume, split, portraits, _length(seconds), setup=Setup(preset, weights, device),
        judges=_judges(identity_network, syncnet, inception),
    )  # fmt: skip
    with choose_progress(quiet, "results") as progress:
        found = evaluate(plan, progress, _typed())
    note(f"report: {out / 'report.html'}")
    _finish(found, out)


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
    preset: Preset = "auto",
    weights: Weights = None,
    identity_network: Identity = None,
    syncnet: Syncnet = None,
) -> None:
    """Score one finished clip, as JSON; FID and ID Retrieve need more than one."""
    from talkswap.evaluation.protocol.clip import ClipPlan, score_clip
    from talkswap.evaluation.protocol.methods import Setup
    from talkswap.evaluation.results import COMPACT_MARK

    plan = ClipPlan(
        result, target, source, audio, setup=Setup(preset, weights), judges=_judges(identity_network, syncnet, None)
    )
    found = score_clip(plan)

    def figures(comparable: bool) -> dict[str, Any]:
        chosen = [c for c in found.columns if c.comparable is comparable and c.metric.key in found.values]
        return {
            c.metric.key: {
                "value": found.values[c.metric.key],
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
                "setting": found.setting,
                "frames": found.frames,
                "figures": figures(True),
                "compact": {"note": COMPACT_MARK, "figures": figures(False)},
                "missing": found.missing,
            }
        )
    )


def ablation(
    table: Annotated[Literal["II", "III", "IV", "V", "VI"], typer.Argument(help="Table of the paper.")],
    run: Annotated[
        list[str],
        typer.Option(help="NAME=PRESET_FOLDER, one row each (VI: one for each order).", show_default=False),
    ],
    data: Data,
    out: Out,
    pairs: Pairs = 112,
    seed: Seed = 0,
    limit: Limit = 0,
    resume: Resume = False,
    split: Split = "val",
    seconds: Seconds = None,
    preset: Preset = "auto",
    device: Device = "auto",
    identity_network: Identity = None,
    syncnet: Syncnet = None,
    inception: Inception = None,
    quiet: Quiet = False,
) -> None:
    """Fill a table of the paper's ablations with your own runs, packed by `talkswap weights pack`.

    II, III: compression of the VQGAN, by face swap and by lip sync. IV: face swap. V: lip sync. VI: order.
    --preset names the networks that look at the results, the same for all rows.
    """
    from talkswap.evaluation.protocol.ablation import ablate, parse_runs
    from talkswap.evaluation.protocol.methods import Setup
    from talkswap.evaluation.protocol.plan import EvaluationPlan

    plan = EvaluationPlan(
        data, out, "both", pairs, seed, (), limit, resume, split, None, _length(seconds),
        setup=Setup(preset, None, device), judges=_judges(identity_network, syncnet, inception),
    )  # fmt: skip
    runs = parse_runs(run)
    with choose_progress(quiet, "results") as progress:
        found = ablate(table, runs, plan, progress, _typed())
    note(f"report: {out / 'report.html'}")
    _finish(found, out)


def publish(
    report: Annotated[Path, typer.Argument(help="Folder of a report.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the copy.", show_default=False)],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier copy.")] = False,
) -> None:
    """Copy a report for others: all figures and plots, nobody's face, no path of this machine."""
    from talkswap.evaluation.report.report import publish as write

    typer.echo(str(write(report, out, overwrite).page))


def build_application(markup: Literal["rich"] | None) -> typer.Typer:
    """The ``eval`` group."""
    application = typer.Typer(
        help="Measure results.", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=markup
    )
    application.callback()(lambda: None)
    application.command("hdtf", short_help="Repeat the paper's table I on a prepared data set.")(hdtf)
    application.command("clip", short_help="Score one finished clip, as JSON.")(clip)
    application.command("ablation", short_help="Fill a table of the paper's ablations with your runs.")(ablation)
    application.command("publish", short_help="Copy a report without faces and paths.")(publish)
    application.command("study", short_help="Write a blinded page for raters, or score their answers.")(
        eval_study.command
    )
    return application
