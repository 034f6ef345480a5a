"""What the README shows is what there is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import lading
from lading.testing import Recording, ThreadedRegistry

OWNERS = {
    "lading": lading,
    "client": lading.Client,
    "lading_client": lading.Client,
    "oci_registry": ThreadedRegistry,
    "requests": Recording,
}
README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_python_in_the_readme_uses_names_that_exist() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    assert blocks
    for block in blocks:
        tree = ast.parse("async def example():\n" + "".join(f"    {line}\n" for line in block.splitlines()))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                owner = OWNERS.get(node.value.id)
                assert owner is None or hasattr(owner, node.attr), ast.unparse(node)


def test_the_commands_in_the_readme_exist() -> None:
    from lading.cli.commands import lading as command

    verbs = set(re.findall(r"lading ([a-z]+) ", README.read_text().partition("```console")[2].partition("```")[0]))
    assert verbs
    assert verbs <= set(command.list_commands(None))  # type: ignore[arg-type]
