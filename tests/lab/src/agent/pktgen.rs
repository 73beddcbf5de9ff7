//! Checks what Linux's packet generator sent.
//!
//! Its datagrams begin with a magic, a sequence number and a time, in network
//! order; the rest is zero.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Result, bail};

const MAGIC: u32 = 0xBE9B_E955;
const HEADER: usize = 16;

/// Ethernet, IPv4 and UDP, which a frame has before a datagram's content.
const HEADERS: usize = 14 + 20 + 8;

/// How long the first datagram of a burst may take to come.
const FIRST: Duration = Duration::from_secs(60);

/// After this silence the generator has ended.
const SILENCE: Duration = Duration::from_secs(3);

/// What arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Intact datagrams.
    pub intact: u64,
    /// Datagrams with a wrong content or length.
    pub damaged: u64,
    /// Different lengths of intact datagrams.
    pub sizes: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "intact {} damaged {} sizes {}", self.intact, self.damaged, self.sizes)
    }
}

impl FromStr for Report {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Report> {
        match text.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["intact", intact, "damaged", damaged, "sizes", sizes] => Ok(Report {
                intact: intact.parse()?,
                damaged: damaged.parse()?,
                sizes: sizes.parse()?,
            }),
            _ => bail!("not a report of generated packets: {text:?}"),
        }
    }
}

/// Receives bursts of `count` datagrams on `port`, or what comes of them, from frames
/// of the given sizes. After each burst tells what has arrived of all; ends when none
/// comes any more.
pub fn receive(
    port: u16,
    frames: RangeInclusive<usize>,
    count: u64,
    mut tell: impl FnMut(Report),
) -> Result<()> {
    let lengths = frames.start() - HEADERS..=frames.end() - HEADERS;
    let socket = super::listen(port)?;
    let mut report = Report::default();
    let mut seen = BTreeSet::new();
    let mut datagram = [0; 2048];
    loop {
        let before = report.intact + report.damaged;
        socket.set_read_timeout(Some(FIRST))?;
        while report.intact + report.damaged < before + count {
            let Ok(n) = socket.recv(&mut datagram) else { break };
            socket.set_read_timeout(Some(SILENCE))?;
            if lengths.contains(&n) && is_intact(&datagram[..n]) {
                report.intact += 1;
                seen.insert(n);
            } else {
                report.damaged += 1;
            }
        }
        if report.intact + report.damaged == before {
            return Ok(());
        }
        report.sizes = seen.len() as u64;
        tell(report);
    }
}

fn is_intact(datagram: &[u8]) -> bool {
    datagram.starts_with(&MAGIC.to_be_bytes())
        && datagram.iter().skip(HEADER).all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_seen() {
        let mut datagram = MAGIC.to_be_bytes().to_vec();
        datagram.resize(40, 0);
        assert!(is_intact(&datagram));
        for at in [0, 16, 39] {
            let mut damaged = datagram.clone();
            damaged[at] ^= 4;
            assert!(!is_intact(&damaged), "byte {at}");
        }
        let report = Report { intact: 3, damaged: 1, sizes: 2 };
        assert_eq!(report.to_string().parse::<Report>().unwrap(), report);
    }
}
