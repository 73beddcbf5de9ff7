//! Checks what Linux's packet generator sent.
//!
//! Its datagrams begin with a magic, a sequence number and a time, in network
//! order; the rest is zero.

use std::fmt;
use std::net::UdpSocket;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Result, bail};

const MAGIC: u32 = 0xBE9B_E955;
const HEADER: usize = 16;

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
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "intact {} damaged {}", self.intact, self.damaged)
    }
}

impl FromStr for Report {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Report> {
        match text.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["intact", intact, "damaged", damaged] => {
                Ok(Report { intact: intact.parse()?, damaged: damaged.parse()? })
            }
            _ => bail!("not a report of generated packets: {text:?}"),
        }
    }
}

/// Receives `count` datagrams with `length` bytes of payload each on `port`, or
/// what comes of them.
pub fn receive(port: u16, length: usize, count: u64) -> Result<Report> {
    let socket = UdpSocket::bind(("0.0.0.0", port))?;
    socket.set_read_timeout(Some(FIRST))?;
    println!("listening");
    let mut report = Report::default();
    let mut datagram = [0; 2048];
    while report.intact + report.damaged < count {
        let Ok(n) = socket.recv(&mut datagram) else { break };
        socket.set_read_timeout(Some(SILENCE))?;
        if is_intact(&datagram[..n], length) {
            report.intact += 1;
        } else {
            report.damaged += 1;
        }
    }
    Ok(report)
}

fn is_intact(datagram: &[u8], length: usize) -> bool {
    datagram.len() == length
        && datagram.starts_with(&MAGIC.to_be_bytes())
        && datagram.iter().skip(HEADER).all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_seen() {
        let mut datagram = MAGIC.to_be_bytes().to_vec();
        datagram.resize(40, 0);
        assert!(is_intact(&datagram, 40));
        assert!(!is_intact(&datagram, 41));
        for at in [0, 16, 39] {
            let mut damaged = datagram.clone();
            damaged[at] ^= 4;
            assert!(!is_intact(&damaged, 40), "byte {at}");
        }
        let report = Report { intact: 3, damaged: 1 };
        assert_eq!(report.to_string().parse::<Report>().unwrap(), report);
    }
}
