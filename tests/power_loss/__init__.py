"""Power loss: record what a program does to its files, and make the disks that a crash could leave behind.

A run is recorded once (`Recorder`): every write, sync, truncation, creation, rename and removal, in order, and in
between what the program was told is safe. For a crash before any of these operations, `Disk` then lays out the
files as they may be after it: all that was synced, and of the rest whatever a seed decides. So one run gives as
many crashes as it has operations, and each can be had again.
"""

from power_loss.disk import (
    Disk,
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
from power_loss.recorder import Recorder

__all__ = [
    "Disk",
    "Make",
    "MakeFolder",
    "Mark",
    "Operation",
    "Recorder",
    "Remove",
    "Rename",
    "Sync",
    "SyncFolder",
    "Truncate",
    "Write",
]
