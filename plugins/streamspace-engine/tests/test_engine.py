"""Calls: what is sent, what is raised, what a cancelled one leaves behind."""

import asyncio
import ssl
import subprocess
import sys

import pytest
import trustme

from streamspace_agent.errors import EngineUnavailable, LeaseLost, RuntimeDriverError
from streamspace_engine.errors import Conflict, EngineError, Forbidden, NotFound, Unreachable, refusal

HOST = "unix:///run/docker.sock"


def answer(body):
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


async def test_calls_reach_a_real_engine_and_its_refusals_have_names(make_engine, run_label):
    engine = make_engine()
    name = f"{run_label}-volume"
    assert (await engine.get("/info"))["NCPU"] == await engine.cores()
    await engine.post("/volumes/create", {"Name": name, "Labels": {"a": run_label}})
    try:
        found = await engine.get("/volumes", {"filters": {"label": [f"a={run_label}"]}})
        assert [volume["Name"] for volume in found["Volumes"]] == [name]
    finally:
        await engine.delete(f"/volumes/{name}", {"force": True})
    with pytest.raises(NotFound, match="no such volume"):
        await engine.get(f"/volumes/{name}")


async def test_a_cancelled_call_closes_its_connection_at_once_and_frees_its_place(make_engine, play):
    arrived, closed = asyncio.Event(), asyncio.Event()

    async def hang(reader, writer):
        arrived.set()
        await reader.read()
        closed.set()

    async with play(hang) as (host, _):
        engine = make_engine(host, concurrency=1)
        call = asyncio.create_task(engine.post("/containers/c/start"))
        async with asyncio.timeout(10):
            await arrived.wait()
            call.cancel()
            await asyncio.wait([call])
            await closed.wait()
            assert (await engine.version())["ApiVersion"] == "1.41", "the place of the only call is free again"


async def test_a_call_that_is_cancelled_just_as_its_answer_comes_says_nothing_in_the_log(make_engine, tmp_path):
    loop, complaints, calls = asyncio.get_running_loop(), [], []
    loop.set_exception_handler(lambda _, context: complaints.append(context["message"]))

    async def serve(reader, writer):
        while head := await reader.read(4096):
            if b"/version" in head:
                writer.write(answer(b'{"ApiVersion": "1.41"}'))
                continue
            await asyncio.sleep(0.05)  # until the call waits for it
            writer.write(answer(b"[]"))  # sent at once; the loop sees it together with:
            loop.call_soon(calls[-1].cancel)
        writer.close()

    async with await asyncio.start_unix_server(serve, tmp_path / "docker.sock"):
        engine = make_engine(f"unix://{tmp_path}/docker.sock")
        for _ in range(5):
            calls.append(asyncio.create_task(engine.get("/containers/json")))
            await asyncio.wait(calls)
        await engine.aclose()
    assert all(call.cancelled() for call in calls)
    assert complaints == []


async def test_the_version_is_asked_for_once_however_many_calls_wait_for_it(make_engine, play):
    async def serve(reader, writer):
        writer.write(answer(b"[]"))

    async with play(serve, api="1.45") as (host, played):
        engine = make_engine(host)
        assert await asyncio.gather(*(engine.get("/containers/json") for _ in range(5))) == [[]] * 5
    assert played.requests.count("GET /version") == 1
    assert played.requests.count("GET /v1.45/containers/json") == 5


async def test_connections_are_used_again(make_engine, play):
    async def serve(reader, writer):
        writer.write(answer(b"{}"))

    async with play(serve) as (host, played):
        engine = make_engine(host)
        for _ in range(5):
            await engine.get("/info")
    assert played.connections == 1


async def test_an_engine_that_is_too_old_is_refused_with_what_to_do(make_engine, play):
    async with play(None, api="1.40") as (host, _):
        with pytest.raises(RuntimeDriverError, match=r"speaks API 1\.40, 1\.41 is needed: update the engine to"):
            await make_engine(host).get("/info")


async def test_without_the_lease_a_change_is_not_sent_and_a_look_is(make_engine, odd):
    def lost():
        raise LeaseLost("somebody else leads")

    engine = make_engine(odd.host, require_lease=lost)
    for change in (
        engine.post("/networks/prune"),
        engine.delete("/volumes/v"),
        engine.put("/containers/c/archive", b""),
    ):
        with pytest.raises(LeaseLost):
            await change
    with pytest.raises(LeaseLost):
        async with engine.stream("POST", "/images/create", silence=5):
            pass
    await engine.get("/containers/json", {"all": True})
    assert odd.seen == ["GET /version", "GET /containers/json?all=1"]


async def test_the_lease_is_asked_for_after_a_connection_was_waited_for(make_engine, play):
    """Connecting may take as long as a lease lasts."""
    holds = True

    def require():
        if not holds:
            raise LeaseLost("somebody else leads")

    async with play(None) as (host, played):
        engine = make_engine(host, require_lease=require)
        await engine.api_version()
        change = asyncio.create_task(engine.post("/containers/c/start"))
        await asyncio.sleep(0)  # it has begun, and has no connection yet
        holds = False
        with pytest.raises(LeaseLost):
            await change
    assert played.requests == ["GET /version"]


@pytest.mark.parametrize(
    "reply",
    [answer(b"<html>"), b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", b"SSH-2.0-OpenSSH\r\n\r\n", b""],
    ids=["not JSON", "cut", "not HTTP", "closed"],
)
async def test_an_answer_that_is_none_counts_as_no_answer(make_engine, play, reply):
    async def serve(reader, writer):
        writer.write(reply)
        writer.close()

    async with play(serve) as (host, _):
        with pytest.raises(EngineUnavailable):
            await make_engine(host).get("/info")


async def test_podmans_plain_ok_is_an_answer_without_content(make_engine, play):
    async def serve(reader, writer):
        await reader.readuntil(b"}")
        writer.write(answer(b"OK\n"))

    async with play(serve) as (host, _):
        assert await make_engine(host).post("/networks/n/disconnect", {"Container": "c"}) == {}


async def test_something_else_than_an_engine_is_told(make_engine, play):
    async with play(None, api="") as (host, _):
        with pytest.raises(EngineUnavailable, match=f"DOCKER_HOST={host} tells no API version"):
            await make_engine(host).get("/info")


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (404, "No such container: x", NotFound),
        (404, "page not found", EngineError),
        (409, "Conflict. The name is in use", Conflict),
        (500, "the container name is already in use", Conflict),
        (500, "rpc error: code = Unknown desc = update out of sequence", Conflict),
        (403, "forbidden by the proxy", Forbidden),
        (401, "authorization denied", Forbidden),
        (500, "no space left on device", EngineError),
        (503, "This node is not a swarm manager", EngineUnavailable),
    ],
)
def test_each_status_has_one_error(status, text, kind):
    assert type(refusal(status, text, HOST)) is kind


def test_a_refusal_is_one_line_of_bounded_length():
    text = str(refusal(500, "a\n b" * 10_000, HOST))
    assert "\n" not in text
    assert len(text) < 4100


@pytest.fixture
def authority():
    return trustme.CA()


@pytest.fixture
def certificates(authority, tmp_path):
    mine = authority.issue_cert("agent@example.org")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    mine.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    mine.private_key_pem.write_to_path(tmp_path / "key.pem")
    return str(tmp_path)


def server_context(issuer, clients):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    issuer.issue_cert("127.0.0.1").configure_cert(context)
    clients.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.mark.parametrize("verify", ["1", ""])
async def test_an_engine_behind_tls_is_shown_our_certificate_and_its_own_is_verified_when_asked(
    make_engine, play, authority, certificates, verify
):
    async def serve(reader, writer):
        writer.write(answer(b'{"ID": "tls"}'))

    environ = {"DOCKER_CERT_PATH": certificates, "DOCKER_TLS_VERIFY": verify}
    stranger = trustme.CA()
    async with play(serve, tls=server_context(authority, authority)) as (host, _):
        assert await make_engine(host, environ).get("/info") == {"ID": "tls"}
    async with play(serve, tls=server_context(stranger, authority)) as (host, _):
        engine = make_engine(host, environ)
        if not verify:
            assert await engine.get("/info") == {"ID": "tls"}
            return
        with pytest.raises(Unreachable, match="its certificate is not trusted"):
            await engine.get("/info")


async def test_a_remote_engine_is_reached_through_the_proxy_unless_no_proxy_names_it(make_engine, play, monkeypatch):
    async def serve(reader, writer):
        writer.write(answer(b"{}"))

    async with play(serve) as (host, proxy), play(serve) as (near, direct):
        monkeypatch.setenv("http_proxy", host.replace("tcp", "http"))
        monkeypatch.setenv("no_proxy", near.removeprefix("tcp://"))
        await make_engine("tcp://engine.invalid:2375").get("/info")
        await make_engine(near).get("/info")
    assert proxy.requests == [
        "GET http://engine.invalid:2375/version",
        "GET http://engine.invalid:2375/v1.41/info",
    ]
    assert direct.requests == ["GET /version", "GET /v1.41/info"]


def test_calls_load_no_sdk(docker_host):
    """It costs memory, and a standby of the Swarm election makes calls all the time."""
    program = (
        "import asyncio, sys; from streamspace_engine import Engine\n"
        "async def main():\n engine = Engine(sys.argv[1], {}); await engine.get('/info'); await engine.aclose()\n"
        "asyncio.run(main()); print([name for name in ('docker', 'requests') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, docker_host], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
