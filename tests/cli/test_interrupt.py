"""Ctrl-C once clears up; twice does not wait."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import os, signal, sys, time
from talkswap import cli

def work(_):
    def command(**options):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(3600)
        finally:
            print("clearing up", flush=True)
            if sys.argv[1] == "twice":
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(3600)
            print("cleared up", flush=True)
    return command

cli.build_application = work
sys.exit(cli.main())
"""


def run(how: str) -> tuple[int, str, str]:
    """One that waits would sleep for far longer than the busiest machine needs."""
    done = subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def test_the_first_one_clears_up() -> None:
    code, out, err = run("once")
    assert code == 130 and out.splitlines() == ["clearing up", "cleared up"]
    assert "interrupted" in err and "Traceback" not in err


def test_the_second_one_does_not_wait() -> None:
    code, out, err = run("twice")
    assert code == 130 and out.splitlines() == ["clearing up"]
    assert "Traceback" not in err
