"""Programs, as a shell runs them: the whole process is measured, with its start. Nothing heavy is imported here."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.child import Outcome, Spec
from benchmarks.jobs.checking import files_below, right_files
from benchmarks.meter import Usage, children_peak, metered


def _run(command: Sequence[str], directory: Path) -> Usage:
    """Run a command to its end, which must be a good one."""
    log = directory.with_name(directory.name + ".log")
    with log.open("wb") as out, metered() as usage:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=directory)
        _, status, spent = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {' '.join(log.read_text().split())[-300:]}")
    usage.rss = spent.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return usage


def _image(spec: Spec, command: Sequence[str]) -> Outcome:
    directory = Path(spec["directory"])
    usage = _run(command, directory)
    return Outcome(usage, right_files(files_below(directory), spec["layers"]))


def skopeo(spec: Spec) -> Outcome:
    """Copy an image into an OCI layout with skopeo."""
    options = ["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", "--preserve-digests"]
    return _image(spec, ["skopeo", *options, f"docker://{spec['ref']}", f"oci:{spec['directory']}:v1"])


def crane(spec: Spec) -> Outcome:
    """Pull an image into an OCI layout with crane."""
    return _image(spec, ["crane", "pull", "--insecure", "--format=oci", spec["ref"], spec["directory"]])


def oras(spec: Spec) -> Outcome:
    """Copy an image into an OCI layout with oras, the command."""
    layout = f"{spec['directory']}:v1"
    return _image(spec, ["oras", "copy", "--from-plain-http", "--no-tty", "--to-oci-layout", spec["ref"], layout])


def regctl(spec: Spec) -> Outcome:
    """Copy an image into an OCI layout with regctl."""
    host = spec["ref"].partition("/")[0]
    command = ["regctl", "--host", f"reg={host},tls=disabled", "image", "copy", spec["ref"]]
    return _image(spec, [*command, f"ocidir://{spec['directory']}:v1"])


def curl(spec: Spec) -> Outcome:
    """Fetch the blobs with curl, in parallel, into files: nothing is hashed, nothing brought to the disk."""
    command = [
        "curl",
        "--silent",
        "--show-error",
        "--no-progress-meter",
        "--fail",
        "--parallel",
        "--parallel-max",
        str(spec["concurrency"]),
    ]
    for digest in spec["blobs"]:
        command += ["--output", digest, f"{spec['blobs_url']}/{digest}"]
    return _image(spec, command)


def cat(spec: Spec) -> Outcome:
    """Run ``lading`` with a store; samples are seconds of a process, each print is checked, imports are looked at."""
    directory = Path(spec["directory"])
    directory.mkdir(exist_ok=True)
    wanted, samples, right = next(iter(spec["agents"].values())), [], 0
    environment = {**os.environ, "LADING_HOME": str(directory / "store")}
    with metered() as usage:
        for _ in range(spec.get("times", 1)):
            started = time.perf_counter()
            done = subprocess.run([*_lading(), *spec["arguments"]], stdout=subprocess.PIPE, check=True, env=environment)
            samples.append(time.perf_counter() - started)
            right += "sha256:" + hashlib.sha256(done.stdout).hexdigest() == wanted
    usage.rss = children_peak()
    extra = {"heavy modules": float(len(_imported(spec, environment)))} if spec.get("looks_at_imports") else {}
    return Outcome(usage, right // spec.get("times", 1), samples, extra)


def _imported(spec: Spec, environment: dict[str, str]) -> set[str]:
    """Give which of the heavy modules the same command imports."""
    command = [sys.executable, "-X", "importtime", "-m", "lading", *spec["arguments"]]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    return names & {"aiohttp", "asyncio", "anyio", "rich", "yaml", "aiofiles"}


def started(spec: Spec) -> Outcome:
    """Run a command; samples are seconds of a process."""
    samples = []
    with metered() as usage:
        for _ in range(spec["times"]):
            began = time.perf_counter()
            subprocess.run(spec["command"], stdin=subprocess.DEVNULL, check=True)
            samples.append(time.perf_counter() - began)
    usage.rss = children_peak()
    return Outcome(usage, None, samples)


def _lading() -> list[str]:
    """Give the command as a person would start it, where that is installed beside Python."""
    script = Path(sys.executable).with_name("lading")
    return [str(script)] if script.exists() else [sys.executable, "-m", "lading"]
