"""Where and with what was measured: nothing that names a person, a host or a path."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from benchmarks.servers import ROOT

_PACKAGES = ("lading", "aiohttp", "anyio", "oras", "docker-registry-client-async", "python-dxf", "requests")
_PROGRAMS = {
    "nginx": ("nginx", "-v"),
    "docker-registry": ("docker-registry", "--version"),
    "skopeo": ("skopeo", "--version"),
    "curl": ("curl", "--version"),
    "crane": ("crane", "version"),
    "oras (the command)": ("oras", "version"),
    "regctl": ("regctl", "version"),
}
_VERSION = re.compile(r"\d+\.\d+[\w.+~-]*")


def about(seed: int, scale: float, rounds: int) -> dict[str, str]:
    """Give what was run, and when."""
    commit = _said("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")
    if commit and _said("git", "-C", str(ROOT), "status", "--porcelain", "--", "src", "benchmarks"):
        commit += " and changes"
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return {
        "commit": commit or "unknown",
        "date": date,
        "busy before": _load(),
        "seed": str(seed),
        "scale": f"{scale:g}",
        "rounds": str(rounds),
    }


def machine(directory: Path) -> dict[str, str]:
    """Give what the machine is like, and the file system of ``directory``."""
    found = {
        "system": f"{platform.system()} {platform.release().partition('-')[0]} {platform.machine()}",
        "processors": f"{os.cpu_count()} × {_processor()}",
        "file system": _file_system(directory),
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        found["memory"] = f"{memory / 2**30:.0f} GiB"
    return found


def versions() -> dict[str, str]:
    """Give the versions of everything that takes part."""
    import sqlite3

    found = {"Python": platform.python_version(), "SQLite": sqlite3.sqlite_version}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    for name, command in _PROGRAMS.items():
        if shutil.which(command[0]) and (version := _VERSION.search(_said(*command))):
            found[name] = version[0]
    return found


def _load() -> str:
    """Give how many processors others wanted in the last minute: a restless machine gives restless figures."""
    return f"{os.getloadavg()[0]:.1f} of {os.cpu_count()} processors" if hasattr(os, "getloadavg") else "unknown"


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _file_system(directory: Path) -> str:
    """Give the type of the file system that a directory is on (proc(5), mounts)."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    parents = {str(directory.resolve()), *map(str, directory.resolve().parents)}
    above = [(len(fields[1]), fields[2]) for fields in mounts if fields[1] in parents]
    return max(above)[1] if above else "unknown"


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout + done.stderr).strip() if done.returncode == 0 else ""
