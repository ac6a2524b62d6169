"""From raters' answers to mean opinion scores, with confidence intervals that account for raters and clips.

Ratings are not independent: a strict rater is strict throughout, and a hard clip is hard for everybody.  The variance of a
mean is therefore clustered both ways (Cameron, Gelbach and Miller, 2011): between raters plus between clips minus between
single ratings, never less than the larger of the first two.  The interval is Student's t with one degree of freedom less
than the smaller number of raters or clips.  With one rater, or one clip, the spread of raters or clips is unknown and left
out, and the row says so; with one of each there is no interval.
"""

import csv
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from talkswap.errors import TrainingDataError
from talkswap.evaluation.study.study import BEST, WORST, StudyKey

COLUMNS = ("study", "rater", "clip", "question", "rating")
CONFIDENCE = 0.95
LONGEST_RATER = 200  # characters


@dataclass(frozen=True)
class Rating:
    """One answer."""

    rater: str
    clip: str
    question: str
    value: int


@dataclass(frozen=True)
class BadRow:
    """A row that doesn't count."""

    file: str
    line: int
    reason: str  # without a full stop


@dataclass(frozen=True)
class Answers:
    """All rows of the raters' files."""

    ratings: tuple[Rating, ...]
    bad: tuple[BadRow, ...]


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval."""

    mean: float
    low: float | None  # None: one rater and one clip
    high: float | None
    raters: int
    clips: int
    ratings: int
    note: str = ""


@dataclass(frozen=True)
class Score:
    """A method's answer to one question."""

    setting: str
    method: str
    label: str
    question: str
    interval: Interval


def read_answers(paths: Iterable[Path], key: StudyKey) -> Answers:
    """Read the raters' files; rows that can't count are named.

    A rating that occurs twice with one value counts once; with two values the later one counts and the earlier one is
    named.

    Raises:
        TrainingDataError: a file can't be read or has other columns, or no row counts.
    """
    ratings: dict[tuple[str, str, str], tuple[Rating, str, int]] = {}
    bad = []
    for path in paths:
        for line, row in _rows(path):
            rating = _rating(row, key)
            if isinstance(rating, str):
                bad.append(BadRow(str(path), line, rating))
                continue
            place = (rating.rater, rating.clip, rating.question)
            # Raters save again after they change their mind, so the later answer counts.
            if place in ratings and ratings[place][0] != rating:
                _, earlier, earlier_line = ratings[place]
                bad.append(BadRow(earlier, earlier_line, "the same rater answered this again later"))
            ratings[place] = (rating, str(path), line)
    if not ratings:
        why = f"; the first of {len(bad)} bad rows: {bad[0].reason}" if bad else ""
        raise TrainingDataError(f"no answer counts{why}", "give the files that raters saved, and their study's key")
    return Answers(tuple(rating for rating, _, _ in ratings.values()), tuple(bad))


def score(answers: Answers, key: StudyKey) -> tuple[Score, ...]:
    """Every method's mean on every question, in the key's order of methods and questions."""
    groups: dict[tuple[str, str, str], list[Rating]] = {}
    for rating in answers.ratings:
        clip = key.clips[rating.clip]
        groups.setdefault((clip.setting, clip.method, rating.question), []).append(rating)
    labels = {(clip.setting, clip.method): clip.label for clip in sorted(key.clips.values(), key=lambda c: c.method)}
    scores = []
    for setting in sorted({setting for setting, _ in labels}, reverse=True):  # self before cross
        for question in key.questions:
            for (place, method), label in labels.items():
                ratings = groups.get((setting, method, question))
                if place == setting and ratings:
                    interval = mean_interval(
                        [rating.value for rating in ratings],
                        [rating.rater for rating in ratings],
                        [rating.clip for rating in ratings],
                    )
                    scores.append(Score(setting, method, label, question, interval))
    return tuple(scores)


def mean_interval(
    values: Sequence[float], raters: Sequence[Hashable], clips: Sequence[Hashable], confidence: float = CONFIDENCE
) -> Interval:
    """The mean of ratings with its interval (the module says how), kept within the scale.

    Args:
        values: N ratings.
        raters: N: who gave each.
        clips: N: to which clip.
        confidence: share of intervals that hold the true mean.

    Raises:
        ValueError: no values, or not equally many of each.
    """
    count = len(values)
    if not count or len(raters) != count or len(clips) != count:
        raise ValueError("values, raters and clips must be equally many, and some")
    mean = math.fsum(values) / count
    errors = [value - mean for value in values]
    groups = len(set(raters)), len(set(clips))
    # Clustered by raters and by clips; one cluster alone has no spread to measure.
    parts = [_clustered(errors, clusters) for clusters, n in zip((raters, clips), groups, strict=True) if n > 1]
    if not parts:
        return Interval(mean, None, None, *groups, count, "one rater and one clip: no interval")
    variance = max(parts)
    if len(parts) == 2:
        # Both parts contain the single ratings' own spread, so it is taken off once.
        variance = max(variance, math.fsum(parts) - _clustered(errors, range(count)))
    degrees = min(n for n in groups if n > 1) - 1
    half = student_quantile((1 + confidence) / 2, degrees) * math.sqrt(variance)
    note = ""
    if 1 in groups:
        note = f"one {'rater: how raters' if groups[0] == 1 else 'clip: how clips'} differ is not in it"
    return Interval(mean, max(WORST, mean - half), min(BEST, mean + half), *groups, count, note)


def student_quantile(probability: float, degrees: int) -> float:
    """Student's t: the value that a share ``probability`` (0.5 to 1) of the distribution lies below.

    The distribution function is a finite sum for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4);
    it is inverted by bisection of the angle.
    """
    if degrees < 1 or not 0.5 <= probability < 1:
        raise ValueError("degrees from 1, probabilities from 0.5 to below 1")
    inside = 2 * probability - 1
    low, high = 0.0, math.pi / 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < inside else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def _within(angle: float, degrees: int) -> float:
    """Share of the distribution between -t and t, for t = sqrt(degrees) tan(angle)."""
    cosine = math.cos(angle)
    odd = degrees % 2
    # The series differs for odd and even degrees of freedom.
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for number in range(1 + odd, degrees, 2):
        total += term
        term *= number / (number + 1) * cosine * cosine
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


def _clustered(errors: Sequence[float], clusters: Iterable[Hashable]) -> float:
    """Variance of the mean when errors of one cluster belong together."""
    sums: dict[Hashable, float] = {}
    for error, cluster in zip(errors, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + error
    return len(sums) / (len(sums) - 1) * math.fsum(s * s for s in sums.values()) / len(errors) ** 2


def _rows(path: Path) -> Iterable[tuple[int, dict[str, str]]]:
    hint = "give the files that raters saved with the study's page"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            # Spreadsheets reorder columns and add blanks, so names decide and not places.
            head = [cell.strip() for cell in next(reader, [])]
            if missing := [name for name in COLUMNS if name not in head]:
                raise TrainingDataError(f"{path} has no column '{missing[0]}'", hint)
            return [
                (reader.line_num, dict(zip(head, [cell.strip() for cell in row], strict=False)))
                for row in reader
                if any(cell.strip() for cell in row)
            ]
    except OSError as error:
        raise TrainingDataError(f"cannot read {path}: {error.strerror}", hint) from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise TrainingDataError(f"{path} is no CSV file: {error}", hint) from error


def _rating(row: dict[str, str], key: StudyKey) -> Rating | str:
    """The rating of a row, or why there is none."""
    study, rater, clip, question, rating = (row.get(name, "") for name in COLUMNS)
    if study != key.study:
        return f"it belongs to the study '{study[:40]}', the key to '{key.study}'"
    if not rater or len(rater) > LONGEST_RATER:
        return "it names no rater" if not rater else "the rater's name is too long"
    if clip not in key.clips:
        return f"the study has no clip '{clip[:40]}'"
    if question not in key.questions:
        return f"the study has no question '{question[:40]}'"
    # isdigit alone would take digits of other scripts, which int reads too.
    if not (rating.isascii() and rating.isdigit() and len(rating) < 10 and WORST <= int(rating) <= BEST):
        return f"the rating '{rating[:40]}' is not a whole number from {WORST} to {BEST}"
    return Rating(rater, clip, question, int(rating))
