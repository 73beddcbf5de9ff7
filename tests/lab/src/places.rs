//! Where things are: the checkout, the cache, the directory of a run.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

/// How many directories of earlier runs are kept.
const RUNS_KEPT: usize = 20;

/// The root of the checkout this program was built from.
pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("tests/lab is in a checkout")
}

/// What survives `make clean`: several checkouts share it.
pub fn cache() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("CAUSEWAY_LAB_CACHE") {
        return Ok(dir.into());
    }
    let base = match env::var_os("XDG_CACHE_HOME") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(&env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(base.join("causeway/lab"))
}

/// Where the directories of runs are.
fn runs() -> PathBuf {
    env::var_os("CAUSEWAY_LAB_RUNS").map_or_else(|| checkout().join("target/lab"), PathBuf::from)
}

/// Makes a directory for one run; its name sorts by time and is nobody else's.
pub fn new_run(name: &str) -> Result<PathBuf> {
    let runs = runs();
    fs::create_dir_all(&runs).with_context(|| format!("making {}", runs.display()))?;
    prune(&runs)?;
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let mut attempt = 0;
    loop {
        let dir = runs.join(format!("run-{seconds}-{}-{attempt}-{name}", std::process::id()));
        match fs::create_dir(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => attempt += 1,
            made => {
                made.with_context(|| format!("making {}", dir.display()))?;
                return Ok(dir);
            }
        }
    }
}

/// Removes the oldest runs.
fn prune(runs: &Path) -> Result<()> {
    let mut old: Vec<PathBuf> = fs::read_dir(runs)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"run-")))
        .collect();
    old.sort();
    for dir in old.iter().rev().skip(RUNS_KEPT - 1) {
        // Somebody else may be pruning too.
        let _ = fs::remove_dir_all(dir);
    }
    Ok(())
}
