//! The device's transmitter (7.2): it gathers packets from their descriptors, makes
//! the checksums it is asked for, pads, and writes back.

use super::{Device, EN, TCTL, TDBAL, TDH, TDT, TXQ0};

const DEXT: u64 = 1 << 29;
const TSE: u64 = 1 << 26;
const TXSM: u8 = 1 << 1;
const PSP: u32 = 1 << 3;

/// What the transmitter has beside its registers.
#[derive(Default)]
pub struct Sender {
    /// The checksum context last loaded, until the next reset (7.2.6).
    context: Option<Context>,
    /// How often one was loaded.
    pub loads: usize,
    /// How many frames it had to pad.
    pub padded: usize,
    /// Whether it said of descriptors that they are done, until the next reset. They may
    /// be overwritten by now, and what it would send is anything.
    astray: bool,
}

/// The part of a context descriptor that a packet which is not cut into segments
/// needs (7.2.10.2).
#[derive(Clone, Copy)]
struct Context {
    start: usize,
    field: usize,
    end: usize,
    tcp: bool,
}

/// A packet of which not all descriptors have been seen.
#[derive(Default)]
struct Gathering {
    bytes: Vec<u8>,
    /// The descriptors' format, and their options.
    kind: Option<(u64, u8)>,
}

impl Device {
    pub(super) fn send(&self, most: usize) {
        for _ in 0..most {
            if self.get(TDH) == self.get(TDT) {
                return;
            }
            let runs = self.get(TCTL) & EN != 0 && self.masters() && self.link.get();
            if !runs || self.faults.stalled.get() || self.sender.borrow().astray {
                return;
            }
            let mut packet = Gathering::default();
            while !self.take_descriptor(&mut packet) {
                assert_ne!(self.get(TDH), self.get(TDT), "a packet without its end");
            }
            let frame = self.finish(packet);
            self.count(0x4080);
            if self.faults.loopback.get() {
                self.arrive(&frame);
            }
            self.wire.borrow_mut().push(frame);
            self.raise(TXQ0);
        }
    }

    /// Does what the next descriptor says; whether it ends a packet.
    fn take_descriptor(&self, packet: &mut Gathering) -> bool {
        let head = self.get(TDH);
        let at = self.base(TDBAL) + u64::from(head) * 16;
        let mut descriptor = [0; 16];
        self.memory.read(at, &mut descriptor);
        self.set(TDH, (head + 1) % 256);
        let [low, high] = [&descriptor[..8], &descriptor[8..]]
            .map(|half| u64::from_le_bytes(half.try_into().unwrap()));
        assert!(high >> 32 & 0xff == 0 || self.lied.get(), "posted with status in it");
        assert_eq!(high & (0b11 << 30 | TSE), 0, "no delays, tags, segments, or IC of legacy");
        let [end, fcs, _, report] = [24, 25, 26, 27].map(|bit| high >> bit & 1 == 1);
        let kind = high & DEXT | high >> 20 & 0xf;
        match kind {
            // Whether a context descriptor is of TCP and of IPv4 stands where others
            // have their end and their checksum.
            DEXT => {
                assert!(packet.kind.is_none(), "a context inside a packet");
                assert!(!report && high & 0xf_ffff == 0, "nothing but a checksum's context");
                self.load(low, end);
                return false;
            }
            _ if kind == DEXT | 1 => {
                self.gather(packet, low, high & 0xf_ffff, (kind, (high >> 40) as u8))
            }
            _ => {
                assert_eq!(
                    high & (DEXT | 0xff << 16 | 0xff << 40),
                    0,
                    "a legacy descriptor's CSO, CSS"
                );
                self.gather(packet, low, high & 0xffff, (0, 0));
            }
        }
        assert_eq!(high >> 48, 0, "a tag");
        assert!(end == fcs && end == report, "IFCS and RS where the packet ends, and only there");
        if report {
            self.memory.write(at + 12, &[1]);
        }
        end
    }

    fn load(&self, low: u64, tcp: bool) {
        assert_eq!(low & 0xffff_ffff, 0, "no checksum of an IP header");
        let [start, field] = [32, 40].map(|shift| (low >> shift & 0xff) as usize);
        let context = Context { start, field, end: (low >> 48) as usize, tcp };
        let mut sender = self.sender.borrow_mut();
        sender.context = Some(context);
        sender.loads += 1;
    }

    fn gather(&self, packet: &mut Gathering, address: u64, len: u64, kind: (u64, u8)) {
        assert!((1..=16288).contains(&len), "a region of {len} bytes");
        // Pages at adjacent frames need not be adjacent themselves, and QEMU's minds.
        let emulated = self.config.get(0x2c) == 0x8086;
        assert!(!emulated || address / 4096 == (address + len - 1) / 4096, "two pages");
        // The datasheet looks at the first descriptor's options, QEMU at the last's.
        assert_eq!(*packet.kind.get_or_insert(kind), kind, "two formats in one packet");
        let start = packet.bytes.len();
        packet.bytes.resize(start + len as usize, 0);
        self.memory.read(address, &mut packet.bytes[start..]);
    }

    /// The frame as it goes to the wire.
    fn finish(&self, packet: Gathering) -> Vec<u8> {
        let Gathering { mut bytes, kind } = packet;
        assert!((17..=1518).contains(&bytes.len()), "a frame of {} bytes", bytes.len());
        let mut sender = self.sender.borrow_mut();
        if kind.is_some_and(|(_, options)| options & TXSM != 0) {
            let context = sender.context.expect("a checksum without a context is anything");
            insert(context, &mut bytes);
        }
        if bytes.len() < 60 && self.get(TCTL) & PSP != 0 {
            sender.padded += 1;
            bytes.resize(60, 0);
        }
        bytes
    }

    /// The slot after the last that the driver gave it.
    pub fn tail(&self) -> usize {
        self.get(TDT) as usize
    }

    /// Says of sent packets that they are done, though they are not.
    pub fn claim_sent(&self) {
        (0..256).for_each(|slot| self.scribble(slot, 1));
    }

    /// Writes anything to the status of a descriptor, if it can write at all.
    pub fn scribble(&self, slot: u64, status: u8) {
        if self.masters() && self.get(TCTL) & EN != 0 {
            self.lied.set(true);
            self.sender.borrow_mut().astray = true;
            self.memory.write(self.base(TDBAL) + slot * 16 + 12, &[status]);
        }
    }
}

/// Adds up from the start to the end, the field's own content included, and puts the
/// complement into the field (7.3).
fn insert(context: Context, bytes: &mut [u8]) {
    let Context { start, field, end, tcp } = context;
    let end = if end == 0 { bytes.len() } else { end + 1 };
    let mut sum = 0;
    for word in bytes[start..end].chunks(2) {
        sum += u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = match !(sum as u16) {
        // RFC 768.
        0 if !tcp => 0xffff,
        checksum => checksum,
    };
    bytes[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
}
