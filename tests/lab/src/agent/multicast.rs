//! Datagrams to two multicast groups, and an honest frontend that is a member of the first
//! when it says so (P-13).

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use xen::netif::{ExtraFlags, ExtraInfo, Status, TxFlags, TxRequest};

use super::netfront::{self, Front, MULTICAST_CONTROL, PATIENCE, node};

/// The groups.
pub const GROUPS: [Ipv4Addr; 2] = [Ipv4Addr::new(239, 1, 1, 1), Ipv4Addr::new(239, 1, 1, 2)];

/// How many datagrams are sent to each.
pub const COUNT: u64 = 20;

const PORT: u16 = 7200;

/// No queue on the way need hold two datagrams.
const INTERVAL: Duration = Duration::from_millis(2);

/// What the frontend does when it is told to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Name the first group.
    Join,
    /// Name it no longer.
    Leave,
    /// Want all groups.
    WantAll,
    /// Count what comes, up to the broadcast that ends it.
    Count,
}

impl Command {
    const ALL: [Command; 4] = [Command::Join, Command::Leave, Command::WantAll, Command::Count];

    /// The line that tells it to.
    pub fn line(self) -> &'static str {
        match self {
            Command::Join => "join",
            Command::Leave => "leave",
            Command::WantAll => "want all",
            Command::Count => "count",
        }
    }
}

/// What is printed when a command is carried out; with [`Command::Count`], when it begins.
pub const READY: &str = "ready";

/// How many datagrams came, of each group.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counted(pub [u64; 2]);

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = self.0;
        write!(f, "counted {first} and {second}")
    }
}

impl FromStr for Counted {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Counted> {
        match text.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["counted", first, "and", second] => Ok(Counted([first.parse()?, second.parse()?])),
            _ => bail!("no counts of datagrams: {text:?}"),
        }
    }
}

/// Sends to both groups in turn, and then to everybody.
pub fn send(everybody: Ipv4Addr) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_broadcast(true)?;
    for _ in 0..COUNT {
        for group in GROUPS {
            socket.send_to(&[7; 100], (group, PORT)).with_context(|| group.to_string())?;
            thread::sleep(INTERVAL);
        }
    }
    socket.send_to(&[7; 100], (everybody, PORT))?;
    Ok(())
}

/// Connects vif 0, wanting no group yet, and carries out the commands of standard input
/// until it ends; `peer` is the address of another guest.
pub fn member(peer: &str) -> Result<()> {
    let mut front = Front::meet(netfront::mac(peer)?)?;
    front.connect_with(&front.keys().with(MULTICAST_CONTROL, "1"))?;
    front.served()?;
    println!("{READY}");
    for line in io::stdin().lines() {
        let line = line?;
        let command = Command::ALL.into_iter().find(|command| command.line() == line);
        match command.with_context(|| format!("no command: {line:?}"))? {
            Command::Join => change(&front, 2)?,
            Command::Leave => change(&front, 3)?,
            Command::WantAll => want_all(&mut front)?,
            Command::Count => {
                front.receive()?;
                println!("{READY}");
                println!("{}", count(&mut front)?);
                continue;
            }
        }
        println!("{READY}");
    }
    front.close()
}

/// Names the first group, by extra info of this type.
fn change(front: &Front, kind: u8) -> Result<()> {
    let dummy = TxRequest::new(0, 0, TxFlags::EXTRA_INFO, 1, 0);
    let extra = ExtraInfo::new(kind, ExtraFlags::empty(), ethernet(GROUPS[0]));
    front.answered_by(&[dummy.into(), extra.into()], &[Status::Okay, Status::Null])
}

/// The backend's answer to a frontend that reconfigures tells that it has read what it wants.
fn want_all(front: &mut Front) -> Result<()> {
    front.store.write(&node(MULTICAST_CONTROL), b"0")?;
    front.set_state("7")?;
    front.backend_is(&["8"])?;
    front.set_state("4")
}

fn count(front: &mut Front) -> Result<Counted> {
    let until = Instant::now() + PATIENCE;
    let mut counted = Counted::default();
    while Instant::now() < until {
        for frame in front.receive()?.into_iter().map(|received| received.bytes) {
            let Some(to) = destination(&frame) else { continue };
            if to == [0xFF; 6] {
                return Ok(counted);
            }
            let groups = GROUPS.into_iter().zip(&mut counted.0);
            groups.filter(|(group, _)| ethernet(*group) == to).for_each(|(_, count)| *count += 1);
        }
        thread::sleep(Duration::from_millis(1));
    }
    bail!("no broadcast in {PATIENCE:?}; {counted}")
}

/// Where a frame goes that is one of the sender's.
fn destination(frame: &[u8]) -> Option<[u8; 6]> {
    let is_ours = frame.get(12..14)? == [0x08, 0x00]
        && frame[14..].get(9) == Some(&17)
        && frame.get(36..38)? == PORT.to_be_bytes();
    frame.first_chunk().copied().filter(|_| is_ours)
}

/// The Ethernet address of a group (RFC 1112, section 6.4).
fn ethernet(group: Ipv4Addr) -> [u8; 6] {
    let [_, b, c, d] = group.octets();
    [0x01, 0x00, 0x5E, b & 0x7F, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_of_the_sender_are_told_from_other_frames() {
        let mut frame = [&ethernet(GROUPS[1])[..], &[0; 60]].concat();
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        frame[23] = 17;
        frame[36..38].copy_from_slice(&PORT.to_be_bytes());
        assert_eq!(destination(&frame), Some([0x01, 0x00, 0x5E, 1, 1, 2]));
        for at in [12, 23, 36] {
            let mut other = frame.clone();
            other[at] ^= 1;
            assert_eq!(destination(&other), None, "byte {at}");
        }
        assert!((0..38).all(|length| destination(&frame[..length]).is_none()));
        assert_eq!(ethernet(Ipv4Addr::new(239, 129, 1, 1)), ethernet(GROUPS[0]));
    }

    #[test]
    fn counts_are_read_as_they_are_written() {
        let counted = Counted([20, 3]);
        assert_eq!(counted.to_string().parse::<Counted>().unwrap(), counted);
        assert!("ready".parse::<Counted>().is_err());
    }
}
