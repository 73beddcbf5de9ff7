//! Writes the scripts that were thought out into the corpora.

use std::fs;
use std::io::Result;

fn main() -> Result<()> {
    for (target, name, bytes) in fuzz::seeds::all() {
        let corpus = fuzz::directory(target);
        fs::create_dir_all(&corpus)?;
        fs::write(corpus.join(name), bytes)?;
    }
    Ok(())
}
