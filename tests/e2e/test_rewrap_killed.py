"""A rewrap is killed at any moment: all secrets lie under the old master key or all under the new one."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from e2e.processes import COMMAND, Deployment, new_master_key
from e2e.sealed_rows import CHECK, add_instances, key_id, sealed_keys, sealed_with

from memtrace_sqlite import EnvelopeVault, MasterKey

pytestmark = pytest.mark.slow

INSTANCES = 2000
# Runs a command, and kills itself as it begins to seal for the given time.
KILLED_AT_SEAL = """
import itertools, os, signal, sys
from memtrace_cli.__main__ import main
from memtrace_sqlite import EnvelopeVault

last, numbers, seal = int(sys.argv.pop(1)), itertools.count(1), EnvelopeVault.seal
def sealed(vault, secret, context):
    if next(numbers) == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return seal(vault, secret, context)
EnvelopeVault.seal = sealed
main()
"""


class Rotation:
    """A deployment with many instances whose master key is about to change."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.old, self.new = deployment.master_key, new_master_key()
        deployment.done("org", "list")
        self.keys = add_instances(deployment.data / "memtrace.db", self.old, INSTANCES)
        deployment.environment |= {"MEMTRACE_MASTER_KEY": self.new, "MEMTRACE_MASTER_KEY_PREVIOUS": self.old}
        self._kept = deployment.folder / "kept"
        shutil.copytree(deployment.data, self._kept)

    @property
    def file(self) -> Path:
        """The metadata database."""
        return self.deployment.data / "memtrace.db"

    def begin_anew(self) -> None:
        """Put everything back to where it was before any rewrap."""
        shutil.rmtree(self.deployment.data)
        shutil.copytree(self._kept, self.deployment.data)

    def rewrap(self, *wrapped: str) -> subprocess.Popen[bytes]:
        """Start a rewrap."""
        return subprocess.Popen(
            [*(wrapped or COMMAND), "vault", "rewrap"],
            cwd=self.deployment.folder,
            env=self.deployment.variables(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def assert_all_open(self, vault: EnvelopeVault) -> None:
        """Expect every secret to open to what it was."""
        found = sealed_keys(self.file)
        assert vault.open(found.pop(CHECK), "metadata|check") == "memtrace"
        contexts = {name: f"{name.replace('arc', 'org')}|{name}|arc_api_key" for name in found}
        assert {name: vault.open(sealed, contexts[name]) for name, sealed in found.items()} == self.keys


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Rotation:
    """Return a rotation that is prepared once."""
    return Rotation(Deployment(tmp_path_factory.mktemp("rotation")))


@pytest.fixture
def rotation(prepared: Rotation) -> Rotation:
    """Return the rotation, from its beginning."""
    prepared.begin_anew()
    return prepared


@pytest.mark.parametrize("number", [1, 1000, INSTANCES + 1])
def test_killed_while_it_seals_it_has_changed_nothing(rotation: Rotation, number: int) -> None:
    """Killed at the first, a middle or the last secret, all lie under the old key; run again, it does all of it."""
    killed = rotation.rewrap(sys.executable, "-c", KILLED_AT_SEAL, str(number))
    assert killed.wait(60) == -9
    assert sealed_with(rotation.file) == {key_id(rotation.old)}
    rotation.assert_all_open(EnvelopeVault(MasterKey.parse(rotation.new), [MasterKey.parse(rotation.old)]))
    assert rotation.deployment.told("vault", "rewrap") == {"rewrapped": INSTANCES + 1}
    rotation.assert_all_open(EnvelopeVault(MasterKey.parse(rotation.new)))


def test_killed_while_it_commits_it_has_changed_all_or_nothing(rotation: Rotation) -> None:
    """Killed as soon as the commit begins to reach the disk, again and again: all old or all new, and all opens."""
    both = EnvelopeVault(MasterKey.parse(rotation.new), [MasterKey.parse(rotation.old)])
    log = rotation.file.with_name("memtrace.db-wal")
    for delay in (0, 0.002):
        rotation.begin_anew()
        running = rotation.rewrap()
        while running.poll() is None and not (log.exists() and log.stat().st_size):
            pass
        seen = time.perf_counter()
        while time.perf_counter() - seen < delay:
            pass
        running.kill()
        running.wait(20)
        assert sealed_with(rotation.file) in ({key_id(rotation.old)}, {key_id(rotation.new)})
        rotation.assert_all_open(both)
        assert rotation.deployment.told("vault", "rewrap")["rewrapped"] in (0, INSTANCES + 1)
        assert sealed_with(rotation.file) == {key_id(rotation.new)}
