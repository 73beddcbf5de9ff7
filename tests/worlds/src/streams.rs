//! Streams of TCP, and how they are cut.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use xen::netif::{ExtraInfo, RxFlags, TxFlags};

use crate::{Outgoing, Received, frames};

/// How long the headers of such a segment are.
pub fn headers(v6: bool) -> usize {
    14 + if v6 { 40 } else { 20 } + 20
}

/// A TCP segment of `len` bytes in all, with its checksum, and how it is to be cut.
pub fn segment(to: [u8; 6], from: [u8; 6], v6: bool, len: usize, mss: u16) -> (Vec<u8>, ExtraInfo) {
    let payload: Vec<_> = (headers(v6)..len).map(|at| (at * 7 + at / 251) as u8).collect();
    let extra = ExtraInfo::gso(1 + u8::from(v6), mss);
    (frames::transport(to, from, v6, true, &payload), extra)
}

/// The same as a frontend sends it.
pub fn outgoing((frame, extra): &(Vec<u8>, ExtraInfo), v6: bool) -> Outgoing {
    let blank = frames::seeded(frame.clone(), v6);
    Outgoing::whole(&blank).with_flags(TxFlags::CSUM_BLANK).with_extras(&[*extra])
}

/// What a guest got cut, with the checksums made that are left to it.
///
/// # Panics
/// If a packet is not whole, or still to be cut.
pub fn finished(received: Vec<Received>) -> Vec<Vec<u8>> {
    let finish = |packet: Received| {
        assert_eq!((packet.gso, packet.failed), (None, 0));
        let mut bytes = packet.bytes;
        if packet.flags.contains(RxFlags::CSUM_BLANK) {
            let whole = bytes.clone();
            kernel::packet::checksum::finish(&mut bytes).expect("TCP");
            assert_eq!(frames::seeded(bytes.clone(), whole[12] == 0x86), whole, "the seed");
        }
        bytes
    };
    received.into_iter().map(finish).collect()
}

/// What `cut` holds is one stream: that of `whole`, in segments of `mss` bytes, all sums of
/// them right.
///
/// # Panics
/// If it is not.
pub fn check_stream(cut: &[Vec<u8>], whole: &[u8], mss: u16, what: &str) {
    let mut next = None;
    let mut together = Vec::new();
    for (place, frame) in cut.iter().enumerate() {
        let parsed = SlicedPacket::from_ethernet(frame).expect("a packet");
        let Some(TransportSlice::Tcp(tcp)) = &parsed.transport else { panic!("{what}: no TCP") };
        let sum = match &parsed.net {
            Some(NetSlice::Ipv4(ip)) => {
                let header = ip.header();
                let sum = header.to_header().calc_header_checksum();
                assert_eq!(header.header_checksum(), sum, "{what}: {place}");
                tcp.calc_checksum_ipv4(header.source(), header.destination())
            }
            Some(NetSlice::Ipv6(ip)) => {
                let header = ip.header();
                tcp.calc_checksum_ipv6(header.source(), header.destination())
            }
            other => panic!("{what}: {other:?}"),
        };
        assert_eq!(Ok(tcp.checksum()), sum, "{what}: segment {place}");
        assert!(tcp.payload().len() <= usize::from(mss), "{what}: {place}");
        assert!(place + 1 == cut.len() || tcp.payload().len() == usize::from(mss), "{what}");
        let sequence = tcp.sequence_number();
        assert_eq!(next.unwrap_or(sequence), sequence, "{what}: {place}");
        next = Some(sequence.wrapping_add(tcp.payload().len() as u32));
        together.extend_from_slice(tcp.payload());
    }
    let parsed = SlicedPacket::from_ethernet(whole).expect("a packet");
    let Some(TransportSlice::Tcp(tcp)) = &parsed.transport else { panic!("{what}: no TCP") };
    assert_eq!(together, tcp.payload(), "{what}");
}
