"""The error tree: as it is drawn, and fit to be shown, kept and sent."""

from __future__ import annotations

import ast
import copy
import pickle
import re
from pathlib import Path

import pytest

from lading import errors
from lading.errors import (
    ConnectFailed,
    InvalidReference,
    LadingError,
    NotFound,
    RateLimited,
    RegistryError,
    TransportError,
)

# child: parent
TREE = {
    "InvalidReference": "LadingError",
    "InvalidDigest": "LadingError",
    "InvalidManifest": "LadingError",
    "InvalidDocument": "LadingError",
    "InvalidHosts": "LadingError",
    "InvalidLockfile": "LadingError",
    "InvalidPlatform": "LadingError",
    "NotAnAgent": "LadingError",
    "TransportError": "LadingError",
    "ConnectFailed": "TransportError",
    "ProxyFailed": "TransportError",
    "TimedOut": "TransportError",
    "TlsFailed": "TransportError",
    "BodyInterrupted": "TransportError",
    "ProtocolError": "LadingError",
    "RegistryError": "LadingError",
    "NotFound": "RegistryError",
    "Unauthorized": "RegistryError",
    "Denied": "RegistryError",
    "RateLimited": "RegistryError",
    "CredentialError": "LadingError",
    "IntegrityError": "LadingError",
    "DigestMismatch": "IntegrityError",
    "SizeMismatch": "IntegrityError",
    "StoreError": "LadingError",
    "StoreCorrupted": "StoreError",
    "StoreReadOnly": "StoreError",
    "OutOfSpace": "StoreError",
    "Offline": "LadingError",
    "LockMismatch": "LadingError",
}


EVERY: list[type[LadingError]] = [LadingError, *(getattr(errors, name) for name in TREE)]


def test_the_tree_is_the_promised_one() -> None:
    found = {
        kind.__name__: kind.__bases__[0].__name__
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, BaseException) and kind is not LadingError
    }
    assert found == TREE


def test_what_other_modules_raise_is_a_kind_of_these() -> None:
    found = {
        f"{path.stem}.{node.name}"
        for path in Path(errors.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef) and path.stem != "errors"
        if any(isinstance(base, ast.Name) and base.id == "LadingError" for base in node.bases)
    }
    assert found == set()


def test_the_tree_is_drawn_in_the_docstring() -> None:
    parents = ["LadingError"]
    drawn: dict[str, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        if not re.search("[├└]", line):
            continue
        depth = re.search("[A-Z]", line)
        assert depth is not None
        level = depth.start() // 4 - 1
        names = re.sub(r"\(.*\)", "", line[depth.start() :]).strip().split(", ")
        drawn.update(dict.fromkeys(names, parents[level - 1]))
        parents[level:] = [names[0]]
    assert drawn == TREE


def test_only_what_was_given_is_a_value_error() -> None:
    assert {kind.__name__ for kind in EVERY if issubclass(kind, ValueError)} == {
        "InvalidReference",
        "InvalidDigest",
        "InvalidManifest",
        "InvalidDocument",
        "InvalidHosts",
        "InvalidLockfile",
        "InvalidPlatform",
    }


@pytest.mark.parametrize("kind", EVERY)
def test_every_error_says_what_happened_and_what_to_do(kind: type[LadingError]) -> None:
    error = kind("it broke", hint="mend it")
    assert (error.message, error.hint, str(error)) == ("it broke", "mend it", "it broke (mend it)")
    assert str(kind("it broke")) == "it broke"
    assert str(kind()) == ""


@pytest.mark.parametrize("kind", EVERY)
def test_every_error_survives_being_pickled_and_copied(kind: type[LadingError]) -> None:
    error = kind("it broke", hint="mend it")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is kind
        assert (str(again), vars(again)) == (str(error), vars(error))


@pytest.mark.parametrize(
    "error",
    [
        ConnectFailed("no", url="https://h/x", hint="wait"),
        NotFound("no", method="GET", url="https://h/x", status=404, codes=["A", "B"], hint="look"),
        RateLimited("no", method="GET", url="https://h/x", codes=["A"], retry_after=7.5),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_fields_survive_too(error: LadingError) -> None:
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert vars(again) == vars(error)


def test_the_fields_of_a_refusal() -> None:
    error = RegistryError("no", method="PUT", url="https://h/x", status=500, codes=["A", "B"])
    assert (error.method, error.url, error.status, error.codes) == ("PUT", "https://h/x", 500, ("A", "B"))


def test_a_rate_limit_may_say_how_long() -> None:
    assert RateLimited("no", retry_after=7).retry_after == 7
    assert RateLimited("no").retry_after is None
    assert RateLimited("no").status == 429


def everything(error: LadingError) -> str:
    """All that an error may show: as text, as a value, and in its fields."""
    return f"{error} {error!r} {error.args} {vars(error)}"


SECRET = "https://user:hunter2@h/x?sig=hunter2#hunter2"


@pytest.mark.parametrize("kind", EVERY)
def test_no_error_holds_the_secrets_of_a_url(kind: type[LadingError]) -> None:
    error = kind(f"GET {SECRET}: no", hint=f"try {SECRET}")
    assert "hunter2" not in everything(error)
    assert "https://h/x?…" in str(error)


@pytest.mark.parametrize("kind", [TransportError, ConnectFailed, RegistryError, NotFound, RateLimited])
def test_no_url_of_an_error_holds_secrets(kind: type[TransportError] | type[RegistryError]) -> None:
    error = kind("no", url=SECRET)
    assert error.url == "https://h/x?…"
    assert "hunter2" not in everything(error)


HOSTILE = "\x1b]0;pwned\x07\x9b2J\u202egnp.exe\r\n\0\ud800"


@pytest.mark.parametrize("kind", EVERY)
def test_no_error_can_drive_a_terminal(kind: type[LadingError]) -> None:
    error = kind(HOSTILE, hint=HOSTILE)
    assert str(error).isprintable()
    assert error.message.startswith("\\x1b]0;pwned")
    assert all(str(argument).isprintable() for argument in error.args)


def test_no_field_of_a_refusal_can_either() -> None:
    error = RegistryError("no", url=f"https://h/{HOSTILE}", codes=[HOSTILE])
    assert error.url.isprintable()
    assert all(code.isprintable() for code in error.codes)


def test_an_error_is_bounded() -> None:
    assert len(str(InvalidReference("x" * 10_000_000, hint="y" * 10_000_000))) < 5000
