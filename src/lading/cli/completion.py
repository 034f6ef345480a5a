"""The verb ``completion``: a script for a shell, and what its questions are answered with."""

from __future__ import annotations

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    get_completion_class,
)

VARIABLE = "_LADING_COMPLETE"
"""In the environment it says that a shell asks what comes next, and which."""


class _OrFiles(ShellComplete):
    """Offers files where nothing else is known: many an argument, and many an option's value, is one."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        found = super().get_completions(args, incomplete)
        if found or not args or incomplete.startswith("-"):
            return found
        return [CompletionItem(incomplete, type="file")]


class _Bash(_OrFiles, BashComplete):
    pass


class _Zsh(_OrFiles, ZshComplete):
    pass


class _Fish(_OrFiles, FishComplete):
    pass


_SHELLS: dict[str, type[ShellComplete]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}


def register() -> None:
    """Have the shells' questions answered from here."""
    for name, shell in _SHELLS.items():
        add_completion_class(shell, name)


@click.command()
@click.argument("shell", type=click.Choice(list(_SHELLS)))
def completion(shell: str) -> None:
    """Print a script by which SHELL completes verbs and options.

    In ~/.bashrc: source <(lading completion bash). In ~/.zshrc, after compinit: source <(lading completion zsh). For
    fish, write it to ~/.config/fish/completions/lading.fish.

    \b
    Examples:
      lading completion bash
      lading completion zsh
    """
    register()
    kind = get_completion_class(shell)
    assert kind is not None
    command = click.get_current_context().find_root().command
    click.echo(kind(command, {}, "lading", VARIABLE).source())
