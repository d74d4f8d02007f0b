"""The text in the lock file: readable with ``cat``, and read by the other replicas.

The first line is the leader's instance id, the rest are ``key: value``. The last line is a checksum: the file is
written in place (replacing it would make a second lock), so a reader has to notice that it read a half-written text.
"""

import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from streamspace_agent.election import Record

LIMIT = 8192
"""The most bytes that are read. A record has about 400."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A record as written to a file. ``inode`` is that file's: in a copy it differs, and the record proves nothing."""

    record: Record
    inode: int
    pid: int
    renewed: str

    def encode(self) -> bytes:
        r = self.record
        text = "\n".join(
            [
                r.holder,
                f"since: {r.since}",
                f"epoch: {r.epoch}",
                f"agent: {r.agent_id}",
                f"state: {'released' if r.released else 'leading'}",
                f"renewed: {self.renewed}",
                f"sequence: {r.sequence}",
                f"nonce: {r.nonce}",
                f"host: {r.host}",
                f"container: {r.container_id}",
                f"pid: {self.pid}",
                f"inode: {self.inode}",
                "",
            ]
        ).encode()
        return text + f"check: {zlib.crc32(text):08x}\n".encode()

    @classmethod
    def decode(cls, data: bytes) -> Self | None:
        """Return None if this is not a whole record. The rest of an older text behind the checksum is ignored."""
        text, mark, rest = data.partition(b"check: ")
        if not mark or rest[:8] != f"{zlib.crc32(text):08x}".encode():
            return None
        try:
            holder, *lines = text.decode().splitlines()
            values = dict(line.split(": ", 1) for line in lines)
            record = Record(
                agent_id=values["agent"],
                holder=holder,
                nonce=values["nonce"],
                epoch=int(values["epoch"]),
                sequence=int(values["sequence"]),
                lease_ms=0,
                released=values["state"] == "released",
                host=values["host"],
                container_id=values["container"],
                since=values["since"],
            )
            return cls(record, int(values["inode"]), int(values["pid"]), values["renewed"])
        except (KeyError, ValueError):
            return None


def read(descriptor: int) -> FileRecord | None:
    """Return the file's record. Reads again while a writer has written half of it."""
    for _ in range(5):
        data = os.pread(descriptor, LIMIT, 0)
        found = FileRecord.decode(data)
        if found or not data:
            return found
    return None


def read_path(path: Path) -> tuple[FileRecord | None, os.stat_result]:
    """Return the record of the file at the path, and the status of that file. Raises OSError."""
    descriptor = open_to_read(path)
    try:
        return read(descriptor), os.fstat(descriptor)
    finally:
        os.close(descriptor)


def open_to_read(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)


def write(descriptor: int, record: FileRecord) -> None:
    """Write in place, then cut to length, so that the file holds an epoch at every moment. Raises OSError."""
    data = record.encode()
    written = os.pwrite(descriptor, data, 0)
    if written != len(data):
        raise OSError(28, os.strerror(28))  # ENOSPC: after a short write, only the next one would fail with it
    os.ftruncate(descriptor, len(data))
