"""The paper's evaluation (section IV): every method on every pair of both settings, scored, and written down as a report.

A report's folder::

    report.json  report.md  report.html      what was found (talkswap.evaluation.report.report)
    clips/SETTING-PAIR-METHOD.mp4            the finished clips
    pictures/                                stills of them
    work/plan.json                           what the run was asked; a run that goes on must be asked the same
    work/results.jsonl                       one line for every result, appended when it is scored
    work/{photos,seen,made,features}/        what a later step needs of an earlier one

A run that was killed goes on with ``resume``: results with a line are kept, finished clips are not rendered anew.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from talkswap.checkpoints.presets import PresetFolder, find_preset, weight_hashes
from talkswap.data.workers import locked
from talkswap.device import choose_device
from talkswap.errors import (
    NoSourceFaceError,
    OutputUnwritableError,
    TalkswapError,
    UnreadableMediaError,
    UsageError,
    WeightsCorruptError,
    WeightsMissingError,
)
from talkswap.evaluation.judges.judges import Gallery, Judges, load_judges
from talkswap.evaluation.judges.observe import (
    ClipTrack,
    Observation,
    Photo,
    matched_truth,
    observe_result,
    observe_truth,
    open_photo,
    track_clip,
)
from talkswap.evaluation.protocol.measure import Case, columns, features, measure
from talkswap.evaluation.protocol.methods import Made, Method, Task, choose_methods
from talkswap.evaluation.protocol.pairs import (
    EvaluationClip,
    EvaluationSet,
    Pair,
    draw,
    open_evaluation_set,
    photo_of_clip,
)
from talkswap.evaluation.protocol.plan import (
    TABLE_I,
    EvaluationPlan,
    Report,
    Table,
    check_folder,
    fewer,
    notes_of,
    options_of,
)
from talkswap.evaluation.protocol.summary import figures_of, provenance, set_figures
from talkswap.evaluation.report.report import write_report
from talkswap.evaluation.report.sheets import draw_sheets, write_photo
from talkswap.evaluation.results import (
    Entry,
    Evaluation,
    Journal,
    MethodResult,
    PairResult,
    Pictures,
    Setting,
    SettingResult,
)
from talkswap.faces.analyse import FaceAnalyser, load_analyser
from talkswap.files import write_atomically
from talkswap.media.sound import load_voice
from talkswap.records import RecordError, read_record, to_json
from talkswap.types import FloatArray, ProgressEvent

CROPS = "crops-"  # of one pair at a time, tens of MB
FATAL = (OutputUnwritableError, WeightsMissingError, WeightsCorruptError)
"""What would fail on every other pair as well."""


def evaluate(
    plan: EvaluationPlan,
    progress: Report | None = None,
    command: str = "",
    methods: Sequence[Method] | None = None,
    table: Table = TABLE_I,
) -> Evaluation:
    """Run the whole evaluation, or what is left of it.

    Args:
        progress: called after each result, and with lines that a user should see.
        command: as typed, for the report.
        methods: the rows; None: those that the plan names.
        table: what is shown of what was found.

    Returns:
        What was found; a pair on which a method failed is in there with its error.  ``report.json`` holds the same.

    Raises:
        TrainingDataError: the data set is none, is empty, or shows one speaker only.
        OutputExistsError: the folder holds something, and this is not to go on with it.
        UsageError: it is to go on, and was asked something else then.
        OutputUnwritableError, WeightsMissingError, WeightsCorruptError: nothing that another pair would change.
    """
    tell = progress or (lambda event: None)
    rows = list(methods) if methods is not None else choose_methods(plan.methods)
    chosen = open_evaluation_set(plan.data, plan.split)
    pairs, possible = draw(chosen, plan.pairs, plan.seed, plan.portraits)
    if len(pairs) < plan.pairs:
        tell(ProgressEvent("evaluate", 0, 0, fewer(len(pairs), plan, chosen)))
    check_folder(plan)
    with locked(plan.out):
        run = Run(plan, chosen, pairs, rows, tell)
        run.everything()
        found = run.evaluation(possible, command, table)
        write_report(plan.out, found)
    return found


@dataclass(frozen=True)
class Scene:
    """What all methods of a pair share."""

    setting: Setting
    pair: Pair
    truth: Observation
    voiced: Observation
    photo: Photo
    place: Path  # for files that are gone when the pair is done


class Run:
    """One evaluation at work in its folder."""

    def __init__(
        self, plan: EvaluationPlan, chosen: EvaluationSet, pairs: list[Pair], methods: list[Method], tell: Report
    ) -> None:
        self.plan, self.chosen, self.methods, self.tell = plan, chosen, methods, tell
        self.drawn, self.pairs = pairs, pairs[: plan.limit or None]
        self.work = plan.out / "work"
        self.preset: PresetFolder = find_preset(plan.setup.preset, plan.setup.weights)
        self.judges: Judges = load_judges(plan.judges)
        self.lacking = {method.key: method.lacking(plan.setup) for method in methods}
        self._remember()
        for folder in ("clips", "pictures", "work/photos", "work/seen", "work/made", "work/features"):
            self._folder(plan.out / folder)
        for left in self.work.glob(f"{CROPS}*"):  # by a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        place = choose_device(plan.setup.device).name
        self.analyser: FaceAnalyser = load_analyser(self.preset.analyser, self.preset, place)
        self.journal = Journal(self.work / "results.jsonl")
        self.done = self.journal.read()
        self.troubles: dict[str, str] = {}
        self._gallery: Gallery | None = None
        for clip in {c.name: c for pair in pairs for c in (pair.source, pair.target)}.values():
            if trouble := clip.trouble():
                self.troubles[clip.name] = trouble
                tell(ProgressEvent("evaluate", 0, 0, f"cannot be had: {clip.name}: {trouble}"))
        for method in methods:
            if self.lacking[method.key]:
                tell(ProgressEvent("evaluate", 0, 0, f"not run: {method.label}: {self.lacking[method.key]}"))

    def _folder(self, path: Path) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputUnwritableError(f"cannot write {path}: {error.strerror}", "choose another folder") from error

    def _remember(self) -> None:
        """Write down what decides the figures, or hold it against what an earlier run wrote."""
        plan = self.plan
        wanted = {
            "data": self.chosen.digest, "split": plan.split, "pairs": plan.pairs, "seed": plan.seed, "size": plan.size,
            "seconds": str(plan.seconds), "portraits": str(plan.portraits), "preset": self.preset.name,
            "weights": weight_hashes(self.preset), "device": plan.setup.device,
            "judges": [asdict(judge) for judge in self.judges.named()],
        }  # fmt: skip
        own = {m.key: m.hashes(plan.setup) for m in self.methods if not self.lacking[m.key]}
        known: dict[str, dict[str, str]] = {}
        path = self.work / "plan.json"
        if path.is_file():
            try:
                earlier: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise UsageError(f"{path} is damaged: {error}", "name another --out") from error
            if other := [key for key in wanted if earlier.get(key) != wanted[key]]:
                raise UsageError(
                    f"{plan.out} was begun with other {', '.join(other)}",
                    "go on with the options of the first run, or name another --out",
                )
            known = dict(earlier.get("methods", {}))
            if other := [key for key, hashes in own.items() if known.get(key, hashes) != hashes]:
                raise UsageError(
                    f"{plan.out} was begun with other weights of {', '.join(other)}", "name another --out for these"
                )
        self._folder(self.work)
        write_atomically(path, to_json({**wanted, "methods": known | own}))

    # --- the loop

    def everything(self) -> None:
        """Whatever has no line yet."""
        ready = [method for method in self.methods if not self.lacking[method.key]]
        total = len(self.plan.settings) * len(self.pairs) * len(ready)
        done = sum(self._kept(s, m, p) is not None for s in self.plan.settings for m in ready for p in self.pairs)
        if done:
            self.tell(ProgressEvent("evaluate", done, total, f"{done} of {total} results were finished earlier"))
        for setting in self.plan.settings:
            for pair in self.pairs:
                open_methods = [method for method in ready if self._kept(setting, method, pair) is None]
                if not open_methods:
                    continue
                for method, result in self._pair(setting, pair, open_methods):
                    entry = Entry(setting, method.key, result)
                    self.journal.add(entry)
                    self.done[entry.key] = entry
                    done += 1
                    failed = f"failed: {setting}, pair {pair.number + 1}, {method.label}: {result.error}"
                    self.tell(ProgressEvent("evaluate", done, total, failed if result.error else ""))

    def _kept(self, setting: str, method: Method, pair: Pair) -> PairResult | None:
        """The result of an earlier run; one that failed is tried again."""
        entry = self.done.get((setting, method.key, pair.number))
        if entry is None or entry.result.error:
            return None
        named = (entry.result.source, entry.result.target) == (pair.source_name, pair.target.name)
        there = not entry.result.video or (self.plan.out / entry.result.video).is_file()
        return entry.result if named and there else None

    def _pair(self, setting: Setting, pair: Pair, methods: list[Method]) -> Iterator[tuple[Method, PairResult]]:
        """All methods on one pair; what they share is looked at once."""
        blank = PairResult(pair.number, pair.source_name, pair.target.name, voice_of(setting, pair).name)
        with tempfile.TemporaryDirectory(prefix=CROPS, dir=self.work) as place:
            try:
                scene = self._scene(setting, pair, Path(place))
            except FATAL:
                raise
            except (TalkswapError, OSError) as error:
                for method in methods:
                    yield method, replace(blank, error=words(error))
                return
            for method in methods:
                own = blank if method.changes else replace(blank, voice=pair.target.name)
                yield method, self._one(method, scene, own)

    def _scene(self, setting: Setting, pair: Pair, place: Path) -> Scene:
        for clip in (pair.source, pair.target):
            if clip.name in self.troubles:
                raise TalkswapError(f"the clip {clip.name} cannot be had: {self.troubles[clip.name]}")
        target = self._seen(pair.target)
        truth = observe_truth(pair.target.video, load_voice(pair.target.voice), target, self.plan.size, place)
        voice = voice_of(setting, pair)
        voiced = truth
        if voice is not pair.target:
            voiced = observe_truth(voice.video, load_voice(voice.voice), self._seen(voice), self.plan.size, None)
        return Scene(setting, pair, truth, voiced, self._photo(pair), place)

    def _seen(self, clip: EvaluationClip) -> ClipTrack:
        keep = self.work / "seen" / f"{clip.name}.npz"
        return track_clip(clip.video, self.analyser, self.plan.size, keep, self.plan.end)

    def _photo(self, pair: Pair) -> Photo:
        path = pair.photo
        if path is None:
            path = photo_of_clip(pair.source, self.work / "photos" / f"{pair.source.name}.png")
        speaker = pair.source.speaker if pair.photo is None else path.stem
        return open_photo(pair.source_name, speaker, path, self.analyser, self.plan.size)

    @property
    def gallery(self) -> Gallery:
        """Everybody who is put into some clip, also into those that ``limit`` leaves out."""
        if self._gallery is None:
            photos: dict[str, Photo] = {}
            for pair in self.drawn:
                if pair.source_name not in photos and pair.source.name not in self.troubles:
                    with contextlib.suppress(NoSourceFaceError, UnreadableMediaError):  # its own pair says so
                        photos[pair.source_name] = self._photo(pair)
            self._gallery = self.judges.gallery(list(photos.values()))
        return self._gallery

    def _one(self, method: Method, scene: Scene, blank: PairResult) -> PairResult:
        """Render, look, score."""
        name = f"{scene.setting}-{blank.number:03d}-{method.key}"
        video = self.plan.out / "clips" / f"{name}.mp4"
        try:
            made = self._made(method, scene, video, self.work / "made" / f"{name}.json")
            timings = {"render": made.seconds}
            started = time.perf_counter()
            result = observe_result(video, scene.truth, self.analyser, scene.place, self.plan.end)
            truth = matched_truth(scene.truth, result, scene.place)
            timings["observe"], started = time.perf_counter() - started, time.perf_counter()
            case = Case(
                scene.setting, result, truth, scene.voiced if method.changes else truth,
                scene.photo if method.swaps else None, method.changes, made.seconds, made.video_seconds, self.gallery,
            )  # fmt: skip
            values, missing = measure(case, self.judges)
            if method.changes:
                self._features(case, name)
            pictures = self._pictures(case, scene, name)
            timings["score"] = time.perf_counter() - started
            return replace(
                blank, values=values, missing=missing, warnings=made.warnings, timings=timings, pictures=pictures,
                video=video.relative_to(self.plan.out).as_posix(),
            )  # fmt: skip
        except FATAL:
            raise
        except Exception as error:  # whatever one pair does to one method, the others go on
            return replace(blank, error=words(error))
        finally:
            for path in scene.place.glob(f"{name}.*"):
                path.unlink(missing_ok=True)

    def _made(self, method: Method, scene: Scene, video: Path, note: Path) -> Made:
        """The finished clip, of this run or of one that was killed before it could score it."""
        if video.is_file() and note.is_file():
            with contextlib.suppress(RecordError):  # of another version
                return read_record(Made, note)
        note.unlink(missing_ok=True)
        pair = scene.pair
        task = Task(
            scene.setting, scene.photo.path, pair.target.video, voice_of(scene.setting, pair).voice, pair.target.voice,
            video, self.plan.seconds,
        )  # fmt: skip
        made = method.make(task, self.plan.setup)
        write_atomically(note, to_json(made))
        return made

    def _features(self, case: Case, name: str) -> None:
        """Keep what figures of the whole set are made of, of the result and of the frames it is held against."""
        folder = self.work / "features"
        write_array(folder / f"{name}.npy", features(case.result, self.judges))
        truth = folder / f"{name}-truth.npy"
        write_array(truth, features(case.truth, self.judges))

    def _pictures(self, case: Case, scene: Scene, name: str) -> Pictures:
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

    # --- what came of it

    def evaluation(self, possible: int, command: str, table: Table) -> Evaluation:
        """Everything that has a line, as a report holds it."""
        plan = self.plan
        settings = tuple(SettingResult(s, tuple(self._row(s, m) for m in self.methods)) for s in plan.settings)
        facts = provenance(
            command, self.chosen, self.pairs, plan.pairs, possible, plan.seed, self.troubles, weight_hashes(self.preset),
            options_of(plan, self.preset), notes_of(plan, self.drawn, self.judges, self.chosen),
        )  # fmt: skip
        seconds = sum(sum(p.timings.values()) for s in settings for m in s.methods for p in m.pairs)
        rows = tuple(row for row in table.published if row.setting in ("", *plan.settings))
        shown = tuple(c for c in columns(self.judges) if not table.metrics or c.metric.key in table.metrics)
        title = f"{table.title} on {plan.data.resolve().name}"
        return Evaluation(table.kind, title, table.number, shown, settings, rows, facts, seconds)

    def _row(self, setting: Setting, method: Method) -> MethodResult:
        reason = self.lacking[method.key]
        if reason:
            return MethodResult(method.key, method.label, method.about, reason, choices=dict(method.choices))
        found = [self.done.get((setting, method.key, pair.number)) for pair in self.pairs]
        pairs = tuple(entry.result for entry in found if entry is not None)
        names = [f"{setting}-{pair.number:03d}-{method.key}" for pair in pairs if not pair.error and method.changes]
        figures = figures_of(pairs) | set_figures([self.work / "features" / name for name in names])
        return MethodResult(
            method.key, method.label, method.about, "", pairs, figures, dict(method.choices),
            method.hashes(self.plan.setup),
        )  # fmt: skip


def voice_of(setting: str, pair: Pair) -> EvaluationClip:
    """Whose voice drives the lips."""
    return pair.target if setting == "self" else pair.source


def words(error: Exception) -> str:
    """What went wrong, in one line."""
    if isinstance(error, TalkswapError):
        return error.message
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return " ".join(f"{type(error).__name__}: {error}{where}".split())


def write_array(path: Path, array: FloatArray) -> None:
    """Write an array in one move."""
    write_atomically(path, lambda part: np.save(part, array), parents=True)
