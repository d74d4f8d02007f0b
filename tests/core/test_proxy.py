"""Which hosts NO_PROXY names."""

import pytest

from streamspace_agent import config
from streamspace_agent.controlplane.proxy import bypassed, proxy_for


@pytest.mark.parametrize(
    ("host", "no_proxy", "passed"),
    [
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "192.168.0.0/16,10.1.2.3", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "10.1.2.3:443", True),
        ("10.1.2.3", "10.1.2.3:8443", False),
        ("2001:db8::1", "2001:db8::1", True),
        ("2001:db8::1", "[2001:db8::1]", True),
        ("2001:db8::1", "[2001:db8::1]:443", True),
        ("2001:db8::1", "2001:db8::/32", True),
        ("2001:db9::1", "2001:db8::/32", False),
        ("10.1.2.3", "2001:db8::/32", False),
        ("control.example.com", "example.com", True),
        ("control.example.com", ".example.com", True),
        ("control.example.com", "*.example.com", True),
        ("Control.Example.com", "CONTROL.example.COM", True),
        ("notexample.com", "example.com", False),
        ("control.example.com", "10.0.0.0/8 localhost, , control.example.com:443", True),
        ("control.example.com", "*", True),
        ("control.example.com", "", False),
        ("control.example.com", ". : / 999.0.0.0/99", False),
        ("1.10.1.2", "10.1.2", False),
    ],
)
def test_no_proxy_takes_names_addresses_and_networks(host, no_proxy, passed):
    assert bypassed(host, 443, no_proxy) is passed


@pytest.mark.parametrize("url", ["wss://[2001:db8::1]:443", "WSS://10.1.2.3"])
def test_a_control_plane_in_a_network_of_no_proxy_is_reached_directly(monkeypatch, url):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:3128")
    settings = config.load({"AGENT_ID": "abc", "CONTROL_PLANE_URL": url})
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert proxy_for(settings) == "http://127.0.0.1:3128"
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8,2001:db8::1")
    assert proxy_for(settings) == ""


@pytest.mark.parametrize(
    ("written", "http", "ws"),
    [("WS://Host:1/P", "http://Host:1/P", "ws://Host:1/P"), ("HTTPS://h", "https://h", "wss://h")],
)
def test_a_url_in_capitals_is_the_same_url(written, http, ws):
    settings = config.load({"AGENT_ID": "abc", "CONTROL_PLANE_URL": written})
    assert (settings.http_url, settings.ws_url) == (http, ws)
