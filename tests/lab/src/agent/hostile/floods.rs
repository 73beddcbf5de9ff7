//! Much of what is allowed: frames, events, connections (F-13, S-7), and frames that are
//! not from who they say (F-10).

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use xen::netif::{TxFlags, TxRequest, TxSlot};

use super::devices::Access;
use super::front::{Front, frame};
use super::{Attack, Outcome, attack};

const SERVED: Outcome = Outcome::Served;

/// How long a flood lasts.
const FLOOD: Duration = Duration::from_secs(3);

/// How many events a storm has, in how much time at most.
const EVENTS: u32 = 300_000;
const STORM: Duration = Duration::from_secs(10);

const CYCLES: u32 = 20;

/// Frames of a page are this far apart.
const STEP: usize = 128;

pub(super) const ATTACKS: &[Attack] = &[
    attack("f10-forged", SERVED, forged),
    attack("f10-many-sources", SERVED, many_sources),
    attack("f10-control-frames", SERVED, control_frames),
    attack("s7-event-storm", SERVED, event_storm),
    attack("flood-minimal", SERVED, |front| flood_of(front, 14)),
    attack("flood-maximal", SERVED, |front| flood_of(front, 1514)),
    attack("flood-in-pieces", SERVED, in_pieces),
    attack("flood-multicast", SERVED, multicast),
    attack("f13-cycles", Outcome::Ended, cycles),
];

/// Sends packets again and again, as many as the ring takes, for as long as `go_on`.
fn flood(front: &Front, packets: &[Vec<TxSlot>], mut go_on: impl FnMut() -> bool) -> Result<()> {
    let mut next = packets.iter().cycle().peekable();
    let mut sent = 0;
    while go_on() {
        let mut room = front.tx.room();
        let mut slots = Vec::new();
        while let Some(packet) = next.next_if(|packet| packet.len() <= room) {
            room -= packet.len();
            slots.extend(packet);
            sent += 1;
        }
        if slots.is_empty() {
            thread::yield_now();
        } else if front.tx.show(slots) {
            front.knock()?;
        }
    }
    println!("{sent} packets");
    Ok(())
}

/// A flood for the usual time, whose end is waited for.
fn flood_for_a_while(front: &Front, packets: &[Vec<TxSlot>]) -> Result<()> {
    let until = Instant::now() + FLOOD;
    flood(front, packets, || Instant::now() < until)?;
    front.settle()
}

/// Short frames, as many as are asked for, in a few pages.
fn short(front: &Front, frames: &[Vec<u8>]) -> Result<Vec<Vec<TxSlot>>> {
    let mut packets = Vec::new();
    for frames in frames.chunks(xen::PAGE_SIZE / STEP) {
        let page = front.grants.page(front.domain, Access::Read)?;
        for (place, frame) in frames.iter().enumerate() {
            let (offset, size) = (place * STEP, frame.len());
            page.shared().write_bytes(offset, frame);
            let flags = TxFlags::empty();
            let slot = TxRequest::new(page.reference, offset as u16, flags, 7, size as u16);
            packets.push(vec![slot.into()]);
        }
    }
    Ok(packets)
}

fn flood_of(front: &mut Front, size: u16) -> Result<()> {
    let slot = TxRequest::new(front.page(), 0, TxFlags::empty(), 7, size);
    flood_for_a_while(front, &[vec![slot.into()]])
}

/// Frames of the most slots that are taken.
fn in_pieces(front: &mut Front) -> Result<()> {
    let slot = |flags, size| TxRequest::new(front.page(), 0, flags, 7, size).into();
    let mut packet = vec![slot(TxFlags::MORE_DATA, 1514)];
    packet.extend([slot(TxFlags::MORE_DATA, 80); 17]);
    packet.push(slot(TxFlags::empty(), 80));
    flood_for_a_while(front, &[packet])
}

/// From the victim's address, and from some that are nobody's.
fn forged(front: &mut Front) -> Result<()> {
    let sources = [front.victim, [0; 6], [0xFF; 6], [0x01, 0, 0x5E, 0, 0, 1]];
    let frames: Vec<_> = sources.map(|source| frame(front.victim, source, 60)).into();
    flood_for_a_while(front, &short(front, &frames)?)
}

/// From more addresses than a guest may have.
fn many_sources(front: &mut Front) -> Result<()> {
    let sources = (0..=255).flat_map(|a| [0, 1].map(|b| [0x02, 0, 0, 0xF1, b, a]));
    let frames: Vec<_> = sources.map(|source| frame(front.victim, source, 60)).collect();
    flood_for_a_while(front, &short(front, &frames)?)
}

/// To addresses that bridges keep to themselves.
fn control_frames(front: &mut Front) -> Result<()> {
    let to = (0..16).map(|last| [0x01, 0x80, 0xC2, 0, 0, last]);
    let frames: Vec<_> = to.map(|to| frame(to, front.own, 60)).collect();
    flood_for_a_while(front, &short(front, &frames)?)
}

/// To everybody, the wire among them.
fn multicast(front: &mut Front) -> Result<()> {
    let to = [[0xFF; 6], [0x01, 0, 0x5E, 1, 2, 3], [0x33, 0x33, 0, 0, 0, 1]];
    let frames: Vec<_> = to.map(|to| frame(to, front.own, 60)).into();
    flood_for_a_while(front, &short(front, &frames)?)
}

fn event_storm(front: &mut Front) -> Result<()> {
    let until = Instant::now() + STORM;
    let mut count = 0;
    while count < EVENTS && Instant::now() < until {
        front.knock()?;
        count += 1;
    }
    println!("{count} events");
    Ok(())
}

fn cycles(front: &mut Front) -> Result<()> {
    for _ in 0..CYCLES {
        front.close()?;
        front.start()?;
        front.connect()?;
        front.show(&[front.good(); 100])?;
    }
    Ok(())
}

/// Connects and sends for as long as the guest lives.
pub(super) fn without_end(front: &mut Front) -> Result<()> {
    front.connect()?;
    front.served()?;
    println!("{}", super::PLAYED);
    flood(front, &[vec![front.good()]], || true)
}
