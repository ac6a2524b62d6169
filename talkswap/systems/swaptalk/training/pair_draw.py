"""Training pairs of the face swap as pictures: (source S, target T, truth Res), drawn by seed.

Two kinds are mixed.  *Different people*: Res is a proxy's swap of a clean source, as in the paper.  *Same person*: the
target is itself a proxy swap, another person laid over a real picture, and S is a second picture of the person who was
covered; the truth is then the untouched picture, so the network also learns what geometry alone gets wrong.

Only pairs that the proxy can make are drawn: heads turned far aside or apart, a source whose forehead is under hair (its
texture would be missing) and swaps that cover too little of the face are refused, counted by reason, and drawn anew.
Any :class:`Proxy` can make the truth of different people; the guide, which the network is given
when it renders, is always the mesh's.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from talkswap.checkpoints.networks import resolve
from talkswap.data.stills import Stills, open_stills
from talkswap.errors import TrainingDataError, UsageError
from talkswap.faces.guide import FOREHEAD, FaceGuide, GuideConfig, Guided
from talkswap.faces.mask import face_mask
from talkswap.faces.measures import yaw_degrees
from talkswap.systems.registry import systems
from talkswap.types import AlignedFace, FloatArray, UInt8Image

DIFFERENT, SAME = 0, 1
MIDDLE = (116, 345, 50, 280, 6, 195)  # cheeks and nose: skin on every face


@dataclass(frozen=True)
class PairConfig:
    """What is drawn and how it is disturbed."""

    same: float = 0.35  # share of same-person samples
    same_photos: float = 0.1  # of those, share from people photographed twice; the rest are two frames of a clip
    source_portraits: float = 0.75  # share of portraits among sources of different-people samples; the rest are frames
    target_portraits: float = 0.45
    light: float = 0.15  # gain and offset of the source that the guide is made from
    colour: float = 0.1  # per-channel gain
    blur: float = 0.25  # probability
    compression: float = 0.3  # probability
    jitter: float = 0.7  # px of the crop: landmark error that the guide must bear
    picture: int = 160  # px: side at which the truth is stored
    source_forehead: float = 0.8  # share of a source's forehead that must be seen: bangs and hats have less
    covered: float = 0.5  # share of the target's face that the swap must cover
    colour_gap: float = 110.0  # levels between the faces' mean colours above which light cannot be taken over
    tries: int = 200  # draws until a pair must have been found
    guide: GuideConfig = GuideConfig()


class Proxy(Protocol):
    """A face swap that needs no training of ours."""

    name: str

    def swap(self, source: AlignedFace, target: AlignedFace) -> UInt8Image:
        """The target's crop (S S 3 uint8) with the source's face."""
        ...


class MeshProxy:
    """Dense-landmark texture warp with the source's proportions and the target's light
    (:mod:`talkswap.faces.guide`).
    """

    name = "mesh"

    def __init__(self, config: GuideConfig | None = None) -> None:
        self.config = config or GuideConfig()

    def swap(self, source: AlignedFace, target: AlignedFace) -> UInt8Image:
        return FaceGuide(source.crop, source.landmarks, self.config).lay(target.crop, target.landmarks).crop


def load_proxy(name: str, *files: Path | None) -> Proxy:
    """A proxy by its name: ``mesh``, or one that a system brings (:attr:`SystemDescription.proxies`).

    Args:
        files: of the proxy's networks, in the order in which it takes them.

    Raises:
        UsageError: no such proxy, or its files were not given.
    """
    if name == "mesh":
        return MeshProxy()
    proxies = {name: proxy for system in systems().values() for name, proxy in system.proxies.items()}
    if name not in proxies:
        raise UsageError(f"no proxy named {name!r}", f"proxies are mesh, {', '.join(proxies)}")
    if not all(files) or not files:
        raise UsageError(f"the proxy {name} needs its networks", "name their files, or use --proxy mesh")
    proxy: Proxy = resolve(proxies[name])(*files)
    return proxy


def compatible(
    source_yaw: float, target_yaw: float, source_limit: float = 35.0, target_limit: float = 55.0, between: float = 50.0
) -> bool:
    """Whether the mesh proxy can make this pair: it cannot show skin that the source photo does not (angles in
    degrees).
    """
    return (
        abs(source_yaw) <= source_limit and abs(target_yaw) <= target_limit and abs(source_yaw - target_yaw) <= between
    )


class Pair(NamedTuple):
    """One drawn sample, as pictures of the aligned crop (S S 3 uint8)."""

    source: UInt8Image  # clean
    target: UInt8Image
    guide: UInt8Image  # made from a disturbed source and disturbed landmarks
    result: UInt8Image  # the truth
    mask: FloatArray  # S S: where the truth differs from the target
    kind: int


class PairDraw:
    """Draws pairs from the prepared folders of one split.

    Args:
        proxy: makes the truth of different people; None: the mesh.
    """

    def __init__(
        self, data: Path, config: PairConfig | None = None, split: str = "train", proxy: Proxy | None = None
    ) -> None:
        self.config = config or PairConfig()
        self.proxy = proxy if proxy is not None and proxy.name != "mesh" else None  # the mesh's mask is known exactly
        self.refused: Counter[str] = Counter()
        self._foreheads: dict[tuple[int, int], float] = {}
        self.sets = [open_stills(data / f"{name}-{split}") for name in ("portraits", "frames")]
        self.yaw = [np.array([yaw_degrees(points) for points in stills.landmarks], np.float32) for stills in self.sets]
        self.people = [_grouped(self.sets[0], "identity"), _grouped(self.sets[1], "name")]
        if not self.people[1] and config is not None and config.same > 0:
            raise TrainingDataError("no clip has two frames", "set the share of same-person pairs to 0")

    def _who(self, place: tuple[int, int]) -> str:
        row = self.sets[place[0]].meta[place[1]]
        return str(row.get("identity") or row["name"])

    def _still(self, place: tuple[int, int]) -> tuple[UInt8Image, FloatArray]:
        stills = self.sets[place[0]]
        return np.asarray(stills.crops[place[1]]), np.asarray(stills.landmarks[place[1]], np.float32)

    def _other(self, random: np.random.Generator, target: tuple[int, int], portraits: float) -> tuple[int, int]:
        """A compatible picture of somebody else, whose forehead can be seen."""
        for _ in range(self.config.tries):
            which = 0 if random.random() < portraits else 1
            place = (which, int(random.integers(len(self.sets[which]))))
            if self._who(place) == self._who(target):
                continue
            if not compatible(float(self.yaw[which][place[1]]), float(self.yaw[target[0]][target[1]])):
                self.refused["yaw"] += 1
            elif self._forehead(place) < self.config.source_forehead:
                self.refused["hair on the source's forehead"] += 1
            elif self._colour_gap(place, target) > self.config.colour_gap:
                self.refused["light"] += 1
            else:
                return place
        often = ", ".join(f"{count} x {reason}" for reason, count in self.refused.most_common(3))
        raise TrainingDataError(
            f"no compatible source for a target ({often or 'nobody else'})",
            "prepare more people, or allow more hair (--forehead)",
        )

    def _target(self, random: np.random.Generator) -> tuple[int, int]:
        for _ in range(self.config.tries):
            which = 0 if random.random() < self.config.target_portraits else 1
            row = int(random.integers(len(self.sets[which])))
            if compatible(0.0, float(self.yaw[which][row])):
                return which, row
            self.refused["target turned away"] += 1
        raise TrainingDataError("no target is turned little enough", "prepare more portraits")

    def _forehead(self, place: tuple[int, int]) -> float:
        """Share of a picture's forehead that is skin, as the mesh proxy sees it: what it lays over the same picture."""
        if place not in self._foreheads:
            rgb, points = self._still(place)
            overlay = FaceGuide(rgb, points, self.config.guide).lay(rgb, points).mask
            whole = face_mask(points, rgb.shape[0])
            hull = np.zeros(whole.shape, np.uint8)
            cv2.fillConvexPoly(hull, cv2.convexHull(points[list(FOREHEAD), :2].astype(np.int32)), 1)
            self._foreheads[place] = float((overlay * hull).sum() / max(float((whole * hull).sum()), 1.0))
        return self._foreheads[place]

    def _colour_gap(self, first: tuple[int, int], second: tuple[int, int]) -> float:
        """Levels between the mean colours of the middle of two faces."""
        means = []
        for place in (first, second):
            rgb, points = self._still(place)
            ring = cv2.convexHull(points[list(MIDDLE), :2].astype(np.int32))
            x, y, width, height = cv2.boundingRect(ring)
            cut = rgb[max(0, y) : y + height : 4, max(0, x) : x + width : 4]
            means.append(cut.reshape(-1, 3).mean(0) if cut.size else np.zeros(3))
        return float(np.abs(means[0] - means[1]).max())

    def _two_of_one(self, random: np.random.Generator) -> tuple[tuple[int, int], tuple[int, int]]:
        """Source and target of one person."""
        which = 0 if self.people[0] and random.random() < self.config.same_photos else 1
        if not self.people[which]:
            which = 1 - which
        for _ in range(self.config.tries):
            group = self.people[which][int(random.integers(len(self.people[which])))]
            first, second = (int(group[int(k)]) for k in random.choice(len(group), 2, replace=False))
            if compatible(float(self.yaw[which][first]), float(self.yaw[which][second])):
                return (which, first), (which, second)
            self.refused["yaw"] += 1
        raise TrainingDataError("no person has two compatible pictures", "set the share of same-person pairs to 0")

    def draw(self, random: np.random.Generator) -> Pair:
        """One sample.

        Raises:
            TrainingDataError: none of the config's ``tries`` is good enough.
        """
        for _ in range(self.config.tries):
            # A swap that changes little would teach the network to change nothing.
            pair, target_points = self._same(random) if random.random() < self.config.same else self._different(random)
            whole = float(face_mask(target_points, pair.target.shape[0]).sum())
            if float(pair.mask.sum()) >= self.config.covered * whole:
                return pair
            self.refused["little of the face covered"] += 1
        raise TrainingDataError("no swap covers enough of a face", "lower `covered`, or prepare other portraits")

    def _different(self, random: np.random.Generator) -> tuple[Pair, FloatArray]:
        """A pair of two people, and the target's landmarks."""
        target = self._target(random)
        source = self._other(random, target, self.config.source_portraits)
        (source_rgb, source_points), (target_rgb, target_points) = self._still(source), self._still(target)
        rough = self._rough(random, source_rgb, source_points, target_rgb, target_points)
        if self.proxy is None:
            clean = FaceGuide(source_rgb, source_points, self.config.guide).lay(target_rgb, target_points)
            truth, mask = clean.crop, clean.mask
        else:
            none = np.zeros((2, 3), np.float32)
            faces = [AlignedFace(*self._still(place)[:1], none, self._still(place)[1], 0) for place in (source, target)]
            truth = self.proxy.swap(*faces)
            # A published swap states no mask; it is where its pixels differ.
            changed = (np.abs(truth.astype(np.int16) - target_rgb).max(2) > 3).astype(np.float32)
            mask = np.asarray(cv2.GaussianBlur(changed, (5, 5), 0), np.float32)
        mask = np.maximum(mask, rough.mask)
        return Pair(source_rgb, target_rgb, rough.crop, truth, mask, DIFFERENT), target_points

    def _same(self, random: np.random.Generator) -> tuple[Pair, FloatArray]:
        """A pair of one person, and the target's landmarks."""
        source, target = self._two_of_one(random)
        # The truth is a real picture; somebody else's face over it is what must be undone.
        cover = self._other(random, target, 1.0)
        (source_rgb, source_points), (truth, truth_points) = self._still(source), self._still(target)
        covered = FaceGuide(*self._still(cover), self.config.guide).lay(truth, truth_points)
        rough = self._rough(random, source_rgb, source_points, covered.crop, covered.landmarks)
        mask = np.maximum(covered.mask, rough.mask)
        return Pair(source_rgb, covered.crop, rough.crop, truth, mask, SAME), truth_points

    def _rough(
        self,
        random: np.random.Generator,
        source_rgb: UInt8Image,
        source_points: FloatArray,
        target_rgb: UInt8Image,
        target_points: FloatArray,
    ) -> Guided:
        """The guide as a render would see it: a worse photo, and landmarks that miss by a little."""
        config = self.config
        # Light and colour of a photo differ from the target's in every render.
        gain = 1 + random.uniform(-1, 1) * config.light + random.uniform(-1, 1, 3) * config.colour
        offset = random.uniform(-1, 1) * config.light * 128
        table = (np.arange(256)[:, None] * gain[None] + offset).clip(0, 255).astype(np.uint8)
        rgb = np.asarray(cv2.LUT(np.ascontiguousarray(source_rgb), table[None]), np.uint8)
        if random.random() < config.blur:
            rgb = np.asarray(cv2.GaussianBlur(rgb, (0, 0), random.uniform(0.4, 1.3)), np.uint8)
        if random.random() < config.compression:
            quality = [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(30, 85))]
            rgb = np.asarray(cv2.imdecode(cv2.imencode(".jpg", rgb, quality)[1], cv2.IMREAD_COLOR), np.uint8)
        points = [p + _smooth_noise(random, p, config.jitter) for p in (source_points, target_points)]
        return FaceGuide(rgb, points[0], config.guide).lay(target_rgb, points[1])


def _smooth_noise(random: np.random.Generator, points: FloatArray, sigma: float) -> FloatArray:
    """Errors as a landmark network makes them: half shared by the whole face, half by parts of it (478 3, px)."""
    centres = points[random.choice(len(points), 8, replace=False), :2]
    reach = max(float(np.ptp(points[:, 0])) * 0.2, 1.0)
    near = np.exp(-((points[:, None, :2] - centres[None]) ** 2).sum(2) / (2 * reach**2))  # 478 8
    local = near @ random.normal(0, sigma, (8, 3))
    return np.asarray(local + random.normal(0, 0.5 * sigma, (1, 3)), np.float32)


def _grouped(stills: Stills, key: str) -> list[NDArray[np.int64]]:
    """Row numbers of each name that occurs at least twice."""
    rows: dict[str, list[int]] = {}
    for number, entry in enumerate(stills.meta):
        if entry.get(key):
            rows.setdefault(str(entry[key]), []).append(number)
    return [np.array(group) for group in rows.values() if len(group) > 1]
