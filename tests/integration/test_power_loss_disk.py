"""The disk that loses power: no kinder and no harsher than a real one."""

import random

import apsw
import pytest
from power_loss import Disk, Make, MakeFolder, Mark, Recorder, Remove, Rename, Sync, SyncFolder, Truncate, Write
from power_loss.crashes import all_points
from power_loss.disk import SECTOR

SEEDS = range(60)
OLD, NEW = b"a" * 8 * SECTOR, b"b" * 8 * SECTOR
SAFE = [Make("f", 0), SyncFolder("."), Write(0, 0, OLD), Sync(0)]


def outcomes(operations, new_folder):
    """Return the contents of the file `f` (None: there is none) that power losses leave behind."""
    disk = Disk()
    for each in operations:
        disk.apply(each)
    found = set()
    for seed in SEEDS:
        folder = new_folder()
        disk.lay_out(folder, random.Random(seed))
        found.add((folder / "f").read_bytes() if (folder / "f").exists() else None)
    return found


def sectors(content):
    """Return a content cut into sectors."""
    return [content[start : start + SECTOR] for start in range(0, len(content), SECTOR)]


def test_what_was_synced_is_never_lost(new_folder):
    """Content under a synced name survives every power loss unchanged."""
    assert outcomes(SAFE, new_folder) == {OLD}


def test_what_was_not_synced_is_lost_or_torn_or_arrives(new_folder):
    """An overwrite that was not synced leaves the old content, the new one, or some sectors of each."""
    found = outcomes([*SAFE, Write(0, 0, NEW)], new_folder)
    assert {OLD, NEW} < found
    assert all({*sectors(each)} <= {OLD[:SECTOR], NEW[:SECTOR]} for each in found)


def test_writes_arrive_in_any_order(new_folder):
    """Of two writes to different places, either may arrive without the other."""
    found = outcomes([*SAFE, Write(0, 0, NEW[:SECTOR]), Write(0, 4 * SECTOR, NEW[:SECTOR])], new_folder)
    assert {(sectors(each)[0] == NEW[:SECTOR], sectors(each)[4] == NEW[:SECTOR]) for each in found} == {
        (first, second) for first in (True, False) for second in (True, False)
    }


def test_a_sector_is_as_the_cache_once_had_it(new_folder):
    """Two writes into one sector leave none of them, the first, or both; never the second alone."""
    found = outcomes([*SAFE, Write(0, 0, b"1"), Write(0, 1, b"2")], new_folder)
    assert {each[:2] for each in found} == {b"aa", b"1a", b"12"}


def test_a_file_that_grew_without_a_sync_may_be_short_or_hold_zeros(new_folder):
    """Appended data that were not synced are missing, there, or a hole."""
    found = outcomes([*SAFE, Write(0, len(OLD), NEW)], new_folder)
    assert all(each.startswith(OLD) for each in found)
    assert {OLD, OLD + NEW} < found
    assert any(b"\0" in each for each in found)


def test_a_truncation_without_a_sync_may_be_undone(new_folder):
    """A file that was cut short is short or as before, and short for good after a sync."""
    assert outcomes([*SAFE, Truncate(0, SECTOR)], new_folder) == {OLD, OLD[:SECTOR]}
    assert outcomes([*SAFE, Truncate(0, SECTOR), Sync(0)], new_folder) == {OLD[:SECTOR]}


def test_a_name_is_safe_when_its_folder_is_synced(new_folder):
    """A new file, a rename and a removal may be undone until then, whatever was synced of the file itself."""
    made = [Make("f", 0), Write(0, 0, OLD), Sync(0)]
    assert outcomes(made, new_folder) == {None, OLD}
    assert outcomes([*made, SyncFolder(".")], new_folder) == {OLD}
    renamed = [*SAFE, Make("g", 1), Write(1, 0, NEW), Sync(1), Rename("g", "f")]
    assert outcomes(renamed, new_folder) == {OLD, NEW}
    assert outcomes([*renamed, SyncFolder(".")], new_folder) == {NEW}
    assert outcomes([*SAFE, Remove("f")], new_folder) == {None, OLD}
    assert outcomes([*SAFE, Remove("f"), SyncFolder(".")], new_folder) == {None}


def test_a_folder_takes_along_what_is_in_it(new_folder):
    """A folder whose own name was not synced may be gone, although what it holds was synced."""
    disk = Disk()
    for each in (MakeFolder("d"), Make("d/f", 0), Write(0, 0, OLD), Sync(0), SyncFolder("d")):
        disk.apply(each)
    found = set()
    for seed in SEEDS:
        folder = new_folder()
        disk.lay_out(folder, random.Random(seed))
        found.add((folder / "d" / "f").exists())
    assert found == {True, False}


def recorded(folder, synchronous):
    """Record a database into which a hundred rows go, one to a transaction, each marked when it is committed."""
    path = folder / "test.db"
    with Recorder(folder) as recorder:
        connection = apsw.Connection(str(path))
        connection.pragma("journal_mode", "wal")
        connection.pragma("wal_autocheckpoint", 10)
        connection.execute("CREATE TABLE numbers (n INTEGER)")
        connection.pragma("synchronous", synchronous)
        for number in range(30):
            connection.execute("INSERT INTO numbers VALUES (?)", (number,))
            recorder.mark(number)
        connection.close()
    return recorder.operations


def rows_after(operations, point, folder):
    """Return how many rows were committed before a power loss, and how many there are after it."""
    disk, committed = Disk(), 0
    for each in operations[:point]:
        disk.apply(each)
        committed += isinstance(each, Mark)
    disk.lay_out(folder, random.Random(point))
    connection = apsw.Connection(str(folder / "test.db"))
    assert connection.pragma("integrity_check") == "ok"
    ((found,),) = connection.execute("SELECT count(*) FROM numbers")
    connection.close()
    return committed, found


def points_with_rows(operations):
    """Return the points after the first commit."""
    return [point for point in all_points(operations) if point > operations.index(Mark(0))]


def test_sqlite_with_full_syncs_keeps_every_commit(new_folder):
    """The disk is not harsher than SQLite's own promise: with synchronous=FULL no commit is ever lost."""
    operations = recorded(new_folder(), "full")
    for point in points_with_rows(operations):
        committed, found = rows_after(operations, point, new_folder())
        assert found in (committed, committed + 1)


def test_sqlite_without_a_sync_per_commit_loses_some(new_folder):
    """The disk is harsh enough: with synchronous=NORMAL some power loss undoes a commit, without any damage."""
    operations = recorded(new_folder(), "normal")
    results = [rows_after(operations, point, new_folder()) for point in points_with_rows(operations)]
    assert any(found < committed for committed, found in results)


def test_sqlite_without_any_sync_is_damaged_or_loses_some(new_folder):
    """With synchronous=OFF checkpoints are not ordered any more."""
    operations = recorded(new_folder(), "off")
    worst = 0
    for point in points_with_rows(operations):
        try:
            committed, found = rows_after(operations, point, new_folder())
        except (apsw.Error, AssertionError):
            worst = max(worst, 1)
        else:
            worst = max(worst, committed - found)
    assert worst


@pytest.mark.parametrize("synchronous", ["full", "off"])
def test_a_record_holds_all_that_was_done(new_folder, synchronous):
    """A record whose every operation arrives gives the very files that are in the recorded folder."""
    real, laid_out = new_folder(), new_folder()
    operations = recorded(real, synchronous)
    disk = Disk()
    for each in operations:
        disk.apply(each)
        if isinstance(each, Make):
            disk.apply(SyncFolder("."))
        elif isinstance(each, Write):
            disk.apply(Sync(each.file))
    disk.apply(SyncFolder("."))
    disk.lay_out(laid_out, random.Random(0))
    assert {path.name: path.read_bytes() for path in laid_out.iterdir()} == {
        path.name: path.read_bytes() for path in real.iterdir()
    }


def test_files_elsewhere_are_not_recorded(new_folder):
    """Only what happens in the recorded folder is in the record."""
    recorded_folder, elsewhere = new_folder(), new_folder()
    with Recorder(recorded_folder) as recorder:
        connection = apsw.Connection(str(elsewhere / "other.db"))
        connection.execute("CREATE TABLE t (n)")
        connection.close()
    assert recorder.operations == [SyncFolder(".")]
    assert "recording" not in apsw.vfs_names()
