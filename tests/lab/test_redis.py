import pytest
import redis

from lab.proxy import Proxy
from lab.redis import RedisServer


def client(server, port=None):
    return redis.Redis(port=port or server.port, password=server.password, socket_timeout=0.5, retry=None)


def test_a_killed_server_comes_back_on_its_port_and_empty():
    with RedisServer(password="s3cret") as server, client(server) as connection:
        connection.set("key", "value")
        server.kill()
        server.start()
        assert connection.get("key") is None


def test_a_persistent_server_keeps_its_keys_over_a_restart():
    with RedisServer(persist=True) as server, client(server) as connection:
        connection.set("key", "value")
        server.stop()
        server.start()
        assert connection.get("key") == b"value"


def test_a_frozen_server_answers_nobody_until_it_thaws():
    with RedisServer() as server, client(server) as connection:
        connection.ping()
        server.freeze()
        with pytest.raises(redis.TimeoutError):
            connection.ping()
        server.thaw()
        assert connection.ping()


def test_a_mute_proxy_lets_requests_through_and_holds_replies_back():
    with (
        RedisServer() as server,
        Proxy(server.port) as proxy,
        client(server) as direct,
        client(server, proxy.port) as far,
    ):
        far.ping()
        proxy.mute = True
        with pytest.raises(redis.TimeoutError):
            far.set("key", "value")
        assert direct.get("key") == b"value"
        proxy.mute = False
        assert far.get("key") == b"value"
