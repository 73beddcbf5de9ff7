//! dom0's root: Debian with Xen, its toolstack and a kernel.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::{Cache, Piece, host, run};

const SUITE: &str = "trixie";

/// What is installed over the minimal system.
const PACKAGES: &[&str] = &[
    "linux-image-amd64",
    "qemu-system-xen",
    "xen-hypervisor-4.20-amd64",
    "xen-utils-4.20",
    "xenstore-utils",
    // For the initramfs images and the guests.
    "busybox-static",
    "iperf3",
    "ethtool",
    // For dom0 as a peer and for people.
    "iproute2",
    "iputils-ping",
    "kmod",
    "less",
    "procps",
    "tcpdump",
];

/// What no run reads.
const UNUSED: &[&str] =
    &["usr/share/doc", "usr/share/locale", "usr/share/man", "var/cache/apt", "var/lib/apt/lists"];

/// Daemons are the lab's to start.
const POLICY: &str = "#!/bin/sh\nexit 101\n";

/// The root as a directory.
pub(super) fn build(cache: &Cache) -> Result<Piece> {
    cache.piece("root", &[include_bytes!("root.rs")], |dir| {
        run(Command::new("debootstrap")
            .args(["--variant=minbase", SUITE])
            .arg(dir)
            .arg(host::mirror()?))?;
        let policy = dir.join("usr/sbin/policy-rc.d");
        fs::write(&policy, POLICY)?;
        fs::set_permissions(&policy, fs::Permissions::from_mode(0o755))?;
        install(dir)?;
        fs::remove_file(&policy)?;
        for path in UNUSED {
            fs::remove_dir_all(dir.join(path))?;
        }
        Ok(())
    })
}

fn install(root: &Path) -> Result<()> {
    let mut install = Command::new("chroot");
    install
        .arg(root)
        .args(["apt-get", "install", "-y", "--no-install-recommends"])
        .args(PACKAGES)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // The kernel's own initramfs would take longer than all the rest.
        .env("INITRD", "No");
    run(&mut install).map(drop)
}
