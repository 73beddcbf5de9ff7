//! What the machine itself needs: QEMU, debootstrap and small tools.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::run;

/// Programs the lab calls, with their packages.
const TOOLS: [(&str, &str); 6] = [
    ("debootstrap", "debootstrap"),
    ("mkfs.ext4", "e2fsprogs"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
    ("gzip", "gzip"),
    ("setpriv", "util-linux"),
];

/// The oldest QEMU whose emulated IOMMU and NICs the lab was tried with.
const QEMU_MAJOR: u32 = 10;

/// Installs what is missing.
pub(super) fn install(cache: &Path) -> Result<()> {
    let missing: Vec<&str> =
        TOOLS.iter().filter(|(tool, _)| !in_path(tool)).map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        step(&format!("installing {}", missing.join(" ")), || {
            apt(&["update"])?;
            apt(&[&["install", "-y", "--no-install-recommends"][..], &missing].concat())
        })?;
    }
    if qemu_major().is_none_or(|major| major < QEMU_MAJOR) {
        step("installing QEMU", || install_qemu(cache))?;
    }
    match qemu_major() {
        Some(QEMU_MAJOR..) => Ok(()),
        found => bail!("the lab needs QEMU {QEMU_MAJOR}, this machine has {found:?}"),
    }
}

/// Debian 12's own QEMU is too old, so it comes from backports, through a
/// sources list and package lists of the lab's own.
fn install_qemu(cache: &Path) -> Result<()> {
    let release = fs::read_to_string("/etc/os-release")?;
    let Some(suite) = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))
    else {
        bail!("/etc/os-release names no release")
    };
    let dir = cache.join("apt");
    fs::create_dir_all(dir.join("lists/partial"))?;
    let list = dir.join("sources.list");
    let mirror = mirror()?;
    fs::write(&list, format!("deb {mirror} {suite} main\ndeb {mirror} {suite}-backports main\n"))?;
    let options = [
        format!("-oDir::Etc::SourceList={}", list.display()),
        "-oDir::Etc::SourceParts=/dev/null".into(),
        format!("-oDir::State::Lists={}", dir.join("lists").display()),
        // The machine's own index of packages stays as it is.
        "-oDir::Cache::pkgcache=".into(),
        "-oDir::Cache::srcpkgcache=".into(),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    apt(&[&options[..], &["update"]].concat())?;
    let backports = format!("{suite}-backports");
    let install = ["install", "-y", "--no-install-recommends", "-t", &backports, "qemu-system-x86"];
    apt(&[&options[..], &install].concat())
}

/// The Debian mirror: `MIRROR`, or what this machine's apt uses.
pub(super) fn mirror() -> Result<String> {
    if let Ok(mirror) = std::env::var("MIRROR") {
        return Ok(mirror);
    }
    if let Some(uri) = debian_uri(&apt_targets()?) {
        return Ok(uri);
    }
    // Whose a repository is, is known once its lists are there.
    apt(&["update"])?;
    debian_uri(&apt_targets()?).context("apt's configuration names no Debian mirror; set MIRROR=")
}

fn apt_targets() -> Result<String> {
    let format = "$(REPO_URI) $(COMPONENT) $(LABEL) $(ORIGIN)";
    let mut list = Command::new("apt-get");
    list.args(["indextargets", "--format", format, "Created-By: Packages"]);
    Ok(String::from_utf8(run(&mut list)?)?)
}

/// The first repository of Debian proper among apt's targets.
fn debian_uri(targets: &str) -> Option<String> {
    targets
        .lines()
        .find(|line| line.ends_with(" main Debian Debian"))
        .and_then(|line| line.split(' ').next())
        .map(|uri| uri.trim_end_matches('/').to_owned())
}

fn apt(args: &[&str]) -> Result<()> {
    run(Command::new("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive")).map(drop)
}

fn qemu_major() -> Option<u32> {
    let output = Command::new("qemu-system-x86_64").arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.strip_prefix("QEMU emulator version ")?.split('.').next()?.parse().ok()
}

fn in_path(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(tool).is_file())
}

fn step(what: &str, run: impl FnOnce() -> Result<()>) -> Result<()> {
    eprint!("lab: {what} ... ");
    let start = Instant::now();
    run().inspect_err(|_| eprintln!("failed")).with_context(|| what.to_owned())?;
    eprintln!("{:.1} s", start.elapsed().as_secs_f32());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::debian_uri;

    #[test]
    fn the_mirror_is_debians_own() {
        let targets = "http://other.example/apt/ main Other Other\n\
                       http://deb.example/debian-security/ main Debian-Security Debian\n\
                       http://deb.example/debian/ main Debian Debian\n";
        assert_eq!(debian_uri(targets).as_deref(), Some("http://deb.example/debian"));
        assert_eq!(debian_uri(""), None);
    }
}
