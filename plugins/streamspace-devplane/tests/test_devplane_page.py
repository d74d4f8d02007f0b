import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from lab.until import until
from streamspace_devplane import DevPlane, Settings
from streamspace_devplane.web import live as live_module
from streamspace_devplane.web.novnc import find
from streamspace_devplane.web.pages import STATIC

from .conftest import AGENT, Agent, tasks_of

HOSTILE = "<img src=x onerror=alert(1)>"
PAGES = ("/", "/sessions/any/view")
AS_A_BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture
async def http(plane: DevPlane) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=plane.url, trust_env=False) as client:
        yield client


async def feed(plane: DevPlane, enough: str, **query: str | int) -> list[tuple[str, Any]]:
    """What the live feed says until one of its messages holds the text."""
    found: list[tuple[str, Any]] = []
    async with asyncio.timeout(20), connect(live(plane, **query), compression=None) as socket:
        async for message in socket:
            told = json.loads(message)
            found.append(next(iter(told.items())))
            if enough in str(message):
                break
    return found


def live(plane: DevPlane, **query: str | int) -> str:
    return f"{plane.ws_url}/api/v1/live?{urlencode(query)}"


@pytest.mark.parametrize(
    "path", [*PAGES, "/static/page.css", "/api/v1/agents", "/api/v1/no-such-thing", "/novnc/core/x"]
)
async def test_every_answer_forbids_scripts_of_others_and_says_what_this_is(http: httpx.AsyncClient, path: str) -> None:
    headers = (await http.get(path)).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-streamspace-devplane"] == "development only"


@pytest.mark.parametrize("path", [*PAGES, "/any"])
async def test_every_page_says_development_control_plane_and_nothing_of_its_address(
    http: httpx.AsyncClient, path: str
) -> None:
    text = (await http.get(path.replace("any", HOSTILE), headers=AS_A_BROWSER)).text
    assert "development control plane</p>" in text
    assert "onerror" not in text


async def test_an_address_without_anything_is_a_page_to_a_browser_and_json_to_all_others(
    http: httpx.AsyncClient,
) -> None:
    seen = await http.get("/nonesuch", headers=AS_A_BROWSER)
    assert (seen.status_code, seen.headers["content-type"]) == (404, "text/html; charset=utf-8")
    for path, headers in (("/nonesuch", {}), ("/api/v1/nonesuch", AS_A_BROWSER), ("/api/v1/sessions/no", AS_A_BROWSER)):
        answer = await http.get(path, headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/json")
        assert answer.json()["error"]


def test_no_file_of_the_page_makes_markup_from_text() -> None:
    files = [file for file in STATIC.iterdir() if file.suffix in {".js", ".html"}]
    assert len(files) > 5
    for file in files:
        text = file.read_text()
        found = re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
        assert found is None, f"{file.name}: {found}"
        if file.suffix == ".html":
            assert not re.search(r"\son\w+=|<style|style=|<script(?![^>]*\bsrc=)|javascript:", text), file.name


async def test_the_feed_begins_with_everything_and_goes_on_with_what_changes(plane: DevPlane, agent: Agent) -> None:
    await plane.start_session(session_id="s-1")
    first = await feed(plane, '"connected"')
    assert first[0][0] == "state"
    state = first[0][1]
    assert [(row["agentId"], row["connected"]) for row in state["agents"]] == [(AGENT, True)]
    [session] = state["sessions"]
    assert (session["sessionId"], session["lastCommand"]["action"]) == ("s-1", "start_session")
    limits = {"cpuLimitCores": 0.5, "memoryLimitBytes": 1000}
    await agent.send("status", sessionId="s-1", state="running", vncReady=True, platformMetadata=limits)
    await plane.wait_session("s-1", state="running")
    [session] = (await feed(plane, "cpuLimitCores"))[0][1]["sessions"]
    assert session["platformMetadata"] == limits


async def test_a_feed_that_was_interrupted_goes_on_after_its_last_line(plane: DevPlane, agent: Agent) -> None:
    await agent.send("heartbeat", status="online", activeSessions=0)
    await until(lambda: plane.events(type="heartbeat"))
    async with asyncio.timeout(20), connect(live(plane), compression=None) as socket:
        while "last" not in (told := json.loads(await socket.recv())):
            pass
    await agent.send("pong")
    [rows] = [data for kind, data in await feed(plane, '"pong"', after=told["last"]) if kind == "log"]
    assert [row["type"] for row in rows] == ["pong"]


async def test_the_bytes_of_viewers_wake_no_feed_and_other_messages_wake_it_five_times_a_second_at_most(
    plane: DevPlane, agent: Agent
) -> None:
    looks: list[str] = []

    async def looked(seconds: float, *kinds: str) -> int:
        await asyncio.sleep(0.5)  # what went before has been told
        looks.clear()
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            for kind in kinds:
                await agent.send(kind, sessionId="s", data="UkZC")
            await asyncio.sleep(0.01)
        return len(looks)

    plane.hub.store.db.set_trace_callback(
        lambda sql: looks.append(sql) if sql.startswith("SELECT * FROM agents ORDER BY") else None
    )
    async with connect(live(plane), compression=None):
        assert await looked(2, "vnc_data") == 0
        assert 5 <= await looked(2, "vnc_data", "pong") <= 11
    assert (await plane.diagnostics())["counters"]["vncMessages"] > 50


async def all_of(page: ClientConnection) -> None:
    while True:
        await page.recv()


async def test_a_feed_ends_with_its_page_and_with_the_plane(plane: DevPlane, agent: Agent) -> None:
    async with connect(live(plane)) as page:
        await page.recv()
        assert len(tasks_of(live_module)) == 2  # one sends, one sees the page leave
    await until(lambda: not tasks_of(live_module))
    async with connect(live(plane)) as page:
        await page.recv()
        async with asyncio.timeout(5):
            await plane.stop()
        with pytest.raises(ConnectionClosed, match="1012"):
            await all_of(page)
    await until(lambda: not tasks_of(live_module))
    await plane.start()


async def test_the_feed_tells_of_the_latest_that_are_over_and_of_one_session_however_old(
    plane: DevPlane, agent: Agent
) -> None:
    for number in range(23):
        for state in ("failed", "terminated", "running"):
            await plane.start_session(session_id=f"{state}-{number}")
            await agent.send("status", sessionId=f"{state}-{number}", state=state)
    await plane.wait_session("running-22", state="running")
    state = (await feed(plane, "agents"))[0][1]
    names = [row["sessionId"] for row in state["sessions"]]
    assert {f"running-{number}" for number in range(23)} <= set(names)
    assert (
        sum(name.startswith("failed") for name in names) == sum(name.startswith("terminated") for name in names) == 20
    )
    assert {"failed-22", "terminated-22"} <= set(names)
    assert not {"failed-2", "terminated-2"} & set(names)
    assert state["unseen"] == {"failed": 3, "terminated": 3}
    told = await feed(plane, "agents", session="terminated-0")
    assert [[row["sessionId"] for row in data["sessions"]] for _, data in told] == [["terminated-0"]]


async def test_a_sessions_log_holds_its_commands_and_messages_apart_from_its_readings(
    plane: DevPlane, agent: Agent, http: httpx.AsyncClient
) -> None:
    command = await plane.start_session(session_id=HOSTILE)
    await plane.start_session(session_id="other")
    await agent.send("status", sessionId=HOSTILE, state="running")
    for used in ({"memory": 1}, {"cpu": 0.5, "memory": 2}):
        await agent.send(
            "heartbeat", status="online", activeSessions=1, sessions={HOSTILE: used, "other": {"memory": 9}}
        )
    await agent.send("heartbeat", status="online", activeSessions=1, sessions={HOSTILE: "much"})
    await agent.send("vnc_data", sessionId=HOSTILE, data="UkZC")
    await agent.send("status", sessionId="other", state="running")
    await plane.wait_session("other", state="running")
    path = f"/api/v1/sessions/{HOSTILE}/log"
    log = (await http.get(path)).json()
    assert [row["commandId"] for row in log["commands"]] == [command]
    assert [row["type"] for row in log["events"]] == ["status"]
    assert [(row["cpu"], row["memory"]) for row in log["readings"]] == [(None, 1), (0.5, 2)]
    assert (await http.get("/api/v1/sessions/nobody/log")).status_code == 404


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "rebound.example:8000"}, {"Host": ""}],
    ids=["another page", "a sandboxed page", "another name for this machine", "no name"],
)
async def test_pages_of_others_may_neither_read_nor_act(
    plane: DevPlane, agent: Agent, http: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    assert (await http.post("/api/v1/sessions", json={}, headers=headers)).status_code == 403
    if "Origin" in headers:
        for path in ("live", "sessions/s-1/vnc"):
            with pytest.raises(InvalidStatus, match="403"):
                await connect(f"{plane.ws_url}/api/v1/{path}", additional_headers=headers)
    assert await plane.sessions() == []


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("commands?limit=nan", {}),
        ("commands?limit=inf", {}),
        ("commands?limit=1e30", {}),
        ("commands?limit=many", {}),
        ("events?after=1e30", {}),
        ("sessions/s?timeout=nan", {}),
        ("agents", {"Host": "[::1"}),
        ("agents", {"Origin": "http://["}),
    ],
    ids=str,
)
async def test_rubbish_in_a_request_is_answered_with_400(
    plane: DevPlane, http: httpx.AsyncClient, path: str, headers: dict[str, str]
) -> None:
    answer = await http.get(f"/api/v1/{path}", headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/json")


@pytest.mark.parametrize("rubbish", ["NaN", "1e400", "1" + "0" * 30, "[" * 90_000, '"\\ud800"', "{"])
async def test_rubbish_in_a_body_is_refused_and_harms_no_answer(
    plane: DevPlane, agent: Agent, http: httpx.AsyncClient, rubbish: str
) -> None:
    started = await http.post("/api/v1/sessions", content=f'{{"extra": {{"x": {rubbish}}}}}')
    registered = await http.post(
        "/api/v1/agents/register",
        content=f'{{"agentId": "{AGENT}", "platform": "docker", "metadata": {{"x": {rubbish}}}}}',
        headers=agent.headers,
    )
    assert (started.status_code, registered.status_code) == (400, 400)
    for path in ("agents", "sessions", "commands", "events"):
        assert (await http.get(f"/api/v1/{path}")).status_code == 200


async def test_the_planes_own_page_and_tools_may_act(plane: DevPlane, agent: Agent, http: httpx.AsyncClient) -> None:
    for headers in ({"Origin": plane.url}, {}):
        assert (await http.post("/api/v1/sessions", json={}, headers=headers)).status_code == 201
    local = plane.url.replace("127.0.0.1", "localhost")
    assert (await http.get("/", headers={"Host": local.removeprefix("http://")})).status_code == 200


async def test_novnc_is_served_from_where_it_is_and_asked_for_where_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "novnc"
    (folder / "core").mkdir(parents=True)
    (folder / "core" / "rfb.js").write_text("export default class {}")
    (folder / "secret.txt").write_text("not part of it")
    assert find([tmp_path, folder]) == folder
    assert find([tmp_path]) is None
    async with DevPlane(tmp_path / "a.db", novnc=folder) as plane, httpx.AsyncClient(trust_env=False) as http:
        script = await http.get(f"{plane.url}/novnc/core/rfb.js")
        assert (script.status_code, script.text) == (200, "export default class {}")
        assert "javascript" in script.headers["content-type"]
        assert (await http.get(f"{plane.url}/novnc/secret.txt")).status_code == 404
        assert (await http.get(f"{plane.url}/api/v1/viewer")).json() == {"available": True, "help": None}
    monkeypatch.setattr("streamspace_devplane.plane.find_novnc", lambda: None)
    async with DevPlane(tmp_path / "b.db") as plane, httpx.AsyncClient(trust_env=False) as http:
        told = (await http.get(f"{plane.url}/api/v1/viewer")).json()
        assert not told["available"]
        assert "apt install novnc" in told["help"]
        assert "npm install @novnc/novnc" in told["help"]


async def test_a_planes_own_templates_are_those_that_can_be_started(tmp_path: Path) -> None:
    own = {"metadata": {"name": "mine"}, "spec": {"baseImage": "mine:1"}}
    async with DevPlane(tmp_path / "a.db", settings=Settings(), templates={"mine": own}) as plane:
        async with httpx.AsyncClient(trust_env=False) as http:
            assert (await http.get(f"{plane.url}/api/v1/templates")).json() == [own]
            refused = await http.post(f"{plane.url}/api/v1/sessions", json={"template": "desktop"})
        assert (refused.status_code, refused.json()["error"]) == (
            404,
            "no template 'desktop'; there are mine, or send a manifest",
        )


async def test_a_page_that_has_seen_more_than_there_can_be_is_told_the_state_all_the_same(plane: DevPlane) -> None:
    async with connect(live(plane, after=10**24)) as page:
        assert "state" in json.loads(await page.recv())
