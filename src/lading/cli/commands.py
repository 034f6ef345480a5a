"""The command ``lading``: its verbs, found without importing them."""

from __future__ import annotations

from importlib import import_module

import click

from lading import __version__

_VERBS = {
    "pull": ("lading.cli.agents", "Refresh an agent from its registry and write it to a file."),
    "cat": ("lading.cli.agents", "Print an agent, from the cache where that is right."),
    "prefetch": ("lading.cli.prefetch", "Pull many agents, and what they need, into the store."),
    "lock": ("lading.cli.lock", "Write down what agents stand for, and all that they need, in a lock file."),
    "tree": ("lading.cli.tree", "Draw an agent and the agents that it needs."),
    "push": ("lading.cli.publish", "Publish an agent."),
    "inspect": ("lading.cli.shelf", "Show what an agent is, or any other artifact, and what is known of it."),
    "diff": ("lading.cli.diff", "Say what another version of an agent may do that this one doesn't."),
    "ls": ("lading.cli.shelf", "List the agents in the store."),
    "rm": ("lading.cli.shelf", "Remove agents from the store."),
    "gc": ("lading.cli.gc", "Remove from the store what nothing needs any more."),
    "resolve": ("lading.cli.registries", "Print the digest that a reference stands for now."),
    "tags": ("lading.cli.registries", "List the tags of a repository."),
    "delete": ("lading.cli.registries", "Delete a tag or a manifest from its registry."),
    "fetch": ("lading.cli.fetch", "Bring any artifact or image into the store, whole."),
    "export": ("lading.cli.layouts", "Write what is in the store as an OCI image layout, a directory or a tar."),
    "import": ("lading.cli.layouts", "Bring what is in an OCI image layout into the store."),
    "verify": ("lading.cli.verify", "Read everything in the store again, and repair what is damaged."),
    "copy": ("lading.cli.copy", "Copy any artifact or image, from a registry or a layout, to a registry."),
    "login": ("lading.cli.login", "Log in to a registry, once it has believed the password."),
    "logout": ("lading.cli.login", "Forget the login at a registry."),
    "doctor": ("lading.cli.doctor", "Find out how a reference would be pulled, and what is wrong."),
    "completion": ("lading.cli.completion", "Print a script by which a shell completes verbs and options."),
    "serve": ("lading.cli.serve", "Run a registry, to share agents or to try things out."),
    "demo": ("lading.cli.demo", "Show what lading does, on this machine, without any network."),
}
"""Each verb's module, where it is the command of the same name (with a _ if Python has that word), and its summary."""


class _Lazy(click.Group):
    """A group that imports a verb when it is used, not to list it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module = import_module(_VERBS[cmd_name][0])
        command = getattr(module, cmd_name, None) or getattr(module, f"{cmd_name}_")
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, summary) for verb, (_, summary) in _VERBS.items()])


@click.command(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="The store is the directory LADING_HOME, else lading in the user's data directory.",
)
@click.version_option(__version__, message="lading %(version)s")
@click.option("--debug", is_flag=True, help="Write every request, and what is decided, to standard error.")
def lading(debug: bool) -> None:
    """Pull AI agents from OCI registries, and publish them."""
    if debug:
        from lading.cli.log import show_everything

        show_everything()
