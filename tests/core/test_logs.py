import asyncio
import io
import json
import logging
import os
import re
import tempfile
from datetime import UTC, datetime

import pytest

from streamspace_agent import logs
from streamspace_agent.config import load

KEY = "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def restored_logging():
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    levels = {name: logging.getLogger(name).level for name in ("websockets", "urllib3", "docker", "redis")}
    yield
    logging.captureWarnings(False)
    root.setLevel(level)
    for handler in [h for h in root.handlers if h not in handlers]:
        root.removeHandler(handler)
    for name, old in levels.items():
        logging.getLogger(name).setLevel(old)


@pytest.fixture
def log():
    return logging.getLogger("streamspace_agent.controlplane.link")


def configured(fields=None, **environ):
    stream = io.StringIO()
    settings = load({"AGENT_ID": "agent-1", "CONTROL_PLANE_URL": "ws://h", **environ})
    logs.configure(settings, fields or {}, stream=stream, environ={})
    return stream


def last(stream):
    return json.loads(stream.getvalue().splitlines()[-1])


def test_a_line_of_text_has_time_level_logger_message_and_context(log):
    stream = configured({"agent": "agent-1", "instance": "host-1"})
    logs.set_epoch(17)
    with logs.bind(session="s1", command="c1"):
        log.warning("pull of %s is slow", "image")
    time, rest = stream.getvalue().rstrip("\n").split(" ", 1)
    assert abs(datetime.fromisoformat(time) - datetime.now(UTC)).total_seconds() < 60
    assert time.endswith("Z")
    assert rest == "WARNING link: pull of image is slow agent=agent-1 instance=host-1 epoch=17 session=s1 command=c1"


def test_a_line_of_json_has_the_same_as_fields(log):
    stream = configured({"agent": "agent-1"}, LOG_FORMAT="json")
    logs.set_epoch(17)
    with logs.bind(session="s1"):
        log.error("three\nlines\nhere")
    line = last(stream)
    assert datetime.fromisoformat(line.pop("time")).tzinfo is UTC
    assert line == {
        "level": "error", "logger": "link", "message": "three\nlines\nhere", "agent": "agent-1", "epoch": 17,
        "session": "s1",
    }  # fmt: skip


def test_context_ends_with_its_block_and_the_epoch_with_leadership(log):
    stream = configured()
    logs.set_epoch(17)
    with logs.bind(session="s1"), logs.bind(command="c1"):
        pass
    logs.set_epoch(None)
    log.info("after")
    assert stream.getvalue().rstrip().endswith("link: after")


async def test_each_task_has_its_own_context(log):
    stream = configured(LOG_FORMAT="json")

    async def work(name):
        logs.bind(session=name)
        await asyncio.sleep(0)
        log.info("from %s", name)

    await asyncio.gather(work("a"), work("b"))
    log.info("from nobody")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert {line["message"]: line.get("session") for line in lines} == {
        "from a": "a",
        "from b": "b",
        "from nobody": None,
    }


def test_a_plugins_logger_is_named_without_the_prefix():
    stream = configured()
    logging.getLogger("streamspace_elect_redis.backend").info("x")
    assert " elect_redis.backend: x" in stream.getvalue()


@pytest.mark.parametrize(("level", "shown"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_log_level_decides_what_is_shown(log, level, shown):
    stream = configured(LOG_LEVEL=level)
    for number in (10, 20, 30, 40):
        log.log(number, "x")
    assert len(stream.getvalue().splitlines()) == shown


def test_frames_and_headers_of_libraries_are_not_logged_even_at_debug():
    stream = configured(LOG_LEVEL="debug")
    logging.getLogger("websockets.client").debug("> TEXT people's screen")
    assert not stream.getvalue()


def test_configuring_again_replaces_only_its_own_handler(log):
    other = logging.NullHandler()
    logging.getLogger().addHandler(other)
    first = configured()
    second = configured()
    log.info("x")
    assert (first.getvalue(), second.getvalue().count("link: x")) == ("", 1)
    assert other in logging.getLogger().handlers


def failing(secret):
    try:
        raise ValueError(f"bad key {secret}")
    except ValueError:
        logging.getLogger("x").exception("while using %r", {"key": secret})


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("secret", [KEY, 'pa"ss\\wörd', "p@ss/w:rd"])
def test_a_known_secret_is_removed_from_message_arguments_traceback_and_context(form, secret):
    stream = configured({"agent": secret}, LOG_FORMAT=form)
    logs.hide(secret)
    failing(secret)
    with logs.bind(session=f"is {secret}"):
        logging.getLogger("x").info("%s", secret)
    text = stream.getvalue()
    assert "ValueError" in text
    for shape in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1]):
        assert shape not in text


def test_the_settings_secrets_are_known_from_the_start(log):
    stream = configured(AGENT_API_KEY=KEY, REDIS_URL="redis://user:s3cr%40t-pw@redis:6379/0")
    log.info("%s and s3cr%%40t-pw and s3cr@t-pw", KEY)
    assert "link: *** and *** and ***" in stream.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "X-Agent-API-Key: {}",
        "'x-agent-api-key': '{}'",
        "('X-Agent-API-Key', '{}')",
        "b'X-Agent-API-Key', b'{}'",
        "Authorization: Bearer {}",
        "Authorization: Basic {}",
        '{{"identitytoken": "{}"}}',
        "X-Registry-Auth={}",
        "password={}",
        "Password: {}",
        '{{"password":"{}","user":"x"}}',
        "redis://user:{}@redis:6379/0",
        "redis://:{}@redis:6379/0",
        "rediss://user:a@{}@redis",
        "apiKey={}&x=1",
        "AGENT_API_KEY={}",
        "token: {}",
    ],
)
def test_what_looks_like_a_secret_is_removed_without_being_known(log, text):
    stream = configured()
    log.info(text.format("Unknown-S3cret.value"))
    assert "S3cret" not in stream.getvalue()
    assert "***" in stream.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "connected to wss://control.example.com:443/path",
        "redis://redis:6379/0 answers",
        "password, which ps shows",
        "the session s1 at 10.0.0.2:5900 said user@host",
        "the key was refused",
    ],
)
def test_ordinary_text_stays_whole(text):
    assert logs.redact(text) == text


def test_a_short_word_is_no_secret():
    logs.hide("ab")
    logs.hide("")
    assert logs.redact("about") == "about"


def test_the_fields_stand_after_the_first_line_of_a_message(log):
    stream = configured()
    with logs.bind(session="s1"):
        log.info("it ended, its last words:\none\ntwo")
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith("it ended, its last words: session=s1")
    assert rest == ["    one", "    two"]


def test_of_last_words_the_log_shows_the_last_few():
    words = "\n".join(f"line {number}\n  " for number in range(20))
    assert logs.brief(f"it ended:\n{words}").split("\n") == ["it ended:", *(f"line {n}" for n in range(15, 20))]
    assert logs.brief("it ended") == "it ended"


async def test_a_task_that_outlives_its_command_does_not_carry_the_commands_fields(log):
    stream = configured()

    async def work():
        log.info("working")

    with logs.bind(command="c1", session="s1"):
        await asyncio.create_task(work(), context=logs.context(session="s2"))
        log.info("here")
    first, second = stream.getvalue().splitlines()
    assert first.endswith("working session=s2")
    assert second.endswith("here command=c1 session=s1")


def test_a_message_cannot_forge_another_line_or_drive_a_terminal(log):
    stream = configured()
    log.info("name\n2026-01-01T00:00:00Z INFO    forged: line \x1b[31mred\rover")
    first, second = stream.getvalue().splitlines()
    assert re.match(r"\d{4}", first)
    assert second.startswith("    2026")
    assert not {"\x1b", "\r"} & set(stream.getvalue())


def test_what_some_readers_take_for_the_end_of_a_line_is_shown_as_what_it_is(log):
    stream = configured()
    log.info("name\u20282026-01-01T00:00:00Z INFO    forged\u2029x\x85y\u202ez")
    assert len(stream.getvalue().splitlines()) == 1
    assert "name\\u20282026" in stream.getvalue()
    assert "\\u2029x\\x85y\\u202ez" in stream.getvalue()


def test_for_journald_lines_have_a_priority_and_no_time(log):
    with tempfile.TemporaryFile("w+") as stream:
        stat = os.fstat(stream.fileno())
        settings = load({"AGENT_ID": "agent-1", "CONTROL_PLANE_URL": "ws://h"})
        logs.configure(settings, {}, stream=stream, environ={"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"})
        log.warning("one\ntwo")
        log.error("three")
        stream.seek(0)
        assert stream.read().splitlines() == ["<4>WARNING link: one", "<4>    two", "<3>ERROR   link: three"]


def test_a_journal_stream_that_is_not_ours_changes_nothing(log):
    with tempfile.TemporaryFile("w+") as stream:
        settings = load({"AGENT_ID": "agent-1", "CONTROL_PLANE_URL": "ws://h"})
        logs.configure(settings, {}, stream=stream, environ={"JOURNAL_STREAM": "1:2"})
        log.warning("x")
        stream.seek(0)
        assert re.match(r"\d{4}-", stream.read())


@pytest.mark.parametrize(
    "text",
    ["y" * 600_000, "a://" * 100_000, '"name":"' + "password" * 50_000, ("password" + " " * 1000) * 300,
     "redis://u:" + "p@" * 100_000],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_redacting_a_hostile_text_takes_time_in_proportion_to_its_length(text):
    """A pattern that begins again at each character would run into the test's time limit, by far."""
    assert len(logs.redact(text)) <= len(text)
