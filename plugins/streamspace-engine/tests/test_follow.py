"""The event stream: what is told across losses and silence, and that nothing is missed."""

import asyncio

import pytest

from streamspace_agent.errors import EngineUnavailable
from streamspace_engine import Down, Event, Resumed, follow


@pytest.fixture
async def listen():
    """``listen(engine, ...)``: the growing list of what is followed."""
    tasks = []

    def listen(engine, filters, **options):
        told = []

        async def run():
            async for item in follow(engine, filters, **options):
                told.append(item)  # noqa: PERF401  # it never ends: they are looked at while it goes on

        tasks.append(asyncio.create_task(run()))
        return told

    yield listen
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_quiet_stream_is_resumed_where_it_ended_and_nothing_is_missed(make_engine, listen, odd, run_label):
    engine = make_engine(odd.host)
    name = f"{run_label}-quiet"
    told = listen(engine, {"type": ["volume"], "volume": [name]}, silence=0.2)
    opened = lambda: sum(request.startswith("GET /events") for request in odd.seen)  # noqa: E731
    try:
        for count in (3, 6):
            await until(lambda: opened() >= count)  # noqa: B023
            await engine.post("/volumes/create", {"Name": name})
            await engine.delete(f"/volumes/{name}")
            await until(lambda: len(told) >= 1 + count // 3 * 2)  # noqa: B023
    finally:
        await engine.delete(f"/volumes/{name}", {"force": True})
    assert told[0] == Resumed()
    assert [item.body["Action"] for item in told[1:]] == ["create", "destroy"] * 2


async def test_after_a_stream_that_broke_off_events_may_have_been_missed(make_engine, listen, odd):
    odd.play("^GET /events", [(0.0, {"Type": "volume", "Action": "create", "timeNano": 5})], times=2)
    told = listen(make_engine(odd.host), {"label": ["nobody-has-this"]})
    await until(lambda: len(told) >= 5)
    event = Event({"Type": "volume", "Action": "create", "timeNano": 5})
    assert told == [Resumed(), event, Resumed(), event, Resumed()]


async def test_an_engine_that_is_away_is_told_once_for_each_reason(make_engine, listen, odd, tmp_path):
    told = listen(make_engine(f"unix://{tmp_path}/none.sock"), {})
    await asyncio.sleep(1.5)
    [item] = told
    assert isinstance(item, Down)
    assert "no such file or directory" in item.reason


async def test_an_engine_that_refuses_the_stream_counts_as_away(make_engine, listen, odd):
    odd.refuse("^GET /events", 403, "not for you", times=2)
    told = listen(make_engine(odd.host), {})
    await until(lambda: len(told) >= 2)
    assert told[0] == Down("it does not let us follow its events: the engine refused with 403: not for you")
    assert told[1] == Resumed()


async def test_a_line_that_is_no_json_ends_the_stream_and_not_its_reader(make_engine, play):
    async def serve(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}\nrubbish")

    async with play(serve) as (host, _), make_engine(host).stream("GET", "/events", silence=5) as lines:
        assert await anext(lines) == {}
        with pytest.raises(EngineUnavailable, match="what is not JSON"):
            await anext(lines)
