"""The reference has every public name, and the examples in the commands' help are commands."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from typing import Any

import click
import pytest
from docs.play import PROJECT

import lading
import lading.testing
from lading.cli.commands import lading as command_line
from lading.testing import plugin

REFERENCE = "\n".join(path.read_text("utf-8") for path in sorted((PROJECT / "docs" / "reference").glob("*.md")))
DIGEST = "sha256:" + "0" * 64


def hook(name: str) -> Any:
    """Import what takes part in the building of the pages."""
    spec = importlib.util.spec_from_file_location(name, PROJECT / "docs" / "hooks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def documented(package: str) -> set[str]:
    """The names of a package that stand on a page of the reference."""
    return set(re.findall(rf"^::: {re.escape(package)}\.(\w+)$", REFERENCE, re.MULTILINE))


def test_every_public_name_is_documented() -> None:
    assert set(lading.__all__) - {"__version__", "LadingError"} == documented("lading") - {"events"}


def test_every_name_for_tests_is_documented() -> None:
    assert set(lading.testing.__all__) == documented("lading.testing") - {"faults"}


def test_every_fixture_is_documented() -> None:
    fixtures = {name for name, value in vars(plugin).items() if type(value).__name__ == "FixtureFunctionDefinition"}
    assert fixtures
    assert fixtures == documented("lading.testing.plugin")


def verbs() -> dict[str, click.Command]:
    context = click.Context(command_line)
    found = {name: command_line.get_command(context, name) for name in command_line.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


def examples() -> Iterator[str]:
    """The commands in the examples of each verb, without the other programs that they are shown with."""
    for command in verbs().values():
        for part in (command.help or "").split("\b\n")[1:]:
            lines = part.split("\n\n")[0].splitlines()[1:]
            for line in lines:
                for one in re.split(r"\s(?:\||&&)\s", line.strip()):
                    if one.startswith("lading "):
                        yield one


@pytest.mark.parametrize("example", list(examples()))
def test_an_example_in_a_help_text_is_a_command(example: str) -> None:
    _, verb, *arguments = shlex.split(example.replace("sha256:…", DIGEST))
    verbs()[verb].make_context(verb, arguments)


def test_every_verb_has_examples() -> None:
    shown = {example.split()[1] for example in examples()}
    assert set(verbs()) - shown == {"demo"}


def test_the_page_of_the_command_line_has_every_verb_and_option() -> None:
    page = hook("command_line").page()
    for name, command in verbs().items():
        section = page.partition(f"## lading {name}\n")[2].partition("\n## ")[0]
        assert section, name
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert parameter.opts[0] in section, (name, parameter.opts)


@pytest.mark.parametrize(
    ("page", "is_fine"),
    [
        ('<a href="https://example.com/">elsewhere</a>', True),
        ('<img src="pull-path.svg"><script src="../assets/a.js"></script>', True),
        ("<code>``x``</code>", True),
        ('<img src="https://example.com/a.png">', False),
        ('<link rel="stylesheet" href="//example.com/a.css">', False),
        ('<script src="http://example.com/a.js"></script>', False),
        ("<p>:class:`x`</p>", False),
        ("<p>[`x`][lading.x]</p>", False),
    ],
)
def test_a_page_that_is_not_what_it_should_be_is_found(page: str, is_fine: bool) -> None:
    assert (list(hook("checks").faults(page)) == []) is is_fine
