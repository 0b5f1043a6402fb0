"""Arc's write buffer: acknowledged rows that are in memory only, merged into few files when it is flushed."""

from dataclasses import dataclass, field
from typing import Any

from arc_double.pruner import HOUR_US
from arc_double.writes import Batch

Columns = dict[str, tuple[str, list[Any]]]


@dataclass
class Buffer:
    """Batches by database and measurement, in order of arrival; whoever holds it does the locking."""

    batches: dict[tuple[str, str], list[Batch]] = field(default_factory=dict)
    oldest: float | None = None

    def add(self, database: str, batch: Batch, now: float) -> None:
        """Hold a batch."""
        self.batches.setdefault((database, batch.measurement), []).append(batch)
        if self.oldest is None:
            self.oldest = now

    def clear(self) -> None:
        """Lose everything."""
        self.batches.clear()
        self.oldest = None

    def __len__(self):
        return sum(len(batch) for batches in self.batches.values() for batch in batches)


def merge(batches: list[Batch]) -> list[Columns]:
    """Unite batches whose columns agree in type; a column that a batch has not is null there."""
    groups: list[Columns] = []
    for batch in batches:
        group = groups[-1] if groups else {}
        if not group or any(group[name][0] != kind for name, (kind, _) in batch.columns.items() if name in group):
            groups.append({name: (kind, list(values)) for name, (kind, values) in batch.columns.items()})
            continue
        before, added = len(group["time"][1]), len(batch)
        for name in group.keys() | batch.columns.keys():
            kind, values = group.get(name) or (batch.columns[name][0], [None] * before)
            values.extend(batch.columns[name][1] if name in batch.columns else [None] * added)
            group[name] = (kind, values)
    return groups


def by_hour(columns: Columns) -> dict[int, Columns]:
    """Split columns by the hour of `time` (hours since 1970); a column of only nulls is left out of its hour."""
    places: dict[int, list[int]] = {}
    for place, moment in enumerate(columns["time"][1]):
        places.setdefault(moment // HOUR_US, []).append(place)
    split = {}
    for hour, rows in places.items():
        chosen = {name: (kind, [values[row] for row in rows]) for name, (kind, values) in columns.items()}
        split[hour] = {
            name: (kind, values)
            for name, (kind, values) in chosen.items()
            if any(value is not None for value in values)
        }
    return split
