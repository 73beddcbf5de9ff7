//! The device's transmitter (7.2): it gathers packets from their descriptors, makes
//! the checksums it is asked for, cuts segments, pads, and writes back.

use kernel::DmaRegion;

use super::segments::{Segmentation, checksum};

use super::{Device, EN, TCTL, TDBAL, TDH, TDLEN, TDT, TXDCTL, TXQ0};

const EOP: u64 = 1 << 24;
const DEXT: u64 = 1 << 29;
const TSE: u64 = 1 << 26;
const TXSM: u8 = 1 << 1;
const LONGEST: usize = 9018;
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
}

/// A context descriptor (7.2.10.2).
#[derive(Clone, Copy)]
pub(super) struct Context {
    pub start: usize,
    pub field: usize,
    pub end: usize,
    pub tcp: bool,
    /// The rest of it, which only a packet that is cut into segments needs.
    pub segmentation: Option<Segmentation>,
}

/// A packet of which not all descriptors have been seen.
#[derive(Default)]
struct Gathering {
    bytes: Vec<u8>,
    /// The descriptors' format, and their options.
    kind: Option<(u64, u8)>,
    /// How much the first descriptor tells of.
    first: usize,
}

/// Whether the upper half of a descriptor is that of a checksum's context, in which
/// some bits mean other things.
const fn is_context(high: u64) -> bool {
    kind(high) & !TSE == DEXT
}

const fn kind(high: u64) -> u64 {
    high & (DEXT | TSE) | high >> 20 & 0xf
}

impl Device {
    /// Goes on with what it has to send.
    pub fn kick(&self) {
        self.send(usize::MAX);
    }

    /// Sends one frame though it is stalled.
    pub fn send_one(&self) {
        self.faults.stalled.set(false);
        self.send(1);
        self.faults.stalled.set(true);
    }

    /// What it still has to send: the regions of each packet.
    pub fn unsent(&self) -> Vec<Vec<DmaRegion>> {
        let mut packets = vec![Vec::new()];
        let mut slot = self.get(TDH);
        while slot != self.get(TDT) {
            let [address, high] = self.descriptor(slot);
            slot = (slot + 1) % 256;
            if is_context(high) {
                continue;
            }
            let region = DmaRegion { address, len: high as u32 & 0xf_ffff };
            packets.last_mut().expect("one").push(region);
            if high & EOP != 0 {
                packets.push(Vec::new());
            }
        }
        packets.pop();
        packets
    }

    pub(super) fn enable_transmit(&self) {
        assert!(self.base(TDBAL) != 0 && self.get(TDBAL).is_multiple_of(16), "no ring");
        assert_eq!((self.get(TDLEN), self.get(TDH)), (4096, 0));
        assert!(self.masters(), "sending without bus mastering");
        assert!(self.get(TXDCTL) & 1 << 22 != 0, "TXDCTL bit 22 must be set");
    }

    fn send(&self, most: usize) {
        for _ in 0..most {
            if self.get(TDH) == self.get(TDT) {
                return;
            }
            let runs = self.get(TCTL) & EN != 0 && self.masters() && self.link.get();
            if !runs || self.faults.stalled.get() {
                return;
            }
            let mut packet = Gathering::default();
            while !self.take_descriptor(&mut packet) {
                if self.get(TDH) == self.get(TDT) {
                    return self.must(false, "a packet without its end");
                }
            }
            for frame in self.finish(packet) {
                self.count(0x4080);
                if self.faults.loopback.get() {
                    self.arrive(&frame);
                }
                self.wire.borrow_mut().push(frame);
            }
            self.raise(TXQ0);
        }
    }

    fn descriptor(&self, slot: u32) -> [u64; 2] {
        let mut descriptor = [0; 16];
        self.read_memory(self.base(TDBAL) + u64::from(slot) * 16, &mut descriptor);
        let [low, high] = [&descriptor[..8], &descriptor[8..]];
        [low, high].map(|half| u64::from_le_bytes(half.try_into().expect("eight bytes")))
    }

    /// Does what the next descriptor says; whether it ends a packet.
    fn take_descriptor(&self, packet: &mut Gathering) -> bool {
        let head = self.get(TDH);
        let [low, high] = self.descriptor(head);
        self.set(TDH, (head + 1) % 256);
        self.must(high >> 32 & 0xff == 0, "posted with status in it");
        self.must(high & 0b11 << 30 == 0, "no delays, no tags");
        let [end, fcs, _, report] = [24, 25, 26, 27].map(|bit| high >> bit & 1 == 1);
        // Whether a context descriptor is of TCP and of IPv4 stands where others
        // have their end and their checksum.
        if is_context(high) {
            self.must(packet.kind.is_none(), "a context inside a packet");
            self.must(!report, "a context is not reported");
            self.load(low, high);
            return false;
        }
        if kind(high) & !TSE == DEXT | 1 {
            self.gather(packet, low, high & 0xf_ffff, (kind(high), (high >> 40) as u8));
        } else {
            let others = high & (DEXT | TSE | 0xff << 16 | 0xff << 40);
            self.must(others == 0, "a legacy descriptor's CSO, CSS, IC");
            self.gather(packet, low, high & 0xffff, (0, 0));
        }
        self.must(high >> 48 == 0, "a tag");
        let once = end == fcs && end == report;
        self.must(once, "IFCS and RS where the packet ends, and only there");
        if report {
            self.write_memory(self.base(TDBAL) + u64::from(head) * 16 + 12, &[1]);
        }
        end
    }

    fn load(&self, low: u64, high: u64) {
        let segmentation = (high & TSE != 0).then(|| Segmentation::of(low, high));
        let rest = low & 0xffff_ffff | high & (0xf_ffff | 1 << 25 | !0 << 40);
        self.must(segmentation.is_some() || rest == 0, "nothing but a checksum's context");
        let [start, field] = [32, 40].map(|shift| (low >> shift & 0xff) as usize);
        let (end, tcp) = ((low >> 48) as usize, high >> 24 & 1 == 1);
        let context = Context { start, field, end, tcp, segmentation };
        let mut sender = self.sender.borrow_mut();
        sender.context = Some(context);
        sender.loads += 1;
    }

    fn gather(&self, packet: &mut Gathering, address: u64, len: u64, kind: (u64, u8)) {
        self.must((1..=16288).contains(&len), "a region of a length that there is not");
        // Pages at adjacent frames need not be adjacent themselves, and QEMU's minds.
        let emulated = self.config.get(0x2c) == 0x8086;
        let pages = (address % 4096 + len).div_ceil(4096);
        self.must(!emulated || pages == 1, "two pages");
        // The datasheet looks at the first descriptor's options, QEMU at the last's.
        let first = *packet.kind.get_or_insert(kind);
        self.must(first == kind, "two formats in one packet");
        if packet.bytes.is_empty() {
            packet.first = len as usize;
        }
        let start = packet.bytes.len();
        packet.bytes.resize(start + len as usize, 0);
        self.read_memory(address, &mut packet.bytes[start..]);
    }

    /// The frames as they go to the wire; none where there is nothing to be made of them.
    fn finish(&self, packet: Gathering) -> Vec<Vec<u8>> {
        let Gathering { mut bytes, kind, first } = packet;
        let context = self.sender.borrow().context;
        let (format, options) = kind.unwrap_or_default();
        let mut frames = match format & TSE {
            0 => {
                if options & TXSM != 0 {
                    let context = context.filter(|context| context.segmentation.is_none());
                    let made = context.and_then(|context| checksum(context, &mut bytes));
                    self.must(made.is_some(), "a checksum without a context that fits is anything");
                }
                vec![bytes]
            }
            _ => {
                let cut = context
                    .ok_or("no context")
                    .and_then(|context| context.cut(&bytes, first, options));
                self.must(cut.is_ok(), cut.as_ref().err().copied().unwrap_or_default());
                // What is said of segments holds once: lengths are used up.
                self.sender.borrow_mut().context = None;
                cut.unwrap_or_default()
            }
        };
        let right = frames.iter().all(|frame| (17..=LONGEST).contains(&frame.len()));
        self.must(right, "a frame of a length that there is not");
        frames.retain(|frame| (17..=LONGEST).contains(&frame.len()));
        for frame in frames.iter_mut().filter(|frame| frame.len() < 60) {
            if self.get(TCTL) & PSP != 0 {
                self.sender.borrow_mut().padded += 1;
                frame.resize(60, 0);
            }
        }
        frames
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
            self.write_memory(self.base(TDBAL) + slot * 16 + 12, &[status]);
        }
    }
}
