"""Where weights lie on this machine: the folders that may hold presets, in the order in which they are asked."""

from __future__ import annotations

import os
from pathlib import Path

from talkswap.checkpoints.manifest import MANIFEST

PACKAGE = Path(__file__).resolve().parent.parent  # talkswap/


def checkout_weights() -> Path | None:
    """``weights/`` of the checkout that this package runs from, if it does."""
    folder = PACKAGE.parent / "weights"
    # a site-packages folder could hold somebody else's "weights"; only a checkout has our project file beside it
    return folder if (folder.parent / "pyproject.toml").is_file() and (folder / MANIFEST).is_file() else None


def packaged_weights() -> Path | None:
    """``talkswap/weights`` inside an installed wheel."""
    folder = PACKAGE / "weights"
    return folder if (folder / MANIFEST).is_file() else None


def cache_weights() -> Path:
    """The user's own folder: ``$XDG_CACHE_HOME/talkswap/weights``, or below ``~/.cache``."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "talkswap" / "weights"


def download_root() -> Path:
    """Where `talkswap download` writes: ``$TALKSWAP_WEIGHTS`` when set, else the user's cache."""
    chosen = os.environ.get("TALKSWAP_WEIGHTS")
    return Path(chosen) if chosen else cache_weights()


def weight_roots() -> list[tuple[Path, str]]:
    """Folders that may hold preset folders, in the order in which they are asked, each with its origin."""
    chosen = os.environ.get("TALKSWAP_WEIGHTS")
    roots: list[tuple[Path | None, str]] = [
        (Path(chosen) if chosen else None, "TALKSWAP_WEIGHTS"),
        (checkout_weights(), "the checkout"),
        (packaged_weights(), "the installed package"),
        (cache_weights(), "the user's cache"),
    ]
    return [(root, origin) for root, origin in roots if root is not None]
