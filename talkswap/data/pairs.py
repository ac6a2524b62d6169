"""Make the face swap's training samples ahead of its training: draw them, encode them, store them.

Training then reads codes, not pictures; it may begin while this still runs.  ``talkswap data pairs`` and
``python -m talkswap.data.pairs`` do the same.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from talkswap.data.pair_codes import PICTURES, RAW_STEP, CodeWriter, PairCodes, code_hash, load_vqgan
from talkswap.data.pair_draw import DIFFERENT, SAME, Pair, PairConfig, PairDraw
from talkswap.data.proxy import Proxy
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
    (out / "pairs.part.json").write_text(described)
    (out / "pairs.part.json").replace(out / "pairs.json")
    return summary


def main() -> None:
    """``python -m talkswap.data.pairs --data CACHE --vqgan FILE --identity FOLDER --out FOLDER --count N``"""
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
