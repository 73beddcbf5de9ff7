#!/bin/sh
# Turns a stock guest into a Linux driver domain: the NIC and the guests' vifs on
# bridges. What Causeway is compared with.
case $1 in
start)
    for module in xen-pcifront e1000e bridge xen-netback; do
        modprobe $module
    done
    brctl addbr xenbr0
    nic=$(ls -d /sys/bus/pci/devices/*/net/* 2>/dev/null)
    if [ -n "$nic" ]; then
        ip link set "${nic##*/}" up
        brctl addif xenbr0 "${nic##*/}"
    fi
    ip link set xenbr0 up
    # uevent calls this script again for every event, with its variables.
    uevent "$0" event >/dev/null 2>&1 &
    ;;
event)
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
    ;;
esac
