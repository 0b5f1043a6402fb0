"""How a database is opened, whatever engine it is of."""

from __future__ import annotations

from enum import Enum


class Mode(Enum):
    """What opening a database may do to it; both make a new one where there is none."""

    MIGRATE = "migrate"
    AS_IT_IS = "as it is"
