//! Waits for XenStore, and tells when.

use std::time::{Duration, SystemTime};

use anyhow::Result;

use super::netfront::xenbus::Xenbus;

/// How long it may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Waits until a node is there, or has this value; tells the value and when that was, in
/// microseconds of the clock of this domain.
pub fn wait(path: &str, wanted: Option<&str>) -> Result<String> {
    let mut store = Xenbus::open()?;
    println!("waiting");
    let value = store.wait(path, LIMIT, |value| wanted.is_none_or(|wanted| value == wanted))?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(format!("{} {value}", now.as_micros()))
}
