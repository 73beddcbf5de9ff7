//! What the device makes of a packet by a context (7.3): its checksum, or segments.

use super::headers::sum;
use super::send::Context;

/// In POPTS.
const IXSM: u8 = 1 << 0;
const TXSM: u8 = 1 << 1;
/// TCP flags: FIN and PSH are the last segment's; CWR would be all segments'.
const FIN_PSH: u8 = 1 << 0 | 1 << 3;
const SYN_RST_URG_CWR: u8 = 1 << 1 | 1 << 2 | 1 << 5 | 1 << 7;

/// The part of a context that segments need (7.2.10.2).
#[derive(Clone, Copy)]
pub(super) struct Segmentation {
    /// IPCSS, IPCSO and IPCSE.
    ip: usize,
    ip_field: usize,
    ip_end: usize,
    /// Whether the packet is IPv4's.
    v4: bool,
    headers: usize,
    mss: usize,
    payload: usize,
}

impl Segmentation {
    pub(super) fn of(low: u64, high: u64) -> Self {
        let [ip, ip_field, headers] = [low, low >> 8, high >> 40].map(|byte| byte as u8 as usize);
        let [ip_end, mss] = [low >> 16, high >> 48].map(|word| word as u16 as usize);
        let payload = (high & 0xf_ffff) as usize;
        Self { ip, ip_field, ip_end, v4: high >> 25 & 1 == 1, headers, mss, payload }
    }
}

/// Adds up from the start to the end, the field's own content included, and puts the
/// complement into the field (7.3.5). None where that is not in the frame.
pub(super) fn checksum(context: Context, bytes: &mut [u8]) -> Option<()> {
    let Context { start, field, end, tcp, .. } = context;
    let end = if end == 0 { bytes.len() } else { end + 1 };
    insert(bytes, start..end, field, 0, tcp)
}

/// The same, with `more` to be added, and a UDP checksum's own zero where it is one (RFC
/// 768).
fn insert(
    bytes: &mut [u8],
    range: std::ops::Range<usize>,
    field: usize,
    more: u32,
    zero: bool,
) -> Option<()> {
    let checksum = match !sum(more, bytes.get(range)?) {
        0 if !zero => 0xffff,
        checksum => checksum,
    };
    bytes.get_mut(field..field + 2)?.copy_from_slice(&checksum.to_be_bytes());
    Some(())
}

impl Context {
    /// Cuts a packet whose first descriptor tells of `first` bytes of it. Says which of the
    /// rules that the device leaves to its driver is broken: then it sends anything.
    pub(super) fn cut(
        self,
        packet: &[u8],
        first: usize,
        options: u8,
    ) -> Result<Vec<Vec<u8>>, &'static str> {
        let segmentation = self.segmentation.ok_or("segments in a checksum's context")?;
        let Segmentation { ip, ip_field, ip_end, v4, headers, mss, payload } = segmentation;
        let rule = |holds: bool, rule| if holds { Ok(()) } else { Err(rule) };
        rule(headers <= 240 && mss > 0x10, "HDRLEN or MSS beyond what there is (7.2.10.2)")?;
        rule(first >= headers, "headers in pieces (7.3.6)")?;
        rule(headers + payload == packet.len() && payload > 0, "PAYLEN is another packet's")?;
        rule(self.tcp && self.end == 0 && options & TXSM != 0, "TCP with its checksum")?;
        rule(v4 == (options & IXSM != 0), "the IPv4 checksum is made, and no other")?;
        let (tcp, prototype) = (self.start, &packet[..headers]);
        rule(tcp + 20 <= headers && ip + 20 <= tcp && self.field == tcp + 16, "TCP is elsewhere")?;
        let zero = |range| prototype[range] == [0, 0];
        let version = prototype[ip] >> 4;
        match v4 {
            true => {
                rule(version == 4 && ip_field == ip + 10 && ip_end == tcp - 1, "not IPv4")?;
                rule(zero(ip + 2..ip + 4) && zero(ip + 10..ip + 12), "length, checksum: zero")?;
            }
            false => {
                rule(version == 6 && ip + 40 <= tcp, "not IPv6")?;
                rule(zero(ip + 4..ip + 6), "length: zero (7.3.4)")?;
            }
        }
        rule(prototype[tcp + 13] & SYN_RST_URG_CWR == 0, "flags that all segments would have")?;
        let segments = packet[headers..].chunks(mss).enumerate().map(|(number, payload)| {
            let mut frame = [prototype, payload].concat();
            let last = number == segmentation.payload.div_ceil(mss) - 1;
            self.update(&mut frame, segmentation, number, last);
            frame
        });
        Ok(segments.collect())
    }

    /// Makes of the prototype the headers of the segment `number` (7.3.6.2).
    fn update(self, frame: &mut [u8], segmentation: Segmentation, number: usize, last: bool) {
        let Segmentation { ip, ip_field, ip_end, v4, mss, .. } = segmentation;
        let (tcp, len) = (self.start, frame.len());
        let add = |frame: &mut [u8], at: usize, more: usize| {
            let field = &mut frame[at..at + 2];
            let sum = u16::from_be_bytes([field[0], field[1]]).wrapping_add(more as u16);
            field.copy_from_slice(&sum.to_be_bytes());
        };
        if v4 {
            add(frame, ip + 2, len - ip);
            add(frame, ip + 4, number);
            insert(frame, ip..ip_end + 1, ip_field, 0, true).expect("inside");
        } else {
            add(frame, ip + 4, len - ip - 40);
        }
        let sequence = u32::from_be_bytes(frame[tcp + 4..tcp + 8].try_into().expect("four bytes"));
        let sequence = sequence.wrapping_add((number * mss) as u32);
        frame[tcp + 4..tcp + 8].copy_from_slice(&sequence.to_be_bytes());
        if !last {
            frame[tcp + 13] &= !FIN_PSH;
        }
        insert(frame, tcp..len, self.field, (len - tcp) as u32, true).expect("inside");
    }
}
