"""Many rows in one statement.

SQLite lets go of the GIL while it runs a statement, and a busy event loop is slow to give it back: what counts is
how often it is asked for. A row at a time, as `executemany` does it, costs single writes a tenth of their rate.

A statement of many rows had better be an `INSERT OR FAIL`. Else SQLite first copies every page that it changes into
a temporary file, to undo the rows before one that fails; and here the whole transaction is undone then.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import chain, islice

import apsw

MOST_ROWS = 64  # with the rows of our tables far below SQLite's limit on parameters


def insert(
    connection: apsw.Connection,
    into: str,
    places: str,
    rows: Collection[Sequence[apsw.SQLiteValue]],
    otherwise: str = "",
) -> None:
    """Insert rows, in their order.

    Args:
        connection: in a transaction.
        into: the statement up to its `VALUES`.
        places: what stands for the values of one row, such as `?, ?, 0, ?`.
        rows: the values of each row.
        otherwise: what follows the rows in the statement, such as an `ON CONFLICT` clause.
    """
    left, remaining = iter(rows), len(rows)
    while remaining:
        # Powers of two: few texts, so that the statements stay prepared.
        count = min(MOST_ROWS, 1 << remaining.bit_length() - 1)
        values = list(chain.from_iterable(islice(left, count)))
        where = f"({places})" + f", ({places})" * (count - 1)
        connection.execute(f"{into} VALUES {where} {otherwise}", values)
        remaining -= count
