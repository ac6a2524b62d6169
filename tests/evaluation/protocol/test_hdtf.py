"""The evaluation as a user types it: on a real data set of a few frames, with the compact networks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from talkswap.errors import NoTargetFaceError, OutputExistsError, PartialError, TrainingDataError, UsageError
from talkswap.evaluation.protocol.hdtf import evaluate
from talkswap.evaluation.protocol.methods import (
    GROUND_TRUTH,
    Method,
    Rendering,
    Setup,
    Task,
    all_methods,
    choose_methods,
    keep_clip,
)
from talkswap.evaluation.protocol.plan import EvaluationPlan
from talkswap.evaluation.results import Evaluation, MethodResult, read_evaluation
from talkswap.types import ProgressEvent

from ..small_set import EXAMPLES, command, make_set

METHODS = all_methods("swaptalk")
TRUTH = METHODS[GROUND_TRUTH]


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people, ten frames each; nobody may change it."""
    return make_set(tmp_path_factory.mktemp("evaluation-data"))


@pytest.fixture(scope="module")
def evaluated(small_set: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """One pair in both settings by the whole system; nobody may change it."""
    out = tmp_path_factory.mktemp("evaluated") / "report"
    said = command(
        "eval", "hdtf", "--data", small_set, "--split", "all", "--out", out, "--pairs", "1", "--methods",
        "swaptalk,swap-sync", "--preset", "compact",
    )  # fmt: skip
    assert said.code == 0, said.err
    assert "not run: Swap-Sync: part" in said.err and "evaluate: 4/4" in said.err
    return out, json.loads(said.out)


def row(found: Evaluation, setting: str, key: str) -> MethodResult:
    return next(m for s in found.settings if s.setting == setting for m in s.methods if m.key == key)


def values(found: Evaluation) -> dict[tuple[str, str, int], dict[str, float]]:
    """All values but those of speed, which no two runs share."""
    return {
        (s.setting, m.key, pair.number): {key: value for key, value in pair.values.items() if key != "rtf"}
        for s in found.settings
        for m in s.methods
        for pair in m.pairs
    }


def test_the_truth_is_the_truth(evaluated: tuple[Path, dict[str, object]]) -> None:
    truth = row(read_evaluation(evaluated[0]), "self", "ground-truth")
    wanted = {"lmd": 0.0, "lmd_m": 0.0, "ssim": 1.0, "psnr": 100.0, "pose": 0.0, "expression": 0.0, "sharpness": 1.0}
    assert {key: truth.figures[key].value for key in wanted} == pytest.approx(wanted, abs=1e-6)
    assert "fid" not in truth.figures and "rtf" not in truth.figures and "consistency" not in truth.figures


def test_a_dubbed_clip_is_measured(evaluated: tuple[Path, dict[str, object]]) -> None:
    found = read_evaluation(evaluated[0])
    own, cross = row(found, "self", "swaptalk"), row(found, "cross", "swaptalk")
    assert 0.3 < own.figures["ssim"].value < 0.999 and own.figures["lmd_m"].value > 0.1
    assert {"fid", "id_retrieve", "consistency", "rtf", "cpbd", "flicker"} <= set(own.figures) & set(cross.figures)
    assert "lmd" not in cross.figures and "expression" not in cross.figures
    assert "too few" in own.pairs[0].missing["lse_c"]  # ten frames are no second: said, not made up
    assert own.pairs[0].voice == own.pairs[0].target and cross.pairs[0].voice == cross.pairs[0].source
    assert own.weights and own.weights == found.provenance.weights


def test_the_report_says_what_decides_it(evaluated: tuple[Path, dict[str, object]]) -> None:
    out, printed = evaluated
    found = read_evaluation(out)
    facts = found.provenance
    assert facts.seed == 0 and facts.pairs_possible == 2 and len(facts.pairs) == 1 and len(facts.clips) == 2
    assert all(len(digest) == 64 for clip in facts.clips for digest in clip.files.values())
    assert {"torch", "talkswap"} <= set(facts.versions) and facts.options["split"] == "all"
    assert any("user's word" in note for note in facts.notes)
    assert row(found, "self", "cascade-swap-sync").not_run.startswith("part")
    for setting in found.settings:
        for pair in (pair for method in setting.methods for pair in method.pairs):
            assert pair.pictures is not None and (out / pair.video).is_file()
            named = (pair.pictures.frames, pair.pictures.mouths, pair.pictures.photo, pair.pictures.target_frames)
            assert all((out / path).is_file() for path in named)
    assert (out / "report.md").is_file() and (out / "report.html").is_file()
    shown = printed["settings"]["self"]["swaptalk"]  # type: ignore[index]
    assert shown["pairs"] == 1 and "ssim" in shown["figures"] and "consistency" in shown["compact"]
    assert not list((out / "work").glob("crops-*"))


def test_what_is_finished_is_not_done_again(
    evaluated: tuple[Path, dict[str, object]], small_set: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report"
    shutil.copytree(evaluated[0], out)
    journal = out / "work" / "results.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2])  # torn, as by a power cut
    clips = {path: path.stat().st_mtime_ns for path in (out / "clips").iterdir()}
    told: list[ProgressEvent] = []
    plan = EvaluationPlan(
        small_set, out, pairs=1, methods=("swaptalk", "swap-sync"), split="all", resume=True, setup=Setup("compact")
    )
    found = evaluate(plan, told.append)
    assert values(found) == values(read_evaluation(evaluated[0]))
    assert clips == {path: path.stat().st_mtime_ns for path in (out / "clips").iterdir()}  # scored anew, not rendered
    assert any("3 of 4 results were finished earlier" in event.message for event in told)


def truth_only(data: Path, out: Path, **others: object) -> EvaluationPlan:
    plan = EvaluationPlan(data, out, pairs=2, methods=("ground-truth",), split="all", setup=Setup("compact"))
    return replace(plan, **others)  # type: ignore[arg-type]


def test_a_killed_run_goes_on_to_the_same_results(small_set: Path, tmp_path: Path) -> None:
    out, journal = tmp_path / "killed", tmp_path / "killed" / "work" / "results.jsonl"
    arguments = ["eval", "hdtf", "--data", small_set, "--split", "all", "--out", out, "--pairs", "2"]
    arguments += ["--methods", "ground-truth", "--preset", "compact"]
    child = subprocess.Popen(
        [sys.executable, "-m", "talkswap", *map(str, arguments)], cwd=EXAMPLES.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (journal.is_file() and journal.read_bytes().count(b"\n")) and time.monotonic() < deadline:
        assert child.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    begun = journal.read_bytes().count(b"\n")
    assert 1 <= begun < 4
    again = command(*arguments, "--quiet")
    assert again.code == 9 and "holds an evaluation" in again.err
    assert command(*arguments, "--resume", "--quiet").code == 0
    whole = evaluate(truth_only(small_set, tmp_path / "whole"))
    assert values(read_evaluation(out)) == values(whole) and len(values(whole)) == 4
    assert journal.read_bytes().count(b"\n") == 4 and not list((out / "work").glob("crops-*"))


def put_in_place(monkeypatch: pytest.MonkeyPatch, method: Method) -> None:
    """Let the commands use this method instead of the one of its key."""
    monkeypatch.setattr(
        "talkswap.evaluation.protocol.methods.all_methods", lambda system: {**METHODS, method.key: method}
    )


def failing(on: int) -> Callable[[Task, Setup], Rendering]:
    """The truth under another name, but for one pair."""

    def render(task: Task, setup: Setup) -> Rendering:
        if f"-{on:03d}-" in task.output.name:
            raise NoTargetFaceError("nobody is there", "look")
        return keep_clip(task, setup)

    return render


def test_a_method_that_fails_on_one_pair_is_named_and_the_rest_is_done(
    small_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in_place(monkeypatch, replace(METHODS["swaptalk"], render=failing(on=1)))
    arguments = ("eval", "hdtf", "--data", small_set, "--split", "all", "--out", tmp_path / "out", "--pairs", "2")
    arguments += ("--methods", "swaptalk", "--setting", "self", "--preset", "compact")
    said = command(*arguments)
    assert said.code == PartialError.exit_code == 21
    assert "failed: self, pair 2, SwapTalk: nobody is there" in said.err
    assert "error: 1 of 4 results failed, first SwapTalk on pair 2 (self): nobody is there" in said.err
    assert said.data["settings"]["self"]["swaptalk"]["failed"] == 1
    found = read_evaluation(tmp_path / "out")
    assert found.failures == 1 and [bool(p.error) for p in row(found, "self", "swaptalk").pairs] == [False, True]
    assert (tmp_path / "out" / "report.html").is_file()
    put_in_place(monkeypatch, replace(METHODS["swaptalk"], render=keep_clip))
    assert command(*arguments, "--resume", "--quiet").code == 0  # what failed is tried again
    assert read_evaluation(tmp_path / "out").failures == 0


def test_an_error_of_ours_is_no_end_either(small_set: Path, tmp_path: Path) -> None:
    def broken(task: Task, setup: Setup) -> Rendering:
        raise IndexError("three\nlines")

    method = replace(METHODS["swaptalk"], render=broken)
    plan = truth_only(small_set, tmp_path / "out", setting="self", limit=1)
    found = evaluate(plan, methods=[TRUTH, method])
    assert row(found, "self", "swaptalk").pairs[0].error.startswith("IndexError: three lines (test_hdtf.py, line")
    assert row(found, "self", "ground-truth").figures["ssim"].value == 1.0
    assert "only the first 1 of the 2 pairs that were drawn" in found.provenance.notes


def test_a_clip_without_its_voice_is_named_and_the_rest_is_done(tmp_path: Path) -> None:
    data = make_set(tmp_path / "data", ("ann", "bo", "cy"))
    manifest = json.loads((data / "manifest.json").read_text())
    lost = next(clip for clip in manifest["clips"] if clip["speaker"] == "cy")["name"]
    (data / "voices" / f"{lost}.wav").unlink()
    told: list[ProgressEvent] = []
    found = evaluate(truth_only(data, tmp_path / "out", setting="self", pairs=6), told.append)
    truth = row(found, "self", "ground-truth")
    assert len(truth.pairs) == 6 and len(truth.failed) == 4  # each pair with cy in it
    assert all(lost in pair.error and f"voices/{lost}.wav is missing" in pair.error for pair in truth.failed)
    assert [clip.name for clip in found.provenance.refused] == [lost]
    assert any(event.message.startswith(f"not available: {lost}") for event in told)


def test_one_speaker_and_no_data_are_named(small_set: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match=r"1 clips .* show one speaker only, (ann|bo)"):
        evaluate(EvaluationPlan(small_set, tmp_path / "out"))  # of two speakers one is held out
    (tmp_path / "nothing").mkdir()
    with pytest.raises(TrainingDataError, match="no prepared data set"):
        evaluate(EvaluationPlan(tmp_path / "nothing", tmp_path / "out"))
    shutil.copy(small_set / "manifest.json", tmp_path / "nothing")
    manifest = json.loads((small_set / "manifest.json").read_text())
    (tmp_path / "nothing" / "manifest.json").write_text(json.dumps({**manifest, "clips": []}))
    said = command("eval", "hdtf", "--data", tmp_path / "nothing", "--out", tmp_path / "out")
    assert said.code == 17 and "has no clip in its split val" in said.err
    assert command("eval", "hdtf", "--data", tmp_path / "nowhere", "--out", tmp_path / "out").code == 3
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_ours_stays_as_it_is(small_set: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(OutputExistsError, match="not empty"):
            evaluate(truth_only(small_set, tmp_path, resume=resume))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_going_on_with_other_options_is_refused(evaluated: tuple[Path, dict[str, object]], small_set: Path) -> None:
    with pytest.raises(UsageError, match="begun with other pairs, seed"):
        evaluate(truth_only(small_set, evaluated[0], resume=True, seed=5))


def test_going_on_with_other_weights_of_a_method_is_refused(small_set: Path, tmp_path: Path) -> None:
    """Else a row would mix two networks' results and state the hashes of one."""
    plan = truth_only(small_set, tmp_path / "out", setting="self", limit=1)

    def run(digest: str, **others: object) -> None:
        method = replace(METHODS["swaptalk"], render=keep_clip, hashes=lambda setup: {"vqgan.safetensors": digest})
        evaluate(replace(plan, **others), methods=[TRUTH, method])  # type: ignore[arg-type]

    evaluate(plan, methods=[TRUTH])
    run("a" * 64, resume=True)  # a row that comes later
    with pytest.raises(UsageError, match="begun with other weights of swaptalk"):
        run("b" * 64, resume=True)
    run("a" * 64, resume=True)


def test_a_systems_rows_are_taken_and_others_go_by_their_names_or_the_papers() -> None:
    def keys(system: str, *names: str) -> list[str]:
        return [method.key for method in choose_methods(system, names)]

    assert keys("swaptalk") == ["ground-truth", "swaptalk-sync-swap", "swaptalk", "guide", "swaptalk-guide"]
    assert keys("wav2lip") == ["ground-truth", "wav2lip"]
    assert keys("swaptalk", "sync-swap", "swaptalk") == ["ground-truth", "cascade-sync-swap", "swaptalk"]
    assert len(keys("swaptalk", "all")) == len(METHODS) >= 9
    with pytest.raises(UsageError, match="no method 'roop'"):
        choose_methods("swaptalk", ["roop"])
    with pytest.raises(UsageError, match="no system called 'roop'"):
        choose_methods("roop")


def test_a_finished_clip_is_scored_alone(evaluated: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    out, _ = evaluated
    truth, dubbed = out / "clips" / "self-000-ground-truth.mp4", out / "clips" / "cross-000-swaptalk.mp4"
    said = command("eval", "clip", truth, "--target", truth, "--preset", "compact")
    assert said.code == 0, said.err
    assert said.data["setting"] == "self" and said.data["frames"] == 10
    assert {key: said.data["figures"][key]["value"] for key in ("ssim", "lmd")} == {"ssim": 1.0, "lmd": 0.0}
    photo = next((out / "work" / "photos").iterdir())
    said = command(
        "eval", "clip", dubbed, "--target", truth, "--source", photo, "--audio", truth, "--preset", "compact"
    )
    found = read_evaluation(out)
    assert said.data["setting"] == "cross" and "lmd" not in said.data["figures"]
    assert said.data["figures"]["ssim"]["value"] == pytest.approx(row(found, "cross", "swaptalk").figures["ssim"].value)
    assert "not comparable" in said.data["compact"]["note"] and "consistency" in said.data["compact"]["figures"]
    assert command("eval", "clip", photo, "--target", truth).code == 5  # a picture is no video


def test_a_result_without_sound_is_named(
    write_clip: Callable[..., Path], example_pictures: list, talking_clip: Path
) -> None:
    mute = write_clip(example_pictures[:4], "mute.mp4", sound=False)
    said = command("eval", "clip", mute, "--target", talking_clip)
    assert said.code == 6 and "mute.mp4" in said.err


def test_an_ablation_is_filled_with_own_runs(small_set: Path, tmp_path: Path) -> None:
    compact = Path(EXAMPLES.parent / "weights" / "compact")
    said = command(
        "eval", "ablation", "IV", "--run", f"own={compact}", "--data", small_set, "--split", "all", "--out",
        tmp_path / "out", "--pairs", "1", "--preset", "compact",
    )  # fmt: skip
    assert said.code == 0, said.err
    found = read_evaluation(tmp_path / "out")
    assert found.kind == "ablation" and found.table == "IV" and len(found.settings) == 1
    own = found.settings[0].methods[0]
    assert own.choices == {"backbone": "transformer"} and {"id_retrieve", "fid"} <= set(own.figures)
    assert {column.metric.key for column in found.columns} == {"id_retrieve", "fid"}
    assert {row.key for row in found.published} >= {"transformer", "unet", "ldm-unet"}
    assert own.pairs[0].values["lmd_m"] < 3  # nothing moved the lips
    assert command("eval", "ablation", "IV", "--run", "x", "--data", small_set, "--out", tmp_path / "no").code == 2
    assert (
        command("eval", "ablation", "IV", "--run", f"x={tmp_path}", "--data", small_set, "--out", tmp_path / "no").code
        == 11
    )
