//! What the peer does: an IPv4 station with a few services, and a source of streams
//! and of garbage. Nothing in it waits.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::udp;
use smoltcp::time;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};

use super::garbage::{Garbage, Kind};
use super::link::Link;
use super::relay::{self, Relay};
use super::{ECHO_PORT, IP, MAC, SERVER, STREAM_PORT};
use crate::agent::stream::{LAST_REPEATED, Sender, Sent, Tally};
use crate::observe::wire::Watch;

/// TCP connections at a time. One whose partner died is held for a while.
const CONNECTIONS: usize = 24;

/// Datagrams, and bytes of them, that a UDP socket holds in each direction.
const DATAGRAMS: usize = 128;
const DATAGRAM_BYTES: usize = 256 * 1024;

/// Streams that the peer sends come from this port and those above it.
const STREAM_FROM: u16 = 50_000;

/// A file to wait for, and what for.
pub(super) type WaitsFor = (Arc<dyn AsFd + Send + Sync>, PollFlags);

/// The peer.
pub(super) struct Station {
    wire: Arc<UnixDatagram>,
    gateway: Option<Arc<UnixDatagram>>,
    link: Link,
    interface: Interface,
    sockets: SocketSet<'static>,
    started: Instant,
    server: SocketAddr,
    relays: Vec<(SocketHandle, Relay)>,
    echo: SocketHandle,
    arrivals: SocketHandle,
    tallies: BTreeMap<Ipv4Addr, Tally>,
    streams: BTreeMap<SocketAddrV4, Stream>,
    streams_begun: u16,
    litter: Option<Litter>,
    stalled: bool,
}

/// A stream that the peer sends.
struct Stream {
    socket: SocketHandle,
    pace: Pace,
    sender: Sender,
    /// How often its end is still to be told, once it is to end.
    last: Option<usize>,
}

/// Garbage that the peer sends, and what it has sent.
struct Litter {
    garbage: Garbage,
    pace: Pace,
    sent: BTreeMap<Kind, u64>,
}

/// What is done at even times.
struct Pace {
    interval: Duration,
    due: Instant,
}

impl Pace {
    fn new(interval: Duration, now: Instant) -> Pace {
        Pace { interval, due: now }
    }

    /// Whether it is time. What was missed is left out.
    fn is_due(&mut self, now: Instant) -> bool {
        let due = self.due <= now;
        if due {
            self.due = (self.due + self.interval).max(now);
        }
        due
    }
}

impl Station {
    /// A station on `wire`, whose TCP port is that of `server`, and through which the
    /// gateway is reached.
    pub(super) fn new(
        wire: Arc<UnixDatagram>,
        gateway: Option<Arc<UnixDatagram>>,
        server: SocketAddr,
        now: Instant,
    ) -> Station {
        let mut link = Link::new(wire.clone(), gateway.clone());
        let hardware = EthernetAddress(MAC.0).into();
        let mut interface = Interface::new(Config::new(hardware), &mut link, time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::Ipv4(IP), 24)).expect("room for an address");
        });
        let mut sockets = SocketSet::new(Vec::new());
        let relays =
            (0..CONNECTIONS).map(|_| (sockets.add(relay::socket()), Relay::default())).collect();
        let (echo, arrivals) =
            (sockets.add(datagrams(ECHO_PORT)), sockets.add(datagrams(STREAM_PORT)));
        Station {
            wire,
            gateway,
            link,
            interface,
            sockets,
            started: now,
            server,
            relays,
            echo,
            arrivals,
            tallies: BTreeMap::new(),
            streams: BTreeMap::new(),
            streams_begun: 0,
            litter: None,
            stalled: false,
        }
    }

    /// Does all that can be done now.
    pub(super) fn pass(&mut self, now: Instant) {
        if self.stalled {
            return;
        }
        let time = self.time(now);
        self.link.flush();
        self.interface.poll(time, &mut self.link, &mut self.sockets);
        for (handle, relay) in &mut self.relays {
            relay.pump(self.sockets.get_mut(*handle), SERVER.port(), self.server);
        }
        self.echo();
        self.take_arrivals(now);
        self.send_streams(now);
        self.interface.poll(time, &mut self.link, &mut self.sockets);
        self.litter(now);
    }

    /// What to wait for before the next pass, at most until when.
    pub(super) fn waits_for(
        &mut self,
        now: Instant,
        longest: Duration,
    ) -> (Vec<WaitsFor>, Duration) {
        if self.stalled {
            return (Vec::new(), longest);
        }
        let mut files: Vec<WaitsFor> = Vec::new();
        let mut flags = PollFlags::IN;
        flags.set(PollFlags::OUT, self.link.is_blocked());
        files.push((self.wire.clone(), flags));
        // What it sends is not read while there is no room for it.
        let gateway = self.gateway.clone().filter(|_| !self.link.is_blocked());
        files.extend(gateway.map(|socket| (socket as _, PollFlags::IN)));
        for (handle, relay) in &self.relays {
            if let Some((stream, flags)) = relay.waits_for(self.sockets.get(*handle)) {
                files.push((stream, flags));
            }
        }
        let paces = self.streams.values().map(|stream| &stream.pace);
        let paces = paces.chain(self.litter.iter().map(|litter| &litter.pace));
        let mut wait = paces.map(|pace| pace.due - now).fold(longest, Duration::min);
        if !self.link.is_blocked()
            && let Some(delay) = self.interface.poll_delay(self.time(now), &self.sockets)
        {
            wait = wait.min(delay.into());
        }
        (files, wait)
    }

    /// Whether the wire is gone.
    pub(super) fn ended(&self) -> bool {
        self.link.ended()
    }

    /// Who judges what comes in.
    pub(super) fn watch(&mut self) -> &mut Watch {
        &mut self.link.watch
    }

    /// From now on nothing is read and nothing sent, or all as usual.
    pub(super) fn set_stalled(&mut self, stalled: bool) {
        self.stalled = stalled;
    }

    /// Begins to send a stream.
    pub(super) fn begin_stream(
        &mut self,
        to: SocketAddrV4,
        interval: Duration,
        bytes: usize,
        now: Instant,
    ) {
        let port = STREAM_FROM + self.streams_begun % 10_000;
        self.streams_begun += 1;
        let socket = self.sockets.add(datagrams(port));
        let pace = Pace::new(interval, now);
        let stream = Stream { socket, pace, sender: Sender::new(bytes), last: None };
        self.streams.insert(to, stream);
    }

    /// Lets a stream come to its end.
    pub(super) fn end_stream(&mut self, to: SocketAddrV4) {
        if let Some(stream) = self.streams.get_mut(&to) {
            stream.last.get_or_insert(LAST_REPEATED);
        }
    }

    /// What was sent of a stream that has come to its end.
    pub(super) fn ended_stream(&mut self, to: SocketAddrV4) -> Option<Sent> {
        let stream = self.streams.get(&to)?;
        let queue = self.sockets.get::<udp::Socket>(stream.socket).send_queue();
        if stream.last != Some(0) || queue > 0 {
            return None;
        }
        let stream = self.streams.remove(&to)?;
        self.sockets.remove(stream.socket);
        Some(stream.sender.sent())
    }

    /// What arrived of a stream that has come to its end.
    pub(super) fn ended_arrivals(&mut self, from: Ipv4Addr) -> Option<Tally> {
        if !self.tallies.get(&from)?.ended() {
            return None;
        }
        self.tallies.remove(&from)
    }

    /// Begins to send a burst of garbage each `interval`.
    pub(super) fn begin_litter(&mut self, garbage: Garbage, interval: Duration, now: Instant) {
        let pace = Pace::new(interval, now);
        self.litter = Some(Litter { garbage, pace, sent: BTreeMap::new() });
    }

    /// No more garbage; what was sent of each kind.
    pub(super) fn end_litter(&mut self) -> BTreeMap<Kind, u64> {
        self.litter.take().map_or_else(BTreeMap::new, |litter| litter.sent)
    }

    fn time(&self, now: Instant) -> time::Instant {
        time::Instant::from_micros((now - self.started).as_micros() as i64)
    }

    fn echo(&mut self) {
        let socket = self.sockets.get_mut::<udp::Socket>(self.echo);
        while let Ok((data, from)) = socket.recv() {
            let data = data.to_vec();
            // Without room it is lost, as a datagram may be.
            let _ = socket.send_slice(&data, from);
        }
    }

    fn take_arrivals(&mut self, now: Instant) {
        let socket = self.sockets.get_mut::<udp::Socket>(self.arrivals);
        while let Ok((data, from)) = socket.recv() {
            let IpAddress::Ipv4(from) = from.endpoint.addr;
            // The end is told more than once: no stream begins with it.
            if Tally::is_end(data) && !self.tallies.contains_key(&from) {
                continue;
            }
            // What is no datagram of a stream belongs to none.
            let _ = self.tallies.entry(from).or_default().datagram(data, now);
        }
    }

    fn send_streams(&mut self, now: Instant) {
        for (to, stream) in &mut self.streams {
            if stream.last == Some(0) || !stream.pace.is_due(now) {
                continue;
            }
            let datagram = match &mut stream.last {
                None => stream.sender.next(now),
                Some(left) => {
                    *left -= 1;
                    stream.sender.last()
                }
            };
            let socket = self.sockets.get_mut::<udp::Socket>(stream.socket);
            // Without room its number is lost; the receiver counts.
            let _ = socket.send_slice(datagram, *to);
        }
    }

    fn litter(&mut self, now: Instant) {
        let Some(litter) = &mut self.litter else { return };
        if !litter.pace.is_due(now) {
            return;
        }
        let (kind, frames) = litter.garbage.burst(self.link.latest());
        for frame in frames {
            if self.link.inject(&frame) {
                *litter.sent.entry(kind).or_default() += 1;
            }
        }
    }
}

/// A UDP socket bound to `port`.
fn datagrams(port: u16) -> udp::Socket<'static> {
    let buffer = || {
        let metadata = vec![udp::PacketMetadata::EMPTY; DATAGRAMS];
        udp::PacketBuffer::new(metadata, vec![0; DATAGRAM_BYTES])
    };
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(port).expect("a new socket and a port that is not zero");
    socket
}
