"""What every system promises to a render, asked of each one that the registry lists and of a small one of the tests'."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import cv2
import numpy as np
import pytest

from talkswap.checkpoints.manifest import write_manifest
from talkswap.checkpoints.presets import find_preset
from talkswap.device import choose_device
from talkswap.errors import UsageError
from talkswap.faces.geometry import align
from talkswap.media.sound import load_voice
from talkswap.systems.contract import Performance, Portrait, Source, System
from talkswap.systems.registry import find_system, load_system, read_options, systems
from talkswap.types import DEFAULT_SYSTEM, AlignedFace, GuideCrop, Voice

from ..resume_workshop import SmallSystem
from .test_cascade import write_parts

ROOT = Path(__file__).parents[2]
TIMES = [Fraction(k, 25) + 1 for k in range(4)]


def choices(name: str) -> list[dict[str, Any]]:
    """Every combination of a system's own options that have choices."""
    hints = get_type_hints(find_system(name).options)
    lists = {field: get_args(hint) for field, hint in hints.items() if get_origin(hint) is Literal}
    lists = {field: [value for value in values if value != "auto"] for field, values in lists.items()}
    return [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]


CASES = [("small", {}), *((name, options) for name in systems() for options in choices(name))]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, dict[str, Any]], System]:
    """A system by its name; the published parts of the cascades are tiny graphs."""
    folder = tmp_path_factory.mktemp("weights")
    write_parts(folder / "paper")
    write_manifest(folder / "paper")

    def load(name: str, options: dict[str, Any]) -> System:
        if name == "small":
            return SmallSystem()
        with pytest.MonkeyPatch.context() as patch:
            if find_system(name).missing:
                patch.setenv("TALKSWAP_WEIGHTS", str(folder))
            return load_system(
                find_preset("compact", ROOT / "weights" / "compact"), choose_device("cpu"), name, options
            )

    return load


@pytest.fixture(scope="module")
def voice() -> Voice:
    samples = load_voice(ROOT / "examples" / "voice.wav").samples
    return Voice(samples[:48000], 16000)


def faces_for(system: System, crops: tuple[np.ndarray, np.ndarray], numbers: Sequence[int]) -> list[AlignedFace]:
    """Some frames of the example in a system's own crop."""
    faces = []
    for number in numbers:
        crop, points = crops[0][number], crops[1][number]
        scale = system.crop.size / crop.shape[0]
        large = np.asarray(cv2.resize(crop, (system.crop.size, system.crop.size)), np.uint8)
        faces.append(align(large, points * np.float32(scale), system.crop.size))
    return faces


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda value: str(value))
def test_a_performance_answers_by_its_arguments_alone(
    name: str,
    options: dict[str, Any],
    make: Callable[[str, dict[str, Any]], System],
    face_crops: tuple[np.ndarray, np.ndarray],
    voice: Voice,
) -> None:
    system = make(name, options)
    faces = faces_for(system, face_crops, (0, 3, 6, 9))
    features = system.listen(voice)

    def begin() -> Performance:
        return system.begin(Portrait(faces[0]), Source(faces[2], (faces[3],)), features)

    performance = begin()
    halves = [slice(0, 2), slice(2, 4)]
    forward = [performance.render(faces[half], TIMES[half]) for half in halves]
    backward = [begin().render(faces[half], TIMES[half]) for half in reversed(halves)][::-1]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda half: performance.render(faces[half], TIMES[half]), halves))
    for one, other in ((forward, backward), (forward, together)):
        np.testing.assert_array_equal(np.stack(sum(one, [])), np.stack(sum(other, [])))
    size = system.crop.size
    crops, mask = sum(forward, []), performance.mask(faces[0])
    assert all(crop.shape == (size, size, 3) and crop.dtype == np.uint8 for crop in crops)
    assert mask.shape == (size, size) and mask.dtype == np.float32 and mask.min() >= 0 and 0.5 < mask.max() <= 1
    assert mask[0].max() == 0 and mask[:, 0].max() == 0, "the crop's edge would show"


@pytest.mark.parametrize("name", ["small", *systems()])
def test_a_source_swaps_and_features_move_the_lips(
    name: str,
    make: Callable[[str, dict[str, Any]], System],
    face_crops: tuple[np.ndarray, np.ndarray],
    voice: Voice,
) -> None:
    system = make(name, {"networks": "alone"} if name == DEFAULT_SYSTEM else {})
    faces = faces_for(system, face_crops, (0, 6))
    silent = Voice(np.zeros_like(voice.samples), voice.hz)
    source = Source(faces[1])

    def crop(source: Source | None, speech: Voice | None) -> np.ndarray:
        features = None if speech is None else system.listen(speech)
        return system.begin(Portrait(faces[0]), source, features).render(faces[:1], TIMES[:1])[0].astype(float)

    assert np.abs(crop(source, voice) - crop(source, silent)).max() > 2
    assert np.isfinite(crop(source, None)).all()
    if name == "small" or any(row.swaps for row in find_system(name).rows):
        assert np.abs(crop(source, voice) - crop(None, voice)).max() > 2


@pytest.mark.parametrize("networks", ["none", "refine"])
def test_a_guided_answer_begins_at_the_guide(
    networks: str,
    make: Callable[[str, dict[str, Any]], System],
    face_crops: tuple[np.ndarray, np.ndarray],
    voice: Voice,
) -> None:
    system = make(DEFAULT_SYSTEM, {"networks": networks})
    assert system.guided
    target, other, source = faces_for(system, face_crops, (0, 3, 6))
    performance = system.begin(Portrait(target), Source(source), system.listen(voice))

    def answer(face: AlignedFace, guide: AlignedFace) -> np.ndarray:
        painted = replace(face, guide=GuideCrop(guide.crop, guide.landmarks))
        assert performance.mask(painted).max() == 1
        return performance.render([painted], TIMES[:1])[0]

    same = answer(target, other)
    np.testing.assert_array_equal(same, answer(replace(other, index=1), other))
    assert (same is other.crop) == (networks == "none"), "a guide that nothing changes is handed back as it is"
    assert np.abs(same.astype(float) - answer(target, source)).max() > 8


def test_options_are_checked_against_their_fields() -> None:
    for name in systems():
        assert isinstance(read_options(name, {}), find_system(name).options)
        with pytest.raises(UsageError, match=f"the system {name} has no option --colour"):
            read_options(name, {"colour": "red"})
