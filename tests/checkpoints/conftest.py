"""Small finished runs, a whole preset made of them, and a model hub on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import torch
from safetensors.torch import save_file

from talkswap.checkpoints.pack import PackConfig, pack_preset
from talkswap.faces.detector import DetectorConfig, DetectorNetwork
from talkswap.faces.identity import IdentityConfig, IdentityNetwork
from talkswap.faces.landmarks import LandmarkConfig, LandmarkNetwork
from talkswap.systems import registry
from talkswap.systems.swaptalk.face_swap import FaceSwap, FaceSwapConfig
from talkswap.systems.swaptalk.lip_sync import LipSync, LipSyncConfig
from talkswap.systems.swaptalk.vqgan import VQGAN, VQGANConfig

STAGES: dict[str, tuple[str, Callable[[], torch.nn.Module]]] = {
    # network: stage, how to build it small
    "detector": ("faces", lambda: DetectorNetwork(DetectorConfig(widths=(8, 12, 16)))),
    "landmarks": (
        "faces",
        lambda: LandmarkNetwork(LandmarkConfig(size=32, widths=(8, 8, 8), blocks=(1, 1, 1), hidden=16, coefficients=4)),
    ),
    "identity": (
        "identity",
        lambda: IdentityNetwork(IdentityConfig(size=64, widths=(8, 12, 16), blocks=(1, 1, 1), dimension=24)),
    ),
    "vqgan": (
        "vqgan",
        lambda: VQGAN(
            VQGANConfig(
                size=64,
                widths=(8, 16, 32),
                encoder_blocks=(1, 1, 1),
                decoder_blocks=(1, 1, 1),
                decoder_attention=1,
                codes=32,
                code_width=16,
            )
        ),
    ),
    "face_swap": (
        "face-swap",
        lambda: FaceSwap(FaceSwapConfig(grid=4, code_width=16, width=64, blocks=1, heads=2, identity=24)),
    ),
    "lip_sync": (
        "lip-sync",
        lambda: LipSync(
            LipSyncConfig(
                code_width=16,
                widths=(16, 16, 16, 16),
                blocks=(1, 1, 1, 1),
                heads=2,
                encoder_width=16,
                dilations=(1, 2),
                window=33,
                warp_width=8,
            )
        ),
    ),
}

MakeRun = Callable[..., Path]


def pack_config(**settings: Any) -> PackConfig:
    """How `talkswap weights pack` packs runs of the default system."""
    return PackConfig(tuple(registry.networks("swaptalk").values()), registry.requirements(), **settings)


def finished_run(folder: Path, network: str, seed: int = 3) -> Path:
    """A run folder as `talkswap train` leaves it."""
    stage, build = STAGES[network]
    torch.manual_seed(seed)
    made = build()
    export = folder / "export"
    export.mkdir(parents=True)
    state = {k: v.contiguous() for k, v in made.state_dict().items() if not k.endswith("num_batches_tracked")}
    if network == "vqgan":
        save_file(state, export / "vqgan-float32.safetensors")
    save_file(
        {k: v.half() if v.is_floating_point() else v for k, v in state.items()}, export / f"{network}.safetensors"
    )
    (export / f"{network}.json").write_text(json.dumps(asdict(made.config)))  # type: ignore[call-overload]
    (export / "clips.json").write_text(json.dumps(["train-0001", "train-0002"]))
    loop = {"steps": 200, "batch": 4, "seed": seed, "device": "cpu", "precision": "bf16"}
    said = {"stage": stage, "config": {"data": "/home/somebody/data/prepared", "loop": loop}, "loop": loop}
    (folder / "config.json").write_text(json.dumps(said))
    rows = [{"step": 100, "loss": 2.0, "minutes": 6.1}, {"step": 200, "loss": 1.0, "minutes": 12.4}]
    (folder / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 3')
    (folder / "curve.png").write_bytes(b"\x89PNG picture")
    (folder / "scores.json").write_text(json.dumps({"pearson": 0.4321, "deep": {"psnr": 29.8}, "ok": True}))
    return folder


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of every network that a render needs."""
    root = tmp_path_factory.mktemp("runs")
    return {network: finished_run(root / network, network) for network in STAGES}


@pytest.fixture(scope="session")
def packed(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole preset folder in shards; not to be changed."""
    folder = tmp_path_factory.mktemp("packed") / "small"
    pack_preset(list(runs.values()), folder, pack_config(largest_mb=1.5, licence="Apache-2.0"))
    return folder


@pytest.fixture
def preset(packed: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(packed, tmp_path / "preset"))


TOKEN = "hf_secret"
OWNER = "lab"


@dataclass
class Hub:
    """What the hub holds, what it was asked, and how it misbehaves."""

    url: str = ""
    token: str = TOKEN
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)  # OWNER/NAME -> files of its last commit
    private: set[str] = field(default_factory=set)
    branches: list[tuple[str, str]] = field(default_factory=list)
    commits: list[dict[str, Any]] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)  # large files by sha256
    large: bool = False  # wants safetensors as large files
    refuse: dict[str, int] = field(default_factory=dict)  # beginning of a path -> state to answer
    cut: list[int] = field(default_factory=list)  # bytes of a file sent before the connection drops
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, Authorization
    ranges: list[str] = field(default_factory=list)

    def sha(self) -> str:
        return f"{len(self.commits):040x}"


def handler_for(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            return

        def answer(self, value: Any, state: int = 200) -> None:
            data = json.dumps(value).encode()
            self.send_response(state)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def arrive(self) -> tuple[str, bytes, bool]:
            path, data = unquote(urlsplit(self.path).path), self.body()
            hub.asked.append((self.command, path, self.headers.get("Authorization")))
            for beginning, state in hub.refuse.items():
                if path.startswith(beginning):
                    self.answer({"error": "not today"}, state)
                    return path, data, True
            return path, data, False

        def do_GET(self) -> None:
            path, _, done = self.arrive()
            if done:
                return
            if path == "/api/whoami-v2":
                if self.headers.get("Authorization") == f"Bearer {TOKEN}":
                    self.answer({"type": "user", "name": OWNER, "auth": {"accessToken": {"role": "write"}}})
                else:
                    self.answer({"error": "Invalid username or password."}, 401)
            elif "/tree/" in path:
                files = hub.repositories[path.removeprefix("/api/models/").split("/tree/")[0]]
                self.answer([{"type": "file", "path": p, "size": len(d), "oid": "0" * 40} for p, d in files.items()])
            elif "/resolve/" in path:
                self.send_file(path)
            else:
                self.answer({"error": "no such page"}, 404)

        def send_file(self, path: str) -> None:
            repository, _, rest = path[1:].partition("/resolve/")
            commit, _, file = rest.partition("/")
            data = hub.repositories.get(repository, {}).get(file)
            authorised = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            if data is None or commit != hub.sha() or (repository in hub.private and not authorised):
                self.answer({"error": "not found"}, 404)
                return
            wanted = self.headers.get("Range")
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            if wanted:
                hub.ranges.append(f"{file} {wanted}")
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            sent = data[start:]
            if hub.cut and file.endswith(".safetensors"):
                sent = sent[: hub.cut.pop(0)]
                self.close_connection = True
            self.wfile.write(sent)

        def do_POST(self) -> None:
            path, data, done = self.arrive()
            if done:
                return
            repository = "/".join(path.removeprefix("/api/models/").split("/")[:2])
            if path == "/api/repos/create":
                asked = json.loads(data)
                name = f"{asked.get('organization') or OWNER}/{asked['name']}"
                if asked.get("private") or asked.get("visibility") == "private":
                    hub.private.add(name)
                exists = name in hub.repositories
                hub.repositories.setdefault(name, {})
                self.answer({"url": f"{hub.url}/{name}", "name": name}, 409 if exists else 200)
            elif path == "/api/validate-yaml":
                self.answer({"errors": [], "warnings": [{"message": "write more"}]})
            elif "/preupload/" in path:
                self.answer({"files": [self.mode(file["path"]) for file in json.loads(data)["files"]]})
            elif "/branch/" in path:
                hub.branches.append((repository, path.split("/branch/")[1]))
                self.answer({})
            elif path.endswith("/info/lfs/objects/batch"):
                self.answer(
                    {"transfer": "basic", "objects": [self.upload(item) for item in json.loads(data)["objects"]]}
                )
            elif "/commit/" in path:
                self.commit(repository, path.split("/commit/")[1], data)
            else:
                self.answer({"error": "no such page"}, 404)

        def mode(self, file: str) -> dict[str, Any]:
            large = hub.large and file.endswith(".safetensors")
            return {"path": file, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": None}

        def upload(self, item: dict[str, Any]) -> dict[str, Any]:
            href = f"{hub.url}/store/{item['oid']}"
            return {"oid": item["oid"], "size": item["size"], "actions": {"upload": {"href": href, "header": {}}}}

        def do_PUT(self) -> None:
            path, data, done = self.arrive()
            if done:
                return
            hub.objects[path.removeprefix("/store/")] = data
            self.answer({})

        def commit(self, repository: str, revision: str, data: bytes) -> None:
            lines = [json.loads(line) for line in data.splitlines()]
            files = hub.repositories[repository]
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    content = hub.objects[value["oid"]]
                    assert hashlib.sha256(content).hexdigest() == value["oid"]
                    files[value["path"]] = content
                elif line["key"] == "deletedFile":
                    del files[value["path"]]
            hub.commits.append({"repository": repository, "revision": revision, "lines": lines})
            sha = hub.sha()
            self.answer({"commitUrl": f"{hub.url}/{repository}/commit/{sha}", "commitOid": sha, "success": True})

    return Handler


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A model hub on 127.0.0.1 that HF_ENDPOINT names, and nobody's token lying around."""
    state = Hub()
    web = ThreadingHTTPServer(("127.0.0.1", 0), handler_for(state))
    web.daemon_threads = True
    state.url = f"http://127.0.0.1:{web.server_address[1]}"
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", state.url)
    for name in ("HF_HUB_OFFLINE", "TALKSWAP_OFFLINE", "TALKSWAP_MIRROR", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    yield state
    web.shutdown()
    web.server_close()
    thread.join()


@pytest.fixture
def token(tmp_path: Path) -> Path:
    """A file with the token that the hub takes."""
    path = tmp_path / "token.txt"
    path.write_text(TOKEN + "\n")
    return path
