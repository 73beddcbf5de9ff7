//! Checks what Linux's packet generator sent.
//!
//! Its datagrams begin with a magic, a sequence number and a time, in network
//! order; the rest is zero.

use std::collections::BTreeSet;
use std::fmt;
use std::net::UdpSocket;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Result, bail};

const MAGIC: u32 = 0xBE9B_E955;
const HEADER: usize = 16;

/// Ethernet, IPv4 and UDP, which a frame has before a datagram's content.
const HEADERS: usize = 14 + 20 + 8;

/// How long the first datagram may take to come.
const FIRST: Duration = Duration::from_secs(30);

/// After this silence the generator has ended.
const SILENCE: Duration = Duration::from_secs(2);

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

/// Receives `count` datagrams on `port`, or what comes of them, from frames of the
/// given sizes.
pub fn receive(port: u16, frames: RangeInclusive<usize>, count: u64) -> Result<Report> {
    let lengths = frames.start() - HEADERS..=frames.end() - HEADERS;
    let socket = UdpSocket::bind(("0.0.0.0", port))?;
    socket.set_read_timeout(Some(FIRST))?;
    println!("listening");
    let mut report = Report::default();
    let mut seen = BTreeSet::new();
    let mut datagram = [0; 2048];
    while report.intact + report.damaged < count {
        let Ok(n) = socket.recv(&mut datagram) else { break };
        socket.set_read_timeout(Some(SILENCE))?;
        if lengths.contains(&n) && is_intact(&datagram[..n]) {
            report.intact += 1;
            seen.insert(n);
        } else {
            report.damaged += 1;
        }
    }
    report.sizes = seen.len() as u64;
    Ok(report)
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
