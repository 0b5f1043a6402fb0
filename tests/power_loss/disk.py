"""A disk behind a cache: what was synced is safe, and the rest may be there after a power loss, in part or not.

The rules are those of a POSIX file system, and no harsher than what SQLite builds on:

- A sync makes a file's content durable, a sync of its folder the names in it. Neither implies the other.
- Of the writes since the last sync each arrived, did not, or did with some of its sectors, in any order. A sector
  is never torn itself: it is as the cache had it at some moment since the sync.
- Names appear, change and disappear in the order in which that was done, and a crash may cut that off anywhere.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512

# How likely a write that was not synced is to arrive whole; a crash may find an idle disk or a busy one.
_CHANCES = (0.0, 0.2, 0.5, 0.8, 1.0)
_TORN = 0.4


@dataclass(frozen=True)
class Make:
    path: str
    file: int


@dataclass(frozen=True)
class MakeFolder:
    path: str


@dataclass(frozen=True)
class Write:
    file: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Truncate:
    file: int
    size: int


@dataclass(frozen=True)
class Sync:
    file: int


@dataclass(frozen=True)
class SyncFolder:
    path: str


@dataclass(frozen=True)
class Rename:
    path: str
    target: str


@dataclass(frozen=True)
class Remove:
    path: str


@dataclass(frozen=True)
class Mark:
    """Not an operation: what the program has begun, or was told, at this moment."""

    what: object


Operation = Make | MakeFolder | Write | Truncate | Sync | SyncFolder | Rename | Remove | Mark
Naming = Make | MakeFolder | Rename | Remove

FOLDER = -1
ROOT = "."


@dataclass
class _File:
    durable: bytes = b""
    cached: bytearray = field(default_factory=bytearray)
    unsynced: list[Write | Truncate] = field(default_factory=list)

    def change(self, change: Write | Truncate) -> None:
        _apply(self.cached, change)
        self.unsynced.append(change)

    def sync(self) -> None:
        self.durable = bytes(self.cached)
        self.unsynced.clear()

    def after_power_loss(self, chance: float, dice: random.Random) -> bytes:
        """Return the content as a disk may have it, each unsynced write arriving with a chance."""
        cache, disk = bytearray(self.durable), bytearray(self.durable)
        for change in self.unsynced:
            _apply(cache, change)
            arrives = dice.random() < chance
            if isinstance(change, Truncate):
                if arrives:
                    _apply(disk, change)
                continue
            torn = not arrives and 0 < chance < 1 and dice.random() < _TORN
            for sector in _sectors(change):
                if arrives or (torn and dice.random() < 0.5):
                    whole = bytes(cache[sector : sector + SECTOR])
                    _apply(disk, Write(change.file, sector, whole))
        return bytes(disk)


@dataclass
class _Folder:
    durable: dict[str, int] = field(default_factory=dict)
    unsynced: list[Naming] = field(default_factory=list)

    def names(self, most: int) -> dict[str, int]:
        """Return what is in the folder when so many of the unsynced changes have arrived."""
        names = dict(self.durable)
        for change in self.unsynced[:most]:
            match change:
                case Make(path, file):
                    names[Path(path).name] = file
                case MakeFolder(path):
                    names[Path(path).name] = FOLDER
                case Rename(path, target):
                    names[Path(target).name] = names.pop(Path(path).name)
                case Remove(path):
                    del names[Path(path).name]
        return names

    def sync(self) -> None:
        self.durable = self.names(len(self.unsynced))
        self.unsynced.clear()


class Disk:
    """What is safe and what is only in the cache, after the operations that were applied."""

    def __init__(self) -> None:
        self._files: dict[int, _File] = {}
        self._folders: dict[str, _Folder] = {ROOT: _Folder()}

    def apply(self, operation: Operation) -> None:
        """Do one operation."""
        match operation:
            case Write(file) | Truncate(file):
                self._files[file].change(operation)
            case Sync(file):
                self._files[file].sync()
            case SyncFolder(path):
                self._folders[path].sync()
            case Mark():
                pass
            case _:
                if isinstance(operation, Make):
                    self._files[operation.file] = _File()
                elif isinstance(operation, MakeFolder):
                    self._folders[operation.path] = _Folder()
                self._folders[str(Path(operation.path).parent)].unsynced.append(operation)

    def lay_out(self, target: Path, dice: random.Random) -> None:
        """Write the files into an empty folder as they may be if the power goes now."""
        self._lay_out(ROOT, target, dice.choice(_CHANCES), dice)

    def _lay_out(self, folder: str, target: Path, chance: float, dice: random.Random) -> None:
        found = self._folders[folder]
        arrived = sum(dice.random() < chance for _ in found.unsynced)
        for name, file in found.names(arrived).items():
            if file == FOLDER:
                (target / name).mkdir()
                self._lay_out(str(Path(folder) / name), target / name, chance, dice)
            else:
                (target / name).write_bytes(self._files[file].after_power_loss(chance, dice))


def _apply(content: bytearray, change: Write | Truncate) -> None:
    end = change.size if isinstance(change, Truncate) else change.offset + len(change.data)
    if isinstance(change, Truncate):
        del content[end:]
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    if isinstance(change, Write):
        content[change.offset : end] = change.data


def _sectors(write: Write) -> Iterator[int]:
    """Yield where the sectors begin that a write touches."""
    return iter(range(write.offset // SECTOR * SECTOR, write.offset + len(write.data), SECTOR))
