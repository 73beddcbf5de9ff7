//! Much of what is allowed: frames, events, connections (F-13, S-7), and frames that are
//! not from who they say (F-10).

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use xen::netif::{TxFlags, TxRequest, TxSlot};

use super::{Attack, Outcome, attack, segments};
use crate::agent::netfront::devices::Access;
use crate::agent::netfront::{Front, frame};

const SERVED: Outcome = Outcome::Served;

/// How long a flood lasts.
const FLOOD: Duration = Duration::from_secs(1);

/// How many events a storm has, in how much time at most.
const EVENTS: u32 = 100_000;
const STORM: Duration = Duration::from_secs(3);

const CYCLES: u32 = 5;

/// Frames begin at multiples of this.
const ALIGNMENT: usize = 128;

pub(super) const ATTACKS: &[Attack] = &[
    attack("f10-spoofed-minimal", SERVED, |front| spoofed(front, 14)),
    attack("f10-spoofed-maximal", SERVED, |front| spoofed(front, 1514)),
    attack("f10-control-frames", SERVED, control_frames),
    attack("s7-event-storm", SERVED, event_storm),
    attack("flood-of-one", SERVED, |front| flood_for_a_while(front, &[vec![front.good()]])),
    attack("flood-in-pieces", SERVED, in_pieces),
    attack("flood-multicast", SERVED, multicast),
    attack("f4-flood", SERVED, |front| flood_for_a_while(front, &[segments::most(front)?])),
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

/// A packet for each of these frames, all of one length, with as many in a page as it
/// holds.
fn whole(front: &Front, frames: &[Vec<u8>]) -> Result<Vec<Vec<TxSlot>>> {
    let size = frames[0].len();
    let step = size.next_multiple_of(ALIGNMENT);
    let mut packets = Vec::new();
    for frames in frames.chunks(xen::PAGE_SIZE / step) {
        let page = front.grants.page(front.domain, Access::Read)?;
        for (offset, frame) in (0..).step_by(step).zip(frames) {
            page.shared().write_bytes(offset, frame);
            let flags = TxFlags::empty();
            let slot = TxRequest::new(page.reference, offset as u16, flags, 7, size as u16);
            packets.push(vec![slot.into()]);
        }
    }
    Ok(packets)
}

/// Frames to the victim, from its own address, the attacker's, addresses that are none,
/// and more than a guest may have that are nobody's.
fn spoofed(front: &mut Front, size: usize) -> Result<()> {
    let known = [front.own, front.victim, [0; 6], [0xFF; 6], [0x01, 0, 0x5E, 0, 0, 1]];
    let unknown = (0..100).map(|last| [0x02, 0, 0, 0, 0xF1, last]);
    let sources = known.into_iter().chain(unknown);
    let frames: Vec<_> = sources.map(|source| frame(front.victim, source, size)).collect();
    flood_for_a_while(front, &whole(front, &frames)?)
}

/// Frames of the most slots that are taken.
fn in_pieces(front: &mut Front) -> Result<()> {
    let slot = |flags, size| TxRequest::new(front.page(), 0, flags, 7, size).into();
    let mut packet = vec![slot(TxFlags::MORE_DATA, 1514)];
    packet.extend([slot(TxFlags::MORE_DATA, 80); 17]);
    packet.push(slot(TxFlags::empty(), 80));
    flood_for_a_while(front, &[packet])
}

/// To addresses that bridges keep to themselves.
fn control_frames(front: &mut Front) -> Result<()> {
    let to = (0..16).map(|last| [0x01, 0x80, 0xC2, 0, 0, last]);
    let frames: Vec<_> = to.map(|to| frame(to, front.own, 60)).collect();
    flood_for_a_while(front, &whole(front, &frames)?)
}

/// To everybody, the wire among them.
fn multicast(front: &mut Front) -> Result<()> {
    let to = [[0xFF; 6], [0x01, 0, 0x5E, 1, 2, 3], [0x33, 0x33, 0, 0, 0, 1]];
    let frames: Vec<_> = to.map(|to| frame(to, front.own, 60)).into();
    flood_for_a_while(front, &whole(front, &frames)?)
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
