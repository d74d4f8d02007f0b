"""Image references: what is one, which may be used, and what comes back of what a registry says."""

import pytest

from lab.loopback import served
from streamspace_agent.config import Settings
from streamspace_agent.errors import CommandFailed, ConfigError
from streamspace_runtime_docker.images.pull import explain
from streamspace_runtime_docker.images.references import Reference, allowed, checked, pattern, private
from streamspace_runtime_docker.settings import load

SECRET = "internal-service-says-this"


@pytest.mark.parametrize(
    ("image", "registry", "name"),
    [
        ("ubuntu", "docker.io", "library/ubuntu"),
        ("ubuntu:24.04", "docker.io", "library/ubuntu"),
        ("team/desk_top__x.y--z:V1.0_a", "docker.io", "team/desk_top__x.y--z"),
        ("lscr.io/linuxserver/firefox:latest", "lscr.io", "linuxserver/firefox"),
        ("localhost:5000/a", "localhost:5000", "a"),
        ("localhost/a", "localhost", "a"),
        ("10.0.0.1:5000/a/b/c:1", "10.0.0.1:5000", "a/b/c"),
        ("[fd00::1]:5000/a", "[fd00::1]:5000", "a"),
        ("ghcr.io/a@sha256:" + "0" * 64, "ghcr.io", "a"),
        ("ghcr.io/a:1@sha256:" + "0" * 64, "ghcr.io", "a"),
    ],
)
def test_a_reference_is_read_as_engines_read_it(image, registry, name):
    assert checked(image) == Reference(registry, name)


@pytest.mark.parametrize(
    "image",
    [
        "../../v1.41/containers/x/json?a=",
        "a/../b",
        "./a",
        "a//b",
        "/a",
        "a/",
        "A",
        "a:",
        "a:b:c",
        "a b",
        "a?x=1",
        "a#b",
        "a%2e",
        "http://h/a",
        "h:port/a",
        "h:999999/a",
        "-h.com/a",
        "[fd00::x]/a",
        "a@sha256:00",
        "a@",
        "user:pw@host.com/a",
        "a:" + "1" * 129,
        "a" * 600,
        "a\nb",
        "",
    ],
)
def test_what_is_none_is_refused(image):
    with pytest.raises(CommandFailed, match="invalid_image: .* is no image reference"):
        checked(image)


async def test_no_image_name_reaches_further_into_the_engines_api(make_driver, make_spec, odd, quiet):
    driver = make_driver(odd=odd)
    with pytest.raises(CommandFailed, match="invalid_image"):
        await driver.start(make_spec(image="../../v1.41/info?x="), quiet)
    assert not [request for request in odd.seen if "info?x" in request or ".." in request]


@pytest.mark.parametrize(
    ("entry", "image", "may"),
    [
        ("lscr.io", "lscr.io/linuxserver/firefox", True),
        ("lscr.io", "lscr.io.example.com/a", False),
        ("lscr.io/*", "lscr.io/a", True),
        ("ghcr.io/team/*", "ghcr.io/team/x/y:1", True),
        ("ghcr.io/team/*", "ghcr.io/teams/x", False),
        ("ghcr.io/team/x", "ghcr.io/team/x:7", True),
        ("ghcr.io/team/x", "ghcr.io/team/xy", False),
        ("ubuntu", "docker.io/library/ubuntu", True),
        ("docker.io/library/*", "ubuntu", True),
        ("team/*", "team/x", True),
        ("team/*", "ghcr.io/team/x", False),
        ("localhost:5000", "localhost:5000/a", True),
        ("localhost:5000", "localhost:5001/a", False),
    ],
)
def test_an_allowed_image_is_of_the_list(entry, image, may):
    assert allowed(checked(image), [pattern(entry)]) is may


def test_a_list_that_makes_no_sense_is_refused_and_none_allows_all(make_driver):
    with pytest.raises(ConfigError, match=r"ALLOWED_IMAGES.*http://x is no registry or image"):
        make_driver(environ={"ALLOWED_IMAGES": "lscr.io, http://x"})
    with pytest.raises(ConfigError, match="without a tag"):
        make_driver(environ={"ALLOWED_IMAGES": "ubuntu:24.04"})
    assert allowed(checked("x"), ())
    assert load(Settings(agent_id="agent-1", control_plane_url="ws://x"), {}).allowed_images == ()


async def test_an_image_that_is_not_allowed_is_not_used_even_where_the_engine_has_it(make_driver, spec, quiet, api):
    with pytest.raises(CommandFailed, match="image_not_allowed: .*ALLOWED_IMAGES is lscr.io/"):
        await make_driver(environ={"ALLOWED_IMAGES": "lscr.io"}).start(spec, quiet)
    assert (await make_driver(environ={"ALLOWED_IMAGES": "lscr.io,streamspace-lab/*"}).start(spec, quiet)).ready


@pytest.fixture
async def internal():
    """A service on loopback that is no registry. Yields its port."""

    async def talk(reader, writer):
        while await reader.readuntil(b"\r\n\r\n"):
            body = SECRET.encode()
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()

    async with served(talk) as port:
        yield port


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_what_an_internal_address_answers_is_not_passed_on(make_driver, make_spec, quiet, internal, host):
    with pytest.raises(CommandFailed, match="cannot pull") as failure:
        await make_driver().start(make_spec(image=f"{host}:{internal}/a:1"), quiet)
    assert SECRET not in str(failure.value)
    assert "403" not in str(failure.value).replace(str(internal), "")  # the port may contain it


async def test_what_a_registry_says_that_the_operator_has_named_is_passed_on(make_driver, make_spec, quiet, internal):
    driver = make_driver(environ={"ALLOWED_IMAGES": f"127.0.0.1:{internal}"})
    with pytest.raises(CommandFailed, match="403") as failure:
        await driver.start(make_spec(image=f"127.0.0.1:{internal}/a:1"), quiet)
    assert SECRET not in str(failure.value), "no registry's answer"


def test_of_an_answer_that_is_none_of_a_registrys_nothing_is_shown():
    """A public name may redirect to an internal address."""
    text = f'error parsing HTTP 403 response body: invalid character: "{SECRET}"'
    assert SECRET not in str(explain("example.com/x", text))


@pytest.mark.parametrize(
    ("registry", "is_private"),
    [
        ("127.0.0.1:5000", True),
        ("10.1.2.3", True),
        ("[::1]:5000", True),
        ("[fd00::1]", True),
        ("169.254.169.254", True),
        ("100.64.0.1", True),
        ("localhost", True),
        ("harbor", True),
        ("no-such-name.invalid", True),
        ("1.1.1.1", False),
        ("[2606:4700::1111]:443", False),
    ],
)
async def test_an_address_that_is_not_the_internets_is_private(registry, is_private):
    assert await private(registry) is is_private
