"""Plain videos to a data set: what is kept, what is refused, and that a kill costs nothing that was finished."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import wave
from contextlib import redirect_stdout
from pathlib import Path

import av
import numpy as np
import pytest

from talkswap.cli import main
from talkswap.data.stills import open_stills
from talkswap.data.talking import open_spoken, smoothed_quads
from talkswap.errors import TrainingDataError
from talkswap.faces.geometry import ffhq_quad, quad_affine, transform_points
from talkswap.voice.mel import log_mel

from .conftest import Prepared


def clips(prepared: Prepared) -> dict[str, dict]:
    return {clip["name"]: clip for clip in prepared.manifest["clips"]}


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file but those that say where the folder lies."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def test_good_clips_are_kept_and_the_rest_is_named_with_its_reason(prepared: Prepared) -> None:
    assert prepared.code == 4  # a file cannot be read; the others are prepared nevertheless
    assert prepared.summary["counts"]["clips"] == 3  # two of ann's 4.16 s, one of bo's 2 s
    assert prepared.summary["refused_by_reason"] == {"copy": 1, "no sound": 1, "unreadable": 1}
    named = {Path(r["source"]).name: r["reason"] for r in prepared.summary["refused"]}
    assert named.pop("silent.mp4") == "no sound" and named.pop("broken.mp4") == "unreadable"
    assert list(named.values()) == ["copy"]
    starts = sorted((clip["speaker"][:2], clip["start"], clip["frames"]) for clip in clips(prepared).values())
    assert len({s[0] for s in starts}) == 2 and sorted(s[1:] for s in starts) == [(0.0, 50), (0.0, 50), (2.0, 50)]


def test_nobody_is_on_both_sides(prepared: Prepared) -> None:
    sides = {
        split: {c["speaker"] for c in clips(prepared).values() if c["split"] == split} for split in ("train", "val")
    }
    assert len(sides["train"]) == len(sides["val"]) == 1 and not sides["train"] & sides["val"]
    for name, clip in clips(prepared).items():
        assert (prepared.out / f"clips-{clip['split']}" / f"{name}.npz").is_file()


def test_the_region_s_video_runs_at_exactly_25_and_shows_the_face_where_the_labels_say(prepared: Prepared) -> None:
    for name, clip in clips(prepared).items():
        with av.open(str(prepared.out / "videos" / f"{name}.mp4")) as container:
            stream = container.streams.video[0]
            assert stream.average_rate == 25 and not container.streams.audio
            frames = [
                (frame.pts * stream.time_base, frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)
            ]
        assert [time * 25 for time, _ in frames] == list(range(50))
        height, width = frames[0][1].shape[:2]
        assert width % 2 == height % 2 == 0 and width < 300
        with np.load(prepared.out / f"clips-{clip['split']}" / f"{name}.npz") as stored:
            landmarks, affines, times = stored["landmarks"], stored["affines"], stored["times"]
        assert times.tolist() == [k / 25 for k in range(50)]
        centre, half = ffhq_quad(landmarks[20])
        corners = [centre + a * half + b * np.array([-half[1], half[0]]) for a in (-1, 1) for b in (-1, 1)]
        assert np.min(corners) > -12  # the square lies in the region, but for a picture's edge
        centres, sides = smoothed_quads(landmarks)
        wanted = quad_affine(centres[20], sides[20], 512)
        assert np.allclose(affines[20], wanted, atol=1e-3)
        eyes = transform_points(affines[20], landmarks[20])[[33, 263]]
        assert 150 < eyes[0, 0] < 230 and 280 < eyes[1, 0] < 370 and np.abs(eyes[:, 1] - 245).max() < 40
        # lips are red: at the mouth red stands out more than on the cheeks
        picture = frames[20][1].astype(int)
        redness = picture[..., 0] - picture[..., 1]
        lip, cheek = (
            np.round(landmarks[20][list(rows), :2].mean(0)).astype(int) for rows in ((17, 84, 314), (50, 280))
        )
        assert redness[lip[1], lip[0]] > redness[cheek[1], cheek[0]] - 25


def test_voice_mel_and_wav_are_one_sound_on_the_pictures_clock(prepared: Prepared, example_sound: np.ndarray) -> None:
    name, clip = next((n, c) for n, c in clips(prepared).items() if c["start"] == 2.0)
    with np.load(prepared.out / f"clips-{clip['split']}" / f"{name}.npz") as stored:
        voice = stored["voice"]
    assert len(voice) == 32000 and voice.dtype == np.float32
    source = example_sound[32000:64000]
    assert np.corrcoef(voice, source)[0, 1] > 0.95  # AAC once more, and no shift
    assert np.array_equal(np.load(prepared.out / "features" / "mel" / f"{name}.npy"), log_mel(voice))
    with wave.open(str(prepared.out / "voices" / f"{name}.wav")) as file:
        assert (file.getframerate(), file.getnchannels()) == (16000, 1)
        stored_wav = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32767
    assert np.abs(stored_wav - voice).max() < 1e-4


def test_lips_that_follow_are_measured(prepared: Prepared) -> None:
    assert all(clip["correlation"] > 0.4 and clip["refused"] is None for clip in clips(prepared).values())
    assert all(80 < clip["quad_px"] < 250 for clip in clips(prepared).values())


def test_the_stages_open_what_was_made(prepared: Prepared) -> None:
    for split in ("train", "val"):
        spoken = open_spoken(prepared.out, split, prepared.out / "videos")
        assert all(clip.seen.sum() > 45 and clip.correlation > 0.4 and clip.kind == "real" for clip in spoken)
        frames, portraits = (open_stills(prepared.out / f"{kind}-{split}") for kind in ("frames", "portraits"))
        assert len(portraits) == len(spoken) and len(frames) == 5 * len(spoken)  # every twelfth of 50
        assert frames.crops.shape[1:] == (320, 320, 3)
        assert [row["frame"] for row in frames.meta[:5]] == [0, 12, 24, 36, 48]
        assert {row["identity"] for row in frames.meta} == {row["identity"] for row in portraits.meta}
        eyes = frames.landmarks[:, [33, 263], 0]
        assert (eyes[:, 0] > 80).all() and (eyes[:, 1] < 240).all()


def test_the_manifest_s_hashes_are_those_of_the_files(prepared: Prepared) -> None:
    manifest = prepared.manifest
    stated = {**manifest["files"], **{k: v for clip in manifest["clips"] for k, v in clip["files"].items()}}
    there = contents(prepared.out)
    assert {path: there[path] for path in stated} == stated
    unstated = {path for path in set(there) - set(stated) if not path.startswith("records/")}
    assert {Path(path).name for path in unstated} == {"manifest.json", "made.json"}
    source = next(s for s in manifest["sources"] if s["clips"] == 2)
    assert source["sha256"] == hashlib.sha256(Path(source["path"]).read_bytes()).hexdigest()
    assert manifest["versions"]["talkswap"] and manifest["settings"]["seed"] == 3


def test_killed_with_minus_nine_it_goes_on_with_what_is_missing(prepared: Prepared, tmp_path: Path) -> None:
    out = tmp_path / "set"
    command = [sys.executable, "-m", "talkswap", *prepared.arguments, "--workers", "2", "--out", str(out)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not (done := list((out / "records").glob("*.json"))):
        assert child.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    done = list((out / "records").glob("*.json"))
    assert done and not (out / "manifest.json").exists()
    time.sleep(0.5)  # the workers notice within a fifth of a second
    done = list((out / "records").glob("*.json"))
    kept = [out / file for record in done for file in json.loads(record.read_text())["files"]]
    before = {path: path.stat().st_mtime_ns for path in (*done, *kept)}
    (out / "videos" / "x.1.part.mp4").write_bytes(b"half a clip")
    with redirect_stdout(io.StringIO()):
        assert main([*prepared.arguments, "--workers", "1", "--out", str(out)]) == 4
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert contents(out) == contents(prepared.out)


def test_a_second_run_does_nothing_and_other_settings_want_another_folder(
    prepared: Prepared, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in prepared.out.rglob("*.np[yz]")}
    assert main([*prepared.arguments, "--workers", "1", "--out", str(prepared.out)]) == 4
    assert {path: path.stat().st_mtime_ns for path in prepared.out.rglob("*.np[yz]")} == before
    capsys.readouterr()
    changed = [*prepared.arguments, "--least-correlation", "0.4", "--workers", "1", "--out", str(prepared.out)]
    assert main(changed) == TrainingDataError.exit_code
    assert "other settings (clip)" in capsys.readouterr().err
