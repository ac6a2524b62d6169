"""``python -m talkswap``."""

from __future__ import annotations

import sys

from talkswap.cli import main

if __name__ == "__main__":
    sys.exit(main())
