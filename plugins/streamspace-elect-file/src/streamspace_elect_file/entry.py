"""What stands in the lock file: for ``cat`` first, for the other replicas second.

The first line is the leader's instance id, the rest ``key: value``. The last line is a checksum: the file is
written in place (replacing it would be a second lock), so a reader has to see whether it read half of two texts.
"""

import os
import zlib
from dataclasses import dataclass
from typing import Self

from streamspace_agent.election import Record

LIMIT = 8192
"""Bytes read at most. A record has some 400; whatever else the file holds is not ours to load."""


@dataclass(frozen=True, slots=True)
class Entry:
    """``inode`` is that of the file the text was written to: in a copy it is another's, and proves nothing."""

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
        """None if this is not a whole record. What a longer text left behind the checksum is ignored."""
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


def read(descriptor: int) -> Entry | None:
    """The file's record, read again while a writer is in the middle of it."""
    for _ in range(5):
        data = os.pread(descriptor, LIMIT, 0)
        entry = Entry.decode(data)
        if entry or not data:
            return entry
    return None


def write(descriptor: int, entry: Entry) -> None:
    """In place, then cut to length: at no moment is the file without an epoch. Raises OSError."""
    data = entry.encode()
    written = os.pwrite(descriptor, data, 0)
    if written != len(data):
        raise OSError(28, os.strerror(28))  # ENOSPC: a short write says so only at the next try
    os.ftruncate(descriptor, len(data))
