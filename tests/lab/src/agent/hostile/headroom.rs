//! Headroom for XDP: more than a page has, and more changes than anybody can follow (F-11).

use std::thread;
use std::time::Instant;

use anyhow::{Result, bail};

use super::{Attack, Outcome, attack};
use crate::agent::netfront::{Front, PATIENCE, node};

const KEY: &str = "xdp-headroom";

/// The most that is left free: half a page (P-23).
const MOST: u16 = 2048;

/// How often state and headroom change.
const FLIPS: usize = 70;

pub(super) const ATTACKS: &[Attack] = &[
    attack("f11-headroom", Outcome::Served, headroom),
    attack("f11-flips", Outcome::Served, flips),
];

/// Every value in turn, until a frame comes with it.
fn headroom(front: &mut Front) -> Result<()> {
    let values = [(256, 256), (4096, MOST), (16, 16), (32_767, MOST), (0, 0), (65_535, MOST)];
    for (asked, found) in values {
        front.store.write(&node(KEY), asked.to_string().as_bytes())?;
        front.set_state("7")?;
        front.backend_is(&["8"])?;
        front.set_state("4")?;
        comes_at(front, found)?;
    }
    Ok(())
}

/// Waits until a frame lies so far behind its page's beginning.
fn comes_at(front: &mut Front, offset: u16) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while !front.receive()?.iter().any(|received| received.offset == offset) {
        if Instant::now() > until {
            bail!("no frame at offset {offset} in {PATIENCE:?}");
        }
        thread::yield_now();
    }
    Ok(())
}

/// The frontend reconfigures without end, by values that make no sense, and waits for
/// nothing.
fn flips(front: &mut Front) -> Result<()> {
    let values = ["65535", "abc", "-1", "", "4294967296", "0", "2048"];
    let states = ["7", "8", "7", "4", "8"];
    for n in 0..FLIPS {
        front.store.write(&node(KEY), values[n % values.len()].as_bytes())?;
        front.set_state(states[n % states.len()])?;
        if n % 16 == 0 {
            front.receive()?;
        }
    }
    front.set_state("4")
}
