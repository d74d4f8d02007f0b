"""Messages to systemd (sd_notify(3)): ready, status, watchdog, stopping. Without ``NOTIFY_SOCKET`` none is sent."""

import socket
from collections.abc import Mapping
from contextlib import suppress


class Notifier:
    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # A leading @ means the abstract namespace.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog = environ.get("WATCHDOG_USEC", "")

    @property
    def watchdog_every(self) -> float | None:
        """Seconds between two :meth:`watchdog` calls: half of systemd's limit. None if its watchdog is off."""
        usec = int(self._watchdog) if self._watchdog.isdigit() and self._address else 0
        return usec / 2e6 if usec else None

    def ready(self) -> None:
        self._send("READY=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """Set the line that ``systemctl status`` shows."""
        self._send("STATUS=" + " ".join(text.split()))

    def _send(self, message: str) -> None:
        if not self._address:
            return
        # Neither a missing manager nor a full queue may stop or delay the agent.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            sender.sendto(message.encode(), self._address)
