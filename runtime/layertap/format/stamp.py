"""File stamps: what tells whether a file is still the one that was read."""

from __future__ import annotations

import os
from typing import NamedTuple


class FileStamp(NamedTuple):
    """What changes when a file is written again."""

    size: int
    mtime_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, stat: os.stat_result) -> FileStamp:
        """The stamp of the file that was asked for its `stat`."""
        return cls(stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_dev)
