"""The bare end of a WebSocket, in a process of its own: echoes each message, or below /sink says "done" after so many
bytes."""

import asyncio
import sys

from websockets.asyncio.server import serve


async def main(port, size):
    async def end(viewer):
        if viewer.request.path != "/sink":
            async for message in viewer:
                await viewer.send(message)
            return
        got = 0
        while got < size:
            got += len(await viewer.recv())
        await viewer.send(b"done")

    async with serve(end, "127.0.0.1", port, compression=None, max_size=None) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
