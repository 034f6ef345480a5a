"""What the ``Authorization`` header says. Pure."""

from __future__ import annotations

import base64
import re

from lading.auth.configfile import Credential
from lading.errors import CredentialError

_VISIBLE = re.compile(r"[\x21-\x7e]+")


class Secret(str):
    """Text that doesn't show itself when what holds it is shown."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"


def basic_authorization(username: str, password: str) -> Secret:
    """Give the ``Authorization`` of a user name and a password (RFC 7617)."""
    return Secret(f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode('ascii')}")


def bearer_authorization(token: str) -> Secret:
    """Give the ``Authorization`` of a token (RFC 6750, section 2.1)."""
    return Secret(f"Bearer {token}")


def is_token(text: str) -> bool:
    """Tell whether ``text`` may stand in a header as a token: visible ASCII, and nothing else."""
    return _VISIBLE.fullmatch(text) is not None


def check_credential(credential: Credential) -> None:
    """Make sure that every part of a credential can be sent as what it is.

    Raises:
        CredentialError: a part can't; the message holds nothing of it.
    """
    if ":" in credential.username:
        raise CredentialError("a user name with a colon can't be sent")  # RFC 7617, section 2
    texts = (credential.username, credential.password, credential.identity_token)
    if any("\ud800" <= character <= "\udfff" for text in texts for character in text):
        raise CredentialError("a credential that isn't Unicode text can't be sent")
    if credential.registry_token and not is_token(credential.registry_token):
        raise CredentialError("a registry token with other characters than visible ASCII can't be sent")
