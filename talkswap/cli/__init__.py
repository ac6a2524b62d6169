"""The command line: thin commands over the library, one file each.

Nothing heavy is imported before a command needs it, so that ``talkswap --help`` answers at once.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import typer

from talkswap.cli.application import build_application
from talkswap.cli.output import OPENCV_HINT, print_error
from talkswap.cli.render import unknown_option
from talkswap.errors import DependencyError, TalkswapError, UsageError

__all__ = ["main"]

INTERRUPTED = 130  # 128 + SIGINT
TERMINATED = 143  # 128 + SIGTERM


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)  # unwinds the stack, so that temporary files go as after Ctrl-C


def _interrupt(number: int, frame: FrameType | None) -> None:
    """The first Ctrl-C lets temporary files go; a second one does not wait for that, nor for a batch in hand."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    raise KeyboardInterrupt


def _named(error: OSError | MemoryError) -> TalkswapError:
    if isinstance(error, MemoryError):
        return TalkswapError("the memory of this machine is too small for this", "close other programs")
    where = f"{error.filename}: " if error.filename else ""
    return TalkswapError(
        f"the system refuses: {where}{error.strerror or type(error).__name__}",
        "check the paths, the disk and their rights",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    A :class:`TalkswapError` becomes ``error: …`` and ``hint: …`` on stderr and the code of its class; wrong usage
    becomes 2 and Ctrl-C 130.

    Args:
        arguments: without the program's name; None = those of the process.
    """
    if arguments is None:
        signal.signal(signal.SIGTERM, _terminate)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where a shell told us to ignore it
            signal.signal(signal.SIGINT, _interrupt)
    typed = tuple(sys.argv[1:] if arguments is None else arguments)
    try:
        status = build_application(typed)(args=arguments, prog_name="talkswap", standalone_mode=False)
        sys.stdout.flush()
    except TalkswapError as error:
        print_error(error)
        return error.exit_code
    except typer.TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a group alone; Typer keeps the class to itself
            if error.message:  # empty where Rich has printed the help already
                typer.echo(error.message)
            return 0
        flag = getattr(error, "option_name", "")
        if "render" in typed and flag and (unknown := unknown_option(flag, typed)) is not None:
            print_error(unknown)
            return unknown.exit_code
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "talkswap"
        message = error.format_message().rstrip(".").replace("Value error, ", "")  # Typer passes pydantic's words on
        print_error(UsageError(message, f"`{command} --help` lists what it takes"))
        return error.exit_code
    except ImportError as error:  # a package that an extra brings, or a system library that a wheel needs
        missing = DependencyError(
            f"a package cannot be imported: {error}",
            OPENCV_HINT if "libGL" in str(error) else "`talkswap doctor` names what is missing",
        )
        print_error(missing)
        return missing.exit_code
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except BrokenPipeError:
        # the reader of our stdout is gone (`talkswap … | head`); Python would complain again when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, MemoryError) as error:  # what no room had a name for; a name that is too long, for one
        print_error(_named(error))
        return TalkswapError.exit_code
    if status == INTERRUPTED:
        print_error(TalkswapError("interrupted"))
    return int(status or 0)
