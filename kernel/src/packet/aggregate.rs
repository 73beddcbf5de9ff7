//! TCP segments from the wire that go on as one packet.
//!
//! Segments of one stream that came together are put together where cutting the whole
//! again ([`Segments`](super::Segments)) makes of it just what came. So they follow each
//! other without a gap, all but the last are of one length, and they are alike in all that
//! segments of one packet have in common: addresses and tags, all of IP's fields but
//! length, identification and checksum, the acknowledgement, the window and all options,
//! timestamps among them. Whoever takes such a packet whole has one to look at instead of
//! many; for all others it is cut, with nothing lost but the time. That their TCP checksums
//! are right is for the NIC to know: whoever gets the whole, or a segment of it, is told no
//! more than that.
//!
//! Identifications follow each other, too, unless nobody may fragment the packets: then
//! they mean nothing (RFC 6864, section 4.1).

use alloc::boxed::Box;
use core::mem;
use core::ops::Range;

use super::gso::{
    CHECKSUM, FIN_PSH, FLAGS, Gso, SEQUENCE, V4_CHECKSUM, V4_IDENTIFICATION, V4_LENGTH, V6_HEADER,
    V6_LENGTH, be16, put16,
};
use super::headers::{HeaderError, Protocol, Transport, Version};
use super::{Batch, Checksum, Fragment, Linear, MAX_OWN_FRAGMENTS, Meta, Packet, checksum};
use crate::Pools;
use crate::memory::Buffers;

/// How many streams are looked at at once.
const STREAMS: usize = 8;
/// The longest packet (NETBACK-SPEC P-8).
const LONGEST: usize = 65_535;

/// Bytes of an IPv4 header without options.
const V4_HEADER: usize = 20;
/// Don't Fragment, in the byte behind the identification.
const DONT_FRAGMENT: u8 = 1 << 6;
/// Where a TCP header has its acknowledgement, its length, its window, and what is behind its
/// checksum.
const ACKNOWLEDGEMENT: usize = 8;
const DATA_OFFSET: usize = 12;
const WINDOW: usize = 14;
const URGENT: usize = 18;
/// The flag that every segment of a stream has, and none but those that end a packet beside.
const ACK: u8 = 1 << 4;

/// Puts segments in a batch together, in the place of the first of them. Only those are
/// whose checksum was [validated](Checksum::Validated). What belongs to one stream stays
/// in order. Returns how many packets fewer the batch has.
pub fn aggregate(batch: &mut Batch, pools: &mut Pools) -> usize {
    let before = batch.len();
    if before < 2 {
        return 0;
    }
    let mut streams = Streams::default();
    for packet in mem::take(batch) {
        let rest = streams.add(packet, batch, pools);
        if let Some(packet) = rest
            && let Err(packet) = batch.push_back(packet)
        {
            pools.give(packet);
        }
    }
    while let Some(open) = streams.open.pop() {
        open.close(batch, pools);
    }
    before - batch.len()
}

/// What a packet has to do with streams.
enum Kind {
    /// It is a part of one, and maybe fit to be put together with others.
    Tcp(Transport, Option<Segment>),
    /// It may be a part of any: what it is of is not seen.
    Opaque,
    Other,
}

/// What has to be known of a segment that may be put together with others.
#[derive(Clone, Copy)]
struct Segment {
    /// How long its headers are, and what follows them.
    headers: usize,
    payload: usize,
    sequence: u32,
    /// IPv4's identification, where it means anything.
    identification: Option<u16>,
    /// Flags that end a packet.
    ends: u8,
}

/// A packet in the batch that may get longer.
struct Open {
    place: usize,
    transport: Transport,
    /// The first of its segments, which says how long they are.
    first: Segment,
    /// How many there are, and the sequence number of the next.
    count: usize,
    next: u32,
    ends: u8,
}

/// Packets that may get longer, each of another stream.
#[derive(Default)]
struct Streams {
    open: heapless::Vec<Open, STREAMS>,
}

impl Streams {
    /// Adds a packet to one that is open, or hands it back.
    fn add(
        &mut self,
        mut packet: Box<Packet>,
        batch: &mut Batch,
        pools: &mut Pools,
    ) -> Option<Box<Packet>> {
        let (transport, segment) = match kind(&packet, &pools.buffers) {
            Kind::Tcp(transport, segment) => (transport, segment),
            Kind::Other => return Some(packet),
            Kind::Opaque => {
                while let Some(open) = self.open.pop() {
                    open.close(batch, pools);
                }
                return Some(packet);
            }
        };
        let headers = packet.headers(&pools.buffers);
        let place = self
            .open
            .iter()
            .position(|open| open.is_of(&transport, headers, batch, &pools.buffers));
        if let Some(place) = place {
            let mut open = self.open.swap_remove(place);
            if let Some(segment) = segment
                && open.takes(&segment, &packet, batch, &pools.buffers)
            {
                open.join(&segment, packet, batch, pools);
                match open.is_full(&segment) {
                    true => open.close(batch, pools),
                    false => self.put(open, batch, pools),
                }
                return None;
            }
            open.close(batch, pools);
        }
        if let Some(first) = segment
            && first.ends == 0
            && first.payload >= Gso::MIN_MSS.into()
            && packet.owns_headers(&mut pools.buffers)
        {
            let next = first.sequence.wrapping_add(first.payload as u32);
            let open = Open { place: batch.len(), transport, first, count: 1, next, ends: 0 };
            self.put(open, batch, pools);
        }
        Some(packet)
    }

    /// Adds an open packet, in place of another where there are too many.
    fn put(&mut self, open: Open, batch: &mut Batch, pools: &mut Pools) {
        if self.open.is_full() {
            self.open.swap_remove(0).close(batch, pools);
        }
        // There is room.
        let _ = self.open.push(open);
    }
}

impl Open {
    /// Whether a packet is of the same stream.
    fn is_of(&self, other: &Transport, headers: &[u8], batch: &Batch, buffers: &Buffers) -> bool {
        let Some(own) = batch.get(self.place).map(|packet| packet.headers(buffers)) else {
            return false;
        };
        let same = |range: Range<usize>| own.get(range.clone()) == headers.get(range);
        let ports = |transport: &Transport| {
            let tcp = transport.range.start;
            tcp..tcp + SEQUENCE
        };
        // All of Ethernet's header, which says which version of IP follows.
        self.transport.ip.start == other.ip.start
            && same(0..other.ip.start)
            && same(other.ip.addresses())
            && own.get(ports(&self.transport)) == headers.get(ports(other))
    }

    /// Whether a segment of the same stream follows, and is alike.
    fn takes(&self, segment: &Segment, packet: &Packet, batch: &Batch, buffers: &Buffers) -> bool {
        let Some(own) = batch.get(self.place) else { return false };
        let room = own.fragments.len() + 1 + packet.fragments.len() <= MAX_OWN_FRAGMENTS
            && own.len() + segment.payload <= LONGEST
            && self.count < Gso::MAX_SEGMENTS;
        let number = self.count as u16;
        let follows = segment.sequence == self.next
            && segment.payload <= self.first.payload
            && segment.identification
                == self.first.identification.map(|first| first.wrapping_add(number));
        room && follows
            && segment.headers == self.first.headers
            && self.is_like(own.headers(buffers), packet.headers(buffers))
    }

    /// Whether all is the same that segments of one packet have in common, beside what
    /// makes them one stream.
    fn is_like(&self, own: &[u8], other: &[u8]) -> bool {
        let (ip, tcp) = (self.transport.ip.start, self.transport.range.start);
        let same = |range: Range<usize>| own.get(range.clone()) == other.get(range);
        let ip_alike = match self.transport.ip.version {
            // Type of service; flags, time to live and protocol.
            Version::V4 => {
                same(ip..ip + V4_LENGTH) && same(ip + V4_IDENTIFICATION + 2..ip + V4_CHECKSUM)
            }
            // Traffic class and flow label; hop limit.
            Version::V6 => same(ip..ip + V6_LENGTH) && same(ip + V6_LENGTH + 2..ip + 8),
        };
        // Of the flags only those differ that end a packet.
        ip_alike
            && same(tcp + ACKNOWLEDGEMENT..tcp + FLAGS)
            && same(tcp + WINDOW..tcp + CHECKSUM)
            && same(tcp + URGENT..self.first.headers)
    }

    /// Adds a segment that it takes: its payload, and nothing of its headers.
    fn join(
        &mut self,
        segment: &Segment,
        mut packet: Box<Packet>,
        batch: &mut Batch,
        pools: &mut Pools,
    ) {
        if let Some(own) = batch.get_mut(self.place) {
            if let Some(Linear { buffer, offset, len }) = packet.linear.take() {
                let headers = segment.headers as u16;
                let payload = Fragment::own(buffer, offset + headers, len - headers);
                push(payload, own, pools);
            }
            for fragment in mem::take(&mut packet.fragments) {
                push(fragment, own, pools);
            }
        }
        pools.give(packet);
        self.count += 1;
        self.next = self.next.wrapping_add(segment.payload as u32);
        self.ends |= segment.ends;
    }

    /// Whether nothing more follows what was added last.
    fn is_full(&self, last: &Segment) -> bool {
        last.payload < self.first.payload || last.ends != 0
    }

    /// Makes the headers those of the whole packet.
    fn close(self, batch: &mut Batch, pools: &mut Pools) {
        let Self { place, transport, first, count, ends, .. } = self;
        let Some(packet) = batch.get_mut(place).filter(|_| count > 1) else { return };
        let len = packet.len();
        let Some(linear) = packet.linear.as_mut() else { return };
        let start = usize::from(linear.offset);
        let cell = pools.buffers.bytes_mut(&mut linear.buffer);
        let Some(headers) = cell.and_then(|cell| cell.get_mut(start..start + first.headers)) else {
            return;
        };
        let (ip, tcp) = (transport.ip.start, transport.range.start);
        match transport.ip.version {
            Version::V4 => {
                put16(headers, ip + V4_LENGTH, (len - ip) as u16);
                put16(headers, ip + V4_CHECKSUM, 0);
                let sum = checksum::of(&headers[ip..tcp]);
                headers[ip + V4_CHECKSUM..][..2].copy_from_slice(&sum);
            }
            Version::V6 => put16(headers, ip + V6_LENGTH, (len - ip - V6_HEADER) as u16),
        }
        headers[tcp + FLAGS] |= ends;
        let seed = checksum::seed(&headers[transport.ip.addresses()], Protocol::Tcp, len - tcp);
        headers[tcp + CHECKSUM..][..2].copy_from_slice(&seed);
        let gso = Gso {
            version: transport.ip.version,
            mss: first.payload as u16,
            ip: ip as u16,
            tcp: tcp as u16,
            headers: first.headers as u16,
            reduced: false,
        };
        packet.meta = Meta { checksum: Checksum::Partial, gso: Some(gso), ..packet.meta };
    }
}

/// Looks what a packet has to do with streams.
fn kind(packet: &Packet, buffers: &Buffers) -> Kind {
    let headers = packet.headers(buffers);
    match Transport::parse(headers, packet.len()) {
        Ok(transport) if transport.protocol == Protocol::Tcp => {
            let segment = segment(packet, &transport, headers);
            Kind::Tcp(transport, segment)
        }
        Ok(_) | Err(HeaderError::NotIp(_) | HeaderError::Protocol(_)) => Kind::Other,
        Err(_) => Kind::Opaque,
    }
}

/// The segment in a packet, if it may be put together with others.
fn segment(packet: &Packet, transport: &Transport, headers: &[u8]) -> Option<Segment> {
    let len = packet.len();
    let (ip, tcp) = (transport.ip.start, transport.range.start);
    let header = headers.get(ip..tcp)?;
    let (plain, identification) = match transport.ip.version {
        Version::V4 => {
            let fragmentable = header[V4_IDENTIFICATION + 2] & DONT_FRAGMENT == 0;
            let identification = fragmentable.then(|| be16(header, V4_IDENTIFICATION));
            // Joined, it would get a checksum that is right whatever it came with.
            let right = checksum::of(header) == [0; 2];
            (header.len() == V4_HEADER && right, identification)
        }
        Version::V6 => (header.len() == V6_HEADER, None),
    };
    let end = tcp + transport.header_len;
    let flags = headers[tcp + FLAGS];
    let data = flags & !FIN_PSH == ACK && headers[tcp + DATA_OFFSET] & 0xf == 0;
    let whole = transport.range.end == len && len > end;
    let known = packet.meta.checksum == Checksum::Validated && packet.meta.gso.is_none();
    let sequence = &headers[tcp + SEQUENCE..][..4];
    (plain && data && whole && known).then_some(Segment {
        headers: end,
        payload: len - end,
        sequence: u32::from_be_bytes([sequence[0], sequence[1], sequence[2], sequence[3]]),
        identification,
        ends: flags & FIN_PSH,
    })
}

/// Adds a fragment with bytes in it to a packet that has room.
fn push(fragment: Fragment, packet: &mut Packet, pools: &mut Pools) {
    match fragment.len {
        0 => pools.end(fragment),
        _ => {
            if let Err(fragment) = packet.fragments.push(fragment) {
                pools.end(fragment);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;
    use crate::MAX_PRIVATE_COPIES;
    use crate::memory::{Size, testing};
    use crate::packet::Segments;

    const MSS: usize = 100;

    /// A TCP segment.
    #[derive(Clone, Copy, Debug)]
    struct Shape {
        stream: u8,
        v6: bool,
        tagged: bool,
        sequence: u32,
        acknowledgement: u32,
        id: u16,
        fragmentable: bool,
        hops: u8,
        window: u16,
        timestamp: u32,
        flags: u8,
        len: usize,
    }

    const PLAIN: Shape = Shape {
        stream: 0,
        v6: false,
        tagged: false,
        sequence: u32::MAX - 150,
        acknowledgement: 7,
        id: u16::MAX - 1,
        fragmentable: true,
        hops: 64,
        window: 500,
        timestamp: 1,
        flags: ACK,
        len: MSS,
    };

    impl Shape {
        /// The segment that follows, alike.
        fn next(self) -> Self {
            let sequence = self.sequence.wrapping_add(self.len as u32);
            Self { sequence, id: self.id.wrapping_add(1), ..self }
        }

        /// By an implementation that is not ours, but for the flags.
        fn frame(self) -> Vec<u8> {
            let payload: Vec<_> = (0..self.len).map(|at| self.sequence as u8 ^ at as u8).collect();
            let mut timestamps = [1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 9];
            timestamps[4..8].copy_from_slice(&self.timestamp.to_be_bytes());
            let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
            let mut frame = Vec::new();
            macro_rules! rest {
                ($builder:expr) => {{
                    let ip = match self.v6 {
                        true => $builder.ipv6([0xfe; 16], [0x20; 16], self.hops),
                        false => $builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], self.hops),
                    };
                    let tcp = ip.tcp(4000 + u16::from(self.stream), 80, self.sequence, self.window);
                    let tcp = tcp.ack(self.acknowledgement);
                    let tcp = tcp.options_raw(&timestamps).unwrap();
                    tcp.write(&mut frame, &payload).unwrap();
                }};
            }
            match self.tagged {
                false => rest!(builder),
                true => rest!(builder.single_vlan(7.try_into().unwrap())),
            }
            let ip = if self.tagged { 18 } else { 14 };
            let tcp = ip + if self.v6 { 40 } else { 20 };
            if !self.v6 {
                put16(&mut frame, ip + 4, self.id);
                frame[ip + 6] = if self.fragmentable { 0 } else { DONT_FRAGMENT };
                put16(&mut frame, ip + 10, 0);
                let sum = checksum::of(&frame[ip..tcp]);
                frame[ip + 10..ip + 12].copy_from_slice(&sum);
            }
            frame[tcp + 13] = self.flags;
            checksum::finish(&mut frame).unwrap();
            frame
        }
    }

    fn new_pools() -> Pools {
        testing::pools(400, 20, 70, MAX_PRIVATE_COPIES)
    }

    fn packet(frame: &[u8], checksum: Checksum, pools: &mut Pools) -> Box<Packet> {
        let mut packet = pools.take().unwrap();
        let mut pieces = frame.chunks(Size::Large.bytes()).map(|piece| {
            let mut buffer = pools.buffers.take(Size::Large).unwrap();
            pools.buffers.bytes_mut(&mut buffer).unwrap()[..piece.len()].copy_from_slice(piece);
            (buffer, piece.len() as u16)
        });
        let (buffer, len) = pieces.next().unwrap();
        packet.linear = Some(Linear { buffer, offset: 0, len });
        for (buffer, len) in pieces {
            packet.fragments.push(Fragment::own(buffer, 0, len)).unwrap();
        }
        packet.meta.checksum = checksum;
        packet
    }

    fn bytes(packet: &Packet, pools: &Pools) -> Vec<u8> {
        let rest = packet.fragments.iter().map(|fragment| fragment.bytes(&pools.buffers));
        let all = core::iter::once(packet.headers(&pools.buffers)).chain(rest);
        all.flatten().copied().collect()
    }

    /// What comes out of a batch: packets, and what they are once they are cut again.
    fn run(frames: &[(Vec<u8>, Checksum)]) -> (Vec<Meta>, Vec<Vec<u8>>) {
        let mut pools = new_pools();
        let free = |pools: &Pools| (pools.idle(), pools.buffers.free(Size::Large));
        let before = free(&pools);
        let mut batch = Batch::new();
        for (frame, checksum) in frames {
            batch.push_back(packet(frame, *checksum, &mut pools)).unwrap();
        }
        let fewer = aggregate(&mut batch, &mut pools);
        assert_eq!(fewer + batch.len(), frames.len());
        let (mut metas, mut cut) = (Vec::new(), Vec::new());
        while let Some(packet) = batch.pop_front() {
            metas.push(packet.meta);
            let len = packet.len();
            match packet.meta.gso {
                None => cut.push(bytes(&packet, &pools)),
                Some(gso) => {
                    let headers = packet.headers(&pools.buffers);
                    // As what a guest hands over.
                    let checked = Gso::check(headers, len, gso.version, gso.mss);
                    assert_eq!(checked, Ok(Some(gso)));
                    let insertion = checksum::locate(headers, len).unwrap();
                    let field = usize::from(insertion.field);
                    assert_eq!(headers[field..field + 2], insertion.seed);
                    let segments = Segments::new(gso, len);
                    for number in 0..segments.count() {
                        let segment = pools.segment(&packet, &segments, number).unwrap();
                        let mut frame = bytes(&segment, &pools);
                        checksum::finish(&mut frame).unwrap();
                        cut.push(frame);
                        pools.give(segment);
                    }
                }
            }
            pools.give(packet);
        }
        assert_eq!(free(&pools), before, "all comes back");
        (metas, cut)
    }

    /// Runs good frames, which come out as they went in, and returns how many packets
    /// they are in between.
    fn packets(shapes: &[Shape]) -> usize {
        let frames: Vec<_> =
            shapes.iter().map(|shape| (shape.frame(), Checksum::Validated)).collect();
        let (metas, cut) = run(&frames);
        assert!(cut.iter().eq(frames.iter().map(|(frame, _)| frame)), "{shapes:?}");
        metas.len()
    }

    fn stream(first: Shape, count: usize) -> Vec<Shape> {
        core::iter::successors(Some(first), |shape| Some(shape.next())).take(count).collect()
    }

    #[test]
    fn a_stream_is_one_packet() {
        for v6 in [false, true] {
            for tagged in [false, true] {
                let first = Shape { v6, tagged, ..PLAIN };
                assert_eq!(packets(&stream(first, 2)), 1);
                assert_eq!(packets(&stream(first, MAX_OWN_FRAGMENTS + 1)), 1);
                assert_eq!(packets(&stream(first, MAX_OWN_FRAGMENTS + 2)), 2, "no room");
                assert_eq!(packets(&stream(first, 64)), 2);
                // As long as a packet may be.
                let long = Shape { len: 1448, ..first };
                assert_eq!(packets(&stream(long, 33)), 1);
                let jumbo = Shape { len: 8900, ..first };
                assert_eq!(packets(&stream(jumbo, 5)), 1, "in five pieces each");
                assert_eq!(packets(&stream(jumbo, 7)), 2);
            }
        }
        let unmarked = Shape { fragmentable: false, ..PLAIN };
        let same = [unmarked, Shape { id: unmarked.id, ..unmarked.next() }];
        let frames = same.map(|shape| (shape.frame(), Checksum::Validated));
        assert_eq!(run(&frames).0.len(), 1, "identifications mean nothing");
    }

    #[test]
    fn a_short_segment_or_a_flag_ends_a_packet() {
        for v6 in [false, true] {
            let [a, b, c, d] = stream(Shape { v6, ..PLAIN }, 4)[..] else { panic!("four") };
            let short = Shape { len: MSS - 1, ..b };
            assert_eq!(packets(&[a, short]), 1);
            assert_eq!(packets(&[a, short, Shape { len: MSS - 1, ..short.next() }]), 2);
            for flag in [1 << 0, 1 << 3, 1 << 0 | 1 << 3] {
                let with = |shape: Shape| Shape { flags: ACK | flag, ..shape };
                assert_eq!(packets(&[a, b, with(c)]), 1);
                assert_eq!(packets(&[a, with(b), c, d]), 2);
                assert_eq!(packets(&[with(a), b, c]), 2);
            }
            let longer = Shape { len: MSS + 1, ..b };
            assert_eq!(packets(&[a, longer, longer.next()]), 2, "a stream of its own");
        }
    }

    #[test]
    fn what_is_not_alike_is_not_joined() {
        let changes: [fn(&mut Shape); 13] = [
            |shape| shape.sequence = shape.sequence.wrapping_add(1),
            |shape| shape.sequence = shape.sequence.wrapping_sub(1),
            |shape| shape.acknowledgement += 1,
            |shape| shape.hops += 1,
            |shape| shape.window += 1,
            |shape| shape.timestamp += 1,
            |shape| shape.flags |= 1 << 1,
            |shape| shape.flags |= 1 << 2,
            |shape| shape.flags |= 1 << 5,
            |shape| shape.flags |= 1 << 6,
            |shape| shape.flags |= 1 << 7,
            |shape| shape.flags = 0,
            |shape| shape.len = 0,
        ];
        for v6 in [false, true] {
            let [a, b] = stream(Shape { v6, ..PLAIN }, 2)[..] else { panic!("two") };
            assert_eq!(packets(&[a, b]), 1);
            for (number, change) in changes.iter().enumerate() {
                let mut other = b;
                change(&mut other);
                assert_eq!(packets(&[a, other]), 2, "{number}");
                // Nor around it: that would be another order.
                assert_eq!(packets(&[a, other, b]), 3, "{number}");
            }
            assert_eq!(packets(&[a, Shape { tagged: true, ..b }]), 2);
        }
        let [a, b] = stream(PLAIN, 2)[..] else { panic!("two") };
        assert_eq!(packets(&[a, Shape { id: b.id.wrapping_add(1), ..b }]), 2, "it could be told");
        assert_eq!(packets(&[a, Shape { fragmentable: false, ..b }]), 2);
        let tiny = Shape { len: usize::from(Gso::MIN_MSS) - 1, ..PLAIN };
        assert_eq!(packets(&stream(tiny, 3)), 3);
    }

    /// What nobody vouches for stays as it is, and what cannot be seen into ends all.
    #[test]
    fn what_is_not_known_is_not_joined() {
        let [a, b, c] = stream(PLAIN, 3)[..] else { panic!("three") };
        let frames = |middle: (Vec<u8>, Checksum)| {
            [(a.frame(), Checksum::Validated), middle, (c.frame(), Checksum::Validated)]
        };
        for checksum in [Checksum::Unknown, Checksum::Partial] {
            let (metas, cut) = run(&frames((b.frame(), checksum)));
            assert_eq!((metas.len(), &cut[1]), (3, &b.frame()));
        }
        // An IPv4 header's checksum is no part of what was validated.
        let mut wrong = b.frame();
        wrong[24] ^= 1;
        let (metas, cut) = run(&frames((wrong.clone(), Checksum::Validated)));
        assert_eq!((metas.len(), &cut[1]), (3, &wrong), "it stays wrong");
        let mut padded = b.frame();
        padded.push(0);
        assert_eq!(run(&frames((padded, Checksum::Validated))).0.len(), 3);
        let mut fragment = b.frame();
        fragment[20] = 0x20;
        let between = |frame: Vec<u8>| {
            let frames = [a, b].map(|shape| (shape.frame(), Checksum::Validated));
            let [first, second] = frames;
            run(&[first, (frame, Checksum::Validated), second]).0.len()
        };
        assert_eq!(between(fragment), 3);
        let mut other = b.frame();
        other[23] = 17;
        other[38..40].copy_from_slice(&[0, 20]);
        assert_eq!(between(other), 2, "a datagram in between");
        other = b.frame();
        other[12..14].copy_from_slice(&[0x88, 0xb5]);
        assert_eq!(between(other), 2);
        // Of headers that others look at nothing is changed.
        let mut pools = new_pools();
        let mut batch = Batch::new();
        let first = packet(&a.frame(), Checksum::Validated, &mut pools);
        let clone = pools.share(&first).unwrap();
        batch.push_back(first).unwrap();
        batch.push_back(packet(&b.frame(), Checksum::Validated, &mut pools)).unwrap();
        assert_eq!(aggregate(&mut batch, &mut pools), 0);
        pools.give(clone);
        batch.into_iter().for_each(|packet| pools.give(packet));
    }

    /// Whoever says that a checksum is right is believed, and nothing more is said than that:
    /// a wrong one is as it is for who takes it as validated by itself.
    #[test]
    fn no_more_is_vouched_for_than_was() {
        for v6 in [false, true] {
            let [a, b, c] = stream(Shape { v6, ..PLAIN }, 3)[..] else { panic!("three") };
            let mut frames = [a, b, c].map(|shape| (shape.frame(), Checksum::Validated));
            let last = frames[1].0.len() - 1;
            frames[1].0[last] ^= 1;
            let (metas, cut) = run(&frames);
            let [Meta { checksum: Checksum::Partial, gso: Some(_), .. }] = metas[..] else {
                panic!("{metas:?}")
            };
            for (cut, (mut came, _)) in cut.into_iter().zip(frames) {
                checksum::finish(&mut came).unwrap();
                assert_eq!(cut, came, "all but the checksum");
            }
        }
    }

    /// More streams than are looked at: none is mixed up.
    #[test]
    fn many_streams_go_side_by_side() {
        for (count, packets) in [(STREAMS, STREAMS), (STREAMS + 1, 5 * (STREAMS + 1))] {
            let first = |number: usize| Shape { stream: number as u8, ..PLAIN };
            let streams: Vec<_> = (0..count).map(|number| stream(first(number), 5)).collect();
            let shapes = (0..5).flat_map(|place| streams.iter().map(move |shapes| shapes[place]));
            let frames: Vec<_> = shapes.map(|shape| (shape.frame(), Checksum::Validated)).collect();
            let (metas, cut) = run(&frames);
            assert!(metas.len() <= packets && metas.len() >= count);
            assert_eq!(metas.len() == count, count == STREAMS);
            for shapes in streams {
                let own = cut.iter().filter(|frame| frame[34..36] == shapes[0].frame()[34..36]);
                assert!(own.eq(&shapes.iter().map(|shape| shape.frame()).collect::<Vec<_>>()));
            }
        }
    }

    fn shapes() -> impl Strategy<Value = Vec<(Shape, Checksum)>> {
        let step = (
            0..3u8,
            0..40u8,
            prop_oneof![8 => Just(MSS), 1 => 1..MSS, 1 => MSS..150],
            any::<bool>(),
        );
        prop::collection::vec(step, 0..64).prop_map(|steps| {
            let mut streams = [0, 1, 2].map(|stream| Shape {
                stream,
                v6: stream == 1,
                tagged: stream == 2,
                fragmentable: stream == 2,
                ..PLAIN
            });
            steps
                .into_iter()
                .map(|(stream, what, len, known)| {
                    let state = &mut streams[usize::from(stream)];
                    let mut shape = Shape { len, ..*state };
                    match what {
                        0 => shape.sequence = shape.sequence.wrapping_add(5),
                        1 => shape.acknowledgement += 1,
                        2 => shape.hops ^= 1,
                        3 => shape.timestamp += 1,
                        4 => shape.window += 1,
                        5 => shape.len = 0,
                        6 => shape.id = shape.id.wrapping_add(7),
                        7..13 => shape.flags = ACK | 1 << (what % 8),
                        13 | 14 => shape.flags = ACK | 1 << 3,
                        _ => {}
                    }
                    *state = Shape { flags: ACK, ..shape.next() };
                    let doubtful = what == 15 && known;
                    (shape, if doubtful { Checksum::Unknown } else { Checksum::Validated })
                })
                .collect()
        })
    }

    proptest! {
        /// Whatever comes, once it is cut again each stream is what it was, byte by byte.
        #[test]
        fn cut_again_it_is_what_came(shapes in shapes()) {
            let frames: Vec<_> = shapes.iter().map(|(shape, checksum)| (shape.frame(), *checksum)).collect();
            let (metas, cut) = run(&frames);
            prop_assert!(metas.iter().all(|meta| meta.gso.is_none() || meta.checksum == Checksum::Partial));
            // Where nobody may fragment them, identifications mean nothing.
            let port = |frame: &[u8]| {
                let transport = Transport::parse(frame, frame.len()).unwrap();
                frame[transport.range.start + 1]
            };
            let without_id = |frame: &[u8]| {
                let mut frame = frame.to_vec();
                if frame[12..14] == [0x08, 0x00] && frame[20] & DONT_FRAGMENT != 0 {
                    frame[18..20].fill(0);
                    frame[24..26].fill(0);
                }
                frame
            };
            for stream in 0..3 {
                let of = |frames: Vec<&Vec<u8>>| {
                    let own = frames.into_iter().filter(|frame| port(frame) == 0xa0 + stream);
                    own.map(|frame| without_id(frame)).collect::<Vec<_>>()
                };
                let came = of(frames.iter().map(|(frame, _)| frame).collect());
                prop_assert_eq!(of(cut.iter().collect()), came);
            }
        }
    }
}
