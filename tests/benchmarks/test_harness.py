"""The harness at work, very small: real servers, real processes, a few agents."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from peer_programs import program

from benchmarks import runner, scenarios
from benchmarks.__main__ import main
from benchmarks.plan import Contender, Prepared, Scenario, Workshop
from benchmarks.results import Comparison, Run

TINY = 0.003
"""Of the size of the floors: three agents, layers of 300 kB."""

Measure = Callable[..., Comparison]


@pytest.fixture
def measure(tmp_path: Path) -> Measure:
    """Measure a scenario, once, with a few contenders."""

    def once(name: str, *who: str, change: Callable[[Prepared], Prepared] = lambda prepared: prepared) -> Comparison:
        (scenario,) = scenarios.chosen([name])

        @contextmanager
        def prepare(workshop: Workshop) -> Iterator[Prepared]:
            with scenario.prepare(workshop) as prepared:
                yield change(prepared)

        changed = dataclasses.replace(scenario, prepare=prepare, repeats=1)
        return runner.measure(changed, Workshop(tmp_path, scale=TINY, rounds=1, who=who), lambda message: None)

    return once


def troubles(comparison: Comparison) -> list[str]:
    return [comparison.trouble, *(entry.trouble for entry in comparison.entries)]


def counted(comparison: Comparison) -> dict[str, tuple[int | None, int | None]]:
    """Give the requests and the connections of each contender."""
    return {one.name: (one.rounds[0].requests, one.rounds[0].connections) for one in comparison.entries}


def test_one_command_measures_prints_and_writes_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures, page, work = tmp_path / "run.json", tmp_path / "docs" / "page.md", tmp_path / "work"
    page.parent.mkdir()
    work.mkdir()
    tiny = ["--scale", str(TINY), "--rounds", "1", "--who", "lading", "bare", "--directory", str(work)]
    assert main(["--only", "inline@20", *tiny, "--json", str(figures), "--report", str(page)]) == 0
    printed = capsys.readouterr().out
    assert "inline@20: One agent that is embedded in its manifest" in printed
    assert "3 of 3" in printed
    measured = Run.read(figures)
    assert counted(measured.comparisons[0]) == {"lading": (3, 3), "bare": (3, 3)}
    assert "(page/inline-20.svg)" in page.read_text()
    assert (page.parent / "page" / "inline-20.svg").is_file()
    assert list(work.iterdir()) == []
    assert main(["--compare", str(figures), str(figures)]) == 0
    assert "inline@20: lading" in capsys.readouterr().out


def test_a_cold_pull_costs_its_round_trips_and_no_more(measure: Measure) -> None:
    comparison = measure("cold@20", "lading")
    (entry,) = comparison.entries
    assert entry.is_right
    assert counted(comparison) == {"lading": (6, 3)}
    assert entry.rounds[0].wall > 3 * comparison.rtt  # the connection, the manifest, the layer: nobody can be faster


def test_what_needs_no_network_asks_for_nothing(measure: Measure) -> None:
    for name in ("pinned", "fresh"):
        comparison = measure(name, "lading")
        assert troubles(comparison) == ["", ""]
        assert comparison.entries[0].is_right
        assert counted(comparison) == {"lading": (0, 0)}


def test_agents_come_from_nginx_and_are_read_back(measure: Measure) -> None:
    program("nginx")
    comparison = measure("agents@nginx", "lading", "bare")
    assert troubles(comparison) == ["", "", ""]
    assert all(entry.is_right for entry in comparison.entries)
    for requests, connections in counted(comparison).values():
        assert requests == 6
        assert connections in (1, 2, 3)  # one that is done before the next begins is used again


def test_agents_come_from_docker_registry(measure: Measure) -> None:
    program("docker-registry")
    comparison = measure("agents@registry-inline", "lading")
    assert troubles(comparison) == ["", ""]
    assert comparison.entries[0].is_right
    assert counted(comparison) == {"lading": (3, None)}


def test_a_closure_is_followed_through_all_levels(measure: Measure) -> None:
    program("nginx")
    comparison = measure("closure@inline", "lading")
    assert troubles(comparison) == ["", ""]
    assert comparison.entries[0].is_right
    assert comparison.entries[0].rounds[0].expected == 5


def test_an_image_is_whole_on_the_disk(measure: Measure) -> None:
    program("nginx")
    comparison = measure("image", "lading", "bare")
    assert all(entry.is_right for entry in comparison.entries)
    assert [entry.rounds[0].expected for entry in comparison.entries] == [12, 12]
    assert counted(comparison)["lading"][0] == 14  # the manifest, the config, the layers


def test_a_second_process_is_not_refused_first(measure: Measure) -> None:
    comparison = measure("token")
    assert troubles(comparison) == ["", "", ""]
    requests = {name: requests for name, (requests, _) in counted(comparison).items()}
    assert requests["lading"] is not None
    assert requests["first"] is not None
    assert requests["lading"] < requests["first"]


def test_wrong_bytes_are_noticed(measure: Measure) -> None:
    def lie(prepared: Prepared) -> Prepared:
        """Expect other content of one agent than what is served."""

        def expecting(contender: Contender) -> Contender:
            agents = dict(contender.spec["agents"])
            agents[next(iter(agents))] = "sha256:" + "0" * 64
            return dataclasses.replace(contender, spec={**contender.spec, "agents": agents})

        return dataclasses.replace(prepared, contenders=tuple(map(expecting, prepared.contenders)))

    comparison = measure("pinned", "lading", change=lie)
    assert not comparison.entries[0].is_right
    assert comparison.entries[0].rounds[0].verified == 2


def test_what_fails_says_so_and_stops_nobody_else(measure: Measure) -> None:
    def spoil(prepared: Prepared) -> Prepared:
        first, second = prepared.contenders
        return dataclasses.replace(prepared, contenders=(dataclasses.replace(first, job="single.nonsense"), second))

    comparison = measure("pinned", change=spoil)
    assert "nonsense" in comparison.entries[0].trouble
    assert comparison.entries[1].rounds


def test_a_missing_server_is_a_reason_and_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (scenario,) = scenarios.chosen(["image"])
    comparison = runner.measure(scenario, Workshop(tmp_path, scale=TINY), lambda message: None)
    assert comparison.trouble == "nginx isn't installed"


def test_large_files_go_at_once_and_small_ones_stay(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(1_000_000))
    (tmp_path / "small").write_bytes(bytes(999_999))
    runner.forget(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_scenarios_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == [one.name for one in scenarios.EVERY]


def test_a_scenario_that_does_not_exist_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "nonsense"]) == 2
    assert "--list" in capsys.readouterr().err


def test_a_disk_that_is_too_full_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2_900_000_000))
    assert main(["--only", "pinned", "--directory", str(tmp_path)]) == 2
    assert "3.0 GB of disk" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_every_scenario_says_what_it_is_bound_by() -> None:
    scenario: Scenario
    for scenario in scenarios.EVERY:
        assert scenario.bound_by.startswith("bound by")
