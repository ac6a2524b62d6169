"""The tables of a report, independent of the file that shows them: the text of every cell, the best figures, what didn't run.

Two rules are kept here and nowhere else: figures of a published network and of a compact stand-in are never in one
table, and a paper's figures are shown only beside comparable ones of ours.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from talkswap.evaluation.results import COMPACT_MARK, Column, Evaluation, MethodResult, PairResult, SettingResult
from talkswap.systems.description import PublishedRow

SETTINGS = {"self": "Self-driven", "cross": "Cross-driven"}
GROUND_TRUTH = "ground-truth"
NOTHING = "–"
_ARROWS = {"higher": "↑", "lower": "↓", "neither": ""}


@dataclass(frozen=True)
class Heading:
    """A column's head."""

    text: str  # with an arrow to the better side, and the unit
    about: str = ""  # one sentence without a full stop
    judge: str = ""  # the network that judged


@dataclass(frozen=True)
class Cell:
    """One figure."""

    text: str
    detail: str = ""  # spread between pairs, and how many where some are missing
    best: bool = False


@dataclass(frozen=True)
class Row:
    """One method of ours, one row of a paper, or one that did not run."""

    name: str
    kind: Literal["ours", "truth", "paper", "not run"]
    cells: tuple[Cell, ...]  # empty where it did not run
    note: str = ""  # why it did not run, or what the paper says of the row


@dataclass(frozen=True)
class Table:
    """One table; all its columns may be compared with each other's rows."""

    title: str
    head: tuple[Heading, ...]  # the first one stands over the rows' names
    rows: tuple[Row, ...]
    mark: str = ""  # COMPACT_MARK, or nothing
    notes: tuple[str, ...] = ()


def figure(value: float) -> str:
    """A number with the digits that a reader needs: three after the point, fewer from ten on."""
    size = abs(value)
    if size >= 1000:
        return f"{value:.0f}"
    return f"{value:.1f}" if size >= 100 else f"{value:.2f}" if size >= 10 else f"{value:.3f}"


def duration(seconds: float) -> str:
    """Seconds as people write them: 3.4 s, 12 min 5 s, 1 h 3 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def pair_name(pair: PairResult) -> str:
    """The name of a pair everywhere in a report; readers count from 1."""
    return f"pair {pair.number + 1}: {pair.source} → {pair.target}"


def result_tables(evaluation: Evaluation, setting: SettingResult) -> tuple[Table, ...]:
    """Our figures of one setting: those comparable with the paper's, then the others; empty tables are left out."""
    title = SETTINGS[setting.setting]
    tables = []
    for comparable in (True, False):
        columns = evaluation.columns_for(comparable, setting)
        if not columns and not (comparable and any(method.not_run for method in setting.methods)):
            continue
        published = evaluation.published_for(setting.setting) if comparable else ()
        judges = "published networks, and metrics without a network" if comparable else "compact stand-ins"
        tables.append(
            Table(
                f"{title}: {judges}",
                _head("Method", setting.methods, published, columns),
                _rows(setting.methods, published, columns),
                "" if comparable else COMPACT_MARK,
                _notes(setting.methods, columns, bool(published)),
            )
        )
    return tuple(tables)


def published_table(evaluation: Evaluation, setting: str) -> Table | None:
    """The paper's rows of one setting with all their figures, whether or not we have them; None without any."""
    rows = evaluation.published_for(setting)
    if not rows:
        return None
    columns = {column.metric.key: column for column in evaluation.columns}
    keys = list(dict.fromkeys(key for row in rows for key in row.values))
    names = _choices((), rows)
    head = [Heading("Method"), *[Heading(name.replace("_", " ")) for name in names]]
    head += [_heading(columns[key], judged=False) if key in columns else Heading(key) for key in keys]
    cells = [
        tuple([Cell(row.choices.get(name, NOTHING)) for name in names] + [_published(row, key, rows) for key in keys])
        for row in rows
    ]
    tables = dict.fromkeys(f"{row.paper} table {row.table}" for row in rows)
    return Table(
        f"As published: {', '.join(tables)}",
        tuple(head),
        tuple(Row(row.label, "paper", line, row.note) for row, line in zip(rows, cells, strict=True)),
    )


def side_and_unit(column: Column) -> str:
    """``, dB, higher is better``: what a heading says behind the metric's name where it isn't an arrow."""
    side = {"higher": "higher is better", "lower": "lower is better", "neither": ""}[column.metric.better]
    return "".join(f", {part}" for part in (column.metric.unit, side) if part)


def pair_tables(evaluation: Evaluation, setting: SettingResult) -> list[Table]:
    """Every pair's own figures, a table for each method and kind of judge."""
    tables = []
    for comparable in (True, False):
        columns = [
            column
            for column in evaluation.columns_for(comparable, setting)
            if any(column.metric.key in pair.values for method in setting.methods for pair in method.pairs)
        ]
        head = (Heading("Pair"), *[Heading(f"{column.metric.label}{side_and_unit(column)}") for column in columns])
        for method in setting.methods:
            rows = []
            for pair in method.pairs:
                values = [pair.values.get(column.metric.key) for column in columns]
                cells = tuple(Cell(NOTHING if value is None else figure(value)) for value in values)
                if not pair.error:
                    rows.append(Row(pair_name(pair), "ours", cells))
            if rows and columns:
                mark = "" if comparable else COMPACT_MARK
                tables.append(Table(f"{method.label}, pair by pair", head, tuple(rows), mark))
    return tables


def timing_table(evaluation: Evaluation) -> Table | None:
    """Mean seconds a pair, for each part that was timed; None where nothing was."""
    timed = [(s, m) for s in evaluation.settings for m in s.methods if any(pair.timings for pair in m.pairs)]
    parts = list(dict.fromkeys(part for _, m in timed for pair in m.pairs for part in pair.timings))
    if not timed:
        return None
    rows = []
    for setting, method in timed:
        cells = []
        for part in parts:
            seconds = [pair.timings[part] for pair in method.pairs if part in pair.timings]
            mean = sum(seconds) / len(seconds) if seconds else None
            cells.append(Cell(NOTHING if mean is None else figure(mean), f"{len(seconds)} pairs" if seconds else ""))
        rows.append(Row(f"{method.label}, {SETTINGS[setting.setting].lower()}", "ours", tuple(cells)))
    head = (Heading("Method"), *[Heading(part.replace("_", " "), "seconds, mean of the pairs") for part in parts])
    return Table("Seconds a pair", head, tuple(rows))


def failures(evaluation: Evaluation) -> tuple[tuple[str, str, str], ...]:
    """Setting and method, pair, and why it failed."""
    return tuple(
        (f"{SETTINGS[setting.setting]}, {method.label}", pair_name(pair), pair.error)
        for setting in evaluation.settings
        for method in setting.methods
        for pair in method.failed
    )


def method_weights(evaluation: Evaluation) -> dict[str, dict[str, str]]:
    """Weights of single methods that aren't those of the whole evaluation; methods without any are left out."""
    common = evaluation.provenance.weights
    weights: dict[str, dict[str, str]] = {}
    for setting in evaluation.settings:
        for method in setting.methods:
            own = {name: value for name, value in method.weights.items() if common.get(name) != value}
            if own:
                weights.setdefault(method.label, {}).update(own)
    return weights


def _rows(
    methods: Sequence[MethodResult], published: Sequence[PublishedRow], columns: Sequence[Column]
) -> tuple[Row, ...]:
    best = _best(methods, columns)
    names = _choices(methods, published)
    rest = list(published)
    rows = []
    for method in methods:
        if method.not_run:
            rows.append(Row(method.label, "not run", (), method.not_run))
        else:
            choices = [Cell(method.choices.get(name, NOTHING)) for name in names]
            cells = [_cell(method, column, (method.key, column.metric.key) in best) for column in columns]
            rows.append(
                Row(method.label, "truth" if method.key == GROUND_TRUTH else "ours", (*choices, *cells), method.about)
            )
        # A paper's row of the same method follows ours; the paper's other rows come last.
        for row in [row for row in rest if row.key == method.key]:
            rows.append(_paper_row(row, names, columns, published))
            rest.remove(row)
    rows += [_paper_row(row, names, columns, published) for row in rest]
    return tuple(row for row in rows if row.kind != "paper" or any(cell.text != NOTHING for cell in row.cells))


def _paper_row(
    row: PublishedRow, names: Sequence[str], columns: Sequence[Column], published: Sequence[PublishedRow]
) -> Row:
    cells = [Cell(row.choices.get(name, NOTHING)) for name in names]
    cells += [_published(row, column.metric.key, published) for column in columns]
    if all(cell.text == NOTHING for cell in cells[len(names) :]):
        cells = [Cell(NOTHING)]  # no figure is comparable with ours: the row is left out
    return Row(f"{row.label}, in the {row.paper} paper", "paper", tuple(cells), row.note)


def _published(row: PublishedRow, key: str, published: Sequence[PublishedRow]) -> Cell:
    """A paper's figure with as many digits as its column has there: 0.89 becomes 0.890 beside 0.904."""
    if key not in row.values:
        return Cell(NOTHING)
    # Papers print all figures of a column with the same digits, which floats forget.
    digits = max(len(f"{other.values[key]:g}".partition(".")[2]) for other in published if key in other.values)
    return Cell(f"{row.values[key]:.{digits}f}")


def _cell(method: MethodResult, column: Column, best: bool) -> Cell:
    mean = method.figures.get(column.metric.key)
    if mean is None:
        return Cell(NOTHING)
    finished = sum(not pair.error for pair in method.pairs)
    spread = "" if mean.deviation is None else f"± {figure(mean.deviation)}"
    few = f"{mean.count} of {finished} pairs" if mean.count < finished else ""
    return Cell(figure(mean.value), ", ".join(part for part in (spread, few) if part), best)


def _best(methods: Sequence[MethodResult], columns: Sequence[Column]) -> set[tuple[str, str]]:
    """Method and metric of every best figure; the ground truth does not compete, nor does a single method."""
    # The ground truth would win most columns, and says nothing about methods.
    rivals = [method for method in methods if method.key != GROUND_TRUTH and not method.not_run]
    best = set()
    for column in columns:
        key, better = column.metric.key, column.metric.better
        values = {method.key: method.figures[key].value for method in rivals if key in method.figures}
        if better == "neither" or len(values) < 2:
            continue
        top = max(values.values()) if better == "higher" else min(values.values())
        # Figures that read the same are equally good.
        best |= {(name, key) for name, value in values.items() if figure(value) == figure(top)}
    return best


def _head(
    first: str, methods: Sequence[MethodResult], published: Sequence[PublishedRow], columns: Sequence[Column]
) -> tuple[Heading, ...]:
    choices = [Heading(name.replace("_", " ")) for name in _choices(methods, published)]
    figures = [_heading(column) for column in columns] or [Heading("Outcome")]
    return (Heading(first), *choices, *figures)


def _heading(column: Column, judged: bool = True) -> Heading:
    metric = column.metric
    text = " ".join(part for part in (metric.label, _ARROWS[metric.better]) if part)
    unit = f", {metric.unit}" if metric.unit else ""
    return Heading(text + unit, metric.about, column.judge.name if judged and column.judge is not None else "")


def _choices(methods: Iterable[MethodResult], published: Iterable[PublishedRow]) -> list[str]:
    rows = [method.choices for method in methods] + [row.choices for row in published]
    return list(dict.fromkeys(name for choices in rows for name in choices))


def _notes(methods: Sequence[MethodResult], columns: Sequence[Column], published: bool) -> tuple[str, ...]:
    """Why some figures have fewer pairs than there are, by reason; and where the paper's were measured."""
    # The same reason on many pairs is one note with a count.
    counts: dict[tuple[str, str, str], int] = {}
    labels = {column.metric.key: column.metric.label for column in columns}
    for method in methods:
        for pair in method.pairs:
            for key, reason in pair.missing.items():
                if key in labels:
                    place = (labels[key], method.label, reason)
                    counts[place] = counts.get(place, 0) + 1
    notes = [
        f"{label}, {method}: no value on {count} {'pair' if count == 1 else 'pairs'}: {reason}"
        for (label, method, reason), count in counts.items()
    ]
    if published:
        notes.append("The paper's figures were measured on its own clips, with its own networks and training")
    return tuple(notes)
