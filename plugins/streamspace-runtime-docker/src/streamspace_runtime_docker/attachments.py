"""The networks that a session's container is attached to, mended before it starts again.

A container that does not run holds on to its networks by their ids: one that was removed meanwhile, or made anew under its
name, keeps it from starting for ever. And a session belongs on ``NETWORK_NAME`` as it is set now.
"""

from contextlib import suppress

from streamspace_agent.config import Settings
from streamspace_agent.errors import CommandFailed
from streamspace_engine import Engine
from streamspace_engine.errors import Conflict, EngineError, NotFound
from streamspace_runtime_docker import labels
from streamspace_runtime_docker.found import Found
from streamspace_runtime_docker.networks import Networks


class Attachments:
    def __init__(self, engine: Engine, networks: Networks, settings: Settings) -> None:
        self._engine = engine
        self._networks = networks
        self._name = settings.network_name

    async def mend(self, found: Found, *, anew: bool = False) -> None:
        """Attach a container that does not run to the sessions' network, and to no other but those that an operator gave it and
        that are still there. With ``anew`` nothing counts that was known of networks. Raises CommandFailed.
        """
        if anew:
            self._networks.forget()
        wanted = (await self._networks.ensure()).id
        here = found.networks.get(self._name)
        right = here is not None and here in {"", wanted}
        try:
            for name, network in found.networks.items():
                if name != self._name and (name == found.network_mode or await self._outlived(network)):
                    await self._detach(found, name)
            if not right:
                if here is not None:
                    await self._detach(found, self._name)
                await self._engine.post(f"/networks/{self._name}/connect", {"Container": found.id})
        except EngineError as error:
            raise CommandFailed(
                "network_failed", f"cannot attach the session to the network {self._name}: {error.text}"
            ) from error

    async def allow_start(self, found: Found, refusal: str) -> None:
        """After an engine refused to start a container for its networks: mend them, and what the refusal names."""
        await self.mend(found, anew=True)
        if "network mode" in refusal:
            await self._networks.stand_in(found.network_mode)

    async def _outlived(self, network: str) -> bool:
        """Is it gone, or the sessions' network of another time?"""
        try:
            body = await self._engine.get(f"/networks/{network}") if network else {}
        except NotFound:
            return True
        return (body.get("Labels") or {}).get(labels.APP) == labels.STREAMSPACE

    async def _detach(self, found: Found, name: str) -> None:
        with suppress(NotFound, Conflict):  # it is not attached any more
            await self._engine.post(f"/networks/{name}/disconnect", {"Container": found.id, "Force": True})
