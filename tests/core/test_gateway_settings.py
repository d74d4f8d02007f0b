"""WEB_GATEWAY and WEB_GATEWAY_ALLOW: what they mean, what is warned of, and what happens without the plugin."""

import pytest

from streamspace_agent import plugins
from streamspace_agent.addresses import listening, networks, source
from streamspace_agent.config import load
from streamspace_agent.config_warnings import config_warnings
from streamspace_agent.errors import PluginError

REQUIRED = {"AGENT_ID": "agent-1", "CONTROL_PLANE_URL": "ws://127.0.0.1:9"}


def warned(**variables):
    environ = REQUIRED | variables
    return [line for line in config_warnings(load(environ), environ) if "WEB_GATEWAY" in line]


def test_several_addresses_are_listened_at_each_once():
    text = "0.0.0.0:3000, 0.0.0.0:8080,[::1]:3000,0.0.0.0:3000,"
    assert listening(text) == (("0.0.0.0", 3000), ("0.0.0.0", 8080), ("::1", 3000))


@pytest.mark.parametrize(
    ("peer", "allowed"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("10.1.2.3", True),
        ("172.31.0.1", True),
        ("192.168.1.1", True),
        ("::ffff:10.0.0.1", True),
        ("fe80::1%eth0", True),
        ("203.0.113.7", False),
        ("100.64.0.1", False),
        ("172.32.0.1", False),
        ("2001:db8::1", False),
        ("::ffff:203.0.113.7", False),
    ],
)
def test_private_stands_for_private_and_loopback_networks(peer, allowed):
    assert any(source(peer) in network for network in networks("private")) == allowed


def test_a_network_and_a_single_address_can_be_named_beside_the_private_ones():
    listed = networks("private,203.0.113.7,2001:db8::/32")
    assert any(source("203.0.113.7") in network for network in listed)
    assert not any(source("203.0.113.8") in network for network in listed)


@pytest.mark.parametrize(
    ("gateway", "allow", "loud"),
    [
        ("8.8.8.8:3000", "private", True),
        ("[2606:4700::1]:3000", "private", True),
        ("0.0.0.0:3000", "0.0.0.0/0", True),
        ("[::]:3000", "private,2606:4700::/32", True),
        ("0.0.0.0:3000", "private", False),
        ("10.0.0.5:3000", "0.0.0.0/0", False),
        ("127.0.0.1:3000", "private", False),
    ],
)
def test_a_gateway_that_strangers_could_reach_is_warned_of(gateway, allow, loud):
    found = warned(WEB_GATEWAY=gateway, WEB_GATEWAY_ALLOW=allow)
    assert bool(found) == loud
    assert not loud or "whoever reaches it" in found[0]


def test_an_allowlist_without_a_gateway_is_told_to_be_of_no_effect():
    assert "no effect without WEB_GATEWAY" in warned(WEB_GATEWAY_ALLOW="10.0.0.0/8")[0]


def test_a_gateway_that_is_not_installed_is_told_with_the_line_that_mends_it():
    with pytest.raises(PluginError) as told:
        plugins.choose(plugins.GATEWAY, plugins.GATEWAY.only, [])
    assert str(told.value) == (
        "the gateway plugin for WEB_GATEWAY is not installed (installed: none): "
        "pip install PATH/streamspace_gateway-*.whl,"
        " from where this agent's wheels are (`make wheels`)"
    )
    assert told.value.exit_code == 2
