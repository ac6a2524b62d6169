"""``talkswap download`` as a user types it."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from talkswap.checkpoints.manifest import read_catalogue, read_records
from talkswap.cli import main
from talkswap.systems.registry import stage_made

CONTENT = b"weights" * 1000
CATALOGUE = f"""
[[file]]
name = "thing"
preset = "paper"
file = "thing.bin"
url = "https://example.org/thing.bin"
size = {len(CONTENT)}
sha256 = "{hashlib.sha256(CONTENT).hexdigest()}"
licence = "for looking only"
non_commercial = true
needed_by = ["render"]

[[file]]
name = "loose"
preset = "paper"
file = "loose.bin"
url = "https://example.org/loose.bin"
licence = "MIT"
non_commercial = false
needed_by = ["train"]

"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights folder of our own, a catalogue of our own, and no network."""
    catalogue = tmp_path / "catalogue.toml"
    catalogue.write_text(CATALOGUE)
    monkeypatch.setattr("talkswap.checkpoints.manifest.catalogue_path", lambda: catalogue)
    monkeypatch.setenv("TALKSWAP_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("TALKSWAP_OFFLINE", "")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("TALKSWAP_MIRROR", "http://127.0.0.1:9")
    return tmp_path / "weights"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A server that holds everything; the paths it was asked for."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            return

        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT)

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("TALKSWAP_MIRROR", f"http://127.0.0.1:{web.server_address[1]}")
    yield paths
    web.shutdown()
    web.server_close()
    thread.join()


def test_fetch_then_check(root: Path, asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "thing"]) == 0
    said = capsys.readouterr()
    assert "fetched thing" in said.out
    assert "for looking only; non-commercial use only" in said.err
    assert (root / "paper" / "thing.bin").read_bytes() == CONTENT
    assert main(["download", "thing"]) == 0
    assert "fetched nothing; 1 already here" in capsys.readouterr().out
    assert asked == ["/thing.bin"]
    assert main(["download", "--check", "thing"]) == 0
    assert "whole" in capsys.readouterr().out


def test_damage_is_found_and_repaired(root: Path, asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "thing", "--quiet"]) == 0
    (root / "paper" / "thing.bin").write_bytes(CONTENT[:-1] + b"!")
    assert main(["download", "--check", "thing"]) == 12
    said = capsys.readouterr()
    assert "expected sha256" in said.out and "error: damaged: thing" in said.err
    assert main(["download", "thing"]) == 0
    assert (root / "paper" / "thing.bin").read_bytes() == CONTENT


def test_offline_asks_nobody(
    root: Path, asked: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["download", "thing", "--offline"]) == 16
    assert asked == []
    assert "network is forbidden" in capsys.readouterr().err
    monkeypatch.setenv("TALKSWAP_OFFLINE", "")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["download", "thing"]) == 16
    assert asked == []


def test_an_unpinned_entry_needs_a_word(root: Path, asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "loose"]) == 16
    assert "--trust-on-first-use" in capsys.readouterr().err
    assert asked == []
    assert main(["download", "loose", "--sha256", "0" * 64]) == 12
    assert main(["download", "loose", "--sha256", hashlib.sha256(CONTENT).hexdigest()]) == 0
    assert main(["download", "--check", "loose"]) == 0


def test_an_unpinned_entry_keeps_nothing_of_its_preset_away(
    root: Path, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["download", "paper"]) == 0
    said = capsys.readouterr()
    assert "fetched thing; 0 already here" in said.out
    assert "loose has no pin and was left out" in said.err
    assert asked == ["/thing.bin"]


def test_trust_on_first_use_remembers(root: Path, asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "loose", "--trust-on-first-use"]) == 0
    (root / "paper" / "loose.bin").write_bytes(b"something else")
    assert main(["download", "--check", "loose"]) == 12


def test_what_nobody_publishes_says_how_to_make_it(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "vqgan"]) == 11
    assert "talkswap train vqgan --preset paper" in capsys.readouterr().err


def test_the_list_shows_licence_pin_and_origin(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "--list"]) == 0
    header, thing, loose, *own = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["NAME", "PRESET", "SIZE", "STATE"]
    assert "for looking only (non-commercial)" in thing and "https://example.org/thing.bin" in thing
    assert "pin unknown" in loose
    (vqgan,) = [line for line in own if line.startswith("vqgan ")]
    assert "made here" in vqgan and "talkswap train vqgan" in vqgan


def test_the_list_of_our_own_catalogue(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "--list"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert listed == [entry.name for entry in (*read_catalogue(), *stage_made())]


def test_adopt_writes_a_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "vqgan.json").write_text("{}")
    assert main(["download", "--adopt", str(tmp_path)]) == 0
    assert read_records(tmp_path)["swaptalk/vqgan.json"].size == 2


def test_offline_holds_for_one_command_only(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TALKSWAP_OFFLINE")
    assert main(["download", "thing", "--offline"]) == 16
    assert "TALKSWAP_OFFLINE" not in os.environ
    monkeypatch.setenv("TALKSWAP_OFFLINE", "0")
    assert main(["download", "--list", "--offline"]) == 0
    assert os.environ["TALKSWAP_OFFLINE"] == "0"
