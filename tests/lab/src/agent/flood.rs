//! Counts the packets of a flood as the receiver's interface does. They are for a socket
//! that nobody reads, so that what is measured is their way, not a program.

use std::fmt;
use std::fs;
use std::net::UdpSocket;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often the interface is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// How long the first packet may take to come.
const FIRST: Duration = Duration::from_secs(30);

/// After this silence the flood has ended.
pub const SILENCE: Duration = Duration::from_secs(1);

/// Fewer between two looks are the guest's own business.
const FEW: u64 = 10;

/// What arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flood {
    /// Packets.
    pub packets: u64,
    /// From the first of them to the last.
    pub time: Duration,
}

impl Flood {
    /// Packets in a second.
    pub fn per_second(&self) -> f64 {
        self.packets as f64 / self.time.as_secs_f64()
    }
}

impl fmt::Display for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "packets {} time_us {}", self.packets, self.time.as_micros())
    }
}

impl FromStr for Flood {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Flood> {
        match text.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["packets", packets, "time_us", time] => {
                Ok(Flood { packets: packets.parse()?, time: Duration::from_micros(time.parse()?) })
            }
            _ => bail!("not a report of a flood: {text:?}"),
        }
    }
}

/// Counts one flood to `port` on an interface.
pub fn count(port: u16, interface: &str) -> Result<Flood> {
    // Without it each packet would be answered.
    let _socket = UdpSocket::bind(("0.0.0.0", port))?;
    let path = format!("/sys/class/net/{interface}/statistics/rx_packets");
    let received = || -> Result<u64> {
        Ok(fs::read_to_string(&path).with_context(|| path.clone())?.trim().parse()?)
    };
    let (mut before, mut count) = (received()?, received()?);
    let begun = Instant::now();
    println!("listening");
    while count - before < FEW {
        if begun.elapsed() > FIRST {
            bail!("no flood comes");
        }
        before = count;
        thread::sleep(LOOK);
        count = received()?;
    }
    let (first, start) = (count, Instant::now());
    let mut end = start;
    while end.elapsed() < SILENCE {
        thread::sleep(LOOK);
        let now = received()?;
        if now - count >= FEW {
            (count, end) = (now, Instant::now());
        }
    }
    if count == first {
        bail!("the flood is over at once");
    }
    Ok(Flood { packets: count - first, time: end - start })
}
