//! What is left to the device to be made of a packet: its checksum (7.3.5), or segments
//! with all their checksums (7.3.6). A context descriptor (7.2.10.2) says where what is.

use kernel::memory::Buffers;
use kernel::packet::{Gso, Packet, Protocol, Prototype, Segments, checksum};

use super::transmit::Descriptor;

/// In the second word of all descriptors but legacy ones.
const DEXT: u64 = 1 << 29;
/// Data, in DTYP; a context has none of its bits.
const DATA: u64 = 1 << 20;
/// In DCMD and TUCMD: TCP segmentation.
const TSE: u64 = 1 << 26;
/// In TUCMD: the checksum is TCP's. UDP's has a zero of its own (RFC 768), which is the
/// device's to know.
const TCP: u64 = 1 << 24;
/// In TUCMD: the packet is IPv4's.
const IP: u64 = 1 << 25;
/// In POPTS: the IPv4 checksum is inserted, and the transport checksum.
const IXSM: u64 = 1 << 40;
const TXSM: u64 = 1 << 41;
/// In a context descriptor's first word: where each checksum begins, where it goes, and
/// where the IPv4 header ends. TUCSE stays 0: the transport checksum ends with the packet.
const IPCSO: u32 = 8;
const IPCSE: u32 = 16;
const TUCSS: u32 = 32;
const TUCSO: u32 = 40;
/// In its second word, which begins with PAYLEN.
const HDRLEN: u32 = 40;
const MSS: u32 = 48;

/// What the device is to make of a packet.
pub(super) struct Offload {
    /// The context in which it does that.
    pub context: Descriptor,
    /// What says so in each of the packet's descriptors. Those of the first count
    /// (7.2.10.3); for QEMU's device, those of the last.
    pub options: u64,
}

impl Offload {
    /// What is left to be made of `packet`, whose checksum at least is; its headers are made
    /// ready for that. `None` where the device cannot do it.
    pub(super) fn of(packet: &mut Packet, buffers: &mut Buffers) -> Option<Self> {
        match packet.meta.gso {
            Some(gso) => Self::segmentation(gso, packet, buffers),
            None => Self::checksum(packet, buffers),
        }
    }

    /// The checksum alone. Its field holds the pseudo-header's sum
    /// ([`Port::partial_checksums`](kernel::switch::Port::partial_checksums)).
    fn checksum(packet: &Packet, buffers: &Buffers) -> Option<Self> {
        let insertion = checksum::locate(packet.headers(buffers), packet.len())?;
        let places = u64::from(insertion.start) << TUCSS | u64::from(insertion.field) << TUCSO;
        let protocol = match insertion.protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => 0,
        };
        Some(Self { context: [places, DEXT | protocol], options: DEXT | DATA | TXSM })
    }

    /// Segments. QEMU's device looks at no place in a packet that it is told of, and finds
    /// all of them itself; it makes the IPv4 checksum unasked.
    fn segmentation(gso: Gso, packet: &mut Packet, buffers: &mut Buffers) -> Option<Self> {
        if !gso.suits_a_device() {
            return None;
        }
        let segments = Segments::new(gso, packet.len());
        let linear = packet.linear.as_mut()?;
        let start = usize::from(linear.offset);
        let cell = buffers.bytes_mut(&mut linear.buffer)?;
        let headers = cell.get_mut(start..start + usize::from(gso.headers))?;
        let Prototype { ip, tcp, checksum, ip_checksum, payload } = segments.prototype(headers)?;
        let mut low = u64::from(ip) | u64::from(tcp) << TUCSS | u64::from(checksum) << TUCSO;
        let mut high = u64::from(payload) | DEXT | TSE | TCP;
        let mut options = DEXT | DATA | TSE | TXSM;
        if let Some(field) = ip_checksum {
            low |= u64::from(field) << IPCSO | u64::from(tcp - 1) << IPCSE;
            high |= IP;
            options |= IXSM;
        }
        high |= u64::from(gso.headers) << HDRLEN | u64::from(gso.mss) << MSS;
        Some(Self { context: [low, high], options })
    }

    /// Whether it needs its context though the device has the same already: what that says
    /// of segments holds for one packet.
    pub(super) const fn is_once(&self) -> bool {
        self.context[1] & TSE != 0
    }
}
