#!/bin/busybox sh
# dom0's first user process: finds its disk and hands over to it.
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
for module in virtio_blk crc32c_generic ext4; do
    /bin/busybox modprobe $module
done
# The disks are probed in the background.
until [ -b /dev/vda ] && [ -b /dev/vdb ]; do
    /bin/busybox usleep 20000
done
/bin/busybox mount -t ext4 /dev/vda /root
/bin/busybox cp /lab-init /root/lab-init
/bin/busybox mkdir -p /root/lab
/bin/busybox mount --move /dev /root/dev
/bin/busybox umount /proc
exec /bin/busybox switch_root /root /lab-init
