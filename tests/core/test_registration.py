"""When an agent registers, when it only connects, and how it takes what it is answered."""

import asyncio
import contextlib
import json
import logging
import random
from contextlib import asynccontextmanager

import pytest

from lab.loopback import served
from streamspace_agent import config
from streamspace_agent.backoff import Backoff
from streamspace_agent.controlplane import link, registration
from streamspace_agent.controlplane.http_reply import MAX_REPLY, MAX_WAIT, Reply
from streamspace_agent.controlplane.keys import Keys
from streamspace_agent.controlplane.registration import Registrar, RegistrationRecord
from streamspace_agent.controlplane.tls import Trust
from streamspace_agent.errors import Refused
from tests.core.memory_driver import AGENT


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(link, "FACTS_AFTER", 0.2)


async def doings(plane, after=0):
    """What the agent did at the door, in order."""
    return [e["type"] for e in await plane.events(after) if e["type"] in {"register", "connected"}]


@pytest.fixture
async def registered(plane, lead):
    """The agent was accepted, and is away; the number of the last event."""
    async with lead() as running:
        await plane.wait_agent(AGENT)
        await running.tenure.described()
        async with asyncio.timeout(10):
            while await doings(plane) != ["register", "connected", "register"]:
                await asyncio.sleep(0.05)
    return (await plane.events())[-1]["seq"]


async def test_a_known_agent_only_connects_whoever_leads_it(plane, lead, registered):
    async with lead():
        await plane.wait_agent(AGENT)
        await asyncio.sleep(1)
        assert await doings(plane, registered) == ["connected"]


async def test_facts_that_changed_are_registered_over_the_head_of_a_standing_connection(plane, lead, registered):
    async with lead(MAX_SESSIONS="7") as running:
        async with asyncio.timeout(10):
            while await doings(plane, registered) != ["connected", "register"]:
                await asyncio.sleep(0.05)
        assert (await plane.agents())[0]["capacity"]["maxSessions"] == 7
        assert running.link.status.connected
        assert running.link.status.connections == 1
    seq = (await plane.events())[-1]["seq"]
    async with lead(MAX_SESSIONS="7"):
        await plane.wait_agent(AGENT)
        await asyncio.sleep(1)
        assert await doings(plane, seq) == ["connected"]


async def test_an_agent_that_the_control_plane_has_forgotten_registers(plane, lead, registered):
    plane.hub.store.change("DELETE FROM agents")
    async with lead():
        await plane.wait_agent(AGENT)
        assert (await doings(plane, registered))[:2] == ["register", "connected"]


async def test_another_control_plane_is_registered_at_first(plane, lead, registered):
    async with lead(CONTROL_PLANE_URL=plane.ws_url.replace("127.0.0.1", "localhost")):
        await plane.wait_agent(AGENT)
        assert (await doings(plane, registered))[0] == "register"


@asynccontextmanager
async def answering(*answers):
    """A server that gives these answers one after another, the last for ever: (status, body, headers). Yields its URL
    and the requests."""
    asked = []
    left = list(answers)

    async def serve(reader, writer):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            return
        asked.append(head)
        status, body, headers = left.pop(0) if len(left) > 1 else left[0]
        data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        lines = [
            f"HTTP/1.1 {status} X",
            f"Content-Length: {len(data)}",
            "Connection: close",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + data)
        await writer.drain()

    async with served(serve) as port:
        yield f"ws://127.0.0.1:{port}", asked


@pytest.fixture
def pauses():
    """How long registrars would have waited between their attempts, in seconds."""
    return []


@pytest.fixture
def registrar(tmp_path, pauses):
    async def sleep(seconds):
        pauses.append(seconds)
        await asyncio.sleep(0.01)

    def make(url, *, known=False):
        settings = config.load(
            {"AGENT_ID": AGENT, "CONTROL_PLANE_URL": url, "AGENT_API_KEY": "k" * 64, "STATE_DIR": str(tmp_path)}
        )
        keys = Keys(settings, lambda _secret: None)
        made = Registrar(settings, keys, Trust(settings), random.Random(1), sleep=sleep)
        if known:
            RegistrationRecord(settings).keep(made.body({}, {}))
        return made

    return make


ACCEPTED = (200, {"agentId": AGENT}, {})
TEXT_404 = (404, "404 page not found", {"Content-Type": "text/plain"})
UNKNOWN = (404, {"error": "Agent not found", "details": "Agent must be pre-registered", "agentId": AGENT}, {})


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        TEXT_404,
        (401, "<html>log in</html>", {}),
        (403, {"message": "no route matched"}, {}),
        (400, "", {}),
        (200, "<html>welcome</html>", {}),
        (202, {}, {}),
    ],
)
async def test_what_the_control_plane_did_not_say_itself_ends_no_agent(registrar, caplog, answer, known):
    async with answering(answer, answer, ACCEPTED) as (url, asked):
        await asyncio.wait_for(registrar(url, known=known).register({}, {}), 10)
        assert len(asked) == 3
    (told,) = [record for record in caplog.records if "cannot register" in record.message]
    assert told.levelno == logging.ERROR
    assert "is not answered by the control plane" in told.message
    assert "check CONTROL_PLANE_URL and the proxy in front of it" in told.message


async def test_a_refusal_is_final_for_an_agent_that_was_never_accepted_and_says_all_that_was_said(registrar):
    async with answering(UNKNOWN) as (url, _):
        with pytest.raises(Refused, match="Agent not found: Agent must be pre-registered"):
            await registrar(url).register({}, {})


@pytest.mark.parametrize("answer", [UNKNOWN, (400, {"error": "invalid request", "details": ["region: too short"]}, {})])
async def test_an_agent_that_was_accepted_goes_on_asking_and_says_so_loudly(registrar, caplog, answer):
    async with answering(answer, answer, ACCEPTED) as (url, _):
        await asyncio.wait_for(registrar(url, known=True).register({}, {}), 10)
    (told,) = [record for record in caplog.records if "cannot register" in record.message]
    assert told.levelno == logging.ERROR
    assert "it was accepted before, so it goes on asking" in told.message


async def test_a_rejection_is_final_whatever_came_before(registrar):
    rejected = (403, {"approvalStatus": "rejected", "message": "rejected by administrator"}, {})
    async with answering(rejected) as (url, _):
        with pytest.raises(Refused, match="an administrator rejected agent"):
            await registrar(url, known=True).register({}, {})


async def test_an_agent_that_waits_for_approval_asks_ever_more_seldom(registrar, pauses):
    pending = (202, {"approvalStatus": "pending"}, {})
    async with answering(*[pending] * 6, ACCEPTED) as (url, _):
        await asyncio.wait_for(registrar(url).register({}, {}), 10)
    for pause, meant in zip(pauses, [30, 60, 120, 240, 300, 300], strict=True):
        assert 0.8 * meant <= pause <= 1.2 * meant
    assert len({pause / 300 for pause in pauses[4:]}) == 2  # spread


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed_and_the_address_is_named_as_the_setting(registrar, caplog, status):
    async with answering(ACCEPTED) as (other, asked_there):
        moved = (status, "", {"Location": other.replace("ws://", "http://") + registration.PATH})
        async with answering(moved, ACCEPTED) as (url, _):
            await asyncio.wait_for(registrar(url).register({}, {}), 10)
        assert asked_there == []
    target = other.replace("ws://", "http://")
    assert f"a redirect to {target}, which is not followed" in caplog.text
    assert "set CONTROL_PLANE_URL to it" in caplog.text


@pytest.mark.parametrize(
    ("body", "headers", "wait"),
    [
        ({"retryAfter": 7}, {}, 7),
        ({"retryAfter": "7"}, {}, 7),
        ({"retryAfter": 0.5}, {}, 0.5),
        ({"retryAfter": 10**400}, {}, MAX_WAIT),
        ({}, {"Retry-After": "5"}, 5),
        ({"retryAfter": 9}, {"Retry-After": "5"}, 5),
        ({}, {"Retry-After": "9" * 10}, MAX_WAIT),
        ({"retryAfter": 3}, {"Retry-After": "²"}, 3),
        ({"retryAfter": "²"}, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, 0),
        ({"retryAfter": -5}, {}, 0),
        ({"retryAfter": True}, {}, 0),
        ({"retryAfter": {"seconds": 5}}, {}, 0),
        ({"retryAfter": [5]}, {}, 0),
        ({"retryAfter": None}, {}, 0),
        ({"retryAfter": "9" * 5000}, {}, 0),
    ],
)
def test_a_server_may_ask_to_wait_in_numbers_only_and_not_without_end(body, headers, wait):
    assert Reply.of(429, headers, json.dumps(body).encode()).wait == wait


@pytest.mark.parametrize(
    "text", ['{"retryAfter": NaN}', '{"retryAfter": Infinity}', "[" * 50_000, '{"a":' * 5000, "\xff\x00"]
)
async def test_no_answer_ends_the_agent_however_odd_it_is(registrar, text):
    async with answering((429, text, {}), (201, text, {}), (404, text, {}), ACCEPTED) as (url, asked):
        task = asyncio.create_task(registrar(url).register({}, {}))
        async with asyncio.timeout(20):
            while len(asked) < 2:
                await asyncio.sleep(0.01)
        assert not task.done() or task.exception() is None
        task.cancel()


async def test_an_endless_answer_is_not_read_to_its_end(registrar):
    taken = []

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        number = len(taken)
        taken.append(0)
        with contextlib.suppress(ConnectionError):
            writer.write(b"HTTP/1.1 503 X\r\n\r\n")
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
                taken[number] += 65536

    async with served(serve) as port:
        task = asyncio.create_task(registrar(f"ws://127.0.0.1:{port}").register({}, {}))
        async with asyncio.timeout(20):
            while len(taken) < 3:  # it has had enough of the first two
                await asyncio.sleep(0.01)
        task.cancel()
    assert MAX_REPLY <= max(taken[:2]) < 64 * MAX_REPLY, "all that sockets hold, and no more"


@pytest.mark.parametrize("key", ["a\nb", "ключ", "a b", "x" * 5000])
async def test_an_api_key_that_cannot_be_one_is_not_kept(registrar, tmp_path, caplog, key):
    async with answering((200, {"agentId": AGENT, "apiKey": key}, {})) as (url, asked):
        made = registrar(url)
        for _ in range(2):
            await asyncio.wait_for(made.register({}, {}), 10)
    assert all(f"X-Agent-API-Key: {'k' * 64}" in head for head in asked)
    assert not (tmp_path / AGENT / "api-key").exists()
    assert key not in caplog.text


def test_a_kept_key_that_cannot_be_one_is_passed_over(tmp_path):
    (tmp_path / AGENT).mkdir()
    (tmp_path / AGENT / "api-key").write_text("a\nb")
    settings = config.load(
        {"AGENT_ID": AGENT, "CONTROL_PLANE_URL": "ws://127.0.0.1:9", "AGENT_API_KEY": "k", "STATE_DIR": str(tmp_path)}
    )
    assert Keys(settings, lambda _secret: None).current == "k"


def test_a_connection_that_was_closed_soon_is_made_again_at_once_but_only_once():
    backoff = Backoff(rng=random.Random(1))
    for _ in range(10):
        backoff.delay()
    backoff.worked_for(0.1)
    assert backoff.delay() <= 0.4
    backoff.worked_for(0.1)
    assert max(backoff.delay() for _ in range(50)) > 5
    backoff.worked_for(120)
    assert backoff.delay() <= 0.4


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": "Invalid query parameter", "message": "potential SQL"}, "Invalid query parameter: potential SQL"),
        ({"error": "a", "details": "b"}, "a: b"),
        ({"error": "a", "details": ["b", "c", 5]}, "a: b; c"),
        ({"error": "a", "details": {"region": "too short"}}, "a: region: too short"),
        ({"error": "same", "message": "same"}, "same"),
        ({"error": "two\nlines\x1b[31m"}, "two lines\\x1b[31m"),
        ({"error": 5, "details": None, "message": ["m"]}, "m"),
        ({"error": {"a": {"b": "c"}}}, "a: {'b': 'c'}"),
        ({}, ""),
    ],
)
def test_what_a_refusal_says_is_told_in_one_line(body, said):
    assert Reply.of(400, {}, json.dumps(body).encode()).message == said
    assert len(Reply.of(400, {}, json.dumps({"error": "x" * 10**5, "details": ["y" * 10**5]}).encode()).message) < 400
