//! What is made from the root: kernels, the agent, initramfs images, dom0's disk.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{Cache, Parts, Piece, initramfs, kernels, run};
use crate::places;

/// How these pieces are made.
const RECIPE: &[u8] = include_bytes!("images.rs");

const DOM0_INITRAMFS_INIT: &str = include_str!("../../files/dom0-initramfs.sh");
const DOM0_INIT: &str = include_str!("../../files/dom0-init.sh");
const GUEST_INIT: &str = include_str!("../../files/guest-init.sh");
const LINUX_DRIVER_DOMAIN: &str = include_str!("../../files/linux-driver-domain.sh");

/// To find dom0's disk.
const DOM0_MODULES: &[&str] = &["virtio_blk", "crc32c_generic", "ext4"];

/// What a guest may be: a frontend, a traffic source, a frontend of user space, the NIC's
/// owner.
const GUEST_MODULES: &[&str] =
    &["xen-netfront", "pktgen", "xen-gntalloc", "xen-evtchn", "xen-pcifront", "e1000e"];

/// What a Linux driver domain needs.
const DRIVER_DOMAIN_MODULES: &[&str] = &["xen-netback", "bridge", "e1000e", "xen-pcifront"];

/// Programs of a Linux driver domain besides busybox.
const DRIVER_DOMAIN_PROGRAMS: &[&str] =
    &["usr/bin/xenstore-read", "usr/bin/xenstore-rm", "usr/bin/xenstore-write"];

/// Programs of a guest besides busybox and the agent, and what they load.
const GUEST_PROGRAMS: &[&str] = &[
    "usr/bin/iperf3",
    "usr/bin/tcpdump",
    "usr/sbin/ethtool",
    // Loaded by iperf3's threads when they end.
    "lib/x86_64-linux-gnu/libgcc_s.so.1",
];

/// Room for dom0 to write, beside its content.
const DOM0_DISK: u64 = 2 << 30;

/// Everything that is made from the root.
pub(super) fn build(cache: &Cache, root: &Piece) -> Result<Parts> {
    let (tree, root_hash) = (&root.dir, root.hash.as_bytes());
    let kernels =
        cache.piece("kernels", &[root_hash, kernels::RECIPE], |dir| kernels::build(tree, dir))?;
    let agent = agent(cache)?;
    let dom0_disk = cache.piece("dom0-disk", &[root_hash, RECIPE], |dir| {
        make_ext4(&dir.join("disk"), tree, DOM0_DISK)
    })?;

    let scripts = [DOM0_INITRAMFS_INIT.as_bytes(), DOM0_INIT.as_bytes()].concat();
    let recipe = [root_hash, RECIPE, initramfs::RECIPE, &scripts];
    let dom0_initramfs = cache.piece("dom0-initramfs", &recipe, |dir| {
        let stage = initramfs::stage(dir, tree, DOM0_INITRAMFS_INIT)?;
        initramfs::add_modules(&stage, tree, DOM0_MODULES)?;
        initramfs::write_executable(&stage.join("lab-init"), DOM0_INIT)?;
        fs::create_dir(stage.join("root"))?;
        initramfs::pack(&stage, &dir.join("initramfs"))
    })?;

    let script = GUEST_INIT.as_bytes();
    let recipe = [root_hash, RECIPE, initramfs::RECIPE, script, agent.hash.as_bytes()];
    let guest_initramfs = cache.piece("guest-initramfs", &recipe, |dir| {
        let stage = initramfs::stage(dir, tree, GUEST_INIT)?;
        initramfs::add_modules(&stage, tree, GUEST_MODULES)?;
        initramfs::add_programs(&stage, tree, GUEST_PROGRAMS)?;
        fs::copy(agent.dir.join("lab-agent"), stage.join("bin/lab-agent"))?;
        initramfs::pack(&stage, &dir.join("initramfs"))
    })?;

    let recipe = [root_hash, RECIPE, initramfs::RECIPE, LINUX_DRIVER_DOMAIN.as_bytes()];
    let driver_domain_initramfs = cache.piece("linux-driver-domain-initramfs", &recipe, |dir| {
        let stage = initramfs::stage(dir, tree, LINUX_DRIVER_DOMAIN)?;
        initramfs::add_modules(&stage, tree, DRIVER_DOMAIN_MODULES)?;
        initramfs::add_programs(&stage, tree, DRIVER_DOMAIN_PROGRAMS)?;
        initramfs::pack(&stage, &dir.join("initramfs"))
    })?;

    Ok(Parts {
        xen: kernels.dir.join("xen"),
        kernel: kernels.dir.join("vmlinux"),
        packed_kernel: kernels.dir.join("vmlinuz"),
        dom0_initramfs: dom0_initramfs.dir.join("initramfs"),
        dom0_disk: dom0_disk.dir.join("disk"),
        guest_initramfs: guest_initramfs.dir.join("initramfs"),
        driver_domain_initramfs: driver_domain_initramfs.dir.join("initramfs"),
        agent: agent.dir.join("lab-agent"),
    })
}

/// The agent again, but static: it runs in guests that have no library.
fn agent(cache: &Cache) -> Result<Piece> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let interface = places::checkout().join("kernel/xen/src");
    let sources =
        [sources(&src.join("agent"))?, sources(&src.join("bin"))?, sources(&interface)?].concat();
    cache.piece("agent", &[RECIPE, &sources], |dir| {
        let triple = "x86_64-unknown-linux-gnu";
        let target = places::checkout().join("target/lab-agent");
        run(Command::new(env!("CARGO"))
            .current_dir(places::checkout())
            .args(["build", "--release", "--package=lab", "--bin=lab-agent", "--target", triple])
            .arg("--target-dir")
            .arg(&target)
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "none")
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_STRIP", "symbols"))?;
        let built = target.join(triple).join("release/lab-agent");
        fs::copy(&built, dir.join("lab-agent"))
            .with_context(|| format!("copying {}", built.display()))?;
        Ok(())
    })
}

/// All files under `dir`, names and contents, in one order.
fn sources(dir: &Path) -> Result<Vec<u8>> {
    let mut paths =
        fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<BTreeSet<PathBuf>>>()?;
    let mut all = Vec::new();
    while let Some(path) = paths.pop_first() {
        all.extend(path.file_name().unwrap_or_default().as_encoded_bytes());
        all.extend(if path.is_dir() { sources(&path)? } else { fs::read(&path)? });
    }
    Ok(all)
}

/// An ext4 image of `size` bytes with the content of `tree`.
pub fn make_ext4(image: &Path, tree: &Path, size: u64) -> Result<()> {
    File::create(image)?.set_len(size)?;
    run(Command::new("mkfs.ext4")
        .args(["-q", "-F", "-O", "^has_journal", "-d"])
        .arg(tree)
        .arg(image))
    .map(drop)
}
