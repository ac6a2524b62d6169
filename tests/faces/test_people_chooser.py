"""Choosing faces for several people at once: never one face for two, and nobody takes a stranger."""

from __future__ import annotations

import numpy as np

from talkswap.faces.people import PeopleChooser
from talkswap.faces.track import TrackedFace
from talkswap.types import Face, FloatArray

HEIGHT, WIDTH = 180, 320


def unit(*values: float) -> FloatArray:
    vector = np.array(values, np.float32)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


ANNA, BERT, STRANGER = unit(1, 0, 0), unit(0, 1, 0), unit(0, 0, 1)
SISTER = unit(0.9, 0, 0.44)  # so like Anna that she would be taken for her


def seen(number: int, view: FloatArray, x: float = 100.0) -> TrackedFace:
    points = np.zeros((478, 3), np.float32)
    face = Face(np.array([x - 20, 60, x + 20, 110], np.float32), 0.9, points, view)
    centre = np.array([x, 90], np.float32)
    return TrackedFace(number, face, points, centre, np.array([30, 0], np.float32), 0.0, 1.0, False)


def numbers(chooser: PeopleChooser, *faces: TrackedFace) -> list[int | None]:
    return [None if f is None else f.track_id for f in chooser(faces, HEIGHT, WIDTH)]


def test_each_gets_their_own_whatever_the_order() -> None:
    chooser = PeopleChooser([ANNA, BERT])
    assert numbers(chooser, seen(7, BERT), seen(3, ANNA)) == [3, 7]
    assert numbers(chooser, seen(3, ANNA), seen(7, BERT)) == [3, 7]
    assert numbers(chooser, seen(7, BERT)) == [None, 7]
    assert numbers(chooser) == [None, None]


def test_nobody_takes_a_stranger() -> None:
    chooser = PeopleChooser([ANNA, BERT])
    assert numbers(chooser, seen(1, STRANGER), seen(2, BERT)) == [None, 2]


def test_one_face_goes_to_whom_it_is_more_like() -> None:
    """Both would take the sister's face; it is the sister's, and Anna waits for her own."""
    chooser = PeopleChooser([ANNA, SISTER])
    assert numbers(chooser, seen(5, SISTER)) == [None, 5]
    assert numbers(chooser, seen(5, SISTER), seen(6, ANNA)) == [6, 5]


def test_who_lost_a_face_to_another_looks_among_the_rest() -> None:
    """Anna's best match is taken by her sister; the other face is still hers."""
    chooser = PeopleChooser([ANNA, SISTER])
    likewise = unit(0.6, 0.8, 0)
    assert numbers(chooser, seen(1, SISTER), seen(2, likewise)) == [2, 1]


def test_alone_it_is_the_chooser_of_one() -> None:
    chooser = PeopleChooser([None])
    assert numbers(chooser, seen(1, STRANGER, x=40), seen(2, BERT, x=160)) == [2], "the middle leads"
    assert numbers(chooser, seen(1, STRANGER, x=160), seen(2, BERT, x=40)) == [2], "and stays"
