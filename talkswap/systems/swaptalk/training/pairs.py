"""The face swap's training samples, made ahead of its training by ``talkswap data pairs``: drawn, encoded, stored.

The stage ``face-swap`` then reads codes, not pictures; it may begin while this still runs.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from talkswap.errors import TrainingDataError
from talkswap.files import write_atomically
from talkswap.systems.swaptalk.training.codes import RAW_STEP, code_hash, load_vqgan
from talkswap.systems.swaptalk.training.pair_draw import DIFFERENT, SAME, Pair, PairConfig, PairDraw, Proxy
from talkswap.systems.swaptalk.vqgan import VQGAN
from talkswap.train.stage import to_tensor
from talkswap.types import ProgressEvent

PICTURES = ("source", "target", "guide", "result")


def make_pairs(
    data: Path,
    vqgan: Path,
    identity: Path,
    out: Path,
    count: int,
    seed: int = 0,
    batch: int = 4,
    config: PairConfig | None = None,
    proxy: Proxy | None = None,
    report: Callable[[ProgressEvent], None] | None = None,
) -> dict[str, Any]:
    """Draw ``count`` pairs of the training split and store their codes in ``out``; sample k depends on seed and k
    alone.

    Returns:
        How many pairs of each kind were stored, and how many were refused for which reason.

    Raises:
        TrainingDataError: no stills are prepared, or no good pair is among them.
    """
    from talkswap.faces.identity import load_identity

    config = config or PairConfig()
    draw = PairDraw(data, config, proxy=proxy)
    writer = CodeWriter(out, load_vqgan(vqgan), load_identity(identity), count, config)
    kinds: Counter[int] = Counter()
    while writer.done < count:
        # A generator for each number: a pair doesn't depend on the batch that it is drawn in.
        numbers = range(writer.done, min(writer.done + batch, count))
        pairs = [draw.draw(np.random.default_rng([seed, number])) for number in numbers]
        with torch.autocast("cpu", torch.bfloat16):
            writer.add(pairs)
        kinds.update(pair.kind for pair in pairs)
        if report is not None:
            report(ProgressEvent("pairs", writer.done, count))
    summary = {
        "kinds": {"different": kinds[DIFFERENT], "same": kinds[SAME]},
        "refused": dict(sorted(draw.refused.items())),
    }
    name = proxy.name if proxy is not None else "mesh"
    described = json.dumps({**writer.described, **summary, "proxy": name, "seed": seed}, indent=1)
    write_atomically(out / "pairs.json", described)
    return summary


def _shapes(count: int, grid: int, width: int, picture: int, identity: int) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Arrays of a folder: dtype and shape."""
    codes = {f"{name}_index": (np.uint16, (count, grid, grid)) for name in PICTURES}
    raw = {f"{name}_raw": (np.int8, (count, width, grid, grid)) for name in PICTURES}
    people = {f"{name}_identity": (np.float16, (count, identity)) for name in ("source", "result")}
    rest = {
        "mask": (np.uint8, (count, grid, grid)),
        "picture": (np.uint8, (count, picture, picture, 3)),
        "kind": (np.uint8, (count,)),
    }
    return {**codes, **raw, **people, **rest}


class PairCodes:
    """A folder of stored samples, opened as memory maps; only finished samples are counted."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "pairs.json").is_file():
            raise TrainingDataError(f"no stored pairs in {folder}", "make them with `talkswap data pairs`")
        self.folder = folder
        self.meta: dict[str, Any] = json.loads((folder / "pairs.json").read_text())
        names = _shapes(1, 1, 1, 1, 1)
        self.arrays: dict[str, np.ndarray] = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}

    def __len__(self) -> int:
        """Samples that are finished by now; grows while another process still writes."""
        return int((self.folder / "done").read_text())

    def check(self, network: VQGAN) -> None:
        """Raise TrainingDataError unless the folder was made with this encoder and these codebooks."""
        if self.meta["hash"] != code_hash(network):
            raise TrainingDataError(
                f"the pairs in {self.folder} were made with another VQGAN", "make them anew with `talkswap data pairs`"
            )

    def rows(self, numbers: NDArray[np.int64]) -> dict[str, Tensor]:
        """Samples as tensors: indices int64, raw and identities float32, mask in [0, 1], picture B 3 P P in [-1, 1]."""
        out: dict[str, Tensor] = {}
        for name, array in self.arrays.items():
            value = torch.from_numpy(np.stack([np.asarray(array[n]) for n in numbers]).astype(np.float32))
            if name.endswith("_index") or name == "kind":
                value = value.long()
            elif name.endswith("_raw"):
                value = value * RAW_STEP
            elif name == "mask":
                value = value / 255
            elif name == "picture":
                value = value.permute(0, 3, 1, 2) / 127.5 - 1
            out[name] = value
        return out


class CodeWriter:
    """Encodes drawn pairs with a frozen VQGAN and an identity network into one folder.

    Args:
        identity: crops (B 3 S S in [-1, 1]) to unit vectors (B D).
    """

    def __init__(self, folder: Path, network: VQGAN, identity: torch.nn.Module, count: int, config: PairConfig) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.network, self.identity = folder, network, identity
        side = network.config.size
        dimension = int(identity(torch.zeros(1, 3, side, side)).shape[1])
        shapes = _shapes(count, network.config.grid, network.config.code_width, config.picture, dimension)
        self.arrays = {
            name: np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
            for name, (dtype, shape) in shapes.items()
        }
        self.picture, self.done = config.picture, 0
        (folder / "done").write_text("0")
        self.described = {"hash": code_hash(network), "count": count, "config": asdict(config)}
        (folder / "pairs.json").write_text(json.dumps(self.described, indent=1))

    @torch.no_grad()
    def add(self, pairs: list[Pair]) -> None:
        """Store a few pairs (one batch of the encoder)."""
        grid, arrays = self.network.config.grid, self.arrays
        rows = slice(self.done, self.done + len(pairs))
        crops = {name: to_tensor([getattr(pair, name) for pair in pairs]) for name in PICTURES}
        # Codes and raw vectors: the stage may learn either.
        for name, crop in crops.items():
            upper, lower = self.network.encode(crop.contiguous(memory_format=torch.channels_last))
            arrays[f"{name}_index"][rows] = torch.cat([upper.number, lower.number], 1).numpy().astype(np.uint16)
            raw = torch.cat([upper.raw, lower.raw], 2) / RAW_STEP
            arrays[f"{name}_raw"][rows] = raw.round().clamp(-127, 127).to(torch.int8).numpy()
            if f"{name}_identity" in arrays:
                arrays[f"{name}_identity"][rows] = self.identity(crop).numpy().astype(np.float16)
        for offset, pair in enumerate(pairs):
            row = self.done + offset
            mask = cv2.resize(np.ascontiguousarray(pair.mask), (grid, grid), interpolation=cv2.INTER_AREA)
            arrays["mask"][row] = (mask * 255).round().astype(np.uint8)
            side = (self.picture, self.picture)
            arrays["picture"][row] = cv2.resize(pair.result, side, interpolation=cv2.INTER_AREA)
            arrays["kind"][row] = pair.kind
        # The count comes last, so that a stage that reads along sees finished rows only.
        self.done += len(pairs)
        write_atomically(self.folder / "done", str(self.done))
