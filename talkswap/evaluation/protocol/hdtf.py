"""The evaluation of section IV of the SwapTalk paper, for any system: every method on every pair of both settings, scored
and written down as a report.

A report's folder::

    report.json  report.md  report.html      the figures (talkswap.evaluation.report.report)
    clips/SETTING-PAIR-METHOD.mp4            the finished clips
    pictures/                                stills of them
    work/plan.json                           everything that decides the figures; a run that resumes must have the same
    work/results.jsonl                       one line for every result, appended when it is scored
    work/{photos,tracks,renderings,features}/    what a later step needs of an earlier one

A run that was killed goes on with ``resume``: results with a line stay, finished clips are not rendered again.
"""

import contextlib
import io
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from talkswap import errors
from talkswap.checkpoints.preset_folder import PresetFolder, weight_hashes
from talkswap.checkpoints.presets import find_preset
from talkswap.data.workers import locked
from talkswap.device import choose_device
from talkswap.evaluation.judges import observe
from talkswap.evaluation.judges.judges import Gallery, Judges, load_judges
from talkswap.evaluation.metrics.metric import Judge
from talkswap.evaluation.protocol import plan as planning
from talkswap.evaluation.protocol.measure import Case, columns, features, measure
from talkswap.evaluation.protocol.methods import Method, Rendering, Task, choose_methods
from talkswap.evaluation.protocol.plan import EvaluationClip, EvaluationPlan, EvaluationSet, OnProgress, Pair, Table
from talkswap.evaluation.protocol.summary import figures_of, provenance, set_figures
from talkswap.evaluation.report.report import templates, write_report
from talkswap.evaluation.report.sheets import draw_sheets, write_photo
from talkswap.evaluation.results import Entry, Evaluation, Journal, MethodResult, PairResult, Pictures, SettingResult
from talkswap.faces.analyse import FaceAnalyser, load_analyser
from talkswap.files import write_atomically, write_error
from talkswap.media.sound import load_voice
from talkswap.records import RecordError, read_record, to_json
from talkswap.systems.registry import requirements
from talkswap.types import ProgressEvent

CROPS = "crops-"  # folders of one pair at a time, tens of MB
FATAL = (errors.OutputUnwritableError, errors.WeightsMissingError, errors.WeightsCorruptError)
"""Failures that would meet every other pair as well."""


def evaluate(
    plan: EvaluationPlan,
    progress: OnProgress | None = None,
    command: str = "",
    methods: Sequence[Method] | None = None,
    table: Table | None = None,
) -> Evaluation:
    """Run the whole evaluation, or what is left of it.

    Args:
        progress: called after each result, and with lines that a user should see.
        command: as typed, for the report.
        methods: the rows; None: those that the plan names.
        table: the published rows and the columns to show; None: the comparison of the system's paper.

    Returns:
        The content of ``report.json``; a pair on which a method failed is in it with its error.

    Raises:
        TrainingDataError: there is no data set, or it is empty, or shows one speaker only.
        OutputExistsError: the folder isn't empty, and isn't to be resumed.
        UsageError: there is no such system or method, or the run to resume had other options.
        OutputUnwritableError, WeightsMissingError, WeightsCorruptError: failures of every pair.
        DependencyError: Jinja2 isn't installed.
    """
    templates()  # hours of work shall not end at a missing package
    progress = progress or (lambda event: None)
    table = table or planning.comparison_table(plan.system)
    rows = list(methods) if methods is not None else choose_methods(plan.system, plan.methods)
    clips = planning.open_evaluation_set(plan.data, plan.split)
    pairs, possible = planning.draw(clips, plan.pairs, plan.seed, plan.portraits)
    if shortage := plan.shortage(len(pairs), clips):
        progress(ProgressEvent("evaluate", 0, 0, shortage))
    planning.check_folder(plan)
    # Two runs in one folder would write each other's files.
    with locked(plan.out):
        run = Run(plan, clips, pairs, rows, progress)
        run.run()
        evaluation = run.evaluation(possible, command, table)
        write_report(plan.out, evaluation)
    return evaluation


@dataclass(frozen=True)
class RunRecord:
    """``plan.json``: everything that decides the figures."""

    data: str  # sha256 of the data set's manifest
    split: str
    pairs: int
    seed: int
    size: int
    seconds: str
    portraits: str
    preset: str
    weights: dict[str, str]
    device: str
    judges: tuple[Judge, ...]
    methods: dict[str, dict[str, str]]  # key -> hashes of its weights


@dataclass(frozen=True)
class Scene:
    """What all methods of a pair share."""

    setting: str
    pair: Pair
    truth: observe.Observation
    voiced: observe.Observation
    photo: observe.Photo
    folder: Path  # for files that are deleted after the pair


class Run:
    """One evaluation in its folder."""

    def __init__(
        self, plan: EvaluationPlan, clips: EvaluationSet, pairs: list[Pair], methods: list[Method], progress: OnProgress
    ) -> None:
        self.plan, self.clips, self.methods, self.progress = plan, clips, methods, progress
        self.drawn, self.pairs = pairs, pairs[: plan.limit or None]
        self.work = plan.out / "work"
        self.preset: PresetFolder = find_preset(plan.setup.preset, plan.setup.weights, requirements(plan.system))
        self.judges: Judges = load_judges(plan.judges)
        self.missing = {method.key: method.missing(plan.setup) for method in methods}
        try:
            for folder in ("clips", "pictures", "work/photos", "work/tracks", "work/renderings", "work/features"):
                (plan.out / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(plan.out, error) from error
        # Before anything is deleted or rendered: a run with other options must not touch this one's results.
        self.check_record()
        for rest in self.work.glob(f"{CROPS}*"):  # of a run that was killed
            shutil.rmtree(rest, ignore_errors=True)
        device = choose_device(plan.setup.device).name
        self.analyser: FaceAnalyser = load_analyser(self.preset.analyser, self.preset, device)
        self.journal = Journal(self.work / "results.jsonl")
        self.entries = self.journal.read()
        self.unavailable: dict[str, str] = {}  # clip -> reason
        self._gallery: Gallery | None = None
        for clip in {c.name: c for pair in pairs for c in (pair.source, pair.target)}.values():
            if reason := clip.unavailable():
                self.unavailable[clip.name] = reason
                progress(ProgressEvent("evaluate", 0, 0, f"not available: {clip.name}: {reason}"))
        for method in methods:
            if self.missing[method.key]:
                progress(ProgressEvent("evaluate", 0, 0, f"not run: {method.label}: {self.missing[method.key]}"))

    def check_record(self) -> None:
        """Compare everything that decides the figures with an earlier run's record, then write it down.

        Raises:
            UsageError: the earlier run had other options or weights, or its record is damaged.
        """
        plan, path = self.plan, self.work / "plan.json"
        hashes = {method.key: method.hashes(plan.setup) for method in self.methods if not self.missing[method.key]}
        record = RunRecord(
            self.clips.digest, plan.split, plan.pairs, plan.seed, plan.size, str(plan.seconds), str(plan.portraits),
            self.preset.name, weight_hashes(self.preset), plan.setup.device, self.judges.named(), hashes,
        )  # fmt: skip
        if path.is_file():
            try:
                earlier = read_record(RunRecord, path)
            except (OSError, RecordError) as error:
                raise errors.UsageError(f"{path} is damaged: {error}", "name another --out") from error
            names = [field.name for field in fields(RunRecord) if field.name != "methods"]
            if other := [name for name in names if getattr(earlier, name) != getattr(record, name)]:
                raise errors.UsageError(
                    f"{plan.out} was begun with other {', '.join(other)}",
                    "go on with the options of the first run, or name another --out",
                )
            # Without this check a row would mix the results of two networks and state the hashes of one.
            if other := [key for key in hashes if earlier.methods.get(key, hashes[key]) != hashes[key]]:
                raise errors.UsageError(
                    f"{plan.out} was begun with other weights of {', '.join(other)}", "name another --out for these"
                )
            record = replace(record, methods=earlier.methods | hashes)
        write_atomically(path, to_json(record))

    def run(self) -> None:
        """Make every result that has no line yet."""
        ready = [method for method in self.methods if not self.missing[method.key]]
        # Progress counts results, and those of an earlier run count as done.
        total = len(self.plan.settings) * len(self.pairs) * len(ready)
        done = sum(self.is_done(s, m, p) for s in self.plan.settings for m in ready for p in self.pairs)
        if done:
            self.progress(ProgressEvent("evaluate", done, total, f"{done} of {total} results were finished earlier"))
        for setting in self.plan.settings:
            for pair in self.pairs:
                methods = [method for method in ready if not self.is_done(setting, method, pair)]
                if not methods:
                    continue
                for method, result in self.pair_results(setting, pair, methods):
                    # On the disk at once: a kill costs no more than the result in hand.
                    entry = Entry(setting, method.key, result)
                    self.journal.add(entry)
                    self.entries[entry.key] = entry
                    done += 1
                    failure = f"failed: {setting}, pair {pair.number + 1}, {method.label}: {result.error}"
                    self.progress(ProgressEvent("evaluate", done, total, failure if result.error else ""))

    def is_done(self, setting: str, method: Method, pair: Pair) -> bool:
        """Whether an earlier run has the result; one that failed is tried again."""
        entry = self.entries.get((setting, method.key, pair.number))
        if entry is None or entry.result.error:
            return False
        # The same number may mean another pair if the data set has changed.
        same = (entry.result.source, entry.result.target) == (pair.source_name, pair.target.name)
        return same and (not entry.result.video or (self.plan.out / entry.result.video).is_file())

    def pair_results(self, setting: str, pair: Pair, methods: list[Method]) -> Iterator[tuple[Method, PairResult]]:
        """The results of all methods on one pair, whose clips are analysed once."""
        blank = PairResult(pair.number, pair.source_name, pair.target.name, voice_of(setting, pair).name)
        with tempfile.TemporaryDirectory(prefix=CROPS, dir=self.work) as folder:
            try:
                scene = self.scene(setting, pair, Path(folder))
            except FATAL:
                raise
            except (errors.TalkswapError, OSError) as error:
                for method in methods:
                    yield method, replace(blank, error=one_line(error))
                return
            for method in methods:
                # The ground truth speaks with its own voice in both settings.
                own = blank if method.changes else replace(blank, voice=pair.target.name)
                yield method, self.result(method, scene, own)

    def scene(self, setting: str, pair: Pair, folder: Path) -> Scene:
        """Analyse the clips of a pair."""
        for clip in (pair.source, pair.target):
            if clip.name in self.unavailable:
                raise errors.TalkswapError(f"the clip {clip.name} is not available: {self.unavailable[clip.name]}")

        def track(clip: EvaluationClip) -> observe.ClipTrack:
            cache = self.work / "tracks" / f"{clip.name}.npz"
            return observe.track_clip(clip.video, self.analyser, self.plan.size, cache, self.plan.end)

        target, size = pair.target, self.plan.size
        truth = observe.observe_truth(target.video, load_voice(target.voice), track(target), size, folder)
        voice = voice_of(setting, pair)
        voiced = truth
        if voice is not target:
            voiced = observe.observe_truth(voice.video, load_voice(voice.voice), track(voice), size, None)
        return Scene(setting, pair, truth, voiced, self.photo(pair), folder)

    def photo(self, pair: Pair) -> observe.Photo:
        """The source face of a pair."""
        path = pair.photo
        if path is None:
            path = planning.photo_of(pair.source, self.work / "photos" / f"{pair.source.name}.png")
        # A portrait shows nobody of the data set, so its file name stands for the person.
        speaker = pair.source.speaker if pair.photo is None else path.stem
        return observe.open_photo(pair.source_name, speaker, path, self.analyser, self.plan.size)

    @property
    def gallery(self) -> Gallery:
        """All source faces, also of pairs that ``limit`` leaves out."""
        if self._gallery is None:
            photos: dict[str, observe.Photo] = {}
            for pair in self.drawn:
                if pair.source_name not in photos and pair.source.name not in self.unavailable:
                    # a photo without a face is reported by its own pair
                    with contextlib.suppress(errors.NoSourceFaceError, errors.UnreadableMediaError):
                        photos[pair.source_name] = self.photo(pair)
            self._gallery = self.judges.gallery(list(photos.values()))
        return self._gallery

    def result(self, method: Method, scene: Scene, blank: PairResult) -> PairResult:
        """Render, observe and score."""
        name = f"{scene.setting}-{blank.number:03d}-{method.key}"
        video = self.plan.out / "clips" / f"{name}.mp4"
        try:
            rendering = self.rendering(method, scene, video, self.work / "renderings" / f"{name}.json")
            timings = {"render": rendering.seconds}
            started = time.perf_counter()
            result = observe.observe_result(video, scene.truth, self.analyser, scene.folder, self.plan.end)
            truth = observe.matched_truth(scene.truth, result, scene.folder)
            # Timings are wall time, for the report's table of seconds per pair.
            timings["observe"], started = time.perf_counter() - started, time.perf_counter()
            # A method that leaves the clip as it is has no driving voice but its own, and no swapped face.
            case = Case(
                scene.setting, result, truth, scene.voiced if method.changes else truth,
                scene.photo if method.swaps else None, method.changes, rendering.seconds, rendering.video_seconds,
                self.gallery,
            )  # fmt: skip
            values, missing = measure(case, self.judges)
            if method.changes:
                # FID needs the features of all pairs together: of the result, and of the frames it is compared with.
                for clip, ending in ((result, ""), (truth, "-truth")):
                    content = io.BytesIO()
                    np.save(content, features(clip, self.judges))
                    write_atomically(self.work / "features" / f"{name}{ending}.npy", content.getvalue())
            pictures = self.pictures(case, scene, name)
            timings["score"] = time.perf_counter() - started
            return replace(
                blank, values=values, missing=missing, warnings=rendering.warnings, timings=timings, pictures=pictures,
                video=video.relative_to(self.plan.out).as_posix(),
            )  # fmt: skip
        except FATAL:
            raise
        except Exception as error:  # one method's failure on one pair stops no other
            return replace(blank, error=one_line(error))
        finally:
            for path in scene.folder.glob(f"{name}.*"):
                path.unlink(missing_ok=True)

    def rendering(self, method: Method, scene: Scene, video: Path, record: Path) -> Rendering:
        """Make the finished clip, unless a run that was killed before it could score the clip has made it."""
        if video.is_file() and record.is_file():
            with contextlib.suppress(RecordError):  # of another version
                return read_record(Rendering, record)
        # A record without its clip, or of another version, would claim a time that nobody measured.
        record.unlink(missing_ok=True)
        pair = scene.pair
        task = Task(
            scene.setting, scene.photo.path, pair.target.video, voice_of(scene.setting, pair).voice, pair.target.voice,
            video, self.plan.seconds,
        )  # fmt: skip
        rendering = method.render(task, self.plan.setup)
        write_atomically(record, to_json(rendering))
        return rendering

    def pictures(self, case: Case, scene: Scene, name: str) -> Pictures:
        """The stills of a result; photo and target are drawn once for all methods of a pair."""
        folder, shared = self.plan.out / "pictures", f"{scene.setting}-{scene.pair.number:03d}"
        photo = folder / f"{shared}-photo.jpg"
        if not photo.is_file():
            write_photo(photo, scene.photo.crop, scene.photo.landmarks)
        stem = f"{shared}-target"
        target = folder / f"{stem}-faces.jpg", folder / f"{stem}-mouths.jpg"
        if not all(path.is_file() for path in target):
            target = draw_sheets(case.truth, folder, stem)
        own = draw_sheets(case.result, folder, name)
        return Pictures(*(path.relative_to(self.plan.out).as_posix() for path in (*own, photo, *target)))

    def evaluation(self, possible: int, command: str, table: Table) -> Evaluation:
        """The report of every result that has a line."""
        plan = self.plan
        settings = tuple(SettingResult(s, tuple(self.row(s, m) for m in self.methods)) for s in plan.settings)
        facts = provenance(
            plan, command, self.clips, self.drawn, possible, self.unavailable, self.preset, self.judges, self.methods
        )
        # Wall time of all runs together, since a resumed run only knows its own part.
        seconds = sum(sum(p.timings.values()) for s in settings for m in s.methods for p in m.pairs)
        # A run of one setting shows the paper's rows of that setting only.
        rows = tuple(row for row in table.published if row.setting in ("", *plan.settings))
        shown = tuple(c for c in columns(self.judges) if not table.metrics or c.metric.key in table.metrics)
        title = f"{table.title} on {plan.data.resolve().name}"
        return Evaluation(table.kind, title, table.number, shown, settings, rows, facts, seconds)

    def row(self, setting: str, method: Method) -> MethodResult:
        """A method's row in the table of a setting."""
        if reason := self.missing[method.key]:
            return MethodResult(method.key, method.label, method.about, reason, choices=dict(method.choices))
        entries = [self.entries.get((setting, method.key, pair.number)) for pair in self.pairs]
        pairs = tuple(entry.result for entry in entries if entry is not None)
        # The ground truth is at no distance from itself, so it has no FID.
        names = [f"{setting}-{pair.number:03d}-{method.key}" for pair in pairs if not pair.error and method.changes]
        figures = figures_of(pairs) | set_figures([self.work / "features" / name for name in names])
        return MethodResult(
            method.key, method.label, method.about, "", pairs, figures, dict(method.choices),
            method.hashes(self.plan.setup),
        )  # fmt: skip


def voice_of(setting: str, pair: Pair) -> EvaluationClip:
    """The clip whose voice drives the lips."""
    return pair.target if setting == "self" else pair.source


def one_line(error: Exception) -> str:
    """The message of an error; one that talkswap has no name for gets its type and place."""
    if isinstance(error, errors.TalkswapError):
        return error.message
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return " ".join(f"{type(error).__name__}: {error}{place}".split())
