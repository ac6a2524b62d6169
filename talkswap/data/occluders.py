"""Things to hold before a face, drawn at random: hands and arms, microphones, cups, cloth, bars, sheets, hair.

Each is a picture with a coverage in [0, 1], on a square of the view's side.  What it is made of comes from
:class:`Materials`: skin and hair cut out of portraits, photographs without faces, plain and patterned colour.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from talkswap.data.face_views import STORED, StoredFaces, random_square
from talkswap.types import FloatArray, UInt8Image

CHEEKS = ((50, 205), (280, 425))  # two points of the mesh on each cheek: corners of a patch of skin
FOREHEAD_TOP = 10
Generator = np.random.Generator


@dataclass(frozen=True)
class Occluder:
    """Something in front of a face."""

    rgb: FloatArray  # S S 3, 0 to 255
    coverage: FloatArray  # S S in [0, 1]


class Materials:
    """Squares to make occluders of."""

    def __init__(self, faces: StoredFaces, backgrounds: list[UInt8Image], size: int) -> None:
        self.faces, self.backgrounds, self.size = faces, backgrounds, size

    def _spread(self, patch: np.ndarray, side: int) -> UInt8Image:
        """A patch at ``side`` px, mirrored at its borders until it fills the square."""
        patch = cv2.resize(patch, (side, side), interpolation=cv2.INTER_LINEAR)
        # Mirrored and not repeated: a repeated patch shows a grid of edges.
        lines = np.abs((np.arange(self.size) + side) % (2 * side) - side).clip(0, side - 1)
        return np.asarray(patch[lines][:, lines], np.uint8)

    def skin(self, index: int, generator: Generator) -> UInt8Image:
        """Skin from a cheek of one portrait."""
        points, picture = self.faces.landmarks[index], self.faces.picture(index)
        corners = points[list(CHEEKS[int(generator.integers(2))]), :2]
        low, high = corners.min(0), corners.max(0)
        high = np.maximum(high, low + 6)
        x0, y0 = np.clip(np.round(low).astype(int), 0, STORED - 7)
        x1, y1 = np.clip(np.round(high).astype(int), 7, STORED)
        return self._spread(picture[y0 : max(y1, y0 + 6), x0 : max(x1, x0 + 6)], int(generator.integers(24, 64)))

    def hair(self, index: int, generator: Generator) -> UInt8Image:
        """What is above the forehead of one portrait: mostly hair."""
        points, picture = self.faces.landmarks[index], self.faces.picture(index)
        x, y = points[FOREHEAD_TOP, :2]
        side = 26
        x0 = int(np.clip(x - side / 2 + generator.uniform(-20, 20), 0, STORED - side))
        y0 = int(np.clip(y - side * generator.uniform(0.9, 1.3), 0, STORED - side))
        return self._spread(picture[y0 : y0 + side, x0 : x0 + side], int(generator.integers(40, 110)))

    def photograph(self, generator: Generator) -> UInt8Image:
        """A random square of a photograph."""
        return random_square(self.backgrounds, 0.15, self.size, generator)

    def colour(self, generator: Generator) -> UInt8Image:
        """Plain colour: half the time grey, since things are black, white or grey more often than red."""
        size = self.size
        level = generator.uniform(0, 255)
        colour = np.full(3, level) if generator.random() < 0.5 else generator.uniform(0, 255, 3)
        square = np.broadcast_to(colour, (size, size, 3)).astype(np.float32)
        if generator.random() < 0.4:  # stripes, as on cloth
            angle, period = generator.uniform(0, np.pi), generator.uniform(3, 24)
            y, x = np.mgrid[:size, :size].astype(np.float32)
            wave = np.sin((np.cos(angle) * x + np.sin(angle) * y) * (2 * np.pi / period)) > generator.uniform(-0.6, 0.6)
            square = np.where(wave[..., None], square, generator.uniform(0, 255, 3).astype(np.float32))
        if generator.random() < 0.6:
            noise = generator.standard_normal((size, size, 1), np.float32)
            square = square + cv2.GaussianBlur(noise, (0, 0), generator.uniform(0.4, 3))[..., None] * 30
        return np.clip(square, 0, 255).astype(np.uint8)

    def any(self, generator: Generator) -> UInt8Image:
        """Something that a thing may be made of."""
        return self.photograph(generator) if generator.random() < 0.6 else self.colour(generator)


def _canvas(size: int) -> UInt8Image:
    return np.zeros((size, size), np.uint8)


def _fixed(points: np.ndarray) -> np.ndarray:
    """Points (N x 2 px) as OpenCV draws them to a sixteenth of a px."""
    return np.round(points * 16).astype(np.int32)


def _polygon(size: int, points: np.ndarray) -> UInt8Image:
    mask = _canvas(size)
    cv2.fillPoly(mask, [_fixed(points)], 255, lineType=cv2.LINE_AA, shift=4)
    return mask


def _ellipse(size: int, centre: np.ndarray, axes: np.ndarray, degrees: float) -> UInt8Image:
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    turn = np.radians(degrees)
    x, y = axes[0] * np.cos(angle), axes[1] * np.sin(angle)
    ring = np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], 1)
    return _polygon(size, centre + ring)


def _limb(size: int, start: np.ndarray, stop: np.ndarray, thick: float, end_thick: float) -> UInt8Image:
    """A round-ended taper from ``start`` to ``stop``."""
    along = stop - start
    length = max(float(np.hypot(*along)), 1e-3)
    angle = float(np.arctan2(along[1], along[0]))
    back = angle + np.linspace(np.pi / 2, 1.5 * np.pi, 9)
    front = angle + np.linspace(-np.pi / 2, np.pi / 2, 9)
    ring = [start + thick * np.stack([np.cos(back), np.sin(back)], 1)]
    ring.append(start + along / length * length + end_thick * np.stack([np.cos(front), np.sin(front)], 1))
    return _polygon(size, np.concatenate(ring))


def rounded(mask: UInt8Image, depth: float, light: float) -> FloatArray:
    """Brightness (S S) of a part that is round: darker toward its border by ``depth``, more so away from ``light``
    (radians)."""
    inside = cv2.distanceTransform((mask > 127).astype(np.uint8), cv2.DIST_L2, 3)
    # A round part is highest far from its border; light falls on its slope.
    height = np.sqrt(np.clip(inside / max(float(inside.max()), 1.0), 0, 1))
    smooth = cv2.GaussianBlur(height, (0, 0), 1.5)
    lean = np.cos(light) * cv2.Sobel(smooth, cv2.CV_32F, 1, 0) + np.sin(light) * cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    return np.asarray(np.clip(1 - depth * (1 - smooth) + 0.35 * lean, 0.2, 1.3), np.float32)


def _over(below: Occluder | None, rgb: np.ndarray, mask: UInt8Image, bright: FloatArray | float) -> Occluder:
    """One more part in front of the others."""
    cover = mask.astype(np.float32) / 255
    shaded = rgb.astype(np.float32) * (bright[..., None] if isinstance(bright, np.ndarray) else bright)
    if below is None:
        return Occluder(np.asarray(shaded, np.float32), np.asarray(cover, np.float32))
    blend = below.rgb + (shaded - below.rgb) * cover[..., None]
    return Occluder(blend.astype(np.float32), (below.coverage + (1 - below.coverage) * cover).astype(np.float32))


def _solid(materials: Materials, mask: UInt8Image, generator: Generator) -> Occluder:
    """One part of any material, more or less round."""
    stuff = materials.any(generator)
    return _over(None, stuff, mask, rounded(mask, generator.uniform(0, 0.6), generator.uniform(0, 6)))


def _inward(place: np.ndarray, size: int, generator: Generator) -> tuple[np.ndarray, float]:
    """A direction from outside into the view at ``place``: mostly from below and from the sides."""
    # Hands come from below, since arms hang there.
    angle = generator.uniform(-0.15, 1.15) * np.pi if generator.random() < 0.8 else generator.uniform(0, 2 * np.pi)
    direction = np.array([np.cos(angle), np.sin(angle)])  # toward where it comes from; y points down
    return direction, float(angle)


def hand(materials: Materials, index: int, place: np.ndarray, generator: Generator) -> Occluder:
    """Some fingers, a palm and a wrist; often the person's own skin."""
    size = materials.size
    scale = size * generator.uniform(0.7, 1.25) / 128
    person = index if generator.random() < 0.6 else materials.faces.draw(generator)
    skin = materials.skin(person, generator)
    gain = generator.uniform(0.75, 1.15) * (1 + generator.uniform(-0.04, 0.04, 3))
    skin = np.clip(skin * gain, 0, 255)
    comes, angle = _inward(place, size, generator)
    light, depth = generator.uniform(0, 2 * np.pi), generator.uniform(0.15, 0.5)
    palm_at = place + comes * scale * generator.uniform(18, 34)
    width = scale * generator.uniform(13, 19)
    # From the wrist to the nails: each part lies over the one before.
    wrist = _limb(size, palm_at + comes * 2 * size, palm_at + comes * width, width * 0.75, width * 0.75)
    occluder = _over(None, skin, wrist, rounded(wrist, depth, light))
    palm = _ellipse(size, palm_at, np.array([width * generator.uniform(1, 1.3), width]), np.degrees(angle))
    occluder = _over(occluder, skin, palm, rounded(palm, 0.6 * depth, light))
    fist = generator.random() < 0.2
    spread = generator.uniform(0.02, 0.25)
    across = np.array([-comes[1], comes[0]])
    count = int(generator.integers(1, 5)) if generator.random() < 0.4 else 4
    for finger in range(count):
        offset = (finger - (count - 1) / 2) * width * 0.55
        thick = scale * generator.uniform(4.2, 6.0)
        reach = scale * (generator.uniform(8, 14) if fist else generator.uniform(24, 42))
        base = palm_at - comes * width * 0.6 + across * offset
        lean = spread * (finger - (count - 1) / 2) + generator.uniform(-0.08, 0.08)
        tip = base - (comes * np.cos(lean) - across * np.sin(lean)) * reach
        part = _limb(size, base, tip, thick, thick * generator.uniform(0.7, 0.95))
        # A dark line around each finger, as the gaps between fingers are.
        gap = cv2.dilate(part, np.ones((3, 3), np.uint8))
        darker = occluder.rgb * (1 - 0.35 * (gap.astype(np.float32) / 255)[..., None])
        occluder = Occluder(np.asarray(darker, np.float32), occluder.coverage)
        occluder = _over(occluder, skin, part, rounded(part, depth, light))
        if generator.random() < 0.5:
            nail = _ellipse(size, tip, np.array([thick * 0.55, thick * 0.42]), np.degrees(angle))
            occluder = _over(occluder, np.clip(skin * 1.1 + 10, 0, 255), nail, 1.0)
    if generator.random() < 0.6:
        side = 1 if generator.random() < 0.5 else -1
        base = palm_at + across * side * width * 0.8
        tip = base - (comes * 0.5 - across * side * generator.uniform(0.1, 0.8)) * scale * generator.uniform(16, 28)
        part = _limb(size, base, tip, scale * 6, scale * 4.5)
        occluder = _over(occluder, skin, part, rounded(part, depth, light))
    return occluder


def arm(materials: Materials, index: int, place: np.ndarray, generator: Generator) -> Occluder:
    """A bare or sleeved arm across the view."""
    size = materials.size
    angle = generator.uniform(0, np.pi)
    along = np.array([np.cos(angle), np.sin(angle)]) * size * 2
    bare = generator.random() < 0.6
    person = index if generator.random() < 0.6 else materials.faces.draw(generator)
    stuff = materials.skin(person, generator) if bare else materials.any(generator)
    begins = place if generator.random() < 0.4 else place - along
    thick = size * generator.uniform(0.07, 0.16)
    mask = _limb(size, begins, place + along, thick, thick * generator.uniform(0.9, 1.3))
    return _over(None, stuff, mask, rounded(mask, generator.uniform(0.1, 0.5), generator.uniform(0, 2 * np.pi)))


def microphone(materials: Materials, index: int, place: np.ndarray, generator: Generator) -> Occluder:
    """A ball or a barrel on a handle, or the thin arm of a headset."""
    size = materials.size
    dark = generator.uniform(10, 90) if generator.random() < 0.75 else generator.uniform(90, 230)
    tint = dark * (1 + generator.uniform(-0.1, 0.1, 3))
    if generator.random() < 0.15:
        tint = generator.uniform(0, 255, 3)  # a foam cap in a station's colour
    noise = generator.standard_normal((size, size, 1), np.float32) * generator.uniform(2, 18)
    stuff = np.clip(np.broadcast_to(tint, (size, size, 3)) + noise, 0, 255)
    light = generator.uniform(0, 2 * np.pi)
    comes, angle = _inward(place, size, generator)
    if generator.random() < 0.25:  # a headset: a bent thin tube with a small head
        bend = place + comes * size * 0.3 + generator.uniform(-0.1, 0.1, 2) * size
        start = place + comes * size
        t = np.linspace(0, 1, 12)[:, None]
        curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t * t * place
        mask = _canvas(size)
        thick = int(generator.integers(1, 4))
        cv2.polylines(mask, [_fixed(curve)], False, 255, thick, cv2.LINE_AA, 4)
        occluder = _over(None, stuff, mask, 1.0)
        head = _ellipse(size, place, generator.uniform(2.5, 7, 2) * size / 128, np.degrees(angle))
        return _over(occluder, stuff, head, rounded(head, 0.5, light))
    radius = size * generator.uniform(0.06, 0.17)
    grip = radius * generator.uniform(0.45, 0.9)
    handle = _limb(size, place + comes * radius, place + comes * size * 2, grip, grip * generator.uniform(0.5, 1))
    occluder = _over(None, stuff * generator.uniform(0.5, 1.3), handle, rounded(handle, 0.6, light))
    axes = np.array([radius * generator.uniform(1, 1.6), radius])
    head = _ellipse(size, place, axes, np.degrees(angle))
    return _over(occluder, np.clip(stuff, 0, 255), head, rounded(head, generator.uniform(0.3, 0.7), light))


def cup(materials: Materials, index: int, place: np.ndarray, generator: Generator) -> Occluder:
    """A cup, a glass or a bottle, with fingers around it now and then."""
    size = materials.size
    width, height = size * generator.uniform(0.1, 0.2), size * generator.uniform(0.16, 0.4)
    turn = np.radians(generator.uniform(-35, 35))
    taper = generator.uniform(0.7, 1.05)
    ring = np.array([[-width, -height], [width, -height], [width * taper, height], [-width * taper, height]])
    spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    body = _polygon(size, place + ring @ spin.T)
    light = generator.uniform(0, 2 * np.pi)
    stuff = materials.any(generator)
    occluder = _over(None, stuff, body, rounded(body, generator.uniform(0.1, 0.6), light))
    lip = _ellipse(size, place + spin @ np.array([0, -height]), np.array([width, width * 0.3]), np.degrees(turn))
    occluder = _over(occluder, stuff, lip, generator.uniform(0.4, 1.2))
    if generator.random() < 0.5:
        skin = materials.skin(index if generator.random() < 0.6 else materials.faces.draw(generator), generator)
        side = 1 if generator.random() < 0.5 else -1
        for finger in range(4):
            middle = place + spin @ np.array([0, height * (-0.5 + 0.33 * finger)])
            outer = middle + spin @ np.array([side * width * 2.5, 2.0])
            part = _limb(size, outer, middle, size * 0.045, size * 0.036)
            occluder = _over(occluder, skin, part, rounded(part, 0.45, light))
    return occluder


def thing(materials: Materials, index: int, place: np.ndarray, generator: Generator) -> Occluder:
    """A smooth random blob."""
    size = materials.size
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    radius = np.ones_like(angle)
    for wave in range(2, 6):
        radius += generator.normal(0, 0.45 / wave) * np.cos(wave * angle + generator.uniform(0, 2 * np.pi))
    radius = np.clip(radius, 0.25, 2.2) * size * generator.uniform(0.06, 0.24)
    ring = np.stack([np.cos(angle), np.sin(angle) * generator.uniform(0.5, 1)], 1) * radius[:, None]
    mask = _polygon(size, place + ring)
    return _solid(materials, mask, generator)


def bar(materials: Materials, index: int, place: np.ndarray, generator: Generator) -> Occluder:
    """A straight edge-to-edge bar: a stand, a pole, a cable, a frame."""
    size = materials.size
    angle = generator.uniform(0, np.pi)
    along = np.array([np.cos(angle), np.sin(angle)]) * size * 2
    thick = size * (generator.uniform(0.01, 0.03) if generator.random() < 0.4 else generator.uniform(0.03, 0.1))
    mask = _limb(size, place - along, place + along, thick, thick)
    return _solid(materials, mask, generator)


def sheet(materials: Materials, index: int, place: np.ndarray, generator: Generator) -> Occluder:
    """A telephone, a card, a sheet of paper, a sign."""
    size = materials.size
    box = (
        (float(place[0]), float(place[1])),
        (float(size * generator.uniform(0.12, 0.6)), float(size * generator.uniform(0.12, 0.6))),
        float(generator.uniform(-50, 50)),
    )
    mask = _polygon(size, cv2.boxPoints(box))
    ramp = np.linspace(generator.uniform(0.7, 1), generator.uniform(0.9, 1.15), size, dtype=np.float32)
    return _over(None, materials.any(generator), mask, np.broadcast_to(ramp[:, None], (size, size)).copy())


def cloth(materials: Materials, index: int, place: np.ndarray, generator: Generator) -> Occluder:
    """A scarf, a collar or a mask: from one side of the view up to a wavy edge with folds."""
    size = materials.size
    x = np.linspace(-1, 1, 40)
    edge = sum(generator.normal(0, 0.05) * np.sin(wave * np.pi * x + generator.uniform(0, 6)) for wave in range(1, 5))
    bend = generator.uniform(-0.5, 0.5) * x * x
    ring = np.stack([x * 1.5, edge + bend], 1)
    # The edge is wavy; the other three sides lie outside the view.
    ring = np.concatenate([ring, [[1.5, 3], [-1.5, 3]]]) * size * 0.7
    _, angle = _inward(place, size, generator)
    turn = angle - np.pi / 2
    spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    mask = _polygon(size, place + ring @ spin.T)
    folds = cv2.GaussianBlur(generator.standard_normal((size, size), np.float32), (0, 0), generator.uniform(3, 8))
    bright = 1 + folds / max(float(np.abs(folds).max()), 1e-3) * generator.uniform(0.1, 0.5)
    return _over(None, materials.any(generator), mask, bright.astype(np.float32))


def hair(materials: Materials, index: int, place: np.ndarray, generator: Generator) -> Occluder:
    """A lock or some strands that hang into the face, in the person's own hair or somebody else's."""
    size = materials.size
    person = index if generator.random() < 0.5 else materials.faces.draw(generator)
    stuff = materials.hair(person, generator).astype(np.float32)
    if generator.random() < 0.5:  # one hair colour, light and dark by strand
        tone = np.median(stuff.reshape(-1, 3), 0)
        stuff = np.broadcast_to(tone, stuff.shape) + generator.standard_normal((size, size, 1), np.float32) * 8
    begins = np.array([place[0] + generator.uniform(-0.5, 0.5) * size, -0.1 * size])
    ends = place + np.array([generator.uniform(-0.15, 0.15), generator.uniform(0, 0.35)]) * size
    bend = (begins + ends) / 2 + generator.uniform(-0.25, 0.25, 2) * size
    t = np.linspace(0, 1, 14)[:, None]
    lock = generator.random() < 0.5
    count = int(generator.integers(12, 40)) if lock else int(generator.integers(2, 12))
    width = size * (generator.uniform(0.02, 0.07) if lock else generator.uniform(0.05, 0.25))
    mask, bright = _canvas(size), np.ones((size, size), np.float32)
    # Strand by strand along one curve, each a little beside it.
    for _ in range(count):
        aside = generator.normal(0, width, (3, 2))
        a, b, c = begins + aside[0] * 2, bend + aside[1], ends + aside[2] * (0.5 if lock else 1)
        curve = _fixed((1 - t) ** 2 * a + 2 * t * (1 - t) * b + t * t * c)
        thick = int(generator.integers(1, 4 if lock else 3))
        cv2.polylines(mask, [curve], False, 255, thick, cv2.LINE_AA, 4)
        cv2.polylines(bright, [curve], False, float(generator.uniform(0.55, 1.35)), thick, cv2.LINE_8, 4)
    return _over(None, np.clip(stuff, 0, 255), mask, bright)


def letter(materials: Materials, index: int, place: np.ndarray, generator: Generator) -> Occluder:
    """A thick letter; never trained on, so that scores tell about shapes which are new."""
    size = materials.size
    mask = _canvas(size)
    sign = chr(int(generator.integers(ord("A"), ord("Z") + 1)))
    corner = (round(float(place[0]) - 0.2 * size), round(float(place[1]) + 0.2 * size))
    thick = int(generator.integers(size // 16, size // 7))
    cv2.putText(mask, sign, corner, cv2.FONT_HERSHEY_SIMPLEX, size / 50, 255, thick, cv2.LINE_AA)
    return _solid(materials, mask, generator)


def star(materials: Materials, index: int, place: np.ndarray, generator: Generator) -> Occluder:
    """A jagged shape, as leaves are; never trained on."""
    size = materials.size
    count = int(generator.integers(5, 11))
    angle = np.linspace(0, 2 * np.pi, 2 * count, endpoint=False) + generator.uniform(0, 2 * np.pi)
    radius = np.where(np.arange(2 * count) % 2, generator.uniform(0.35, 0.7), 1.0) * size * generator.uniform(0.1, 0.25)
    mask = _polygon(size, place + np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None])
    return _solid(materials, mask, generator)


Draw = Callable[[Materials, int, np.ndarray, Generator], Occluder]

TRAINED: dict[str, tuple[Draw, float]] = {
    # name: how it is drawn, and what part of all occluders
    "hand": (hand, 0.3),
    "arm": (arm, 0.06),
    "microphone": (microphone, 0.14),
    "cup": (cup, 0.08),
    "thing": (thing, 0.1),
    "bar": (bar, 0.06),
    "sheet": (sheet, 0.08),
    "cloth": (cloth, 0.06),
    "hair": (hair, 0.12),
}
# Shapes for scores alone.
HELD: dict[str, Draw] = {"letter": letter, "star": star}
