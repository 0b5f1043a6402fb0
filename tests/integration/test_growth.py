"""The benchmark of growth: what it fills in, what it remembers of a run that was stopped, and what it draws."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import apsw
import msgspec
import pytest
from benchmarks.comparison import rate
from benchmarks.growth.curves import Panel, draw
from benchmarks.growth.filled import Plan, filled
from benchmarks.growth.page import DOCS, RESULTS, contents, plotted, ratios, tabulated
from benchmarks.growth.record import Point, Run, add, latest
from benchmarks.sample import sample_of

DAY = 86_400_000_000  # in µs
FORMER, NEWER = "2026-11-23T10:00:00+00:00", "2026-11-23T11:00:00+00:00"


def point(size: int, turn: int, requests: int, *, operation: str = "single write", began: str = NEWER) -> Point:
    """Return what a turn of one second gave."""
    sample = sample_of(
        [1_000_000] * requests, concurrency=16, items=1, seconds=1, cpu=0.1, resident=1 << 20, load_share=0.1
    )
    return Point(
        began=began,
        axis="depth",
        size=size,
        operation=operation,
        turn=turn,
        memories=size,
        file_bytes=1 << 20,
        sample=sample,
    )


def all_operations() -> list[Point]:
    """Return one turn of everything that a table shows, twice as fast at 1,000 as at 100,000."""
    operations = ("single write", "newest 50", "context of 100")
    return [
        point(size, 0, count, operation=one) for one in operations for size, count in ((1_000, 200), (100_000, 100))
    ]


def rows_of(journal: Path, sql: str) -> list[tuple[apsw.SQLiteValue, ...]]:
    """Ask a journal that nobody has open."""
    connection = apsw.Connection(str(journal), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return list(connection.execute(sql))
    finally:
        connection.close()


def test_what_is_filled_in_is_spread_over_orgs_and_days(tmp_path: Path) -> None:
    """Every org has its share, in sessions of 100, from 30 days ago until now; of claims only the last day's."""
    made = filled(tmp_path / "filled", Plan(memories=6_000, orgs=3))
    sessions = rows_of(made.journal, "SELECT store, session_id, count(*) FROM embedded GROUP BY 1, 2")
    assert {count for _, _, count in sessions} == {100}
    assert Counter(store for store, _, _ in sessions) == {1: 20, 2: 20, 3: 20}
    ((first, last),) = rows_of(made.journal, "SELECT min(time), max(time) FROM embedded")
    assert isinstance(first, int)
    assert isinstance(last, int)
    assert 29 < (last - first) / DAY <= 30
    moments = [time for (time,) in rows_of(made.journal, "SELECT time FROM embedded ORDER BY seq")]
    assert all(0 < later - earlier < 1.1 * DAY for earlier, later in pairwise(map(float, moments)))
    claims = rows_of(made.journal, "SELECT name FROM sqlite_schema WHERE name LIKE 'claims_%'")
    kept = sum(len(rows_of(made.journal, f"SELECT 1 FROM {name}")) for (name,) in claims)
    assert 0 < kept <= 300


def test_a_fill_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    """What is there is kept, and nothing is filled in twice or left out."""
    part, whole = Plan(memories=1_000, embedded=False), Plan(memories=2_500, embedded=False)
    made = filled(tmp_path / "filled", part)
    before = rows_of(made.journal, "SELECT memory_id FROM journal ORDER BY seq")
    note = tmp_path / "filled" / "filled.json"
    kept = msgspec.json.decode(note.read_bytes())
    note.write_bytes(msgspec.json.encode({**kept, "plan": msgspec.to_builtins(whole)}))
    made = filled(tmp_path / "filled", whole)
    after = rows_of(made.journal, "SELECT memory_id FROM journal ORDER BY seq")
    assert after[:1_000] == before
    assert len(after) == made.memories() == 2_500
    assert rows_of(made.journal, "SELECT count(DISTINCT content) FROM journal") == [(2_500,)]


def test_what_runs_have_enlarged_is_made_anew(tmp_path: Path) -> None:
    """A deployment that grew by more than a tenth no longer is of the size that it stands for."""
    plan = Plan(memories=1_000)
    made = filled(tmp_path / "filled", plan)
    connection = apsw.Connection(str(made.journal))
    connection.execute("UPDATE embedded SET seq = 1090 WHERE seq = 1000")
    assert filled(tmp_path / "filled", plan).memories() == 1_090
    connection.execute("UPDATE embedded SET seq = 1101 WHERE seq = 1090")
    connection.close()
    assert filled(tmp_path / "filled", plan).memories() == 1_000


def test_the_newest_run_of_an_axis_counts(tmp_path: Path) -> None:
    """Former runs are passed over, and a line that was being written when the run was stopped."""
    file = tmp_path / "results.jsonl"
    for began in (FORMER, NEWER):
        add(file, Run(began=began, machine={"cores": 2}))
        add(file, point(1_000, 0, 100, began=began))
    with file.open("ab") as results:
        results.write(b'{"type":"point","beg')
    ((run, points),) = latest(file).values()
    assert run == Run(began=NEWER, machine={"cores": 2})
    assert points == [point(1_000, 0, 100)]


def test_ratios_are_of_what_was_measured_in_one_turn() -> None:
    """The median of the ratios in each turn; a run that was stopped may lack sizes in its last one."""
    points = [
        *(point(1_000, turn, count) for turn, count in enumerate((100, 200, 400, 999))),
        *(point(100_000, turn, count) for turn, count in enumerate((50, 160, 100))),
    ]
    assert ratios(points, "single write", rate) == {1_000: 1.0, 100_000: 0.5}


def test_the_table_has_figures_with_their_ratios() -> None:
    """One row a request and size, each figure with its ratio to the smallest."""
    _, _, *rows = tabulated("depth", all_operations()).splitlines()
    assert rows[:2] == [
        "| single write | 1 k | 200 (1.00) | 1.0 (1.00) | 500 (1.00) | 1 | 1 |",
        "| single write | 100 k | 100 (0.50) | 1.0 (1.00) | 1,000 (2.00) | 1 | 1 |",
    ]
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| newest 50"] * 2 + ["| context of 100"] * 2


def test_a_plot_is_the_same_for_the_same_figures() -> None:
    """It is XML, names every curve and size, and differs only with the figures."""
    plot = plotted("depth", all_operations())
    assert plot == plotted("depth", all_operations())
    texts = [text.text for text in ElementTree.fromstring(plot).iter("{http://www.w3.org/2000/svg}text")]
    assert {"single write", "newest 50", "context of 100", "1 k", "100 k"} <= set(texts)
    assert plot != plotted("depth", [*all_operations()[:-1], point(100_000, 0, 77, operation="context of 100")])


@pytest.mark.parametrize(("values", "ticks"), [((1.0, 0.8), ["0", "0.2"]), ((1.0, 0.001), ["0.001", "0.01"])])
def test_wide_ranges_are_drawn_by_logarithms(values: tuple[float, float], ticks: list[str]) -> None:
    """Small differences stand on a scale from nothing, and curves over decades on one of decades."""
    panel = Panel("rate", {"write": dict(zip((10.0, 1_000.0), values, strict=True))})
    texts = ElementTree.fromstring(draw("T", "n", [panel], str)).iter("{http://www.w3.org/2000/svg}text")
    found = [text.text for text in texts]
    start = found.index("rate") + 1
    assert found[start : start + 2] == ticks


def test_the_documentation_shows_what_was_measured() -> None:
    """Tables and plots are those that the results give: who measures anew must make them anew."""
    made = contents(RESULTS, DOCS)
    assert len(made) == 6
    for file, content in made.items():
        assert file.read_text(encoding="utf-8") == content, file
