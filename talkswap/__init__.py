"""talkswap: one face, one clip, one voice in; the dubbed clip out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from talkswap.render.render import render_clip
    from talkswap.systems.registry import load_system
    from talkswap.types import RenderPlan, RenderReport

__version__ = "0.1.0"

__all__ = ["RenderPlan", "RenderReport", "__version__", "load_system", "render_clip"]

_HOMES = {
    "render_clip": "talkswap.render.render",
    "RenderPlan": "talkswap.types",
    "RenderReport": "talkswap.types",
    "load_system": "talkswap.systems.registry",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: importing talkswap itself loads no torch."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
