"""What comes from strangers opens, writes and runs nothing: media, onnx graphs, pickles, names of files."""

from __future__ import annotations

import ast
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

from talkswap.cli import main

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "talkswap").rglob("*.py"))


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """A web server of this machine: its address, and what it was asked for."""
    heard: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", heard
    server.shutdown()
    server.server_close()
    thread.join()


M3U8 = "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:5,\n{}\n#EXT-X-ENDLIST\n"
LISTS = {
    "a playlist of a clip": ("x.m3u8", lambda clip, web: M3U8.format(clip)),
    "a playlist of this machine's users": ("x.m3u8", lambda clip, web: M3U8.format("/etc/passwd")),
    "a playlist of the network": ("x.m3u8", lambda clip, web: M3U8.format(f"{web}/clip.ts")),
    "a playlist with a key from the network": (
        "x.m3u8",
        lambda clip, web: M3U8.format(clip).replace("#EXTINF", f'#EXT-X-KEY:METHOD=AES-128,URI="{web}/key"\n#EXTINF'),
    ),
    "a list of clips": ("x.ffconcat", lambda clip, web: f"ffconcat version 1.0\nfile {clip.name}\n"),
    "a list of anything": ("x.ffconcat", lambda clip, web: "ffconcat version 1.0\nfile /etc/passwd\n"),
    "a list of the network": ("x.ffconcat", lambda clip, web: f"ffconcat version 1.0\nfile {web}/clip.mp4\n"),
    "a dash manifest": (
        "x.mpd",
        lambda clip, web: (
            '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S">'
            f'<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{web}/clip.mp4'
            "</BaseURL></Representation></AdaptationSet></Period></MPD>"
        ),
    ),
    "a session description": (
        "x.sdp",
        lambda clip, web: "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", LISTS)
@pytest.mark.parametrize("option", ["--target", "--audio"])
def test_a_file_that_names_others_opens_none(
    what: str,
    option: str,
    talking_clip: Path,
    tmp_path: Path,
    asked: tuple[str, list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    web, heard = asked
    name, text = LISTS[what]
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(talking_clip.read_bytes())
    for given in (tmp_path / name, tmp_path / "disguised.mp4"):
        given.write_text(text(clip, web))
        files = {"--target": str(clip), option: str(given), "--output": str(tmp_path / "out.mp4")}
        words = [word for pair in files.items() for word in pair]
        code = main(["render", *words, "--no-swap", "--no-sync", "--device", "cpu"])
        said = capsys.readouterr().err
        assert code == 4 and given.name in said and "root:" not in said, said
        assert main(["verify", str(given), "--frames", "0"]) == 4
    assert heard == []
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("kind", ["fifo", "device", "directory"])
@pytest.mark.parametrize(
    "command",
    [
        ("render", "--no-swap", "--no-sync", "--output", "x.mp4", "--target"),
        ("render", "--target", "CLIP", "--no-swap", "--output", "x.mp4", "--audio"),
        ("render", "--target", "CLIP", "--no-sync", "--output", "x.mp4", "--source"),
        ("render", "--plan"),
        ("batch",),
        ("faces",),
        ("verify",),
    ],
    ids=lambda words: f"{words[0]} {words[-1]}",
)
def test_what_is_no_file_is_refused_at_once(
    kind: str, command: tuple[str, ...], talking_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "given.mp4"
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "directory":
        place.mkdir()
    else:
        place = Path("/dev/zero")
    began = time.monotonic()
    words = [str(talking_clip) if word == "CLIP" else word for word in command]
    assert main([*words, str(place)]) == 3
    assert time.monotonic() - began < 20
    assert {path.name for path in tmp_path.iterdir()} <= {"given.mp4"}


@pytest.mark.parametrize("option", ["--output", "--report", "--save-plan"])
def test_no_file_takes_the_place_of_a_device(option: str, talking_clip: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    output = [] if option == "--output" else ["--output", str(tmp_path / "x.mp4")]
    given = [
        "render",
        "--target",
        str(talking_clip),
        "--no-swap",
        "--no-sync",
        "--overwrite",
        *output,
        option,
        str(pipe),
    ]
    assert main(given) == 10
    assert pipe.is_fifo() and [path.name for path in tmp_path.iterdir()] == ["pipe.mp4"]


# --- onnx


@pytest.mark.parametrize("place", ["../secret.bin", "{}/secret.bin", "link.bin"])
def test_an_onnx_graph_reads_nothing_outside_its_folder(place: str, tmp_path: Path) -> None:
    import onnx

    from talkswap.engine.onnx import OnnxNetwork
    from talkswap.errors import WeightsCorruptError
    from talkswap.evaluation.judges.recognition import OnnxIdentity

    (tmp_path / "secret.bin").write_bytes(np.arange(4, dtype="<f4").tobytes())
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=place.format(tmp_path))
    ports = [onnx.helper.make_tensor_value_info(name, 1, [4]) for name in "xy"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "w"], ["y"])], "g", ports[:1], ports[1:], [tensor]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    path = folder / "graph.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(WeightsCorruptError):
        OnnxNetwork(path, {"x": [4]})
    with pytest.raises(WeightsCorruptError, match="cannot be read"):
        OnnxIdentity(path)
    assert sorted(p.name for p in folder.iterdir()) == ["graph.onnx", "link.bin"]


# --- read from the source

SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn"}
STARTERS = {"subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_call", "subprocess.check_output"}
PICKLES = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "dill.load", "joblib.load", "shelve.open", "marshal.load",
    "marshal.loads", "torch.jit.load", "yaml.load", "eval", "exec",
}  # fmt: skip
PUBLISHED = {"talkswap/checkpoints/download.py", "talkswap/evaluation/judges/inception.py"}
"""Where published pickles are turned into tensors; their tensors are all that is read."""


def dotted(node: ast.expr) -> str:
    """``a.b.c`` of a called name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def breaches(tree: ast.AST, file: str) -> Iterator[str]:
    """Everything in a module that would run or unpickle what a stranger wrote."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name, options = dotted(node.func), {word.arg: word.value for word in node.keywords}
        where = f"{file}:{node.lineno}: {name}"
        shell = options.get("shell")
        if name in SHELLS | PICKLES or name.startswith(("os.exec", "os.spawn", "os.posix_spawn")):
            yield where
        elif shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
            yield f"{where} with a shell"
        elif name in STARTERS:
            first = node.args[0] if node.args else options.get("args")
            if first is None or isinstance(first, (ast.JoinedStr, ast.BinOp)) or (
                isinstance(first, ast.Constant) and isinstance(first.value, str)
            ):  # fmt: skip
                yield f"{where} with a string"
        elif name == "torch.load":
            only = options.get("weights_only")
            if file not in PUBLISHED or not (isinstance(only, ast.Constant) and only.value is True):
                yield where
        elif name in ("np.load", "numpy.load", "np.savez") and "allow_pickle" in options:
            yield f"{where} with pickles"
        elif name.rpartition(".")[2] in ("extract", "extractall") or name.endswith("add_safe_globals"):
            yield where


def test_no_module_runs_a_shell_or_reads_a_pickle() -> None:
    found = [
        line
        for path in SOURCES
        for line in breaches(ast.parse(path.read_text(encoding="utf-8")), path.relative_to(ROOT).as_posix())
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "subprocess.run('ls ' + name)", "subprocess.run(f'ls {name}')", "subprocess.Popen('ls')", "os.system(name)",
        "subprocess.run([name], shell=True)", "subprocess.run([name], shell=here)", "pickle.load(file)", "os.popen(name)",
        "torch.load(path)", "torch.load(path, weights_only=False)", "np.load(path, allow_pickle=True)", "eval(text)",
        "archive.extractall(folder)", "tar.extract(member)", "torch.serialization.add_safe_globals([X])", "os.execv(a, b)",
    ],
)  # fmt: skip
def test_the_reader_of_sources_sees_it(line: str) -> None:
    assert list(breaches(ast.parse(line), "talkswap/checkpoints/download.py"))


def test_pickles_that_are_published_are_read_as_tensors_alone() -> None:
    for file in PUBLISHED:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and dotted(node.func) == "torch.load"]
        assert calls, f"{file} needs no exception"
