"""The one table of columns: every metric, when it is measured, and how its file is called.

A :class:`Meter` computes the metrics that come out of one look at a case.  The order here is that of a report's columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from talkswap.errors import TalkswapError
from talkswap.evaluation.judges.judges import Judges
from talkswap.evaluation.judges.observe import Observation
from talkswap.evaluation.judges.recognition import embed_frames
from talkswap.evaluation.metrics import flicker, pose, sharpness
from talkswap.evaluation.metrics import frechet as fid
from talkswap.evaluation.metrics import identity as id_retrieve
from talkswap.evaluation.metrics import landmarks as landmark_distance
from talkswap.evaluation.metrics import lip_sync as delta
from talkswap.evaluation.metrics import mouth as silence
from talkswap.evaluation.metrics import pixels as psnr
from talkswap.evaluation.metrics import pixels as ssim
from talkswap.evaluation.metrics import pose as expression
from talkswap.evaluation.metrics import sharpness as cpbd
from talkswap.evaluation.metrics.identity import (
    CONSISTENCY,
    D_ID,
    DEVIATION,
    ID_SIMILARITY,
    consistency,
    identity_kept,
    identity_similarity,
)
from talkswap.evaluation.metrics.lip_sync import LSE_C, LSE_D, SyncScore
from talkswap.evaluation.metrics.metric import RTF, Metric, average, real_time_factor, sampled
from talkswap.evaluation.metrics.mouth import MOUTH_OPENING, SHIFTED, opening_correlation
from talkswap.evaluation.protocol.case import Case, pictures_of
from talkswap.evaluation.protocol.results import Column
from talkswap.types import FloatArray

BOTH, SELF = ("self", "cross"), ("self",)
Values = dict[str, float]


@dataclass(frozen=True)
class Meter:
    """Some metrics that are measured together.

    A value that cannot be measured on a case is nan, or the whole meter raises a
    :class:`~talkswap.errors.TalkswapError` that says why.
    """

    metrics: tuple[Metric, ...]
    measure: Callable[[Case, Judges], Values]
    settings: tuple[str, ...] = BOTH
    applies: Callable[[Case], bool] = lambda case: True  # to other cases it has nothing to say


def _ssim(case: Case, judges: Judges) -> Values:
    return {ssim.SSIM.key: average(ssim.ssim(case.result.crops, case.truth.crops))}


def _psnr(case: Case, judges: Judges) -> Values:
    return {psnr.PSNR.key: average(psnr.psnr(case.result.crops, case.truth.crops))}


def _cpbd(case: Case, judges: Judges) -> Values:
    return {cpbd.CPBD.key: average(cpbd.cpbd(case.result.crops))}


def _sharpness(case: Case, judges: Judges) -> Values:
    measured = sharpness.sharpness(case.result.crops, case.truth.crops, case.truth.landmarks)
    return {sharpness.SHARPNESS.key: average(measured)}


def _flicker(case: Case, judges: Judges) -> Values:
    return {flicker.FLICKER.key: flicker.flicker(case.result.crops, case.truth.crops, case.truth.landmarks)}


def _landmarks(case: Case, judges: Judges) -> Values:
    made, wanted, size = case.result.landmarks, case.truth.landmarks, case.truth.crops.shape[1]
    return {
        landmark_distance.LMD.key: average(landmark_distance.landmark_distance(made, wanted, size)),
        landmark_distance.LMD_MOUTH.key: average(landmark_distance.mouth_distance(made, wanted, size)),
    }


def _pose(case: Case, judges: Judges) -> Values:
    errors = pose.pose_errors(case.result.landmarks, case.truth.landmarks)
    return {pose.POSE.key: average(errors[:, 0])}


def _expression(case: Case, judges: Judges) -> Values:
    return {
        expression.EXPRESSION.key: average(expression.expression_errors(case.result.landmarks, case.truth.landmarks))
    }


def sync_score(seen: Observation, judges: Judges) -> SyncScore:
    """What the sync judge says of a clip and its own sound."""
    return judges.sync(pictures_of(seen), seen.unaligned, seen.times, seen.voice.samples)


def _sync(case: Case, judges: Judges) -> Values:
    made = sync_score(case.result, judges)
    values = {LSE_C.key: made.confidence, LSE_D.key: made.distance}
    if case.changed and case.voiced is not None:
        wanted = judges.truths.get(str(case.voiced.video))
        if wanted is None:
            wanted = judges.truths[str(case.voiced.video)] = sync_score(case.voiced, judges)
        values[delta.DELTA_SYNC.key] = delta.delta_sync(made, wanted)
    return values


def _opening(case: Case, judges: Judges) -> Values:
    assert case.voiced is not None
    voiced = case.voiced
    made = opening_correlation(case.result.landmarks, case.result.times, voiced.landmarks, voiced.times)
    return {MOUTH_OPENING.key: made.correlation, SHIFTED.key: made.shifted}


def _silence(case: Case, judges: Judges) -> Values:
    assert case.voiced is not None
    seen, voiced = case.result, case.voiced
    value = silence.silence(seen.landmarks, seen.times, voiced.landmarks, voiced.times, voiced.voice.samples)
    return {silence.OPENING_IN_SILENCE.key: value}


def _identity(case: Case, judges: Judges) -> Values:
    assert case.photo is not None
    shown, person = embed_frames(judges.identity, case.result.crops, case.result.landmarks), judges.person(case.photo)
    mean, deviation = consistency(shown, person)
    values = {CONSISTENCY.key: mean, DEVIATION.key: deviation, ID_SIMILARITY.key: identity_similarity(shown, person)}
    if case.gallery is not None:
        persons, speakers = case.gallery.persons, case.gallery.speakers
        values[id_retrieve.ID_RETRIEVE.key] = id_retrieve.id_retrieve(shown, persons, speakers, case.photo.speaker)
    return values


def _kept_identity(case: Case, judges: Judges) -> Values:
    made, wanted = (embed_frames(judges.identity, o.crops, o.landmarks) for o in (case.result, case.truth))
    return {D_ID.key: identity_kept(made, wanted)}


def _speed(case: Case, judges: Judges) -> Values:
    return {RTF.key: real_time_factor(case.render_seconds, case.video_seconds)}


def _voiced(case: Case) -> bool:
    return case.voiced is not None


METERS: tuple[Meter, ...] = (
    Meter((ssim.SSIM,), _ssim),
    Meter((psnr.PSNR,), _psnr),
    Meter((cpbd.CPBD,), _cpbd),
    Meter((landmark_distance.LMD, landmark_distance.LMD_MOUTH), _landmarks, SELF),
    Meter((LSE_C, LSE_D, delta.DELTA_SYNC), _sync),
    Meter((MOUTH_OPENING, SHIFTED), _opening, applies=_voiced),
    Meter((silence.OPENING_IN_SILENCE,), _silence, applies=_voiced),
    Meter(
        (id_retrieve.ID_RETRIEVE, CONSISTENCY, DEVIATION, ID_SIMILARITY), _identity,
        applies=lambda case: case.photo is not None,
    ),
    Meter((D_ID,), _kept_identity, applies=lambda case: case.photo is None and case.changed),
    Meter((pose.POSE,), _pose),
    Meter((expression.EXPRESSION,), _expression, SELF),
    Meter((sharpness.SHARPNESS,), _sharpness),
    Meter((flicker.FLICKER,), _flicker),
    Meter((RTF,), _speed, applies=lambda case: case.render_seconds > 0 and case.changed),
)  # fmt: skip


def measure(case: Case, judges: Judges) -> tuple[Values, dict[str, str]]:
    """All metrics of one result.

    Returns:
        (values, why those that are missing are).
    """
    values: Values = {}
    missing: dict[str, str] = {}
    for meter in METERS:
        if case.setting not in meter.settings or not meter.applies(case):
            continue
        try:
            found = meter.measure(case, judges)
        except TalkswapError as error:
            missing |= {metric.key: error.message for metric in meter.metrics}
            continue
        for key, value in found.items():
            if math.isfinite(value):
                values[key] = float(value)
            else:
                missing[key] = "nothing to measure in this clip"
    return values, missing


def features(seen: Observation, judges: Judges) -> FloatArray:
    """What the set's figure (FID) is made of: features (N D) of some frames of a clip."""
    return judges.features(np.asarray(seen.crops[sampled(len(seen.crops), fid.EVERY)]))


def columns(judges: Judges) -> tuple[Column, ...]:
    """Every column of a report with who judged it."""
    metrics = [fid.FID, *(metric for meter in METERS for metric in meter.metrics)]
    return tuple(Column(metric, judges.judge(metric.network)) for metric in metrics)
