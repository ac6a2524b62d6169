"""A user study of an evaluation's clips: a static page with blinded clips for raters, and a key that raters never get.

The raters' folder gives away nothing but picture and sound: clips have random names, are encoded alike without tags, have
the same size and date, and the page knows only their names.  Which clip is whose is in the key, outside of that folder.
"""

import hashlib
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from talkswap.errors import OutputExistsError, TrainingDataError, UsageError
from talkswap.evaluation.report.report import file_inside, templates
from talkswap.evaluation.results import Evaluation, MethodResult, read_evaluation
from talkswap.files import write_atomically, write_error
from talkswap.media.program import even_sizes, write_plain_copy
from talkswap.records import RecordError, read_record, to_json

FORMAT = 1
WORST, BEST = 1, 5
COMMENT = "A clip of a rating study; face and voice may be synthetic"
LONG_AGO = 946_684_800  # the files' date, in seconds: 2000-01-01, so that dates don't show which clip came first


@dataclass(frozen=True)
class Question:
    """A question about every clip, answered from 1 (worst) to 5 (best)."""

    key: str
    text: str
    low: str
    high: str
    paper: str  # that asks the same
    photo: bool = False  # only for clips whose source photo can be shown


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
    """Which clips a study shows."""

    seed: int = 0
    pairs: int = 10  # of each setting, as many as ReSyncer's raters saw; 0: all
    overwrite: bool = False


@dataclass(frozen=True)
class StudyClip:
    """The clip behind a blinded name."""

    setting: str
    method: str  # the method's key
    label: str
    pair: int
    source: str
    target: str
    file: str  # relative to the report's folder


@dataclass(frozen=True)
class StudyKey:
    """The record that undoes the blinding."""

    study: str  # names the study in answers
    seed: int
    title: str  # of the report
    questions: dict[str, str]  # key -> text
    clips: dict[str, StudyClip]  # blinded name -> clip
    format: int = FORMAT


@dataclass(frozen=True)
class Study:
    """A written study."""

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
        config: which clips are drawn.
        progress: called with clips written and clips in all.

    Raises:
        UsageError: the key would lie in the raters' folder.
        OutputExistsError: ``out`` or ``key`` is there and may not be replaced.
        TrainingDataError: no report, or no pair that every method finished.
        UnreadableMediaError, EncoderError, OutputUnwritableError: a clip cannot be copied.
        DependencyError: Jinja2 isn't installed.
    """
    config, progress = config or StudyConfig(), progress or (lambda done, total: None)
    page = templates("talkswap.evaluation.study").get_template("study.html.jinja")
    if key.resolve().is_relative_to(out.resolve()):
        raise UsageError(f"the key {key} would lie in the raters' folder", "name a place outside of it with --key")
    check_place(out, key, config.overwrite)
    evaluation = read_evaluation(report)
    folder = report if report.is_dir() else report.parent
    # One generator for pairs, names and order: the seed alone decides the study.
    draw = random.Random(config.seed)
    chosen, left_out = choose_clips(evaluation, folder, config.pairs, draw)
    if not chosen:
        raise TrainingDataError(
            f"{report} has no pair that every method finished", "the report says which pairs failed, and why"
        )
    # Names are random and of one length, so they give away neither method nor order.
    names: dict[str, None] = {}  # in the order of drawing
    while len(names) < len(chosen):
        names[f"{draw.getrandbits(40):010x}"] = None
    clips = dict(zip(names, draw.sample(chosen, len(chosen)), strict=True))
    # Answers state this, so that nobody scores them with another study's key.
    identity = hashlib.sha256(" ".join(sorted(names)).encode()).hexdigest()[:12]
    with built_beside(out) as part:
        (part / "clips").mkdir()
        entries = []
        for number, (name, (clip, photo)) in enumerate(clips.items()):
            progress(number, len(clips))
            write_plain_copy(folder / clip.file, part / "clips" / f"{name}.mp4", COMMENT)
            if photo is not None:
                shutil.copyfile(photo, part / "clips" / f"{name}.jpg")
            entries.append({"name": name, "photo": photo is not None})
        progress(len(clips), len(clips))
        # File sizes would tell the methods apart: sharper pictures need more bytes.
        even_sizes(list((part / "clips").glob("*.mp4")))
        questions = [{k: v for k, v in asdict(question).items() if k != "paper"} for question in QUESTIONS]
        data = {"study": identity, "questions": questions, "clips": entries}
        write_atomically(part / "index.html", page.render(study=data))
        for path in part.rglob("*"):
            os.utime(path, (LONG_AGO, LONG_AGO))
        record = StudyKey(
            identity, config.seed, evaluation.title, {question.key: question.text for question in QUESTIONS},
            {name: clip for name, (clip, _) in clips.items()},
        )  # fmt: skip
        # The key comes first: a page without one would collect answers that nobody can read.
        write_atomically(key, to_json(record))
    pairs = {(clip.setting, clip.pair) for clip, _ in chosen}
    methods = {clip.method for clip, _ in chosen}
    return Study(out / "index.html", key, len(clips), len(pairs), len(methods), left_out)


def read_key(path: Path) -> StudyKey:
    """Read a key.

    Raises:
        TrainingDataError: it is missing, or of another version.
    """
    hint = "name the file that `talkswap eval study REPORT --out DIR` wrote beside the raters' folder"
    try:
        key = read_record(StudyKey, path)
    except OSError as error:
        raise TrainingDataError(f"no key at {path}: {error.strerror}", hint) from error
    except RecordError as error:
        raise TrainingDataError(f"{path} is no key of a study", hint) from error
    if key.format != FORMAT:
        raise TrainingDataError(f"{path} is no key of this version", hint)
    return key


def choose_clips(
    evaluation: Evaluation, folder: Path, count: int, draw: random.Random
) -> tuple[list[tuple[StudyClip, Path | None]], tuple[str, ...]]:
    """The clips of the study with their photos, in the report's order, and the pairs that had to be left out."""
    chosen: list[tuple[StudyClip, Path | None]] = []
    left_out = []
    for setting in evaluation.settings:
        methods = [method for method in setting.methods if not method.not_run and method.pairs]
        complete = []
        for number in sorted({pair.number for method in methods for pair in method.pairs}):
            # A pair counts only if all methods have it: means over different pairs can't be compared.
            reasons = [reason for method in methods if (reason := why_missing(method, number, folder))]
            if reasons:
                left_out.append(f"{setting.setting}, pair {number + 1}: {'; '.join(reasons)}")
            else:
                complete.append(number)
        if count and count < len(complete):
            complete = sorted(draw.sample(complete, count))
        for number in complete:
            for method in methods:
                pair = next(pair for pair in method.pairs if pair.number == number)
                photo = file_inside(folder, pair.pictures.photo) if pair.pictures is not None else None
                key, label = method.key, method.label
                clip = StudyClip(setting.setting, key, label, number, pair.source, pair.target, pair.video)
                chosen.append((clip, photo))
    return chosen, tuple(left_out)


def why_missing(method: MethodResult, number: int, folder: Path) -> str:
    """Why a method has no clip of a pair; "" if it has."""
    pair = next((pair for pair in method.pairs if pair.number == number), None)
    if pair is None:
        return f"{method.label} has no such pair"
    if pair.error:
        return f"{method.label} failed: {pair.error}"
    if file_inside(folder, pair.video) is None:
        return f"{method.label}: its clip {pair.video or ''} is not in the report's folder".replace("  ", " ")
    return ""


def check_place(out: Path, key: Path, overwrite: bool) -> None:
    """Check that a study may be written.

    Raises:
        OutputExistsError: ``key`` or ``out`` is there and may not be replaced.
    """
    hint = "choose another name, or allow it with --overwrite"
    if key.exists() and (not overwrite or key.is_dir()):
        raise OutputExistsError(f"{key} already exists", hint)
    if not out.exists():
        return
    if not out.is_dir():
        raise OutputExistsError(f"{out} is a file", "name a folder")
    names = {path.name for path in out.iterdir()}
    if names and not overwrite:
        raise OutputExistsError(f"{out} already exists", hint)
    # Overwriting replaces the whole folder, so it must hold nothing but a study.
    if names - {"index.html", "clips"}:
        raise OutputExistsError(f"{out} holds files that aren't a study's", "name another folder")


@contextmanager
def built_beside(out: Path) -> Iterator[Path]:
    """A private folder that replaces ``out`` when everything in it is written, and is deleted on a failure."""
    try:
        part = Path(tempfile.mkdtemp(prefix=".talkswap-", dir=out.parent))
    except OSError as error:
        raise write_error(out, error) from error
    try:
        yield part
        part.chmod(0o755)  # with mkdtemp's own rights a web server couldn't read it
        shutil.rmtree(out, ignore_errors=True)
        os.replace(part, out)
    except OSError as error:
        raise write_error(out, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
