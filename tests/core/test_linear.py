"""What comes from others is read in time that grows no faster than its length: a pattern that does worse freezes the
agent."""

import contextlib
import time

import pytest

from streamspace_agent import logs
from streamspace_agent.commands import Command
from streamspace_agent.commands.templates import session_spec
from streamspace_agent.errors import CommandFailed
from streamspace_agent.units import parse_duration, parse_quantity
from streamspace_engine.errors import refusal
from streamspace_engine.events import timestamp
from streamspace_engine.unreachable import explain as explain_outage
from streamspace_runtime_docker.images import references
from streamspace_runtime_docker.images.pull import explain

SHORT, TIMES = 2_000, 8

# Each of so many characters that a pattern might try again at every one of them.
HOSTILE = [
    lambda n: "9" * n + "x",
    lambda n: "1" * (n // 2) + "." + "1" * (n // 2) + "x",
    lambda n: "1." * (n // 2),
    lambda n: "1m" * (n // 2) + "x",
    lambda n: "1e" + "9" * n,
    lambda n: " " * n + "x",
    lambda n: "-_." * (n // 3) + "!",
    lambda n: "a/" * (n // 2),
    lambda n: "a:1@" * (n // 4),
    lambda n: "manifest for " * (n // 13),
    lambda n: "does not match " * (n // 15),
    lambda n: '"name":"' + "token" * 18 + "\\" * n,
    lambda n: '"name"' + " " * n,
    lambda n: "token" * (n // 5),
    lambda n: "token=bearer" + " " * n,
    lambda n: "a://b:" * (n // 6),
    lambda n: "a://" + "b:" * (n // 2),
    lambda n: "2026-11-23T15:47:35." + "9" * n,
]


def start(**fields):
    template = {"metadata": {"name": "t"}, "spec": {"baseImage": fields.pop("image", "i")}}
    payload = {"sessionId": "s", "user": "ann", "templateManifest": template, **fields}
    return session_spec(Command("c", "start_session", payload, 1))


READERS = {
    "quantity": parse_quantity,
    "duration": parse_duration,
    "memory": lambda text: start(memory=text),
    "cpu": lambda text: start(cpu=text),
    "idle time-out": lambda text: start(idleTimeout=text),
    "session id": lambda text: start(sessionId=text),
    "image": lambda text: start(image=text),
    "reference": references.checked,
    "manifest": lambda text: start(templateManifest=text),
    "log": logs.redact,
    "a pull's failure": lambda text: explain("x:1", text),
    "an engine's time": timestamp,
    "an engine's refusal": lambda text: refusal(500, text, "unix:///x"),
    "an engine's outage": lambda text: explain_outage(OSError(text), "unix:///x"),
}


def seconds(read, text):
    """Processor time, the least of three: what other processes take is not counted."""
    least = 1e9
    for _ in range(3):
        begun = time.process_time()
        with contextlib.suppress(ValueError, CommandFailed):
            read(text)
        least = min(least, time.process_time() - begun)
        if least > 0.5:
            break
    return least


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
def test_hostile_input_is_read_in_linear_time(reader):
    reader_slow = {}
    for number, make in enumerate(HOSTILE):
        short, long = seconds(reader, make(SHORT)), seconds(reader, make(SHORT * TIMES))
        if long > 0.01 + 4 * TIMES * short:
            reader_slow[number] = (short, long)
    assert reader_slow == {}


@pytest.mark.parametrize("parse", [parse_quantity, parse_duration])
def test_a_number_longer_than_anybody_writes_is_refused(parse):
    with pytest.raises(ValueError, match="write for example"):
        parse("1" * 200)
