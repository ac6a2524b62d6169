"""Jobs from a table: reading it, working it off in real processes, and going on after a failure."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import wave
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from talkswap.cli import main
from talkswap.errors import InputMissingError, UsageError
from talkswap.render.batch import (
    DONE,
    FAILED,
    SKIPPED,
    Children,
    JobResult,
    is_done,
    job_key,
    read_jobs,
    read_results,
    results_file,
    run_jobs,
)


def table(folder: Path, *lines: str) -> Path:
    path = folder / "jobs.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_row_is_a_plan_with_paths_beside_the_table(tmp_path: Path) -> None:
    jobs = read_jobs(
        table(
            tmp_path,
            "target,source,audio,output,crf,sync,voices,more-sources,start",
            'clip.mp4,face.png,voice.wav,"out, one.mp4",20,no,0=a.wav;1=b.wav,x.png;y.png,1/2',
            "",
            "other.mp4,face.png,,,,,,,",
        )
    )
    first, second = (job.plan for job in jobs)
    assert [job.row for job in jobs] == [2, 4]
    assert first.target == tmp_path / "clip.mp4" and first.output == tmp_path / "out, one.mp4"
    assert first.crf == 20 and first.sync is False and first.start == 0.5
    assert first.voices == (("0", tmp_path / "a.wav"), ("1", tmp_path / "b.wav"))
    assert first.more_sources == (tmp_path / "x.png", tmp_path / "y.png")
    assert second.output == tmp_path / "other-dubbed.mp4" and second.audio is None and second.sync is True


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["target,output"], "no job"),
        (["target,output", ",", "  ,"], "no job"),
        (["target,colour", "a.mp4,red"], "colour"),
        (["target,crf", "a.mp4,many"], "many"),
        (["target,swap", "a.mp4,perhaps"], "yes or no|perhaps"),
        (["target,output", "a.mp4,o.mp4", "b.mp4,./o.mp4"], "both write"),
        (["source,audio", "a.png,b.wav"], "lacks target"),
        (["target", "a.mp4,b.mp4"], "more cells"),
        (["target,map", "a.mp4,0"], "map"),
    ],
)
def test_a_table_that_cannot_be_read_says_where(tmp_path: Path, lines: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_jobs(table(tmp_path, *lines))


def test_a_table_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError):
        read_jobs(tmp_path / "jobs.csv")
    (tmp_path / "jobs.csv").write_bytes(b"target\n\xff\xfe\x00\n")
    with pytest.raises(UsageError):
        read_jobs(tmp_path / "jobs.csv")


@pytest.fixture
def jobs_table(talking_clip: Path, tmp_path: Path) -> Path:
    """One clip that is passed through, one that is not there, one that is no clip."""
    (tmp_path / "clip.mp4").write_bytes(talking_clip.read_bytes())
    (tmp_path / "torn.mp4").write_bytes(b"no clip at all")
    return table(
        tmp_path,
        "target,output,swap,sync,device",
        "clip.mp4,good.mp4,no,no,cpu",
        "gone.mp4,gone-dubbed.mp4,no,no,cpu",
        "torn.mp4,torn-dubbed.mp4,no,no,cpu",
    )


def test_what_failed_is_named_and_a_rerun_skips_what_is_done(
    jobs_table: Path, talking_clip: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (jobs_table.parent / "talkswap").mkdir()  # such as a clone beside the clips: not what the jobs run
    (jobs_table.parent / "talkswap" / "__init__.py").touch()
    monkeypatch.chdir(jobs_table.parent)
    assert main(["batch", str(jobs_table), "--workers", "2", "--quiet"]) == 21
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["STATE", "done", "failed", "failed"]
    assert lines[2].split()[3:5] == ["3", str(jobs_table.parent / "gone-dubbed.mp4")]
    assert lines[3].split()[3] == "4" and "hint: " in lines[3]
    assert "2 of 3 jobs failed, 1 were done now" in err
    assert (jobs_table.parent / "good.mp4").is_file() and not (jobs_table.parent / "gone-dubbed.mp4").exists()
    made = (jobs_table.parent / "good.mp4").stat().st_mtime_ns

    (jobs_table.parent / "gone.mp4").write_bytes(talking_clip.read_bytes())
    (jobs_table.parent / "torn.mp4").write_bytes(talking_clip.read_bytes())
    assert main(["batch", str(jobs_table), "--quiet"]) == 0
    states = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert states == [SKIPPED, DONE, DONE]
    assert (jobs_table.parent / "good.mp4").stat().st_mtime_ns == made


def test_a_job_is_done_only_while_nothing_of_it_changed(jobs_table: Path) -> None:
    job = read_jobs(jobs_table)[0]
    (first,) = run_jobs([job], results_file(jobs_table))
    assert first.state == DONE and first.exit_code == 0

    def done() -> bool:
        return is_done(job, read_results(results_file(jobs_table)))

    assert done()
    with open(results_file(jobs_table), "a") as file:
        file.write('{"row": 2, "output"')  # a crash while a line was written
    assert done()
    content = job.plan.output.read_bytes()
    job.plan.output.write_bytes(content + b"\0")
    assert not done()
    key = job_key(job.plan)
    job.plan.target.touch()
    assert job_key(job.plan) != key


def test_a_photo_that_names_a_person_is_an_input(jobs_table: Path) -> None:
    photo = jobs_table.parent / "somebody.png"
    photo.write_bytes(b"one")
    plan = replace(read_jobs(jobs_table)[0].plan, face=str(photo))
    key = job_key(plan)
    photo.write_bytes(b"another")
    assert job_key(plan) != key


def test_a_render_that_starts_too_late_to_be_ended_ends_at_once() -> None:
    children = Children()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as early:
        children.add(early)
        children.end()
        assert early.returncode == -signal.SIGTERM
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], text=True) as late:
        children.add(late)
        assert late.wait(60) == -signal.SIGTERM


def test_ctrl_c_ends_running_renders_and_keeps_what_is_done(jobs_table: Path) -> None:
    with wave.open(str(jobs_table.parent / "endless.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(2 * 8000 * 1800))
    jobs_table.write_text(
        "target,audio,output,swap,sync,device,fit\nclip.mp4,,good.mp4,no,no,cpu,clip\n"
        "clip.mp4,endless.wav,never.mp4,no,no,cpu,loop\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "talkswap", "batch", str(jobs_table)], stderr=subprocess.PIPE, text=True
    )
    results = results_file(jobs_table)
    deadline = time.monotonic() + 90
    while not results.is_file() or not results.read_text().strip():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=40)
    assert process.returncode == 130 and "Traceback" not in said
    (line,) = results.read_text().splitlines()
    assert json.loads(line)["state"] == DONE
    assert not (jobs_table.parent / "never.mp4").exists()


def test_jobs_run_on_a_ray_cluster(jobs_table: Path) -> None:
    import ray

    results = run_jobs(read_jobs(jobs_table), results_file(jobs_table), 2, cluster="local")
    assert [result.state for result in results] == [DONE, FAILED, FAILED]
    assert [result.exit_code for result in results] == [0, 3, 4]
    assert not ray.is_initialized()


def test_a_job_that_the_cluster_loses_is_named_and_the_others_are_done(
    jobs_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself is played here: a machine that goes away cannot be had."""
    import ray

    asked = []
    monkeypatch.setattr(ray, "init", lambda **options: asked.append(options["address"]))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(
        ray, "remote", lambda **_: lambda work: SimpleNamespace(remote=lambda job, cores: f"job of row {job.row}")
    )
    monkeypatch.setattr(ray, "wait", lambda waiting, num_returns: (waiting[:1], waiting[1:]))

    def get(name: str) -> JobResult:
        if name == "job of row 3":
            raise ray.exceptions.WorkerCrashedError()
        return JobResult(int(name[-1]), str(jobs_table.parent / name), DONE, 0, "made", 1.0)

    monkeypatch.setattr(ray, "get", get)
    results = run_jobs(read_jobs(jobs_table), results_file(jobs_table), cluster="local")
    assert [result.state for result in results] == [DONE, FAILED, DONE] and asked == ["local"]
    assert results[1].exit_code == 1 and "died" in results[1].message

    def nobody(**options: object) -> None:
        raise ConnectionError("timed out")

    monkeypatch.setattr(ray, "init", nobody)
    with pytest.raises(UsageError, match="no Ray cluster answers at head:6379"):
        run_jobs(read_jobs(jobs_table), results_file(jobs_table), cluster="head:6379")
