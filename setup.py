"""Puts ``weights/`` into the wheel as ``talkswap/weights``; everything else is in pyproject.toml.

The folder stays at the top of the checkout, where people look for it, yet `pip install` of a built wheel
must render as well.  An editable install needs no copy: talkswap/checkpoints looks beside the package.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
ENDINGS = {".toml", ".json", ".safetensors", ".md"}


class BuildWithWeights(build_py):
    """build_py that also copies the tracked weights."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "talkswap" / "weights"
        shutil.rmtree(target, ignore_errors=True)
        compact = ROOT / "weights" / "compact"
        # runs/ in each room holds curves and scores, which are for people who train
        files = [path for path in sorted(compact.rglob("*")) if "runs" not in path.relative_to(compact).parts]
        for source in [ROOT / "weights" / "manifest.toml", *files]:
            if source.is_file() and source.suffix in ENDINGS:
                copy = target / source.relative_to(ROOT / "weights")
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, copy)


setup(cmdclass={"build_py": BuildWithWeights})
