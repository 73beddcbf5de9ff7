#!/bin/busybox sh
# A stock guest's init: the network frontend, then the agent on the second
# console, which is not the network under test.
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /sbin /usr/bin /usr/sbin
/bin/busybox --install -s
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
export PATH=/sbin:/bin:/usr/sbin:/usr/bin HOME=/
ip link set lo up
# A receiver that gets no time to run for a while must not drop what came.
echo 8388608 > /proc/sys/net/core/rmem_max
echo 8388608 > /proc/sys/net/core/rmem_default
modprobe xen-netfront
until [ -c /dev/hvc1 ]; do
    usleep 20000
done
# A console's settings last while it is open.
exec 3<>/dev/hvc1
stty -F /dev/hvc1 raw -echo
echo "lab guest: ready"
while :; do
    lab-agent serve /dev/hvc1
done
