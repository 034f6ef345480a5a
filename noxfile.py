"""What can be run on the project: `nox -l` lists it, `nox -s tests` runs a part.

Dependencies come from `pyproject.toml`, the one truth.
"""

import nox

nox.options.sessions = ["lint", "types", "tests", "aioresponses"]
nox.options.default_venv_backend = "venv"


@nox.session
def lint(session: nox.Session) -> None:
    """Style."""
    session.install("ruff>=0.6")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types, by two checkers."""
    session.install("-e", ".[dev]")
    session.run("mypy")
    session.run("pyright")


@nox.session
def tests(session: nox.Session) -> None:
    """Everything, on the newest dependencies."""
    session.install("-e", ".[dev]")
    session.run("python", "-X", "dev", "-m", "pytest", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, in build/site; a link that leads nowhere is an error. Its code is run by the tests."""
    session.install("-e", ".[docs]")
    session.run("mkdocs", "build", "--strict", *session.posargs, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def aioresponses(session: nox.Session) -> None:
    """Code whose tests mock aiohttp with aioresponses, which works with aiohttp below 3.14 only."""
    session.install("-e", ".[dev]", "aiohttp<3.14", "aioresponses>=0.7.8")
    session.run("pytest", "tests/mocked", *session.posargs)


@nox.session
def torture(session: nox.Session) -> None:
    """The long form of the tests that have one: kills, power cuts, faults, hostile input. Takes hours."""
    session.install("-e", ".[dev]")
    session.run("python", "-m", "pytest", "--torture", "-m", "torture", "-s", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Coverage-guided inputs for all that reads foreign bytes: ``nox -s fuzz -- --runs 1000000 manifest``."""
    session.install("-e", ".[zstd]", "atheris>=2.3")
    session.run("python", "tests/hostile/fuzz_parsers.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """What pulls cost, side by side with other clients: ``nox -s bench -- --help``."""
    session.install("-e", ".", "-r", "benchmarks/requirements.txt")
    session.run("python", "-m", "benchmarks", *session.posargs)
