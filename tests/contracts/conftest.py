import itertools

import pytest
from contracts.implementations import GATEWAYS, JOURNALS, REPOS, VAULTS, WRITING_GATEWAYS

from memtrace_core.dedup import DedupPolicy
from memtrace_core.testing import ManualClock


def opener(implementations):
    """Return a fixture that opens each implementation, in a directory of its own every time."""

    @pytest.fixture(params=[factory for _, factory in implementations], ids=[name for name, _ in implementations])
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
