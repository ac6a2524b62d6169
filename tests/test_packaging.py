"""The built wheel: it holds the code, the assets and the compact weights, and works far from any checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import talkswap
from talkswap.files import file_sha256

ROOT = Path(__file__).parents[1]
LEFT_OUT = {".git", "build", "dist", "runs", "cache", "venv", ".venv", "tests", "paper"}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout without what git ignores: building in place would leave a build/ folder behind."""
    copy = tmp_path_factory.mktemp("sources") / "talkswap"

    def ignored(folder: str, names: list[str]) -> set[str]:
        return {n for n in names if n in LEFT_OUT or n.startswith(".") or n.endswith((".egg-info", "__pycache__"))}

    shutil.copytree(ROOT, copy, ignore=ignored)
    return copy


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder),
        str(sources),
    ]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment with the wheel; its dependencies are borrowed from the environment of the tests."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--quiet", str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def run(installed: Path, arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TALKSWAP_") and k != "PYTHONPATH"}
    environment["XDG_CACHE_HOME"] = str(cwd / "cache")
    return subprocess.run(
        [str(installed / "bin" / "talkswap"), *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


def compact_files() -> list[Path]:
    """What a render may need of weights/compact; runs/ in each of its rooms is for people who train."""
    endings = {".toml", ".json", ".safetensors", ".md"}
    return [p for p in (ROOT / "weights" / "compact").rglob("*") if p.suffix in endings and "runs" not in p.parts]


def test_the_wheel_holds_what_is_needed_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "talkswap").rglob("*.py")}
    assets = {p.relative_to(ROOT).as_posix() for p in (ROOT / "talkswap").rglob("assets/*")}
    weights = {f"talkswap/{p.relative_to(ROOT).as_posix()}" for p in compact_files()}
    assert assets and weights
    needed = modules | assets | weights | {"talkswap/py.typed", "talkswap/weights/manifest.toml"}
    about = {n for n in names if ".dist-info/" in n}
    assert names - about == needed
    assert any(n.endswith("licenses/LICENSE") for n in about)
    assert any(n.endswith("entry_points.txt") for n in about)


def test_the_weights_fit_into_their_budget() -> None:
    assert sum(p.stat().st_size for p in compact_files()) <= 40e6


def test_the_source_archive_can_build_the_same_wheel(sources: Path, tmp_path: Path) -> None:
    script = f"import setuptools.build_meta as b; print(b.build_sdist({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", script], cwd=sources, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as file:
        names = {name.split("/", 1)[1] for name in file.getnames() if "/" in name}
    weights = {p.relative_to(ROOT).as_posix() for p in compact_files()}
    assets = {p.relative_to(ROOT).as_posix() for p in (ROOT / "talkswap").rglob("assets/*")}
    assert weights | assets | {"weights/manifest.toml", "LICENSE", "README.md", "setup.py", "constraints.txt"} <= names


def test_the_installed_command_uses_its_own_weights(installed: Path, tmp_path: Path) -> None:
    assert run(installed, ["--version"], tmp_path).stdout == f"talkswap {talkswap.__version__}\n"
    script = (
        "import json, talkswap, talkswap.checkpoints.manifest as c; "
        "print(json.dumps([talkswap.__file__, str(c.packaged_weights()), str(c.checkout_weights()), str(c.catalogue_path())]))"
    )
    done = subprocess.run(
        [str(installed / "bin" / "python"), "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    module, packaged, checkout, catalogue = json.loads(done.stdout)
    assert Path(module).is_relative_to(installed)
    assert Path(packaged).is_relative_to(installed) and Path(catalogue).is_relative_to(installed)
    assert checkout == "None"
    for path in compact_files():
        assert file_sha256(Path(packaged) / path.relative_to(ROOT / "weights")) == file_sha256(path)
    assert run(installed, ["download", "--check", "compact"], tmp_path).returncode == 0


def test_the_installed_command_renders_far_from_the_checkout(
    installed: Path, tmp_path: Path, source_photo: Path, talking_clip: Path, voice_file: Path
) -> None:
    media = ["--source", str(source_photo), "--target", str(talking_clip), "--audio", str(voice_file)]
    done = run(installed, ["render", *media, "--output", "dubbed.mp4"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("dubbed.mp4: 12 frames") and "compact weights" in done.stdout
    assert "complete in the installed package" in done.stderr
    assert (tmp_path / "dubbed.mp4").stat().st_size > 1000
