"""Make the face swap's training samples ahead of its training: draw them, encode them, store them.

Training then reads codes, not pictures; it may begin while this still runs.  ``talkswap data pairs`` and
``python -m talkswap.systems.swaptalk.training.pairs`` do the same.
"""

from __future__ import annotations

import argparse
import hashlib
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

from talkswap.checkpoints.networks import unpack
from talkswap.data.proxy import Proxy
from talkswap.errors import InputMissingError, TrainingDataError
from talkswap.files import write_atomically
from talkswap.systems.swaptalk.training.pair_draw import DIFFERENT, SAME, Pair, PairConfig, PairDraw
from talkswap.systems.swaptalk.vqgan import VQGAN, VQGANConfig
from talkswap.types import ProgressEvent

__all__ = [
    "DIFFERENT", "PICTURES", "RAW_STEP", "SAME", "CodeWriter", "Pair", "PairCodes", "PairConfig", "PairDraw",
    "code_hash", "load_vqgan", "make_pairs",
]  # fmt: skip


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
        numbers = range(writer.done, min(writer.done + batch, count))
        made = [draw.draw(np.random.default_rng([seed, number])) for number in numbers]
        with torch.autocast("cpu", torch.bfloat16):
            writer.add(made)
        kinds.update(pair.kind for pair in made)
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


def main() -> None:
    """``python -m talkswap.systems.swaptalk.training.pairs --data CACHE --vqgan FILE --identity FOLDER --out FOLDER --count N``"""
    parser = argparse.ArgumentParser(description="Make the face swap's training pairs ahead of its training.")
    for name in ("data", "vqgan", "identity", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    cv2.setNumThreads(given.threads)
    make_pairs(given.data, given.vqgan, given.identity, given.out, given.count, given.seed)


if __name__ == "__main__":
    main()


# --- Drawn pairs as codes of one frozen VQGAN: what the stage ``face-swap`` reads instead of pictures.


RAW_STEP = 4.0 / 127  # raw vectors have unit variance and are stored in steps of this
PICTURES = ("source", "target", "guide", "result")


def code_hash(network: VQGAN) -> str:
    """sha256 over all that decides the codes of a crop: encoder and codebooks, not the decoder."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if name.startswith(("encoder.", "upper.codes", "lower.codes")):
            digest.update(name.encode())
            digest.update(value.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


def load_vqgan(path: Path, config: VQGANConfig | None = None) -> VQGAN:
    """A VQGAN from a checkpoint or an export, float32, frozen, in evaluation mode.

    Args:
        config: its sizes; None reads them from the ``.json`` beside an export, or takes the compact preset's.
    """
    from safetensors.torch import load_file

    if not path.is_file():
        raise InputMissingError(f"no VQGAN weights at {path}", "train the stage vqgan first")
    settings = path.with_suffix(".json")
    if config is None and settings.is_file():
        stored: dict[str, Any] = json.loads(settings.read_text())
        stored = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
        config = VQGANConfig(**stored)
    network = VQGAN(config or VQGANConfig())
    weights = unpack(load_file(path))  # an export may be stored in eight bits
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval().requires_grad_(False)


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
            raise TrainingDataError(
                f"no stored pairs in {folder}", "make them with python -m talkswap.systems.swaptalk.training.pairs"
            )
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
                f"the pairs in {self.folder} were made with another VQGAN",
                "make them anew with python -m talkswap.systems.swaptalk.training.pairs",
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
        crops = {
            name: torch.from_numpy(np.stack([getattr(p, name) for p in pairs])).permute(0, 3, 1, 2).float() / 127.5 - 1
            for name in PICTURES
        }
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
        self.done += len(pairs)
        write_atomically(self.folder / "done", str(self.done))
