"""Publishing and fetching through the commands, against a model hub on this machine."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from talkswap.checkpoints.download import FetchConfig
from talkswap.checkpoints.manifest import read_about, read_records, write_manifest
from talkswap.checkpoints.presets import find_preset, preset_files
from talkswap.checkpoints.publish import fetch_preset, preset_place
from talkswap.cli import main
from talkswap.errors import DownloadError, OutputUnwritableError, UsageError, WeightsCorruptError
from talkswap.systems.registry import requirements

REPOSITORY = "lab/small-talk"
QUICK = FetchConfig(attempts=1, wait=0.01, timeout=5)


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where downloads go."""
    monkeypatch.setenv("TALKSWAP_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def push(folder: Path, *arguments: str) -> int:
    return main(["weights", "push", REPOSITORY, "--from", str(folder), *arguments])


def fetch(revision: str, *arguments: str) -> int:
    return main(["download", "--repo", REPOSITORY, "--revision", revision, "--quiet", *arguments])


def contents(folder: Path) -> dict[str, bytes]:
    return {file: (folder / file).read_bytes() for file in preset_files(folder)}


# --- push


def test_a_push_is_one_commit_with_every_file(
    hub: Any, packed: Path, token: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(packed, "--token-file", str(token), "--private", "--message", "first words") == 0
    said = capsys.readouterr()
    assert f"{hub.url}/{REPOSITORY}/commit/{hub.sha()}: commit {hub.sha()}" in said.out
    assert f"talkswap download --repo {REPOSITORY} --revision {hub.sha()}" in said.err
    assert hub.token not in said.out + said.err
    (commit,) = hub.commits
    assert (commit["repository"], commit["revision"]) == (REPOSITORY, "main")
    assert commit["lines"][0]["value"]["summary"] == "first words"
    assert hub.repositories[REPOSITORY] == contents(packed) and REPOSITORY in hub.private
    assert {"manifest.toml", "README.md", "swaptalk/runs/lip-sync/curve.png"} <= set(hub.repositories[REPOSITORY])
    assert [path for method, path, key in hub.asked if method == "POST" and key != f"Bearer {hub.token}"] == []


def test_large_files_go_to_the_store(hub: Any, packed: Path, token: Path) -> None:
    hub.large = True
    assert push(packed, "--token-file", str(token)) == 0
    assert hub.repositories[REPOSITORY] == contents(packed)
    assert hub.objects and len(hub.commits) == 1 and not hub.private


def test_a_second_push_removes_shards_that_are_no_more(hub: Any, preset: Path, token: Path) -> None:
    assert push(preset, "--token-file", str(token)) == 0
    hub.repositories[REPOSITORY]["notes.txt"] = b"somebody's own"
    gone = [f"swaptalk/{path.name}" for path in preset.glob("swaptalk/vqgan-*.safetensors")]
    assert len(gone) > 1
    for name in gone:
        (preset / name).unlink()
    shutil.copy(preset / "faces/detector.safetensors", preset / "swaptalk/vqgan.safetensors")
    write_manifest(preset)
    assert push(preset, "--token-file", str(token)) == 0
    held = hub.repositories[REPOSITORY]
    assert not set(gone) & set(held) and "swaptalk/vqgan.safetensors" in held and "notes.txt" in held
    assert len(hub.commits) == 2


def test_a_branch_is_made(hub: Any, packed: Path, token: Path) -> None:
    assert push(packed, "--token-file", str(token), "--revision", "second-generation") == 0
    assert hub.branches == [(REPOSITORY, "second-generation")]
    assert hub.commits[0]["revision"] == "second-generation"


def test_a_dry_run_lists_and_asks_nobody(hub: Any, packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert push(packed, "--dry-run") == 0
    said = capsys.readouterr()
    listed = [line.split()[0] for line in said.out.splitlines()[1:]]
    assert listed == preset_files(packed)
    assert "licence apache-2.0" in said.err and hub.asked == []


def test_what_only_lies_in_the_folder_stays_here(hub: Any, preset: Path, token: Path) -> None:
    (preset / "secret.txt").write_text("mine")
    (preset / "swaptalk" / "runs" / ".hidden").write_text("mine")
    assert push(preset, "--token-file", str(token)) == 0
    assert not {"secret.txt", "swaptalk/runs/.hidden"} & set(hub.repositories[REPOSITORY])


def test_a_damaged_folder_is_not_sent(hub: Any, preset: Path, token: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = preset / "faces" / "identity.json"
    path.write_text(path.read_text().replace("64", "65"))
    assert push(preset, "--token-file", str(token)) == 12
    assert "identity.json is damaged" in capsys.readouterr().err
    path.unlink()
    assert push(preset, "--token-file", str(token)) == 11
    write_manifest(preset)  # lists what is there; a render would still lack it
    assert push(preset, "--token-file", str(token)) == 11
    assert "identity.json" in capsys.readouterr().err and hub.asked == []


def test_a_card_without_a_licence_is_not_sent(
    hub: Any, preset: Path, token: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = preset / "README.md"
    card.write_text(card.read_text().replace("license: apache-2.0\n", ""))
    for _ in range(2):
        assert push(preset, "--token-file", str(token)) == 20
        said = capsys.readouterr().err
        assert "names no licence" in said and "--licence" in said
        card.unlink(missing_ok=True)
    assert hub.asked == []


def test_no_token(
    hub: Any, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert push(packed) == 20
    assert "no access token" in capsys.readouterr().err
    assert push(packed, "--token-file", str(tmp_path / "nowhere")) == 3
    (tmp_path / "empty").write_text("\n")
    assert push(packed, "--token-file", str(tmp_path / "empty")) == 2
    assert hub.asked == []
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert push(packed) == 0


def test_a_wrong_token(hub: Any, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "wrong").write_text("hf_wrong")
    assert push(packed, "--token-file", str(tmp_path / "wrong")) == 20
    said = capsys.readouterr().err
    assert "does not take the access token (answered 401" in said and "hf_wrong" not in said
    assert hub.commits == [] and hub.repositories == {}


@pytest.mark.parametrize("step", ["/api/repos/create", f"/api/models/{REPOSITORY}/commit/"])
def test_a_hub_that_refuses(hub: Any, packed: Path, token: Path, capsys: pytest.CaptureFixture[str], step: str) -> None:
    hub.refuse[step] = 403
    assert push(packed, "--token-file", str(token)) == 20
    said = capsys.readouterr().err
    assert f"refuses to write to {REPOSITORY} (answered 403" in said and "write for lab" in said
    assert hub.commits == []


def test_a_hub_that_cannot_be_reached(
    packed: Path, token: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_OFFLINE", "TALKSWAP_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert push(packed, "--token-file", str(token)) == 20
    assert "http://127.0.0.1:9 cannot be reached" in capsys.readouterr().err
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    assert push(packed, "--token-file", str(token)) == 20
    assert "not encrypted and would see the token" in capsys.readouterr().err
    monkeypatch.setenv("TALKSWAP_OFFLINE", "1")
    assert push(packed, "--token-file", str(token)) == 20
    assert "network is forbidden" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["alone", "a/b/c", "../up", "a/..", "a b/c", ""])
def test_a_repository_is_owner_and_name(hub: Any, packed: Path, name: str) -> None:
    assert main(["weights", "push", name, "--from", str(packed), "--dry-run"]) == 2
    assert main(["download", "--repo", name, "--revision", "0" * 40]) == 2
    assert hub.asked == []


# --- fetch


@pytest.fixture
def published(hub: Any, packed: Path, token: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The commit of a pushed preset; the hub forgets who asked."""
    assert push(packed, "--token-file", str(token)) == 0
    capsys.readouterr()
    hub.asked.clear()
    return str(hub.sha())


def test_a_pushed_preset_comes_back(
    hub: Any, published: str, packed: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(published) == 0
    place = weights / "hub" / "lab" / "small-talk" / published
    said = capsys.readouterr()
    count = len(read_records(packed))
    assert said.out == f"{place}: fetched {count} files; 0 already here\n" and "licence Apache-2.0" in said.err
    assert read_records(place) == read_records(packed)
    assert (place / "README.md").read_bytes() == (packed / "README.md").read_bytes()
    assert read_about(place) == {**read_about(packed), "repository": REPOSITORY, "commit": published}
    assert find_preset("auto", place).complete
    assert all(key is None for _, _, key in hub.asked)
    assert [p.name for p in place.iterdir() if p.name.startswith(".") or p.suffix == ".part"] == []
    hub.asked.clear()
    assert fetch(published, "--offline") == 0
    assert f"fetched 0 files; {count} already here" in capsys.readouterr().out and hub.asked == []
    assert main(["weights", "list"]) == 0
    assert str(place) in capsys.readouterr().out


def test_an_interrupted_fetch_goes_on_where_it_stopped(hub: Any, published: str) -> None:
    hub.cut = [5000]
    with pytest.raises(DownloadError, match="stopped after 5000"):
        fetch_preset(REPOSITORY, published, config=QUICK)
    place = preset_place(REPOSITORY, published)
    assert not (place / "manifest.toml").exists()
    (part,) = place.rglob("*.part")
    whole = [p.name for p in place.rglob("*") if p.suffix in (".json", ".safetensors")]
    done = fetch_preset(REPOSITORY, published, config=QUICK)
    assert hub.ranges == [f"{part.relative_to(place).as_posix().removesuffix('.part')} bytes=5000-"]
    assert done.here == len(whole) and find_preset("auto", place).complete


def test_one_system_is_fetched_without_the_others(hub: Any, published: str) -> None:
    done = fetch_preset(REPOSITORY, published, rooms=("faces", "voice"), config=QUICK)
    assert {file.partition("/")[0] for file in done.fetched} == {"faces"}
    assert fetch_preset(REPOSITORY, published, rooms=("faces",), config=QUICK).fetched == ()
    more = fetch_preset(REPOSITORY, published, config=QUICK)
    assert {file.partition("/")[0] for file in more.fetched} == {"swaptalk"} and more.here == len(done.fetched)
    assert find_preset("auto", done.folder, requirements()).complete
    assert fetch_preset(REPOSITORY, published, rooms=("faces",), config=QUICK).fetched == ()


def test_an_old_flat_preset_arrives_in_todays_folders(hub: Any, published: str) -> None:
    files = hub.repositories[REPOSITORY]
    for name in [name for name in files if name.startswith(("faces/", "swaptalk/")) and "/runs/" not in name]:
        files[name.rpartition("/")[2]] = files.pop(name)
    manifest = re.sub(r'(file = ")(faces|swaptalk)/', r"\1", files["manifest.toml"].decode())
    files["manifest.toml"] = manifest.encode()
    place = fetch_preset(REPOSITORY, published, config=QUICK).folder
    preset = find_preset("auto", place, requirements())
    assert preset.notice == "" and preset.locate("swaptalk/vqgan.json").parent == place / "swaptalk"


def test_a_damaged_file_is_fetched_again_alone(hub: Any, published: str) -> None:
    place = fetch_preset(REPOSITORY, published, config=QUICK).folder
    (place / "swaptalk" / "vqgan.json").write_text("{}")
    done = fetch_preset(REPOSITORY, published, config=QUICK)
    assert done.fetched == ("swaptalk/vqgan.json",)
    assert find_preset("auto", place).complete


def test_content_that_is_not_the_manifests_is_refused(
    hub: Any, published: str, capsys: pytest.CaptureFixture[str], weights: Path
) -> None:
    data = bytearray(hub.repositories[REPOSITORY]["faces/detector.safetensors"])
    data[-1] ^= 1
    hub.repositories[REPOSITORY]["faces/detector.safetensors"] = bytes(data)
    assert fetch(published) == 12
    assert "is not the pinned file" in capsys.readouterr().err
    assert list(weights.rglob("manifest.toml")) == [preset_place(REPOSITORY, published) / ".fetched" / "manifest.toml"]
    assert main(["weights", "list"]) == 0
    assert "small-talk" not in capsys.readouterr().out


@pytest.mark.parametrize("file", ["../../out.json", "/etc/x.json", "evil.py", ".hidden.json", "runs/x.json"])
def test_a_hostile_manifest_is_refused(hub: Any, published: str, weights: Path, file: str) -> None:
    manifest = hub.repositories[REPOSITORY]["manifest.toml"].decode()
    hub.repositories[REPOSITORY]["manifest.toml"] = manifest.replace("swaptalk/vqgan.json", file).encode()
    with pytest.raises(WeightsCorruptError):
        fetch_preset(REPOSITORY, published, config=QUICK)
    assert [p.name for p in weights.rglob("*") if p.is_file()] == ["manifest.toml"]


def test_an_endless_manifest_is_cut_off(hub: Any, published: str) -> None:
    hub.repositories[REPOSITORY]["manifest.toml"] = b"#" * 5_000_000
    with pytest.raises(WeightsCorruptError, match="longer than"):
        fetch_preset(REPOSITORY, published, config=QUICK)


def test_a_private_preset_needs_the_token(
    hub: Any, published: str, token: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.private.add(REPOSITORY)
    assert fetch(published) == 16
    assert fetch(published, "--token-file", str(token)) == 0
    assert hub.token not in capsys.readouterr().err


def test_only_a_whole_commit_is_a_pin(hub: Any, published: str, capsys: pytest.CaptureFixture[str]) -> None:
    for revision in ("main", published[:12], published.upper()[:39] + "G"):
        assert fetch(revision) == 2
        assert "no commit" in capsys.readouterr().err
    assert main(["download", "--repo", REPOSITORY]) == 2
    assert main(["download", "--revision", published]) == 2
    assert main(["download", "--list", "--repo", REPOSITORY, "--revision", published]) == 2
    assert hub.asked == []
    assert fetch("f" * 40) == 16  # nobody has such a commit


def test_offline_asks_nobody(hub: Any, published: str) -> None:
    assert fetch(published, "--offline") == 16
    assert hub.asked == []


def test_another_presets_folder_is_left_alone(hub: Any, published: str, preset: Path) -> None:
    before = contents(preset)
    with pytest.raises(OutputUnwritableError, match="another preset"):
        fetch_preset(REPOSITORY, published, preset, config=QUICK)
    assert contents(preset) == before
    with pytest.raises(UsageError):
        fetch_preset(REPOSITORY, "main", preset)
