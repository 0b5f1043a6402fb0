import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

NOBODY = 65534

# What is slow under load is no failure.
settings.register_profile("integration", deadline=None, max_examples=15)
settings.load_profile("integration")

# None of these tests cuts the power, so their many fsyncs may go to memory where there is enough of it.
IN_MEMORY = Path("/dev/shm")
ENOUGH_BYTES = 512 << 20


@pytest.fixture
def new_folder():
    """Make empty folders that go away with the test."""
    roomy = IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free >= ENOUGH_BYTES
    with tempfile.TemporaryDirectory(prefix="memtrace-test-", dir=IN_MEMORY if roomy else None) as folder:
        yield lambda: Path(tempfile.mkdtemp(dir=folder))


@pytest.fixture
def tmp_path(new_folder):
    """An empty folder."""
    return new_folder()


@pytest.fixture
def unprivileged():
    """A folder of our own, and a context in which permissions count, even for tests that root runs."""
    folder = Path(tempfile.mkdtemp(prefix="memtrace-test-"))
    root = os.geteuid() == 0
    if root:
        os.chown(folder, NOBODY, NOBODY)

    @contextmanager
    def acting():
        if root:
            os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            if root:
                os.seteuid(0)

    yield acting
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o700)
    shutil.rmtree(folder)
