"""Nothing that comes in one message takes much memory, or long without a pause; and however it is cut, it says the
same."""

import gc
import json
import random
import time
import tracemalloc

import pybase64
import pytest

from streamspace_agent import logs
from streamspace_agent.controlplane.decoder import HEAD, MAX_BAD, MAX_ENVELOPE, MAX_VALUES, MAX_VIEWER_DATA, Decoder
from streamspace_agent.protocol import MAX_DEPTH, MAX_SHOWN, Malformed, Message
from tests.core.decoded import decode

pytestmark = pytest.mark.slow
MB = 1024**2


def data():
    return pybase64.b64encode_as_string(random.Random(1).randbytes(12 * MB))


def envelope(kind, payload, **dumps):
    return json.dumps({"type": kind, "timestamp": "2026-01-01T00:00:00Z", "payload": payload}, **dumps).encode()


def command(body, name="c1"):
    return envelope("command", {"commandId": name, "action": "stop_session", "payload": body})


KINDS = {
    "viewer's data of 16 MB": lambda: envelope("vnc_data", {"sessionId": "s", "data": data()}),
    "viewer's data of 48 MB": lambda: envelope("vnc_data", {"sessionId": "s", "data": data() * 3}),
    "two thousand packed viewer's messages": lambda: b"\n".join(
        [envelope("vnc_data", {"sessionId": "s", "data": "A" * 8192})] * 2000
    ),
    "zeros": lambda: bytes(48 * MB),
    "newlines": lambda: b"\n" * 48 * MB,
    "one letter a line": lambda: b"x\n" * 24 * MB,
    "brackets": lambda: b"[" * 48 * MB,
    "a quarter of a megabyte of brackets": lambda: b"[" * 250_000,
    "as many values as are taken": lambda: command([0] * (MAX_VALUES - 20)),
    "empty lists": lambda: b"[" + b"[]," * 80_000 + b"1]",
    "digits": lambda: b"9" * 250_000,
    "escapes": lambda: b'"' + rb"\u0041" * 40_000 + b'"',
    "a command of 48 MB": lambda: command({"a": "y" * 48 * MB}),
    "packed commands of as many values as fit": lambda: b"\n".join([command([[]] * 9_900)] * 100),
    "ten thousand packed commands": lambda: b"\n".join([command({"sessionId": "s"})] * 10_000),
    "no UTF-8": lambda: b"\xff" * 48 * MB,
    "a hundred long pieces": lambda: (b"[" * 250_000 + b"\n") * 100,
    "what looks like secrets": lambda: b"password=" * 25_000 + b"\n" + b"a:b@" * 60_000,
}
"""Each is made when its test runs: together they take 450 MB."""


@pytest.mark.parametrize("kind", KINDS)
def test_no_message_holds_up_the_others_for_more_than_50_ms(kind):
    data, steps = KINDS[kind](), []

    def run():
        decoder = Decoder()
        last = time.process_time()
        for ended in (lambda: decoder.feed(data), decoder.close):
            for found in ended():
                if isinstance(found, Malformed):
                    logs.redact(found.text)
                if found is None:  # only then have others their turn
                    steps.append(time.process_time() - last)
                    last = time.process_time()
        steps.append(time.process_time() - last)

    gc.collect()
    gc.freeze()  # what all the tests hold is not looked through by the collector each time
    longest = []
    try:
        for _ in range(3):  # other processes' turns count for nothing
            steps.clear()
            run()
            longest.append(max(steps))
    finally:
        gc.unfreeze()
    assert min(longest) < 0.05


@pytest.mark.parametrize(
    "kind", ["zeros", "brackets", "newlines", "a command of 48 MB", "no UTF-8", "viewer's data of 48 MB"]
)
def test_what_is_dropped_takes_no_memory(kind):
    data = KINDS[kind]()
    parts = [data[start : start + 4096] for start in range(0, len(data), 4096)]
    tracemalloc.start()
    try:
        decoder = Decoder()
        for part in parts:
            for _ in decoder.feed(part):
                pass
        list(decoder.close())
        assert tracemalloc.get_traced_memory()[1] < 2.5 * MAX_VIEWER_DATA
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("part", [1, 7, 1000, None])
@pytest.mark.parametrize("dumps", [{}, {"separators": (",", ":")}])
def test_however_it_is_cut_it_says_the_same(part, dumps):
    said = [
        envelope("vnc_data", {"sessionId": "s1", "data": "QUJD"}, **dumps),
        envelope("vnc_data", {"sessionId": "é", "data": ""}, **dumps),
        b"{no json",
        command({"sessionId": "s1"}),
        b" \t",
        envelope("ping", {"timestamp": "x"}, **dumps),
    ]
    first, empty, bad, third, last = decode(b"\n".join(said), part)
    assert (first.type, first.payload["sessionId"], bytes(first.payload["data"])) == ("vnc_data", "s1", b"QUJD")
    assert (empty.payload["sessionId"], empty.payload["data"]) == ("é", "")
    assert isinstance(bad, Malformed)
    assert third.payload["payload"] == {"sessionId": "s1"}
    assert last == Message("ping", {"timestamp": "x"})


def test_viewers_data_with_more_in_it_is_read_as_json():
    (found,) = decode(b'{"type":"vnc_data","timestamp":"t","payload":{"sessionId":"s","data":"QQ==","more":"x"}}')
    assert found.payload == {"sessionId": "s", "data": "QQ==", "more": "x"}


def test_a_command_that_is_too_large_can_still_be_refused_by_its_name():
    for body in ({"a": "y" * MAX_ENVELOPE}, [0] * (MAX_VALUES + 1)):
        before, bad, after = decode(b"\n".join([command({}, "before"), command(body, "huge"), command({}, "after")]))
        assert (bad.command_id, bad.reason.partition(":")[0]) == ("huge", "too large")
        assert (before.payload["commandId"], after.payload["commandId"]) == ("before", "after")


def test_viewers_data_that_is_too_large_names_its_session():
    (bad,) = decode(envelope("vnc_data", {"sessionId": "s1", "data": "A" * MAX_VIEWER_DATA}))
    assert (bad.session_id, bad.command_id) == ("s1", "")


def nested(depth):
    return command(0).replace(b'"payload": 0', b'"payload": ' + b'{"a":' * depth + b"1" + b"}" * depth)


def test_what_is_nested_too_deep_is_refused_by_its_name():
    (fine,) = decode(nested(MAX_DEPTH - 2))
    assert isinstance(fine, Message)
    for depth in (MAX_DEPTH + 1, 970):
        (bad,) = decode(nested(depth))
        assert bad.reason == f"nested deeper than {MAX_DEPTH} levels"
        assert bad.command_id == "c1"


def test_of_a_message_of_rubbish_only_so_much_is_looked_at():
    found = list(decode(b"x\n" * 10_000 + command({})))
    assert len(found) == MAX_BAD + 1
    assert found[-1].reason.endswith("the rest of it is not read")
    assert all(len(bad.text) <= MAX_SHOWN for bad in found)
    (bad,) = decode("x" * 100_000)
    assert len(bad.text) <= max(HEAD, MAX_SHOWN)
