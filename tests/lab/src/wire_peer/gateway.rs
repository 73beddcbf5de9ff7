//! The emulator's user-mode network, joined to the wire through the peer: another
//! stack than the peer's own for guests to reach. It hears only what is for it, since it
//! answers in the name of whoever it hears spoken to.

use std::net::Ipv4Addr;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use super::link::LARGEST_DATAGRAM;
use crate::observe::wire::{Frame, Mac};

/// The gateway's IPv4 address.
pub const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// Its Ethernet address, which the emulator makes from the other.
const MAC: Mac = Mac([0x52, 0x55, 10, 0, 2, 2]);

/// The way to it, each datagram a frame.
pub(super) struct Gateway {
    pub(super) socket: Arc<UnixDatagram>,
    received: Box<[u8]>,
}

impl Gateway {
    pub(super) fn new(socket: Arc<UnixDatagram>) -> Gateway {
        Gateway { socket, received: vec![0; LARGEST_DATAGRAM].into() }
    }

    /// Passes a frame on, if it is for the gateway. Without room it is lost, as on any
    /// wire.
    pub(super) fn offer(&self, frame: Frame) {
        if frame.destination() == Some(MAC) || asks_for(frame, IP) {
            let _ = self.socket.send(frame.0);
        }
    }

    /// The next frame from it.
    pub(super) fn take(&mut self) -> Option<&[u8]> {
        let length = self.socket.recv(&mut self.received).ok()?;
        Some(&self.received[..length])
    }
}

/// Whether a frame is an ARP packet that names `ip` as its target.
fn asks_for(frame: Frame, ip: Ipv4Addr) -> bool {
    frame.0.get(12..14) == Some(&[0x08, 0x06]) && frame.0.get(38..42) == Some(&ip.octets())
}
