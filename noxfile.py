"""What can be run on the project: `nox -l` lists it, `nox -s tests` runs a part.

Dependencies come from `pyproject.toml`, the one truth.
"""

import hashlib
from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests", "aioresponses", "build"]
nox.options.default_venv_backend = "venv"

PROJECT = nox.project.load_toml("pyproject.toml")["project"]
PYTHONS = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if ":: Python :: 3." in name]
EXTRAS = PROJECT["optional-dependencies"]
USERS = ("testing", "otel", "speed", "zstd")
"""The extras of whoever uses it, and not of whoever works on it."""
PYTEST = ("python", "-X", "dev", "-m", "pytest", "-n", "auto", "--dist", "worksteal")


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


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Everything, on each Python that is there, newest dependencies: ``nox -p 3.13 -s tests -- tests/store``."""
    session.install("-e", ".[dev]")
    session.run(*PYTEST, *session.posargs)


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """Everything, on the oldest Python and the oldest dependencies that the metadata names."""
    named = [*PROJECT["dependencies"], *(one for name in USERS for one in EXTRAS[name])]
    session.install("-e", ".[dev]", *(one.replace(">=", "==") for one in named))
    session.run(*PYTEST, *session.posargs)


@nox.session
@nox.parametrize("extra", ["", *USERS], ids=["none", *USERS])
def extras(session: nox.Session, extra: str) -> None:
    """Each extra alone, and none: all that can be imported is, and the demo runs."""
    session.install(f".[{extra}]" if extra else ".")
    session.run("python", "-W", "error", "tests/smoke.py", extra)


@nox.session
def build(session: nox.Session) -> None:
    """What is published: built twice, to the same bytes; installed from there, and used."""
    session.install("build")
    first, second = Path(session.create_tmp(), "first"), Path(session.create_tmp(), "second")
    for directory in (first, second):
        session.run("python", "-m", "build", "--outdir", str(directory))  # the wheel is built from the sdist
    digests = [sorted((one.name, _digest(one)) for one in directory.iterdir()) for directory in (first, second)]
    if digests[0] != digests[1]:
        session.error(f"two builds differ: {digests}")
    session.run("python", "tests/smoke.py", "--built", *(str(one) for one in sorted(first.iterdir(), key=_suffix)))
    session.install(str(next(first.glob("*.whl"))))
    session.run("python", "-W", "error", "tests/smoke.py")


def _suffix(path: Path) -> str:
    return path.suffix  # .gz, the sources, before .whl


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
    # pytest: the test vectors, which are seeds, are read with it.
    session.install("-e", ".[zstd]", "atheris>=2.3", "pytest>=8.2")
    session.run("python", "tests/hostile/fuzz_parsers.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """What pulls cost, side by side with other clients: ``nox -s bench -- --help``."""
    session.install("-e", ".", "-r", "benchmarks/requirements.txt")
    session.run("python", "-m", "benchmarks", *session.posargs)
