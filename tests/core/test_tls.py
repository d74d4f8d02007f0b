"""Files of a TLS connection that are renewed while the agent runs."""

import asyncio
import logging
import os
import ssl
import time

import pytest
import trustme

from lab.loopback import served
from streamspace_agent import config
from streamspace_agent.controlplane.keys import Keys
from streamspace_agent.controlplane.tls import Trust, certificate_hint, stamp
from streamspace_agent.errors import ConfigError


@pytest.fixture
def settings(tmp_path):
    """The agent's settings; `renew(authority)` writes its CA, and a client certificate of it."""

    def renew(authority):
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        mine = authority.issue_cert("agent@example.org", common_name="agent-1")
        mine.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
        mine.private_key_pem.write_to_path(tmp_path / "key.pem")

    def make():
        return config.load(
            {
                "AGENT_ID": "agent-1",
                "CONTROL_PLANE_URL": "wss://localhost",
                "STATE_DIR": str(tmp_path),
                "TLS_CA_FILE": str(tmp_path / "ca.pem"),
                "TLS_CERT_FILE": str(tmp_path / "cert.pem"),
                "TLS_KEY_FILE": str(tmp_path / "key.pem"),
            }
        )

    make.renew = renew
    return make


async def shakes_hands(authority, context):
    """Does a server of this authority, which asks for a certificate of its own, talk with that client?"""
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(theirs)
    authority.configure_trust(theirs)
    theirs.verify_mode = ssl.CERT_REQUIRED

    async def greet(reader, writer):
        writer.write(b"hello")
        await writer.drain()

    async with served(greet, theirs) as port:
        try:
            reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
            told = await reader.read(5)
            writer.transport.abort()
        except (ssl.SSLError, OSError):
            return False
        return told == b"hello"


async def test_renewed_files_are_used_from_the_next_connection_on(settings, caplog):
    caplog.set_level(logging.INFO)
    old, new = trustme.CA(), trustme.CA()
    settings.renew(old)
    trust = Trust(settings())
    assert trust.context() is trust.context()
    assert await shakes_hands(old, trust.context())
    assert not await shakes_hands(new, trust.context())
    settings.renew(new)
    assert await shakes_hands(new, trust.context())
    assert "TLS_CA_FILE, TLS_CERT_FILE, TLS_KEY_FILE: changed on disk, loaded again" in caplog.messages


async def test_files_that_are_only_half_written_leave_the_old_ones_in_use(settings, caplog, tmp_path):
    authority = trustme.CA()
    settings.renew(authority)
    trust = Trust(settings())
    whole = (tmp_path / "cert.pem").read_text()
    (tmp_path / "cert.pem").write_text(whole[:100])
    assert await shakes_hands(authority, trust.context())
    trust.context()
    (told,) = [m for m in caplog.messages if "cannot be used together" in m]
    assert told.endswith("the files loaded before stay in use")
    (tmp_path / "cert.pem").write_text(whole)
    assert await shakes_hands(authority, trust.context())


def test_files_that_cannot_be_used_at_the_start_end_it(settings, tmp_path):
    settings.renew(trustme.CA())
    (tmp_path / "key.pem").write_text("no key")
    with pytest.raises(ConfigError, match="TLS_CERT_FILE, TLS_KEY_FILE: cannot be used together"):
        Trust(settings())


def test_a_connection_that_ends_at_once_makes_one_look_after_the_certificate(settings):
    settings.renew(trustme.CA())
    error = ValueError("did not receive a valid HTTP response")
    error.__cause__ = EOFError("stream ends after 0 bytes, before end of line")
    assert "was TLS_CERT_FILE refused?" in certificate_hint(settings(), error)
    assert certificate_hint(settings(), OSError("no route to host")) == ""


def test_a_new_key_in_the_key_file_is_used_from_the_next_look_on(tmp_path):
    file = tmp_path / "key"
    file.write_text("a" * 64)
    settings = config.load(
        {"AGENT_ID": "abc", "CONTROL_PLANE_URL": "ws://h", "STATE_DIR": str(tmp_path), "AGENT_API_KEY_FILE": str(file)}
    )
    hidden = []
    keys = Keys(settings, hidden.append, file)
    file.write_text("b" * 64 + "\n")
    keys.look()
    assert keys.current == "b" * 64
    assert "b" * 64 in hidden
    file.write_text("two\nlines")
    keys.look()
    file.unlink()
    keys.look()
    assert keys.current == "b" * 64


def test_a_file_that_looks_the_same_by_size_and_time_is_loaded_again_all_the_same(tmp_path):
    """As one that was not to be read when it was looked at, and is now."""
    file = tmp_path / "key"
    file.write_text("a" * 64)
    written = file.stat()
    before = stamp(file)
    time.sleep(0.02)
    file.write_text("b" * 64)
    os.utime(file, ns=(written.st_atime_ns, written.st_mtime_ns))
    assert stamp(file) != before
    time.sleep(0.02)
    before = stamp(file)
    file.chmod(0o640)
    assert stamp(file) != before
