"""REDIS_URL in all its forms, and what is said of a wrong one."""

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from streamspace_agent.errors import ConfigError
from streamspace_elect_redis.backend import RedisBackend
from streamspace_elect_redis.url import Address, Login, parse


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://redis", Address((("redis", 6379),))),
        ("redis://redis:6380/2", Address((("redis", 6380),), db=2)),
        ("REDIS://redis:6379/", Address((("redis", 6379),))),
        ("redis://:p%40ss@10.0.0.1", Address((("10.0.0.1", 6379),), login=Login(None, "p@ss"))),
        ("redis://agent:a:b@[::1]:6379", Address((("::1", 6379),), login=Login("agent", "a:b"))),
        ("rediss://redis:6379", Address((("redis", 6379),), tls=True)),
        ("unix:///run/redis.sock?db=3", Address(path="/run/redis.sock", db=3)),
        ("unix://agent:pw@/run/redis.sock", Address(path="/run/redis.sock", login=Login("agent", "pw"))),
        (
            "redis+sentinel://agent:pw@s1,s2:26380/mymaster/1?sentinel_password=sp",
            Address((("s1", 26379), ("s2", 26380)), "", "mymaster", 1, Login("agent", "pw"), Login(None, "sp")),
        ),
        ("rediss+sentinel://s1/mymaster", Address((("s1", 26379),), service="mymaster", tls=True)),
    ],
)
def test_every_form_is_understood(url, address):
    assert parse(url, {}) == address


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis.example.com:6379", "must begin with redis://"),
        ("http://redis", "must begin with redis://"),
        ("redis://", "has no valid host:port"),
        ("redis://redis:port", "has no valid host:port"),
        ("redis://redis:70000", "has no valid host:port"),
        ("redis://user:s3cret/x@redis", "in a password, write / : @ as"),
        ("redis://user:s3cret#x@redis", "in a password write %23"),
        ("redis://user:s3cret?x=@redis", "in a password write %3F"),
        ("redis://s3cret@redis", "has a user but no password"),
        ("redis://redis/zero", "the database must be a number"),
        ("redis://redis?socket_timeout=60", "may hold no options after the ?"),
        ("redis://one,two", "several Sentinels go into a redis+sentinel:// URL"),
        ("redis+sentinel://one,two", "does not name the Sentinels' service"),
        ("unix://run/redis.sock", "three slashes"),
        ("redis://[::1", "is not a URL"),
    ],
)
def test_a_wrong_url_is_explained_in_one_line_without_its_secrets(url, said):
    with pytest.raises(ConfigError) as caught:
        parse(url, {})
    [message] = caught.value.problems
    assert said in message
    assert message.startswith("REDIS_URL: ")
    assert "s3cret" not in message
    assert "\n" not in message


def test_a_missing_url_is_named_with_an_example():
    with pytest.raises(ConfigError, match=r"^REDIS_URL is not set: .*REDIS_URL=redis://redis\.example\.com:6379/0$"):
        parse(None, {})


def test_credentials_are_in_no_text_made_of_an_address():
    address = parse("redis+sentinel://agent:s3cret@s1/mymaster?sentinel_password=s3cret", {})
    assert "s3cret" not in f"{address} {address!r}"
    assert str(address) == "mymaster of the Sentinels s1:26379"


def test_the_ca_file_must_be_there_and_make_sense(tmp_path):
    with pytest.raises(ConfigError, match="REDIS_TLS_CA_FILE: no such file: /nowhere"):
        parse("rediss://redis", {"REDIS_TLS_CA_FILE": "/nowhere"})
    (tmp_path / "ca.pem").write_text("")
    files = {"REDIS_TLS_CA_FILE": str(tmp_path / "ca.pem")}
    with pytest.raises(ConfigError, match="REDIS_TLS_CA_FILE is set, but REDIS_URL asks for no TLS"):
        parse("redis://redis", files)
    assert parse("rediss://redis", files).files == {"ca": files["REDIS_TLS_CA_FILE"]}


def test_a_client_certificate_needs_its_key(tmp_path):
    (tmp_path / "cert.pem").write_text("")
    with pytest.raises(ConfigError, match="REDIS_TLS_CERT_FILE and REDIS_TLS_KEY_FILE belong together"):
        parse("rediss://redis", {"REDIS_TLS_CERT_FILE": str(tmp_path / "cert.pem")})


def test_all_that_is_wrong_is_said_at_once(backend_at):
    with pytest.raises(ConfigError) as caught:
        backend_at("redis://redis/zero", {"REDIS_TLS_CA_FILE": "/nowhere"}, lease_duration="1s")
    assert [problem.split()[0] for problem in caught.value.problems] == [
        "REDIS_URL:",
        "REDIS_TLS_CA_FILE:",
        "LEASE_DURATION=1s",
    ]


def test_the_lease_is_what_the_documentation_says(backend_at):
    timing = backend_at("redis://redis", {}).timing
    assert (timing.lease, timing.renew_every, timing.call_timeout, timing.margin) == (5.0, 1.0, 0.4, 0.5)
    assert backend_at("redis://redis", {}, lease_duration="10s").timing.renew_every == 2.0


def test_the_entry_point_makes_the_backend_without_a_connection(backend_at):
    [entry] = entry_points(group="streamspace_agent.election", name="redis")
    assert hasattr(entry.load(), "create_election_backend")
    assert isinstance(backend_at("redis://192.0.2.1"), RedisBackend)


def test_loading_the_plugin_does_not_import_redis():
    code = "import streamspace_elect_redis, sys; print('redis' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
