"""Weights: where they are looked for, what counts as complete, and that nothing damaged is ever loaded."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from talkswap.checkpoints.manifest import inside, read_catalogue, read_records, weight_roots, write_manifest
from talkswap.checkpoints.networks import Requirements
from talkswap.checkpoints.preset_folder import load_config, load_weights, verified_folder, verify, weight_hashes
from talkswap.checkpoints.presets import absent_packages, find_preset, preset_state, resolve_auto
from talkswap.errors import UsageError, WeightsCorruptError, WeightsMissingError
from talkswap.files import file_sha256
from talkswap.systems.registry import requirements

ROOT = Path(__file__).parents[2]
NEEDS = requirements()
NETWORKS = NEEDS["compact"].networks


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights folder that is the only one on this machine."""
    folder = tmp_path / "weights"
    monkeypatch.setenv("TALKSWAP_WEIGHTS", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("talkswap.checkpoints.manifest.checkout_weights", lambda: None)
    monkeypatch.setattr("talkswap.checkpoints.manifest.packaged_weights", lambda: None)
    catalogue = ROOT / "weights" / "manifest.toml"
    monkeypatch.setattr("talkswap.checkpoints.manifest.catalogue_path", lambda: catalogue)
    return folder


def make_compact(root: Path) -> Path:
    folder = root / "compact"
    for network in NETWORKS:
        (folder / network).parent.mkdir(parents=True, exist_ok=True)
        save_file({"w": torch.arange(12.0).reshape(3, 4)}, folder / f"{network}.safetensors")
        (folder / f"{network}.json").write_text(json.dumps({"widths": [64, 128]}))
    write_manifest(folder)
    return folder


def test_loads_what_the_manifest_lists(root: Path) -> None:
    make_compact(root)
    preset = find_preset("compact", requirements=NEEDS)
    assert torch.equal(load_weights(preset, "swaptalk/vqgan")["w"], torch.arange(12.0).reshape(3, 4))
    assert load_config(preset, "swaptalk/vqgan") == {"widths": [64, 128]}
    names = NETWORKS
    assert set(weight_hashes(preset)) == {f"{n}.safetensors" for n in names} | {f"{n}.json" for n in names}


def test_a_flipped_byte_is_named_with_both_hashes_and_the_repair(root: Path) -> None:
    folder = make_compact(root)
    path = folder / "swaptalk/vqgan.safetensors"
    stated = read_records(folder)["swaptalk/vqgan.safetensors"].sha256
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsCorruptError) as caught:
        load_weights(find_preset("compact", requirements=NEEDS), "swaptalk/vqgan")
    got = file_sha256(path)
    assert str(path) in caught.value.message and stated in caught.value.message and got in caught.value.message
    assert "weights/compact" in caught.value.hint


def test_a_truncated_file_is_named_with_both_sizes(root: Path) -> None:
    folder = make_compact(root)
    path = folder / "swaptalk/vqgan.safetensors"
    whole = path.stat().st_size
    os.truncate(path, whole - 7)
    with pytest.raises(WeightsCorruptError, match=f"expected {whole} bytes, got {whole - 7}"):
        verify(find_preset("compact", requirements=NEEDS), "swaptalk/vqgan.safetensors")


def test_a_file_damaged_after_it_was_verified_is_noticed(root: Path) -> None:
    folder = make_compact(root)
    verify(find_preset("compact", requirements=NEEDS), "swaptalk/vqgan.json")
    (folder / "swaptalk/vqgan.json").write_text(json.dumps({"widths": [64, 129]}))
    os.utime(folder / "swaptalk/vqgan.json", ns=(1, 1))
    with pytest.raises(WeightsCorruptError):
        verify(find_preset("compact", requirements=NEEDS), "swaptalk/vqgan.json")


def test_a_listed_file_that_holds_no_tensors_is_refused(root: Path) -> None:
    folder = make_compact(root)
    (folder / "swaptalk/vqgan.safetensors").write_bytes(b"\x80\x04K\x01.")  # a pickle
    (folder / "swaptalk/vqgan.json").write_text("[1]")
    write_manifest(folder)
    preset = preset_state("compact", NEEDS["compact"])
    with pytest.raises(WeightsCorruptError, match="no safetensors file"):
        load_weights(preset, "swaptalk/vqgan")
    with pytest.raises(WeightsCorruptError, match="no configuration"):
        load_config(preset, "swaptalk/vqgan")


def test_a_file_on_no_list_is_refused(root: Path) -> None:
    folder = make_compact(root)
    save_file({"w": torch.zeros(1)}, folder / "stray.safetensors")
    with pytest.raises(WeightsCorruptError, match="not listed"):
        load_weights(find_preset("compact", requirements=NEEDS), "stray")


def test_missing_weights_name_what_is_missing(root: Path) -> None:
    with pytest.raises(WeightsMissingError, match="compact lacks faces/detector.safetensors"):
        resolve_auto(NEEDS)
    folder = make_compact(root)
    (folder / "swaptalk/vqgan.json").unlink()
    with pytest.raises(WeightsMissingError, match=re.escape("vqgan.json missing")):
        find_preset("compact", requirements=NEEDS)
    assert not preset_state("compact", NEEDS["compact"]).complete
    write_manifest(folder)  # a manifest that lists less does not make the set complete
    with pytest.raises(WeightsMissingError, match=re.escape("vqgan.json missing")):
        find_preset("compact", requirements=NEEDS)


def test_unknown_preset(root: Path) -> None:
    with pytest.raises(UsageError, match="no preset 'huge'"):
        find_preset("huge")


def test_auto_takes_compact_and_says_what_paper_lacks(root: Path) -> None:
    paper = replace(NEEDS["paper"], packages=("json",))
    make_compact(root)
    resolution = resolve_auto({**NEEDS, "paper": paper})
    assert resolution.preset.name == "compact"
    assert "paper lacks faces/identity.safetensors" in resolution.reason and "and 8 more" in resolution.reason
    files = [file for entry in read_catalogue() if entry.name in paper.downloads for file in entry.results]
    for file in (*files, *(network + ending for network in paper.networks for ending in (".safetensors", ".json"))):
        path = root / "paper" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    assert preset_state("paper", paper).complete
    resolution = resolve_auto({**NEEDS, "paper": replace(paper, packages=("json", "no_such_package"))})
    assert resolution.preset.name == "compact"
    assert resolution.reason.endswith("; paper lacks the package no_such_package")
    assert resolve_auto({**NEEDS, "paper": paper}).preset.name == "paper"
    assert find_preset("paper", requirements=NEEDS).analyser == "insightface"


def test_roots_are_asked_in_the_documented_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TALKSWAP_WEIGHTS", str(tmp_path / "mine"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    roots = weight_roots()
    assert roots[0] == (tmp_path / "mine", "TALKSWAP_WEIGHTS")
    assert roots[-1] == (tmp_path / "cache" / "talkswap" / "weights", "the user's cache")


def test_the_manifest_leaves_the_training_run_out(root: Path) -> None:
    folder = make_compact(root)
    for place in (folder / "runs", folder / "swaptalk" / "runs" / "vqgan"):
        place.mkdir(parents=True)
        (place / "scores.json").write_text("{}")
    assert not [file for file in write_manifest(folder) if "scores" in file]


def test_manifest_of_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissingError):
        write_manifest(tmp_path)


def test_our_catalogue_is_pinned() -> None:
    entries = read_catalogue()
    names = [entry.name for entry in entries]
    assert len(names) == len(set(names))
    for entry in entries:
        assert entry.licence and entry.needed_by
        if entry.source is None:
            assert entry.made_by and entry.made_by.startswith("talkswap train ")
        else:
            # nobody states the sha256 of these; `talkswap download` asks for it, or to be trusted on first use
            unknown = ("wav2lip_96", "wav2vec2-config", "wav2vec2-preprocessor")
            assert entry.name in unknown or entry.size and entry.sha256 and re.fullmatch("[0-9a-f]{64}", entry.sha256)
        assert entry.repository is None or re.fullmatch("[0-9a-f]{40}", entry.commit or "")
        assert entry.url is None or entry.url.startswith("https://")
        for member in entry.members:
            assert re.fullmatch("[0-9a-f]{64}", member.record.sha256)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('repository = "a/b"\ncommit = "main"\npath = "x"', "40-digit commit"),
        ('url = "https://x/y"\nsha256 = "abc"', "no sha256"),
        ("", "source or a command"),
        ('url = "https://x/y"\ncolour = "red"', "well formed"),
    ],
)
def test_a_catalogue_without_real_pins_is_refused(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "manifest.toml"
    path.write_text(
        '[[file]]\nname = "n"\npreset = "paper"\nfile = "f"\nlicence = "MIT"\nnon_commercial = false\n'
        f'needed_by = ["render"]\n{line}\n'
    )
    with pytest.raises(WeightsCorruptError, match=said):
        read_catalogue(path)


def test_a_manifest_that_is_not_toml(tmp_path: Path) -> None:
    path = tmp_path / "manifest.toml"
    path.write_text("[[file")
    with pytest.raises(WeightsCorruptError, match="not a manifest"):
        read_catalogue(path)


@pytest.mark.parametrize(
    "name", ["", "..", "../x", "a/../../x", "/etc/passwd", "\\x", "C:\\x", "..\\x", "a\\..\\..\\x"]
)
def test_names_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsCorruptError, match="leads out"):
        inside(tmp_path, name)


def test_a_link_cannot_lead_out(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "link").symlink_to(tmp_path)
    with pytest.raises(WeightsCorruptError, match="leads out"):
        inside(tmp_path / "weights", "link/x")


@given(st.text(st.sampled_from("./\\ab:"), max_size=12))
def test_whatever_inside_accepts_is_inside(name: str) -> None:
    folder = Path("/somewhere/weights")
    try:
        path = inside(folder, name)
    except WeightsCorruptError:
        return
    assert path.resolve().is_relative_to(folder)


def test_a_hostile_manifest_cannot_reach_other_files(root: Path) -> None:
    folder = make_compact(root)
    text = (folder / "manifest.toml").read_text().replace("swaptalk/vqgan.json", "../../secret.json")
    (folder / "manifest.toml").write_text(text)
    with pytest.raises(WeightsCorruptError, match="leads out"):
        preset_state("compact", NEEDS["compact"])


def test_a_preset_is_verified_before_it_is_handed_out(root: Path) -> None:
    folder = make_compact(root)
    assert find_preset("compact", requirements=NEEDS).analyser == "compact"
    os.truncate(folder / "swaptalk/vqgan.safetensors", 9)
    for name in ("compact", "auto"):
        with pytest.raises(WeightsCorruptError, match="is damaged"):
            find_preset(name, requirements=NEEDS)
    assert preset_state(
        "compact", NEEDS["compact"]
    ).complete  # nothing is missing: `talkswap doctor` can still say where it looked


def add_own_network(root: Path, name: str = "swaptalk/vqgan") -> tuple[Path, Path]:
    """A whole set in the user's cache, and one network of the user's own below TALKSWAP_WEIGHTS."""
    shipped = make_compact(root.parent / "cache" / "talkswap" / "weights")
    own = root / "compact"
    (own / name).parent.mkdir(parents=True)
    save_file({"w": torch.ones(2)}, own / f"{name}.safetensors")
    (own / f"{name}.json").write_text("{}")
    write_manifest(own)
    return own, shipped


def test_one_own_network_does_not_hide_the_others(root: Path) -> None:
    own, shipped = add_own_network(root)
    preset = find_preset("compact", requirements=NEEDS)
    assert preset.folders == (own, shipped) and preset.origins == ("TALKSWAP_WEIGHTS", "the user's cache")
    assert torch.equal(load_weights(preset, "swaptalk/vqgan")["w"], torch.ones(2))
    assert verified_folder(preset, ["swaptalk/vqgan.safetensors", "swaptalk/vqgan.json"]) == own / "swaptalk"
    assert verified_folder(preset, ["faces/detector.safetensors", "faces/detector.json"]) == shipped / "faces"
    stated = weight_hashes(preset)
    assert stated["swaptalk/vqgan.safetensors"] == file_sha256(own / "swaptalk/vqgan.safetensors")
    assert stated["faces/detector.safetensors"] == file_sha256(shipped / "faces/detector.safetensors")
    assert resolve_auto(NEEDS).reason.startswith("complete in TALKSWAP_WEIGHTS and the user's cache; ")


def test_the_set_is_complete_when_its_folders_are_together(root: Path) -> None:
    _, shipped = add_own_network(root)
    for ending in ("safetensors", "json"):
        (shipped / f"swaptalk/vqgan.{ending}").unlink()
        assert preset_state("compact", NEEDS["compact"]).complete
    (shipped / "faces/detector.json").unlink()
    assert preset_state("compact", NEEDS["compact"]).missing == ("faces/detector.json",)


def test_a_damaged_network_in_any_folder_is_refused(root: Path) -> None:
    _, shipped = add_own_network(root)
    (shipped / "faces/landmarks.json").write_text("{}")
    with pytest.raises(WeightsCorruptError, match="landmarks.json is damaged"):
        verified_folder(
            preset_state("compact", NEEDS["compact"]), ["faces/landmarks.safetensors", "faces/landmarks.json"]
        )


def test_an_own_network_on_no_list_is_refused_and_not_passed_over(root: Path) -> None:
    own, _ = add_own_network(root)
    (own / "manifest.toml").unlink()
    with pytest.raises(WeightsCorruptError, match="not listed"):
        find_preset("compact", requirements=NEEDS)


def test_tensors_and_configuration_of_different_folders_are_not_mixed(root: Path) -> None:
    own, _ = add_own_network(root)
    (own / "swaptalk/vqgan.json").unlink()
    with pytest.raises(WeightsCorruptError, match="lie apart"):
        verified_folder(
            preset_state("compact", NEEDS["compact"]), ["swaptalk/vqgan.safetensors", "swaptalk/vqgan.json"]
        )


def test_a_root_that_is_named_twice_counts_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_compact(root)
    monkeypatch.setattr("talkswap.checkpoints.manifest.checkout_weights", lambda: root)
    assert preset_state("compact", NEEDS["compact"]).folders == (folder,)


def test_absent_packages_are_looked_for_and_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "blocked", None)
    sys.modules.pop("this", None)
    assert absent_packages(Requirements(packages=("no_such_package", "this", "blocked"))) == (
        "no_such_package",
        "blocked",
    )
    assert "this" not in sys.modules
    assert absent_packages(NEEDS["compact"]) == ()


def test_the_analyser_is_found_over_all_folders_and_verified(root: Path) -> None:
    from talkswap.faces.analyse import load_analyser

    shipped = ROOT / "weights" / "compact"
    apart = {"detector": root, "landmarks": root.parent / "cache" / "talkswap" / "weights"}
    apart["identity"] = apart["landmarks"]
    for network, place in apart.items():
        (place / "compact" / "faces").mkdir(parents=True, exist_ok=True)
        for ending in ("safetensors", "json"):
            shutil.copy(shipped / f"faces/{network}.{ending}", place / "compact" / "faces")
        write_manifest(place / "compact")
    assert load_analyser("compact", preset_state("compact", NEEDS["compact"])).name == "compact"
    path = root / "compact" / "faces/detector.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsCorruptError, match="detector.safetensors is damaged"):
        load_analyser("compact", preset_state("compact", NEEDS["compact"]))
    path.unlink()
    with pytest.raises(WeightsMissingError, match="no faces/detector.safetensors"):
        load_analyser("compact", preset_state("compact", NEEDS["compact"]))


def test_insightface_is_looked_for_where_the_catalogue_puts_it(root: Path) -> None:
    from talkswap.faces.analyse import BUFFALO, load_analyser
    from talkswap.faces.insightface import DETECTOR, LANDMARKS, RECOGNITION

    listed = {file for entry in read_catalogue() for file in entry.results}
    assert {f"{BUFFALO}/{file}" for file in (DETECTOR, LANDMARKS, RECOGNITION)} <= listed
    folder = root / "paper" / BUFFALO
    folder.mkdir(parents=True)
    for file in (DETECTOR, LANDMARKS, RECOGNITION):
        (folder / file).write_bytes(b"no network")
    with pytest.raises(WeightsCorruptError, match="not listed"):
        load_analyser("insightface", preset_state("paper"))
    write_manifest(root / "paper")
    with pytest.raises(WeightsCorruptError, match="cannot be read as an onnx network"):
        load_analyser("insightface", preset_state("paper"))
