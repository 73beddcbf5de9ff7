//! What the device knows of a frame's headers.

/// Where a whole TCP segment or UDP datagram is in its frame.
#[derive(Clone, Copy)]
pub(super) struct Transport {
    /// Where the IP header begins.
    pub ip: usize,
    pub v6: bool,
    /// Where the transport header begins.
    pub start: usize,
    pub tcp: bool,
    /// Where the packet ends: what follows is padding.
    pub end: usize,
}

/// What the device verifies in a frame (7.1.10).
pub(super) struct Sums {
    /// That of the IPv4 header, where there is one.
    pub ip: Option<bool>,
    /// That of TCP or UDP, and which of them it is, where there is one: not in a fragment.
    pub transport: Option<(bool, bool)>,
}

impl Sums {
    pub(super) fn of(frame: &[u8]) -> Self {
        let header = ip(frame).filter(|(_, v6)| !v6).and_then(|(ip, _)| {
            let len = usize::from(frame.get(ip)? & 0xf) * 4;
            frame.get(ip..ip + len)
        });
        let ip = header.map(|header| sum(0, header) == 0xffff);
        let transport = Transport::find(frame).and_then(|found| {
            let Transport { ip, v6, start, tcp, end } = found;
            let segment = frame.get(start..end)?;
            let field = segment.get(if tcp { 16..18 } else { 6..8 })?;
            if !tcp && field == [0, 0] {
                return None;
            }
            let addresses = if v6 { ip + 8..ip + 40 } else { ip + 12..ip + 20 };
            let number = if tcp { 6 } else { 17 };
            let pseudo = sum(number + segment.len() as u32, &frame[addresses]);
            Some((sum(pseudo.into(), segment) == 0xffff, tcp))
        });
        Self { ip, transport }
    }
}

impl Transport {
    /// That of a frame which is no fragment, and goes on as far as it says.
    fn find(frame: &[u8]) -> Option<Self> {
        let (ip, v6) = ip(frame)?;
        let header = frame.get(ip..)?;
        let word = |at: usize| {
            Some(usize::from(u16::from_be_bytes([*header.get(at)?, *header.get(at + 1)?])))
        };
        let (protocol, start, end) = match v6 {
            true => (*header.get(6)?, ip + 40, ip + 40 + word(4)?),
            false if word(6)? & 0x3fff != 0 => return None,
            false => (*header.get(9)?, ip + usize::from(header[0] & 0xf) * 4, ip + word(2)?),
        };
        let tcp = match protocol {
            6 => true,
            17 => false,
            _ => return None,
        };
        Some(Self { ip, v6, start, tcp, end })
    }
}

/// Where the IP header of a frame begins behind up to two tags, and of which version it is.
fn ip(frame: &[u8]) -> Option<(usize, bool)> {
    let mut at = 12;
    loop {
        match (*frame.get(at)?, *frame.get(at + 1)?) {
            (0x81, 0x00) | (0x88, 0xa8) if at < 20 => at += 4,
            (0x08, 0x00) => return Some((at + 2, false)),
            (0x86, 0xdd) => return Some((at + 2, true)),
            _ => return None,
        }
    }
}

/// RFC 1071: the one's complement sum of `bytes`, added to `start`.
pub(super) fn sum(start: u32, bytes: &[u8]) -> u16 {
    let mut sum = start;
    for word in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    ((sum & 0xffff) + (sum >> 16)) as u16
}
