"""That the benchmark can be run, so that it is there when it is needed; what it finds is not judged here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]


def benchmarks(*arguments: str, module: str = "benchmarks") -> subprocess.CompletedProcess[str]:
    """Run a benchmark to its end."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_the_benchmark_tells_figures_and_verdicts(tmp_path: Path) -> None:
    """A short run gives one line a subject, and one verdict a target, as JSON."""
    ended = benchmarks(
        *("--json", "--only", "guard,writes,batches", "--concurrency", "2", "--folder", str(tmp_path)),
        *("--seconds", "0.2", "--repeats", "1"),
    )
    assert ended.returncode in (0, 1), ended.stderr
    told = json.loads(ended.stdout)
    subjects = [(line["scenario"], line["subject"]) for line in told["lines"]]
    assert subjects == [
        ("single writes", "memtrace"),
        ("single writes", "floor"),
        ("single writes", "the load's ceiling"),
        ("batches of 100", "memtrace"),
        ("batches of 100", "floor"),
    ]
    assert all(line["sample"]["requests"] > 0 and line["sample"]["p99_ms"] > 0 for line in told["lines"])
    targets = [verdict for verdict in told["verdicts"] if verdict["target"] is not None]
    assert ended.returncode == (0 if all(verdict["met"] for verdict in targets) else 1)


def test_the_benchmark_names_what_it_can_measure(tmp_path: Path) -> None:
    """A name that it does not know is misuse, and the names that it knows are told."""
    ended = benchmarks("--only", "reeds", "--folder", str(tmp_path))
    assert ended.returncode == 2
    assert "reads" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_growth_is_measured_and_what_was_filled_in_is_used_again(tmp_path: Path) -> None:
    """Each run adds its points to the file; the second finds the deployment of the first."""
    results = tmp_path / "results.jsonl"
    for _ in range(2):
        ended = benchmarks(
            *("--folder", str(tmp_path / "kept"), "--only", "depth", "--most", "1000"),
            *("--seconds", "0.2", "--repeats", "1", "--results", str(results)),
            module="benchmarks.growth",
        )
        assert ended.returncode == 0, ended.stderr
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line["type"] for line in lines].count("run") == 2
    points = [(line["size"], line["operation"]) for line in lines if line["type"] == "point"]
    assert points == [(1000, "newest 50"), (1000, "context of 100"), (1000, "single write")] * 2
    assert all(line["sample"]["requests"] > 0 for line in lines if line["type"] == "point")
