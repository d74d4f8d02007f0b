"""From what a control plane sends to a checked spec: taken as leniently as it is written, refused with a sentence."""

import base64
import json
import math
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamspace_agent import protocol
from streamspace_agent.commands import Command
from streamspace_agent.commands.templates import session_spec
from streamspace_agent.errors import CommandFailed
from streamspace_agent.runtime import Mount, Port, ReadyCheck
from tests.core.decoded import decode

IMAGE = {"baseImage": "desk:1"}


def spec(template=None, /, **payload):
    manifest = {"metadata": {"name": "t"}, "spec": IMAGE | (template or {})}
    return session_spec(Command("c1", "start_session", {"sessionId": "s1", "templateManifest": manifest} | payload, 7))


def refusal(template=None, /, **payload):
    with pytest.raises(CommandFailed) as caught:
        spec(template, **payload)
    return str(caught.value)


@pytest.mark.parametrize("form", ["object", "json", "base64", "base64 of several lines"])
def test_a_manifest_is_taken_as_object_json_text_or_base64(form):
    manifest = {"metadata": {"name": "t"}, "spec": IMAGE | {"env": [{"name": "A", "value": "ü"}]}}
    text = json.dumps(manifest)
    forms = {
        "object": manifest,
        "json": f"  {text}",
        "base64": base64.b64encode(text.encode()).decode(),
        "base64 of several lines": base64.encodebytes(text.encode()).decode(),
    }
    made = spec(templateManifest=forms[form])
    assert (made.image, made.template, made.environment) == ("desk:1", "t", {"A": "ü"})


@pytest.mark.parametrize(
    ("memory", "size"),
    [
        ("2Gi", 2 * 2**30),
        ("512Mi", 512 * 2**20),
        ("1048576Ki", 2**30),
        ("1G", 10**9),
        ("100M", 10**8),
        ("100000k", 10**8),
        ("1e9", 10**9),
        ("1E9", 10**9),
        ("1.5Gi", 3 * 2**29),
        (".5Gi", 2**29),
        ("134217728", 2**27),
        (134217728, 2**27),
        ("134217728000m", 2**27),
        (" 1Gi ", 2**30),
    ],
)
def test_every_form_of_a_memory_quantity_is_taken(memory, size):
    assert spec(memory=memory).memory == size


@pytest.mark.parametrize(
    ("cpu", "cores"),
    [("1000m", 1), ("500m", 0.5), ("2", 2), (2, 2), (1.5, 1.5), ("0.1", 0.1), ("1e1", 10), ("1500000u", 1.5)],
)
def test_every_form_of_a_cpu_quantity_is_taken(cpu, cores):
    assert spec(cpu=cpu).cpu == cores


@pytest.mark.parametrize(
    "memory", ["lots", "-1Gi", "0", "1Ki", "2Pi", "1e99", "1GiB", "Gi", "1 Gi", "٣Gi", "NaN", "1e-5", True]
)
def test_an_impossible_memory_is_refused(memory):
    assert refusal(memory=memory).startswith(("invalid_quantity: memory", "invalid_payload"))


@pytest.mark.parametrize("cpu", ["0", "-1", "1m", "5000", "many", "1Gi", "inf"])
def test_an_impossible_cpu_is_refused(cpu):
    assert refusal(cpu=cpu).startswith("invalid_quantity: cpu")


@pytest.mark.parametrize(
    ("resources", "memory", "cpu"),
    [
        ({"memory": "1Gi", "cpu": "1"}, 2**30, 1),
        ({"requests": {"memory": "1Gi", "cpu": "1"}}, 2**30, 1),
        ({"requests": {"memory": "1Gi"}, "limits": {"memory": "2Gi", "cpu": 2}}, 2**31, 2),
        ({"limits": {"memory": "2Gi"}, "requests": {"cpu": "250m"}}, 2**31, 0.25),
        ({"limits": None, "requests": None, "memory": "1Gi"}, 2**30, None),
        (None, None, None),
        ({}, None, None),
    ],
)
def test_default_resources_are_flat_or_nested_and_limits_win(resources, memory, cpu):
    made = spec({"defaultResources": resources})
    assert (made.memory, made.cpu) == (memory, cpu)


def test_the_commands_resources_beat_the_templates_and_its_own_keys_beat_those():
    template = {"defaultResources": {"memory": "1Gi", "cpu": "1"}}
    assert spec(template, resources={"memory": "2Gi"}).memory == 2**31
    assert spec(template, resources={"memory": "2Gi", "cpu": "2"}, memory="3Gi").memory == 3 * 2**30
    assert spec(template, resources={"memory": "2Gi", "cpu": "2"}, memory="3Gi").cpu == 2


VNC, HTTP, ANY = ReadyCheck.VNC, ReadyCheck.HTTP, ReadyCheck.ANY


@pytest.mark.parametrize(
    ("template", "expected", "port"),
    [
        ({"vnc": {"enabled": True, "port": 5901}}, VNC, 5901),
        ({"vnc": {"enabled": True, "port": "5901"}, "ports": [{"containerPort": 8080}]}, VNC, 5901),
        ({"vnc": {"port": 5901, "protocol": "rfb"}, "webapp": {"port": 80}}, VNC, 5901),
        ({"vnc": {"enabled": True, "port": 3000, "protocol": "websocket"}}, HTTP, 3000),
        ({"vnc": {"enabled": True}, "ports": [{"containerPort": 5902}]}, VNC, 5902),
        ({"vnc": {"enabled": True, "port": 0}}, VNC, 5900),
        ({"vnc": {"enabled": True, "port": ""}, "kasmvnc": {"port": 6901}}, VNC, 6901),
        ({"kasmvnc": {"enabled": True, "port": 3000}, "ports": [{"name": "vnc", "containerPort": 5900}]}, HTTP, 3000),
        ({"kasmvnc": {"enabled": None, "port": 6901}, "webapp": {"enabled": True, "port": 8080}}, HTTP, 6901),
        ({"kasmvnc": {"enabled": False, "port": 6901}, "webapp": {"enabled": True, "port": 8080}}, HTTP, 8080),
        ({"webapp": {"enabled": True, "port": "8080"}, "ports": [{"name": "vnc", "containerPort": 5900}]}, HTTP, 8080),
        ({"webapp": {"enabled": True}, "ports": [{"containerPort": 8123}]}, HTTP, 8123),
        ({"webapp": {"enabled": False, "port": 8080}}, ANY, 5900),
        ({"ports": [{"name": "vnc", "containerPort": 3000}]}, ANY, 3000),
        ({"ports": [{"name": "http", "containerPort": "8080"}]}, ANY, 8080),
        ({"ports": [{"name": "web", "containerPort": 80}, {"name": "vnc", "containerPort": 5900}]}, ANY, 80),
        ({"ports": [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 3001}]}, ANY, 3001),
        ({"ports": [{"containerPort": 53, "protocol": "UDP"}]}, ANY, 5900),
        ({"ports": []}, ANY, 5900),
        ({"vnc": None, "kasmvnc": None, "webapp": None}, ANY, 5900),
        ({}, ANY, 5900),
    ],
)
def test_the_port_is_vncs_then_kasmvncs_then_webapps_then_the_first_tcp_port_then_5900(template, expected, port):
    """Whatever the port is called. What is expected there decides only what is tried first."""
    made = spec(template)
    assert (made.ready, made.port) == (expected, port)


@pytest.mark.parametrize(
    ("template", "expected", "port"),
    [
        ({"vnc": {"enabled": False}}, ReadyCheck.NONE, 0),
        ({"kasmvnc": {"enabled": False, "port": None}, "ports": []}, ReadyCheck.NONE, 0),
        ({"vnc": {"enabled": False}, "ports": [{"containerPort": 53, "protocol": "UDP"}]}, ReadyCheck.NONE, 0),
        ({"vnc": {"enabled": False, "port": 5901}, "ports": [{"containerPort": "8888"}]}, ANY, 8888),
        ({"vnc": {"enabled": False}, "webapp": {"enabled": True, "port": 8443}}, HTTP, 8443),
    ],
)
def test_where_a_template_says_that_it_has_no_desktop_only_a_port_that_it_names_is_asked(template, expected, port):
    made = spec(template)
    assert (made.ready, made.port) == (expected, port)


@pytest.mark.parametrize(
    ("webapp", "path"),
    [
        ({"port": 80, "path": "/app/", "healthCheck": "/health?deep=1"}, "/health?deep=1"),
        ({"port": 80, "path": "/app/", "healthCheck": ""}, "/app/"),
        ({"port": 80, "path": "", "healthCheck": None}, "/"),
        ({"port": 80, "path": " /app "}, "/app"),
        ({"enabled": False, "port": 80, "path": "not asked"}, "/"),
        ({"port": 80, "path": "/" + "x" * 499}, "/" + "x" * 499),
        (None, "/"),
    ],
)
def test_over_http_the_health_check_is_asked_for_then_the_path_then_the_root(webapp, path):
    assert spec({"webapp": webapp}).path == path


@pytest.mark.parametrize("key", ["path", "healthCheck"])
@pytest.mark.parametrize(
    "path", ["app", "http://localhost/health", "/a b", "/a\r\nX-Evil: 1", "/\x00", "/ä", "/" + "x" * 500]
)
def test_what_is_no_path_of_a_url_is_refused(key, path):
    assert refusal({"webapp": {"port": 80, key: path}}).startswith(f"invalid_template: webapp.{key} ")


def test_ports_variables_and_volumes_are_taken_with_unknown_fields_ignored():
    made = spec(
        {
            "ports": [{"name": "vnc", "containerPort": 5900, "protocol": "TCP", "hostPort": 1}],
            "env": [{"name": "PUID", "value": 1000, "valueFrom": None}, {"name": "EMPTY"}],
            "volumeMounts": [
                {"name": "home", "mountPath": "/home/u", "subPath": "x"},
                {"name": "data", "mountPath": "/d"},
            ],
            "tags": [1, None],
            "futureField": {"deep": [1, 2]},
        },
        persistentHome="true",
        environment={"DEBUG": True, "N": 3},
        somethingNew={"a": 1},
        tags=None,
    )
    assert made.ports == (Port(5900, "vnc", "tcp"),)
    assert made.environment["PUID"] == "1000"
    assert made.environment["EMPTY"] == ""
    assert made.environment["N"] == "3"
    assert made.environment["DEBUG"] == "true"
    assert made.mounts == (Mount("home", "/home/u"), Mount("data", "/d"))


@pytest.mark.parametrize("number", [0, -1, 65536, 70000, "99999"])
def test_a_port_out_of_range_is_refused(number):
    assert refusal({"ports": [{"containerPort": number}]}).startswith("invalid_port")
    for section in ("vnc", "kasmvnc", "webapp"):
        if number != 0:  # what a control plane in Go writes where none is given
            assert refusal({section: {"port": number}}).startswith("invalid_port")


@pytest.mark.parametrize(
    "session_id",
    ["../../etc", "a/b", ".hidden", "-x", "a b", "a\nb", "ä", "a" * 101, "\ud800", {"a": 1}, ["a"], True, 1.5, "a\x00"],
)
def test_a_session_id_that_no_engine_takes_as_a_name_is_refused_not_mangled(session_id):
    assert refusal(sessionId=session_id).startswith("invalid_session_id: sessionId")


@pytest.mark.parametrize("session_id", [None, ""])
def test_a_missing_session_id_is_refused(session_id):
    assert refusal(sessionId=session_id) == "missing_session_id: the command has no sessionId"


@pytest.mark.parametrize(
    "manifest",
    [None, "", {}, "not base64!", "aGVsbG8=", "{broken", [], 7, "[1]", {"spec": None}, {"spec": {}},
    {"spec": {"baseImage": ""}},
     {"spec": {"baseImage": "a b"}}, {"spec": IMAGE | {"ports": "5900"}}, "[" * 100_000, '{"a":' * 100_000],
)  # fmt: skip
def test_a_manifest_that_is_none_is_refused_with_a_short_sentence(manifest):
    error = refusal(templateManifest=manifest)
    assert error.startswith(("missing_template", "invalid_template"))
    assert len(error) < 1000


@pytest.mark.parametrize("path", ["relative", "/", "/a/../../etc", "", "/a\x00"])
def test_a_mount_outside_the_session_is_refused(path):
    assert refusal({"volumeMounts": [{"name": "d", "mountPath": path}]}).startswith("invalid_template")


@pytest.mark.parametrize("variables", [{"A=B": "x"}, {"": "x"}, {"A": "x\0y"}])
def test_a_variable_that_no_process_can_have_is_refused(variables):
    assert refusal(environment=variables).startswith("invalid_environment")


def test_a_refusal_quotes_no_secret_of_the_template():
    error = refusal({"env": [{"name": "PASSWORD", "value": {"oops": "hunter2"}}]})
    assert "hunter2" not in error
    error = refusal({"env": [{"value": "hunter2"}]})
    assert "hunter2" not in error


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
SPEC_KEYS = ["baseImage", "defaultResources", "ports", "env", "volumeMounts", "vnc", "kasmvnc", "webapp"]
ITEM_KEYS = [
    "name",
    "value",
    "containerPort",
    "protocol",
    "mountPath",
    "path",
    "healthCheck",
    "port",
    "enabled",
    "memory",
    "cpu",
    "limits",
    "requests",
]
ODD = JSON | st.sampled_from(
    ["1Gi", "-1", "1e30", "1E400", "9" * 5000, "\ud800", "../..", "/x", 65536, -1, 10**400, "home"]
)
ITEM = st.dictionaries(
    st.sampled_from(ITEM_KEYS), ODD | st.dictionaries(st.sampled_from(ITEM_KEYS), ODD, max_size=3), max_size=4
)
SPEC = st.dictionaries(st.sampled_from(SPEC_KEYS), ITEM | st.lists(ITEM, max_size=3) | ODD, max_size=6)
PAYLOAD_KEYS = [
    "user",
    "template",
    "memory",
    "cpu",
    "resources",
    "persistentHome",
    "idleTimeout",
    "maxSessionDuration",
    "environment",
]
PAYLOAD = st.dictionaries(st.sampled_from([*PAYLOAD_KEYS, "sessionId", "templateManifest"]), ITEM | ODD, max_size=6)


@given(PAYLOAD, SPEC, st.booleans())
@example({"memory": "1e-400000"}, IMAGE, True)
@example({"idleTimeout": "9" * 400}, IMAGE, True)
@example({"user": "\ud800"}, IMAGE, True)
@example({"environment": {"A": "\ud800"}}, IMAGE, True)
def test_whatever_is_sent_gives_a_spec_or_a_refusal_that_can_be_sent(payload, template, usable):
    base = {"sessionId": "s1", "templateManifest": {"spec": (IMAGE if usable else {}) | template}} if usable else {}
    made = None
    problem = ""
    try:
        made = session_spec(Command("c1", "start_session", base | payload, 7))
    except CommandFailed as error:
        problem = str(error)
    protocol.encode("failed", protocol.failed("c1", problem))
    assert len(problem) < 4000
    if made is not None:
        assert made.session_id
        for text in (made.user, made.template, made.image, *made.environment, *made.environment.values()):
            text.encode()  # an engine's API is UTF-8


@given(
    st.text() | st.binary() | JSON.map(json.dumps) | JSON.map(lambda p: json.dumps({"type": "command", "payload": p}))
)
def test_whatever_frame_arrives_is_decoded_or_called_malformed(frame):
    for message in decode(frame):
        assert isinstance(message, protocol.Message | protocol.Malformed)


def test_the_environment_is_passed_on_to_the_last_character():
    key = "-----BEGIN KEY-----\nabc\n-----END KEY-----\n"
    made = spec({"env": [{"name": "KEY", "value": key}]}, environment={"PROMPT": "  > "})
    assert made.environment == {"KEY": key, "PROMPT": "  > "}


def test_more_ports_or_volumes_than_a_session_can_have_are_refused():
    many = [{"name": f"p{i}", "containerPort": 1000 + i} for i in range(65)]
    assert "65 ports: a session can have 64" in refusal({"ports": many})
    assert len(spec({"ports": many[:64]}).ports) == 64
    mounts = [{"name": f"v{i}", "mountPath": f"/v{i}"} for i in range(65)]
    assert "65 volumeMounts: a session can have 64" in refusal({"volumeMounts": mounts})


def seconds(**payload):
    """Processor time of a refusal, the least of five: what else the processor does counts as well."""
    least = math.inf
    for _ in range(5):
        begun = time.thread_time()
        refusal(**payload)
        least = min(least, time.thread_time() - begun)
    return least


@pytest.mark.parametrize("key", ["ports", "env", "volumeMounts"])
def test_of_many_mistakes_one_is_told_and_the_others_cost_no_time(key):
    """A quarter of a megabyte in base64, where the values of a message are not counted."""
    wrong = base64.b64encode(json.dumps({"spec": IMAGE | {key: [1] * 60_000}}).encode()).decode()
    assert f"{key}.0: input should be" in refusal(templateManifest=wrong)
    assert seconds(templateManifest=wrong) < 0.05


def test_of_many_wrong_variables_one_is_told():
    wrong = {f"V{i}": [] for i in range(20_000)}
    assert "environment: value error, V0: should be a valid string" in refusal(environment=wrong)
    assert seconds(environment=wrong) < 0.05
    assert "environment: value error, should be an object" in refusal(environment=[])
