//! A stream of numbered datagrams at a steady pace: what is lost and how long the
//! longest silence was is what a guest's neighbours notice of a change elsewhere.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Read};
use std::net::UdpSocket;
use std::str::FromStr;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What a number takes.
const NUMBER: usize = size_of::<u64>();

/// The number that ends the stream.
const LAST: u64 = u64::MAX;

/// How often the end is told, as that may be lost too.
pub const LAST_REPEATED: usize = 20;

/// A receiver that hears nothing for this long reports what it has.
const SILENCE: Duration = Duration::from_secs(20);

/// What the sender did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Numbers that were sent, or that the network refused.
    pub count: u64,
    /// The longest time between two of them, in microseconds: a sender that gets no
    /// time to run makes a gap that is not the network's.
    pub longest_gap_us: u64,
}

impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sent {} longest_gap_us {}", self.count, self.longest_gap_us)
    }
}

impl FromStr for Sent {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Sent> {
        match text.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["sent", count, "longest_gap_us", gap] => {
                Ok(Sent { count: count.parse()?, longest_gap_us: gap.parse()? })
            }
            _ => bail!("not a report of a sent stream: {text:?}"),
        }
    }
}

/// What the receiver saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Numbers that arrived.
    pub received: u64,
    /// Numbers below the highest that never arrived.
    pub lost: u64,
    /// Numbers that arrived after a higher one.
    pub late: u64,
    /// Datagrams whose number had arrived before.
    pub repeated: u64,
    /// The longest time between two arrivals, in microseconds.
    pub longest_gap_us: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "received {} lost {} late {} repeated {} longest_gap_us {}",
            self.received, self.lost, self.late, self.repeated, self.longest_gap_us
        )
    }
}

impl FromStr for Report {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Report> {
        match text.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["received", a, "lost", b, "late", c, "repeated", d, "longest_gap_us", e] => {
                Ok(Report {
                    received: a.parse()?,
                    lost: b.parse()?,
                    late: c.parse()?,
                    repeated: d.parse()?,
                    longest_gap_us: e.parse()?,
                })
            }
            _ => bail!("not a report of a stream: {text:?}"),
        }
    }
}

/// Makes the datagrams of a stream.
pub struct Sender {
    datagram: Vec<u8>,
    sent: Sent,
    gaps: Gaps,
}

impl Sender {
    /// A stream of datagrams of `bytes` each; a number takes 8.
    pub fn new(bytes: usize) -> Sender {
        let datagram = vec![0; bytes.max(NUMBER)];
        Sender { datagram, sent: Sent::default(), gaps: Gaps::default() }
    }

    /// The next one, to be sent at once.
    pub fn next(&mut self, now: Instant) -> &[u8] {
        self.gaps.pass(now);
        self.datagram[..NUMBER].copy_from_slice(&self.sent.count.to_le_bytes());
        self.sent.count += 1;
        self.sent.longest_gap_us = self.gaps.longest.as_micros() as u64;
        &self.datagram
    }

    /// The one that ends the stream; [`LAST_REPEATED`] of them are to be sent.
    pub fn last(&mut self) -> &[u8] {
        self.datagram[..NUMBER].copy_from_slice(&LAST.to_le_bytes());
        &self.datagram
    }

    /// What was sent so far.
    pub fn sent(&self) -> Sent {
        self.sent
    }
}

/// Sends a datagram of `bytes` every `interval` to `receiver` until standard input
/// ends.
pub fn send(receiver: &str, interval: Duration, bytes: usize) -> Result<Sent> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(receiver).with_context(|| format!("connecting to {receiver}"))?;
    let (ended, wait_ended) = mpsc::channel::<()>();
    thread::spawn(move || {
        // An error is an end as well.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        drop(ended);
    });
    let mut sender = Sender::new(bytes);
    while wait_ended.recv_timeout(interval) == Err(mpsc::RecvTimeoutError::Timeout) {
        // What the network refuses is lost; the receiver counts.
        let _ = socket.send(sender.next(Instant::now()));
    }
    for _ in 0..LAST_REPEATED {
        let _ = socket.send(sender.last());
        thread::sleep(interval);
    }
    Ok(sender.sent())
}

/// Receives a stream on `port` to its end.
pub fn receive(port: u16) -> Result<Report> {
    let socket = super::listen(port)?;
    socket.set_read_timeout(Some(SILENCE))?;
    let mut tally = Tally::default();
    let mut datagram = [0; 2048];
    while !tally.ended() {
        match socket.recv(&mut datagram) {
            Ok(n) => tally.datagram(&datagram[..n], Instant::now())?,
            Err(_) => break,
        }
    }
    Ok(tally.report)
}

/// The longest time between two events.
#[derive(Default)]
struct Gaps {
    last: Option<Instant>,
    longest: Duration,
}

impl Gaps {
    fn pass(&mut self, now: Instant) {
        if let Some(last) = self.last.replace(now) {
            self.longest = self.longest.max(now.duration_since(last));
        }
    }
}

/// Counts what arrives of a stream.
#[derive(Default)]
pub struct Tally {
    report: Report,
    ended: bool,
    next: u64,
    missing: BTreeSet<u64>,
    gaps: Gaps,
}

impl Tally {
    /// Takes what arrived.
    pub fn datagram(&mut self, datagram: &[u8], now: Instant) -> Result<()> {
        match datagram.first_chunk() {
            Some(number) => match u64::from_le_bytes(*number) {
                LAST => self.ended = true,
                number => self.count(number, now),
            },
            None => bail!("a datagram of {} bytes", datagram.len()),
        }
        Ok(())
    }

    /// Whether a datagram is the end of a stream.
    pub fn is_end(datagram: &[u8]) -> bool {
        datagram.starts_with(&LAST.to_le_bytes())
    }

    /// Whether the stream is at its end.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// What arrived so far.
    pub fn report(&self) -> Report {
        self.report
    }

    fn count(&mut self, number: u64, now: Instant) {
        self.gaps.pass(now);
        self.report.longest_gap_us = self.gaps.longest.as_micros() as u64;
        if number >= self.next {
            self.missing.extend(self.next..number);
            self.next = number + 1;
        } else if self.missing.remove(&number) {
            self.report.late += 1;
        } else {
            self.report.repeated += 1;
            return;
        }
        self.report.received += 1;
        self.report.lost = self.missing.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_sender_makes_a_tally_counts() {
        let start = Instant::now();
        let mut sender = Sender::new(1400);
        let mut tally = Tally::default();
        for n in 0..10 {
            let now = start + Duration::from_millis(if n < 7 { n } else { 90 + n });
            let datagram = sender.next(now);
            assert_eq!(datagram.len(), 1400);
            if n != 4 {
                tally.datagram(datagram, now).unwrap();
            }
        }
        assert!(!tally.ended());
        tally.datagram(sender.last(), start).unwrap();
        assert!(tally.ended() && tally.datagram(&[0; 7], start).is_err());
        assert_eq!(sender.sent(), Sent { count: 10, longest_gap_us: 91_000 });
        let report = tally.report();
        assert_eq!((report.received, report.lost, report.longest_gap_us), (9, 1, 91_000));
    }

    #[test]
    fn losses_disorder_and_gaps_are_counted() {
        let start = Instant::now();
        let mut tally = Tally::default();
        for (number, ms) in [(0, 0), (1, 10), (4, 250), (3, 260), (1, 270), (5, 280)] {
            tally.count(number, start + Duration::from_millis(ms));
        }
        let expected =
            Report { received: 5, lost: 1, late: 1, repeated: 1, longest_gap_us: 240_000 };
        assert_eq!(tally.report, expected);
        assert_eq!(tally.report.to_string().parse::<Report>().unwrap(), expected);
        assert!("received 1".parse::<Report>().is_err());
        let sent = Sent { count: 6, longest_gap_us: 30 };
        assert_eq!(sent.to_string().parse::<Sent>().unwrap(), sent);
    }
}
