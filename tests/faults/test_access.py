"""Who may connect: approval, keys of an agent's own, refusals, certificates."""

import asyncio
import random
import ssl
import stat

import pytest
import trustme
from websockets.asyncio.client import connect

from lab.until import until
from streamspace_agent import config
from streamspace_agent.controlplane import registration
from streamspace_agent.controlplane.registration import Keys, Registrar
from streamspace_agent.controlplane.tls import Trust
from streamspace_agent.errors import Refused
from streamspace_devplane import DevPlane, Settings
from tests.names import sid


@pytest.fixture
def bootstrapped(make_agent, plane, tmp_path):
    async def make(**variables):
        file = tmp_path / "bootstrap"
        file.write_text(await plane.bootstrap_key())
        return await make_agent(AGENT_API_KEY_FILE=str(file), **variables)

    return make


@pytest.mark.parametrize("played", [{"hand_out_keys": True}])
async def test_an_approved_agent_keeps_its_own_key_and_uses_it_after_a_restart(bootstrapped, plane, agent_id, tmp_path):
    agent = await (await bootstrapped()).start()
    await until(lambda: f"waits for an administrator's approval of {agent_id}" in agent.log)
    assert await agent.terminate() == 0
    await plane.approve(agent_id)
    await agent.start()
    await plane.wait_agent(agent_id)
    kept = tmp_path / "state" / agent_id / "api-key"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert len(kept.read_text()) == 64
    assert await agent.terminate() == 0
    assert kept.read_text() not in agent.log
    seq = (await plane.events())[-1]["seq"]
    await agent.start()
    await plane.wait_agent(agent_id)
    assert await plane.events(seq, type="connected"), "which the bootstrap key does not allow"
    assert all(event["payload"]["by"] == "key" for event in await plane.events(seq, type="register"))


@pytest.fixture
def replicas(plane, tmp_path):
    """`await replicas(2)`: the keys of so many replicas of one host, all started before any has registered, and their
    settings."""

    async def make(count):
        variables = {
            "AGENT_ID": "new-agent",
            "CONTROL_PLANE_URL": plane.ws_url,
            "AGENT_API_KEY": await plane.bootstrap_key(),
            "STATE_DIR": str(tmp_path / "state"),
        }
        settings = config.load(variables)
        return [Keys(settings, lambda _secret: None) for _ in range(count)], settings

    return make


@pytest.mark.parametrize("played", [{"hand_out_keys": True}])
async def test_replicas_of_a_host_use_the_key_that_one_of_them_was_given(replicas, plane, monkeypatch):
    monkeypatch.setattr(registration, "APPROVAL_POLL", 0.1)
    keys, settings = await replicas(2)
    first, second = (Registrar(settings, each, Trust(settings), random.Random(1)) for each in keys)
    asking = asyncio.create_task(first.register({}, {}))
    while not await plane.events(type="register"):
        await asyncio.sleep(0.05)
    await plane.approve("new-agent")
    await asyncio.wait_for(asking, 10)
    await asyncio.wait_for(second.register({}, {}), 10)
    assert (await plane.events(type="register"))[-1]["payload"]["by"] == "key"
    # One of them is given another, and the old one is good for nothing any more.
    plane.hub.store.change("DELETE FROM api_keys")
    keys[0].keep(await plane.issue_key("new-agent"))
    await asyncio.wait_for(second.register({}, {}), 10)
    assert keys[0].current == keys[1].current


async def test_a_kept_key_that_was_refused_is_not_taken_up_again(replicas, plane):
    keys, settings = await replicas(1)
    keys[0].keep("0" * 64)
    assert keys[0].fall_back()
    assert not keys[0].look()
    assert keys[0].current == settings.agent_api_key.get_secret_value()
    assert not keys[0].fall_back()


@pytest.mark.parametrize("played", [{"hand_out_keys": True}])
async def test_an_agent_asks_until_it_is_approved(plane, tmp_path, monkeypatch):
    monkeypatch.setattr(registration, "APPROVAL_POLL", 0.1)
    settings = config.load(
        {
            "AGENT_ID": "new-agent",
            "CONTROL_PLANE_URL": plane.ws_url,
            "AGENT_API_KEY": await plane.bootstrap_key(),
            "STATE_DIR": str(tmp_path / "state"),
        }
    )
    keys = Keys(settings, lambda _secret: None)
    asking = asyncio.create_task(Registrar(settings, keys, Trust(settings), random.Random(1)).register({}, {}))
    while len(await plane.events(type="register")) < 3:
        assert not asking.done()
        await asyncio.sleep(0.05)
    await plane.approve("new-agent")
    await asyncio.wait_for(asking, 10)
    assert keys.current != settings.agent_api_key.get_secret_value()


async def test_a_rejected_agent_exits_with_3_and_says_who_rejected_it(bootstrapped, plane, agent_id):
    agent = await (await bootstrapped()).start()
    await until(lambda: "approval" in agent.log)
    await plane.reject(agent_id)
    assert await agent.terminate() == 0
    await agent.start()
    assert await agent.wait() == 3
    assert agent.log.splitlines()[-1] == (
        f"docker-agent: an administrator rejected agent {agent_id}: ask them to approve it, or use another AGENT_ID"
    )


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("f" * 64, "AGENT_API_KEY was not accepted for agent"),
        ("", "AGENT_API_KEY is not set and no client certificate was accepted"),
    ],
)
async def test_an_unknown_key_ends_with_3_and_names_the_variable(make_agent, key, says):
    agent = await (await make_agent(AGENT_API_KEY=key, AGENT_API_KEY_FILE="")).start()
    assert await agent.wait() == 3
    last = agent.log.splitlines()[-1]
    assert says in last
    assert "f" * 64 not in agent.log


async def test_a_key_of_two_lines_is_refused_without_being_shown(make_agent):
    agent = await (await make_agent(AGENT_API_KEY="aaaaaaaa\nbbbbbbbb", AGENT_API_KEY_FILE="")).start()
    assert await agent.wait() == 2
    assert "AGENT_API_KEY" in agent.log
    assert "bbbbbbbb" not in agent.log


async def test_an_agent_that_was_accepted_outlives_the_loss_of_its_key_at_the_control_plane(plane, agent):
    """Of a database that was put back, or of an administrator's error: nobody would start every agent again."""
    plane.hub.store.change("DELETE FROM api_keys")
    await plane.set_faults(cut={})
    await until(lambda: "it was accepted before, so it goes on asking" in agent.log)
    (told,) = [line for line in agent.log.splitlines() if "it was accepted before" in line]
    assert "ERROR" in told
    assert "AGENT_API_KEY was not accepted" in told
    assert "Invalid API key" in told
    assert await agent.terminate() == 0


@pytest.fixture
async def tls_plane(tmp_path):
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with DevPlane(tmp_path / "tls-plane.db", tls=context, settings=Settings(relay="repaired")) as plane:
        plane.authority = authority
        yield plane


@pytest.fixture
def make_tls_agent(make_agent, tls_plane, agent_id, tmp_path):
    async def make(**variables):
        values = {
            "CONTROL_PLANE_URL": f"wss://localhost:{tls_plane.port}",
            "AGENT_API_KEY": await tls_plane.issue_key(agent_id),
            "AGENT_API_KEY_FILE": "",
            "TLS_CA_FILE": str(tmp_path / "ca.pem"),
            "VIEWER_RELAY": "repaired",
        }
        return await make_agent(**(values | variables))

    return make


async def test_a_control_plane_with_a_ca_of_its_own_is_served_over_tls(
    make_tls_agent, tls_plane, agent_id, manifest, tmp_path
):
    await (await make_tls_agent()).start()
    await tls_plane.wait_agent(agent_id)
    name = sid("t")
    await tls_plane.wait_command(await tls_plane.start_session(session_id=name, manifest=manifest()))
    trust = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    url = f"wss://localhost:{tls_plane.port}/api/v1/sessions/{name}/vnc"
    async with asyncio.timeout(60), connect(url, ssl=trust, subprotocols=["binary"]) as viewer:
        assert await viewer.recv() == b"RFB 003.008\n"
        sent, echo = b"RFB 003.008\n\x01\x01" + random.Random(1).randbytes(200_000), bytearray()
        await viewer.send(sent)
        while len(echo) < len(sent):
            echo += await viewer.recv()
    assert echo == sent


async def test_a_certificate_of_an_unknown_ca_is_not_trusted_and_the_log_names_the_setting(
    make_tls_agent, tls_plane, tmp_path
):
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    agent = await (await make_tls_agent(TLS_CA_FILE=str(tmp_path / "other.pem"))).start()
    await until(lambda: "the control plane's certificate is not trusted" in agent.log)
    assert "TLS_CA_FILE" in agent.log
    assert "Traceback" not in agent.log
    assert await tls_plane.agents() == []
    assert await agent.terminate() == 0


async def test_a_client_certificate_whose_name_is_the_agent_id_needs_no_key(
    make_tls_agent, tls_plane, agent_id, tmp_path
):
    mine = tls_plane.authority.issue_cert("agent@example.org", common_name=agent_id)
    mine.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    mine.private_key_pem.write_to_path(tmp_path / "key.pem")
    files = {"TLS_CERT_FILE": str(tmp_path / "cert.pem"), "TLS_KEY_FILE": str(tmp_path / "key.pem")}
    await (await make_tls_agent(AGENT_API_KEY="", **files)).start()
    await tls_plane.wait_agent(agent_id)
    assert (await tls_plane.events(type="register"))[0]["payload"]["by"] == "certificate"


async def test_a_client_certificate_of_another_name_ends_with_3(make_tls_agent, tls_plane, tmp_path):
    other = tls_plane.authority.issue_cert("agent@example.org", common_name="somebody-else")
    other.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    other.private_key_pem.write_to_path(tmp_path / "key.pem")
    files = {"TLS_CERT_FILE": str(tmp_path / "cert.pem"), "TLS_KEY_FILE": str(tmp_path / "key.pem")}
    agent = await (await make_tls_agent(AGENT_API_KEY="", **files)).start()
    assert await agent.wait() == 3
    assert "another agent" in agent.log


async def test_refused_for_good_raises_refused(plane, tmp_path):
    settings = config.load({"AGENT_ID": "abc", "CONTROL_PLANE_URL": plane.ws_url, "STATE_DIR": str(tmp_path)})
    with pytest.raises(Refused, match="AGENT_API_KEY is not set"):
        await Registrar(settings, Keys(settings, lambda _secret: None), Trust(settings), random.Random(1)).register(
            {}, {}
        )
