"""A user study of an evaluation's clips: a static page with blinded clips for raters, and a key that raters never get.

The raters' folder tells nothing but picture and sound: clips have random names, are encoded alike without tags, are equally
large and of one date, and the page knows them by their names alone.  Which clip is whose stands in the key, outside of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from talkswap.errors import OutputExistsError, OutputUnwritableError, TrainingDataError, UsageError
from talkswap.evaluation.results import Evaluation, MethodResult, PairResult, read_evaluation
from talkswap.files import write_atomically
from talkswap.media.program import even_sizes, write_plain_copy

FORMAT = 1
WORST, BEST = 1, 5
COMMENT = "A clip of a rating study; face and voice may be synthetic"
LONG_AGO = 946_684_800  # the files' date, in seconds: 2000-01-01, so that dates tell no order of making


@dataclass(frozen=True)
class Question:
    """What raters answer for every clip, from 1 (worst) to 5 (best)."""

    key: str
    text: str
    low: str
    high: str
    paper: str  # where the question stands
    photo: bool = False  # asked only where the source photo can be shown


QUESTIONS = (
    Question(
        "lip_sync", "How well do the lips fit the voice?", "not at all", "perfectly",
        "StyleSync table 2, ReSyncer tables 4 and 6: lip-sync quality",
    ),
    Question(
        "identity", "Is the person in the clip the person in the photo?", "somebody else", "surely the same",
        "ReSyncer table 7: identity similarity", photo=True,
    ),
    Question(
        "quality", "How good is the picture?", "very poor", "very good",
        "StyleSync table 2, ReSyncer tables 4, 6 and 7: visual quality",
    ),
    Question(
        "realness", "Does the clip look like a real recording?", "clearly made up", "like a recording",
        "StyleSync table 2, ReSyncer tables 4, 6 and 7: video realness",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class StudyConfig:
    """How a study is drawn."""

    seed: int = 0
    pairs: int = 10  # of each setting, as many as ReSyncer's raters saw; 0: all
    overwrite: bool = False


@dataclass(frozen=True)
class StudyClip:
    """What is behind a blinded name."""

    setting: str
    method: str  # the method's key
    label: str
    pair: int
    source: str
    target: str
    file: str  # relative to the report's folder


@dataclass(frozen=True)
class StudyKey:
    """What undoes the blinding."""

    study: str  # names the study in answers
    seed: int
    title: str  # of the report
    questions: dict[str, str]  # key -> text
    clips: dict[str, StudyClip]  # blinded name -> clip
    format: int = FORMAT


@dataclass(frozen=True)
class Study:
    """What was written."""

    page: Path
    key: Path
    clips: int
    pairs: int
    methods: int
    left_out: tuple[str, ...]  # pairs on which a method failed or whose clip is gone, each with the reason


def build_study(
    report: Path,
    out: Path,
    key: Path,
    config: StudyConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Study:
    """Write a study.

    Only pairs that every method finished are shown, so that all methods are rated on the same pairs.

    Args:
        report: folder of an evaluation.
        out: the raters' folder.
        key: file that undoes the blinding; outside of ``out``.
        config: what is drawn.
        progress: called with clips written and clips in all.

    Raises:
        UsageError: the key would lie in the raters' folder.
        OutputExistsError: ``out`` or ``key`` is there and may not be replaced.
        TrainingDataError: no report, or no pair that every method finished.
        UnreadableMediaError, EncoderError, OutputUnwritableError: a clip cannot be copied.
    """
    config = config or StudyConfig()
    if key.resolve().is_relative_to(out.resolve()):
        raise UsageError(f"the key {key} would lie in the raters' folder", "name a place outside of it with --key")
    _check_place(out, key, config.overwrite)
    evaluation = read_evaluation(report)
    folder = report if report.is_dir() else report.parent
    draw = random.Random(config.seed)
    chosen, left_out = _chosen(evaluation, folder, config.pairs, draw)
    if not chosen:
        raise TrainingDataError(
            f"{report} has no pair that every method finished", "the report says which pairs failed, and why"
        )
    names = _names(len(chosen), draw)
    shuffled = draw.sample(chosen, len(chosen))
    clips = dict(zip(names, shuffled, strict=True))
    identity = hashlib.sha256(" ".join(sorted(names)).encode()).hexdigest()[:12]
    with _built_beside(out) as part:
        (part / "clips").mkdir()
        for number, (name, (_, pair, clip)) in enumerate(clips.items()):
            if progress is not None:
                progress(number, len(clips))
            write_plain_copy(folder / clip.file, part / "clips" / f"{name}.mp4", COMMENT)
            photo = _photo(folder, pair)
            if photo is not None:
                (part / "clips" / f"{name}.jpg").write_bytes(photo)
        if progress is not None:
            progress(len(clips), len(clips))
        even_sizes(list((part / "clips").glob("*.mp4")))
        shown = [{"name": name, "photo": (part / "clips" / f"{name}.jpg").is_file()} for name in clips]
        write_atomically(part / "index.html", _page(identity, shown))
        for path in part.rglob("*"):
            os.utime(path, (LONG_AGO, LONG_AGO))
        stored = StudyKey(
            identity, config.seed, evaluation.title, {question.key: question.text for question in QUESTIONS},
            {name: clip for name, (_, _, clip) in clips.items()},
        )  # fmt: skip
        # the key comes first: a page without one would collect answers that nobody can read
        write_atomically(key, json.dumps(asdict(stored), indent=1, ensure_ascii=False) + "\n")
    return Study(
        out / "index.html",
        key,
        len(clips),
        len({(clip.setting, clip.pair) for _, _, clip in chosen}),
        len({clip.method for _, _, clip in chosen}),
        left_out,
    )


def read_key(path: Path) -> StudyKey:
    """Read a key.

    Raises:
        TrainingDataError: it is missing, or is none of this version.
    """
    hint = "name the file that `talkswap eval study REPORT --out DIR` wrote beside the raters' folder"
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        clips = {str(name): StudyClip(**clip) for name, clip in plain["clips"].items()}
        key = StudyKey(**{**plain, "clips": clips})
    except OSError as error:
        raise TrainingDataError(f"no key at {path}: {error.strerror}", hint) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise TrainingDataError(f"{path} is no key of a study", hint) from error
    if key.format != FORMAT:
        raise TrainingDataError(f"{path} is no key of this version", hint)
    return key


def _chosen(
    evaluation: Evaluation, folder: Path, wanted: int, draw: random.Random
) -> tuple[list[tuple[str, PairResult, StudyClip]], tuple[str, ...]]:
    """The clips of the study, unshuffled, and the pairs that could not be taken."""
    chosen: list[tuple[str, PairResult, StudyClip]] = []
    left_out = []
    for setting in evaluation.settings:
        methods = [method for method in setting.methods if not method.not_run and method.pairs]
        complete = []
        for number in sorted({pair.number for method in methods for pair in method.pairs}):
            reasons = [reason for method in methods if (reason := _why_not(method, number, folder))]
            if reasons:
                left_out.append(f"{setting.setting}, pair {number + 1}: {'; '.join(reasons)}")
            else:
                complete.append(number)
        if wanted and wanted < len(complete):
            complete = sorted(draw.sample(complete, wanted))
        for number in complete:
            for method in methods:
                pair = next(pair for pair in method.pairs if pair.number == number)
                clip = StudyClip(
                    setting.setting, method.key, method.label, number, pair.source, pair.target, pair.video
                )
                chosen.append((setting.setting, pair, clip))
    return chosen, tuple(left_out)


def _why_not(method: MethodResult, number: int, folder: Path) -> str:
    """Why a method has no clip of a pair; "" where it has."""
    pair = next((pair for pair in method.pairs if pair.number == number), None)
    if pair is None:
        return f"{method.label} has no such pair"
    if pair.error:
        return f"{method.label} failed: {pair.error}"
    if not pair.video or _inside(folder, pair.video) is None:
        return f"{method.label}: its clip {pair.video or ''} is not in the report's folder".replace("  ", " ")
    return ""


def _inside(folder: Path, name: str) -> Path | None:
    """A file of the report's folder; None where it is missing, or a report names a place outside."""
    path = (folder / name).resolve()
    return path if path.is_relative_to(folder.resolve()) and path.is_file() else None


def _photo(folder: Path, pair: PairResult) -> bytes | None:
    if pair.pictures is None or not pair.pictures.photo:
        return None
    path = _inside(folder, pair.pictures.photo)
    return None if path is None else path.read_bytes()


def _names(count: int, draw: random.Random) -> list[str]:
    names: dict[str, None] = {}
    while len(names) < count:
        names[f"{draw.getrandbits(40):010x}"] = None
    return list(names)


def _page(identity: str, clips: list[dict[str, Any]]) -> str:
    questions = [
        {name: getattr(question, name) for name in ("key", "text", "low", "high", "photo")} for question in QUESTIONS
    ]
    data = json.dumps({"study": identity, "questions": questions, "clips": clips}).replace("<", "\\u003c")
    page = files("talkswap.evaluation.study").joinpath("assets/study.html").read_text(encoding="utf-8")
    return page.replace("@STUDY@", data)


def _check_place(out: Path, key: Path, overwrite: bool) -> None:
    hint = "choose another name, or allow it with --overwrite"
    if key.exists() and (not overwrite or key.is_dir()):
        raise OutputExistsError(f"{key} already exists", hint)
    if not out.exists():
        return
    if not out.is_dir():
        raise OutputExistsError(f"{out} is a file", "name a folder")
    there = {path.name for path in out.iterdir()}
    if there and not overwrite:
        raise OutputExistsError(f"{out} already exists", hint)
    if there - {"index.html", "clips"}:
        raise OutputExistsError(f"{out} holds files that are no study's", "name another folder")


@contextmanager
def _built_beside(out: Path) -> Iterator[Path]:
    """A private folder that takes the place of ``out`` when all in it is written, and vanishes on a failure."""
    try:
        part = Path(tempfile.mkdtemp(prefix=".talkswap-", dir=out.parent))
    except OSError as error:
        raise OutputUnwritableError(
            f"nothing can be written in {out.parent} ({error.strerror})", "choose another folder with --out"
        ) from error
    try:
        yield part
        part.chmod(0o755)  # mkdtemp's own rights would keep a web server out
        shutil.rmtree(out, ignore_errors=True)
        os.replace(part, out)
    except OSError as error:
        raise OutputUnwritableError(f"cannot write {out}: {error.strerror}", "is the disk full?") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
