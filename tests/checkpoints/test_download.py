"""Downloads against a real HTTP server on this machine: resumed, truncated, wrong, missing, failing for a while."""

from __future__ import annotations

import hashlib
import io
import re
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from talkswap.checkpoints.download import FetchConfig, address, entry_problem, fetch, obtain
from talkswap.checkpoints.manifest import CatalogueEntry, FileRecord, Member, check_file, read_records
from talkswap.errors import DownloadError, OutputUnwritableError, WeightsCorruptError, WeightsMissingError
from talkswap.types import ProgressEvent

CONTENT = bytes(range(256)) * 4096  # 1 MiB
COMMIT = "0123456789abcdef0123456789abcdef01234567"
QUICK = FetchConfig(attempts=3, wait=0.01, timeout=5)


@dataclass
class Server:
    """What the server holds and how it misbehaves."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    states: list[int] = field(default_factory=list)  # answered first, one per request
    cut: list[int] = field(default_factory=list)  # bytes sent before the connection drops, one per request
    ranges: bool = True
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range header


def handler_for(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            return

        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            server.requests.append((self.path, wanted))
            if server.states:
                self.send_error(server.states.pop(0))
                return
            if self.path not in server.files:
                self.send_error(404)
                return
            data = server.files[self.path]
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
            if start and start >= len(data):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            body = data[start:]
            if server.cut:
                body = body[: server.cut.pop(0)]
                self.close_connection = True
            self.wfile.write(body)

    return Handler


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()
    web = ThreadingHTTPServer(("127.0.0.1", 0), handler_for(state))
    web.daemon_threads = True
    state.url = f"http://127.0.0.1:{web.server_address[1]}"
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("TALKSWAP_MIRROR", state.url)
    for name in ("HF_HUB_OFFLINE", "TALKSWAP_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    yield state
    web.shutdown()
    web.server_close()
    thread.join()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def entry(content: bytes = CONTENT, **changes: object) -> CatalogueEntry:
    base = CatalogueEntry(
        name="thing",
        preset="paper",
        file="folder/thing.bin",
        licence="MIT",
        non_commercial=False,
        needed_by=("render",),
        size=len(content),
        sha256=digest(content),
        repository="owner/name",
        commit=COMMIT,
        path="thing.bin",
    )
    return replace(base, **changes)  # type: ignore[arg-type]


PATH = f"/owner/name/resolve/{COMMIT}/thing.bin"


def test_fetches_once_and_lists_what_it_kept(server: Server, tmp_path: Path) -> None:
    server.files[PATH] = CONTENT
    events: list[ProgressEvent] = []
    assert obtain(entry(), tmp_path, config=QUICK, notify=events.append)
    assert (tmp_path / "folder" / "thing.bin").read_bytes() == CONTENT
    assert read_records(tmp_path)["folder/thing.bin"] == FileRecord("folder/thing.bin", len(CONTENT), digest(CONTENT))
    assert events[-1].done == events[-1].total == len(CONTENT)
    assert not obtain(entry(), tmp_path, config=QUICK)
    assert len(server.requests) == 1
    assert sorted(p.name for p in (tmp_path / "folder").iterdir()) == ["thing.bin"]


def test_an_interrupted_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.files[PATH] = CONTENT
    server.cut = [300_000]
    with pytest.raises(DownloadError, match=r"stopped after 300000 of 1048576 bytes"):
        obtain(entry(), tmp_path, config=replace(QUICK, attempts=1))
    assert (tmp_path / "folder" / "thing.bin.part").stat().st_size == 300_000
    assert not (tmp_path / "folder" / "thing.bin").exists()
    assert obtain(entry(), tmp_path, config=QUICK)
    assert server.requests[-1] == (PATH, "bytes=300000-")
    assert (tmp_path / "folder" / "thing.bin").read_bytes() == CONTENT


def test_a_broken_connection_is_taken_up_in_the_same_run(server: Server, tmp_path: Path) -> None:
    server.files[PATH] = CONTENT
    server.cut = [100_000, 200_000]
    assert obtain(entry(), tmp_path, config=QUICK)
    assert [wanted for _, wanted in server.requests] == [None, "bytes=100000-", "bytes=300000-"]


def test_a_server_without_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    server.files[PATH] = CONTENT
    server.ranges = False
    server.cut = [100_000]
    assert obtain(entry(), tmp_path, config=QUICK)
    assert (tmp_path / "folder" / "thing.bin").read_bytes() == CONTENT


def test_a_part_of_another_file_is_noticed_and_dropped(server: Server, tmp_path: Path) -> None:
    server.files[PATH] = CONTENT
    part = tmp_path / "folder" / "thing.bin.part"
    part.parent.mkdir()
    part.write_bytes(b"something else")
    with pytest.raises(WeightsCorruptError):
        obtain(entry(), tmp_path, config=QUICK)
    assert not part.exists()
    assert obtain(entry(), tmp_path, config=QUICK)


def test_wrong_content_is_refused_and_deleted(server: Server, tmp_path: Path) -> None:
    wrong = CONTENT[:-1] + b"!"
    server.files[PATH] = wrong
    with pytest.raises(WeightsCorruptError) as caught:
        obtain(entry(), tmp_path, config=QUICK)
    assert digest(CONTENT) in caught.value.message and digest(wrong) in caught.value.message
    assert list((tmp_path / "folder").iterdir()) == []


def test_an_endless_file_is_cut_off(server: Server, tmp_path: Path) -> None:
    server.files[PATH] = CONTENT * 3
    with pytest.raises(WeightsCorruptError, match="longer than"):
        obtain(entry(), tmp_path, config=QUICK)


def test_server_errors_pass(server: Server, tmp_path: Path) -> None:
    server.files[PATH] = CONTENT
    server.states = [500, 429]
    events: list[ProgressEvent] = []
    assert obtain(entry(), tmp_path, config=QUICK, notify=events.append)
    assert [re.sub(".*answered ", "", e.message)[:3] for e in events if e.message] == ["500", "429"]


def test_lasting_server_errors_end(server: Server, tmp_path: Path) -> None:
    server.states = [500] * 9
    with pytest.raises(DownloadError, match="in 3 attempts"):
        obtain(entry(), tmp_path, config=QUICK)
    assert len(server.requests) == 3


def test_not_found_is_not_tried_again(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="404"):
        obtain(entry(), tmp_path, config=QUICK)
    assert len(server.requests) == 1


def test_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALKSWAP_MIRROR", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(DownloadError, match="could not be fetched"):
        obtain(entry(), tmp_path, config=replace(QUICK, attempts=2))


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TALKSWAP_OFFLINE"])
def test_offline_never_asks(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(DownloadError, match="forbidden"):
        obtain(entry(), tmp_path, config=QUICK)
    assert server.requests == []


def test_no_pin_no_download(server: Server, tmp_path: Path) -> None:
    server.files[PATH] = CONTENT
    unpinned = entry(size=None, sha256=None)
    with pytest.raises(DownloadError, match="no pin"):
        obtain(unpinned, tmp_path, config=QUICK)
    assert server.requests == []
    with pytest.raises(WeightsCorruptError):
        obtain(unpinned, tmp_path, sha256="0" * 64, config=QUICK)
    assert obtain(unpinned, tmp_path, trust=True, config=QUICK)
    assert entry_problem(unpinned, tmp_path) is None
    (tmp_path / "folder" / "thing.bin").write_bytes(CONTENT[:-1] + b"!")
    assert "expected sha256" in (entry_problem(unpinned, tmp_path) or "")


def test_what_nobody_publishes(tmp_path: Path) -> None:
    own = entry(repository=None, commit=None, path=None, size=None, sha256=None, made_by="talkswap train vqgan")
    with pytest.raises(WeightsMissingError) as caught:
        obtain(own, tmp_path)
    assert "talkswap train vqgan" in caught.value.hint


def test_plain_http_is_refused_without_a_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TALKSWAP_MIRROR", raising=False)
    with pytest.raises(DownloadError, match="not encrypted"):
        address(entry(repository=None, commit=None, url="http://example.org/x"))
    assert address(entry()).startswith("https://")
    assert COMMIT in address(entry())


def test_unwritable_folder(server: Server, tmp_path: Path) -> None:
    server.files[PATH] = CONTENT
    (tmp_path / "folder").write_text("a file where a folder should be")
    with pytest.raises(OutputUnwritableError):
        obtain(entry(), tmp_path, config=QUICK)


def test_too_big_for_the_disk(server: Server, tmp_path: Path) -> None:
    with pytest.raises(OutputUnwritableError, match="free"):
        fetch(server.url + PATH, tmp_path / "x", 1 << 60, "0" * 64, QUICK)
    assert server.requests == []


def packed(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return stream.getvalue()


def pack_entry(content: bytes, members: dict[str, tuple[str, bytes]]) -> CatalogueEntry:
    listed = tuple(Member(p, FileRecord(f, len(data), digest(data))) for p, (f, data) in members.items())
    return entry(content, file="pack.zip", path="pack.zip", members=listed)


PACK = f"/owner/name/resolve/{COMMIT}/pack.zip"


def test_takes_the_listed_members_and_nothing_else(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "paper"
    content = packed({"a.onnx": b"aaa", "../evil.txt": b"evil", "/abs.txt": b"evil"})
    server.files[PACK] = content
    wanted = pack_entry(content, {"a.onnx": ("models/a.onnx", b"aaa")})
    assert obtain(wanted, folder, config=QUICK)
    files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert files == ["paper/manifest.toml", "paper/models/a.onnx"]
    assert entry_problem(wanted, folder) is None


@pytest.mark.parametrize("name", ["../out.onnx", "/out.onnx", "x/../../out.onnx"])
def test_members_cannot_leave_the_folder(server: Server, tmp_path: Path, name: str) -> None:
    content = packed({"a.onnx": b"aaa"})
    server.files[PACK] = content
    with pytest.raises(WeightsCorruptError, match="leads out"):
        obtain(pack_entry(content, {"a.onnx": (name, b"aaa")}), tmp_path / "paper", config=QUICK)
    assert not (tmp_path / "out.onnx").exists()


def test_a_member_that_unpacks_too_large_or_is_missing(server: Server, tmp_path: Path) -> None:
    content = packed({"a.onnx": b"a" * 5_000_000})
    server.files[PACK] = content
    with pytest.raises(WeightsCorruptError, match="expected 3 bytes, got 4"):
        obtain(pack_entry(content, {"a.onnx": ("a.onnx", b"aaa")}), tmp_path, config=QUICK)
    with pytest.raises(WeightsCorruptError, match="lacks what"):
        obtain(pack_entry(content, {"b.onnx": ("b.onnx", b"aaa")}), tmp_path, config=QUICK)


def test_a_published_pickle_becomes_safetensors(server: Server, tmp_path: Path) -> None:
    stream = io.BytesIO()
    torch.save({"w": torch.arange(6.0), "shared": torch.ones(2)}, stream)
    content = stream.getvalue()
    server.files[PATH] = content
    wanted = entry(content, file="hubert/model.safetensors", convert="torch-to-safetensors")
    assert obtain(wanted, tmp_path, config=QUICK)
    assert torch.equal(load_file(tmp_path / "hubert" / "model.safetensors")["w"], torch.arange(6.0))
    assert [p.name for p in (tmp_path / "hubert").iterdir()] == ["model.safetensors"]
    record = read_records(tmp_path)["hubert/model.safetensors"]
    check_file(tmp_path / "hubert" / "model.safetensors", record, "")
    assert entry_problem(wanted, tmp_path) is None


class Command:
    """What a hostile pickle holds."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (eval, ("open('/tmp/talkswap-was-here', 'w')",))


def test_a_pickle_with_code_is_refused(server: Server, tmp_path: Path) -> None:
    stream = io.BytesIO()
    torch.save({"w": Command()}, stream)
    content = stream.getvalue()
    server.files[PATH] = content
    with pytest.raises(WeightsCorruptError, match="more or less than tensors"):
        obtain(entry(content, file="m.safetensors", convert="torch-to-safetensors"), tmp_path, config=QUICK)
    assert not (tmp_path / "m.safetensors").exists()
    assert not Path("/tmp/talkswap-was-here").exists()
