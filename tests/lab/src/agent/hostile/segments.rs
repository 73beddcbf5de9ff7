//! Segmentation that cannot be: of no type, into nothing, of what is no segment (F-4).

use anyhow::{Context, Result};
use xen::netif::{ExtraInfo, Status, TxFlags, TxRequest, TxSlot};

use super::{Attack, Outcome, attack};
use crate::agent::netfront::Front;
use crate::agent::netfront::devices::{Access, Page};
use crate::observe::wire::ones_complement;

const SERVED: Outcome = Outcome::Served;

const V4: u8 = 1;
const V6: u8 = 2;

/// Where a frame has its IPv4 header, and its TCP header, and where its headers end.
const IP: usize = 14;
const TCP: usize = IP + 20;
const HEADERS: usize = TCP + 20;

/// The shortest segments, and as many of them as there may be in a packet.
const SHORTEST: u16 = 28;
const LONGEST_OF_SHORTEST: usize = 128 * SHORTEST as usize;

pub(super) const ATTACKS: &[Attack] = &[
    attack("f4-size-0", Outcome::Broken("into segments of 0 bytes"), |front| asks(front, V4, 0)),
    attack("f4-type-0", Outcome::Broken("segmentation of unknown type 0"), |front| {
        asks(front, 0, 1000)
    }),
    attack("f4-type-3", Outcome::Broken("segmentation of unknown type 3"), |front| {
        asks(front, 3, 1000)
    }),
    attack("f4-no-segments", SERVED, no_segments),
    attack("f4-segments", SERVED, segments),
];

/// A segment over IPv4, of nobody's connection, with so many bytes.
fn tcp(to: [u8; 6], from: [u8; 6], payload: usize) -> Vec<u8> {
    let mut frame = vec![0; HEADERS + payload];
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&from);
    frame[12..IP].copy_from_slice(&[0x08, 0x00]);
    let length = (HEADERS - IP + payload) as u16;
    let ip = &mut frame[IP..TCP];
    ip[..2].copy_from_slice(&[0x45, 0]);
    ip[2..4].copy_from_slice(&length.to_be_bytes());
    ip[6..10].copy_from_slice(&[0x40, 0, 64, 6]);
    ip[12..16].copy_from_slice(&[10, 0, 2, 140]);
    ip[16..20].copy_from_slice(&[192, 0, 2, 1]);
    let checksum = !ones_complement(&[ip]);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    frame[TCP + 12..TCP + 14].copy_from_slice(&[0x50, 0x10]);
    frame
}

/// A request of one slot and what it says of segmentation.
fn request(page: &Page, flags: TxFlags, len: usize, kind: u8, size: u16) -> [TxSlot; 2] {
    let flags = flags | TxFlags::EXTRA_INFO;
    let slot = TxRequest::new(page.reference, 0, flags, 7, len as u16);
    [slot.into(), ExtraInfo::gso(kind, size).into()]
}

/// A page that begins with a frame.
fn page(front: &Front, frame: &[u8]) -> Result<Page> {
    let page = front.grants.page(front.domain, Access::Read)?;
    page.shared().write_bytes(0, frame);
    Ok(page)
}

/// Asks for this segmentation of a packet that is a segment.
fn asks(front: &mut Front, kind: u8, size: u16) -> Result<()> {
    let frame = tcp(front.victim, front.own, 3000);
    let page = page(front, &frame)?;
    front.show(&request(&page, TxFlags::CSUM_BLANK, frame.len(), kind, size))
}

/// Packets that cannot be cut as they say, by what they are.
fn no_segments(front: &mut Front) -> Result<()> {
    type Change = fn(&mut Vec<u8>);
    let cases: [(&str, u8, u16, Change); 17] = [
        ("as IPv6", V6, 1000, |_| {}),
        ("of one byte", V4, 1, |_| {}),
        ("too short", V4, SHORTEST - 1, |_| {}),
        ("too many", V4, SHORTEST, |frame| frame.resize(HEADERS + LONGEST_OF_SHORTEST + 1, 0)),
        ("UDP", V4, 1000, |frame| frame[IP + 9] = 17),
        ("ARP", V4, 1000, |frame| frame[13] = 6),
        ("IPv6 that is not", V6, 1000, |frame| frame[12..IP].copy_from_slice(&[0x86, 0xDD])),
        ("IHL below 5", V4, 1000, |frame| frame[IP] = 0x44),
        ("IHL 15", V4, 1000, |frame| frame[IP] = 0x4F),
        ("data offset below 5", V4, 1000, |frame| frame[TCP + 12] = 0x40),
        ("a first fragment", V4, 1000, |frame| frame[IP + 6] = 0x20),
        ("a later fragment", V4, 1000, |frame| frame[IP + 7] = 1),
        ("SYN", V4, 1000, |frame| frame[TCP + 13] |= 2),
        ("cut off in Ethernet's header", V4, 1000, |frame| frame.truncate(IP)),
        ("cut off in IP's header", V4, 1000, |frame| frame.truncate(TCP - 1)),
        ("cut off in TCP's header", V4, 1000, |frame| frame.truncate(HEADERS - 1)),
        ("cut off in its payload", V4, 1000, |frame| frame.truncate(2000)),
    ];
    for (name, kind, size, change) in cases {
        let mut frame = tcp(front.victim, front.own, 3000);
        change(&mut frame);
        let page = page(front, &frame)?;
        let request = request(&page, TxFlags::CSUM_BLANK, frame.len(), kind, size);
        front.answered_by(&request, &[Status::Error, Status::Null]).context(name)?;
    }
    Ok(())
}

/// Packets that are unusual, and can be cut or need not be.
fn segments(front: &mut Front) -> Result<()> {
    let cases = [
        ("of 65535 bytes", TxFlags::CSUM_BLANK, 3000, u16::MAX),
        ("without a byte", TxFlags::CSUM_BLANK, 0, 1000),
        ("with a checksum", TxFlags::empty(), 3000, 1000),
        ("as many as there may be", TxFlags::CSUM_BLANK, LONGEST_OF_SHORTEST, SHORTEST),
    ];
    for (name, flags, payload, size) in cases {
        let frame = tcp(front.victim, front.own, payload);
        let page = page(front, &frame)?;
        let request = request(&page, flags, frame.len(), V4, size);
        front.answered_by(&request, &[Status::Okay, Status::Null]).context(name)?;
    }
    // The longest packet that there is.
    let longest = usize::from(u16::MAX);
    let frame = tcp(front.victim, front.own, longest - HEADERS);
    let page = page(front, &frame[..xen::PAGE_SIZE])?;
    let flags = TxFlags::CSUM_BLANK | TxFlags::MORE_DATA;
    let mut slots = request(&page, flags, longest, V4, 1448).to_vec();
    let further = TxRequest::new(page.reference, 0, TxFlags::MORE_DATA, 8, 4096);
    slots.extend([TxSlot::from(further); 14]);
    slots.push(TxRequest::new(page.reference, 0, TxFlags::empty(), 9, 4096).into());
    // The first is answered when its page is no longer needed, which may be last.
    let taken = [Status::Okay as i16, Status::Null as i16];
    front.answered(&slots, |status| taken.contains(&status)).context("the longest")
}

/// Requests that make as many frames of the wire as requests can: of the shortest segments,
/// for everybody.
pub(super) fn most(front: &Front) -> Result<Vec<TxSlot>> {
    let frame = tcp([0xFF; 6], front.own, LONGEST_OF_SHORTEST);
    let page = page(front, &frame)?;
    Ok(request(&page, TxFlags::empty(), frame.len(), V4, SHORTEST).to_vec())
}
