//! The peer without an emulator: its wire's other end is the tests'.

use super::station::Station;
use super::*;
use std::net::SocketAddr;

use crate::agent::stream::{Sender, Tally};
use crate::observe::wire::{Frame, LONGEST_JUMBO};
use etherparse::{PacketBuilder, PacketBuilderStep, SlicedPacket, TransportSlice};

const GUEST: Mac = Mac([0, 0x16, 0x3E, 0, 0, 1]);
const GUEST_IP: [u8; 4] = [10, 0, 2, 101];

/// A station and the other end of its wire.
struct Bench {
    station: Station,
    wire: UnixDatagram,
    now: Instant,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(None)
    }

    fn with(gateway: Option<UnixDatagram>) -> Bench {
        let (ours, theirs) = nonblocking_pair();
        // Nobody serves there; these tests make no connection.
        let server = SocketAddr::from(([127, 0, 0, 1], 9));
        let now = Instant::now();
        Bench {
            station: Station::new(Arc::new(ours), gateway.map(Arc::new), server, now),
            wire: theirs,
            now,
        }
    }

    /// The peer knows the guest.
    fn introduced() -> Bench {
        let mut bench = Bench::new();
        bench.send(&arp_request());
        bench.pass();
        let reply = bench.receive().expect("an ARP reply");
        assert_eq!((&reply[..6], &reply[6..12]), (&GUEST.0[..], &MAC.0[..]));
        assert_eq!(reply[20..22], [0, 2], "a reply");
        assert_eq!(reply[28..32], IP.octets());
        bench
    }

    fn send(&self, frame: &[u8]) {
        self.wire.send(frame).unwrap();
    }

    fn receive(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 70_000];
        let length = self.wire.recv(&mut frame).ok()?;
        frame.truncate(length);
        Some(frame)
    }

    fn pass(&mut self) {
        self.now += Duration::from_millis(1);
        self.station.pass(self.now);
    }

    /// What the station sends after a frame that got there.
    fn answer(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        self.send(frame);
        self.pass();
        self.receive()
    }
}

fn nonblocking_pair() -> (UnixDatagram, UnixDatagram) {
    let pair = UnixDatagram::pair().unwrap();
    pair.0.set_nonblocking(true).unwrap();
    pair.1.set_nonblocking(true).unwrap();
    pair
}

fn arp_request() -> Vec<u8> {
    arp_request_for(IP)
}

fn arp_request_for(ip: Ipv4Addr) -> Vec<u8> {
    let mut frame = [&[0xFF; 6][..], &GUEST.0, &[0x08, 0x06]].concat();
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend([&GUEST.0[..], &GUEST_IP, &[0; 6], &ip.octets()].concat());
    frame.resize(60, 0);
    frame
}

fn ip() -> PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2(GUEST.0, MAC.0).ipv4(GUEST_IP, IP.octets(), 64)
}

fn ping() -> Vec<u8> {
    let mut frame = Vec::new();
    ip().icmpv4_echo_request(77, 3).write(&mut frame, b"there and back again").unwrap();
    frame
}

fn datagram(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ip().udp(40_000, port).write(&mut frame, payload).unwrap();
    frame.resize(frame.len().max(60), 0);
    frame
}

/// The payload of a UDP frame and the port it is for.
fn payload(frame: &[u8]) -> (u16, Vec<u8>) {
    match SlicedPacket::from_ethernet(frame).unwrap().transport {
        Some(TransportSlice::Udp(udp)) => (udp.destination_port(), udp.payload().to_vec()),
        other => panic!("{other:?}"),
    }
}

/// It hears what is for it and nothing else; what it sends is nobody's fault.
#[test]
fn the_gateway_is_reached_through_the_peer() {
    let (ours, gateway) = nonblocking_pair();
    let mut bench = Bench::with(Some(ours));
    let to_gateway = [&[0x52, 0x55, 10, 0, 2, 2][..], &GUEST.0, &[0; 60]].concat();
    let mut heard = [0; 100];
    for (frame, is_heard) in [
        (arp_request_for(gateway::IP), true),
        (to_gateway, true),
        (arp_request(), false),
        ([&MAC.0[..], &GUEST.0, &[0; 60]].concat(), false),
    ] {
        bench.send(&frame);
        bench.pass();
        let length = gateway.recv(&mut heard).unwrap_or(0);
        assert_eq!(&heard[..length], if is_heard { &frame[..] } else { &[] });
    }
    while bench.receive().is_some() {}
    bench.station.watch().take();
    gateway.send(b"anything").unwrap();
    bench.pass();
    assert_eq!(bench.receive().as_deref(), Some(&b"anything"[..]));
    assert_eq!(bench.station.watch().take().frames, 0);
}

#[test]
fn it_answers_ping() {
    let mut bench = Bench::introduced();
    let reply = bench.answer(&ping()).expect("a reply");
    Frame(&reply).check().unwrap();
    assert!(reply.ends_with(b"there and back again") && reply[34] == 0, "{:?}", Frame(&reply));
}

#[test]
fn it_echoes_datagrams() {
    let mut bench = Bench::introduced();
    let reply = bench.answer(&datagram(ECHO_PORT, b"hello")).expect("an echo");
    Frame(&reply).check().unwrap();
    assert_eq!(payload(&reply), (40_000, b"hello".to_vec()));
}

#[test]
fn it_judges_every_frame() {
    let mut bench = Bench::introduced();
    bench.station.watch().expect(BTreeSet::from([GUEST]));
    let mut tcp = Vec::new();
    ip().tcp(1, 2, 3, 4).write(&mut tcp, &[5; 200]).unwrap();
    let right = [arp_request(), ping(), datagram(9, b"x"), tcp.clone()];
    right.iter().for_each(|frame| bench.send(frame));
    bench.pass();
    let seen = bench.station.watch().take();
    assert_eq!((seen.frames, seen.faults), (5, 0), "{seen:?}");

    let flip = |frame: &[u8], at: usize| {
        let mut frame = frame.to_vec();
        frame[at] ^= 1;
        frame
    };
    let wrong = [
        ("IPv4 header checksum", flip(&tcp, 22)),
        ("TCP checksum", flip(&tcp, 100)),
        ("UDP checksum", flip(&datagram(9, &[1; 60]), 80)),
        ("ICMP checksum", flip(&ping(), 50)),
        ("from who must not send here", flip(&tcp, 9)),
        ("bytes", [&tcp[..], &[0]].concat()),
        ("bytes", [&tcp[..12], &[0; 1503]].concat()),
        ("", tcp[..100].to_vec()),
    ];
    for (why, frame) in wrong {
        bench.send(&frame);
        bench.pass();
        let seen = bench.station.watch().take();
        assert_eq!(seen.faults, 1, "{why}");
        assert!(seen.first_faults[0].contains(why), "{why}: {seen:?}");
    }
}

#[test]
fn it_counts_streams() {
    let mut bench = Bench::introduced();
    let from = Ipv4Addr::from(GUEST_IP);
    for _ in 0..2 {
        let mut sender = Sender::new(100);
        for n in 0..10 {
            let number = sender.next(bench.now).to_vec();
            if n != 6 {
                bench.send(&datagram(STREAM_PORT, &number));
                bench.pass();
            }
        }
        assert!(bench.station.ended_arrivals(from).is_none());
        bench.send(&datagram(STREAM_PORT, sender.last()));
        bench.pass();
        let report = bench.station.ended_arrivals(from).expect("the stream ended").report();
        assert_eq!((report.received, report.lost, report.repeated), (9, 1, 0));
        // Its end is told again.
        bench.send(&datagram(STREAM_PORT, sender.last()));
        bench.pass();
        assert!(bench.station.ended_arrivals(from).is_none());
    }
}

#[test]
fn it_sends_streams() {
    let mut bench = Bench::introduced();
    let to = SocketAddrV4::new(GUEST_IP.into(), 1234);
    bench.station.begin_stream(to, Duration::from_millis(2), 300, bench.now);
    let mut tally = Tally::default();
    for n in 0..1000 {
        bench.pass();
        if n == 50 {
            assert!(bench.station.ended_stream(to).is_none());
            bench.station.end_stream(to);
        }
        if let Some(frame) = bench.receive() {
            Frame(&frame).check().unwrap();
            let (port, number) = payload(&frame);
            assert_eq!((port, number.len()), (1234, 300));
            tally.datagram(&number, bench.now).unwrap();
        }
    }
    let sent = bench.station.ended_stream(to).expect("the stream ended");
    assert!(tally.ended());
    assert_eq!((tally.report().received, tally.report().lost), (sent.count, 0));
    assert!((20..30).contains(&sent.count), "{sent}");
}

#[test]
fn a_stalled_peer_does_nothing_and_goes_on_where_it_was() {
    let mut bench = Bench::introduced();
    bench.station.set_stalled(true);
    assert!(bench.answer(&ping()).is_none());
    bench.station.set_stalled(false);
    bench.pass();
    assert!(bench.receive().expect("a late reply").ends_with(b"there and back again"));
}

#[test]
fn what_the_wire_has_no_room_for_waits_its_turn() {
    let mut bench = Bench::introduced();
    let pings = 2000;
    let mut replies = Vec::new();
    for n in 0..pings {
        let mut frame = Vec::new();
        ip().icmpv4_echo_request(77, n).write(&mut frame, &[0; 1000]).unwrap();
        // Nobody reads the replies until there is no room for requests either.
        while bench.wire.send(&frame).is_err() {
            bench.pass();
            replies.extend(bench.receive());
        }
    }
    while replies.len() < usize::from(pings) {
        bench.pass();
        replies.push(bench.receive().expect("no reply is lost"));
    }
    for (n, reply) in replies.iter().enumerate() {
        Frame(reply).check().unwrap();
        assert_eq!(reply[40..42], (n as u16).to_be_bytes(), "in order");
    }
}

#[test]
fn it_serves_hashed_transfers_beside_garbage() {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    let peer = WirePeer::start(Wire { nic: ours, gateway: None }).unwrap();
    peer.expect_only(BTreeSet::from([GUEST]));
    // Both are stations of ours, which take jumbo frames.
    peer.allow(LONGEST_JUMBO);
    let guest = client::start(theirs, GUEST, GUEST_IP.into(), LONGEST_JUMBO).unwrap().to_string();
    assert_eq!(transfer::put(&guest, 3).unwrap().bytes, 3 << 20);
    assert_eq!(transfer::get(&guest, 3).unwrap().bytes, 3 << 20);

    let victims = vec![(GUEST, GUEST_IP)];
    peer.begin_litter(Garbage::new(1, victims), Duration::from_micros(100));
    transfer::get(&guest, 2).unwrap();
    transfer::put(&guest, 2).unwrap();
    let sent = peer.end_litter();
    assert!(KINDS.iter().all(|kind| sent.get(kind).is_some_and(|count| *count > 0)), "{sent:?}");
    transfer::get(&guest, 1).unwrap();

    let seen = peer.take_seen();
    assert_eq!(seen.faults, 0, "{:?}", seen.first_faults);
    // At least what carried the data to it.
    assert!(seen.frames > (5 << 20) / LONGEST_JUMBO as u64, "{}", seen.frames);
}
