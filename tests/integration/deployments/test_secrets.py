"""Keys and passwords go by file, and show nowhere; a Redis of the operator's own beside the Compose file's."""

import json
import secrets

import httpx
import pytest

from lab import process
from lab.redis import RedisServer
from lab.until import until
from tests.integration.deployments import readme, scenario
from tests.integration.deployments.compose import call

pytestmark = pytest.mark.timeout(400)  # the first of a run builds the image

REDIS = "docker-compose.ha-redis.yaml"


async def shown(project, image):
    """All that Docker tells of the project's containers and of the image, and all that they have logged."""
    found = [*project.containers(), *project.containers("redis")]
    assert len(found) >= 2
    texts = [json.dumps(container.attrs) for container in found]
    texts += [container.logs().decode() for container in found]
    for question in ("history --no-trunc", "image inspect"):
        texts.append(await call("sh", "-ec", f"docker {question} {image}", environ=project.environ))
    return "\n".join(texts)


@pytest.mark.parametrize("played", [{"hand_out_keys": True}])
async def test_neither_keys_nor_the_bundled_redis_password_show_in_docker_or_a_log(
    compose, plane, agent_id, redis_image, built_image, hand_over
):
    key = await plane.bootstrap_key()
    hand_over("key", key)
    async with httpx.AsyncClient(base_url=plane.url, trust_env=False) as http:  # so that it can be approved beforehand
        body = {"agentId": agent_id, "platform": "docker"}
        answer = await http.post("/api/v1/agents/register", json=body, headers={"X-Agent-API-Key": key})
        assert answer.status_code == 202
    await plane.approve(agent_id)
    project = compose(REDIS, REDIS_IMAGE=redis_image, REDIS_PORT=str(process.free_port()), LOG_LEVEL="debug")
    async with scenario.led(plane, agent_id):
        await project.up()
    (redis,) = project.containers("redis")
    password = redis.exec_run(["cat", "/data/password"])[1].decode()
    assert len(password) == 64
    kept = f"/var/lib/streamspace/{agent_id}/api-key"
    code, issued = project.containers()[0].exec_run(["cat", kept], user="streamspace")
    assert (code, len(issued)) == (0, 64)
    said = await shown(project, built_image)
    assert agent_id in said
    assert key not in said
    assert password not in said
    assert issued.decode() not in said


async def test_a_redis_of_ones_own_may_have_the_bundled_ones_port_and_its_password_shows_nowhere(
    compose, plane, agent_id, key, redis_image, built_image, hand_over
):
    password = secrets.token_hex(16)
    with RedisServer(password=password) as first, RedisServer() as second:
        url = hand_over("redis-url", first.url)
        project = compose(REDIS, REDIS_IMAGE=redis_image, REDIS_PORT=str(first.port), REDIS_URL_FILE=url)
        async with scenario.led(plane, agent_id):
            await project.documented(readme.without_exports(readme.block("--scale docker-agent=5")))
        leader, _ = await project.leader()
        assert len(project.containers()) == 5
        (stands_by,) = project.containers("redis")
        programs = [name for _, name in stands_by.top(ps_args="-eo pid,comm")["Processes"]]
        assert "sleep" in programs
        assert "redis-server" not in programs

        async def asked(what, server):
            line = readme.command("redis-cli -h", what).replace("redis.example.com", f"127.0.0.1 -p {server.port}")
            environ = {**project.environ, **({"REDISCLI_AUTH": server.password} if server.password else {})}
            return (await project.documented(line, environ=environ)).strip().strip('"')

        assert await asked("GET", first) == leader
        assert 0 < int((await asked("TTL", first)).split()[-1]) <= 5
        said = await shown(project, built_image)
        assert key not in said
        assert password not in said

        # Another Redis, by its URL, which is no secret: all replicas go over to it.
        project.environ |= {"REDIS_URL_FILE": "", "REDIS_URL": second.url}
        await project.documented(f"cd compose\n{readme.command('--force-recreate')}")
        successor = await until(lambda: asked("GET", second), project.logs, every=0.1)
        assert (await project.leader(besides=leader))[0] == successor


def test_every_command_of_the_readme_for_a_redis_of_ones_own_was_run():
    assert readme.left_out(__name__) == []
