"""``--system NAME`` and the options that a system brings of its own."""

from __future__ import annotations

from typing import Annotated

import typer

SystemName = Annotated[
    str, typer.Option("--system", help="Which system; `talkswap weights list` names them.", metavar="NAME")
]
