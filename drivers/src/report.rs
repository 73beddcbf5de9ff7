//! What an operator asks the domain for: all counters, in words.

use core::fmt::{self, Display};

use kernel::memory::Size;
use kernel::pages::Census;
use xen::Hypervisor;

use crate::netback::data::QueueStatus;
use crate::netback::{Carrier, VifId};
use crate::network::Network;
use crate::nic::{Nic, Statistics};

/// A network's counters, a line for each thing that counts. Zeros that explain
/// nothing are left out.
pub struct Report<'a, H: Hypervisor, N: Nic>(pub &'a Network<H, N>);

impl<H: Hypervisor, N: Nic> Display for Report<'_, H, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(network) = self;
        for (bridge, switch) in network.switches().iter() {
            for (port, counters) in switch.ports() {
                let name = network.port_name(port);
                let (received, sent) = (counters.received, counters.sent);
                write!(f, "{bridge} {name}: from it {} packets", received.packets)?;
                write!(f, " {} bytes, to it {} packets", received.bytes, sent.packets)?;
                write!(f, " {} bytes", sent.bytes)?;
                for (reason, count) in counters.drops() {
                    write!(f, ", {} {count}", reason.name())?;
                }
                writeln!(f)?;
            }
            let addresses = switch.bridge();
            writeln!(
                f,
                "{bridge}: addresses learnt {}, moved {}, aged {}, held {}, over limit {}, crowded {}",
                addresses.learnt,
                addresses.moved,
                addresses.aged,
                addresses.held,
                addresses.over_limit,
                addresses.crowded
            )?;
        }
        for (vif, counters) in network.vifs() {
            let (tx, rx) = (counters.tx, counters.rx);
            write!(f, "{vif}: tx {} packets, refused {}", tx.packets, tx.refused)?;
            write!(f, ", unreadable {}, unsegmentable {}", tx.unreadable, tx.unsegmentable)?;
            write!(f, "; rx {} packets", rx.packets)?;
            write!(f, ", too long {}, failed {}", rx.too_long, rx.failed)?;
            write!(f, ", unreadable {}", rx.unreadable)?;
            match network.carrier(vif) {
                None | Some(Carrier::Up) => writeln!(f)?,
                Some(carrier) => writeln!(f, "; carrier {carrier}")?,
            }
            write_queues(f, vif, network.queues(vif))?;
        }
        if let Some(nic) = network.nic() {
            write!(f, "NIC: link {}, ", nic.link())?;
            write_nic(f, &nic.statistics(), network.joined())?;
        }
        if let Some(neighbour) = network.neighbour() {
            writeln!(f, "uplink: connected to {neighbour}")?;
        }
        let slow = network.switches().slow_path().counters();
        write!(f, "slow path: {} packets {} bytes", slow.sent.packets, slow.sent.bytes)?;
        for (reason, count) in slow.drops() {
            write!(f, ", {} {count}", reason.name())?;
        }
        writeln!(f)?;
        let pages = network.pools().tracker.counters();
        write!(
            f,
            "lent pages: claimed {}, responded {}, abandoned {}, out {}, holds {}, mapped {}, quarantined {}, maps {}",
            pages.claimed,
            pages.responded,
            pages.abandoned,
            pages.outstanding(),
            pages.holds,
            pages.mapped,
            pages.quarantined,
            pages.maps
        )?;
        // The same by another way of counting (O-16).
        let Census { records, holds, mapped, .. } = network.pools().tracker.census();
        write!(f, "; in the records {records}, held {holds} times, {mapped} of them mapped")?;
        match network.oldest_page() {
            Some(age) => writeln!(f, ", the oldest since {} ms", age.as_millis())?,
            None => writeln!(f)?,
        }
        let pools = network.pools();
        write!(f, "to the wire: mapped {} packets", pools.choice.mapped())?;
        for (reason, count) in pools.choice.copied() {
            write!(f, ", copied {} {count}", reason.name())?;
        }
        writeln!(f, "; {}", pools.choice)?;
        write!(f, "free: packets {}", pools.idle())?;
        write!(f, ", small buffers {}", pools.buffers.free(Size::Small))?;
        write!(f, ", large buffers {}", pools.buffers.free(Size::Large))?;
        writeln!(
            f,
            ", frames {}; quarantined {}",
            pools.window.free(),
            pools.window.quarantined()
        )?;
        writeln!(f, "leaked: {}", kernel::leaked())
    }
}

fn write_queues(
    f: &mut fmt::Formatter<'_>,
    vif: VifId,
    queues: impl Iterator<Item = QueueStatus>,
) -> fmt::Result {
    for QueueStatus { number, counters, stalled } in queues {
        // One that is alone has said all of itself as its vif.
        let Some(number) = number else { continue };
        let (tx, rx) = (counters.tx.packets, counters.rx.packets);
        write!(f, "{vif} queue {number}: tx {tx} packets, rx {rx} packets")?;
        writeln!(f, "{}", if stalled { ", stalled" } else { "" })?;
    }
    Ok(())
}

fn write_nic(f: &mut fmt::Formatter<'_>, nic: &Statistics, joined: u64) -> fmt::Result {
    write!(f, "received {} packets", nic.received)?;
    write!(f, " {} bytes, sent {} packets {} bytes", nic.received_bytes, nic.sent, nic.sent_bytes)?;
    let rare = [
        ("checksums verified", nic.received_checksums),
        ("wrong checksums", nic.receive_bad_checksums),
        ("joined", joined),
        ("receive errors", nic.receive_errors),
        ("malformed", nic.receive_malformed),
        ("no buffer", nic.receive_no_buffer),
        ("checksums made", nic.sent_checksums),
        ("segmented", nic.sent_to_be_cut),
        ("refused", nic.send_refused),
        ("aborted", nic.send_aborted),
        ("stalls", nic.stalls),
        ("links lost", nic.links_lost),
        ("flushes", nic.flushes),
        ("bus mastering lost", nic.mastering_lost),
        ("missed by the device", nic.device.missed),
        ("checksum errors", nic.device.checksum_errors),
        ("length errors", nic.device.length_errors),
        ("other errors", nic.device.other_errors),
    ];
    for (name, count) in rare.into_iter().filter(|(_, count)| *count > 0) {
        write!(f, ", {name} {count}")?;
    }
    writeln!(f, "; interrupts {}, resets {}", nic.interrupts, nic.resets)
}
