//! The device's receiver (7.1): it puts frames into buffers, and writes back extended
//! descriptors.

use super::headers::Sums;
use super::{Device, EN, ICR, RCTL, RDBAL, RDH, RDLEN, RDT, RFCTL, RXCSUM, RXQ0};

/// The buffers' size, by RCTL.
const BUFFER: usize = 2048;

impl Device {
    /// A frame comes from the wire, without its checksum. Whether it was received.
    pub fn arrive(&self, frame: &[u8]) -> bool {
        let deaf = self.get(RCTL) & EN == 0 || !self.masters() || !self.link.get();
        if deaf || frame.is_empty() {
            return false;
        }
        // Long packets are enabled (10.2.5.1): they are counted with their checksum.
        if frame.len() + 4 > 16384 {
            self.count(0x40ac);
            return false;
        }
        let (head, tail) = (self.get(RDH), self.get(RDT));
        let pieces = frame.chunks(BUFFER);
        if (tail.wrapping_sub(head) % 256) < pieces.len() as u32 {
            self.count(0x4010);
            return false;
        }
        let last = pieces.len() - 1;
        for (number, piece) in pieces.enumerate() {
            // Nothing is said of a frame before its end.
            let status = if number == last { 0b11 | self.verify(frame) } else { 0b01 };
            self.fill(piece, status);
        }
        self.count(0x4074);
        self.raise_receive();
        true
    }

    /// Puts a piece of a frame into the next buffer.
    fn fill(&self, piece: &[u8], status: u32) {
        let head = self.get(RDH);
        let at = self.base(RDBAL) + u64::from(head) * 16;
        let mut descriptor = [0; 16];
        self.read_memory(at, &mut descriptor);
        let address = u64::from_le_bytes(descriptor[..8].try_into().expect("eight bytes"));
        let clear = descriptor[8..] == [0; 8];
        self.must(clear, "a descriptor posted with status in it");
        self.write_memory(address, piece);
        self.write_back(status, piece.len() as u16);
    }

    /// What it says of a frame's checksums, where it is asked to look at them (7.1.10):
    /// IPCS, TCPCS, and UDPCS beside that; IPE and TCPE.
    fn verify(&self, frame: &[u8]) -> u32 {
        let asked = |bit: u32| self.get(RXCSUM) >> bit & 1 == 1;
        let Sums { ip, transport } = Sums::of(frame);
        let ip = ip.filter(|_| asked(8)).map_or(0, |right| 1 << 6 | u32::from(!right) << 30);
        let transport = transport.filter(|_| asked(9));
        let transport = transport
            .map_or(0, |(right, tcp)| 1 << 5 | u32::from(!tcp) << 4 | u32::from(!right) << 29);
        ip | transport
    }

    fn write_back(&self, status: u32, len: u16) {
        let head = self.get(RDH);
        let at = self.base(RDBAL) + u64::from(head) * 16;
        // Everything but status and length is garbage.
        self.write_memory(at, &[0xee; 16]);
        self.write_memory(at + 8, &status.to_le_bytes());
        self.write_memory(at + 12, &len.to_le_bytes());
        self.set(RDH, (head + 1) % 256);
    }

    fn raise_receive(&self) {
        let ack = if self.get(RFCTL) & 1 << 12 == 0 { 1 << 17 } else { 0 };
        self.raise(RXQ0 | ack);
    }

    /// Writes back the next receive descriptor, whatever is true, if it can write at
    /// all.
    pub fn lie(&self, status: u32, len: u16) {
        if self.masters() && self.get(RCTL) & EN != 0 {
            self.lied.set(true);
            self.write_back(status, len);
            self.raise_receive();
        }
    }

    pub(super) fn enable_receive(&self, value: u32) {
        assert!(self.base(RDBAL) != 0 && self.get(RDBAL).is_multiple_of(16), "no ring");
        assert_eq!((self.get(RDLEN), self.get(RDH)), (4096, 0));
        assert!(self.masters(), "receiving without bus mastering");
        assert_eq!(self.get(ICR), 0, "causes left over from before");
        assert!(self.get(RFCTL) & 1 << 15 != 0, "the model knows extended descriptors");
        assert_eq!(value & (0b11 << 16 | 1 << 25), 0, "buffers of 2048 bytes");
        let wanted = 1 << 5 | 1 << 3 | 1 << 4 | 1 << 15 | 1 << 26;
        assert_eq!(value & wanted, wanted, "long packets, promiscuous, checksums stripped");
    }
}
