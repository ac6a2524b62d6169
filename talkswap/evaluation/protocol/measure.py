"""All metrics of one result: the table of columns, and which metric is measured on which case.

A :class:`Meter` measures the metrics that come out of one pass over a case.  The order here is that of a report's
columns.  A new metric is a file in ``metrics/`` and one line in ``METERS``.

:func:`score_clip` scores one finished clip alone.  Figures of a whole set (FID, ID Retrieve) need more than one result
and are left out there.
"""

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from talkswap.checkpoints.presets import find_preset
from talkswap.errors import NoAudioError, NoTargetFaceError, NoVideoError, TalkswapError, UnreadableMediaError
from talkswap.evaluation.judges import observe
from talkswap.evaluation.judges.judges import Gallery, JudgeFiles, Judges, load_judges
from talkswap.evaluation.judges.recognition import embed_frames
from talkswap.evaluation.metrics import frechet, identity, lip_sync, motion, pixels, sharpness
from talkswap.evaluation.metrics.metric import RTF, Metric, average, real_time_factor, sampled
from talkswap.evaluation.protocol.methods import Setup
from talkswap.evaluation.results import Column
from talkswap.faces.analyse import FaceAnalyser, load_analyser
from talkswap.media.probe import probe
from talkswap.media.sound import load_voice
from talkswap.systems.registry import requirements
from talkswap.types import FloatArray, Voice

Values = tuple[float | None, ...]
"""One per metric of a meter: nan if the clip gives none, None if the metric has nothing to say about the case."""


@dataclass(frozen=True)
class Case:
    """One method's result on one pair; result and truth have the same frames, row for row."""

    setting: str  # "self" or "cross"
    result: observe.Observation
    truth: observe.Observation  # the target clip as it is
    voiced: observe.Observation | None  # all frames of the clip that the driving voice comes from; None: unknown
    photo: observe.Photo | None  # None if no face was swapped in
    changed: bool  # False for the ground truth
    render_seconds: float  # 0 if somebody else made the clip
    video_seconds: float
    gallery: Gallery | None = None  # None for a single clip, whose other sources are unknown


@dataclass(frozen=True)
class Meter:
    """Some metrics that are measured together.

    A value that cannot be measured on a case is nan, or the whole meter raises a
    :class:`~talkswap.errors.TalkswapError` that says why.
    """

    metrics: tuple[Metric, ...]
    measure: Callable[[Case, Judges], Values]
    applies: Callable[[Case], bool] = lambda case: True  # other cases get no value and no reason


def measure_landmarks(case: Case, judges: Judges) -> Values:
    """LMD and LMD-m."""
    result, truth, size = case.result.landmarks, case.truth.landmarks, case.truth.crops.shape[1]
    distances = motion.landmark_distance(result, truth, size), motion.mouth_distance(result, truth, size)
    return tuple(average(distance) for distance in distances)


def sync_score(clip: observe.Observation, judges: Judges) -> lip_sync.SyncScore:
    """The sync judge's figures of a clip and its own sound."""
    return judges.sync(clip.pictures(), clip.picture_landmarks, clip.times, clip.voice.samples)


def measure_sync(case: Case, judges: Judges) -> Values:
    """LSE-C, LSE-D and, for a changed clip, ΔSync to the clip of the voice."""
    score = sync_score(case.result, judges)
    difference = None
    if case.changed and case.voiced is not None:
        name = str(case.voiced.video)
        # Every method is compared with the same clip, so its score is kept for the whole evaluation.
        if name not in judges.truths:
            judges.truths[name] = sync_score(case.voiced, judges)
        difference = lip_sync.delta_sync(score, judges.truths[name])
    return score.confidence, score.distance, difference


def measure_opening(case: Case, judges: Judges) -> Values:
    """Correlation of the mouth's opening, and the same a second off."""
    assert case.voiced is not None
    result, voiced = case.result, case.voiced
    score = lip_sync.opening_correlation(result.landmarks, result.times, voiced.landmarks, voiced.times)
    return score.correlation, score.shifted


def measure_silence(case: Case, judges: Judges) -> Values:
    """Excess opening in silence."""
    assert case.voiced is not None
    result, voiced = case.result, case.voiced
    return (lip_sync.silence(result.landmarks, result.times, voiced.landmarks, voiced.times, voiced.voice.samples),)


def measure_identity(case: Case, judges: Judges) -> Values:
    """ID Retrieve (with a gallery), consistency with its deviation, and ID similarity."""
    assert case.photo is not None
    # One pass of the network serves all four figures.
    faces, person = embed_frames(judges.identity, case.result.crops, case.result.landmarks), judges.person(case.photo)
    share = None
    if case.gallery is not None:
        share = identity.id_retrieve(faces, case.gallery.persons, case.gallery.speakers, case.photo.speaker)
    return share, *identity.consistency(faces, person), identity.identity_similarity(faces, person)


def measure_kept_identity(case: Case, judges: Judges) -> Values:
    """D_ID."""
    result, truth = (embed_frames(judges.identity, clip.crops, clip.landmarks) for clip in (case.result, case.truth))
    return (identity.identity_kept(result, truth),)


def measure_pose(case: Case, judges: Judges) -> Values:
    """Pose error, of the whole head rotation."""
    return (average(motion.pose_errors(case.result.landmarks, case.truth.landmarks)[:, 0]),)


def measure_expression(case: Case, judges: Judges) -> Values:
    """Expression error."""
    return (average(motion.expression_errors(case.result.landmarks, case.truth.landmarks)),)


def measure_sharpness(case: Case, judges: Judges) -> Values:
    """Fine detail in parts of the truth's."""
    return (average(sharpness.sharpness(case.result.crops, case.truth.crops, case.truth.landmarks)),)


def measure_flicker(case: Case, judges: Judges) -> Values:
    """Change of still skin in parts of the truth's."""
    return (pixels.flicker(case.result.crops, case.truth.crops, case.truth.landmarks),)


def has_voiced_clip(case: Case) -> bool:
    """Whether the clip that the voice comes from is known."""
    return case.voiced is not None


def is_self_driven(case: Case) -> bool:
    """Whether the truth of every frame's motion is known."""
    return case.setting == "self"


METERS: tuple[Meter, ...] = (
    Meter((pixels.SSIM,), lambda case, _: (average(pixels.ssim(case.result.crops, case.truth.crops)),)),
    Meter((pixels.PSNR,), lambda case, _: (average(pixels.psnr(case.result.crops, case.truth.crops)),)),
    Meter((sharpness.CPBD,), lambda case, _: (average(sharpness.cpbd(case.result.crops)),)),
    Meter((motion.LMD, motion.LMD_MOUTH), measure_landmarks, is_self_driven),
    Meter((lip_sync.LSE_C, lip_sync.LSE_D, lip_sync.DELTA_SYNC), measure_sync),
    Meter((lip_sync.MOUTH_OPENING, lip_sync.SHIFTED), measure_opening, has_voiced_clip),
    Meter((lip_sync.OPENING_IN_SILENCE,), measure_silence, has_voiced_clip),
    Meter(
        (identity.ID_RETRIEVE, identity.CONSISTENCY, identity.DEVIATION, identity.ID_SIMILARITY), measure_identity,
        lambda case: case.photo is not None,
    ),
    Meter((identity.D_ID,), measure_kept_identity, lambda case: case.photo is None and case.changed),
    Meter((motion.POSE,), measure_pose),
    Meter((motion.EXPRESSION,), measure_expression, is_self_driven),
    Meter((sharpness.SHARPNESS,), measure_sharpness),
    Meter((pixels.FLICKER,), measure_flicker),
    Meter(
        (RTF,), lambda case, _: (real_time_factor(case.render_seconds, case.video_seconds),),
        lambda case: case.render_seconds > 0 and case.changed,
    ),
)  # fmt: skip


def measure(case: Case, judges: Judges) -> tuple[dict[str, float], dict[str, str]]:
    """All metrics of one result.

    Returns:
        (metric key -> value, metric key -> why it has none).
    """
    values: dict[str, float] = {}
    missing: dict[str, str] = {}
    for meter in METERS:
        if not meter.applies(case):
            continue
        try:
            measured = meter.measure(case, judges)
        # One metric's failure on one clip costs its own column only, with the reason in the report.
        except TalkswapError as error:
            missing |= {metric.key: error.message for metric in meter.metrics}
            continue
        for metric, value in zip(meter.metrics, measured, strict=True):
            if value is None:
                continue
            if math.isfinite(value):
                values[metric.key] = float(value)
            else:
                missing[metric.key] = "nothing to measure in this clip"
    return values, missing


def features(clip: observe.Observation, judges: Judges) -> FloatArray:
    """Features (N D) of some frames of a clip, for the figure of the whole set (FID)."""
    return judges.features(np.asarray(clip.crops[sampled(len(clip.crops), frechet.EVERY)]))


def columns(judges: Judges) -> tuple[Column, ...]:
    """Every column of a report with its judge."""
    metrics = [frechet.FID, *(metric for meter in METERS for metric in meter.metrics)]
    return tuple(Column(metric, judges.judge(metric.network)) for metric in metrics)


@dataclass(frozen=True)
class ClipPlan:
    """A finished clip to score."""

    result: Path
    target: Path
    source: Path | None = None  # photo; None: no face was swapped in
    audio: Path | None = None  # voice that drove the lips, as the clip of its speaker or as sound; None: the target's
    size: int = 320  # px of the crops
    setup: Setup = Setup()
    judges: JudgeFiles = JudgeFiles()


@dataclass(frozen=True)
class ClipScore:
    """The figures of a finished clip."""

    setting: str  # "self": the target's own voice, so that the truth of every frame is known; else "cross"
    frames: int
    values: dict[str, float]  # metric key -> value
    missing: dict[str, str]  # metric key -> why it has none
    columns: tuple[Column, ...]  # of the values and of what is missing


def score_clip(plan: ClipPlan) -> ClipScore:
    """Score one result.

    Raises:
        InputMissingError, UnreadableMediaError, NoVideoError: a file is missing, or of another kind.
        NoAudioError: the result has no sound.
        NoSourceFaceError, NoTargetFaceError: there is no face in the photo, in the target, or in the result.
        WeightsMissingError, WeightsCorruptError: of the analyser or of a judge.
    """
    for path in (plan.result, plan.target):
        probe(path)  # the cheap checks come first
    preset = find_preset(plan.setup.preset, plan.setup.weights, requirements())
    analyser = load_analyser(preset.analyser, preset)
    photo = None
    if plan.source is not None:
        photo = observe.open_photo(plan.source.name, plan.source.stem, plan.source, analyser, plan.size)
    # Before the slow part: a clip without sound gets no figure of lip sync.
    if not len(observe.sound_of(plan.result).samples):
        raise NoAudioError(f"{plan.result} has no sound", "the metrics of lip-sync need it")
    # The crops are large and only needed while the metrics run.
    with tempfile.TemporaryDirectory(prefix="talkswap-eval-") as name:
        folder = Path(name)
        track = observe.track_clip(plan.target, analyser, plan.size)
        whole = observe.observe_truth(plan.target, own_sound(plan.target), track, plan.size, folder)
        result = observe.observe_result(plan.result, whole, analyser, folder)
        voiced = whole if plan.audio is None else voice_clip(plan.audio, analyser, plan.size)
        # With the target's own voice, the target's frames are the truth of every motion.
        setting = "self" if plan.audio is None else "cross"
        case = Case(setting, result, observe.matched_truth(whole, result, folder), voiced, photo, True, 0.0, 0.0)
        judges = load_judges(plan.judges)
        values, missing = measure(case, judges)
        count = len(result.times)
    # Figures of a whole set have no column here.
    shown = tuple(column for column in columns(judges) if column.metric.key in values | missing)
    return ClipScore(setting, count, values, missing, shown)


def own_sound(target: Path) -> Voice:
    """The target's own sound; silence if it has none, since a voice may have been laid on a silent clip."""
    try:
        return observe.sound_of(target)
    except NoAudioError:
        return Voice(np.zeros(0, np.float32), 16000)


def voice_clip(audio: Path, analyser: FaceAnalyser, size: int) -> observe.Observation | None:
    """The clip that a voice was spoken in; None if it shows nobody, or is sound alone.

    Raises:
        InputMissingError, NoAudioError, UnreadableMediaError: its sound can't be read.
    """
    # A voice without pictures is fine; sound that can't be read isn't.
    voice = load_voice(audio)
    try:
        return observe.observe_truth(audio, voice, observe.track_clip(audio, analyser, size), size, None)
    except (NoVideoError, NoTargetFaceError, UnreadableMediaError):
        return None
