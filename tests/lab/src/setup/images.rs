//! What the emulator and Xen load: kernels, initramfs images, dom0's disk.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{Cache, Parts, Piece, hash, run};
use crate::places;

const DOM0_INITRAMFS_INIT: &str = include_str!("../../files/dom0-initramfs.sh");
const DOM0_INIT: &str = include_str!("../../files/dom0-init.sh");
const GUEST_INIT: &str = include_str!("../../files/guest-init.sh");

/// To find dom0's disk.
const DOM0_MODULES: &[&str] = &["virtio_blk", "crc32c_generic", "ext4"];

/// What a guest may be: a frontend, a traffic source, a Linux driver domain.
const GUEST_MODULES: &[&str] =
    &["xen-netfront", "pktgen", "xen-pcifront", "xen-netback", "bridge", "e1000e"];

/// Programs of a guest besides busybox and the agent.
const GUEST_PROGRAMS: &[&str] =
    &["usr/bin/iperf3", "usr/bin/xenstore-read", "usr/bin/xenstore-write", "usr/sbin/ethtool"];

/// Room for dom0 to write, beside its content.
const DOM0_DISK: u64 = 2 << 30;

/// Everything that is made from the root.
pub(super) fn build(cache: &Cache, root: &Piece) -> Result<Parts> {
    let (tree, root_hash) = (&root.dir, root.hash.as_bytes());
    let kernels = cache.piece("kernels", &[root_hash], |dir| kernels(tree, dir))?;
    let agent = agent(cache)?;

    let modules = DOM0_MODULES.join(" ");
    let recipe =
        [root_hash, DOM0_INITRAMFS_INIT.as_bytes(), DOM0_INIT.as_bytes(), modules.as_bytes()];
    let dom0_initramfs = cache.piece("dom0-initramfs", &recipe, |dir| {
        let stage = stage(dir, tree, DOM0_INITRAMFS_INIT)?;
        add_modules(&stage, tree, DOM0_MODULES)?;
        fs::create_dir(stage.join("root"))?;
        write_executable(&stage.join("lab-init"), DOM0_INIT)?;
        pack(&stage, &dir.join("initramfs"))
    })?;

    let dom0_disk = cache
        .piece("dom0-disk", &[root_hash], |dir| make_ext4(&dir.join("disk"), tree, DOM0_DISK))?;

    let modules = GUEST_MODULES.join(" ");
    let programs = GUEST_PROGRAMS.join(" ");
    let recipe = [
        root_hash,
        agent.hash.as_bytes(),
        GUEST_INIT.as_bytes(),
        modules.as_bytes(),
        programs.as_bytes(),
    ];
    let guest_initramfs = cache.piece("guest-initramfs", &recipe, |dir| {
        let stage = stage(dir, tree, GUEST_INIT)?;
        add_modules(&stage, tree, GUEST_MODULES)?;
        add_programs(&stage, tree, GUEST_PROGRAMS)?;
        fs::copy(agent.dir.join("lab-agent"), stage.join("bin/lab-agent"))?;
        pack(&stage, &dir.join("initramfs"))
    })?;

    Ok(Parts {
        xen: kernels.dir.join("xen"),
        kernel: kernels.dir.join("vmlinuz"),
        dom0_initramfs: dom0_initramfs.dir.join("initramfs"),
        dom0_disk: dom0_disk.dir.join("disk"),
        guest_initramfs: guest_initramfs.dir.join("initramfs"),
        agent: agent.dir.join("lab-agent"),
    })
}

/// QEMU boots Xen by multiboot, as an uncompressed ELF.
fn kernels(tree: &Path, dir: &Path) -> Result<()> {
    let boot = tree.join("boot");
    fs::copy(find(&boot, "vmlinuz-", "")?, dir.join("vmlinuz"))?;
    decompress("gzip", &find(&boot, "xen-4.20-", ".gz")?, &dir.join("xen"))
}

/// The agent again, but static: it runs in guests that have no library.
fn agent(cache: &Cache) -> Result<Piece> {
    let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))?;
    let lock = fs::read(places::checkout().join("Cargo.lock"))?;
    cache.piece("agent", &[hash(&[&sources]).as_bytes(), &lock], |dir| {
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

/// An initramfs in the making: busybox and an init.
fn stage(dir: &Path, tree: &Path, init: &str) -> Result<PathBuf> {
    let stage = dir.join("stage");
    for path in ["bin", "dev", "proc", "sys"] {
        fs::create_dir_all(stage.join(path))?;
    }
    fs::copy(tree.join("usr/bin/busybox"), stage.join("bin/busybox"))?;
    symlink("busybox", stage.join("bin/sh"))?;
    write_executable(&stage.join("init"), init)?;
    Ok(stage)
}

fn write_executable(path: &Path, content: &str) -> Result<()> {
    fs::write(path, content)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// Adds kernel modules with what they depend on, unpacked, for busybox's modprobe.
fn add_modules(stage: &Path, tree: &Path, wanted: &[&str]) -> Result<()> {
    let modules = find(&tree.join("usr/lib/modules"), "", "")?;
    let version = modules.file_name().context("a kernel version")?;
    let to = stage.join("lib/modules").join(version);
    let dep = fs::read_to_string(modules.join("modules.dep"))?;
    let lines = dependencies(&dep, wanted)?;
    for line in &lines {
        let (path, _) = line.split_once(':').context("a line of modules.dep")?;
        let unpacked = to.join(path.trim_end_matches(".xz"));
        fs::create_dir_all(unpacked.parent().context("a module in a directory")?)?;
        decompress("xz", &modules.join(path), &unpacked)?;
    }
    let dep: String = lines.iter().map(|line| line.replace(".ko.xz", ".ko") + "\n").collect();
    fs::write(to.join("modules.dep"), dep)?;
    Ok(())
}

/// The lines of modules.dep for the wanted modules and all that they need.
fn dependencies<'a>(dep: &'a str, wanted: &[&str]) -> Result<BTreeSet<&'a str>> {
    let mut lines = BTreeSet::new();
    for name in wanted {
        let file = format!("/{name}.ko.xz:");
        let line = dep.lines().find(|line| line.contains(&file));
        let line = line.with_context(|| format!("the kernel has no module {name}"))?;
        lines.insert(line);
        // A line names all dependencies, also indirect ones.
        for needed in line.split_once(": ").map_or("", |(_, needed)| needed).split(' ') {
            lines.extend(dep.lines().find(|line| line.starts_with(&format!("{needed}:"))));
        }
    }
    Ok(lines)
}

/// Adds programs with their libraries, as the root's own loader finds them.
fn add_programs(stage: &Path, tree: &Path, programs: &[&str]) -> Result<()> {
    let mut files: BTreeSet<String> = programs.iter().map(|p| (*p).to_owned()).collect();
    for program in programs {
        let list = run(Command::new("chroot").arg(tree).arg("ldd").arg(format!("/{program}")))?;
        files.extend(libraries(&String::from_utf8(list)?));
    }
    for file in files {
        let to = stage.join(&file);
        fs::create_dir_all(to.parent().context("a file in a directory")?)?;
        fs::copy(tree.join(&file), &to).with_context(|| format!("copying {file}"))?;
    }
    Ok(())
}

/// The paths in what ldd prints, relative to the root.
fn libraries(ldd: &str) -> Vec<String> {
    ldd.split_whitespace().filter_map(|word| word.strip_prefix('/')).map(str::to_owned).collect()
}

/// Packs `stage` into an initramfs and removes it.
fn pack(stage: &Path, initramfs: &Path) -> Result<()> {
    let status = Command::new("/bin/sh")
        .args(["-c", "find . | bin/busybox cpio -o -H newc --quiet"])
        .current_dir(stage)
        .stdout(File::create(initramfs)?)
        .stdin(Stdio::null())
        .status()?;
    if !status.success() {
        bail!("cpio: {status}");
    }
    fs::remove_dir_all(stage)?;
    Ok(())
}

fn decompress(program: &str, from: &Path, to: &Path) -> Result<()> {
    let status = Command::new(program)
        .arg("-dc")
        .stdin(File::open(from).with_context(|| format!("opening {}", from.display()))?)
        .stdout(File::create(to)?)
        .status()?;
    if !status.success() {
        bail!("{program} -dc {}: {status}", from.display());
    }
    Ok(())
}

/// The one entry of `dir` with this beginning and end.
fn find(dir: &Path, start: &str, end: &str) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(start) && name.ends_with(end)) {
            found.push(entry.path());
        }
    }
    match found.as_slice() {
        [path] => Ok(path.clone()),
        _ => bail!("{}: {} entries like {start}*{end}", dir.display(), found.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_with_what_they_need() {
        let dep = "k/a.ko.xz: k/b.ko.xz k/c.ko.xz\nk/b.ko.xz: k/c.ko.xz\nk/c.ko.xz:\nk/d.ko.xz:";
        let lines: Vec<&str> = dependencies(dep, &["a"]).unwrap().into_iter().collect();
        assert_eq!(lines, ["k/a.ko.xz: k/b.ko.xz k/c.ko.xz", "k/b.ko.xz: k/c.ko.xz", "k/c.ko.xz:"]);
        assert_eq!(dependencies(dep, &["d"]).unwrap().len(), 1);
        assert!(dependencies(dep, &["e"]).is_err());
    }

    #[test]
    fn libraries_are_the_paths_of_ldd() {
        let ldd = "\tlinux-vdso.so.1 (0x00007f)\n\
                   \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                   \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            libraries(ldd),
            ["lib/x86_64-linux-gnu/libc.so.6", "lib64/ld-linux-x86-64.so.2"]
        );
    }
}
