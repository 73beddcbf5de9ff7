#!/bin/busybox sh
# Init of a Linux driver domain, with nothing in it that it does not need: the NIC
# and the guests' vifs on bridges. What Causeway is compared with.
if [ "$1" != event ]; then
    /bin/busybox mkdir -p /proc /sys /dev /sbin /usr/bin /usr/sbin
    /bin/busybox --install -s
    mount -t devtmpfs dev /dev
    mount -t proc proc /proc
    mount -t sysfs sys /sys
    export PATH=/sbin:/bin:/usr/sbin:/usr/bin HOME=/
    # Only a paravirtual domain has the first.
    modprobe xen-pcifront 2>/dev/null
    modprobe e1000e
    modprobe bridge
    brctl addbr xenbr0
    # The bus of a paravirtual domain comes up in the background.
    until nic=$(ls -d /sys/bus/pci/devices/*/net/* 2>/dev/null); do
        usleep 20000
    done
    ip link set "${nic##*/}" up
    brctl addif xenbr0 "${nic##*/}"
    ip link set xenbr0 up
    # Calls this script again for every event, with its variables.
    uevent /init event >/dev/null 2>&1 &
    modprobe xen-netback
    xenstore-write data/uptime "$(cut -d ' ' -f 1 /proc/uptime)"
    echo "linux driver domain: ready"
    while :; do
        wait
        sleep 1000
    done
fi
[ "$SUBSYSTEM" = xen-backend ] || exit 0
case $ACTION in
online)
    bridge=$(xenstore-read "$XENBUS_PATH/bridge")
    brctl show | grep -q "^$bridge\b" || brctl addbr "$bridge"
    ip link set "$bridge" up
    brctl addif "$bridge" "$vif"
    ip link set "$vif" up
    xenstore-write "$XENBUS_PATH/hotplug-status" connected
    ;;
remove)
    # The toolstack waits for this directory to go.
    xenstore-rm "$XENBUS_PATH"
    ;;
esac
