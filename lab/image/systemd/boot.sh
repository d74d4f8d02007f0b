#!/bin/sh
set -e
# As on a real host, where systemd does it itself: without it no unit sees its credentials.
mount --make-rshared /
# systemd mounts the cgroup controllers (v1) that the machine has and nobody has mounted yet. Every process of the machine would be in them,
# and containerd, which does not see where they are, would lose sight of its containers' memory. So their places are taken.
if [ "$(stat -f -c %T /sys/fs/cgroup)" = tmpfs ]; then
  while read -r name hierarchy _; do
    [ "$hierarchy" = 0 ] || continue
    case $name in net_cls | net_prio) name=net_cls,net_prio ;; esac
    place=/sys/fs/cgroup/$name
    [ -d "$place" ] || mount -o remount,rw /sys/fs/cgroup
    mkdir -p "$place"
    mountpoint -q "$place" || mount -t tmpfs -o ro,size=4k none "$place"
  done </proc/cgroups
fi
exec /sbin/init
