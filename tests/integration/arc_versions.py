"""The releases of Arc that tests of the whole way to it run on: the newer by default, both in the slow run."""

import pytest
from arc_double import RELEASED

EVERY_VERSION = [pytest.param(RELEASED[0], marks=pytest.mark.slow), RELEASED[1]]
