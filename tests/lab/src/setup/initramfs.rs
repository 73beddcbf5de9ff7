//! Puts an initramfs together: busybox, an init, kernel modules, programs.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{decompress, find, run};

/// How these pieces are put together.
pub(super) const RECIPE: &[u8] = include_bytes!("initramfs.rs");

/// An initramfs in the making: busybox and an init.
pub(super) fn stage(dir: &Path, tree: &Path, init: &str) -> Result<PathBuf> {
    let stage = dir.join("stage");
    for path in ["bin", "dev", "proc", "sys"] {
        fs::create_dir_all(stage.join(path))?;
    }
    fs::copy(tree.join("usr/bin/busybox"), stage.join("bin/busybox"))?;
    symlink("busybox", stage.join("bin/sh"))?;
    write_executable(&stage.join("init"), init)?;
    Ok(stage)
}

pub(super) fn write_executable(path: &Path, content: &str) -> Result<()> {
    fs::write(path, content)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// Adds kernel modules with what they depend on, unpacked, for busybox's modprobe.
pub(super) fn add_modules(stage: &Path, tree: &Path, wanted: &[&str]) -> Result<()> {
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
pub(super) fn add_programs(stage: &Path, tree: &Path, programs: &[&str]) -> Result<()> {
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
pub(super) fn pack(stage: &Path, initramfs: &Path) -> Result<()> {
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
