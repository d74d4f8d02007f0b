"""A stack and all that it made is taken away by the documented commands, pasted as they stand there."""

import asyncio

import pytest

from tests.integration.deployments import readme, scenario, stack


@pytest.mark.timeout(300)
async def test_a_stack_is_removed_by_two_pasted_blocks_and_the_leader_says_first_what_it_did(
    swarm, manager, plane, agent_id, key, manifest, tmp_path
):
    swarm.environ["AGENT_REPLICAS"] = "1"
    async with scenario.led(plane, agent_id):
        await stack.deploy(swarm, tmp_path, key)
    await scenario.start(plane, manifest, f"{agent_id}-a")
    stubborn = await plane.start_session(session_id=f"{agent_id}-b", manifest=manifest(MODE="stubborn"))
    await plane.wait_command(stubborn, timeout=60)
    under_way = await plane.stop_session(f"{agent_id}-b")  # takes STOP_TIMEOUT, for the session does not end when asked
    await plane.wait_command(under_way, "ack", timeout=30)
    once, of_each_node = readme.block("docker config rm"), readme.block("agent-state")
    await swarm(f"set -e\n{once}".replace("docker-agent-prod", agent_id))
    assert (await plane.command(under_way))["state"] == "completed"
    for _ in range(2):  # where nothing is left, that is no error
        await swarm(f"set -e\n{of_each_node}".replace("docker-agent-prod", agent_id))
    assert await asyncio.to_thread(manager.api.containers, all=True) == []
    assert [volume["Name"] for volume in manager.api.volumes()["Volumes"] or []] == []
    assert not [name for network in manager.api.networks() if agent_id in (name := network["Name"])]
    assert manager.configs.list() == manager.secrets.list() == manager.services.list() == []


def test_every_command_of_the_readme_for_the_removal_of_a_stack_was_run():
    assert readme.left_out(__name__) == []
