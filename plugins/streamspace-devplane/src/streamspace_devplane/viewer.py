"""A viewer's WebSocket as a stream of RFB bytes, whichever kind of relay is at the other end."""

import binascii
from typing import Any

import pybase64
from websockets.asyncio.client import ClientConnection


class ViewerConnection(ClientConnection):
    """`recv`, `send` and iteration are of bytes.

    The deployed relay carries base64 in text frames, a repaired one bytes in binary frames. Servers of RFB speak first,
    so the first frame that comes says which of them it is; what is sent before goes out as bytes.
    """

    as_text = False

    async def recv(self, decode: bool | None = None) -> bytes:  # type: ignore[override]  # noqa: ARG002 - always bytes
        """The next bytes that came; never none, for a relay may pass on empty messages too."""
        while True:
            message = await super().recv()
            if isinstance(message, str):
                self.as_text = True
                try:
                    message = pybase64.b64decode(message, validate=True)
                except binascii.Error:
                    continue  # an agent sent it so, and no viewer could read it
            if message:
                return message

    async def send(self, message: Any, **options: Any) -> None:
        if self.as_text and isinstance(message, bytes | bytearray | memoryview):
            message = pybase64.b64encode_as_string(message)
        await super().send(message, **options)
