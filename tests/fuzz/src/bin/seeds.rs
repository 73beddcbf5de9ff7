//! Writes the scripts that were thought out into the corpora.

use std::fs;
use std::io::Result;
use std::path::Path;

fn main() -> Result<()> {
    for (target, name, bytes) in fuzz::seeds::all() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
        fs::create_dir_all(&corpus)?;
        fs::write(corpus.join(name), bytes)?;
    }
    Ok(())
}
