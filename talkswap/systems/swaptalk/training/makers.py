"""``talkswap data codes`` and ``talkswap data pairs`` of SwapTalk: their options, and what they make.

This module is read whenever somebody asks `talkswap data` for its help, so networks are imported inside the functions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from talkswap.errors import InputMissingError, UsageError
from talkswap.types import ProgressEvent, option

Report = Callable[[ProgressEvent], None]
Echo = Callable[[str], None]


@dataclass(frozen=True)
class CodesOptions:
    """Encode the prepared clips with a VQGAN, into a folder of this VQGAN's own.

    The folder's name is the hash of encoder and codebooks: another VQGAN's codes lie beside it, and what is encoded is
    never encoded again.  Give it to the stages with --set codes=FOLDER --set videos=DATA/videos.
    """

    data: Path = option(help="Folder made by `talkswap data prepare`.")
    vqgan: Path = option(help="VQGAN weights, .safetensors with .json beside them.")
    out: Path | None = option(None, "Folder for all VQGANs' codes.", without="DATA/codes")
    videos: Path | None = option(None, "Folder with the clips and clips.csv.", without="DATA/videos")
    upper_step: int = option(4, "Every k-th frame also stores its upper half; the paper's warping wants 1.", minimum=1)
    minutes: float = option(0.0, "Stop after so long; run again to go on. 0: no limit.", minimum=0)


@dataclass(frozen=True)
class PairsOptions:
    """Make the face swap's training samples (source, target, swapped) and store them as codes of a VQGAN.

    Pairs that the proxy cannot make well are refused, and counted by reason in the summary and in pairs.json.
    """

    data: Path = option(help="Folder made by `talkswap data prepare`.")
    vqgan: Path = option(help="VQGAN weights, .safetensors with .json beside them.")
    out: Path = option(help="Folder to write.")
    count: int = option(help="Pairs to make.", minimum=1)
    proxy: Literal["mesh", "inswapper"] = option("mesh", "What swaps the faces of the truth.")
    inswapper: Path | None = option(None, "The inswapper .onnx file.")
    arcface: Path | None = option(None, "The ArcFace .onnx file that inswapper's sources go through.")
    identity: Path | None = option(None, "Folder of the identity network.", without="the compact preset's")
    seed: int = option(0, "Decides what is drawn.")
    same: float | None = option(None, "Share of same-person pairs.", minimum=0, maximum=1, without="0.35, inswapper 0")
    forehead: float = option(0.8, "Share of a source's forehead that no hair or hat may cover.", minimum=0, maximum=1)


def encode_codes(options: CodesOptions, report: Report, echo: Echo) -> dict[str, Any]:
    """Encode the clips; the summary counts what was encoded and what is stored.

    Raises:
        InputMissingError: a folder or the VQGAN is not there.
        TrainingDataError: the folder holds no prepared clips.
    """
    videos = options.videos or options.data / "videos"
    _check_folder(options.data, "a folder made by `talkswap data prepare`")
    _check_folder(videos, "the folder of the clips with --videos")
    from talkswap.systems.swaptalk.training.codes import CodesConfig, code_hash, encode_clips, load_vqgan

    digest = code_hash(load_vqgan(options.vqgan))
    folder = (options.out or options.data / "codes") / digest[:16]
    config = CodesConfig(
        options.data, videos, options.vqgan, folder, upper_step=options.upper_step, minutes=options.minutes
    )
    counts = encode_clips(config, echo=echo)
    stored = {split: len(list((folder / f"talking-{split}").glob("*.npz"))) for split in ("train", "val")}
    return {"codes": folder, "vqgan": digest, "encoded": counts, "stored": stored}


def draw_pairs(options: PairsOptions, report: Report, echo: Echo) -> dict[str, Any]:
    """Draw and store the pairs; the summary counts them by kind, and those refused by reason.

    Raises:
        InputMissingError: a folder or a network is not there.
        UsageError: the proxy's networks don't fit it.
        TrainingDataError: no stills are prepared, or no good pair is among them.
    """
    _check_folder(options.data, "a folder made by `talkswap data prepare`")
    for file in (options.inswapper, options.arcface):
        if file is not None and not file.is_file():
            raise InputMissingError(f"{file} does not exist", "check the path")
    if options.proxy == "mesh" and (options.inswapper or options.arcface):
        raise UsageError("--inswapper and --arcface belong to --proxy inswapper", "add --proxy inswapper")
    from talkswap.checkpoints import preset_folder, presets
    from talkswap.systems.swaptalk.training import pair_draw, pairs

    proxy = pair_draw.load_proxy(options.proxy, options.inswapper, options.arcface)
    identity = options.identity or preset_folder.network_folder(presets.find_preset("compact"), "faces/identity")
    share = options.same
    if share is None:
        # a published swap of two people needs no pairs of one person to learn what geometry gets wrong
        share = pair_draw.PairConfig().same if options.proxy == "mesh" else 0.0
    config = pair_draw.PairConfig(same=share, source_forehead=options.forehead)
    summary = pairs.make_pairs(
        options.data, options.vqgan, identity, options.out, options.count, options.seed, config=config, proxy=proxy,
        report=report,
    )  # fmt: skip
    return {"out": options.out, "proxy": options.proxy, "pairs": options.count, **summary}


def _check_folder(path: Path, what: str) -> None:
    if not path.is_dir():
        raise InputMissingError(f"{path} is no folder", f"name {what}")
