"""All metrics of one result: the table of columns, and which metric is measured on which case.

A :class:`Meter` measures the metrics that come out of one pass over a case.  The order here is that of a report's
columns.  A new metric is a file in ``metrics/`` and one line in ``METERS``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from talkswap.errors import TalkswapError
from talkswap.evaluation.judges.judges import Gallery, Judges
from talkswap.evaluation.judges.observe import Observation, Photo
from talkswap.evaluation.judges.recognition import embed_frames
from talkswap.evaluation.metrics import frechet, identity, landmarks, lip_sync, mouth, pixels, pose, sharpness
from talkswap.evaluation.metrics.flicker import FLICKER, flicker
from talkswap.evaluation.metrics.metric import RTF, Metric, average, real_time_factor, sampled
from talkswap.evaluation.results import Column
from talkswap.types import FloatArray

Values = tuple[float | None, ...]
"""One per metric of a meter: nan if the clip gives none, None if the metric has nothing to say about the case."""


@dataclass(frozen=True)
class Case:
    """One method's result on one pair; result and truth have the same frames, row for row."""

    setting: str  # "self" or "cross"
    result: Observation
    truth: Observation  # the target clip as it is
    voiced: Observation | None  # all frames of the clip that the driving voice comes from; None: unknown
    photo: Photo | None  # None if no face was swapped in
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
    distances = landmarks.landmark_distance(result, truth, size), landmarks.mouth_distance(result, truth, size)
    return tuple(average(distance) for distance in distances)


def sync_score(clip: Observation, judges: Judges) -> lip_sync.SyncScore:
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
    score = mouth.opening_correlation(result.landmarks, result.times, voiced.landmarks, voiced.times)
    return score.correlation, score.shifted


def measure_silence(case: Case, judges: Judges) -> Values:
    """Excess opening in silence."""
    assert case.voiced is not None
    result, voiced = case.result, case.voiced
    return (mouth.silence(result.landmarks, result.times, voiced.landmarks, voiced.times, voiced.voice.samples),)


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
    Meter((landmarks.LMD, landmarks.LMD_MOUTH), measure_landmarks, is_self_driven),
    Meter((lip_sync.LSE_C, lip_sync.LSE_D, lip_sync.DELTA_SYNC), measure_sync),
    Meter((mouth.MOUTH_OPENING, mouth.SHIFTED), measure_opening, has_voiced_clip),
    Meter((mouth.OPENING_IN_SILENCE,), measure_silence, has_voiced_clip),
    Meter(
        (identity.ID_RETRIEVE, identity.CONSISTENCY, identity.DEVIATION, identity.ID_SIMILARITY), measure_identity,
        lambda case: case.photo is not None,
    ),
    Meter((identity.D_ID,), measure_kept_identity, lambda case: case.photo is None and case.changed),
    Meter((pose.POSE,), lambda case, _: (average(pose.pose_errors(case.result.landmarks, case.truth.landmarks)[:, 0]),)),
    Meter(
        (pose.EXPRESSION,),
        lambda case, _: (average(pose.expression_errors(case.result.landmarks, case.truth.landmarks)),), is_self_driven,
    ),
    Meter(
        (sharpness.SHARPNESS,),
        lambda case, _: (average(sharpness.sharpness(case.result.crops, case.truth.crops, case.truth.landmarks)),),
    ),
    Meter((FLICKER,), lambda case, _: (flicker(case.result.crops, case.truth.crops, case.truth.landmarks),)),
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


def features(clip: Observation, judges: Judges) -> FloatArray:
    """Features (N D) of some frames of a clip, for the figure of the whole set (FID)."""
    return judges.features(np.asarray(clip.crops[sampled(len(clip.crops), frechet.EVERY)]))


def columns(judges: Judges) -> tuple[Column, ...]:
    """Every column of a report with its judge."""
    metrics = [frechet.FID, *(metric for meter in METERS for metric in meter.metrics)]
    return tuple(Column(metric, judges.judge(metric.network)) for metric in metrics)
