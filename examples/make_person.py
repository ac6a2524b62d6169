"""Make the face of ``source.png``: a person who does not exist, blended from many and spoken by our own networks.

    python examples/make_person.py PREPARED_DATA examples/source.png

Frontal portraits of prepared training data are laid on one common mesh and averaged, so that no single person remains;
the compact VQGAN then encodes and decodes the blend.  Only the result is kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from talkswap.checkpoints.presets import find_preset
from talkswap.data.stills import open_stills
from talkswap.device import choose_device
from talkswap.faces.geometry import ffhq_affine, warp_crop
from talkswap.faces.mesh import warp_texture
from talkswap.systems.swaptalk.detail import DetailConfig, add_detail
from talkswap.systems.swaptalk.system import SwapTalk

PEOPLE = 8
SIZE = 320  # px
SEED = 5


def blend(data: Path) -> np.ndarray:
    """A face (SIZE SIZE 3) averaged from PEOPLE portraits on the mean of their meshes."""
    stills = open_stills(data / "portraits-train")
    random = np.random.default_rng(SEED)
    frontal = [i for i, m in enumerate(stills.meta) if abs(float(m["yaw"])) < 6 and float(m["mouth_open"]) < 0.03]
    chosen = random.choice(frontal, PEOPLE, replace=False)
    weights = random.dirichlet(np.full(PEOPLE, 2.0))
    points = np.stack([np.asarray(stills.landmarks[int(i)]) for i in chosen])
    shape = np.einsum("n,npc->pc", weights, points).astype(np.float32)
    # hair and shoulders cannot be averaged: they are those of the blend's low frequencies
    around = np.einsum("n,nhwc->hwc", weights, np.stack([stills.crops[int(i)] for i in chosen]).astype(np.float32))
    face = np.zeros((SIZE, SIZE, 3), np.float32)
    seen = np.zeros((SIZE, SIZE, 1), np.float32)
    for i, weight, own in zip(chosen, weights, points, strict=True):
        rgb, valid = warp_texture(np.asarray(stills.crops[int(i)]), own, shape, SIZE)
        face += weight * valid[..., None] * rgb
        seen += weight * valid[..., None]
    inside = cv2.erode((seen[..., 0] > 0.98).astype(np.float32), np.ones((15, 15), np.uint8))
    share = cv2.GaussianBlur(inside, (0, 0), 4)[..., None]
    whole = share * face / np.maximum(seen, 1e-3) + (1 - share) * around
    return warp_crop(np.clip(np.rint(whole), 0, 255).astype(np.uint8), ffhq_affine(shape, SIZE), SIZE)


def main(data: Path, out: Path) -> None:
    """Blend, encode and decode, join with the blend's fine detail, write."""
    system = SwapTalk.load("swaptalk", find_preset("compact"), choose_device("cpu"))
    face = blend(data)
    with torch.inference_mode():
        picture = system.decode(system.encode([face]))[0]
    made = add_detail(picture, face, np.ones((SIZE, SIZE), np.float32), DetailConfig())
    large = cv2.resize(made, (512, 512), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(out), large[:, :, ::-1])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
