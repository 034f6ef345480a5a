"""The rules of the read path: what to do next, decided from what is known. Pure: no await, no clock, no store.

Each decision is one of a few values, which ``pull.agent`` acts on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lading.errors import LadingError, Offline, RegistryError, TlsFailed, TransportError
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.store.values import NEVER

Fallback = Literal["any", "transient", "never"]
"""Which failures of a registry an intact cached copy may stand in for."""

FALLBACKS: tuple[Fallback, ...] = get_args(Fallback)

Revalidate = Literal["now", "background"]
"""When a registry is asked whether a cached copy still stands: before it is given out, or after."""

REVALIDATE: tuple[Revalidate, ...] = get_args(Revalidate)


@dataclass(frozen=True, slots=True)
class Serve:
    """Give out what is cached: no more to ask, or, if ``stale``, only after that, in the background."""

    origin: Literal["pinned", "fresh", "revalidated", "stale"]


@dataclass(frozen=True, slots=True)
class Resolve:
    """Ask with HEAD what the reference stands for now."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """GET the manifest: by this digest, or (``None``) by what the reference says."""

    digest: Digest | None = None


def before(
    validated: float | None,
    *,
    is_pinned: bool,
    force: bool,
    max_age: float | None,
    now: float,
    max_stale: float | None = None,
    revalidate: Revalidate = "now",
) -> Serve | Resolve | Fetch:
    """Decide after the look-up, before any network.

    ``validated`` is when the registry last confirmed the cached entry, ``None`` if there is none; ``now`` is the
    time, both in seconds since the epoch; ``max_age`` is how many seconds a confirmation holds, ``max_stale`` how old
    a copy may be that is revalidated in the background.
    """
    if force or validated is None:
        # With nothing to compare with, a HEAD would be pure latency.
        return Fetch()
    if is_pinned:
        return Serve("pinned")
    # A stamp from the future is a clock that was set back: it proves nothing. What no registry ever confirmed is never
    # fresh, however long a confirmation holds.
    if max_age is not None and validated > NEVER and 0 <= now - validated <= max_age:
        return Serve("fresh")
    if revalidate == "background" and not is_too_stale(validated, max_stale, now):
        return Serve("stale")
    return Resolve()


def is_too_stale(validated: float, max_stale: float | None, now: float) -> bool:
    """Tell whether a copy is older than may be given out, or nobody knows how old: a clock was set back."""
    return max_stale is not None and not 0 <= now - validated <= max_stale


def span(seconds: float) -> str:
    """Give a time as people say it: ``2 days``, ``1 hour``."""
    units = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))
    unit, length = next((one for one in units if seconds >= one[1]), units[-1])
    count = int(seconds // length)
    return f"{count} {unit}{'' if count == 1 else 's'}"


def after(cached: Digest, resolved: Descriptor | None) -> Serve | Fetch:
    """Decide after the HEAD; ``resolved`` is ``None`` where the registry's answer named no digest."""
    if resolved is None:
        return Fetch()
    if resolved.digest == cached:
        return Serve("revalidated")
    return Fetch(resolved.digest)


def may_fall_back(failure: LadingError, fallback: Fallback) -> bool:
    """Tell whether a cached copy may stand in for a registry that failed like this.

    ============================================================  =======  ===========  =======
    failure                                                       "any"    "transient"  "never"
    ============================================================  =======  ===========  =======
    connect, DNS, proxy, timeout, interrupted body, 408/429/5xx,  yes      yes          no
    or the network is switched off
    401, 403, 404 and other refusals                              yes      no           no
    digest, size, TLS, not a manifest, not an agent,              no       no           no
    an answer that the protocol doesn't allow
    ============================================================  =======  ===========  =======
    """
    match fallback:
        case "any":
            return is_transient(failure) or isinstance(failure, RegistryError)
        case "transient":
            return is_transient(failure)
        case "never":
            return False


def is_transient(failure: LadingError) -> bool:
    """Tell whether the same request may well succeed later."""
    if isinstance(failure, RegistryError):
        return failure.status in (408, 429) or failure.status >= 500
    return isinstance(failure, TransportError | Offline) and not isinstance(failure, TlsFailed)
