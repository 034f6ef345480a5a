"""Where the default store is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lading.errors import StoreError

if TYPE_CHECKING:
    from lading.store.local import LocalStore


def default_home() -> str:
    """Give the directory of the default store: ``LADING_HOME``, else ``lading`` in the user's data directory."""
    home = os.environ.get("LADING_HOME")
    if home:
        return home
    import platformdirs

    try:
        home = platformdirs.user_data_dir("lading", appauthor=False)
        if home.startswith("~"):  # older platformdirs leave it so
            raise RuntimeError(f"{home}: no home directory is known")
    except RuntimeError as error:
        raise StoreError(
            "this user has no home directory for the store to be in", hint="set LADING_HOME to a directory"
        ) from error
    return home


def open_store(path: os.PathLike[str] | str | None) -> LocalStore:
    """Open the store in a directory, by default the default one. Raises ValueError for an empty path."""
    from lading.store.local import LocalStore

    if path is not None and not os.fspath(path):
        raise ValueError("a store's directory has a name; an empty one would be the working directory")
    return LocalStore(default_home() if path is None else path)
