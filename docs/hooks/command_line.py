"""Writes the page about the command line from the commands themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from lading.cli.commands import lading

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

PAGE = "reference/cli.md"

HEAD = """\
# The command line

Generated from the commands: what `lading VERB --help` says.

Results go to standard output, messages and progress to standard error, so that a pipe gets nothing but results. Exit
status: 0 is done, 1 failed, 2 wrong usage; 130, 143 and 141 are Ctrl-C, SIGTERM and a reader that has gone.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    from mkdocs.structure.files import File

    files.append(File.generated(config, PAGE, content=page()))
    return files


def page() -> str:
    """Give the whole page: an overview, then a section a verb."""
    context = click.Context(lading, info_name="lading")
    verbs = {name: command for name in lading.list_commands(context) if (command := lading.get_command(context, name))}
    lines = [HEAD, "| verb | |", "| --- | --- |"]
    lines += [f"| [`{name}`](#lading-{name}) | {_first_sentence(command)} |" for name, command in verbs.items()]
    return "\n".join([*lines, "", *(_section(name, command, context) for name, command in verbs.items())])


def _section(name: str, command: click.Command, parent: click.Context) -> str:
    context = click.Context(command, info_name=name, parent=parent)
    text, examples = _described(command)
    parts = [f"## lading {name}", *text, f"```text\n{_usage(command, context)}\n```"]
    options = [
        record
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option)
        and parameter.name != "help"
        and (record := parameter.get_help_record(context))
    ]
    if options:
        parts.append("\n".join(["| option | |", "| --- | --- |", *(_row(*option) for option in options)]))
    if examples:
        parts.append("\n".join(["Examples:", "", "```console", *(f"$ {example}" for example in examples), "```"]))
    return "\n\n".join(parts) + "\n"


def _usage(command: click.Command, context: click.Context) -> str:
    return command.get_usage(context).removeprefix("Usage: ")


def _row(names: str, text: str) -> str:
    return f"| `{names}` | {_escaped(text)} |"


def _described(command: click.Command) -> tuple[list[str], list[str]]:
    """Give the paragraphs of a command's help, and its examples."""
    paragraphs, examples = [], []
    for part in (command.help or "").split("\n\n"):
        lines = [line.strip() for line in part.strip().splitlines()]
        if lines[:1] == ["\b"]:
            examples += lines[2:]
        elif lines:
            paragraphs.append(_escaped(" ".join(lines)))
    return paragraphs, examples


def _first_sentence(command: click.Command) -> str:
    return _described(command)[0][0].partition(". ")[0].removesuffix(".") + "."


def _escaped(text: str) -> str:
    for character in "\\|<>*_[":
        text = text.replace(character, f"\\{character}" if character != "<" else "&lt;")
    return text
