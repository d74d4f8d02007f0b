"""Speaks what SPEAKS names, a word and a port for each server: `web:3000 rfb:5900`. With Debian's python3-minimal.

rfb        greets like a server of VNC, then sends every byte back
slow-rfb   the same, its greeting LATE (3) seconds after the connection
full-rfb   as TigerVNC refuses a host that connected too often without a login
web        answers every request with 200, and never speaks first
starting   the same; in the first LATE seconds with 502, as a proxy whose desktop is not up yet
healthy    200 for the path in HEALTH (/health), 503 for every other
kasmvnc    HTTP inside TLS only, with a certificate of its own, and 401: as KasmVNC does
mute       takes connections and says nothing
closing    waits to be spoken to, then closes
bulk       as much as the path names (/1000000) as fast as it is taken; after an upgrade it sends every byte back
"""

import contextlib
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable

Talk = Callable[[socket.socket], None]
LATE = float(os.environ.get("LATE", "3"))
HEALTH = os.environ.get("HEALTH", "/health")
BEGUN = time.monotonic()
ZEROS = memoryview(bytes(1 << 20))
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
TLS.load_cert_chain("/etc/desktop.crt", "/etc/desktop.key")


def asked(connection: socket.socket) -> str:
    """The path of a request."""
    head = b""
    while b"\r\n\r\n" not in head and (piece := connection.recv(4096)):
        head += piece
    return head.split()[1].decode() if head else ""


def answer(connection: socket.socket, status: bytes) -> None:
    body = b"a web desktop\n"
    connection.sendall(b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, len(body)) + body)


def rfb(connection: socket.socket) -> None:
    connection.sendall(b"RFB 003.008\n")
    while piece := connection.recv(4096):
        connection.sendall(piece)


def slow_rfb(connection: socket.socket) -> None:
    time.sleep(LATE)
    rfb(connection)


def full_rfb(connection: socket.socket) -> None:
    why = b"Too many security failures"
    connection.sendall(b"RFB 003.003\n" + bytes(4) + len(why).to_bytes(4, "big") + why)


def web(connection: socket.socket) -> None:
    if asked(connection):
        answer(connection, b"200 OK")


def starting(connection: socket.socket) -> None:
    if asked(connection):
        answer(connection, b"502 Bad Gateway" if time.monotonic() < BEGUN + LATE else b"200 OK")


def healthy(connection: socket.socket) -> None:
    answer(connection, b"200 OK" if asked(connection) == HEALTH else b"503 Service Unavailable")


def kasmvnc(connection: socket.socket) -> None:
    with TLS.wrap_socket(connection, server_side=True) as encrypted:
        if asked(encrypted):
            answer(encrypted, b"401 Unauthorized")


def mute(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


def closing(connection: socket.socket) -> None:
    connection.recv(1)


def bulk(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while path := asked(connection):
        if path == "/echo":
            connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            while piece := connection.recv(65536):
                connection.sendall(piece)
            return
        left = int(path[1:] or 0)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % left)
        while left:
            left -= connection.send(ZEROS[:left])


TALKS: dict[str, Talk] = {
    "rfb": rfb,
    "slow-rfb": slow_rfb,
    "full-rfb": full_rfb,
    "web": web,
    "starting": starting,
    "healthy": healthy,
    "kasmvnc": kasmvnc,
    "mute": mute,
    "closing": closing,
    "bulk": bulk,
}


def serve(talk: Talk, connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError, IndexError):
        talk(connection)


def listen(talk: Talk, server: socket.socket) -> None:
    while True:
        connection, _ = server.accept()
        threading.Thread(target=serve, args=(talk, connection), daemon=True).start()


for word in os.environ["SPEAKS"].split():
    kind, _, port = word.partition(":")
    server = socket.create_server(("", int(port)))
    print(f"session: {word}", flush=True)
    threading.Thread(target=listen, args=(TALKS[kind], server), daemon=True).start()
signal.sigwait({signal.SIGTERM, signal.SIGINT})
