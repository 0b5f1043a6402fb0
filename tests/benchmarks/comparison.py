"""Subjects beside each other: the same load in turn, and ratios of what was measured right after each other."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from benchmarks.report import Findings, Line
from benchmarks.sample import Sample, middle
from benchmarks.subjects import Effort

Measure = Callable[[], Sample]
Figure = Callable[[Sample], float]


def compare(found: Findings, scenario: str, subjects: Mapping[str, Measure], effort: Effort) -> list[list[Sample]]:
    """Measure all subjects once, then all again, and note the medians; return the samples, subject by subject.

    In turn, because what disturbs the machine for a while then disturbs all of them.
    """
    rounds = [[measure() for measure in subjects.values()] for _ in range(effort.repeats)]
    columns = [list(samples) for samples in zip(*rounds, strict=True)]
    for name, samples in zip(subjects, columns, strict=True):
        found.lines.append(Line(scenario=scenario, subject=name, sample=middle(samples)))
    return columns


def ratio(ours: Sequence[Sample], theirs: Sequence[Sample], figure: Figure) -> float:
    """Return the median, over the rounds, of one subject's figure divided by another's."""
    return statistics.median(figure(one) / figure(other) for one, other in zip(ours, theirs, strict=True))


def rate(sample: Sample) -> float:
    """Return requests a second."""
    return sample.per_second


def mean(sample: Sample) -> float:
    """Return the mean latency in ms."""
    return sample.mean_ms


def tail(sample: Sample) -> float:
    """Return the 99th percentile of the latency in ms."""
    return sample.p99_ms


def cpu(sample: Sample) -> float:
    """Return the CPU time a request in µs."""
    return sample.cpu_us
