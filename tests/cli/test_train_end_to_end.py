"""Every stage through the real commands: data from the examples, a run that is stopped and resumed, and a dubbed clip."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from talkswap.faces.detector import load_detector
from talkswap.faces.landmarks import load_landmarks
from talkswap.media.sound import load_voice

from .training_workshop import EXAMPLES, STEPS, Workshop, command, example_pictures, write_video

EXPORTS = {
    "landmarks": "landmarks", "detector": "detector", "identity": "identity", "vqgan": "vqgan",
    "face-swap": "face_swap", "speech-encoder": "speech_encoder", "sync-expert": "sync_expert",
    "lip-sync": "lip_sync", "joint": "lip_sync",
}  # fmt: skip


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"))


def test_the_examples_become_a_data_set(workshop: Workshop) -> None:
    assert workshop.prepared.code == 0, workshop.prepared.err
    counts = json.loads(workshop.prepared.out)["counts"]
    assert (counts["clips-train"], counts["clips-val"]) == (2, 2)
    assert counts["frames-train"] == 2 * counts["portraits-train"] * 9 // 2 == 18


@pytest.mark.parametrize("name", EXPORTS)
def test_a_stage_is_stopped_resumed_and_exported(workshop: Workshop, name: str) -> None:
    first, rest = workshop.trained(name)
    assert first.code == 0, first.err
    assert f"stopped at step 1 of {STEPS}" in first.err and json.loads(first.out) == {}
    assert rest.code == 0, rest.err
    assert f"going on at step 1 of {STEPS}" in rest.err
    scores = json.loads(rest.out)
    assert json.loads((workshop.run(name) / "scores.json").read_text()) == pytest.approx(scores, rel=1e-4, nan_ok=True)
    rows = [json.loads(line) for line in (workshop.run(name) / "curve.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, STEPS + 1))
    for file in (f"export/{EXPORTS[name]}.safetensors", f"export/{EXPORTS[name]}.json", "sample.png", "curve.png"):
        assert (workshop.run(name) / file).stat().st_size > 50, file


def test_every_frame_has_its_own_upper_half_for_the_warp(workshop: Workshop) -> None:
    for file in workshop.encoded().glob("talking-*/*.npz"):
        with np.load(file) as stored:
            assert len(stored["upper"]) == len(stored["lower"]) == len(stored["frames"]) > 40


def test_the_expert_s_curve_has_its_chance_level(workshop: Workshop) -> None:
    workshop.trained("sync-expert")
    rows = [json.loads(line) for line in (workshop.run("sync-expert") / "curve.jsonl").read_text().splitlines()]
    assert all(row["chance"] == pytest.approx(0.25, abs=1e-4) for row in rows if "loss" in row)
    assert "chance=0.25" in workshop.done["sync-expert"][1].err


def test_the_face_networks_load(workshop: Workshop) -> None:
    assert load_landmarks(workshop.export("landmarks")).config.size == 64
    assert load_detector(workshop.export("detector")).config.widths == (8, 12, 16)


def test_what_was_trained_dubs_a_clip(workshop: Workshop, tmp_path: Path) -> None:
    """The detector and the landmarks are the published ones: after three steps none finds a face."""
    runs = [str(workshop.run(name)) for name in ("identity", "face-swap", "joint") if workshop.trained(name)]
    preset, output = tmp_path / "preset", tmp_path / "dubbed.mp4"
    base = str(EXAMPLES.parent / "weights" / "compact")
    packed = command("weights", "pack", *runs, "--out", str(preset), "--base", base)
    assert packed.code == 0, packed.err
    assert command("weights", "check", str(preset)).code == 0
    for name in ("vqgan", "lip_sync"):
        ours, stored = (load_file(f / f"{name}.safetensors") for f in (workshop.export("joint"), preset / "swaptalk"))
        assert ours.keys() == stored.keys() and all(torch.equal(ours[k].half(), stored[k].half()) for k in ours)
    pictures = example_pictures(6)
    target = write_video(tmp_path / "target.mp4", pictures, load_voice(EXAMPLES / "target.mp4").samples)
    made = command(
        "render", "--source", str(EXAMPLES / "source.png"), "--target", str(target), "--audio",
        str(EXAMPLES / "voice.wav"), "--output", str(output), "--weights", str(preset), "--device", "cpu",
        "--report", str(tmp_path / "report.json"),
    )  # fmt: skip
    assert made.code == 0, made.err
    with av.open(str(output)) as container:
        shown = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    assert len(shown) == 6
    changed = np.abs(shown[3] - pictures[3]).mean(2)
    assert changed.max() > 60, "a network of three steps draws no face"
    assert np.median(changed) < 6, "around the face the clip is the target's"
    assert json.loads((tmp_path / "report.json").read_text())["frames_out"] == 6
