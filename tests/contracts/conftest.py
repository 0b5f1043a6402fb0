import itertools

import pytest
from contracts.implementations import GATEWAYS, JOURNALS, REPOS, SLOW, VAULTS, WRITING_GATEWAYS

from memtrace_core.dedup import DedupPolicy
from memtrace_core.testing import ManualClock


def given(name, factory):
    """Return an implementation as a parameter; over a database server the suites take long."""
    return pytest.param(factory, id=name, marks=[pytest.mark.slow] if name in SLOW else [])


def opener(implementations):
    """Return a fixture that opens each implementation, in a directory of its own every time."""

    @pytest.fixture(params=[given(name, factory) for name, factory in implementations])
    def open_one(request, tmp_path):
        numbers = itertools.count()

        def open_it(*, clock=None, dedup=None):
            directory = tmp_path / str(next(numbers))
            directory.mkdir()
            return request.param(directory, clock or ManualClock(), dedup or DedupPolicy())

        return open_it

    return open_one


journal_harness = opener(JOURNALS)
gateway_harness = opener(GATEWAYS)
writing_harness = opener(WRITING_GATEWAYS)
repo_harness = opener(REPOS)
vault_harness = opener(VAULTS)
