"""The report's three files: what stands in which table, what is marked, what is escaped, what is left out when it is too much."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from markupsafe import escape

from talkswap.errors import DependencyError, OutputUnwritableError
from talkswap.evaluation.metrics.metric import Judge, Metric
from talkswap.evaluation.report.report import build_markdown, build_page, embed, markdown, write_report
from talkswap.evaluation.report.tables import duration, figure, published_table, result_tables, timing_table
from talkswap.evaluation.results import (
    COMPACT_MARK,
    Column,
    Evaluation,
    Figure,
    MethodResult,
    SettingResult,
    read_evaluation,
)

HOSTILE = "<script>alert('x')</script>"
Sample = tuple[Path, Evaluation]


@pytest.fixture(scope="module")
def page(evaluation_folder: Sample) -> str:
    folder, evaluation = evaluation_folder
    return build_page(evaluation, folder)


def test_all_three_files_are_written_and_the_data_come_back(evaluation_folder: Sample, tmp_path: Path) -> None:
    folder, evaluation = evaluation_folder
    shutil.copytree(folder / "pictures", tmp_path / "pictures")
    written = write_report(tmp_path, evaluation)
    assert read_evaluation(written.data) == evaluation
    assert written.text.read_text().startswith("# HDTF protocol on data\n")
    assert written.page.read_text() == build_page(evaluation, folder)  # depends on nothing but its arguments
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures", "report.html", "report.json", "report.md"]


def test_a_place_that_cannot_be_written_is_named(evaluation_folder: Sample, tmp_path: Path) -> None:
    with pytest.raises(OutputUnwritableError, match="cannot write"):
        write_report(tmp_path / "missing", evaluation_folder[1])


def test_published_networks_and_stand_ins_share_no_table(evaluation_folder: Sample) -> None:
    evaluation = evaluation_folder[1]
    for setting in evaluation.settings:
        true, compact = result_tables(evaluation, setting)
        assert not true.mark and compact.mark == COMPACT_MARK
        columns = {heading.text.split()[0] for heading in true.head} & {h.text.split()[0] for h in compact.head}
        assert columns == {"Method"}
        assert all(row.kind != "paper" for row in compact.rows)
        assert [heading.judge for heading in compact.head[1:]] == ["compact features", "compact sync expert"]


def test_the_papers_row_stands_under_ours(evaluation_folder: Sample) -> None:
    evaluation = evaluation_folder[1]
    rows = result_tables(evaluation, evaluation.settings[0])[0].rows
    place = next(n for n, row in enumerate(rows) if row.name == "SwapTalk")
    assert rows[place + 1].kind == "paper"
    assert [cell.text for cell in rows[place + 1].cells] == ["0.908", "1.221"]
    # Wav2Lip has figures only for metrics that we judged with a stand-in
    assert not any("Wav2Lip" in row.name for row in rows)
    whole = published_table(evaluation, "self")
    assert whole is not None and [row.name for row in whole.rows] == ["SwapTalk", "Wav2Lip"]
    assert [cell.text for cell in whole.rows[1].cells] == ["–", "–", "28.5", "9.5"]
    assert published_table(evaluation, "cross") is None


def test_published_figures_keep_their_columns_digits(evaluation_folder: Sample) -> None:
    evaluation = evaluation_folder[1]
    first = evaluation.published[0]
    rows = (first, replace(first, key="wav2lip", label="Wav2Lip", values={"ssim": 0.89, "fid": 11.0}))
    whole = published_table(replace(evaluation, published=rows), "self")
    assert whole is not None
    assert [cell.text for cell in whole.rows[1].cells] == ["0.890", "–", "11.0"]


def test_best_is_marked_by_the_metrics_side_and_the_truth_does_not_compete(evaluation_folder: Sample) -> None:
    evaluation = evaluation_folder[1]
    for table in result_tables(evaluation, evaluation.settings[0]):
        for row in table.rows:
            assert all(cell.best == (row.name == "SwapTalk") for cell in row.cells), row


def test_equal_values_are_best_together_and_a_side_is_needed() -> None:
    columns = tuple(Column(Metric(key, key, better)) for key, better in (("a", "lower"), ("b", "neither")))
    methods = tuple(
        MethodResult(name, name, figures={"a": Figure(value, 1), "b": Figure(2.0, 1)})
        for name, value in (("x", 1.0), ("y", 1.0001), ("z", 1.1))
    )
    setting = SettingResult("self", methods)
    rows = result_tables(_evaluation(columns, setting), setting)[0].rows
    assert [[cell.best for cell in row.cells] for row in rows] == [[True, False], [True, False], [False, False]]


def test_what_did_not_run_says_why(evaluation_folder: Sample, page: str) -> None:
    assert "not run: inswapper_128.onnx is missing" in page
    assert "| Swap-Sync | not run: inswapper\\_128.onnx is missing |" in build_markdown(evaluation_folder[1])


def test_a_report_without_a_figure_still_says_why(tmp_path: Path) -> None:
    columns = (Column(Metric("a", "A", "lower"), Judge("identity", "x", False)),)
    setting = SettingResult("self", (MethodResult("wav2lip", "Wav2Lip", not_run="wav2lip.onnx is missing"),))
    evaluation = _evaluation(columns, setting)
    assert "not run: wav2lip.onnx is missing" in build_page(evaluation, tmp_path)
    lines = build_markdown(evaluation).splitlines()
    assert "| Wav2Lip | not run: wav2lip.onnx is missing |" in lines
    assert "| Method | Outcome |" in lines


def test_failed_pairs_and_missing_values_are_listed(evaluation_folder: Sample, page: str) -> None:
    text = build_markdown(evaluation_folder[1])
    assert "## Failed pairs: 2" in text
    assert "- Self-driven, SwapTalk sync-swap, pair 3: cleo → ann: no face was found in the result" in text
    assert page.count("no face was found in the result") == 2
    # every column of a table is counted, those without a figure are not there at all
    assert "the true frames are not known" not in text


def test_a_figure_of_fewer_pairs_says_so_and_names_the_reason(evaluation_folder: Sample) -> None:
    evaluation = evaluation_folder[1]
    setting = evaluation.settings[0]
    method = setting.methods[1]
    pair = replace(method.pairs[0], missing={"lmd": "no face in the first frame"})
    few = replace(method, pairs=(pair, *method.pairs[1:]), figures={**method.figures, "lmd": Figure(1.1, 2)})
    table = result_tables(evaluation, replace(setting, methods=(few,)))[0]
    assert table.rows[0].cells[1].detail == "2 of 3 pairs"
    assert table.notes[0] == "LMD, SwapTalk: no value on 1 pair: no face in the first frame"


def test_provenance_is_complete(evaluation_folder: Sample, page: str) -> None:
    facts = evaluation_folder[1].provenance
    shown = [
        facts.command,
        facts.commit,
        "1" * 64,
        "0" * 64,
        "2.13.0",
        *facts.notes,
        "dan",
        "no sound",
        "seed 7",
        "cores",
    ]
    for part in shown:
        assert escape(part) in page, part
    for part in (facts.command, facts.commit, "1" * 64, "2.13.0", "dan", "ann → "):
        assert part in build_markdown(evaluation_folder[1]), part


def test_weights_of_a_method_are_named_once_and_only_where_they_are_its_own(evaluation_folder: Sample) -> None:
    folder, evaluation = evaluation_folder
    settings = tuple(
        replace(
            s,
            methods=tuple(
                replace(m, weights={"vqgan.safetensors": "1" * 64, "own.onnx": "2" * 64}) for m in s.methods[1:2]
            ),
        )
        for s in evaluation.settings
    )
    other = replace(evaluation, settings=settings)
    for text in (build_page(other, folder), build_markdown(other)):
        assert text.count("1" * 64) == 1 and text.count("2" * 64) == 1


def test_names_are_text_and_never_markup(evaluation_folder: Sample, page: str) -> None:
    assert "<script" not in page
    assert escape(HOSTILE) in page
    assert "<script" not in build_markdown(evaluation_folder[1]).replace("\\<script", "")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a|b", "a\\|b"),
        ("line\nbreak", "line\\\\nbreak"),
        ("*x*_y_", "\\*x\\*\\_y\\_"),
        ("[a](b)", "\\[a\\](b)"),
        ("\udcff", "\\\\udcff"),
    ],
)
def test_markdown_keeps_names_as_they_are(name: str, shown: str) -> None:
    assert markdown(name) == shown


def test_tables_of_markdown_are_straight(evaluation_folder: Sample) -> None:
    blocks = re.findall(r"(?:^\|.*\n)+", build_markdown(evaluation_folder[1]), re.MULTILINE)
    assert len(blocks) == 6  # two of each setting, as published, timings
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block


def test_the_page_asks_nobody_for_anything(page: str) -> None:
    assert "Content-Security-Policy" in page and "default-src 'none'" in page
    sources = re.findall(r"(?:src|href)=\"([^\"]*)\"", page)
    assert sources and all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"url\(|@import|<(?:script|iframe|object|embed|form)\b", page)


def test_pictures_are_in_the_page_with_words_for_those_who_do_not_see_them(page: str) -> None:
    pictures = re.findall(r"<img [^>]*>", page)
    # each setting: 3 photos, 3 x 2 strips of the target, 2 x 2 strips of two methods and one pair more of one method
    assert len(pictures) == 2 * (3 + 6 + 2 * (3 + 2))
    assert all(re.search(r'alt="[^"]{10,}"', picture) for picture in pictures)
    assert "Mouth over time, SwapTalk, pair 2: bob → cleo" in page


def test_pictures_stop_where_the_page_would_grow_too_large(evaluation_folder: Sample, page: str) -> None:
    folder, evaluation = evaluation_folder
    bare = build_page(evaluation, folder, most=0)
    assert bare.count('<article class="pair">') == 0 and bare.count("The pictures of 3 further pairs") == 2
    half = (len(page.encode()) + len(bare.encode())) // 2
    some = build_page(evaluation, folder, most=half)
    assert len(some.encode()) <= half
    # both settings get their share, and every pair is shown or counted
    for part in some.split('<section id="setting-cross">'):
        shown = part.count('<article class="pair">')
        assert shown >= 1
        left_out = re.search(r"The pictures of (\d) further", part)
        assert shown + (int(left_out[1]) if left_out else 0) == 3
    assert some.count('<article class="pair">') < page.count('<article class="pair">') == 6


def test_a_missing_picture_is_named(evaluation_folder: Sample, tmp_path: Path) -> None:
    assert "pictures/self-0-swaptalk-faces.jpg is missing" in build_page(evaluation_folder[1], tmp_path)


def test_no_file_outside_of_the_report_gets_into_the_page(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    for name in ("../secret.jpg", str(tmp_path / "secret.jpg"), "link.jpg", ""):
        assert embed(tmp_path / "report", name) is None, name


def test_timings_are_means_over_pairs(evaluation_folder: Sample) -> None:
    table = timing_table(evaluation_folder[1])
    assert table is not None
    assert [heading.text for heading in table.head] == ["Method", "render", "score"]
    assert [cell.text for cell in table.rows[1].cells] == ["3.500", "0.750"]


def test_an_ablation_shows_its_choices(evaluation_folder: Sample) -> None:
    evaluation = evaluation_folder[1]
    columns = (Column(Metric("fid", "FID", "lower")),)
    row = replace(evaluation.published[0], setting="", key="unet", choices={"backbone": "unet"}, values={"fid": 15.7})
    method = MethodResult("unet", "my run", figures={"fid": Figure(20.0, 3)}, choices={"backbone": "unet"})
    setting = SettingResult("self", (method,))
    table = result_tables(_evaluation(columns, setting, row), setting)[0]
    assert [heading.text for heading in table.head] == ["Method", "backbone", "FID ↓"]
    assert [[cell.text for cell in line.cells] for line in table.rows] == [["unet", "20.00"], ["unet", "15.7"]]


def test_numbers_as_a_reader_wants_them() -> None:
    assert [figure(n) for n in (0.12345, -9.9, 12.345, 123.45, 12345.6)] == [
        "0.123",
        "-9.900",
        "12.35",
        "123.5",
        "12346",
    ]
    assert [duration(n) for n in (3.44, 59.99, 725, 3780)] == ["3.4 s", "60.0 s", "12 min 5 s", "1 h 3 min"]


def _evaluation(columns: tuple[Column, ...], setting: SettingResult, *published: object) -> Evaluation:
    from talkswap.evaluation.results import Provenance

    facts = Provenance("", "", "", 0, 0, 0, (), (), (), "", {}, {}, {}, {})
    return Evaluation("hdtf", "t", "I", columns, (setting,), tuple(published), facts, 1.0)  # type: ignore[arg-type]


def test_a_page_without_jinja_names_the_package(
    evaluation_folder: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(DependencyError, match="package jinja2") as refusal:
        build_page(evaluation_folder[1], tmp_path)
    assert "talkswap[eval]" in refusal.value.hint
