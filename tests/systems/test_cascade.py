"""The cascades, with tiny ONNX graphs of the published networks' signatures that do one visible thing each."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from talkswap.checkpoints.manifest import read_catalogue, write_manifest
from talkswap.checkpoints.presets import preset_state
from talkswap.device import choose_device
from talkswap.errors import UsageError, WeightsCorruptError, WeightsMissingError
from talkswap.faces import mesh
from talkswap.faces.geometry import ffhq_affine, transform_points
from talkswap.systems.cascade import parts
from talkswap.systems.cascade.networks import Restorer, Wav2Lip, Wav2LipMel, face_box
from talkswap.systems.cascade.parts import CASCADES, missing_parts
from talkswap.systems.cascade.system import Cascade
from talkswap.systems.contract import Portrait, Source
from talkswap.types import AlignedFace, Voice
from talkswap.voice.activity import SpeechGate
from talkswap.voice.features import listen

SIDE = 512
GREY = 100


def face(level: int = GREY) -> AlignedFace:
    landmarks = (mesh.mean_face().points * 110 + 256).astype(np.float32)
    affine = ffhq_affine(landmarks, SIDE)
    return AlignedFace(np.full((SIDE, SIDE, 3), level, np.uint8), affine, transform_points(affine, landmarks), 0)


def save(
    path: Path, nodes: list[onnx.NodeProto], inputs: dict[str, tuple[int, ...]], stored: dict[str, np.ndarray]
) -> Path:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in stored.items()],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def write_parts(folder: Path) -> None:
    """A swap that adds 0.2 to every colour, lips that answer red plus the loudness, a restorer that inverts."""
    random = np.random.default_rng(0)
    save(
        folder / parts.PARTS["inswapper"].file,
        [
            helper.make_node("Mul", ["source", "zero"], ["nothing"]),
            helper.make_node("ReduceSum", ["nothing"], ["none"], keepdims=0),
            helper.make_node("Add", ["target", "more"], ["brighter"]),
            helper.make_node("Add", ["brighter", "none"], ["output"]),
        ],
        {"target": (1, 3, 128, 128), "source": (1, 512)},
        {"zero": np.zeros(1), "more": np.full((1, 1, 1, 1), 0.2), "emap": random.standard_normal((512, 512))},
    )
    save(
        folder / parts.PARTS["arcface"].file,
        [
            helper.make_node("ReduceMean", ["face"], ["colour"], axes=[2, 3], keepdims=0),
            helper.make_node("MatMul", ["colour", "spread"], ["output"]),
        ],
        {"face": (1, 3, 112, 112)},
        {"spread": random.standard_normal((3, 512))},
    )
    save(
        folder / parts.PARTS["wav2lip"].file,
        [
            helper.make_node("Slice", ["target", "first", "last", "axis"], ["box"]),
            helper.make_node("Mul", ["box", "blue"], ["kept"]),
            helper.make_node("ReduceMean", ["source"], ["loudness"], keepdims=0),
            helper.make_node("Mul", ["loudness", "eighth"], ["scaled"]),
            helper.make_node("Add", ["kept", "half"], ["middle"]),
            helper.make_node("Add", ["middle", "scaled"], ["output"]),
        ],
        {"source": (1, 1, 80, 16), "target": (1, 6, 96, 96)},
        {"blue": np.array([1.0, 0, 0]).reshape(1, 3, 1, 1), "eighth": np.array(0.1), "half": np.array(0.5)},
    )
    model = onnx.load(folder / parts.PARTS["wav2lip"].file)
    for name, value in (("first", [3]), ("last", [6]), ("axis", [1])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    onnx.save(model, folder / parts.PARTS["wav2lip"].file)
    save(
        folder / parts.PARTS["gfpgan"].file,
        [helper.make_node("Neg", ["input"], ["output"])],
        {"input": (1, 3, 512, 512)},
        {},
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights root whose paper preset holds the parts and nothing else, on its manifest's list."""
    write_parts(tmp_path / "paper")
    write_manifest(tmp_path / "paper")
    monkeypatch.setenv("TALKSWAP_WEIGHTS", str(tmp_path))
    return tmp_path


def load(name: str) -> Cascade:
    return Cascade.load(name, preset_state("paper"), choose_device("cpu"))


class Speech:
    """One mel level at all times."""

    def __init__(self, mel: float) -> None:
        self.mel = mel

    def at(self, times: Sequence[Fraction]) -> np.ndarray:
        return np.full((len(times), 16, 80), self.mel, np.float32)


def dub(name: str, mel: float | None = -4.0) -> tuple[np.ndarray, np.ndarray]:
    """(crop, mask) of a grey face; without a mel level nothing is said."""
    performance = load(name).begin(Portrait(face()), Source(face(180)), None if mel is None else Speech(mel))
    return performance.render([face()], [Fraction(0)])[0], performance.mask(face())


def nose(crop: np.ndarray) -> np.ndarray:
    x, y = np.round(face().landmarks[4, :2]).astype(int)
    return crop[y, x].astype(int)


# by hand: grey 100; swap +51; lips: blue of the box, red and green 0.5 + 0.1 * mel = 0.1 -> 26 at silence (and blue + 26);
# restore: 255 - x
@pytest.mark.parametrize(
    ("name", "colour"),
    [
        ("wav2lip", (26, 26, 126)),
        ("wav2lip-restore", (229, 229, 129)),
        ("cascade-sync-swap", (77, 77, 177)),
        ("cascade-sync-swap-restore", (178, 178, 78)),
        ("cascade-swap-sync", (26, 26, 177)),
        ("cascade-swap-restore-sync", (26, 26, 130)),
    ],
)
def test_each_cascade_runs_its_steps_in_its_order(home: Path, name: str, colour: tuple[int, int, int]) -> None:
    crop, mask = dub(name)
    assert nose(crop) == pytest.approx(colour, abs=3)
    assert mask[256, 256] == 1 and mask[5, 5] == 0 and mask.dtype == np.float32


def test_lips_hear_the_voice_and_stay_inside_their_box(home: Path) -> None:
    quiet, mask = dub("wav2lip", -4.0)
    loud, _ = dub("wav2lip", 2.0)
    assert nose(loud)[0] - nose(quiet)[0] == pytest.approx(0.6 * 255, abs=4)
    x0, y0, x1, y1 = face_box(face().landmarks, SIDE)
    outside = np.ones((SIDE, SIDE), bool)
    outside[y0:y1, x0:x1] = False
    assert (quiet[outside] == GREY).all() and not mask[outside].any()
    points = face().landmarks
    assert x0 < points[61, 0] < points[291, 0] < x1 and y0 < points[13, 1] < points[152, 1] < y1


def test_a_closed_gate_leaves_the_lips_and_two_photos_are_averaged(home: Path) -> None:
    class Gate(SpeechGate):
        def at(self, times: Sequence[Fraction]) -> np.ndarray:
            return np.array([float(time) for time in times], np.float32)

    system, portrait, gate = load("cascade-swap-sync"), Portrait(face()), Gate(np.zeros(0, np.float32))
    alone = system.begin(portrait, Source(face(180)), Speech(-4.0), gate)
    both = system.begin(portrait, Source(face(180), (face(60),)), Speech(-4.0), gate)
    assert alone.identity is not None and both.identity is not None
    assert not np.allclose(both.identity, alone.identity)
    shut, half = alone.render([face(), face()], [Fraction(0), Fraction(1, 2)])
    assert nose(shut) == pytest.approx((151, 151, 151), abs=2)  # the swap alone
    assert nose(half) == pytest.approx(((151 + 26) / 2, (151 + 26) / 2, (151 + 177) / 2), abs=3)


def test_a_sync_without_a_voice_is_left_out(home: Path) -> None:
    crop, mask = dub("cascade-swap-sync", None)
    assert nose(crop) == pytest.approx((151, 151, 151), abs=2)
    x0, y0, *_ = face_box(face().landmarks, SIDE)
    assert mask[y0 + 4, x0 + 4] < 0.5  # no box


def test_missing_parts_are_named_with_the_command_that_brings_them(home: Path) -> None:
    assert all(missing_parts(name) == () for name in CASCADES)
    (home / "paper" / parts.PARTS["gfpgan"].file).unlink()
    (home / "paper" / parts.PARTS["arcface"].file).unlink()
    assert missing_parts("wav2lip") == ()
    assert missing_parts("cascade-swap-restore-sync") == ("buffalo_l", "gfpgan_1.4")
    with pytest.raises(WeightsMissingError, match="gfpgan_1.4") as refused:
        load("wav2lip-restore")
    assert "talkswap download gfpgan_1.4" in refused.value.hint
    with pytest.raises(UsageError):
        missing_parts("roop")


def test_every_part_is_in_the_catalogue_with_its_licence() -> None:
    catalogue = {entry.name: entry for entry in read_catalogue()}
    for part in parts.PARTS.values():
        entry = catalogue[part.name]
        assert part.file in entry.results and "eval" in entry.needed_by and entry.licence and entry.source


def test_another_network_in_a_parts_place_is_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsCorruptError):
        Wav2Lip(home / "paper" / parts.PARTS["gfpgan"].file)
    with pytest.raises(WeightsCorruptError):
        Restorer(home / "paper" / parts.PARTS["arcface"].file)
    # changed after it was listed
    path = home / "paper" / parts.PARTS["wav2lip"].file
    path.write_bytes(path.read_bytes() + b"\x00")
    with pytest.raises(WeightsCorruptError):
        load("wav2lip")


def test_the_mel_is_wav2lips_own() -> None:
    """Independent check: transformers' spectrogram with the published parameters, to 1e-3 of the range of 8."""
    random = np.random.default_rng(0)
    samples = (0.3 * np.sin(np.arange(16000) * 0.2) + 0.05 * random.standard_normal(16000)).astype(np.float32)
    filters = mel_filter_bank(401, 80, 55, 7600, 16000, norm="slaney", mel_scale="slaney")
    emphasised = np.append(samples[0], samples[1:] - 0.97 * samples[:-1])
    amplitude = spectrogram(
        emphasised,
        window_function(800, "hann"),
        800,
        200,
        power=1.0,
        center=True,
        pad_mode="reflect",
        mel_filters=filters,
    )
    wanted = np.clip(8 * ((20 * np.log10(np.maximum(amplitude, 1e-5)) - 20) + 100) / 100 - 4, -4, 4).T
    found = Wav2LipMel()(samples)
    assert found.shape == wanted.shape and np.abs(found - wanted).max() < 1e-3
    assert Wav2LipMel()(np.zeros(0, np.float32)).shape == (0, 80)
    assert (Wav2LipMel()(np.zeros(4000, np.float32)) == Wav2LipMel().silence()).all()


def test_a_window_begins_at_the_pictures_time() -> None:
    samples = np.random.default_rng(1).standard_normal(32000).astype(np.float32) * 0.1
    mel = Wav2LipMel()(samples)
    track = listen(Voice(samples, 16000), Wav2LipMel(), 16, gate=False)
    window = track.at([Fraction(1, 2)])[0]  # feature 40
    assert np.allclose(window, mel[40:56], atol=1e-5)
