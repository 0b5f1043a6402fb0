"""A disk that fails while a test wants it to: errors in place of some of the operations on SQLite's files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import apsw

Trouble = Literal["read", "write", "sync"]


class TroubledDisk:
    """Raises errors instead of doing what it is asked to, inside of `failing`; `hits` counts them."""

    def __init__(self) -> None:
        self._trouble: Trouble | None = None
        self._error: type[apsw.Error] = apsw.IOError
        self._files: tuple[str, ...] = ()
        self.hits = 0

    @contextmanager
    def failing(
        self, trouble: Trouble, error: type[apsw.Error] = apsw.IOError, *, files: tuple[str, ...] = ("",)
    ) -> Iterator[None]:
        """Fail one kind of operation on the files whose names end so."""
        self._trouble, self._error, self._files, self.hits = trouble, error, files, 0
        try:
            yield
        finally:
            self._trouble = None

    def meet(self, operation: Trouble, name: str) -> None:
        """Raise if this operation is in trouble."""
        if operation == self._trouble and name.endswith(self._files):
            self.hits += 1
            raise self._error(f"{operation} of {Path(name).name} fails")


@contextmanager
def troubled_disk() -> Iterator[TroubledDisk]:
    """Let all new SQLite connections go over a disk that can fail; they must be closed before the end."""
    disk = TroubledDisk()
    vfs = _TroubledVFS(disk)
    try:
        yield disk
    finally:
        vfs.unregister()


class _TroubledVFS(apsw.VFS):
    def __init__(self, disk: TroubledDisk) -> None:
        self._disk = disk
        super().__init__("troubled", "unix", makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return _TroubledFile(self._disk.meet, name, flags)


class _TroubledFile(apsw.VFSFile):
    def __init__(
        self, meet: Callable[[Trouble, str], None], name: str | apsw.URIFilename | None, flags: list[int]
    ) -> None:
        self._meet = meet
        self._name = (name.filename() if isinstance(name, apsw.URIFilename) else name) or ""
        super().__init__("unix", name, flags)

    def xRead(self, amount: int, offset: int) -> bytes:
        self._meet("read", self._name)
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._meet("write", self._name)
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        self._meet("sync", self._name)
        super().xSync(flags)
