"""Repairs the networks that a session's container is attached to before it starts again.

A stopped container refers to its networks by id: one that was removed meanwhile, or created anew under its name, keeps
the container from ever starting. And a session belongs on ``NETWORK_NAME`` as it is set now.
"""

from contextlib import suppress

from streamspace_agent.config import Settings
from streamspace_agent.errors import CommandFailed
from streamspace_engine import Engine
from streamspace_engine.errors import Conflict, EngineError, NotFound
from streamspace_runtime_docker.containers import labels
from streamspace_runtime_docker.containers.info import ContainerInfo
from streamspace_runtime_docker.networks.network import SessionNetwork


class Attachments:
    def __init__(self, engine: Engine, networks: SessionNetwork, settings: Settings) -> None:
        self._engine = engine
        self._networks = networks
        self._name = settings.network_name

    async def repair(self, found: ContainerInfo, *, anew: bool = False) -> None:
        """Attach a stopped container to the sessions' network, and detach it from stale ones. Raises CommandFailed.

        Networks that an operator attached and that still exist stay. With ``anew`` the network is looked up again.
        """
        if anew:
            self._networks.forget()
        wanted = (await self._networks.ensure()).id
        here = found.networks.get(self._name)
        right = here is not None and here in {"", wanted}
        try:
            for name, network in found.networks.items():
                if name != self._name and (name == found.network_mode or await self._is_stale(network)):
                    await self._detach(found, name)
            if not right:
                if here is not None:
                    await self._detach(found, self._name)
                await self._engine.post(f"/networks/{self._name}/connect", {"Container": found.id})
        except EngineError as error:
            raise CommandFailed(
                "network_failed", f"cannot attach the session to the network {self._name}: {error.text}"
            ) from error

    async def repair_refused(self, found: ContainerInfo, refusal: str) -> None:
        """Repair the networks after the engine refused a start because of them, and what the refusal names.

        Engines from 28 do not start a container while the network that it was created for is gone, whatever it is
        attached to now. Its substitute is a leftover at once, and created again at the next wake.
        """
        await self.repair(found, anew=True)
        if "network mode" in refusal:
            await self._networks.create(found.network_mode)

    async def _is_stale(self, network: str) -> bool:
        """Is it gone, or a network of sessions under an earlier NETWORK_NAME?"""
        body = await self._engine.find(f"/networks/{network}") if network else {}
        return body is None or (body.get("Labels") or {}).get(labels.APP) == labels.STREAMSPACE

    async def _detach(self, found: ContainerInfo, name: str) -> None:
        with suppress(NotFound, Conflict):  # it is not attached any more
            await self._engine.post(f"/networks/{name}/disconnect", {"Container": found.id, "Force": True})
