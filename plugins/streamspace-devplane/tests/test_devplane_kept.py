"""What does not grow for ever, and what an older file does not lack."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from lab.until import until
from streamspace_devplane import DevPlane, Settings
from streamspace_devplane.store import Store
from streamspace_devplane.templates import TEMPLATES, in_form, screen

from .conftest import AGENT, Agent


async def test_only_the_newest_messages_are_kept_and_viewers_bytes_drive_out_none_of_them(tmp_path: Path) -> None:
    async with DevPlane(tmp_path / "plane.db", settings=Settings(events_kept=100)) as plane:
        agent = Agent(plane, key=await plane.issue_key(AGENT))
        await agent.register()
        await agent.connect()
        for number in range(50):
            await agent.send("pong", number=number)
        for number in range(1000):
            await agent.send("vnc_data", sessionId="s", data="UkZC", number=number)

        async def pongs() -> Any:
            rows = await plane.events(type="pong")
            return rows if rows and rows[-1]["payload"]["number"] == 49 else None

        assert [row["payload"]["number"] for row in await until(pongs)] == list(range(50))

        async def seen() -> Any:
            rows = await plane.events(type="vnc_data")
            return rows if rows[-1]["payload"]["number"] == 999 else None

        rows = await until(seen)
        assert 100 <= len(rows) <= 100 + 100
        assert [row["payload"]["number"] for row in rows] == list(range(1000 - len(rows), 1000))
        for number in range(50, 500):
            await agent.send("pong", number=number)

        async def answered() -> Any:
            rows = await plane.events(type="pong")
            return rows if rows[-1]["payload"]["number"] == 499 else None

        assert 100 <= len(await until(answered)) <= 100 + 100
        await agent.socket.close()
    async with DevPlane(tmp_path / "plane.db", settings=Settings(events_kept=10)) as plane:
        events = await plane.events()
        assert len(events) == 20
        assert events[-1]["type"] == "disconnected"


async def test_commands_are_listed_to_a_limit_the_newest_last(plane: DevPlane, agent: Agent) -> None:
    sent = [await plane.start_session() for _ in range(5)]
    assert [row["commandId"] for row in await plane.call("GET", "/commands", limit=3)] == sent[2:]
    assert [row["commandId"] for row in await plane.commands()] == sent


def test_a_file_of_an_earlier_release_is_taken_over(tmp_path: Path) -> None:
    store = Store(tmp_path / "plane.db")
    store.change(
        "INSERT INTO sessions (session_id, agent_id, user, template, state, created_at, status_at)"
        " VALUES ('old', 'a', 'u', 't', 'running', 1, 1)"
    )
    store.close()
    with sqlite3.connect(tmp_path / "plane.db") as db:
        db.execute("ALTER TABLE sessions DROP COLUMN screen")
    db.close()
    for _ in range(2):
        store = Store(tmp_path / "plane.db")
        assert [row["screen"] for row in store.rows("SELECT * FROM sessions")] == ["vnc"]
        store.close()


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, "vnc"),
        ({"vnc": {"port": 5901}}, "vnc"),
        ({"vnc": {"enabled": True, "protocol": "rfb"}, "kasmvnc": {"enabled": True}}, "vnc"),
        ({"vnc": {"enabled": True, "protocol": "WebSocket"}}, "web"),
        ({"vnc": {"enabled": False}, "kasmvnc": {"enabled": True, "port": 3000}}, "web"),
        ({"kasmvnc": {}}, "web"),
        ({"vnc": {"enabled": False}}, "none"),
        ({"kasmvnc": {"enabled": False}}, "none"),
        ({"vnc": None}, "vnc"),
        ({"vnc": "yes"}, "vnc"),
        ([], "vnc"),
    ],
    ids=str,
)
def test_a_template_tells_whether_a_viewer_can_show_its_sessions(spec: Any, expected: str) -> None:
    manifest = {"metadata": {"name": "x"}, "spec": spec}
    assert screen(manifest) == expected
    for form in ("json", "base64"):
        assert screen(in_form(manifest, form)) == expected


@pytest.mark.parametrize("manifest", [None, 5, "", "{", "not base64!", "YWJj", "[]", [], {"spec": None}])
def test_a_manifest_that_cannot_be_read_says_nothing_against_a_viewer(manifest: Any) -> None:
    assert screen(manifest) == "vnc"


async def test_a_session_is_listed_with_what_it_shows_itself_by(plane: DevPlane, agent: Agent) -> None:
    for template in TEMPLATES:
        await plane.start_session(template, session_id=template, manifest_form="base64")
    assert {row["sessionId"]: row["screen"] for row in await plane.sessions()} == {
        "desktop": "vnc",
        "firefox": "web",
        "notebook": "none",
    }


@pytest.mark.parametrize("older", [True, False])
async def test_nobody_else_can_read_what_is_kept_not_even_in_a_folder_of_everybodys(tmp_path, older):
    path = tmp_path / "plane.db"
    tmp_path.chmod(0o755)
    if older:
        path.touch(mode=0o644)
    async with DevPlane(db=path) as plane:
        await plane.issue_key("agent-1")
        assert {
            file.name: file.stat().st_mode & 0o077 for file in tmp_path.iterdir() if file.name.startswith("plane.db")
        } != {}
        assert not any(file.stat().st_mode & 0o077 for file in tmp_path.iterdir() if file.name.startswith("plane.db"))
