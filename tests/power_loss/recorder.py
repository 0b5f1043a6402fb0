"""What a program does to the files in a folder, by way of SQLite or by itself, written down in order."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from unittest import mock

import apsw

from power_loss.disk import (
    Make,
    MakeFolder,
    Mark,
    Operation,
    Remove,
    Rename,
    Sync,
    SyncFolder,
    Truncate,
    Write,
)

# SQLite syncs the folder of these together with the file itself, the first time.
_NAMED_BY_SYNC = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL
# How many turns of the event loop it takes, at most, until a caller has noticed an answer.
_TURNS = 8


class Recorder:
    """While it is entered, everything that happens to files in `root` is appended to `operations`.

    New SQLite connections of the whole process go through it; those that were opened while it was entered must be
    closed before it is left. Files that are there already count as safe: what stands before `beginning` makes them.
    A WAL's shared memory is no part of the record: it does not outlive a crash.
    """

    def __init__(self, root: Path) -> None:
        self.operations: list[Operation] = []
        self.beginning = 0
        self._root = root
        self._lock = threading.RLock()
        self._numbers = itertools.count()
        self._files: dict[str, int] = {}
        self._folders = {"."}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._ways_back = ExitStack()

    def __enter__(self) -> Self:
        for path in sorted(self._root.rglob("*")):
            if path.is_dir():
                self._note_folder(self.name_of(path))
            else:
                file = self.file_at(self.name_of(path))
                self.operations += [Write(file, 0, path.read_bytes()), Sync(file)]
        self.operations += [SyncFolder(folder) for folder in sorted(self._folders)]
        self.beginning = len(self.operations)
        vfs = _RecordingVFS(self)
        self._ways_back.callback(vfs.unregister)
        for function in (self.mkdir, self.rename, self.unlink, self.fsync):
            patch = mock.patch.object(os, function.__name__, _watched(function, getattr(os, function.__name__)))
            self._ways_back.enter_context(patch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ways_back.close()

    def listen_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let whoever awaits something on this loop take note of it before any further operation.

        So what was acknowledged too early is marked too early, too, and not after the write by good luck.
        """
        self._loop, self._loop_thread = loop, threading.get_ident()

    def mark(self, what: object) -> None:
        """Note where the program is."""
        with self._lock:
            self.operations.append(Mark(what))

    def note(self, operation: Operation) -> None:
        """Append an operation that is about to be done."""
        if self._loop is not None and threading.get_ident() != self._loop_thread and not self._loop.is_closed():
            noticed = threading.Event()
            self._loop.call_soon_threadsafe(self._after_turns, _TURNS, noticed)
            noticed.wait(10)
        with self._lock:
            self.operations.append(operation)

    def name_of(self, path: str | Path) -> str:
        """Return a path as it stands in the record."""
        return str(Path(path).relative_to(self._root))

    def holds(self, path: Any) -> bool:
        """Tell whether a path is in the recorded folder."""
        return isinstance(path, str | Path) and Path(path).is_relative_to(self._root)

    def file_at(self, name: str) -> int:
        """Return the number of a file, and note that it was made if it has none."""
        with self._lock:
            if name not in self._files:
                self._files[name] = next(self._numbers)
                self.operations.append(Make(name, self._files[name]))
            return self._files[name]

    def removed(self, name: str) -> None:
        """Note that a name goes away."""
        with self._lock:
            if self._files.pop(name, None) is not None:
                self.operations.append(Remove(name))

    def mkdir(self, path: Any, *_: Any, **__: Any) -> None:
        """Note a new folder."""
        if self.holds(path) and not Path(path).exists():
            self._note_folder(self.name_of(path))

    def rename(self, path: Any, target: Any) -> None:
        """Note a new name."""
        if self.holds(path):
            before, after = self.name_of(path), self.name_of(target)
            self._files[after] = self._files.pop(before)
            self.note(Rename(before, after))

    def unlink(self, path: Any, **_: Any) -> None:
        """Note that a file is removed."""
        if self.holds(path):
            self.removed(self.name_of(path))

    def fsync(self, descriptor: int) -> None:
        """Note that a folder is synced, or a file."""
        synced = os.fstat(descriptor)
        for folder in self._folders:
            if os.path.samestat(synced, (self._root / folder).stat()):
                self.note(SyncFolder(folder))
        for name, file in list(self._files.items()):
            if (self._root / name).exists() and os.path.samestat(synced, (self._root / name).stat()):
                self.note(Sync(file))

    def _note_folder(self, name: str) -> None:
        self._folders.add(name)
        self.note(MakeFolder(name))

    def _after_turns(self, turns: int, noticed: threading.Event) -> None:
        if turns and self._loop is not None:
            self._loop.call_soon(self._after_turns, turns - 1, noticed)
        else:
            noticed.set()


def _watched(note: Any, function: Any) -> Any:
    def noting(*arguments: Any, **named: Any) -> Any:
        note(*arguments, **named)
        return function(*arguments, **named)

    return noting


class _RecordingVFS(apsw.VFS):
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        super().__init__("recording", "unix", makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path is None or not self._recorder.holds(path):
            return super().xOpen(name, flags)
        opened = _RecordingFile(self._recorder, self._recorder.name_of(path), name, flags)
        opened.file = self._recorder.file_at(opened.name)
        return opened

    def xDelete(self, filename: str, syncdir: bool) -> None:
        super().xDelete(filename, syncdir)
        if self._recorder.holds(filename):
            name = self._recorder.name_of(filename)
            self._recorder.removed(name)
            if syncdir:
                self._recorder.note(SyncFolder(str(Path(name).parent)))


class _RecordingFile(apsw.VFSFile):
    file = -1

    def __init__(
        self, recorder: Recorder, name: str, full: str | apsw.URIFilename | None, flags: list[int]
    ) -> None:
        self._recorder = recorder
        self.name = name
        self._names_itself = bool(flags[0] & apsw.SQLITE_OPEN_CREATE and flags[0] & _NAMED_BY_SYNC)
        super().__init__("unix", full, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._recorder.note(Write(self.file, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        self._recorder.note(Truncate(self.file, newsize))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        self._recorder.note(Sync(self.file))
        if self._names_itself:
            self._names_itself = False
            self._recorder.note(SyncFolder(str(Path(self.name).parent)))
