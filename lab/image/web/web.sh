#!/bin/sh
# Settings: WEB_PORT (3000), and those of the desktop. CERTIFICATE=1: HTTPS only, with a certificate of its own.
set -- --web /usr/share/novnc "${WEB_PORT:-3000}" localhost:5900
if [ -n "$CERTIFICATE" ]; then
  openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=desktop -keyout /tmp/key.pem -out /tmp/cert.pem 2>/dev/null
  set -- --cert /tmp/cert.pem --key /tmp/key.pem --ssl-only "$@"
fi
websockify "$@" &
web=$!
# All people come from websockify's address: six of them in their handshake at once would be taken for somebody who guesses passwords.
VNC_OPTIONS="-UseBlacklist=0" /usr/local/bin/entrypoint.sh &
desktop=$!
trap 'kill "$web" "$desktop"; wait "$desktop"; exit 0' TERM INT
wait "$desktop"
kill "$web"
