"""What docs/metrics.md, the dashboard and the alert rules say of the figures there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from memtrace_cli.settings import Settings
from memtrace_http.metrics.figures import FIGURES, LIBRARY_NAMES, ORG_PREFIX

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "metrics.md").read_text(encoding="utf-8")
DASHBOARD = json.loads((DOCS / "grafana" / "memtrace.json").read_text(encoding="utf-8"))
RULES = yaml.safe_load((DOCS / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]

# What Prometheus itself adds to every sample of a scrape.
OF_THE_SCRAPE = {"instance", "job"}
LABELS = {one.name: {*one.labels, *OF_THE_SCRAPE} for one in FIGURES} | {
    **dict.fromkeys(LIBRARY_NAMES, OF_THE_SCRAPE),
    "up": OF_THE_SCRAPE,
}
HISTOGRAMS = {one.name for one in FIGURES if one.kind == "histogram"}
COUNTERS = {one.name for one in FIGURES if one.kind == "counter"}


def expressions() -> dict[str, str]:
    """Return every expression of the dashboard and the rules, by where it stands."""
    found = {rule["alert"]: rule["expr"] for rule in RULES}
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            found[f"{panel['id']} {panel['title']} {target['refId']}"] = target["expr"]
    return found


EXPRESSIONS = expressions()
every_expression = pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS.keys())


def selected(expression: str) -> Iterator[tuple[str, str, set[str]]]:
    """Yield each family that an expression selects from: its name, the ending, and the labels that it looks at."""
    for name, matchers in re.findall(r"\b((?:memtrace|process|python)_\w+|up)\b(?:{([^}]*)})?", expression):
        histogram = next((one for one in HISTOGRAMS if name.startswith(one)), None)
        yield (
            histogram or name,
            name.removeprefix(histogram) if histogram else "",
            set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)),
        )


@every_expression
def test_an_expression_asks_for_what_there_is(expression: str) -> None:
    """Every name is on the closed list, every label is one that its figure has, and histograms have an ending."""
    found = list(selected(expression))
    assert found
    grouped = {
        label.strip() for labels in re.findall(r"\bby \(([^)]*)\)", expression) for label in labels.split(",")
    }
    for name, ending, labels in found:
        assert name in LABELS
        own = LABELS[name] | ({"le"} if ending == "_bucket" else set())
        assert labels <= own
        assert grouped <= own
        assert (ending in ("_bucket", "_count", "_sum")) == (name in HISTOGRAMS)


@every_expression
def test_only_counters_have_a_rate(expression: str) -> None:
    """`rate` and `increase` are taken of what only grows, and of all of it that is used."""
    rated = re.findall(r"\b(?:rate|increase)\(\s*(\w+)", expression)
    for name in rated:
        histogram = any(name.startswith(one) for one in HISTOGRAMS)
        assert histogram or name in COUNTERS or name.endswith("_total")
    for name, ending, _ in selected(expression):
        if ending or name in COUNTERS:
            assert name + ending in rated


@pytest.mark.parametrize("expression", ['memtrace_memory_total{outcome="x"}', 'memtrace_memories_total{org="x"}'])
def test_a_wrong_name_or_label_would_be_seen(expression: str) -> None:
    """What the tests above look for is found: a figure that is not there, and a label that it does not have."""
    ((name, _, labels),) = selected(expression)
    assert name not in LABELS or not labels <= LABELS[name]


@every_expression
def test_parentheses_match(expression: str) -> None:
    """Every bracket that is opened is closed."""
    for opening, closing in ("()", "{}", "[]"):
        assert expression.count(opening) == expression.count(closing)


def test_every_figure_is_in_the_table() -> None:
    """The page lists name, kind, labels and meaning of each, as the list has them, and the library's own."""
    rows = re.findall(r"^\| `(memtrace_\w+)` \| (\w+) \|([^|]*)\| (.*) \|$", PAGE, re.MULTILINE)
    told = [(name, kind, tuple(re.findall(r"`(\w+)`", labels)), text) for name, kind, labels, text in rows]
    assert told == [(one.name, one.kind, one.labels, one.help) for one in FIGURES]
    assert all(f"`{name}`" in PAGE for name in LIBRARY_NAMES)


def test_every_alert_has_a_cure() -> None:
    """The page says of each alert what to do, and each says what it is about."""
    table = PAGE[PAGE.index("| alert |") : PAGE.index("## All names")]
    assert re.findall(r"`(Memtrace\w+)`", table) == list(dict.fromkeys(re.findall(r"`(Memtrace\w+)`", table)))
    assert set(re.findall(r"`(Memtrace\w+)`", table)) == {rule["alert"] for rule in RULES}
    for rule in RULES:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]


def test_the_dashboard_shows_every_figure_that_is_worth_a_look() -> None:
    """No figure is told that neither dashboard nor rules use, those apart that only repeat or identify."""
    used = {name for expression in EXPRESSIONS.values() for name, _, _ in selected(expression)}
    text = json.dumps(DASHBOARD)
    unused = {one.name for one in FIGURES if one.name not in used and one.name not in text}
    assert all(name.startswith(ORG_PREFIX) for name in unused)


def test_panels_have_places_of_their_own() -> None:
    """Panels have distinct ids, and none covers another."""
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_prometheus_is_told_where_the_server_is() -> None:
    """The scrape configurations are YAML, and name the port and the job that the rules expect."""
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
    scrapes = [one for block in blocks for one in block["scrape_configs"]]
    assert len(scrapes) == 2
    for scrape in scrapes:
        assert scrape["job_name"] == "memtrace"
        assert scrape["static_configs"][0]["targets"][0].endswith(f":{Settings().server.port}")
