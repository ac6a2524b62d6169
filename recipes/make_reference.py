"""Writes docs/reference from the code: every command's options, and every exit code.

Run from the repository's root after an option, a help text or an error class has changed::

    python recipes/make_reference.py

tests/test_docs.py fails where the committed pages differ from what this makes.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import typer

from talkswap import errors
from talkswap.cli import INTERRUPTED, TERMINATED, build_application

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
MADE_BY = "<!-- Written by recipes/make_reference.py. Change the code, then run it again. -->\n"


def options_page() -> str:
    """Every command with its arguments and options, as Markdown."""
    parts = [f"# Commands and options\n\n{MADE_BY}"]
    root = typer.main.get_command(build_application(["render"]))
    context: Any = root.context_class(root, info_name="talkswap")
    for name in root.list_commands(context):  # type: ignore[attr-defined]
        parts += _command_section(root.get_command(context, name), f"talkswap {name}")  # type: ignore[attr-defined]
    return "\n".join(parts)


def _command_section(command: Any, path: str) -> list[str]:
    """One command; a group comes with its commands."""
    context = command.context_class(command, info_name=path)
    sections = [f"## `{path}`\n\n{inspect.cleandoc(command.help or '').split(chr(12))[0].strip()}\n"]
    if hasattr(command, "list_commands"):
        for name in command.list_commands(context):
            sections += _command_section(command.get_command(context, name), f"{path} {name}")
        return sections
    rows = [row for parameter in command.params if (row := _row(parameter, context)) is not None]
    if rows:
        sections.append(
            "| option | takes | default | what it does |\n| --- | --- | --- | --- |\n" + "\n".join(rows) + "\n"
        )
    return sections


def _row(parameter: Any, context: Any) -> str | None:
    """A table row for one parameter, or None for a hidden one."""
    if getattr(parameter, "hidden", False) or parameter.name == "help":
        return None
    flags = [*getattr(parameter, "opts", []), *getattr(parameter, "secondary_opts", [])]
    name = (
        ", ".join(f"`{flag}`" for flag in flags)
        if flags[0].startswith("-")
        else f"`{parameter.display_name_raw.upper()}`"
    )
    kind = "" if getattr(parameter, "is_flag", False) else parameter.metavar or parameter.display_type(context)
    takes = f"`{kind.strip('<>')}`" if kind else ""  # in Markdown <path> would be taken for a tag
    default = parameter.default
    shown = "on" if default is True else "" if default in (None, False, ()) or callable(default) else f"`{default}`"
    text = " ".join(str(getattr(parameter, "help", "") or "").split())
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in (name, takes, shown, text)) + " |"


def exit_codes_page() -> str:
    """Every exit code with the first line of its error's docstring, as Markdown."""
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.TalkswapError)]
    rows = {0: "done", errors.TalkswapError.exit_code: "another failure"}
    for kind in kinds:
        if kind is not errors.TalkswapError:
            text = (kind.__doc__ or "").splitlines()[0].rstrip(".").replace("``", "`")
            rows[kind.exit_code] = text[0].lower() + text[1:]
    rows[INTERRUPTED] = "interrupted with Ctrl-C; finished segments stay, nothing half-written is left"
    rows[TERMINATED] = "ended by SIGTERM, likewise"
    table = "\n".join(f"| {code} | {text} |" for code, text in sorted(rows.items()))
    return (
        f"# Exit codes\n\n{MADE_BY}\n"
        "A failure is one sentence and a hint on stderr, never a traceback and never a half-written output. "
        "Codes are part of the public interface: a code never gets a second meaning.\n\n"
        f"| code | meaning |\n| --- | --- |\n{table}\n"
    )


PAGES = {"options.md": options_page, "exit-codes.md": exit_codes_page}


def main() -> None:
    """Write all pages."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, make in PAGES.items():
        (FOLDER / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
