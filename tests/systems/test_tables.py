"""The tables that systems publish: complete, and in the words of the evaluation's columns, rows and ablations."""

from __future__ import annotations

from talkswap.checkpoints.networks import resolve
from talkswap.evaluation.metrics.frechet import FID
from talkswap.evaluation.protocol.ablation import ablations
from talkswap.evaluation.protocol.measure import METERS
from talkswap.evaluation.protocol.methods import all_methods
from talkswap.evaluation.protocol.plan import comparison_table, published_rows
from talkswap.systems.registry import systems
from talkswap.systems.swaptalk.tables import ABLATION_ROWS, TABLE_ONE, WAVSYNCSWAP

COLUMNS = {FID.key, *(metric.key for meter in METERS for metric in meter.metrics)}


def test_swaptalks_tables_are_complete() -> None:
    """Every figure of the paper's tables: counted, and some of them by hand."""
    assert sum(len(row.values) for row in TABLE_ONE) == 61 + 44
    numbers = [row.table for row in ABLATION_ROWS]
    assert [numbers.count(table) for table in ("II", "III", "IV", "V", "VI")] == [2, 2, 5, 4, 2]
    by_key = {(row.setting, row.key): row.values for row in TABLE_ONE}
    assert by_key["self", "swaptalk"]["lse_c"] == 9.08
    assert by_key["cross", "cascade-swap-restore-sync"]["id_retrieve"] == 80.4
    assert "lmd_m" not in by_key["cross", "swaptalk"] and "fid" not in by_key["self", "ground-truth"]
    order = {row.key: row.values for row in ABLATION_ROWS if row.table == "VI"}
    assert order["swaptalk"] == {k: v for k, v in by_key["cross", "swaptalk"].items() if k in order["swaptalk"]}


def test_published_rows_name_our_columns_and_methods() -> None:
    for name in systems():
        for row in published_rows(name):
            assert set(row.values) <= COLUMNS, row
    assert all(set(row.values) <= COLUMNS for row in WAVSYNCSWAP)
    assert set(all_methods("swaptalk")) - {row.key for row in TABLE_ONE} == {
        "swaptalk-sync-swap",
        "guide",
        "swaptalk-guide",
    }
    table = comparison_table("swaptalk")
    assert (table.number, table.title, table.published) == ("I", "Table I", TABLE_ONE)
    assert comparison_table("wav2lip").published == ()


def test_ablations_have_published_rows_with_the_same_columns() -> None:
    for name, description in systems().items():
        rows = published_rows(name)
        for number, table in ablations(name).items():
            published = [row for row in rows if row.table == number]
            assert published and all(set(row.values) == set(table.metrics) for row in published), number
        assert not description.ablations or set(ablations(name)) == {row.table for row in rows if not row.setting}


def test_no_two_rows_share_a_key() -> None:
    keys = [row.key for description in systems().values() for row in description.rows]
    assert len(keys) == len(set(keys)) and resolve("talkswap.systems.swaptalk.tables:PUBLISHED")
