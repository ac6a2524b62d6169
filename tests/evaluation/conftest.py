"""A small evaluation as `talkswap eval hdtf` leaves it: two settings, a failed pair, a method that did not run, hostile names."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from talkswap.evaluation.metrics.metric import Judge, Metric
from talkswap.evaluation.report.sheets import SheetMaker, write_photo
from talkswap.evaluation.results import (
    ClipFacts,
    ClipRefused,
    Column,
    Evaluation,
    Figure,
    MethodResult,
    PairResult,
    Pictures,
    Provenance,
    SettingResult,
    write_evaluation,
)
from talkswap.evaluation.study.study import Study, StudyConfig, build_study
from talkswap.faces.mesh import mean_face
from talkswap.systems.description import PublishedRow

HOSTILE = "<script>alert('x')</script>"
"""A clip's name that a page must show, and must not run."""

COLUMNS = (
    Column(Metric("ssim", "SSIM", "higher", about="Structure of the lower face")),
    Column(Metric("lmd", "LMD", "lower", unit="px", needs_truth=True)),
    Column(Metric("fid", "FID", "lower", network="inception"), Judge("inception", "compact features", False)),
    Column(Metric("lse_c", "LSE-C", "higher", network="syncnet"), Judge("syncnet", "compact sync expert", False)),
)
PAIRS = (("ann", HOSTILE), ("bob", "cleo"), ("cleo", "ann"))
METHODS = (("ground-truth", "Ground Truth"), ("swaptalk", "SwapTalk"), ("swaptalk-sync-swap", "SwapTalk sync-swap"))


def _pictures(folder: Path, stem: str, pictures: list[np.ndarray], brightness: float) -> tuple[str, str]:
    face = np.asarray(mean_face().points, np.float32)[:, :2]
    face = (face - face.min(0)) / (face.max(0) - face.min(0)) * [130, 160] + [170, 40]
    maker = SheetMaker(len(pictures))
    for number, rgb in enumerate(pictures):
        maker.add(number, (rgb * brightness).astype(np.uint8), face.astype(np.float32))
    faces, mouths = maker.write(folder / "pictures", stem)
    return faces.relative_to(folder).as_posix(), mouths.relative_to(folder).as_posix()


def _method(
    folder: Path, setting: str, place: int, pictures: list[np.ndarray], targets: list[tuple[str, str]], clip: Path
) -> MethodResult:
    key, label = METHODS[place]
    pairs = []
    for number, (source, target) in enumerate(PAIRS):
        pair = PairResult(number, source, target, target if setting == "self" else source)
        if key == "swaptalk-sync-swap" and number == 2:
            pairs.append(replace(pair, error="no face was found in the result"))
            continue
        strips = (
            targets[number]
            if key == "ground-truth"
            else _pictures(folder, f"{setting}-{number}-{key}", pictures, 1 - 0.1 * place)
        )
        video = f"videos/{setting}/{key}/{number}.mp4"
        (folder / video).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(clip, folder / video)
        values = {"ssim": 1 - 0.05 * place - 0.01 * number, "lse_c": 7.5 - place + 0.3 * number}
        missing = {}
        if setting == "self":
            values["lmd"] = 1.0 * place + 0.1 * number
        else:
            missing["lmd"] = "the true frames are not known"
        pairs.append(
            replace(
                pair, values=values, missing=missing, timings={"render": 2.5 + place, "score": 0.75}, video=video,
                pictures=Pictures(*strips, f"pictures/{setting}-{number}-photo.jpg", *targets[number]),
            )
        )  # fmt: skip
    figures = {"fid": Figure(12.5 + place, 5)}
    for metric in ("ssim", "lmd", "lse_c"):
        numbers = [pair.values[metric] for pair in pairs if metric in pair.values]
        if numbers:
            figures[metric] = Figure(float(np.mean(numbers)), len(numbers), float(np.std(numbers)))
    return MethodResult(key, label, pairs=tuple(pairs), figures=figures)


@pytest.fixture(scope="session")
def evaluation_folder(
    tmp_path_factory: pytest.TempPathFactory, example_pictures: list[np.ndarray], write_clip: Callable[..., Path]
) -> tuple[Path, Evaluation]:
    """A report's folder with pictures and finished clips, and the evaluation that names them; nobody may change it."""
    folder = tmp_path_factory.mktemp("evaluation")
    clip = write_clip([picture[:268:2, ::2] for picture in example_pictures[:6]])
    (folder / "pictures").mkdir()
    settings = []
    for setting in ("self", "cross"):
        targets = []
        for number in range(len(PAIRS)):
            targets.append(_pictures(folder, f"{setting}-{number}-target", example_pictures, 1.0))
            write_photo(folder / "pictures" / f"{setting}-{number}-photo.jpg", example_pictures[number], None)
        methods = [_method(folder, setting, place, example_pictures, targets, clip) for place in range(3)]
        methods.append(MethodResult("cascade-swap-sync", "Swap-Sync", not_run="inswapper_128.onnx is missing"))
        settings.append(SettingResult(setting, tuple(methods)))
    published = (
        PublishedRow("SwapTalk", "I", "self", "swaptalk", "SwapTalk", {"ssim": 0.908, "lmd": 1.221, "fid": 11.6}),
        PublishedRow("SwapTalk", "I", "self", "wav2lip", "Wav2Lip", {"fid": 28.5, "lse_c": 9.5}),
    )
    clips = tuple(ClipFacts(name, f"speaker of {name}", 12, 0.48, {f"{name}.mp4": "0" * 64}) for name, _ in PAIRS)
    provenance = Provenance(
        "2026-11-21T15:00:00+00:00", "talkswap eval hdtf --data data --out report", "data", 7, 12, 6, PAIRS, clips,
        (ClipRefused("dan", f"no sound, {HOSTILE}"),), "0123abcd+", {"torch": "2.13.0"}, {"cores": "2"},
        {"vqgan.safetensors": "1" * 64}, {"preset": "compact"}, ("3 pairs of the 12 wanted: 3 clips have a second speaker",),
    )  # fmt: skip
    return folder, Evaluation(
        "hdtf", "HDTF protocol on data", "I", COLUMNS, tuple(settings), published, provenance, 75.0
    )


@pytest.fixture(scope="session")
def study_folder(
    evaluation_folder: tuple[Path, Evaluation], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Study]:
    """A study of one pair of each setting, and what its making said; nobody may change it."""
    folder, evaluation = evaluation_folder
    report = tmp_path_factory.mktemp("study") / "report"
    shutil.copytree(folder, report)
    write_evaluation(report / "report.json", evaluation)
    out = report.parent / "raters"
    return out, build_study(report, out, report.parent / "key.json", StudyConfig(seed=3, pairs=1))
