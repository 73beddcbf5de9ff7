//! The peer's link to the wire: a datagram socket, each datagram a frame.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use super::gateway::Gateway;
use crate::observe::wire::{Frame, LONGEST_JUMBO, Watch};

/// What the emulator hands over at most.
pub(super) const LARGEST_DATAGRAM: usize = 4096 + 65536;

/// Frames that may wait until the wire has room again.
const BACKLOG: usize = 64;

/// Looks at what comes in and keeps what the wire has no room for.
pub(super) struct Link {
    /// Judges what comes in.
    pub(super) watch: Watch,
    /// The longest frame that the stack sends.
    pub(super) longest: usize,
    gateway: Option<Gateway>,
    outlet: Outlet,
    received: Box<[u8]>,
    ended: bool,
}

/// The way out.
pub(super) struct Outlet {
    socket: Arc<UnixDatagram>,
    backlog: VecDeque<Vec<u8>>,
    latest: Vec<u8>,
}

impl Link {
    /// A link over `socket`, through which the gateway is reached as well, where there is
    /// one.
    pub(super) fn new(socket: Arc<UnixDatagram>, gateway: Option<Arc<UnixDatagram>>) -> Link {
        Link {
            watch: Watch::default(),
            longest: LONGEST_JUMBO,
            gateway: gateway.map(Gateway::new),
            outlet: Outlet { socket, backlog: VecDeque::new(), latest: Vec::new() },
            received: vec![0; LARGEST_DATAGRAM].into(),
            ended: false,
        }
    }

    /// Whether the other end is gone.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// Whether frames wait for room.
    pub(super) fn is_blocked(&self) -> bool {
        !self.outlet.backlog.is_empty()
    }

    /// Sends what waited, as far as there is room, and then what the gateway sends.
    pub(super) fn flush(&mut self) {
        while let Some(frame) = self.outlet.backlog.pop_front() {
            if !self.outlet.try_send(&frame) {
                self.outlet.backlog.push_front(frame);
                return;
            }
        }
        while let Some(frame) = self.gateway.as_mut().and_then(Gateway::take)
            && self.outlet.send(frame)
        {}
    }

    /// Sends a frame as it is; whether there was room.
    pub(super) fn inject(&mut self, frame: &[u8]) -> bool {
        !self.is_blocked() && self.outlet.try_send(frame)
    }

    /// The latest frame of the stack's own.
    pub(super) fn latest(&self) -> &[u8] {
        &self.outlet.latest
    }

    fn read(&mut self) -> Option<usize> {
        match self.outlet.socket.recv(&mut self.received) {
            Ok(length) => Some(length),
            Err(error) => {
                self.ended |= error.kind() != ErrorKind::WouldBlock;
                None
            }
        }
    }
}

impl Outlet {
    /// Sends a frame now or later; whether there was room.
    fn send(&mut self, frame: &[u8]) -> bool {
        let sent = self.backlog.is_empty() && self.try_send(frame);
        if !sent {
            self.backlog.push_back(frame.to_vec());
        }
        sent
    }

    /// Whether the frame is on its way, or the wire is gone.
    fn try_send(&self, frame: &[u8]) -> bool {
        let result = self.socket.send(frame);
        !result.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

impl Device for Link {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = &'a mut Outlet;

    fn receive(&mut self, _: Instant) -> Option<(Received<'_>, &mut Outlet)> {
        if self.outlet.backlog.len() >= BACKLOG {
            return None;
        }
        let length = self.read()?;
        let frame = &self.received[..length];
        self.watch.look(Frame(frame));
        if let Some(gateway) = &self.gateway {
            gateway.offer(Frame(frame));
        }
        Some((Received(frame), &mut self.outlet))
    }

    fn transmit(&mut self, _: Instant) -> Option<&mut Outlet> {
        (!self.is_blocked()).then_some(&mut self.outlet)
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.longest;
        capabilities
    }
}

/// A frame that came in.
pub(super) struct Received<'a>(&'a [u8]);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(self.0)
    }
}

impl TxToken for &mut Outlet {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let result = fill(&mut frame);
        self.send(&frame);
        self.latest = frame;
        result
    }
}
