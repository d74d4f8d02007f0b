import pytest

from streamspace_agent import logs
from streamspace_agent.config import Settings, is_secret, load, load_place, secret, variable
from streamspace_agent.errors import ConfigError

REQUIRED = {"AGENT_ID": "docker-prod-us-east-1", "CONTROL_PLANE_URL": "wss://control.example.com"}

# The tables of the deployment documentation: variable, its default there, another value and what it means.
DOCUMENTED = [
    ("PLATFORM", "docker", "vm", "vm"),
    ("REGION", "default", "us-east-1", "us-east-1"),
    ("DOCKER_HOST", "unix:///var/run/docker.sock", "tcp://127.0.0.1:2375", "tcp://127.0.0.1:2375"),
    ("NETWORK_NAME", "streamspace", "desktops", "desktops"),
    ("VOLUME_DRIVER", "local", "nfs", "nfs"),
    ("MAX_CPU", 100, "7.5", 7.5),
    ("MAX_MEMORY", 128, "64", 64),
    ("MAX_SESSIONS", 100, "10", 10),
    ("HEALTH_CHECK_INTERVAL", 30, "15s", 15),
    ("ENABLE_HA", False, "true", True),
    ("LEADER_ELECTION_BACKEND", "file", "redis", "redis"),
    ("LOCK_FILE_PATH", "/var/run/streamspace/agent.lock", "/tmp/x.lock", "/tmp/x.lock"),
    ("REDIS_URL", None, "redis://redis:6379/0", "redis://redis:6379/0"),
]


def plain(value):
    return value.get_secret_value() if hasattr(value, "get_secret_value") else value


def problems(environ, options=None):
    with pytest.raises(ConfigError) as caught:
        load(environ, options)
    assert caught.value.exit_code == 2
    assert str(caught.value).splitlines() == list(caught.value.problems)
    return caught.value.problems


@pytest.mark.parametrize(("name", "default", "text", "value"), DOCUMENTED)
def test_a_documented_variable_has_its_documented_default_and_can_be_set(name, default, text, value):
    assert plain(getattr(load(REQUIRED), name.lower())) == default
    assert plain(getattr(load({**REQUIRED, name: text}), name.lower())) == value


def test_the_required_variables_are_the_documented_two():
    assert {variable(f) for f, info in Settings.model_fields.items() if info.is_required()} == set(REQUIRED)


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("RUNTIME_DRIVER", "docker"),
        ("STATE_DIR", "/var/lib/streamspace"),
        ("LOG_LEVEL", "info"),
        ("LOG_FORMAT", "text"),
        ("HEALTH_ADDRESS", None),
        ("LEASE_DURATION", None),
        ("HIBERNATE_MODE", "stop"),
        ("VIEWER_RELAY", "deployed"),
        ("WEB_GATEWAY", None),
        ("WEB_GATEWAY_ALLOW", "private"),
        ("PUBLISH_ADDRESS", "127.0.0.1"),
        ("TLS_CA_FILE", None),
        ("TLS_CERT_FILE", None),
        ("TLS_KEY_FILE", None),
        ("AGENT_API_KEY", None),
    ],
)
def test_a_further_variable_has_its_default(name, default):
    value = getattr(load(REQUIRED), name.lower())
    assert (None if value is None else str(value)) == default


@pytest.mark.parametrize(
    ("name", "text", "other"),
    [("REGION", "from-variable", "from-option"), ("MAX_SESSIONS", "5", "6"), ("ENABLE_HA", "true", "false")],
)
def test_an_option_beats_the_variable(name, text, other):
    both = load({**REQUIRED, name: text}, {name.lower(): other})
    assert getattr(both, name.lower()) == getattr(load({**REQUIRED, name: other}), name.lower())


def test_a_good_option_mends_a_wrong_variable():
    assert load({**REQUIRED, "MAX_SESSIONS": "many"}, {"max_sessions": "3"}).max_sessions == 3


def test_an_option_that_was_not_given_changes_nothing():
    assert load({**REQUIRED, "REGION": "here"}, {"region": None}).region == "here"


def test_an_empty_option_unsets_the_variable():
    assert load({**REQUIRED, "HEALTH_ADDRESS": ":80"}, {"health_address": ""}).health_address is None


@pytest.mark.parametrize("empty", ["", "   "])
def test_an_empty_variable_counts_as_not_set(empty):
    assert load({**REQUIRED, "MAX_SESSIONS": empty, "REDIS_URL": empty}) == load(REQUIRED)


def test_foreign_variables_are_ignored():
    assert load({**REQUIRED, "PATH": "/bin", "DOCKER_CONFIG": "x", "max_cpu": "1"}) == load(REQUIRED)


@pytest.mark.parametrize("name", ["AGENT_API_KEY", "API_KEY", "REDIS_URL"])
def test_a_secret_is_read_from_the_file_that_its_variable_names(tmp_path, name):
    file = tmp_path / "secret"
    file.write_text("redis://h:1\n" if name == "REDIS_URL" else "k" * 64 + "\n")
    settings = load({**REQUIRED, f"{name}_FILE": str(file)})
    assert plain(settings.redis_url if name == "REDIS_URL" else settings.agent_api_key) == file.read_text().strip()


def test_api_key_is_another_name_for_agent_api_key_which_comes_first():
    assert plain(load({**REQUIRED, "API_KEY": "other-name"}).agent_api_key) == "other-name"
    assert plain(load({**REQUIRED, "API_KEY": "b", "AGENT_API_KEY": "a"}).agent_api_key) == "a"


def test_a_secret_file_that_cannot_be_read_is_named(tmp_path):
    (problem,) = problems({**REQUIRED, "AGENT_API_KEY_FILE": str(tmp_path / "none")})
    assert problem == f"AGENT_API_KEY_FILE: cannot read {tmp_path}/none: No such file or directory"


def test_a_secret_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "key").write_bytes(b"\xff\xfe")
    assert problems({**REQUIRED, "AGENT_API_KEY_FILE": str(tmp_path / "key")})[0].endswith("not text")


def test_a_secret_given_twice_is_refused(tmp_path):
    (tmp_path / "key").write_text("x")
    environ = {**REQUIRED, "AGENT_API_KEY": "secret-value", "AGENT_API_KEY_FILE": str(tmp_path / "key")}
    assert problems(environ) == ("AGENT_API_KEY and AGENT_API_KEY_FILE are both set: keep one of them",)


def test_a_blank_credential_of_systemd_counts_as_not_set_and_no_other_blank_file_does(tmp_path):
    for name in ("tls-ca", "tls-cert", "tls-key"):
        (tmp_path / name).write_text("\n")
    files = {f"TLS_{n.upper()}_FILE": str(tmp_path / f"tls-{n}") for n in ("ca", "cert", "key")}
    handed = {**REQUIRED, **files, "CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert load(handed) == load(REQUIRED)
    assert load({**REQUIRED, **files}).tls_ca_file == tmp_path / "tls-ca"
    assert load({**handed, "CREDENTIALS_DIRECTORY": "/elsewhere"}).tls_key_file == tmp_path / "tls-key"
    (tmp_path / "tls-cert").write_text("-----BEGIN")
    assert problems(handed) == ("TLS_CERT_FILE and TLS_KEY_FILE belong together: set both or neither",)


def test_settings_never_show_their_secrets():
    settings = load({**REQUIRED, "AGENT_API_KEY": "secret-value", "REDIS_URL": "redis://u:secret-value@h"})
    assert "secret-value" not in f"{settings!r} {settings} {settings.model_dump_json()}"


WRONG = [
    ("AGENT_ID", "ab", "3 to 100"),
    ("AGENT_ID", "a" * 101, "3 to 100"),
    ("AGENT_ID", "has space", "3 to 100"),
    ("AGENT_ID", "../../etc", "3 to 100"),
    (
        "CONTROL_PLANE_URL",
        "cp.example.com:8443",
        "is cp.example.com:8443, which has no scheme: write wss://cp.example.com:8443",
    ),
    ("CONTROL_PLANE_URL", "//cp.example.com", "write wss://cp.example.com, or ws://cp.example.com where"),
    ("CONTROL_PLANE_URL", "ftp://cp.example.com", "wss://control.example.com, not ftp://cp.example.com"),
    ("CONTROL_PLANE_URL", "wss://", "wss://control.example.com"),
    ("CONTROL_PLANE_URL", "wss://user:pass@host", "AGENT_API_KEY"),
    ("CONTROL_PLANE_URL", "wss://host/?key=x", "AGENT_API_KEY"),
    ("CONTROL_PLANE_URL", "wss://host:port", "port"),
    ("PLATFORM", "windows", "kubernetes"),
    ("REGION", "x", "2"),
    ("REGION", "x" * 51, "50"),
    ("NETWORK_NAME", "-bad", "pattern"),
    ("MAX_CPU", "0", "greater than 0"),
    ("MAX_CPU", "many", "MAX_CPU=many is not a number: write for example 100"),
    ("MAX_CPU", "nan", "MAX_CPU=nan is not a number"),
    ("MAX_CPU", "inf", "MAX_CPU=inf is not a number"),
    ("MAX_MEMORY", "-1", "greater than 0"),
    ("MAX_MEMORY", "64GB", "MAX_MEMORY=64GB is not a number: write for example 128, in GiB and without a unit"),
    ("MAX_MEMORY", "128Gi", "in GiB and without a unit"),
    ("MAX_CPU", "500m", "in cores and without a unit"),
    ("SESSION_CPU", "500m", "in cores and without a unit"),
    ("MAX_SESSIONS", "-1", "greater than or equal to 0"),
    ("MAX_SESSIONS", "2.5", "MAX_SESSIONS=2.5 is not a whole number"),
    ("SESSION_CPU", "-1", "greater than or equal to 0"),
    ("SESSION_MEMORY", "-1", "greater than or equal to 0"),
    ("SESSION_MEMORY", "lots", "SESSION_MEMORY=lots"),
    ("HEALTH_CHECK_INTERVAL", "41s", "gives an agent up 45s"),
    ("HEALTH_CHECK_INTERVAL", "0", "greater than or equal to 1"),
    ("HEALTH_CHECK_INTERVAL", "soon", "HEALTH_CHECK_INTERVAL=soon is not a duration: write for example 30s, 1m30s"),
    ("USAGE_INTERVAL", "often", "30s, 1m30s"),
    ("ENABLE_HA", "maybe", "ENABLE_HA=maybe is not a boolean: write true or false"),
    ("LEASE_DURATION", "0s", "greater than 0"),
    ("LEASE_DURATION", "x", "30s, 1m30s"),
    ("HIBERNATE_MODE", "sleep", "'stop' or 'pause'"),
    ("VIEWER_RELAY", "safe", "'deployed' or 'repaired'"),
    ("READY_TIMEOUT", "0", "greater than 0"),
    ("COMMAND_CONCURRENCY", "0", "greater than or equal to 1"),
    ("COMMAND_CONCURRENCY", "1001", "less than or equal to 1000"),
    ("DRAIN_TIMEOUT", "-1s", "30s, 1m30s"),
    ("WEB_GATEWAY", "3000", "WEB_GATEWAY=3000 is not host:port: write for example 0.0.0.0:3000"),
    ("WEB_GATEWAY", "10.0.0.5:3000,:8080", "WEB_GATEWAY=:8080 is not host:port"),
    ("WEB_GATEWAY", "10.0.0.5:99999", "WEB_GATEWAY=10.0.0.5:99999 is not host:port"),
    ("WEB_GATEWAY_ALLOW", "private,10.0.0.0/33", "WEB_GATEWAY_ALLOW=10.0.0.0/33 is not a network"),
    ("WEB_GATEWAY_ALLOW", "10.0.0.1/8", "has host bits set; write for example"),
    ("HEALTH_ADDRESS", "8080", "HEALTH_ADDRESS=8080 is not host:port"),
    ("HEALTH_ADDRESS", "host:99999", "65535"),
    ("HEALTH_ADDRESS", "host:9100-99999", "65535"),
    ("HEALTH_ADDRESS", "host:9109-9100", "must begin with the lower one"),
    ("HEALTH_ADDRESS", "host:9100-", "is not host:port"),
    ("LOG_LEVEL", "loud", "debug"),
    ("LOG_FORMAT", "xml", "json"),
    ("STATE_DIR", "state", "must be an absolute path, not state"),
    ("LOCK_FILE_PATH", "agent.lock", "must be an absolute path, not agent.lock"),
    ("AGENT_API_KEY", "two words", "is not one line of visible ASCII"),
    ("TLS_CA_FILE", "/does/not/exist", "no such file: /does/not/exist"),
]


@pytest.mark.parametrize(("name", "text", "hint"), WRONG)
def test_a_wrong_value_is_one_line_that_names_the_variable(name, text, hint):
    (problem,) = problems({**REQUIRED, name: text})
    assert problem.startswith(name)
    assert hint in problem
    assert not problem.endswith(".")


@pytest.mark.parametrize(("name", "text", "hint"), WRONG)
def test_what_is_wrong_reaches_people_whole(name, text, hint):
    """Our own words must not look like a secret to the redactor."""
    (problem,) = problems({**REQUIRED, name: text})
    assert logs.redact(problem) == problem


def test_every_setting_that_can_be_wrong_is_tried():
    free_text = {"docker_host", "volume_driver", "publish_address"}
    free_text |= {"leader_election_backend", "runtime_driver", "redis_url", "tls_cert_file", "tls_key_file"}
    assert {name.lower() for name, _, _ in WRONG} | free_text == set(Settings.model_fields)


def test_everything_that_is_wrong_is_told_at_once():
    environ = {"AGENT_ID": "x", "MAX_CPU": "0", "LOG_LEVEL": "loud", "TLS_CERT_FILE": __file__, "API_KEY_FILE": "/none"}
    found = problems(environ)
    for name in ("AGENT_ID", "CONTROL_PLANE_URL", "MAX_CPU", "LOG_LEVEL", "TLS_KEY_FILE", "API_KEY_FILE"):
        assert any(name in line for line in found), name
    assert len(found) == 6


def test_a_wrong_secret_is_not_quoted():
    assert "hunter2" not in "\n".join(problems({"AGENT_API_KEY": "hunter2", "MAX_CPU": "x"}))
    assert "hunter2" not in "\n".join(problems({**REQUIRED, "AGENT_API_KEY": "hunter2 hunter2"}))
    for url in ("wss://u:hunter2@h", "u:hunter2@h", "ftp://u:hunter2@h", "h?key=hunter2", "ftp://h/?key=hunter2"):
        assert "hunter2" not in "\n".join(problems({**REQUIRED, "CONTROL_PLANE_URL": url}))


def test_an_unknown_option_is_a_programming_error_that_is_told():
    assert problems(REQUIRED, {"no_such": 1})


@pytest.mark.parametrize(
    ("url", "http", "ws"),
    [
        ("ws://h:8000", "http://h:8000", "ws://h:8000"),
        ("https://h/base/", "https://h/base", "wss://h/base"),
        ("wss://h", "https://h", "wss://h"),
    ],
)
def test_the_control_planes_two_addresses_follow_from_one(url, http, ws):
    settings = load({**REQUIRED, "CONTROL_PLANE_URL": url})
    assert (settings.http_url, settings.ws_url) == (http, ws)


def test_the_agent_id_is_put_into_the_lock_files_path():
    settings = load({**REQUIRED, "LOCK_FILE_PATH": "/run/{agent_id}.lock"})
    assert str(settings.lock_file) == "/run/docker-prod-us-east-1.lock"


@pytest.mark.parametrize("text", ["INFO", " Info "])
def test_words_are_taken_in_any_case(text):
    assert load({**REQUIRED, "LOG_LEVEL": text}).log_level == "info"


def test_commands_beside_the_agent_need_its_id_and_state_folder_only():
    place = load_place({"AGENT_ID": "one", "STATE_DIR": "/s", "MAX_CPU": "wrong"}, {"agent_id": "two", "region": "x"})
    assert str(place.agent_dir) == "/s/two"
    with pytest.raises(ConfigError, match=r"^AGENT_ID is not set"):
        load_place({})


def test_secrets_are_the_key_and_the_redis_url():
    assert {field for field in Settings.model_fields if is_secret(field)} == {"agent_api_key", "redis_url"}


@pytest.mark.parametrize(
    ("agent_id", "says"),
    [
        (
            "docker--prod",
            "AGENT_ID must not contain two dashes in a row: the control plane's filter takes them for SQL",
        ),
        ("docker-prod..", "AGENT_ID must not end with two dots: the control plane's filter"),
    ],
)
def test_an_agent_id_that_the_control_plane_filters_out_is_refused_with_the_reason(agent_id, says):
    with pytest.raises(ConfigError) as caught:
        load({**REQUIRED, "AGENT_ID": agent_id})
    (problem,) = caught.value.problems
    assert problem.startswith(says)


def test_a_plugin_reads_a_secret_of_its_own_from_its_variable_or_the_file_that_is_named(tmp_path):
    file = tmp_path / "password"
    file.write_text("from the file\n")
    assert secret("STORE_PASSWORD", {}) is None
    assert secret("STORE_PASSWORD", {"STORE_PASSWORD": " said "}) == "said"
    assert secret("STORE_PASSWORD", {"STORE_PASSWORD_FILE": str(file)}) == "from the file"
    with pytest.raises(ConfigError, match="STORE_PASSWORD and STORE_PASSWORD_FILE are both set: keep one of them"):
        secret("STORE_PASSWORD", {"STORE_PASSWORD": "said", "STORE_PASSWORD_FILE": str(file)})
    with pytest.raises(ConfigError, match=f"STORE_PASSWORD_FILE: cannot read {tmp_path}/none: No such file"):
        secret("STORE_PASSWORD", {"STORE_PASSWORD_FILE": str(tmp_path / "none")})
