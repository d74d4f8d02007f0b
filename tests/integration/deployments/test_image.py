"""The image: built by the documented commands, and what a container of it may do and takes."""

import ast
import io
import os
import re
import subprocess
import sys
import tarfile
import time
import uuid
from pathlib import Path

import docker
import pytest

from lab import wheels
from lab.images import Images
from lab.until import until
from tests.integration.deployments import readme, scenario
from tests.integration.deployments.compose import call

pytestmark = pytest.mark.timeout(900)  # it fetches and builds all of the agent, on a machine that others use too

HA_FILE = "docker-compose.ha-file.yaml"
PROGRAMS = "pip pip3 gcc cc g++ make ld"
MIB = 1024 * 1024


@pytest.fixture
def public_base(engine, docker_host, docker_client):
    """As python:3.12-slim; how this machine's pip reaches its index is in this image, and goes with it."""
    with Images(docker_host, engine.state) as images:
        parent = images.ensure("pip")
    tag = f"streamspace-lab/test-{uuid.uuid4().hex[:10]}:base"
    files = {"Dockerfile": f"FROM {parent}\nCOPY etc /etc/\n", **settings_of_pip()}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    buffer.seek(0)
    base, _ = docker_client.images.build(fileobj=buffer, custom_context=True, tag=tag, rm=True)
    try:
        yield tag
    finally:
        remove_all_made_on(docker_client, base.id)


def settings_of_pip():
    """pip's settings here, in files for /etc; a folder of wheels is this machine's own and stays."""
    shown = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    ).stdout
    pairs = dict(re.findall(r"^(?:global|:env:)\.([\w-]+)=(.+)$", shown, re.MULTILINE))
    values = {name: ast.literal_eval(value) for name, value in pairs.items() if name != "find-links"}
    files = {}
    if "cert" in values:
        files["etc/pip-ca.pem"] = Path(values["cert"]).read_text()
        values["cert"] = "/etc/pip-ca.pem"
    lines = [f"{name} = {' '.join(str(value).split())}\n" for name, value in values.items()]
    return {**files, "etc/pip.conf": "".join(["[global]\n", *lines])}


def remove_all_made_on(client, base):
    """An image and what was built on it, the stages too, which have no name; the last first."""
    parents = {image["Id"]: image["ParentId"] for image in client.api.images(all=True)}
    made = [base]
    for one in made:
        made += [image for image, parent in parents.items() if parent == one]
    for image in reversed(made):
        try:
            client.api.remove_image(image, force=True, noprune=True)
        except docker.errors.ImageNotFound:
            continue


def run(client, image, *command, **options):
    return client.containers.run(image, list(command), remove=True, **options).decode()


async def test_docker_build_makes_the_image_from_an_index_at_the_pinned_versions(
    public_base, docker_client, docker_host, tmp_path
):
    tag = public_base.replace(":base", ":built")
    command = readme.command("docker build -t streamspace/docker-agent").replace("streamspace/docker-agent", tag)
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "DOCKER_HOST": docker_host}
    building = command.replace(" .", f" --build-arg BASE={public_base} .")
    said = await call("sh", "-ec", f"{building} 2>&1", environ=environ, cwd=wheels.ROOT, timeout=800)
    if sent := re.search(
        r"Sending build context to Docker daemon\s+([\d.]+)(kB|MB)", said
    ):  # BuildKit sends what it needs
        size = float(sent[1]) * {"kB": 1e3, "MB": 1e6}[sent[2]]
        sources = sum(path.stat().st_size for path in wheels.files())
        assert size < 2 * sources, said  # .dockerignore leaves .venv, the tests and the rest out

    assert run(docker_client, tag, "--version") == f"docker-agent {wheels.version()}\n"
    plugins = run(docker_client, tag, "plugins")
    assert all(name in plugins for name in ("file", "redis", "swarm", "docker", "gateway", "sessions")), plugins
    listing = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()))"
    installed = run(docker_client, tag, "-c", listing, entrypoint="/opt/streamspace/bin/python").split()
    pinned = {name(line) for line in (wheels.ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    own = {f"{path.name.replace('core', 'streamspace-agent')}=={wheels.version()}" for path in wheels.sources()}
    assert own <= {name(line) for line in installed} <= pinned | own
    wheel = "import importlib.metadata as m; print(m.distribution('streamspace-agent').read_text('WHEEL'))"
    built_by = run(docker_client, tag, "-c", wheel, entrypoint="/opt/streamspace/bin/python")
    assert "==".join(re.search(r"Generator: (setuptools) \((.+)\)", built_by).groups()) in pinned
    assert docker_client.images.get(tag).labels["org.opencontainers.image.version"] == wheels.version()
    assert "pip" in run(docker_client, public_base, "-c", "command -v pip", entrypoint="/bin/sh")
    assert tools_in(docker_client, tag) == []


def name(requirement):
    return requirement.strip().lower().replace("_", "-")


@pytest.fixture
def documented_tags(docker_client):
    """The tags of `make image`; afterwards each is what it was."""
    tags = [f"streamspace/docker-agent:{tag}" for tag in ("latest", wheels.version())]
    before = {tag: image for tag in tags for image in docker_client.images.list(name=tag)}
    yield tags
    for tag in tags:
        if tag in before:
            before[tag].tag(tag)
        elif docker_client.images.list(name=tag):
            docker_client.images.remove(tag, noprune=True)


async def test_make_image_names_the_image_as_the_files_do(documented_tags, docker_client, docker_host, built_image):
    environ = {**os.environ, "DOCKER_HOST": docker_host}
    await call("sh", "-ec", readme.command("make image"), environ=environ, cwd=wheels.ROOT, timeout=600)
    for tag in documented_tags:
        assert docker_client.images.get(tag).id == docker_client.images.get(built_image).id


def test_the_image_is_one_users_with_a_health_check_labels_and_no_build_tools(docker_client, built_image):
    image = docker_client.images.get(built_image)
    config = image.attrs["Config"]
    steps = image.history()  # the newest first
    first = next(
        index for index, step in enumerate(steps) if "groupadd" in step["CreatedBy"]
    )  # the Dockerfile's on BASE
    own = sum(step["Size"] for step in steps[: first + 1])
    print(f"image {image.attrs['Size'] / 1e6:.0f} MB, of which {own / 1e6:.0f} MB on its base")
    assert config["User"] == "streamspace"
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"] == ["CMD", "docker-agent", "healthcheck"]
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in config["Labels"].items()}
    assert labels["version"] == wheels.version()
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", labels["revision"])
    assert {"title", "description", "licenses", "vendor", "documentation", "source"} <= labels.keys()
    assert tools_in(docker_client, built_image) == []
    assert own < 40e6


def tools_in(client, image):
    """What could build or install something in it; it is asked as the image's own user."""
    probe = f"test $(id -u) = 10001 || exit; for name in {PROGRAMS}; do command -v $name; done; ls -d /wheels; exit 0"
    modules = "import importlib.util as u; print(*(n for n in ('pip', 'setuptools', 'ensurepip') if u.find_spec(n)))"
    found = run(client, image, "-c", probe, entrypoint="/bin/sh").split()
    found += run(client, image, "-c", modules, entrypoint="/opt/streamspace/bin/python").split()
    return found + run(client, image, "-c", modules, entrypoint="python3").split()


async def test_replicas_become_healthy_with_no_privilege_and_within_limits(compose, plane, agent_id, docker_client):
    project = compose(HA_FILE)
    async with scenario.led(plane, agent_id):
        await project.up()
    leader, _ = await project.leader()
    found = await until_health(project, {"healthy"})
    assert len(found) == 3
    for container in found:
        _, out = container.exec_run(["cat", "/proc/1/status", "/proc/1/cmdline"])
        status = dict(line.split(":\t", 1) for line in out.decode().splitlines() if ":\t" in line)
        assert b"/opt/streamspace/bin/docker-agent" in out  # the agent itself, nothing above it
        assert status["Uid"].split() == ["10001"] * 4
        assert status["Gid"].split() == ["10001"] * 4
        assert {status[name] for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {"0" * 16}
        assert int(status["CapBnd"], 16) == 1 << 6 | 1 << 7  # SETGID, SETUID: to become that user, and of no use to it
        assert status["NoNewPrivs"] == "1"
        config = container.attrs["HostConfig"]
        assert config["ReadonlyRootfs"]
        assert (config["Memory"], config["PidsLimit"], config["NanoCpus"]) == (512 * MIB, 512, 10**9)
        assert config["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "5"}}
        code, refused = container.exec_run(["touch", "/usr/written"])
        assert (code, b"Read-only" in refused) == (1, True)
    for container in found:
        memory = container.stats(stream=False)[
            "memory_stats"
        ]  # `docker stats` shows zeros where two seconds are not enough
        cached = memory["stats"].get("total_inactive_file", memory["stats"].get("inactive_file", 0))
        idle = (memory["usage"] - cached) / MIB
        print(f"idle {'leader' if container.id[:12] in leader else 'standby'}: {idle:.1f} MiB")
        assert 8 < idle < 64
    standby = next(container for container in found if container.id[:12] not in leader)
    standby.kill("STOP")
    began = time.monotonic()
    await until_health(project, {"healthy", "unhealthy"})
    print(f"frozen, unhealthy after {time.monotonic() - began:.0f} s")


async def until_health(project, wanted):
    """The containers, once their health is this."""

    def had():
        found = project.containers()
        return found if {container.attrs["State"]["Health"]["Status"] for container in found} == wanted else None

    return await until(had, project.logs, timeout=120, every=0.5)


def test_every_command_of_the_readme_for_the_image_was_run():
    assert readme.left_out(__name__) == []
