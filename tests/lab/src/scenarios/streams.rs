//! Numbered streams beside what else goes on: what becomes of them is what others
//! notice of it.

use std::fmt;
use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::agent::stream::{Report, Sent};
use crate::client::{Agent, Running};
use crate::wire_peer::{self, WirePeer};
use crate::world::Peer;

/// Where guests receive streams from guests, and from the wire.
const PORT: u16 = 7100;
const PORT_FROM_WIRE: u16 = 7101;

/// A datagram each.
const INTERVAL: Duration = Duration::from_millis(20);

/// Larger than what a backend copies with the headers.
const BYTES: usize = 1000;

/// A silence that is longer than the sender's own by this is an interruption, even on
/// a slow machine.
const INTERRUPTION: Duration = Duration::from_secs(2);

/// How long a stream may take at most.
const SECONDS: u32 = 1800;

/// How long the end of a stream may take to arrive.
const END: Duration = Duration::from_secs(30);

/// A stream from a guest to another.
pub(super) struct Stream {
    sender: Running,
    receiver: Running,
}

impl Stream {
    pub(super) fn start(from: &Peer, to: &Peer) -> Result<Stream> {
        let receiver = receive(&to.agent, PORT)?;
        Ok(Stream { sender: send(&from.agent, SocketAddrV4::new(to.ip, PORT))?, receiver })
    }

    pub(super) fn end(self) -> Result<Outcome> {
        self.sender.close_stdin()?;
        let sent = self.sender.wait()?.stdout.trim().parse()?;
        Ok(Outcome { sent, report: self.receiver.wait()?.stdout.trim().parse()? })
    }
}

/// A stream from a guest to the wire.
pub(super) struct OutwardStream<'a> {
    sender: Running,
    from: &'a Peer,
}

impl OutwardStream<'_> {
    pub(super) fn start(from: &Peer) -> Result<OutwardStream<'_>> {
        let to = SocketAddrV4::new(wire_peer::IP, wire_peer::STREAM_PORT);
        Ok(OutwardStream { sender: send(&from.agent, to)?, from })
    }

    pub(super) fn end(self, wire_peer: &WirePeer) -> Result<Outcome> {
        self.sender.close_stdin()?;
        let sent = self.sender.wait()?.stdout.trim().parse()?;
        Ok(Outcome { sent, report: wire_peer.stream_from(self.from.ip, END)? })
    }
}

/// A stream from the wire to a guest.
pub(super) struct InwardStream {
    receiver: Running,
    to: SocketAddrV4,
}

impl InwardStream {
    pub(super) fn start(wire_peer: &WirePeer, to: &Peer) -> Result<InwardStream> {
        let receiver = receive(&to.agent, PORT_FROM_WIRE)?;
        let to = SocketAddrV4::new(to.ip, PORT_FROM_WIRE);
        wire_peer.begin_stream(to, INTERVAL, BYTES);
        Ok(InwardStream { receiver, to })
    }

    pub(super) fn end(self, wire_peer: &WirePeer) -> Result<Outcome> {
        let sent = wire_peer.end_stream(self.to, END)?;
        Ok(Outcome { sent, report: self.receiver.wait()?.stdout.trim().parse()? })
    }
}

fn send(from: &Agent, to: SocketAddrV4) -> Result<Running> {
    let ms = INTERVAL.as_millis();
    from.start(&format!("exec lab-agent stream-send {to} {ms} {BYTES}"), SECONDS)
}

fn receive(to: &Agent, port: u16) -> Result<Running> {
    let mut receiver = to.start(&format!("exec lab-agent stream-receive {port}"), SECONDS)?;
    receiver.wait_line("listening")?;
    Ok(receiver)
}

/// What became of a stream.
pub(super) struct Outcome {
    sent: Sent,
    report: Report,
}

impl Outcome {
    pub(super) fn lost(&self) -> u64 {
        self.sent.count - self.report.received
    }

    /// Fails if the stream ever stopped, or lost more than a hundredth.
    pub(super) fn undisturbed(self) -> Result<Outcome> {
        let gap = Duration::from_micros(self.report.longest_gap_us);
        let senders = Duration::from_micros(self.sent.longest_gap_us);
        if gap > senders + INTERRUPTION
            || self.lost() * 100 > self.sent.count
            || self.report.repeated > 0
        {
            bail!("a stream was disturbed: {self}, {}", self.report);
        }
        Ok(self)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} datagrams, {} lost, longest gap {} ms (the sender's {} ms)",
            self.sent.count,
            self.lost(),
            self.report.longest_gap_us / 1000,
            self.sent.longest_gap_us / 1000
        )
    }
}
