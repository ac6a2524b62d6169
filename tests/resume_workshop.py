"""What the tests of an interrupted render share: a small system, and a process that is killed again and again.

The system answers at once, and its answers depend on everything that a render which goes on has to have as it was:
the first face of the clip, the faces of the same batch, the tracker's smoothed landmarks and the voice.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from talkswap.faces.mask import face_mask
from talkswap.render import prepare as preparation
from talkswap.render.render import render_clip
from talkswap.systems.contract import CropSpec, Portrait, Source, SpeechFeatures
from talkswap.types import AlignedFace, ProgressEvent, RenderPlan, UInt8Image, Voice
from talkswap.voice.activity import SpeechGate
from talkswap.voice.features import MelFeatures, listen


class SmallSystem:
    """Tints faces by what a system may depend on."""

    name = "small"
    crop = CropSpec(64)
    guided = False

    def listen(self, voice: Voice) -> SpeechFeatures:
        return listen(voice, MelFeatures(), 9)

    def begin(
        self, portrait: Portrait, source: Source | None, features: SpeechFeatures | None, gate: SpeechGate | None = None
    ) -> SmallPerformance:
        return SmallPerformance(portrait, source, features)


class SmallPerformance:
    """Answers at once; inverts the face where nothing is swapped."""

    def __init__(self, portrait: Portrait, source: Source | None, features: SpeechFeatures | None) -> None:
        self.portrait, self.source, self.features = portrait, source, features

    def render(self, faces: Sequence[AlignedFace], times: Sequence[Fraction]) -> list[UInt8Image]:
        if self.source is None:
            return [255 - face.crop for face in faces]
        batch = np.stack([face.crop for face in faces]).astype(np.float32)  # N 64 64 3
        first = self.portrait.reference.crop.astype(np.float32).mean((0, 1))
        speech = np.zeros(len(faces)) if self.features is None else self.features.at(times).mean((1, 2)) * 3
        tint = first[None] * 0.5 + batch.mean((0, 1, 2))[None] * 0.3 + speech[:, None] * 8
        crops = 0.4 * batch + 0.3 * self.source.face.crop + 0.3 * tint[:, None, None]
        return list(crops.clip(0, 255).round().astype(np.uint8))

    def mask(self, face: AlignedFace) -> np.ndarray:
        return face_mask(face.landmarks, SmallSystem.crop.size)


def small_system(*_: Any) -> SmallSystem:
    """In the place of :func:`talkswap.systems.registry.load_system`."""
    return SmallSystem()


def content(path: Path) -> tuple[list[tuple[Any, bytes]], bytes]:
    """Every decoded picture with its time, and the decoded sound."""
    with av.open(str(path)) as container:
        pictures = [(f.pts * f.time_base, f.to_ndarray().tobytes()) for f in container.decode(video=0)]
    with av.open(str(path)) as container:
        sound = b"".join(f.to_ndarray().tobytes() for f in container.decode(audio=0))
    return pictures, sound


def _child(plan: RenderPlan, said: Path, events: int) -> None:
    """Render in a process of its own, a byte for every event, and leave without any clearing up."""
    code = 1
    try:
        lines: list[str] = []

        def hear(event: ProgressEvent) -> None:
            if event.message:
                lines.append(event.message)
                said.write_text("\n".join(lines))
            os.write(events, b".")

        report = render_clip(plan, hear)
        facts = [report.frames_out, report.faceless_frames, report.identity_similarity]
        said.with_suffix(".json").write_text(json.dumps(facts))
        code = 0
    finally:
        os._exit(code)


def _run(plan: RenderPlan, said: Path, least: int | None, pause: float = 0.0) -> tuple[int, int]:
    """Render; SIGKILL ``pause`` seconds after the event ``least``.  Returns how many came, and the wait status."""
    said.unlink(missing_ok=True)
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        _child(plan, said, theirs)
    os.close(theirs)
    came = 0
    while least is None or came < least:
        read = os.read(ours, 1)
        if not read:
            break
        came += 1
    else:
        time.sleep(pause)
        os.kill(child, signal.SIGKILL)
    os.close(ours)
    return came, os.waitpid(child, 0)[1]


def kill_often(source: Path, target: Path, audio: Path, folder: Path, kills: int) -> dict[str, Any]:
    """Render once in peace, then kill at random moments until it has happened so often; compare whatever got done."""
    preparation.load_system = small_system  # type: ignore[assignment]
    said = folder / "said.txt"
    whole, broken = folder / "whole.mp4", folder / "broken.mp4"
    shared: dict[str, Any] = {"preset": "compact", "device": "cpu", "segment_seconds": 0.16, "batch_size": 2}
    shared |= {"provenance": False}  # marks have tests of their own, and take longer than these frames
    events, status = _run(RenderPlan(source, target, audio, whole, **shared), said, None)
    assert status == 0, said.read_text() if said.exists() else "the render said nothing"
    facts = json.loads(said.with_suffix(".json").read_text())
    plan = RenderPlan(source, target, audio, broken, **shared)
    chance = random.Random(5)
    killed = done = equal = resumed = 0
    while killed < kills or not broken.exists():
        least = None if killed >= kills else chance.randint(1, events)
        # After the last frame come joining and the final pass, which tell nothing.
        pause = chance.uniform(0, 0.4 if least == events else 0.03)
        _, status = _run(plan, said, least, pause)
        resumed += said.exists() and "goes on at frame" in said.read_text()
        killed += os.WIFSIGNALED(status)
        if not os.WIFSIGNALED(status):
            assert status == 0, said.read_text()
            told = json.loads(said.with_suffix(".json").read_text())
            assert told == facts, f"{told} instead of {facts}: {said.read_text()}"
        if broken.exists():  # killed or not
            done, equal = done + 1, equal + (content(broken) == content(whole))
            if killed < kills:
                broken.unlink()
    left = sorted(path.name for path in folder.iterdir() if path.name.startswith("."))
    return {"killed": killed, "done": done, "equal": equal, "resumed": resumed, "left": left}


if __name__ == "__main__":
    *paths, kills = sys.argv[1:]
    print(json.dumps(kill_often(*map(Path, paths), kills=int(kills))))
