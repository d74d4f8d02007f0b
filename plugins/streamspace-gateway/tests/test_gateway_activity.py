"""What counts as a person's use of a web desktop, and what a page sends by itself."""

import os
import random
import time

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamspace_gateway.activity import MAX_KINDS, SMALL, FromBrowser, Heartbeats, is_by_person
from tests.gateway import answering

RFB_BEGIN = b"RFB 003.008\n" + b"\x01" + b"\x01"
KEY, POINTER = b"\x04\x01\x00\x00\x00\x00\x00a", b"\x05\x00\x00\x10\x00\x10"
UPDATE_REQUEST = b"\x03\x01" + bytes(8)
ENCODINGS = b"\x02\x00\x00\x01\x00\x00\x00\x07"


def frame(payload, opcode=2, *, masked=True, compressed=False):
    head = bytes([0x80 | 0x40 * compressed | opcode])
    flag = 0x80 * masked
    if len(payload) < 126:
        head += bytes([flag | len(payload)])
    elif len(payload) < 65536:
        head += bytes([flag | 126]) + len(payload).to_bytes(2)
    else:
        head += bytes([flag | 127]) + len(payload).to_bytes(8)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


class Page:
    """One WebSocket with a clock in hand."""

    def __init__(self):
        self.now = 1000.0
        self.seen = 0
        self.watch = FromBrowser(Heartbeats(), lambda: self.now, self._saw)

    def _saw(self):
        self.seen += 1

    def says(self, data, pieces=1):
        """Whether a person was seen in it, however it is cut."""
        before = self.seen
        size = max(1, len(data) // pieces)
        for start in range(0, len(data), size):
            self.watch.feed(data[start : start + size])
        return self.seen > before


@pytest.mark.parametrize("pieces", [1, 3, 1000])
def test_keys_and_pointer_of_a_vnc_page_count_and_its_requests_for_updates_do_not(pieces):
    page = Page()
    for part in (RFB_BEGIN[:12], RFB_BEGIN[12:13], RFB_BEGIN[13:], ENCODINGS):
        assert not page.says(frame(part), pieces)
    for _ in range(50):
        assert not page.says(frame(UPDATE_REQUEST), pieces)
    assert page.says(frame(KEY), pieces)
    assert page.says(frame(POINTER), pieces)
    assert not page.says(frame(UPDATE_REQUEST * 3), pieces)


def test_pings_pongs_and_the_end_do_not_count():
    page = Page()
    assert not page.says(frame(b"x", 9) + frame(b"x", 10) + frame(b"\x03\xe8", 8))


@pytest.mark.parametrize("size", [1, 126, SMALL, SMALL + 1, 70_000])
@pytest.mark.parametrize("compressed", [True, False])
def test_a_message_of_any_size_counts_and_the_next_is_found_behind_it(size, compressed):
    page = Page()
    assert page.says(frame(b"k" * size, 1, compressed=compressed), 7)
    assert not page.says(frame(b"", 9), 1)
    assert page.says(frame(b"other", 1))


@pytest.mark.parametrize("gap", [0.05, 1.0, 5.0, 25.0, 55.0])
@pytest.mark.parametrize("jitter", [0.0, 0.2])
def test_a_heartbeat_stops_counting_after_some_minutes_whatever_its_numbers(gap, jitter):
    page, rng = Page(), random.Random(1)
    end = page.now + 900
    number = 0
    while page.now < end:
        number += 1
        seen = page.says(frame(f'{{"type":"ping","at":{page.now:.3f},"n":{number}}}'.encode(), 1))
        if page.now > end - 240:
            assert not seen
        page.now += gap * (1 + rng.uniform(-jitter, jitter))


def test_whoever_presses_a_key_beside_heartbeats_is_seen():
    page = Page()
    for tick in range(12000):
        page.says(frame(b"CLIENT_FRAME_ACK %d" % tick, 1))
        page.now += 0.05
    assert not page.says(frame(b"CLIENT_FRAME_ACK 7", 1))
    assert page.says(frame(b"kd,97", 1))


def test_a_person_at_work_is_seen_in_every_minute_of_an_hour():
    """Typing with the pauses that people make; the pointer now and then."""
    page, rng = Page(), random.Random(2)
    begun, last = page.now, page.now
    while page.now < begun + 3600:
        kind = b"kd,%d" % rng.randint(32, 120) if rng.random() < 0.9 else b"m,%d,%d" % (rng.randint(0, 999), 5)
        if page.says(frame(kind, 1)):
            last = page.now
        page.now += rng.lognormvariate(-1.6, 0.8) + (rng.random() < 0.03) * rng.uniform(1, 8)
        assert page.now - last < 60


def test_a_heartbeat_that_missed_minutes_counts_until_it_has_ticked_again():
    page = Page()
    for _ in range(60):
        page.says(frame(b"beat", 1))
        page.now += 10
    assert not page.says(frame(b"beat", 1))
    page.now += 600  # a laptop that slept
    assert page.says(frame(b"beat", 1))


@pytest.mark.parametrize(("others", "forgotten"), [(MAX_KINDS - 1, False), (MAX_KINDS, True)])
def test_what_is_remembered_of_a_page_is_bounded(others, forgotten):
    heartbeats = Heartbeats()
    seen = [heartbeats.is_person(b"beat", 10.0 * number) for number in range(60)]
    assert not seen[-1]
    for _ in range(others):
        heartbeats.is_person(os.urandom(16), 590.0)
    assert heartbeats.is_person(b"beat", 600.0) is forgotten


def held(page):
    """Bytes in the buffers of a page's watch."""
    return sum(len(each) for each in vars(page.watch).values() if isinstance(each, bytes | bytearray))


@given(data=st.binary(max_size=600), pieces=st.integers(1, 50))
@example(data=frame(bytes(20_000))[:600], pieces=50)
def test_no_bytes_whatever_trouble_the_watch_or_make_it_keep_more_than_a_frame(data, pieces):
    page = Page()
    page.says(frame(RFB_BEGIN[:12]))
    page.says(data * 20, pieces)
    assert held(page) <= SMALL + 14


@pytest.mark.parametrize(
    "message",
    [frame(b""), frame(b"", masked=False), frame(b"x"), frame(b"x", masked=False), frame(KEY * 500)],
    ids=["empty", "empty, unmasked", "short", "short, unmasked", "keys"],
)
def test_a_flood_of_messages_stops_nothing_else_and_counts_as_use_from_then_on(message):
    page = Page()
    page.says(frame(RFB_BEGIN))
    piece = message * (262_144 // len(message))
    begun = time.thread_time()
    page.watch.feed(piece)
    assert time.thread_time() - begun < 0.04
    assert page.says(frame(UPDATE_REQUEST))
    assert held(page) == 0


def test_a_person_who_moves_the_pointer_while_the_agent_is_busy_makes_no_flood():
    page = Page()
    page.says(frame(RFB_BEGIN))
    assert page.says(frame(POINTER) * 800)
    assert not page.says(frame(UPDATE_REQUEST))


@pytest.mark.parametrize(
    ("method", "headers", "counts"),
    [
        ("GET", {}, False),
        ("GET", {"Sec-Fetch-Mode": "cors"}, False),
        ("GET", {"Sec-Fetch-Mode": "navigate"}, True),
        ("HEAD", {}, False),
        ("OPTIONS", {}, False),
        ("POST", {"Content-Length": "5"}, True),
        ("POST", {"Transfer-Encoding": "chunked"}, True),
        ("POST", {"Content-Length": "0"}, False),
        ("PUT", {"Content-Length": "12"}, True),
    ],
)
def test_a_request_counts_where_a_person_made_it(method, headers, counts):
    request = h11.Request(method=method, target="/api", headers=[("Host", "x"), *headers.items()])
    assert is_by_person(request, Heartbeats(), 1.0) == counts


def test_a_pages_own_posts_stop_counting_when_they_tick():
    heartbeats = Heartbeats()
    request = [
        h11.Request(method="POST", target=f"/poll/{n}", headers=[("Host", "x"), ("Content-Length", "9")])
        for n in range(90)
    ]
    seen = [is_by_person(each, heartbeats, 5.0 * number) for number, each in enumerate(request)]
    assert seen[0]
    assert not any(seen[-20:])
    assert is_by_person(h11.Request(method="POST", target="/save", headers=request[0].headers), heartbeats, 450.0)


async def test_a_polling_page_is_no_use_and_a_form_is(house):
    await house.session("ann", answering())
    for _ in range(5):
        await house.get("ann", "/stats")
    assert house.used == []
    await house.get("ann", "/", Sec_Fetch_Mode="navigate")
    await house.get("ann", "/form", method="POST", body=b"a=1")
    assert house.used == ["ann", "ann"]
