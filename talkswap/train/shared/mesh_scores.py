"""How well a SyncFormer speaks: figures on held-out clips, autoregressive as in use, and a sheet of meshes to look at.

A clip's style reference is its own beginning.  How far the mouth moves is scored on the rest of the clip; when it moves is
scored on all of it, since a style vector knows no time.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from talkswap.animation.motion import MeshMotion, mesh_motion
from talkswap.animation.space import lip_opening, mouth_width
from talkswap.animation.sync_former import SyncFormer
from talkswap.faces.measures import pearson
from talkswap.faces.mesh import FACE_OVAL, INNER_LIPS, OUTER_LIPS
from talkswap.train.shared.mesh_labels import MeshLabels
from talkswap.train.shared.speech_labels import SOUNDS
from talkswap.types import FloatArray
from talkswap.voice.mel import SILENCE, MelConfig

Whole = Callable[[MeshLabels], FloatArray]
LIPS = [*OUTER_LIPS, *INNER_LIPS]
CLOSED = SOUNDS.index("closed lips")
SHUT = 0.02  # lip opening up to which lips count as shut; or 15% of the 90% quantile, where that is more


@dataclass(frozen=True)
class Spoken:
    """One held-out clip: what its mouth did, and what the network made of its voice in its own style."""

    clip: MeshLabels
    reference: FloatArray  # S 478 3
    times: FloatArray  # T s, on the sound's clock
    truth: FloatArray  # T 478 3 shapes
    later: NDArray[np.bool_]  # T, behind the reference
    motion: MeshMotion

    def shapes(self, shift: float = 0.0) -> FloatArray:
        """What the network made at the times, or with the voice ``shift`` seconds late (T 478 3)."""
        return self.clip.template + self.motion.at(list(self.times - shift))


def whole_voice(former: SyncFormer, clip: MeshLabels) -> FloatArray:
    """What the network hears of a clip: log-mel, or samples."""
    if former.config.audio == "wav2vec2":
        return np.asarray(clip.voice, np.float32) / np.float32(32767)
    return clip.mel[clip.room : len(clip.mel) - clip.room].astype(np.float32)


def own_reference(clip: MeshLabels, whole: Whole, count: int, rate: int) -> tuple[FloatArray, int]:
    """Displacements (S 478 3) of the clip's beginning, at most half of it, and how many frames it takes."""
    count = min(count, int(clip.seconds * rate) // 2)
    values, present = clip.at(np.arange(count) / rate, whole(clip))
    return values[present > 0], count


def speak_clip(former: SyncFormer, clip: MeshLabels, whole: Whole) -> Spoken:
    rate = former.config.rate
    reference, used = own_reference(clip, whole, former.config.references, rate)
    times = np.arange(int(clip.seconds * rate)) / rate
    values, present = clip.at(times, whole(clip))
    keep = present > 0
    truth = clip.template + values[keep]
    motion = mesh_motion(former, whole_voice(former, clip), reference)
    later = np.arange(len(times))[keep] >= used
    return Spoken(clip, reference, times[keep].astype(np.float32), truth, later, motion)


def opening_figures(spoken: Sequence[Spoken], name: str) -> dict[str, float]:
    """Correlation of the opening, at a wrong time too, and amplitude; means over speakers, or medians."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for each in spoken:
        rows = found[each.clip.speaker]
        true, made = lip_opening(each.truth), lip_opening(each.shapes())
        rows["opening"].append(pearson(made, true))
        rows["width"].append(pearson(mouth_width(each.shapes()), mouth_width(each.truth)))
        rows["opening-as-recorded"].append(pearson(lip_opening(each.shapes(-each.clip.lag)), true))
        late = each.times > 1.0
        if late.sum() > 20:
            rows["opening-shifted"].append(pearson(lip_opening(each.shapes(1.0))[late], true[late]))
        made, true = made[each.later], true[each.later]
        rows["amplitude"].append(float(made.std() / max(float(true.std()), 1e-3)))
        rows["mean-ratio"].append(float(made.mean() / max(float(true.mean()), 1e-3)))
        rows["change"].append(float(np.abs(np.diff(made)).mean() / max(float(np.abs(np.diff(true)).mean()), 1e-4)))
    figures = {}
    for key in ("opening", "opening-as-recorded", "opening-shifted", "width"):
        values = [np.mean(rows[key]) for rows in found.values() if rows[key]]
        figures[f"{name}-{key}"] = float(np.mean(values)) if values else 0.0
    for key in ("amplitude", "mean-ratio", "change"):
        figures[f"{name}-{key}"] = float(np.median([v for rows in found.values() for v in rows[key]]))
    return figures


def lip_components(spoken: Sequence[Spoken], count: int = 6) -> dict[str, float]:
    """Mean correlation per clip of the first principal components of the lips' mesh (40 points)."""
    centred = [each.truth[:, LIPS].reshape(len(each.truth), -1) for each in spoken]
    centred = [rows - rows.mean(0) for rows in centred]
    _, _, axes = np.linalg.svd(np.concatenate(centred), full_matrices=False)
    results = []
    for each, true in zip(spoken, centred, strict=True):
        made = each.shapes()[:, LIPS].reshape(len(true), -1)
        results.append([pearson((made - made.mean(0)) @ axis, true @ axis) for axis in axes[:count]])
    means = np.mean(results, 0)
    return {"lip-components": float(means.mean()), **{f"lip-component-{k + 1}": float(v) for k, v in enumerate(means)}}


def style_statistics(shapes: FloatArray) -> FloatArray:
    """Amplitude (log deviation of the opening), mean opening, mean and deviation of the width."""
    opening, width = lip_opening(shapes), mouth_width(shapes)
    return np.array([np.log(opening.std() + 1e-3), opening.mean(), np.log(width.std() + 1e-3), width.mean()])


def style_figures(former: SyncFormer, spoken: Sequence[Spoken], voices: int = 4) -> dict[str, float]:
    """How often a voice in the style of A comes out nearer to A than to B, over pairs of speakers.

    Amplitude: deviation of the opening.  Width: deviation and mean of the mouth's width.  Templates are one and the same, so
    that displacements alone are compared.
    """
    chosen = list({each.clip.speaker: each for each in spoken}.values())
    if len(chosen) < 2 or former.config.style == "constant":
        return {}
    template = chosen[0].clip.template
    own = np.array([style_statistics(template + each.reference) for each in chosen])  # K 4
    scale = own.std(0) + 1e-6
    hits: dict[str, list[bool]] = defaultdict(list)
    for voice in chosen[:: max(1, len(chosen) // voices)]:
        made = []
        for each in chosen:
            motion = mesh_motion(former, whole_voice(former, voice.clip), each.reference)
            made.append(style_statistics(template + motion.at(list(voice.times))))
        for a in range(len(chosen)):
            for b in range(len(chosen)):
                if a != b:
                    near, far = np.abs(made[a] - own[a]) / scale, np.abs(made[a] - own[b]) / scale
                    hits["amplitude"].append(bool(near[0] < far[0]))
                    hits["width"].append(bool(np.hypot(*near[2:]) < np.hypot(*far[2:])))
                    hits["all"].append(bool(np.linalg.norm(near) < np.linalg.norm(far)))
    return {f"style-{name}": float(np.mean(values)) for name, values in hits.items()}


def seam_figure(former: SyncFormer, spoken: Sequence[Spoken]) -> float:
    """Median frame-to-frame change where chunks meet over the 95th percentile of changes elsewhere; below 1 is seamless."""
    across, within = [], []
    step = former.config.chunk - former.config.overlap
    for each in spoken:
        frames = each.clip.template + each.motion.at(list(np.arange(len(each.motion)) / former.config.rate))
        change = np.linalg.norm(np.diff(frames[:, LIPS], axis=0), axis=2).mean(1)
        seam = np.zeros(len(change), bool)
        for start in range(step, len(change), step):
            seam[start - 1 : start + former.config.overlap] = True
        across.append(change[seam])
        within.append(change[~seam])
    joined = np.concatenate(across)
    if not len(joined):
        return 0.0
    return float(np.quantile(joined, 0.95) / max(float(np.quantile(np.concatenate(within), 0.95)), 1e-6))


def silence_opening(former: SyncFormer, spoken: Sequence[Spoken]) -> float:
    """Mean opening after two seconds of digital silence, over the speakers' styles."""
    mel: FloatArray = np.full((int(MelConfig().rate) * 3, former.config.mel.bins), SILENCE, np.float32)
    samples: FloatArray = np.zeros(3 * 16000, np.float32)
    silence = samples if former.config.audio == "wav2vec2" else mel
    values = []
    for each in list({s.clip.speaker: s for s in spoken}.values())[:6]:
        motion = mesh_motion(former, silence, each.reference)
        values.append(lip_opening(each.clip.template + motion.at([2.0]))[0])
    return float(np.mean(values))


def closed_share(opening: FloatArray, times: FloatArray, sound: NDArray[np.integer[Any]]) -> tuple[int, int]:
    """Of the m, b and p of a stretch, in how many the lips shut; and how many there are.

    Args:
        opening: T.
        times: T s.
        sound: the label of each mel frame, indices into :data:`talkswap.train.shared.speech_labels.SOUNDS`.
    """
    rate = float(MelConfig().rate)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], (sound == CLOSED).astype(np.int8), [0]])))
    shut = max(SHUT, 0.15 * float(np.quantile(opening, 0.9)))
    count = closed = 0
    for first, last in edges.reshape(-1, 2):
        inside = (times >= first / rate - 0.04) & (times <= last / rate + 0.04)
        if inside.sum() > 1:
            count += 1
            closed += bool(opening[inside].min() <= shut)
    return closed, count


def bilabial_figure(
    former: SyncFormer, spoken: Sequence[Spoken], mel: FloatArray, sound: NDArray[np.integer[Any]]
) -> float:
    """Share of m, b and p with the lips shut, of a synthetic voice with known sounds, over the speakers' styles."""
    rows = min(len(mel), int(60 * MelConfig().rate))
    times = np.arange(int(rows / float(MelConfig().rate) * 25), dtype=np.float32) / np.float32(25)
    closed = count = 0
    for each in list({s.clip.speaker: s for s in spoken}.values())[:8]:
        motion = mesh_motion(former, mel[:rows].astype(np.float32), each.reference)
        shut, number = closed_share(lip_opening(each.clip.template + motion.at(list(times))), times, sound[:rows])
        closed, count = closed + shut, count + number
    return closed / max(count, 1)


def score_motion(
    former: SyncFormer,
    groups: Mapping[str, Sequence[MeshLabels]],
    whole: Whole,
    speech: tuple[FloatArray, NDArray[np.integer[Any]]] | None = None,
) -> dict[str, float]:
    """All figures: those of the opening for every group of clips, the others for the first that has any.

    Args:
        speech: log-mel and sound labels of a synthetic voice.
    """
    figures: dict[str, float] = {}
    for name, clips in groups.items():
        spoken = [speak_clip(former, clip, whole) for clip in clips if clip.seconds > 3]
        spoken = [each for each in spoken if each.later.sum() > 20 and len(each.reference) > 10]
        if not spoken:
            continue
        if not figures:
            figures |= lip_components(spoken) | style_figures(former, spoken)
            figures |= {"seams": seam_figure(former, spoken), "opening-in-silence": silence_opening(former, spoken)}
            if speech is not None:
                figures["bilabials-shut"] = bilabial_figure(former, spoken, *speech)
        figures |= opening_figures(spoken, name)
    return figures


def draw_strips(path: Path, former: SyncFormer, clips: Sequence[MeshLabels], whole: Whole, frames: int = 10) -> None:
    """A sheet: per clip a row of true meshes and, below, of what the network made; and the opening over time."""
    import cv2

    rows = []
    for clip in clips:
        each = speak_clip(former, clip, whole)
        if len(each.truth) < frames:
            continue
        made = each.shapes()
        picked = np.linspace(0, min(len(made), 75) - 1, frames).astype(int)
        for shapes, colour in ((each.truth, (120, 120, 120)), (made, (30, 30, 200))):
            cells = []
            for shape in shapes[picked]:
                cell = np.full((110, 110, 3), 255, np.uint8)
                points = ((shape[:, :2] - each.clip.template[[61, 291], :2].mean(0)) * 55 + (55, 50)) * 8
                for ring in (OUTER_LIPS, INNER_LIPS, FACE_OVAL):
                    cv2.polylines(cell, [points[list(ring)].astype(np.int32)], True, colour, 1, cv2.LINE_AA, 3)
                cells.append(cell)
            rows.append(np.concatenate(cells, 1))
        panel = np.full((70, 110 * frames, 3), 255, np.uint8)
        top = max(float(lip_opening(each.truth).max()), 0.05)
        for shapes, colour in ((each.truth, (150, 150, 150)), (made, (30, 30, 200))):
            opening = lip_opening(shapes)
            x = np.linspace(4, panel.shape[1] - 4, len(opening))
            y = 64 - 58 * np.clip(opening / top, 0, 1.05)
            cv2.polylines(panel, [np.stack([x, y], 1).astype(np.int32)], False, colour, 1, cv2.LINE_AA)
        label = f"{clip.name}: r = {pearson(lip_opening(made), lip_opening(each.truth)):.2f}"
        cv2.putText(panel, label, (8, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1)
        rows.append(panel)
    if rows:
        cv2.imwrite(str(path), np.concatenate(rows))
