"""What only turns figures into other figures, and into text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import compare, figures, floors, plot, report, scenarios, table
from benchmarks.results import Comparison, Entry, Measurement, Run, Spread

MIB = 2**20


def entry(name: str, walls: Sequence[float], kind: str = "lading", **more: object) -> Entry:
    given = {"cpu": 0.5, "rss": 50 * MIB, "requests": 2, "bytes": 100, "verified": 1, "expected": 1, **more}
    return Entry(name, name.title(), kind, tuple(Measurement(wall=wall, **given) for wall in walls))  # type: ignore[arg-type]


def comparison(name: str, *entries: Entry, baseline: str = "bare", rtt: float = 0.0) -> Comparison:
    return Comparison(name, f"Title of {name}", "bound by nothing", baseline, "lading", entries, content=1000, rtt=rtt)


def run(*comparisons: Comparison, commit: str = "abc", scale: str = "1") -> Run:
    about = {"commit": commit, "date": "2025-01-01 00:00 UTC", "scale": scale}
    return Run(about, {"processors": "2"}, {"Python": "3.13"}, comparisons)


LADING = entry("lading", [2.0, 4.0, 9.0])
BARE = entry("bare", [1.0, 2.0, 3.0], "limit")


def test_a_ratio_is_taken_within_each_round() -> None:
    assert figures.ratio(LADING, BARE) == Spread(median=2.0, least=2.0, most=3.0)


def test_rounds_that_only_one_of_two_has_count_for_nothing() -> None:
    assert figures.ratio(entry("lading", [2.0]), BARE) == Spread(2.0, 2.0, 2.0)
    assert figures.ratio(entry("lading", []), BARE) is None


def test_the_fastest_is_of_the_right_kind_and_wrote_the_right_thing() -> None:
    wrong = entry("liar", [0.1], "python peer", verified=0)
    slow, fast = entry("slow", [3.0], "python peer"), entry("fast", [2.0], "python peer")
    assert figures.fastest([BARE, wrong, slow, fast], ["python peer"]) is fast
    assert figures.fastest([BARE, wrong], ["python peer"]) is None


@pytest.mark.parametrize(
    ("value", "text"), [(0.00002, "20 µs"), (0.0123, "12.3 ms"), (0.123, "123 ms"), (1.234, "1.23 s")]
)
def test_seconds_are_written_in_the_unit_that_suits_them(value: float, text: str) -> None:
    assert figures.seconds(value) == text


def test_a_spread_is_written_unless_there_is_none() -> None:
    assert figures.spread(Spread(2.0, 1.0, 3.0), figures.times) == "2.00× (1.00× … 3.00×)"
    assert figures.spread(Spread(2.0, 2.0, 2.0), figures.times) == "2.00×"
    assert figures.spread(None, figures.times) == ""


# Floors


def verdict(what: str, measured: Run) -> floors.Verdict:
    (judged,) = [one for one in floors.judge(measured) if one.floor.what.startswith(what)]
    return judged.verdict


def test_a_floor_is_judged_by_the_median() -> None:
    close = comparison("image", entry("lading", [1.1, 1.1, 9.0]), entry("bare", [1.0, 1.0, 1.0], "limit"))
    assert verdict("12 × 40 MB, to a bare loop", run(close)) == "met"
    far = comparison("image", entry("lading", [1.2, 1.2, 1.0]), entry("bare", [1.0, 1.0, 1.0], "limit"))
    assert verdict("12 × 40 MB, to a bare loop", run(far)) == "missed"


def test_faster_means_how_many_times_as_long_the_other_takes() -> None:
    skopeo = entry("skopeo", [3.0], "peer")
    assert verdict("12 × 40 MB, faster", run(comparison("image", entry("lading", [2.0]), skopeo))) == "met"
    assert verdict("12 × 40 MB, faster", run(comparison("image", entry("lading", [2.1]), skopeo))) == "missed"


def test_the_fastest_peer_in_python_is_whoever_that_is() -> None:
    peers = (entry("oras-py", [9.0], "python peer"), entry("dxf", [3.0], "python peer"))
    batch = comparison("agents@registry", entry("lading", [2.0]), *peers)
    assert verdict("1,000 agents from docker-registry, faster", run(batch)) == "met"
    batch = comparison("agents@registry", entry("lading", [2.5]), *peers)
    assert verdict("1,000 agents from docker-registry, faster", run(batch)) == "missed"


def test_what_is_wrong_meets_no_floor() -> None:
    wrong = comparison("image", entry("lading", [0.1], verified=0), entry("bare", [1.0], "limit"))
    assert verdict("12 × 40 MB, to a bare loop", run(wrong)) == "not measured"
    assert verdict("12 × 40 MB: peak", run(wrong)) == "not measured"


def test_round_trips_and_requests_are_those_of_one_pull() -> None:
    cold = comparison("cold@50", entry("lading", [0.16], requests=6, samples=(0.16,) * 3), rtt=0.05)
    assert verdict("cold pull at 50 ms, connection", run(cold)) == "met"
    cold = replace(cold, name="cold@0", rtt=0.0)
    assert verdict("cold pull: requests", run(cold)) == "met"
    assert verdict("cold pull: requests", run(replace(cold, entries=(entry("lading", [0.1], requests=3),)))) == "missed"


def test_memory_is_judged_in_mebibytes() -> None:
    assert verdict("1 × 500 MB: peak", run(comparison("layer", entry("lading", [1.0], rss=100 * MIB)))) == "met"
    assert verdict("1 × 500 MB: peak", run(comparison("layer", entry("lading", [1.0], rss=101 * MIB)))) == "missed"


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert {one.verdict for one in floors.judge(run())} == {"not measured"}


def test_every_floor_is_about_a_scenario_that_exists() -> None:
    assert {floor.scenario for floor in floors.FLOORS} <= {one.name for one in scenarios.EVERY}


# Comparing


def test_two_runs_are_compared_by_the_ratios_to_what_was_measured_beside() -> None:
    """The second run was on a slower day: everything took twice as long, lading no more than that."""
    before = run(comparison("image", entry("lading", [2.0, 2.2]), entry("bare", [1.0, 1.0], "limit")))
    after = run(comparison("image", entry("lading", [4.0, 4.4]), entry("bare", [2.0, 2.0], "limit")))
    (change,) = compare.changes(before, after)
    assert change.factor == pytest.approx(1.0)
    assert not change.is_clear


def test_without_a_baseline_seconds_are_compared() -> None:
    before, after = (
        run(comparison("stale", entry("lading", walls), baseline="")) for walls in ([1.0, 1.1], [2.0, 2.2])
    )
    (change,) = compare.changes(before, after)
    assert change.factor == pytest.approx(2.0)
    assert change.is_clear
    assert "slower" in compare.table(before, after)


def test_what_only_one_run_has_is_left_out() -> None:
    before, after = run(comparison("image", LADING, BARE)), run(comparison("layer", LADING, BARE))
    assert compare.changes(before, after) == []
    assert "no scenario in common" in compare.table(before, after)


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    original = run(comparison("image", LADING, BARE, entry("lost", [])), comparison("cold@0", LADING, rtt=0.05))
    original.write(path)
    assert Run.read(path) == original


def test_what_is_not_a_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("[]")
    with pytest.raises(ValueError, match="format"):
        Run.read(path)


# Text


def test_the_table_has_who_ran_and_names_who_did_not() -> None:
    missing = replace(entry("crane", [], "peer"), trouble="crane isn't installed")
    text = table.comparison_table(comparison("image", LADING, BARE, missing))
    assert "4.00 s (2.00 s … 9.00 s)  2.00× (2.00× … 3.00×)" in text
    assert "not measured: Crane: crane isn't installed" in text


def test_wrong_bytes_are_shouted_about() -> None:
    assert "WRONG: 0 of 1" in table.comparison_table(comparison("image", entry("lading", [1.0], verified=0)))


def test_a_scenario_that_could_not_be_prepared_says_why() -> None:
    text = table.comparison_table(replace(comparison("image"), trouble="nginx isn't installed"))
    assert text.endswith("not measured: nginx isn't installed")


def test_the_page_names_each_floor_with_its_ratio_and_verdict() -> None:
    page = report.markdown(run(comparison("image", LADING, BARE, entry("skopeo", [9.0, 9.0, 9.0], "peer"))), "plots")
    assert "| 12 × 40 MB, to a bare loop that is as durable | ≤ 1.15× | 2.00× (2.00× … 3.00×) | **missed** |" in page
    assert "| 12 × 40 MB, faster than skopeo | ≥ 1.50× | 2.25× (1.00× … 4.50×) | met |" in page
    assert "| 1 × 500 MB: peak of memory | ≤ 100 MiB |  | not measured |" in page
    assert "![Title of image](plots/image.svg)" in page
    assert all(floor.what in page for floor in floors.FLOORS)


def test_the_page_says_when_figures_are_of_another_size() -> None:
    assert "At scale" not in report.markdown(run(), "plots")
    assert "At scale 0.1" in report.markdown(run(scale="0.1"), "plots")


def test_the_page_is_written_with_its_plots_beside_it(tmp_path: Path) -> None:
    measured = run(comparison("image", LADING, BARE), comparison("cold@0", LADING, BARE), comparison("stale", LADING))
    paths = report.write(measured, tmp_path / "page.md")
    assert paths == [tmp_path / "page.md", tmp_path / "page" / "image.svg", tmp_path / "page" / "cold-0.svg"]
    assert all(path.is_file() for path in paths)


def test_a_plot_is_a_picture_whose_bars_are_as_long_as_the_medians() -> None:
    bars = [plot.Bar("a < b & c", "lading", Spread(1.0, 0.5, 2.0)), plot.Bar("d", "limit", Spread(2.0, 2.0, 2.0))]
    drawn = ElementTree.fromstring(plot.bars("It's <this>", bars, figures.seconds))
    namespace = "{http://www.w3.org/2000/svg}"
    background, first, second = drawn.findall(f"{namespace}rect")
    assert float(second.attrib["width"]) == pytest.approx(2 * float(first.attrib["width"]))
    assert "a < b & c" in [text.text for text in drawn.findall(f"{namespace}text")]
    assert float(background.attrib["width"]) >= float(second.attrib["x"]) + float(second.attrib["width"])
