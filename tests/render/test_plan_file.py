"""Plans as JSON: written, read, refused with a name, and hashed by what decides the frames."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from talkswap.cli import main
from talkswap.errors import InputMissingError, UsageError
from talkswap.render.plan_file import NOT_THE_FRAMES, deciding, plan_to_json, read_plans, write_plans
from talkswap.types import RenderPlan

FULL = RenderPlan(
    Path("face.png"), Path("sub/clip.mp4"), None, Path("out.mp4"),
    face="1", more_sources=(Path("other.png"),), map=(("0", Path("a.png")), ("who.png", Path("b.png"))),
    start=Fraction(1, 3), end=Fraction(5, 2), crf=20, segment_seconds=2.5,
)  # fmt: skip


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def whole(plan: RenderPlan, folder: Path) -> RenderPlan:
    """With the paths that a plan in ``folder`` means."""
    found = replace(
        plan,
        target=folder / plan.target,
        output=folder / plan.output,
        source=None if plan.source is None else folder / plan.source,
        more_sources=tuple(folder / path for path in plan.more_sources),
        map=tuple((who if who.isdecimal() else str(folder / who), folder / photo) for who, photo in plan.map),
    )
    return found


def test_a_plan_comes_back_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_plans(tmp_path / "plan.json", [FULL])
    stored = json.loads((tmp_path / "plan.json").read_text())
    assert stored["target"] == "sub/clip.mp4" and stored["start"] == "1/3" and stored["audio"] is None
    assert stored.keys() == {field.name for field in fields(RenderPlan)}
    assert read_plans(Path("plan.json")) == [whole(FULL, Path("."))]
    (tmp_path / "elsewhere").mkdir()
    os.replace("plan.json", "elsewhere/plan.json")  # a folder that moves takes its files along
    assert read_plans(Path("elsewhere/plan.json")) == [whole(FULL, Path("elsewhere"))]


def test_what_lies_outside_the_folder_keeps_its_whole_path(tmp_path: Path) -> None:
    plan = replace(FULL, target=tmp_path / "clip.mp4", map=())
    folder = tmp_path / "plans"
    folder.mkdir()
    write_plans(folder / "plan.json", [plan])
    assert read_plans(folder / "plan.json")[0].target == tmp_path / "clip.mp4"
    assert plan_to_json(FULL)["target"] == str(Path("sub/clip.mp4").absolute())


def test_a_file_holds_one_plan_or_many_or_what_a_dry_run_printed(tmp_path: Path) -> None:
    least = {"source": None, "target": "a.mp4", "audio": "b.wav", "output": "c.mp4"}
    one = RenderPlan(None, tmp_path / "a.mp4", tmp_path / "b.wav", tmp_path / "c.mp4")
    for content in (
        least, [least], {"plans": [least]}, {"plan": least, "frames": 3}, {"plans": [{"plan": least, "frames": 3}]},
    ):  # fmt: skip
        assert read_plans(write(tmp_path / "plan.json", content)) == [one]
    several = [least, least | {"start": 1.5, "segment_seconds": 4, "voices": [["0", "v.wav"]]}]
    two = replace(one, start=Fraction(3, 2), segment_seconds=4.0, voices=(("0", tmp_path / "v.wav"),))
    assert read_plans(write(tmp_path / "plan.json", several)) == [one, two]


LEAST: dict[str, Any] = {"source": None, "target": "a.mp4", "audio": None, "output": "c.mp4"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ([], "has no plan in it"),
        ([LEAST, 3], "plan 2 of .* is no JSON object"),
        (LEAST | {"crff": 3, "fits": 1}, "unknown fields: crff, fits"),
        ({"target": "a.mp4"}, "lacks source, audio, output"),
        (LEAST | {"crf": "18"}, "'18' as crf: "),
        (LEAST | {"crf": True}, "True as crf"),
        (LEAST | {"swap": 1}, "1 as swap: "),
        (LEAST | {"target": None}, "None as target: "),
        (LEAST | {"map": [["0"]]}, "as map: it is missing"),
        (LEAST | {"start": "soon"}, "'soon' as start"),
        (LEAST | {"more_sources": "a.png"}, "as more_sources: "),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 60 else "",
)
def test_what_is_wrong_is_named(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_plans(write(tmp_path / "plan.json", content))


def test_a_plan_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(InputMissingError):
            read_plans(path)


def test_files_count_by_content_and_names_do_not(tmp_path: Path) -> None:
    for name in ("face.png", "clip.mp4", "same.mp4", "voice.wav"):
        (tmp_path / name).write_bytes(b"same" if name in ("clip.mp4", "same.mp4") else name.encode())
    plan = RenderPlan(tmp_path / "face.png", tmp_path / "clip.mp4", tmp_path / "voice.wav", tmp_path / "out.mp4")
    known = deciding(plan)
    assert deciding(replace(plan, target=tmp_path / "same.mp4", output=Path("x.mkv"), overwrite=True)) == known
    assert deciding(replace(plan, target=tmp_path / "voice.wav")) != known
    assert deciding(replace(plan, face=str(tmp_path / "face.png"))) != deciding(
        replace(plan, face=str(tmp_path / "voice.wav"))
    )
    (tmp_path / "face.png").write_bytes(b"another")
    assert deciding(plan) != known


def test_every_field_decides_unless_it_is_known_not_to() -> None:
    plan = RenderPlan(None, Path("a"), None, Path("b"))
    names = {field.name for field in fields(RenderPlan)}
    assert names >= NOT_THE_FRAMES
    assert deciding(plan).keys() == names - NOT_THE_FRAMES
    for name, value in {"crf": 3, "fit": "loop", "swap": False, "segment_seconds": 1.0, "start": Fraction(1)}.items():
        assert deciding(replace(plan, **{name: value})) != deciding(plan), name


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["render", *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_save_plan_and_dry_run_give_plans_that_render(
    source_photo: Path,
    talking_clip: Path,
    voice_file: Path,
    tmp_path: Path,
    command: Callable[..., tuple[int, str, str]],
) -> None:
    inputs = ("--source", source_photo, "--target", talking_clip, "--audio", voice_file, "--no-sync")
    inputs += ("--preset", "compact", "--device", "cpu", "--output", tmp_path / "a.mp4")
    code, out, err = command(*inputs, "--save-plan", tmp_path / "saved.json")
    assert f"talkswap render --plan {tmp_path / 'saved.json'}" in err, "nothing says what to do with it"
    assert code == 0 and out == "" and not (tmp_path / "a.mp4").exists()
    assert command(*inputs, "--save-plan", tmp_path / "saved.json")[0] == 9, "a plan was overwritten"
    code, out, _ = command("--plan", tmp_path / "saved.json", "--dry-run")
    shown = json.loads(out)
    assert code == 0 and shown["frames"] == 12 and shown["size"] == [480, 270] and shown["frontal_share"] == 1.0
    assert shown["rate"] == {"frames_per_second": 25.0, "exact": "25", "varies": False}
    assert shown["fit"] == "equal lengths" and shown["people"][0]["face_px"] > 50
    assert shown["seconds_per_frame"] > 0 and shown["seconds_per_frame"] * 12 <= shown["estimated_seconds"] < 600
    assert shown["memory_needed_mb"] > 100 and 0 < shown["disk_needed_mb"] < shown["disk_free_mb"]
    second = shown | {"plan": shown["plan"] | {"output": str(tmp_path / "none" / "b.mp4")}}
    write(tmp_path / "both.json", {"plans": [second, shown]})
    code, out, err = command("--plan", tmp_path / "both.json", "--quiet", "--report", tmp_path / "report.json")
    assert code == 21 and "b.mp4: the folder" in err and "1 of 2 renders failed" in err
    assert out.startswith(f"{tmp_path / 'a.mp4'}: 12 frames")
    assert [report["frames_out"] for report in json.loads((tmp_path / "report.json").read_text())] == [12]


def test_a_plan_and_options_do_not_mix(tmp_path: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = command("--plan", write(tmp_path / "plan.json", LEAST), "--crf", "3", "--no-swap")
    assert code == 2 and "decides what --crf, --swap would" in err
    assert command()[0] == 2 and command("--plan", tmp_path / "none.json")[0] == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("start", "1e999999999"), ("start", "1/0"), ("start", "nan"), ("end", "0x10"), ("start", "9" * 100),
        ("target", "a\0b.mp4"), ("target", "half\ud800.mp4"), ("segment_seconds", 10**400), ("crf", 1.5),
    ],
    ids=lambda text: f"{text!r:.20}",
)  # fmt: skip
def test_what_no_plan_can_mean_is_refused_at_once(tmp_path: Path, field: str, value: object) -> None:
    record = {"source": None, "target": "clip.mp4", "audio": None, "output": "out.mp4", field: value}
    with pytest.raises(UsageError, match=field):
        read_plans(write(tmp_path / "plan.json", json.dumps(record)))
