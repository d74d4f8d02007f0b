"""Commands for the nemesis, installed into the agents as a plugin of their own by :func:`install`."""

import asyncio
import json
import os
import select
import time
from pathlib import Path

from streamspace_agent import hookimpl

RECORD = "NEMESIS_WORK"
"""The variable with the file that records every piece of work, with the CLOCK_BOOTTIME at which it was allowed."""


@hookimpl
def register_commands(register):
    register("nemesis_work", work)
    register("nemesis_block", block)
    register("nemesis_fork", fork)


def checked(context):
    """Ask whether this replica leads; when it did.

    Before the question, not after the work: a process may be frozen between its question and what it asked for, and no
    leader can help that. One that was frozen before the question must be told no.
    """
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    context.require_lease()
    return now


def record(event, command, boottime):
    line = {"event": event, "command": command.id, "epoch": command.epoch, "boottime": boottime}
    with open(os.environ[RECORD], "ab", buffering=0) as file:
        file.write(f"{json.dumps(line)}\n".encode())


async def work(command, context):
    """Calls require_lease before each step, and notices what is done already, as the contract demands of a handler."""
    record("begin", command, checked(context))
    await asyncio.sleep(float(command.payload.get("seconds", 0)))
    led = checked(context)
    try:
        (Path(os.environ[RECORD]).parent / "done" / command.id).touch(exist_ok=False)
    except FileExistsError:
        record("found done", command, led)
    else:
        record("end", command, led)
    return {"epoch": command.epoch, "attempt": command.attempt}


async def block(command, context):
    """Blocks the main loop: once, and not again in the process that resumes the command."""
    if command.attempt == 1:
        until = time.clock_gettime(time.CLOCK_BOOTTIME) + float(command.payload["seconds"])
        while (left := until - time.clock_gettime(time.CLOCK_BOOTTIME)) > 0:
            select.select([], [], [], left)
    return {}


async def fork(command, context):
    """Forks a child that lives on for a while with every descriptor that it has inherited."""
    child = os.fork()
    if child == 0:
        try:  # not time.sleep, which libfaketime breaks in a child; and whatever happens, the child is no second agent
            select.select([], [], [], float(command.payload["seconds"]))
        finally:
            os._exit(0)
    return {"child": child}


def install(folder):
    """Install the plugin into `folder`, which goes into PYTHONPATH."""
    info = folder / "nemesis_commands-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nemesis-commands\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[streamspace_agent.commands]\nnemesis = nemesis_commands\n")
    (folder / "nemesis_commands.py").write_text(Path(__file__).read_text())
