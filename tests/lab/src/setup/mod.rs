//! Makes what a boot needs and caches it outside the checkout.
//!
//! Every piece is a directory named after a hash of its recipe: the source that
//! makes it, and the pieces it is made from. It is built under another name and renamed when it is
//! complete: what has its name is whole.

mod host;
mod images;
mod initramfs;
mod kernels;
mod root;

pub use images::make_ext4;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::places;

/// Versions of one piece that are kept: other checkouts may use another.
const VERSIONS_KEPT: usize = 3;

/// What a boot is made from.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Xen, as an ELF.
    pub xen: PathBuf,
    /// dom0's and the guests' kernel.
    pub kernel: PathBuf,
    /// The same as distributed, for who boots it as a machine does.
    pub packed_kernel: PathBuf,
    /// dom0's initramfs.
    pub dom0_initramfs: PathBuf,
    /// dom0's disk, an ext4 image.
    pub dom0_disk: PathBuf,
    /// The guests' initramfs.
    pub guest_initramfs: PathBuf,
    /// A Linux driver domain's initramfs.
    pub driver_domain_initramfs: PathBuf,
    /// The agent, static.
    pub agent: PathBuf,
}

/// Makes what is missing; quick when nothing is.
pub fn setup() -> Result<Parts> {
    let dir = places::cache()?;
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    // One set-up at a time; the others find the work done.
    let lock = File::create(dir.join("lock"))?;
    lock.lock()?;
    host::install(&dir)?;
    let cache = Cache { dir };
    let root = root::build(&cache)?;
    images::build(&cache, &root)
}

/// The directory of all pieces.
struct Cache {
    dir: PathBuf,
}

/// One complete piece: where it is, and its identity for what is made from it.
struct Piece {
    dir: PathBuf,
    hash: String,
}

impl Cache {
    /// The piece `name` made by `recipe`: the cached one, or a new one that
    /// `build` makes in the empty directory it is given.
    fn piece(
        &self,
        name: &str,
        recipe: &[&[u8]],
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Piece> {
        let hash = hash(recipe);
        let dir = self.dir.join(format!("{name}-{hash}"));
        if dir.is_dir() {
            return Ok(Piece { dir, hash });
        }
        let partial = self.dir.join(format!("partial-{name}"));
        remove_tree(&partial)?;
        fs::create_dir(&partial)?;
        eprint!("lab: making {name} ... ");
        let start = Instant::now();
        build(&partial)
            .inspect_err(|_| eprintln!("failed"))
            .with_context(|| format!("making {name}"))?;
        eprintln!("{:.1} s", start.elapsed().as_secs_f32());
        fs::rename(&partial, &dir)?;
        self.prune(name)?;
        Ok(Piece { dir, hash })
    }

    /// Removes all but the newest versions of a piece.
    fn prune(&self, name: &str) -> Result<()> {
        let mut versions = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let file_name = entry.file_name();
            if file_name.to_str().and_then(|n| n.rsplit_once('-')).is_some_and(|(n, _)| n == name) {
                versions.push((entry.metadata()?.modified()?, entry.path()));
            }
        }
        versions.sort();
        versions.reverse();
        versions.iter().skip(VERSIONS_KEPT).try_for_each(|(_, path)| remove_tree(path))
    }
}

/// Removes a directory if it is there.
fn remove_tree(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// A short identity of some parts; their lengths count, so that no two splits of
/// the same bytes agree.
fn hash(parts: &[&[u8]]) -> String {
    let mut sha = Sha256::new();
    for part in parts {
        sha.update((part.len() as u64).to_le_bytes());
        sha.update(part);
    }
    sha.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Runs a program; what it prints is shown only if it fails.
fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        let tail = text.len().saturating_sub(4000);
        bail!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&text[tail..]));
    }
    Ok(output.stdout)
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

    fn cache(name: &str) -> Cache {
        let dir = std::env::temp_dir().join(format!("lab-cache-{}-{name}", std::process::id()));
        remove_tree(&dir).unwrap();
        fs::create_dir(&dir).unwrap();
        Cache { dir }
    }

    #[test]
    fn a_piece_is_built_once_per_recipe() {
        let cache = cache("once");
        let build = |dir: &Path| Ok(fs::write(dir.join("file"), "content")?);
        let first = cache.piece("thing", &[b"a"], build).unwrap();
        let again = cache.piece("thing", &[b"a"], |_| bail!("built twice")).unwrap();
        assert_eq!(first.dir, again.dir);
        let other = cache.piece("thing", &[b"b"], build).unwrap();
        assert_ne!(first.dir, other.dir);
        assert!(first.dir.join("file").is_file());
    }

    #[test]
    fn a_failed_build_leaves_nothing_that_counts() {
        let cache = cache("partial");
        let fail = |dir: &Path| {
            fs::write(dir.join("half"), "")?;
            bail!("no")
        };
        assert!(cache.piece("thing", &[b"a"], fail).is_err());
        let piece = cache.piece("thing", &[b"a"], |_| Ok(())).unwrap();
        assert!(!piece.dir.join("half").exists());
    }

    #[test]
    fn old_versions_go() {
        let cache = cache("prune");
        for version in 0u8..8 {
            cache.piece("thing", &[&[version]], |_| Ok(())).unwrap();
            cache.piece("thing-else", &[&[version]], |_| Ok(())).unwrap();
        }
        assert_eq!(fs::read_dir(&cache.dir).unwrap().count(), 2 * VERSIONS_KEPT);
    }

    #[test]
    fn the_split_of_a_recipe_counts() {
        assert_ne!(hash(&[b"ab", b"c"]), hash(&[b"a", b"bc"]));
    }
}
