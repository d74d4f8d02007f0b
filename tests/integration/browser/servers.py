"""An agent whose session's VNC server lets nobody in: no such server is in the images."""

import base64

from tests.integration.browser.puppet import Puppet

GREETING = b"RFB 003.008\n"


class Server(Puppet):
    """Says `security` to each viewer that has told its version, and nothing more."""

    def __init__(self, plane, agent_id, session_id, security):
        super().__init__(plane, agent_id, obeys=False)
        self.session_id = session_id
        self.security = security
        self.viewers = 0

    async def __aenter__(self):
        await super().__aenter__()
        await self.runs(self.session_id)
        await self._greet()
        return self

    async def answer(self, kind, payload):
        if kind == "vnc_close":
            await self._greet()
        elif kind == "vnc_data" and base64.b64decode(payload["data"]) == GREETING:
            self.viewers += 1
            await self._vnc(self.security)

    async def _greet(self):
        await self.say("vnc_ready", sessionId=self.session_id, vncPort=5900, podName="c")
        await self._vnc(GREETING)

    async def _vnc(self, data):
        await self.say("vnc_data", sessionId=self.session_id, data=base64.b64encode(data).decode())
