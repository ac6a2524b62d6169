"""A data set made from the examples by ``talkswap data``, and tiny runs of every stage by ``talkswap train`` on it.

Stages are trained when something first asks for them, each with the ones before it that it needs.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from safetensors.torch import save_file

from talkswap.cli import main
from talkswap.media.sound import load_voice
from talkswap.train.losses import LEVELS

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS = 3
RATE = 25
IDENTITY = 24  # numbers of an identity vector
LIPS = (
    "network.code_width=16", "network.widths=[16,16,16,16]", "network.blocks=[1,1,1,1]", "network.heads=2",
    "network.encoder_width=16", "network.dilations=[1,2]", "network.window=33", "network.warp_width=8",
)  # fmt: skip


@dataclass(frozen=True)
class Said:
    """How one command ended."""

    code: int
    out: str
    err: str


def command(*arguments: str) -> Said:
    """The command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(list(arguments))
    return Said(code, out.getvalue(), err.getvalue())


def process(*arguments: str) -> Said:
    """The command as a user starts it."""
    done = subprocess.run(
        [sys.executable, "-m", "talkswap", *arguments], capture_output=True, text=True, timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=EXAMPLES.parent,
    )  # fmt: skip
    return Said(done.returncode, done.stdout, done.stderr)


def example_pictures(count: int) -> list[np.ndarray]:
    """The first pictures of the example clip at half size."""
    pictures: list[np.ndarray] = []
    with av.open(str(EXAMPLES / "target.mp4")) as container:
        for frame in container.decode(video=0):
            pictures.append(frame.reformat(480, 270, format="rgb24").to_ndarray())
            if len(pictures) == count:
                return pictures
    raise AssertionError("the example has become shorter")


def write_video(path: Path, pictures: Sequence[np.ndarray], sound: np.ndarray) -> Path:
    """Really encode pictures at 25 frames/s with as much of a 16 kHz sound."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "14", "preset": "veryfast"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        voice = container.add_stream("aac", rate=16000, layout="mono")
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        samples = sound[: len(pictures) * 16000 // RATE].astype(np.float32)
        heard = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        heard.sample_rate, heard.pts, heard.time_base = 16000, 0, Fraction(1, 16000)
        container.mux(voice.encode(heard))
        container.mux(voice.encode())
    return path


def write_photographs(folder: Path) -> None:
    """Labelled photographs and ones without a face, as the stage faces wants them: more than it holds out."""
    random = np.random.default_rng(0)
    folder.mkdir()

    def add(tar: tarfile.TarFile, name: str) -> None:
        coarse = random.integers(0, 255, (5, 6, 3), np.uint8)
        stored = cv2.imencode(".png", cv2.resize(coarse, (64, 64)))[1].tobytes()
        entry = tarfile.TarInfo(name)
        entry.size = len(stored)
        tar.addfile(entry, io.BytesIO(stored))

    with tarfile.open(folder / "backgrounds.tar", "w") as tar:
        for number in range(53):
            add(tar, f"{number:03d}.png")
    points = [[24.0, 26.0], [40.0, 26.0], [32.0, 36.0], [32.0, 44.0]]
    rows = [{"name": f"{n:03d}.png", "faces": [{"box": [16, 10, 48, 54], "points": points}]} for n in range(49)]
    with tarfile.open(folder / "scenes.tar", "w") as tar:
        for row in rows:
            add(tar, str(row["name"]))
    (folder / "scenes.json").write_text(json.dumps(rows))


def write_teacher(path: Path) -> None:
    """A recognition network that knows people by the colours of the face's parts."""
    from onnx import TensorProto, helper, numpy_helper, save

    spread = np.random.default_rng(1).standard_normal((3 * 16, IDENTITY)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["face"], ["parts"], kernel_shape=[32, 32], strides=[32, 32]),
        helper.make_node("Flatten", ["parts"], ["row"]),
        helper.make_node("MatMul", ["row", "spread"], ["vector"]),
    ]
    face = helper.make_tensor_value_info("face", TensorProto.FLOAT, ["n", 3, 128, 128])
    vector = helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["n", IDENTITY])
    graph = helper.make_graph(nodes, "teacher", [face], [vector], [numpy_helper.from_array(spread, "spread")])
    path.parent.mkdir()
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))


def write_perceptual(path: Path) -> None:
    """A random network in the file format of the perceptual loss."""
    torch.manual_seed(0)
    weights, before = {"conv0.weight": torch.eye(3)[:, :, None, None], "conv0.bias": torch.zeros(3)}, 3
    for names in LEVELS:
        for name in names:
            weights[f"conv{name}.weight"] = torch.randn(4, before, 3, 3) / (3 * before**0.5)
            weights[f"conv{name}.bias"] = torch.zeros(4)
            before = 4
    save_file(weights, path)


@dataclass
class Workshop:
    """The data set, and what was trained so far."""

    root: Path
    done: dict[str, tuple[Said, Said]] = field(default_factory=dict)  # first part of a run, the rest
    codes: Path | None = None

    def __post_init__(self) -> None:
        pictures = example_pictures(102)
        own = load_voice(EXAMPLES / "target.mp4").samples
        other = load_voice(EXAMPLES / "voice.wav").samples
        videos = self.root / "videos"
        videos.mkdir()
        for name, first, mirrored, sound in (
            ("ann", 0, False, own), ("bo", 0, True, own), ("cy", 50, False, own[32000:]), ("di", 50, True, other),
        ):  # fmt: skip
            taken = [picture[:, ::-1] if mirrored else picture for picture in pictures[first : first + 52]]
            write_video(videos / f"{name}.mp4", taken, sound)
        self.prepared = command(
            "data", "prepare", str(videos), "--out", str(self.data), "--seconds", "2", "--smallest", "100",
            "--frame-step", "6", "--least-correlation", "-1", "--workers", "1", "--quiet",
        )  # fmt: skip
        write_photographs(self.root / "photographs")
        write_teacher(self.root / "teachers" / "identity_reid.onnx")
        write_perceptual(self.root / "perceptual.safetensors")

    @property
    def data(self) -> Path:
        return self.root / "set"

    def run(self, name: str) -> Path:
        """A run's folder."""
        return self.root / "runs" / name

    def export(self, name: str) -> Path:
        """The export of a run, trained now if it is not there."""
        self.trained(name)
        return self.run(name) / "export"

    def vqgan(self) -> Path:
        return self.export("vqgan") / "vqgan.safetensors"

    def encoded(self) -> Path:
        """The folder of the clips' codes."""
        if self.codes is None:
            given = ("--data", str(self.data), "--vqgan", str(self.vqgan()), "--upper-step", "1")
            made = command("data", "codes", *given)
            assert made.code == 0, made.err
            self.codes = Path(json.loads(made.out)["codes"])
        return self.codes

    def pairs(self) -> Path:
        """Stored pairs for the face swap."""
        out = self.root / "pairs"
        if not out.is_dir():
            made = command(
                "data", "pairs", "--data", str(self.data), "--vqgan", str(self.vqgan()), "--out", str(out),
                "--identity", str(self.export("identity")), "--count", "6", "--forehead", "0", "--quiet",
            )  # fmt: skip
            assert made.code == 0, made.err
        return out

    def trained(self, name: str) -> tuple[Said, Said]:
        """Both parts of a run: stopped by its time limit after the first step, and taken up to the last one."""
        if name not in self.done:
            stage, settings = name, self.settings(name)
            if name in ("landmarks", "detector"):
                stage = "faces"
            arguments = self.arguments(stage, name, settings)
            first = command(*arguments, "--max-minutes", "0.00001")
            # one of them goes on in a process of its own, as on another machine
            rest = process(*arguments) if name == "speech-encoder" else command(*arguments)
            self.done[name] = (first, rest)
        return self.done[name]

    def arguments(self, stage: str, name: str, settings: Sequence[str]) -> list[str]:
        """The command line of a run."""
        given = ["loop.precision=float32", "loop.workers=0", "loop.log_every=1", "loop.threads=1", *settings]
        folders = ["--data", str(self.data), "--run", str(self.run(name)), "--steps", str(STEPS), "--device", "cpu"]
        return ["train", stage, *folders, *(part for setting in given for part in ("--set", setting))]

    def settings(self, name: str) -> list[str]:
        """What makes a stage's networks and batches small, and where it finds what it needs."""
        return list(getattr(self, "_" + name.replace("-", "_"))())

    def _landmarks(self) -> Sequence[str]:
        return (
            "part=landmarks", f"scenes={self.root / 'photographs'}", "loop.batch=4", "landmarks.network.size=64",
            "landmarks.network.widths=[8,8,8,8]", "landmarks.network.blocks=[1,1,1,1]", "landmarks.network.hidden=16",
            "landmarks.network.coefficients=4", "landmarks.views.size=64",
        )  # fmt: skip

    def _detector(self) -> Sequence[str]:
        return (
            "part=detector", f"scenes={self.root / 'photographs'}", "loop.batch=2", "detector.network.widths=[8,12,16]",
            "detector.pictures.size=64", "detector.pictures.smallest=16", "detector.pictures.largest=50",
        )  # fmt: skip

    def _identity(self) -> Sequence[str]:
        return (
            f"teachers={self.root / 'teachers'}", "loop.batch=4", "blend_sets=1", "blend_count=3", "network.size=64",
            "network.widths=[8,12,16]", "network.blocks=[1,1,1]", f"network.dimension={IDENTITY}",
        )  # fmt: skip

    def _vqgan(self) -> Sequence[str]:
        return (
            "loop.batch=2", "network.widths=[8,16,16]", "network.encoder_blocks=[0,0,1]", "validation=2",
            "network.decoder_blocks=[1,1,0]", "network.encoder_attention=0", "network.decoder_attention=0",
            "network.code_width=16", "network.codes=32", "continuous=1", "adversarial=0.3", "identity=0.1",
            f"identity_network={self.export('identity')}", "perceptual=0.1",
            f"perceptual_network={self.root / 'perceptual.safetensors'}", "focus=96",
        )  # fmt: skip

    def _face_swap(self) -> Sequence[str]:
        return (
            f"pairs={self.pairs()}", f"vqgan={self.vqgan()}", f"identity_network={self.export('identity')}",
            "loop.batch=2", "validation=2", "network.code_width=16", "network.width=32", "network.blocks=1",
            "network.heads=2", f"network.identity={IDENTITY}",
        )  # fmt: skip

    def _speech_encoder(self) -> Sequence[str]:
        return (
            f"videos={self.data / 'videos'}", "loop.batch=4", "stretch=24", "network.width=16",
            "network.dilations=[1,2]", "network.window=33",
        )  # fmt: skip

    def _sync_expert(self) -> Sequence[str]:
        return (
            *self._talking(), f"speech={self.export('speech-encoder') / 'speech_encoder.safetensors'}",
            f"lags={self.export('speech-encoder') / 'lags.json'}", "loop.batch=8", "moments=4", "network.code_width=16",
            "network.width=8", "network.embedding=12", "network.encoder_width=16", "network.dilations=[1,2]",
            "network.window=33",
        )  # fmt: skip

    def _lip_sync(self) -> Sequence[str]:
        return (
            *self._talking(), *LIPS, f"expert={self.export('sync-expert')}",
            f"speech={self.export('speech-encoder') / 'speech_encoder.safetensors'}", "loop.batch=8", "sequences=1",
        )  # fmt: skip

    def _joint(self) -> Sequence[str]:
        return (
            *LIPS, f"videos={self.data / 'videos'}", f"vqgan={self.vqgan()}", "loop.batch=3", "driven=1", "spoken=1",
            f"lip_sync={self.export('lip-sync') / 'lip_sync.safetensors'}", "validation=2", "adversarial_start=1",
            f"landmark_network={self.export('landmarks')}", f"identity_network={self.export('identity')}",
            f"perceptual_network={self.root / 'perceptual.safetensors'}", "focus=96", "mouth_side=64",
        )  # fmt: skip

    def _talking(self) -> Sequence[str]:
        return (f"codes={self.encoded()}", f"videos={self.data / 'videos'}", f"vqgan={self.vqgan()}")
