"""Looking through really encoded clips, with the compact weights that ship."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from talkswap.faces.analyse import FaceAnalyser, load_analyser
from talkswap.faces.people import Person
from talkswap.media.index import index_frames
from talkswap.media.probe import probe
from talkswap.render.look import LookConfig, people_in_clip, sample_frames, thumbnail

WriteClip = Callable[..., Path]


@pytest.fixture(scope="module")
def analyser() -> FaceAnalyser:
    return load_analyser("compact", Path(__file__).parents[2] / "weights" / "compact")


def title(count: int, like: np.ndarray) -> list[np.ndarray]:
    """An even picture that brightens slowly, without a face."""
    return [np.full_like(like, 40 + k * 60 // count) for k in range(count)]


def looked_at(clip: Path) -> list[int]:
    info = probe(clip)
    return [frame.index for frame in sample_frames(info, index_frames(info), LookConfig())]


def test_a_short_clip_is_looked_at_more_closely(
    write_clip: WriteClip, example_pictures: list[np.ndarray], analyser: FaceAnalyser
) -> None:
    clip = write_clip([*title(6, example_pictures[0]), *example_pictures[:14]], "late.mp4", sound=False)
    assert looked_at(clip) == list(range(0, 20, 2))
    (person,) = people_in_clip(probe(clip), index_frames(probe(clip)), analyser)
    assert person.frames == 7 and person.share == pytest.approx(0.7)
    assert person.time >= Fraction(6, 25)
    check(person)


def check(person: Person) -> None:
    """A person is small in memory, whatever the clip's size."""
    assert person.picture.shape == (192, 192, 3) and person.embedding is not None
    assert np.linalg.norm(person.embedding) == pytest.approx(1, abs=1e-3)
    assert thumbnail(person, 96).shape == (96, 96, 3) and thumbnail(person).std() > 20
    assert 40 < person.width < 200


def test_the_steps_of_a_look() -> None:
    config = LookConfig()
    assert [config.step_for(n) for n in (1, 7, 16, 48, 192, 10000)] == [1, 1, 2, 6, 24, 24]


def test_a_face_after_a_long_title_is_found_without_keyframes(
    write_clip: WriteClip, example_pictures: list[np.ndarray], analyser: FaceAnalyser
) -> None:
    pictures = [*title(250, example_pictures[0]), *(example_pictures * 4)]
    clip = write_clip(pictures, "title.mp4", sound=False)
    info = probe(clip)
    index = replace(index_frames(info), keyframes=(0,))  # as of a clip that can be decoded from its start only
    (person,) = people_in_clip(info, index, analyser)
    assert person.time >= 10  # s
    check(person)


def test_a_clip_without_anybody_has_no_people(
    write_clip: WriteClip, example_pictures: list[np.ndarray], analyser: FaceAnalyser
) -> None:
    clip = write_clip(title(10, example_pictures[0]), "empty.mp4", sound=False)
    assert people_in_clip(probe(clip), index_frames(probe(clip)), analyser) == []
