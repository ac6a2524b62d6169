"""A study's folder: complete, and blind in names, bytes, sizes and dates; its key kept apart."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from talkswap.errors import OutputExistsError, OutputUnwritableError, TrainingDataError, UsageError
from talkswap.evaluation.results import Evaluation, write_evaluation
from talkswap.evaluation.study.study import QUESTIONS, Study, StudyConfig, build_study, read_key

Built = tuple[Path, Study]


@pytest.fixture
def report(evaluation_folder: tuple[Path, Evaluation], tmp_path: Path) -> Path:
    folder, evaluation = evaluation_folder
    shutil.copytree(folder, tmp_path / "report")
    write_evaluation(tmp_path / "report" / "report.json", evaluation)
    return tmp_path / "report"


@pytest.fixture
def small_report(report: Path, evaluation_folder: tuple[Path, Evaluation]) -> Path:
    """With one setting, since every clip of a study costs a run of ffmpeg."""
    return changed(report, evaluation_folder[1], settings=evaluation_folder[1].settings[:1])


def changed(report: Path, evaluation: Evaluation, **settings: object) -> Path:
    write_evaluation(report / "report.json", replace(evaluation, **settings))  # type: ignore[arg-type]
    return report


def page_data(out: Path) -> dict[str, object]:
    found = re.search(r'id="study">(.*?)</script>', (out / "index.html").read_text(), re.DOTALL)
    assert found is not None
    data: dict[str, object] = json.loads(found.group(1))
    return data


def test_the_folder_holds_a_page_and_the_clips_of_whole_pairs(study_folder: Built) -> None:
    out, study = study_folder
    assert (study.clips, study.pairs, study.methods) == (6, 2, 3)
    key = read_key(study.key)
    names = {path.name for path in (out / "clips").iterdir()}
    assert names == {f"{name}.{ending}" for name in key.clips for ending in ("mp4", "jpg")}
    assert {path.name for path in out.iterdir()} == {"index.html", "clips"}
    # every method is rated on the same pair
    assert set(Counter((clip.setting, clip.pair) for clip in key.clips.values()).values()) == {3}
    # the third pair, on which a method failed, could not be drawn and is named
    assert all(clip.pair in (0, 1) for clip in key.clips.values())
    assert [line for line in study.left_out if "SwapTalk sync-swap failed: no face was found" in line]
    assert len(study.left_out) == 2
    data = page_data(out)
    assert sorted(clip["name"] for clip in data["clips"]) == sorted(key.clips)  # type: ignore[attr-defined]
    assert [q["key"] for q in data["questions"]] == [q.key for q in QUESTIONS] == list(key.questions)  # type: ignore[attr-defined]
    with av.open(str(out / "clips" / f"{next(iter(key.clips))}.mp4")) as container:
        assert len(list(container.decode(video=0))) == 6


def test_nothing_in_the_folder_tells_the_method(
    study_folder: Built, evaluation_folder: tuple[Path, Evaluation]
) -> None:
    out, study = study_folder
    words = {"talkswap", "cleo", "alert("} | {clip.label for clip in read_key(study.key).clips.values()}
    words |= {clip.method for clip in read_key(study.key).clips.values()} | {
        "self-0",
        "cross-0",
        "setting",
        str(study.key),
    }
    for path in out.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for word in words:
            assert word.lower() not in path.relative_to(out).as_posix().lower()
            assert word.lower().encode() not in content.lower(), (word, path)


def test_sizes_dates_tags_and_streams_are_all_alike(study_folder: Built) -> None:
    out, _ = study_folder
    clips = sorted((out / "clips").glob("*.mp4"))
    assert len({path.stat().st_size for path in clips}) == 1
    assert len({path.stat().st_mtime_ns for path in out.rglob("*")}) == 1
    described = []
    for path in clips:
        with av.open(str(path)) as container:
            described.append(
                (dict(container.metadata), [(s.codec_context.name, dict(s.metadata)) for s in container.streams])
            )
    assert all(one == described[0] for one in described)


def test_names_and_order_follow_the_seed_and_not_the_methods(
    study_folder: Built, small_report: Path, tmp_path: Path
) -> None:
    keys, pages = [], []
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        build_study(small_report, tmp_path / name, tmp_path / f"{name}.json", StudyConfig(seed, pairs=1))
        keys.append(read_key(tmp_path / f"{name}.json"))
        pages.append(page_data(tmp_path / name))
    assert keys[0] == keys[1] and pages[0] == pages[1]
    assert keys[2].study != keys[0].study and not set(keys[2].clips) & set(keys[0].clips)
    # neither the page's order nor that of the names is the report's own order
    key = read_key(study_folder[1].key)
    by_report = sorted(
        key.clips, key=lambda name: (key.clips[name].setting, key.clips[name].pair, key.clips[name].method)
    )
    assert list(key.clips) != by_report and sorted(key.clips) != by_report


def test_the_key_may_not_lie_among_what_raters_get(report: Path, tmp_path: Path) -> None:
    for key in (tmp_path / "out" / "key.json", tmp_path / "out" / "deeper" / "key.json", tmp_path / "out"):
        with pytest.raises(UsageError, match="raters' folder"):
            build_study(report, tmp_path / "out", key)
    assert not (tmp_path / "out").exists()


def test_nothing_is_replaced_without_leave(small_report: Path, tmp_path: Path) -> None:
    out, key = tmp_path / "out", tmp_path / "key.json"
    config = StudyConfig(pairs=1)
    key.write_text("mine")
    with pytest.raises(OutputExistsError, match="key.json already exists"):
        build_study(small_report, out, key, config)
    assert key.read_text() == "mine" and not out.exists()
    key.unlink()
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputExistsError):
            build_study(small_report, out, key, replace(config, overwrite=overwrite))
    assert (out / "thesis.txt").read_text() == "mine" and not key.exists()
    (out / "thesis.txt").unlink()
    build_study(small_report, out, key, config)  # an empty folder is free
    with pytest.raises(OutputExistsError):
        build_study(small_report, out, key, config)
    build_study(small_report, out, key, replace(config, overwrite=True, seed=1))
    assert read_key(key).seed == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key.json", "out", "report"]


def test_a_failure_on_the_way_leaves_nothing(report: Path, tmp_path: Path) -> None:
    (report / "videos" / "cross" / "swaptalk" / "0.mp4").write_bytes(b"damaged")
    with pytest.raises(Exception, match=r"0\.mp4"):
        build_study(report, tmp_path / "out", tmp_path / "key.json", StudyConfig(pairs=0))
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    with pytest.raises(OutputUnwritableError):
        build_study(report, tmp_path / "missing" / "out", tmp_path / "key.json")


def test_clips_that_are_gone_or_lie_outside_are_left_out(
    report: Path, tmp_path: Path, evaluation_folder: tuple[Path, Evaluation]
) -> None:
    (report / "videos" / "self" / "swaptalk" / "0.mp4").unlink()
    evaluation = evaluation_folder[1]
    first, second = evaluation.settings
    method = second.methods[1]
    shutil.copyfile(report / "videos" / "cross" / "swaptalk" / "0.mp4", tmp_path / "outside.mp4")
    pairs = (replace(method.pairs[0], video="../outside.mp4"), *method.pairs[1:])
    second = replace(second, methods=(second.methods[0], replace(method, pairs=pairs)))
    study = build_study(changed(report, evaluation, settings=(first, second)), tmp_path / "out", tmp_path / "key.json")
    key = read_key(study.key)
    assert {(clip.setting, clip.pair) for clip in key.clips.values()} == {("self", 1), ("cross", 1), ("cross", 2)}
    assert any("videos/self/swaptalk/0.mp4 is not in the report's folder" in line for line in study.left_out)
    assert any("outside.mp4 is not in the report's folder" in line for line in study.left_out)


def test_a_clip_without_a_photo_is_not_asked_for_its_identity(
    report: Path, tmp_path: Path, evaluation_folder: tuple[Path, Evaluation]
) -> None:
    for path in (report / "pictures").glob("self-*-photo.jpg"):
        path.unlink()
    build_study(report, tmp_path / "out", tmp_path / "key.json", StudyConfig(pairs=1))
    key = read_key(tmp_path / "key.json")
    data = page_data(tmp_path / "out")
    for clip in data["clips"]:  # type: ignore[attr-defined]
        assert clip["photo"] == (key.clips[clip["name"]].setting == "cross")
    assert np.all([q["photo"] == (q["key"] == "identity") for q in data["questions"]])  # type: ignore[attr-defined]


def test_reports_without_a_study_in_them(
    report: Path, tmp_path: Path, evaluation_folder: tuple[Path, Evaluation]
) -> None:
    with pytest.raises(TrainingDataError, match="no report at"):
        build_study(tmp_path / "missing", tmp_path / "out", tmp_path / "key.json")
    shutil.rmtree(report / "videos")
    with pytest.raises(TrainingDataError, match="no pair that every method finished"):
        build_study(report, tmp_path / "out", tmp_path / "key.json")
