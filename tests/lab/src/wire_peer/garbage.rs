//! Frames that no honest station sends.
//!
//! None of them has a content that a right receiver takes for honest traffic: what
//! is a whole packet goes to a port where nobody listens, what resembles a packet of
//! the peer's own has a wrong checksum or length, and there is no whole ARP or
//! neighbour discovery among them. So honest traffic beside them must be right.

use etherparse::PacketBuilder;

use crate::agent::noise::Noise;
use crate::observe::wire::{LONGEST, Mac, ones_complement};

/// A kind of garbage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Shorter than Ethernet allows, headers cut or whole.
    Runt,
    /// Longer than Ethernet allows, up to what the emulator's network carries.
    Oversized,
    /// Noise behind two addresses.
    Noise,
    /// One of the peer's own packets with a bit flipped.
    BitFlip,
    /// One of the peer's own packets cut short, in a header or behind; its IP length as
    /// it was, or cut as well.
    Cut,
    /// One of the peer's own packets whose IP header has a wrong length and a right
    /// checksum.
    WrongLength,
    /// A whole packet from an address that is not the peer's.
    Spoofed,
    /// A whole packet behind one, two or many VLAN tags.
    Tagged,
    /// Many frames to groups, Ethernet's own control addresses among them.
    Storm,
}

/// All kinds.
pub const KINDS: [Kind; 9] = [
    Kind::Runt,
    Kind::Oversized,
    Kind::Noise,
    Kind::BitFlip,
    Kind::Cut,
    Kind::WrongLength,
    Kind::Spoofed,
    Kind::Tagged,
    Kind::Storm,
];

const ETHERNET_HEADER: usize = 14;

/// Without options.
const IP_HEADER: usize = 20;

const SHORTEST: usize = 60;

/// The emulator takes a little more.
const LARGEST: usize = 65536;

/// Frames of a storm that are sent at once.
const STORM: usize = 16;

/// No station has this address.
const NOBODY: [u8; 4] = [10, 0, 2, 78];

/// Nobody listens there.
const PORT: u16 = 4;

/// An endless sequence of garbage, the same one for a seed.
pub struct Garbage {
    noise: Noise,
    victims: Vec<(Mac, [u8; 4])>,
    bursts: usize,
}

impl Garbage {
    /// Garbage for these stations, and with their addresses; there is at least one.
    pub fn new(seed: u64, victims: Vec<(Mac, [u8; 4])>) -> Garbage {
        assert!(!victims.is_empty(), "garbage for nobody");
        Garbage { noise: Noise::new(seed), victims, bursts: 0 }
    }

    /// The frames to send next, of one kind after the other. `honest` is one of the
    /// peer's own frames.
    pub fn burst(&mut self, honest: &[u8]) -> (Kind, Vec<Vec<u8>>) {
        let kind = KINDS[self.bursts % KINDS.len()];
        self.bursts += 1;
        (kind, self.frames(kind, honest))
    }

    fn frames(&mut self, kind: Kind, honest: &[u8]) -> Vec<Vec<u8>> {
        match kind {
            Kind::Runt => {
                let mut frame = self.whole();
                // An empty datagram would be the end of the link.
                frame.truncate(1 + self.noise.below(SHORTEST - 1));
                vec![frame]
            }
            Kind::Oversized => {
                let mut frame = self.whole();
                let most = if self.noise.below(2) == 0 { LONGEST + 200 } else { LARGEST };
                let length = LONGEST + 1 + self.noise.below(most - LONGEST);
                frame.resize(length, 0xA5);
                vec![frame]
            }
            Kind::Noise => {
                let length = ETHERNET_HEADER + self.noise.below(LONGEST - ETHERNET_HEADER + 1);
                let mut frame = vec![0; length];
                self.noise.fill(&mut frame);
                frame[..6].copy_from_slice(&self.target().0);
                // A length, or a type that no guest knows.
                frame[12] = if self.noise.below(2) == 0 { frame[12] & 3 } else { frame[12] | 0x90 };
                vec![frame]
            }
            Kind::BitFlip => self.like(honest, |noise, packet| {
                let bit = noise.below(packet.len() * 8);
                packet[bit / 8] ^= 1 << (bit % 8);
            }),
            Kind::Cut => self.like(honest, |noise, packet| {
                let left = noise.below(packet.len());
                packet.truncate(left);
                if left >= IP_HEADER && noise.below(2) == 0 {
                    packet[2..4].copy_from_slice(&(left as u16).to_be_bytes());
                    repair_checksum(packet);
                }
            }),
            Kind::WrongLength => self.like(honest, |noise, packet| {
                let right = packet.len() as u16;
                let wrong = match noise.below(4) {
                    0 => noise.below(IP_HEADER) as u16,
                    1 => right + 1 + noise.below(64) as u16,
                    2 => u16::MAX,
                    _ => right - 1 - noise.below(8) as u16,
                };
                match noise.below(2) {
                    0 => packet[2..4].copy_from_slice(&wrong.to_be_bytes()),
                    // In words; 5 is right.
                    _ => packet[0] = 0x40 | (6 + noise.below(15)) as u8 & 0xF,
                }
                repair_checksum(packet);
            }),
            Kind::Spoofed => {
                let mut frame = self.whole();
                let source = match self.noise.below(4) {
                    0 => [0xFF; 6],
                    1 => [0; 6],
                    _ => self.victim().0.0,
                };
                frame[6..12].copy_from_slice(&source);
                vec![frame]
            }
            Kind::Tagged => {
                let frame = self.whole();
                let tags = [1, 2, 40][self.noise.below(3)];
                let (addresses, rest) = frame.split_at(12);
                let mut tagged = addresses.to_vec();
                for tag in 0..tags {
                    let kind: u16 = if tag + 1 < tags { 0x88A8 } else { 0x8100 };
                    tagged.extend(kind.to_be_bytes());
                    tagged.extend((self.noise.bits() as u16).to_be_bytes());
                }
                tagged.extend(rest);
                tagged.truncate(LONGEST);
                vec![tagged]
            }
            Kind::Storm => (0..STORM).map(|_| self.group_frame()).collect(),
        }
    }

    fn victim(&mut self) -> (Mac, [u8; 4]) {
        self.victims[self.noise.below(self.victims.len())]
    }

    /// A victim, everybody, or an address that nobody has.
    fn target(&mut self) -> Mac {
        match self.noise.below(8) {
            0 => Mac([0xFF; 6]),
            1 => Mac([0x02, 0, 0, 0, 0, self.noise.bits() as u8]),
            _ => self.victim().0,
        }
    }

    /// A whole datagram to a port where nobody listens.
    fn whole(&mut self) -> Vec<u8> {
        let target = self.target();
        let (_, ip) = self.victim();
        let mut payload = vec![0; self.noise.below(1400)];
        self.noise.fill(&mut payload);
        self.datagram(target, ip, &payload)
    }

    fn datagram(&mut self, target: Mac, ip: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let station = Mac([0x02, 0, 0, 0, 1, self.noise.bits() as u8]);
        let from = if self.noise.below(4) == 0 { self.victim().1 } else { NOBODY };
        PacketBuilder::ethernet2(station.0, target.0)
            .ipv4(from, ip, 64)
            .udp(PORT, PORT)
            .write(&mut frame, payload)
            .expect("a packet fits in memory");
        frame.resize(frame.len().max(SHORTEST), 0);
        frame
    }

    fn group_frame(&mut self) -> Vec<u8> {
        let low = self.noise.bits() as u8;
        let mut payload = vec![0; self.noise.below(200)];
        self.noise.fill(&mut payload);
        let mut frame = self.datagram(Mac([0xFF; 6]), [224, 0, 0, low], &payload);
        match self.noise.below(4) {
            // IEEE 802.3, annex 31B: a request to be silent for a while.
            0 => {
                frame.truncate(SHORTEST);
                frame[..6].copy_from_slice(&[0x01, 0x80, 0xC2, 0, 0, 1]);
                frame[12..18].copy_from_slice(&[0x88, 0x08, 0, 1, 0xFF, 0xFF]);
            }
            // Bridges and their neighbours.
            1 => frame[..6].copy_from_slice(&[0x01, 0x80, 0xC2, 0, 0, low & 0xF]),
            2 => frame[..6].copy_from_slice(&[0x01, 0x00, 0x5E, 0, 0, low]),
            _ => {}
        }
        frame
    }

    /// A copy of an honest IPv4 packet, spoilt. There is none where `honest` is not such
    /// a packet: anything else could be believed without a checksum.
    fn like(
        &mut self,
        honest: &[u8],
        spoil: impl FnOnce(&mut Noise, &mut Vec<u8>),
    ) -> Vec<Vec<u8>> {
        let Some((header, mut packet)) = ipv4_packet(honest) else { return Vec::new() };
        spoil(&mut self.noise, &mut packet);
        vec![[header, &packet].concat()]
    }
}

/// The Ethernet header and the packet behind it, without padding, if that is IPv4
/// without options and has content.
fn ipv4_packet(frame: &[u8]) -> Option<(&[u8], Vec<u8>)> {
    let (header, packet) = frame.split_at_checked(ETHERNET_HEADER)?;
    let length = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    let plain = header[12..] == [0x08, 0x00] && packet[0] == 0x45 && length > IP_HEADER + 8;
    plain.then_some((header, packet.get(..length)?.to_vec()))
}

/// Makes the checksum of an IPv4 header right.
fn repair_checksum(packet: &mut [u8]) {
    let words = usize::from(packet[0] & 0xF).max(5);
    let length = packet.len().min(4 * words);
    packet[10..12].fill(0);
    let checksum = !ones_complement(&[&packet[..length]]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::wire::Frame;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    const A: (Mac, [u8; 4]) = (Mac([2, 0, 0, 0, 0, 0xA]), [10, 0, 2, 101]);
    const B: (Mac, [u8; 4]) = (Mac([2, 0, 0, 0, 0, 0xB]), [10, 0, 2, 102]);

    fn honest() -> [Vec<u8>; 2] {
        let start = || PacketBuilder::ethernet2([4; 6], A.0.0).ipv4([10, 0, 2, 77], A.1, 64);
        let mut payload = [0; 700];
        Noise::new(3).fill(&mut payload);
        let (mut tcp, mut udp) = (Vec::new(), Vec::new());
        start().tcp(7000, 40000, 5, 6).write(&mut tcp, &payload).unwrap();
        start().udp(7, 40000).write(&mut udp, &payload[..9]).unwrap();
        udp.resize(SHORTEST, 0);
        [tcp, udp]
    }

    /// Some thousand bursts.
    fn bursts(seed: u64) -> Vec<(Kind, Vec<Vec<u8>>)> {
        let mut garbage = Garbage::new(seed, vec![A, B]);
        let honest = honest();
        (0..4000).map(|n| garbage.burst(&honest[n / KINDS.len() % 2])).collect()
    }

    #[test]
    fn a_seed_makes_the_same_garbage_of_all_kinds() {
        let once = bursts(1);
        assert!(once == bursts(1) && once != bursts(2));
        for kind in KINDS {
            assert!(once.iter().any(|(k, frames)| *k == kind && !frames.is_empty()), "{kind:?}");
        }
    }

    #[test]
    fn each_kind_is_what_it_says() {
        for (kind, frames) in bursts(3) {
            for frame in &frames {
                let source = || Mac(frame[6..12].try_into().unwrap());
                let right = match kind {
                    Kind::Runt => (1..SHORTEST).contains(&frame.len()),
                    Kind::Oversized => (LONGEST + 1..=LARGEST).contains(&frame.len()),
                    Kind::Noise => (ETHERNET_HEADER..=LONGEST).contains(&frame.len()),
                    Kind::BitFlip | Kind::Cut => Frame(frame).check().is_err(),
                    Kind::WrongLength => {
                        let words = usize::from(frame[14] & 0xF).max(5);
                        let header = &frame[14..frame.len().min(14 + 4 * words)];
                        ones_complement(&[header]) == 0xFFFF && Frame(frame).check().is_err()
                    }
                    Kind::Spoofed => [A.0, B.0, Mac([0; 6]), Mac([0xFF; 6])].contains(&source()),
                    Kind::Tagged => [[0x81, 0x00], [0x88, 0xA8]].contains(&[frame[12], frame[13]]),
                    Kind::Storm => frame[0] & 1 == 1,
                };
                assert!(right, "{kind:?}: {:?}", Frame(frame));
            }
        }
    }

    #[test]
    fn nothing_is_believed() {
        for (kind, frames) in bursts(4) {
            for frame in frames.iter().filter(|frame| Frame(frame).check().is_ok()) {
                let packet = SlicedPacket::from_ethernet(frame).unwrap();
                match packet.net {
                    Some(NetSlice::Arp(_) | NetSlice::Ipv6(_)) => panic!("{kind:?}: {packet:?}"),
                    Some(NetSlice::Ipv4(_)) => match packet.transport {
                        Some(TransportSlice::Udp(udp)) => assert_eq!(udp.destination_port(), PORT),
                        other => panic!("{kind:?}: {other:?}"),
                    },
                    None => {}
                }
            }
        }
    }

    #[test]
    fn without_a_packet_of_the_peers_own_nothing_is_made_from_it() {
        let mut garbage = Garbage::new(5, vec![A]);
        let mut arp = vec![0xFF; SHORTEST];
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        for honest in [&[][..], &arp, &honest()[0][..100]] {
            for _ in KINDS {
                let (kind, frames) = garbage.burst(honest);
                let made_from_it = matches!(kind, Kind::BitFlip | Kind::Cut | Kind::WrongLength);
                assert_eq!(frames.is_empty(), made_from_it, "{kind:?}");
            }
        }
    }
}
