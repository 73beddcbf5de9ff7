//! The peer on the NIC's wire: a station of ours on the wire's other end, through which
//! the emulator's user-mode network is reached as well.
//!
//! It answers ARP and ping, echoes datagrams, counts streams, serves hashed
//! transfers, and judges every frame that the NIC sends. It can also stall, and send
//! what no honest station sends.

pub mod client;
mod garbage;
pub mod gateway;
mod link;
mod relay;
mod station;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, Timespec, poll};

use crate::agent::stream::{Report, Sent};
use crate::agent::transfer;
use crate::observe::wire::{Mac, Seen};
use station::Station;

pub use garbage::{Garbage, KINDS, Kind};

/// Its Ethernet address.
pub const MAC: Mac = Mac([0x52, 0x54, 0x00, 0xCA, 0x05, 0x77]);

/// Its IPv4 address, in a network of 24 bits.
pub const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 77);

/// Datagrams that it gets here go back.
pub const ECHO_PORT: u16 = 7;

/// Hashed transfers are served here.
pub const SERVER: SocketAddrV4 = SocketAddrV4::new(IP, 7000);

/// Streams that it gets here are counted.
pub const STREAM_PORT: u16 = 7100;

/// How soon what it is told has an effect.
const ATTENTION: Duration = Duration::from_millis(20);

/// The emulator's ends of the wire, each datagram a frame.
pub struct Wire {
    /// The NIC's.
    pub nic: UnixDatagram,
    /// The user-mode network's, where there is one.
    pub gateway: Option<UnixDatagram>,
}

/// The peer. It ends when this is dropped, or with the wire.
pub struct WirePeer {
    shared: Arc<Shared>,
}

struct Shared {
    station: Mutex<Station>,
    /// The station did what it could.
    passed: Condvar,
    dropped: AtomicBool,
}

impl WirePeer {
    /// Starts the peer on `wire`.
    pub fn start(wire: Wire) -> Result<WirePeer> {
        for socket in [Some(&wire.nic), wire.gateway.as_ref()].into_iter().flatten() {
            socket.set_nonblocking(true)?;
        }
        let gateway = wire.gateway.map(Arc::new);
        // The stack's connections lead here.
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let server = listener.local_addr()?;
        thread::spawn(move || transfer::serve(&listener));
        let shared = Arc::new(Shared {
            station: Mutex::new(Station::new(Arc::new(wire.nic), gateway, server, Instant::now())),
            passed: Condvar::new(),
            dropped: AtomicBool::new(false),
        });
        let peer = WirePeer { shared: shared.clone() };
        thread::spawn(move || {
            if let Err(error) = shared.run() {
                eprintln!("lab: the peer on the wire: {error}");
            }
        });
        Ok(peer)
    }

    /// From now on nobody but these may send to it.
    pub fn expect_only(&self, senders: BTreeSet<Mac>) {
        self.station().watch().expect(senders);
    }

    /// From now on frames that are sent to it may be so long.
    pub fn allow(&self, longest: usize) {
        self.station().watch().allow(longest);
    }

    /// What it saw since the last call, up to what the NIC has sent now.
    pub fn take_seen(&self) -> Seen {
        let mut station = self.station();
        station.pass(Instant::now());
        station.watch().take()
    }

    /// It neither reads nor sends.
    pub fn stall(&self) {
        self.station().set_stalled(true);
    }

    /// It goes on after [`WirePeer::stall`].
    pub fn go_on(&self) {
        self.station().set_stalled(false);
    }

    /// What arrived of the stream from a station, once that has ended.
    pub fn stream_from(&self, from: Ipv4Addr, limit: Duration) -> Result<Report> {
        let tally = self.wait(limit, |station| station.ended_arrivals(from));
        Ok(tally.with_context(|| format!("no stream from {from} ended"))?.report())
    }

    /// Begins to send a numbered datagram of `bytes` each `interval`.
    pub fn begin_stream(&self, to: SocketAddrV4, interval: Duration, bytes: usize) {
        self.station().begin_stream(to, interval, bytes, Instant::now());
    }

    /// Ends a stream; what was sent of it.
    pub fn end_stream(&self, to: SocketAddrV4, limit: Duration) -> Result<Sent> {
        self.station().end_stream(to);
        let sent = self.wait(limit, |station| station.ended_stream(to));
        sent.with_context(|| format!("the stream to {to} does not end"))
    }

    /// Begins to send a burst of garbage each `interval`.
    pub fn begin_litter(&self, garbage: Garbage, interval: Duration) {
        self.station().begin_litter(garbage, interval, Instant::now());
    }

    /// Ends the garbage; how many frames of each kind were sent.
    pub fn end_litter(&self) -> BTreeMap<Kind, u64> {
        self.station().end_litter()
    }

    fn station(&self) -> MutexGuard<'_, Station> {
        self.shared.station.lock().unwrap()
    }

    /// Waits until the station gives what is asked for.
    fn wait<T>(
        &self,
        limit: Duration,
        mut ask: impl FnMut(&mut Station) -> Option<T>,
    ) -> Option<T> {
        let until = Instant::now() + limit;
        let mut station = self.station();
        loop {
            if let Some(answer) = ask(&mut station) {
                return Some(answer);
            }
            let left = until.checked_duration_since(Instant::now())?;
            station = self.shared.passed.wait_timeout(station, left).unwrap().0;
        }
    }
}

impl Drop for WirePeer {
    fn drop(&mut self) {
        self.shared.dropped.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn run(&self) -> io::Result<()> {
        while !self.dropped.load(Ordering::Relaxed) {
            let (files, wait) = {
                let mut station = self.station.lock().unwrap();
                let now = Instant::now();
                station.pass(now);
                if station.ended() {
                    break;
                }
                station.waits_for(now, ATTENTION)
            };
            self.passed.notify_all();
            let mut files: Vec<PollFd> = files
                .iter()
                .map(|(file, flags)| PollFd::from_borrowed_fd(file.as_fd(), *flags))
                .collect();
            let wait = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
            match poll(&mut files, Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
