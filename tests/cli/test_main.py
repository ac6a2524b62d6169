"""The command line's frame: exit codes, what goes to which stream, how fast it answers."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import talkswap
from talkswap import cli, errors
from talkswap.cli import main
from talkswap.errors import TalkswapError

HEAVY = ("torch", "av", "cv2", "rich", "transformers", "onnxruntime", "insightface", "safetensors")


def all_errors() -> list[type[TalkswapError]]:
    return [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TalkswapError)]


def test_every_failure_has_an_exit_code_of_its_own() -> None:
    codes = [kind.exit_code for kind in all_errors()]
    assert len(codes) == len(set(codes))
    assert all(0 < code < 256 for code in codes)


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_a_failure_is_one_sentence_a_hint_and_its_code(
    kind: type[TalkswapError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> Callable[..., int]:
        raise kind("the file 'a\nb' is gone", "look elsewhere")

    monkeypatch.setattr(cli, "build_application", fail)
    assert main([]) == kind.exit_code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "error: the file 'a\\nb' is gone\n\nhint: look elsewhere\n"


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: object) -> Callable[..., int]:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "build_application", interrupted)
    assert main([]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_a_missing_system_library_is_a_failure_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> Callable[..., int]:
        raise ImportError("libGL.so.1: cannot open shared object file")

    monkeypatch.setattr(cli, "build_application", fail)
    assert main([]) == errors.DependencyError.exit_code
    assert "opencv-python-headless" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["render"], "there is no clip to dub"),
        (["render", "--target", "x", "--preset", "huge"], "'huge' is not one of 'auto', 'compact', 'paper'"),
        (["render", "--target", "x", "--crf", "good"], "crf"),
        (["rendr"], "No such command 'rendr'"),
        (["--colour"], "No such option"),
        (["download", "nonsense"], "no weights called 'nonsense'"),
        (["download", "compact"], "travel with talkswap"),
        (["download", "--sha256", "0" * 64], "pin of one entry"),
        (["train", "vqgan", "--data", ".", "--run", "x", "--set", "steps"], "--set steps has no value"),
    ],
)
def test_wrong_usage_is_2(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and "\n\nhint: " in captured.err
    assert said in captured.err
    assert "Traceback" not in captured.err and "Value error" not in captured.err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"talkswap {talkswap.__version__}\n"


def test_no_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    without = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == without
    for command in ("render", "faces", "bench", "doctor", "download", "train", "data"):
        assert re.search(rf"^  {command} ", without, re.MULTILINE)


@pytest.mark.parametrize("group", ["data", "eval", "weights"])
def test_a_group_alone_prints_its_help(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([group]) == 0
    printed = capsys.readouterr()
    assert printed.err == "" and f"Usage: talkswap {group} [OPTIONS] COMMAND" in printed.out


@pytest.mark.parametrize("command", ["render", "faces", "bench", "doctor", "download", "train", "data", "data prepare"])
def test_every_command_has_a_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    assert f"Usage: talkswap {command}" in capsys.readouterr().out


@pytest.mark.parametrize("group", ["", "data", "eval", "weights"])
def test_no_line_of_a_list_of_commands_is_cut(
    group: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*group.split(), "--help"]) == 0
    listed = capsys.readouterr().out.partition("Commands:")[2]
    assert len(listed.splitlines()) > 4 and "..." not in listed


@pytest.mark.parametrize("command", ["render", "weights pack"])
def test_options_name_what_to_give_and_no_type_of_python(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    options = capsys.readouterr().out.partition("Options:")[2]
    assert options and "list[" not in options


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from talkswap.cli import main; main(['render', '--help']); "
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("HEAVY []\n")


def processor_seconds(*arguments: str) -> float:
    """The least of three runs of a Python program, its own work alone."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(seconds)


def test_help_answers_at_once() -> None:
    # A ratio, since machines differ: 0.34 s against 0.07 s where this was written, and torch alone would add 1 s.
    assert processor_seconds("-m", "talkswap", "render", "--help") < 8 * processor_seconds("-c", "import typer")


@pytest.mark.parametrize("module", ["talkswap", "talkswap.types", "talkswap.errors", "talkswap.checkpoints"])
def test_the_package_itself_imports_nothing_heavy(module: str) -> None:
    script = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"


def test_python_dash_m() -> None:
    done = subprocess.run([sys.executable, "-m", "talkswap", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"talkswap {talkswap.__version__}\n")


def test_a_reader_that_leaves_early_is_no_failure_to_report() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "talkswap", "--help"], stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert done.stderr == ""


def test_colours_only_where_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    leading, following = os.openpty()
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    wrong = [sys.executable, "-m", "talkswap", "render", "--colour"]
    for variables, coloured in ((environment, True), ({**environment, "NO_COLOR": "1"}, False)):
        subprocess.run(wrong, stderr=following, env=variables)
        assert (b"\x1b[" in os.read(leading, 4096)) is coloured
    os.close(leading)
    os.close(following)


def test_sigterm_unwinds_the_stack(tmp_path: Path) -> None:
    """Temporary folders go when a job scheduler ends a render."""
    script = (
        "import sys, time, tempfile\n"
        "from talkswap import cli\n"
        "def waiting(_):\n"
        f"    with tempfile.TemporaryDirectory(dir={str(tmp_path)!r}):\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "cli.build_application = waiting\n"
        "sys.argv = ['talkswap']\n"
        "sys.exit(cli.main())\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 143
    assert list(tmp_path.iterdir()) == []


def test_data_on_stdout_is_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("talkswap.cli.doctor.CHECKS", (cli_check_python(),))
    assert main(["doctor", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert findings[0]["check"] == "python" and findings[0]["state"] == "ok"


def cli_check_python() -> Callable[[], list[object]]:
    from talkswap.cli.doctor import check_python

    return check_python  # type: ignore[return-value]
