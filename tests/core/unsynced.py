"""Run as a program: works with a journal in the folder named, on a thread that may not sync; an attempt is an error of
the disk's."""

import asyncio
import ctypes
import errno
import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from streamspace_agent.journal import Journal, writeahead
from streamspace_agent.protocol import Message

CALLS = {"x86_64": (74, 75), "aarch64": (82, 83)}[platform.machine()]
"""Numbers of fsync and fdatasync."""
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, MODE_FILTER = 38, 22, 2
LOAD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, FAIL = 0x7FFF0000, 0x00050000 | errno.EIO


class Step(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("yes", ctypes.c_ubyte), ("no", ctypes.c_ubyte), ("value", ctypes.c_uint))


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.POINTER(Step)))


def forbid_sync():
    """In the calling thread, and those that it starts from now on (seccomp(2))."""
    first, second = CALLS
    steps = [(LOAD, 0, 0, 0), (JUMP_EQUAL, 2, 0, first), (JUMP_EQUAL, 1, 0, second), (RETURN, 0, 0, ALLOW)]
    steps.append((RETURN, 0, 0, FAIL))
    program = Program(len(steps), (Step * len(steps))(*(Step(*step) for step in steps)))
    libc = ctypes.CDLL(None, use_errno=True)
    for call in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, MODE_FILTER, ctypes.byref(program), 0, 0)):
        if libc.prctl(*call):
            raise OSError(ctypes.get_errno(), "prctl")


def sync(folder):
    with (folder / "probe").open("wb") as file:
        os.fsync(file.fileno())


async def commands(journal, round_, number):
    for each in range(number):
        name = f"{round_}-{each}"
        journal.receive(name, "start_session", {"sessionId": name, "text": "x" * 3000})
        journal.begin(name)
        journal.finish(name, Message("complete", {"commandId": name, "result": {}}))
        await asyncio.sleep(0)
    journal.delivered(journal.last_queued())


async def main(folder):
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    await asyncio.to_thread(sync, folder)  # the thread is there before the filter
    forbid_sync()
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        sync(folder)
    journal = await asyncio.to_thread(Journal, folder / "agent" / "journal.db", 1)
    file, log = folder / "agent" / "journal.db", folder / "agent" / "journal.db-wal"
    largest, emptied, last = 0, 0, 0
    for round_ in range(40):
        beside = asyncio.ensure_future(commands(journal, f"{round_}-beside", 20 * (round_ % 2)))
        await journal.checkpoint(all_of_it=round_ % 10 > 7)
        await beside
        await commands(journal, round_, 50)
        size = log.stat().st_size
        largest, emptied, last = max(largest, size), emptied + (size < last), size
    await journal.prune()
    await journal.checkpoint(all_of_it=True)
    assert log.stat().st_size == 0
    assert file.stat().st_size > 0
    await asyncio.to_thread(journal.close)
    assert not log.exists()
    assert emptied > 3
    assert largest < writeahead.MOST


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
