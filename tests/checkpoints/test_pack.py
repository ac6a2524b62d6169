"""From run folders to a preset folder."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from talkswap.checkpoints.card import card_licence, front_matter, read_run, without_places
from talkswap.checkpoints.manifest import read_about, read_records
from talkswap.checkpoints.networks import tensor_files
from talkswap.checkpoints.pack import pack_preset
from talkswap.checkpoints.preset_folder import load_config, load_weights
from talkswap.checkpoints.presets import find_preset
from talkswap.errors import InputMissingError, OutputExistsError, UsageError, WeightsCorruptError, WeightsMissingError
from talkswap.systems import registry

from .conftest import pack_config

COMPACT = Path(__file__).parents[2] / "weights" / "compact"
NETWORKS = {network.name: network for network in registry.networks("swaptalk").values()}
NEEDED = registry.requirements()["compact"].networks


def everything(runs: dict[str, Path]) -> list[Path]:
    return list(runs.values())


def test_runs_become_a_preset_that_loads(runs: dict[str, Path], packed: Path) -> None:
    preset = find_preset("auto", packed)
    assert preset.name == "compact" and preset.complete
    assert read_about(packed) == {"name": "small", "preset": "compact", "licence": "Apache-2.0"}
    for network, run in runs.items():
        tensors = load_file(run / "export" / f"{network}.safetensors")
        stored = load_weights(preset, NETWORKS[network].path)
        assert stored.keys() == tensors.keys()
        assert all(torch.equal(stored[name], tensors[name]) for name in tensors)
        assert load_config(preset, NETWORKS[network].path) == json.loads(
            (run / "export" / f"{network}.json").read_text()
        )
    assert len(tensor_files(packed, "swaptalk/vqgan")) > 1
    assert all(path.stat().st_size <= 1_500_000 for path in packed.rglob("*") if path.is_file())


def test_the_records_travel_without_the_places_of_this_machine(packed: Path) -> None:
    stages = {path.relative_to(packed).as_posix() for path in packed.glob("*/runs/*")}
    faces, own = ("detector", "landmarks", "identity"), ("vqgan", "face-swap", "lip-sync")
    assert stages == {f"faces/runs/{stage}" for stage in faces} | {f"swaptalk/runs/{stage}" for stage in own}
    for stage in stages:
        held = {path.name for path in (packed / stage).iterdir()}
        assert held == {"config.json", "curve.jsonl", "curve.png", "scores.json", "clips.json"}
    config = json.loads((packed / "swaptalk/runs/vqgan/config.json").read_text())
    assert config["config"]["data"] == "prepared" and config["loop"]["seed"] == 3
    assert not any("somebody" in path.read_text(errors="ignore") for path in packed.rglob("*") if path.is_file())
    assert not any("runs/" in file for file in read_records(packed))


def test_the_card_says_what_the_runs_say(packed: Path) -> None:
    card = (packed / "README.md").read_text()
    assert card_licence(card) == "apache-2.0"
    assert "| [`lip-sync`](swaptalk/runs/lip-sync) | 200 of 4 | 12 | cpu, bf16 | 3 |" in card
    assert "| `lip-sync` | pearson | 0.4321 |" in card and "| `vqgan` | deep.psnr | 29.8 |" in card
    assert "| ok |" not in card  # not a number
    for network in NEEDED:
        assert re.search(rf"^\| `{network}` \| \d\.\d M \| fp16, \d\.\d MB \| `talkswap train ", card, re.MULTILINE)
    for link in re.findall(r"\]\(([^)]+)\)", card):
        assert (packed / link).exists(), link


def test_precisions(runs: dict[str, Path], tmp_path: Path) -> None:
    kinds: dict[str, dict[str, set[torch.dtype]]] = {}
    for precision in ("fp16", "int8", "float32"):
        out = tmp_path / precision
        pack_preset(everything(runs), out, pack_config(precision=precision))
        kinds[precision] = {
            n: {t.dtype for t in load_file(out / f"{NETWORKS[n].path}.safetensors").values() if t.dtype != torch.int64}
            for n in runs
        }
        find_preset("auto", out)
    assert all(found == {torch.float16} for found in kinds["fp16"].values())
    assert all(found == {torch.float32} for found in kinds["float32"].values())
    for network, found in kinds["int8"].items():
        assert (torch.int8 in found) != NETWORKS[network].exact, network
    exact = load_file(runs["vqgan"] / "export" / "vqgan-float32.safetensors")
    stored = load_weights(find_preset("auto", tmp_path / "float32"), "swaptalk/vqgan")
    assert all(torch.equal(stored[name], exact[name]) for name in exact)  # not the half beside it
    eight = load_weights(find_preset("auto", tmp_path / "int8"), "swaptalk/vqgan")
    for name, value in exact.items():
        assert (eight[name].float() - value).abs().max() <= value.abs().max() / 200 + 1e-6, name


def test_missing_networks_are_named_and_a_base_fills_them(runs: dict[str, Path], packed: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    with pytest.raises(
        WeightsMissingError, match="needs faces/detector, faces/landmarks, faces/identity, swaptalk/face_swap as"
    ) as caught:
        pack_preset([runs["vqgan"], runs["lip_sync"]], out, pack_config())
    assert "--base" in caught.value.hint and not out.exists()
    config = pack_config(
        name="My set", base=packed, licence="Research use only", hardware="one H200", notes="Soft teeth."
    )
    done = pack_preset([runs["vqgan"], runs["lip_sync"]], out, config)
    assert set(done.networks) == set(NEEDED)
    preset = find_preset("auto", out)
    for network in runs:
        path = NETWORKS[network].path
        mine, theirs = load_weights(preset, path), load_weights(find_preset("auto", packed), path)
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    card = (out / "README.md").read_text()
    assert card_licence(card) == "research-use-only" and "# My set" in card
    assert "Networks whose origin is small were taken from it unchanged under its licence, apache-2.0." in card
    assert re.search(r"`faces/identity` \| \d\.\d M \| fp16, \d\.\d MB \| small \|", card)
    assert "| one H200 | 3 |" in card and "Soft teeth." in card
    assert (out / "faces/runs/identity/curve.png").is_file() and (out / "swaptalk/runs/vqgan/curve.png").is_file()


def test_a_base_in_larger_files_is_split(packed: Path, runs: dict[str, Path], tmp_path: Path) -> None:
    pack_preset(everything(runs), tmp_path / "whole", pack_config(precision="int8"))
    assert len(tensor_files(tmp_path / "whole", "swaptalk/vqgan")) == 1
    pack_preset([runs["detector"]], tmp_path / "split", pack_config(base=tmp_path / "whole", largest_mb=0.7))
    assert len(tensor_files(tmp_path / "split", "swaptalk/vqgan")) > 1
    before, after = (
        load_weights(find_preset("auto", tmp_path / name), "swaptalk/vqgan") for name in ("whole", "split")
    )
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "| int8, " in (tmp_path / "split" / "README.md").read_text()


def test_our_own_compact_weights_can_be_the_base(tmp_path: Path, runs: dict[str, Path]) -> None:
    done = pack_preset([runs["detector"]], tmp_path / "out", pack_config(base=COMPACT))
    assert set(done.networks) >= set(NEEDED)
    shipped = read_records(COMPACT)["swaptalk/vqgan.safetensors"]
    assert done.records["swaptalk/vqgan.safetensors"] == shipped
    assert card_licence((tmp_path / "out" / "README.md").read_text()) is None  # nobody named one


def test_a_damaged_base_is_refused(preset: Path, runs: dict[str, Path], tmp_path: Path) -> None:
    (preset / "faces" / "identity.json").write_text("{}")
    with pytest.raises(WeightsCorruptError, match="identity.json is damaged"):
        pack_preset([runs["vqgan"]], tmp_path / "out", pack_config(base=preset))
    assert not (tmp_path / "out").exists()


def test_nothing_is_replaced_without_a_word(runs: dict[str, Path], preset: Path, tmp_path: Path) -> None:
    before = (preset / "README.md").read_bytes()
    with pytest.raises(OutputExistsError, match="exists already"):
        pack_preset(everything(runs), preset, pack_config())
    assert (preset / "README.md").read_bytes() == before
    (preset / "stale.txt").write_text("old")
    pack_preset(everything(runs), preset, pack_config(overwrite=True))
    assert not (preset / "stale.txt").exists() and find_preset("auto", preset).complete
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("all of it")
    with pytest.raises(OutputExistsError, match="no preset folder"):
        pack_preset(everything(runs), home, pack_config(overwrite=True))
    assert (home / "thesis.txt").read_text() == "all of it"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "preset"]  # no temporary folder is left
    with pytest.raises(UsageError, match="--base and --out at once"):
        pack_preset(everything(runs), preset, pack_config(base=preset, overwrite=True))


@pytest.fixture
def run(runs: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a run to spoil."""
    return Path(shutil.copytree(runs["identity"], tmp_path / "run"))


def test_runs_that_are_not_finished(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match="there is no run folder"):
        read_run(tmp_path / "nowhere", NETWORKS.values())
    (run / "export" / "identity.json").unlink()
    with pytest.raises(WeightsMissingError, match="without identity.json"):
        read_run(run, NETWORKS.values())
    shutil.rmtree(run / "export")
    with pytest.raises(WeightsMissingError, match="no weights in export/"):
        read_run(run, NETWORKS.values())


def test_a_run_of_something_else(run: Path) -> None:
    (run / "export" / "identity.safetensors").rename(run / "export" / "teapot.safetensors")
    with pytest.raises(UsageError, match="holds teapot, which no network of this system is called"):
        read_run(run, NETWORKS.values())


def test_weights_that_do_not_fit_their_configuration(run: Path, packed: Path, tmp_path: Path) -> None:
    settings = run / "export" / "identity.json"
    stated = json.loads(settings.read_text())
    for changed, said in (({"dimension": 25}, "do not fit"), ({"teapot": 1}, "no field teapot")):
        settings.write_text(json.dumps(stated | changed))
        with pytest.raises(WeightsCorruptError, match=said):
            pack_preset([run], tmp_path / "out", pack_config(base=packed))


def test_numbers_that_are_not_finite_are_refused(run: Path, packed: Path, tmp_path: Path) -> None:
    path = run / "export" / "identity.safetensors"
    state = {name: value.float() for name, value in load_file(path).items()}
    state["head.weight"][0, 0] = 1e6  # too large for half precision
    save_file(state, path)
    with pytest.raises(WeightsCorruptError, match=r"head\.weight.*fp16"):
        pack_preset([run], tmp_path / "out", pack_config(base=packed))
    pack_preset([run], tmp_path / "out", pack_config(base=packed, precision="float32"))


def test_two_runs_of_the_same_network(run: Path, runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="both hold identity"):
        pack_preset([run, *everything(runs)], tmp_path / "out", pack_config())


def test_runs_that_others_started_from_leave_their_records(runs: dict[str, Path], packed: Path, tmp_path: Path) -> None:
    first = Path(shutil.copytree(runs["vqgan"], tmp_path / "half-size"))
    config = pack_config(base=packed, earlier=(first, runs["identity"]))
    pack_preset([runs["vqgan"]], tmp_path / "out", config)
    assert {"vqgan", "vqgan-half-size", "identity"} <= {path.name for path in (tmp_path / "out").glob("*/runs/*")}
    assert "](swaptalk/runs/vqgan-half-size)" in (tmp_path / "out" / "README.md").read_text()
    again = Path(shutil.copytree(first, tmp_path / "other" / "half-size"))
    with pytest.raises(UsageError, match="records in swaptalk/runs/vqgan-half-size"):
        pack_preset([runs["vqgan"]], tmp_path / "more", pack_config(base=packed, earlier=(first, again)))


def test_a_file_that_cannot_be_made_small_enough(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="alone takes"):
        pack_preset(everything(runs), tmp_path / "out", pack_config(largest_mb=0.001))
    assert not (tmp_path / "out").exists()


def test_a_lip_sync_that_hears_hubert_makes_a_paper_preset(runs: dict[str, Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs["lip_sync"], tmp_path / "run"))
    settings = run / "export" / "lip_sync.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"speech": "hubert"}))
    with pytest.raises(
        WeightsMissingError, match="a paper preset needs faces/identity, swaptalk/vqgan, swaptalk/face_swap as"
    ):
        pack_preset([run], tmp_path / "out", pack_config())


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("/home/ann/data", "data"),
        ("~/data", "data"),
        ("C:\\Users\\ann\\data", "data"),
        ({"a": ["/x/y", 1]}, {"a": ["y", 1]}),
        ("runs/vqgan", "runs/vqgan"),
        ("1/2", "1/2"),
        (None, None),
    ],
)
def test_places_are_left_out(value: object, kept: object) -> None:
    assert without_places(value) == kept


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: mit\n---\n# x", "mit"),
        ('---\r\nlicense: "mit"\r\n---\r\n', "mit"),
        ("---\nlicense: other\nlicense_name: mine-only\n---\n", "mine-only"),
        ("---\nlicense: other\n---\n", None),
        ("---\nlicense:\ntags: [a]\n---\n", None),
        ("---\nlicense: unknown\n---\n", None),
        ("license: mit\n", None),
        ("---\ntags: []\n---\nlicense: mit\n", None),
        ("# Card\n---\nlicense: mit\n---\n", None),
    ],
)
def test_the_licence_of_a_card(text: str, licence: str | None) -> None:
    assert card_licence(text) == licence


def test_front_matter_is_yaml() -> None:
    import yaml

    for name in ("plain", 'with "quotes": and # marks', "öäü 映画"):
        for licence in ("Apache-2.0", "Research use only", None):
            said = yaml.safe_load("\n".join(front_matter(name, licence, "compact")))
            assert said["model_name"] == name and "talkswap" in said["tags"]
            assert card_licence("---\n" + "\n".join(front_matter(name, licence, "compact")) + "\n---\n") == (
                said.get("license_name") or said.get("license")
            )
