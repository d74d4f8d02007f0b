import json
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamspace_agent import protocol
from streamspace_agent.errors import TooLarge
from streamspace_agent.protocol import Malformed, Message, cut, encode
from streamspace_agent.runtime import Progress, ReadyCheck, Session, SessionState
from tests.core.decoded import decode

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
PAYLOADS = st.dictionaries(st.text(), JSON, max_size=4)


def command(command_id="c1", **more):
    return json.dumps(
        {"type": "command", "timestamp": "2026-01-01T00:00:00Z", "payload": {"commandId": command_id}, **more}
    )


@given(st.lists(st.tuples(st.text(), PAYLOADS), max_size=5))
@pytest.mark.slow
def test_envelopes_packed_into_one_frame_come_out_in_order(messages):
    frame = "\n".join(encode(kind, payload) for kind, payload in messages)
    assert list(decode(frame)) == [Message(kind, payload) for kind, payload in messages]


def test_empty_lines_between_envelopes_are_nothing():
    assert len(list(decode(f"\n{command()}\n\n \t\n{command()}\r\n"))) == 2


def test_a_line_separator_inside_a_string_does_not_split_an_envelope():
    frame = json.dumps({"type": "x", "payload": {"text": "a\u2028b\x0bc"}}, ensure_ascii=False)
    frame = frame.replace("\\u000b", "\\u000b")
    assert [envelope.payload["text"] for envelope in decode(frame)] == ["a\u2028b\x0bc"]


@pytest.mark.parametrize("timestamp", ["2026-01-01T00:00:00Z", 1700000000, None, {"seconds": 1}])
def test_no_timestamp_makes_a_message_unreadable(timestamp):
    assert next(decode(command(timestamp=timestamp))) == Message("command", {"commandId": "c1"})


def test_unknown_fields_are_ignored_in_the_envelope_and_kept_in_the_payload():
    frame = '{"type":"command","future":1,"payload":{"commandId":"c1","future":{"a":1}}}'
    assert next(decode(frame)) == Message("command", {"commandId": "c1", "future": {"a": 1}})


def test_a_missing_payload_is_an_empty_one():
    assert next(decode('{"type":"ping"}')) == Message("ping", {})


@pytest.mark.parametrize("payload", [{"vncPort": "5900"}, {"vncPort": 5900}, {"memory": 2}, {"memory": "2Gi"}])
def test_numbers_and_strings_arrive_as_they_were_sent(payload):
    assert next(decode(json.dumps({"type": "x", "payload": payload}))).payload == payload


@pytest.mark.parametrize(
    ("piece", "reason"),
    [
        ("{", "not JSON"),
        ("nonsense", "not JSON"),
        ("[" * 10_000, "nested deeper than 64 levels"),
        ("[" * 100_000, "too large"),
        ("[1]", "not a JSON object"),
        ('"text"', "not a JSON object"),
        ("{}", "no message type"),
        ('{"type":5,"payload":{}}', "no message type"),
        ('{"type":"command","payload":[1]}', "its payload is not an object"),
        ('{"type":"command","payload":"x"}', "its payload is not an object"),
    ],
)
def test_a_bad_piece_comes_out_as_malformed_and_its_neighbours_unharmed(piece, reason):
    first, bad, last = decode(f"{command('a')}\n{piece}\n{command('b')}")
    assert (first.payload["commandId"], last.payload["commandId"]) == ("a", "b")
    assert isinstance(bad, Malformed)
    assert bad.reason.startswith(reason)


@pytest.mark.parametrize(
    ("piece", "command_id"),
    [
        ('{"payload":{"commandId":"c7"}}', "c7"),
        ('{"type":"command","commandId":"c8","payload":[]}', "c8"),
        ('{"type":1,"payload":{"commandId":9}}', "9"),
        ('{"type":1,"payload":{"commandId":{}}}', ""),
        ("{", ""),
    ],
)
def test_a_malformed_command_keeps_its_id_where_one_can_be_read(piece, command_id):
    (bad,) = decode(piece)
    assert bad.command_id == command_id


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_no_frame_at_all_raises(frame):
    for message in decode(frame):
        assert isinstance(message, Message | Malformed)


def test_a_timestamp_is_text_with_a_time_zone():
    stamp = json.loads(encode("pong", {}))["timestamp"]
    assert stamp.endswith("Z")
    assert datetime.fromisoformat(stamp).tzinfo


def test_an_envelope_is_one_line_of_ascii():
    text = encode("status", {"error": "zwei\nZeilen, größer als 1 €"})
    assert "\n" not in text
    assert text.isascii()
    assert json.loads(text)["payload"]["error"] == "zwei\nZeilen, größer als 1 €"


def test_the_largest_envelope_that_the_control_plane_takes_can_be_sent_and_no_larger():
    room = protocol.MAX_FRAME - len(encode("x", {"data": ""}))
    assert len(encode("x", {"data": "a" * room}).encode()) == 524_288
    with pytest.raises(TooLarge, match="524289 bytes"):
        encode("x", {"data": "a" * (room + 1)})


def test_size_is_counted_in_bytes_on_the_wire():
    with pytest.raises(TooLarge):
        encode("x", {"data": "€" * 200_000})


def test_what_json_cannot_say_is_refused_rather_than_sent():
    with pytest.raises(ValueError, match="JSON"):
        encode("x", {"cpu": float("nan")})


@given(st.text(max_size=50), st.integers(1, 40))
def test_cut_text_keeps_its_beginning_and_counts_the_rest(text, limit):
    short = cut(text, limit)
    assert short == text or (short.startswith(text[:limit]) and f"{len(text) - limit} characters more" in short)


def session(**more):
    return Session(
        "s1", **{"state": SessionState.RUNNING, "place": "streamspace-s1", "port": 5900, "ready": True, **more}
    )


def test_a_status_has_the_control_planes_keys():
    payload = protocol.status(session(address="10.0.0.2", epoch=7, details={"containerId": "abc"}))
    assert payload == {
        "sessionId": "s1",
        "state": "running",
        "vncReady": True,
        "vncPort": 5900,
        "platformMetadata": {
            "podName": "streamspace-s1",
            "podIP": "10.0.0.2",
            "epoch": 7,
            "protocol": "vnc",
            "containerId": "abc",
        },
    }
    assert '"state":"running"' in encode("status", payload)


def test_a_web_desktops_status_is_one_for_which_the_control_plane_makes_an_address():
    payload = protocol.status(session(ready_check=ReadyCheck.HTTP, port=3000))
    assert (payload["vncReady"], payload["vncPort"]) == (True, 3000)


@pytest.mark.parametrize("state", [state for state in SessionState if state is not SessionState.RUNNING])
def test_only_a_running_session_is_ready(state):
    assert protocol.status(session(state=state))["vncReady"] is False


def test_a_status_says_why_it_failed():
    payload = protocol.status(session(state=SessionState.FAILED, reason="x" * 10_000))
    assert len(payload["platformMetadata"]["reason"]) < 5_000


def test_progress_shows_bytes_only_when_they_are_known():
    known = protocol.pending("s1", Progress("pulling", 50, 200), 3)["platformMetadata"]["progress"]
    assert known == {"phase": "pulling", "currentBytes": 50, "totalBytes": 200, "percent": 25}
    assert protocol.pending("s1", Progress("starting"), 3)["platformMetadata"]["progress"] == {"phase": "starting"}


def test_an_error_text_is_cut():
    assert len(protocol.failed("c1", "x" * 600_000)["error"]) < 5_000


def test_the_result_of_a_start_has_the_sibling_agents_keys():
    result = protocol.started(session(details={"image": "i"}))
    assert result == {
        "sessionId": "s1", "state": "running", "podName": "streamspace-s1", "podIP": "", "vncPort": 5900, "image": "i",
        "protocol": "vnc",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"ready_check": ReadyCheck.VNC}, "vnc"),
        ({"ready_check": ReadyCheck.HTTP, "port": 3000}, "http"),
        ({"ready_check": ReadyCheck.NONE, "port": 0}, None),
        ({"ready_check": ReadyCheck.VNC, "ready": False}, None),
        ({"ready_check": ReadyCheck.HTTP, "state": SessionState.HIBERNATED}, None),
    ],
)
def test_what_a_session_speaks_is_told_once_it_was_found(fields, told):
    status, result = protocol.status(session(**fields)), protocol.started(session(**fields))
    assert status["platformMetadata"].get("protocol") == result.get("protocol") == told
    assert status["vncPort"] == result["vncPort"] == fields.get("port", 5900)
