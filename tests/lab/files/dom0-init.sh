#!/bin/sh
# dom0's init: what Xen's toolstack needs, then the agent. No service manager.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/xen-4.20/bin:/lab HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmpfs /run
mkdir -p /dev/pts /run/lock /run/xen /run/xenstored
mount -t devpts devpts /dev/pts
mount -t ext4 /dev/vdb /lab
hostname dom0
ip link set lo up
for module in xenfs xen-evtchn xen-gntdev xen-pciback; do
    modprobe $module
done
mount -t xenfs xenfs /proc/xen
xenstored --pid-file /run/xenstored.pid
xen-init-dom0
mkdir -p /var/log/xen/console
xenconsoled --log=guest --pid-file=/run/xenconsoled.pid
# The harness holds the other end of the port for as long as it lives.
lab-agent serve "/dev/$(ls /sys/class/virtio-ports)"
poweroff -f
