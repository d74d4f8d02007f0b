#!/bin/sh
# What the session does, by MODE, on PORT (5900), from DELAY (0) seconds after its start:
#   vnc       (default) greets each connection like a VNC server, then echoes every byte
#   blast     greets, then sends MEGABYTES (256) of zeros and closes
#   sink      greets, reads MEGABYTES (256) and says "done"
#   pour      greets, then sends MEGABYTES (256) of random bytes, behind them their SHA-256
#   swallow   greets, reads MEGABYTES (256) and answers with their SHA-256
#   http      answers every GET with 200
#   changes   as vnc in the container's first run, as http in every later one
#   crash     as vnc; after AFTER (1) seconds writes to stderr and exits with EXIT_CODE (3)
#   oom       as vnc; after AFTER (1) seconds takes memory until killed (or 1 GiB: set a limit below that)
#   hang      never opens the port
#   stubborn  as vnc; ignores SIGTERM
: "${MODE:=vnc}" "${PORT:=5900}" "${DELAY:=0}" "${AFTER:=1}" "${EXIT_CODE:=3}" "${MEGABYTES:=256}"

if [ "${1:-}" = connection ]; then
  printf 'RFB 003.008\n'
  case $MODE in
    sink)
      dd of=/dev/null bs=64k iflag=fullblock count=$((MEGABYTES * 16)) 2>/dev/null
      exec printf done
      ;;
    pour)
      mkfifo "/tmp/$$"
      sha256sum <"/tmp/$$" >"/tmp/$$.sum" &
      dd if=/dev/urandom bs=64k iflag=fullblock count=$((MEGABYTES * 16)) 2>/dev/null | tee "/tmp/$$"
      wait
      head -c 64 "/tmp/$$.sum"
      exec cat >/dev/null # what a closed connection has not read costs its last words
      ;;
    swallow)
      dd bs=64k iflag=fullblock count=$((MEGABYTES * 16)) 2>/dev/null | sha256sum | head -c 64
      exit
      ;;
    blast) exec dd if=/dev/zero bs=64k count=$((MEGABYTES * 16)) ;;
    *) exec cat ;;
  esac
fi

# A shell that is PID 1 acts on a signal only where a trap says so, and only once its child has returned or in `wait`.
trap 'kill $!; exit 0' TERM INT
[ "$MODE" = stubborn ] && trap '' TERM
later() { sleep "$AFTER" & wait $!; }

if [ "$MODE" = changes ]; then
  MODE=vnc
  [ -e /tmp/ran ] && MODE=http
  touch /tmp/ran
fi

sleep "$DELAY" & wait $!
echo "session: $MODE on port $PORT"
case $MODE in
  hang) sleep infinity & ;;
  http) httpd -f -p "$PORT" -h /www & ;;
  *) nc -ll -p "$PORT" -e /session.sh connection & ;;
esac
case $MODE in
  crash)
    later
    echo 'session: cannot open display' >&2
    echo 'session: giving up' >&2
    exit "$EXIT_CODE"
    ;;
  oom)
    later
    exec awk 'BEGIN { for (s = "12345678"; length(s) < 1073741824; s = s s); exit 4 }'
    ;;
esac
wait
