#!/bin/sh
# Settings: GEOMETRY (1280x800), PORT (5900), VNC_OPTIONS (more of them for Xvnc).
export HOME=/home/user DISPLAY=:0 XAPPLRESDIR=/usr/local/share/desktop
rm -f /tmp/.X0-lock /tmp/.X11-unix/X0 # left over when the container was stopped hard; X refuses to start over them

Xvnc :0 -SecurityTypes None -AlwaysShared -rfbport "${PORT:-5900}" -geometry "${GEOMETRY:-1280x800}" -depth 24 $VNC_OPTIONS &
server=$!
trap 'kill "$server"; wait "$server"; exit 0' TERM INT
until [ -S /tmp/.X11-unix/X0 ] || ! kill -0 "$server"; do sleep 0.05; done
xwallpaper --stretch "$XAPPLRESDIR/wallpaper.xpm"
openbox --startup xterm & # a window that comes while the manager starts may never be shown
wait "$server"
