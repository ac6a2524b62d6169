"""The command line: thin commands over the library, one file each.

Nothing heavy is imported before a command needs it, so that ``talkswap --help`` answers at once.
"""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, Literal

import typer

import talkswap
from talkswap.cli.output import OPENCV_HINT, colourful, print_error
from talkswap.cli.render import unknown_option
from talkswap.errors import DependencyError, TalkswapError, UsageError

INTERRUPTED = 130  # 128 + SIGINT
TERMINATED = 143  # 128 + SIGTERM


def _version(show: bool) -> None:
    if show:
        typer.echo(f"talkswap {talkswap.__version__}")
        raise typer.Exit()


def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Dub a clip: the face of a photo, the words of a voice, everything else as it was."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def build_application(arguments: Sequence[str]) -> typer.Typer:
    """A fresh application with all commands, their options fit for the system that the arguments name."""
    from talkswap.cli import bench, clips, data, doctor, download, render, train, weights
    from talkswap.cli import eval as evaluation

    # boxes and colours only for eyes: a pipe gets plain text
    markup: Literal["rich"] | None = "rich" if colourful(sys.stdout) else None
    application = typer.Typer(
        name="talkswap",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=markup,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    application.callback(invoke_without_command=True)(_root)
    application.command("render", short_help="Dub one clip: the face of a photo, the words of a voice.")(
        render.build_command(arguments)
    )
    application.command("batch", short_help="Render every row of a table; what is done is skipped.")(render.batch)
    application.command("faces", short_help="List who is in a clip.")(clips.faces)
    application.command("verify", short_help="Look for marks of synthetic media.")(clips.verify)
    application.command("bench")(bench.command)
    application.command("doctor", short_help="Test whether this machine can render, and with what.")(doctor.command)
    application.command("download", short_help="Fetch published weights, or list them.")(download.command)
    application.command("train", short_help="Train one stage.")(train.command)
    application.add_typer(data.build_application(markup, arguments), name="data")
    application.add_typer(evaluation.build_application(markup), name="eval")
    application.add_typer(weights.build_application(markup), name="weights")
    return application


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
