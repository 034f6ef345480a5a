"""Every code block of the documentation runs, and shows what the pages say that it does."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from docs.blocks import RUNNABLE, Block, Command, blocks, commands, matches
from docs.play import PROJECT
from peer_programs import program

PAGES = {
    str(path.relative_to(PROJECT)): list(blocks(path.read_text("utf-8")))
    for path in sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md"), *PROJECT.glob("examples/*/README.md")])
}

NOT_RUN = {
    ("CONTRIBUTING.md", "it runs everything there is, and takes minutes"),
    ("README.md", "each of them is run on the page of its subject"),
    ("README.md", "it makes an environment and installs into it"),
    ("docs/tutorial/first-agent.md", "it makes an environment and installs into it"),
    ("docs/tutorial/service.md", "it listens until it is stopped; the tests of the example run the same service"),
    ("examples/agent_service/README.md", "it listens until it is stopped; the tests run the same service"),
}
"""What can't be run, and why. Each entry has to be a mark on a page, and the other way round."""

NEEDED = ("git", "jq")
"""Programs that pages use, and that may not be there."""

DATA: dict[str, Callable[[str], Any]] = {"json": json.loads, "toml": tomllib.loads, "yaml": yaml.safe_load}

Run = Callable[[str, list[Block]], None]


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if any(block.is_run for block in page)])
def test_the_page_is_true(name: str, play: Run) -> None:
    text = "\n".join(block.text for block in PAGES[name] if block.is_run)
    for needed in NEEDED:
        if re.search(rf"\b{needed} ", text):
            program(needed)
    play(name, PAGES[name])


def test_what_is_not_run_is_listed_here(measured: Callable[[str, str], None]) -> None:
    everything = [(name, block) for name, page in PAGES.items() for block in page if block.language in RUNNABLE]
    assert {(name, block.why_not) for name, block in everything if block.why_not} == NOT_RUN
    files = [block for _, block in everything if block.title or block.included]
    run = [block for _, block in everything if block.is_run]
    left = len(everything) - len(run) - len(files)
    measured("blocks of the documentation", f"{len(run)} run, {len(files)} are files that those use, {left} don't run")


@pytest.mark.parametrize("name", PAGES)
def test_no_command_hides_in_a_block_of_another_language(name: str) -> None:
    for block in PAGES[name]:
        assert block.language in (*RUNNABLE, *DATA, "text", ""), f"line {block.line}"
        if block.language not in RUNNABLE:
            assert not any(line.startswith("$ ") for line in block.text.splitlines()), f"line {block.line}"


@pytest.mark.parametrize("name", PAGES)
def test_data_is_what_it_says_it_is(name: str) -> None:
    for block in PAGES[name]:
        if block.language in DATA and not block.included:
            assert DATA[block.language](block.text) is not None


PAGE = """\
Text.

<!-- status: 1 -->
```console
$ false   # says nothing
$ cat <<END
> lines
> END
lines
```

<!-- not run: it can't be -->
```sh
anything
```

```yaml title="a.yaml"
a: 1
```

- An item:

  ```python
  print(1)
  ```
"""


def test_the_blocks_of_a_page() -> None:
    console, sh, file, python = blocks(PAGE)
    assert commands(console) == [Command("false   # says nothing", None), Command("cat <<END\nlines\nEND", ("lines",))]
    assert (console.is_run, console.status, console.line) == (True, 1, 4)
    assert (sh.is_run, sh.why_not) == (False, "it can't be")
    assert (file.is_run, file.title, file.text, file.marks) == (False, "a.yaml", "a: 1", {})
    assert (python.is_run, python.language, python.text) == (True, "python", "print(1)")


def test_a_block_that_cannot_be_read_is_not_passed_over() -> None:
    with pytest.raises(ValueError, match="line 1"):
        list(blocks("- ```python\n  print(1)\n  ```\n"))


@pytest.mark.parametrize(
    ("shown", "came", "does"),
    [
        (("a",), "a\n", True),
        (("a",), "a", True),
        (("a",), "\na\n\n", True),
        (("a",), "b\n", False),
        (("a",), "a\nb\n", False),
        (("a", "…"), "a\nb\nc\n", True),
        (("a", "…"), "a\n", True),
        (("…", "c"), "a\nb\n", False),
        (("a … c",), "a b c\n", True),
        (("a … c",), "a b\nc\n", False),
        (("a  b",), "a     b\n", True),
        (("a b",), "a     b\n", False),
        ((".*",), "anything\n", False),
    ],
)
def test_what_a_page_shows(shown: tuple[str, ...], came: str, does: bool) -> None:
    assert matches(shown, came) is does
