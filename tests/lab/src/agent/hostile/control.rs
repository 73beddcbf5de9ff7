//! The control ring: one that cannot be, and requests that cannot be obeyed (F-8, S-5).

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Result, ensure};
use xen::bindings::*;
use xen::netif::{ControlRequest, ControlResponse, ControlStatus};
use xen::ring::Word;

use super::grants::bad;
use super::queues::{Wide, refused};
use super::{Attack, Outcome, attack};
use crate::agent::netfront::Front;
use crate::agent::netfront::devices::{Access, Page};

const BROKEN: Outcome = Outcome::Broken("producer index");
const SERVED: Outcome = Outcome::Served;

const RING: &str = "ctrl-ring-ref";
const PORT: &str = "event-channel-ctrl";

const SUCCESS: ControlStatus = ControlStatus::Success;
const UNKNOWN: ControlStatus = ControlStatus::NotSupported;
const INVALID: ControlStatus = ControlStatus::InvalidParameter;
const OVERFLOW: ControlStatus = ControlStatus::BufferOverflow;

/// How often a table is set while it changes.
const TABLES: u32 = 60;

/// How often the ring is filled.
const FILLS: u32 = 10;

pub(super) const ATTACKS: &[Attack] = &[
    attack(
        "f8-control-ring-is-tx",
        Outcome::Refused("ctrl-ring-ref contradicts queue-0/tx-ring-ref"),
        |front| {
            let tx = front.tx.page.reference.to_string();
            refused(front, |_, keys| Ok(keys.with(RING, tx)))
        },
    ),
    attack("f8-control-ring-of-none", Outcome::Refused("mapping ctrl-ring-ref"), |front| {
        refused(front, |_, keys| Ok(keys.with(RING, "4294967295")))
    }),
    attack("f8-control-ring-read-only", Outcome::Refused("mapping ctrl-ring-ref"), |front| {
        refused(front, |front, keys| {
            let grant = front.grants.grant(front.domain, Access::Read)?;
            Ok(keys.with(RING, grant.reference.to_string()))
        })
    }),
    attack("f8-control-port-of-none", Outcome::Refused("binding event-channel-ctrl"), |front| {
        refused(front, |_, keys| Ok(keys.with(PORT, "4294967295")))
    }),
    attack("f9-control-no-port", Outcome::Refused("event-channel-ctrl is missing"), |front| {
        refused(front, |_, keys| Ok(keys.without(PORT)))
    }),
    attack("f1-control-producer-129", BROKEN, |front| jumps(front, 129)).unconnected(),
    attack("f1-control-producer-2g", BROKEN, |front| jumps(front, 1 << 31)).unconnected(),
    attack("f1-control-producer-back", BROKEN, |front| jumps(front, u32::MAX)).unconnected(),
    attack("s5-requests", SERVED, requests).unconnected(),
    attack("s5-table-changes", SERVED, table_changes).unconnected(),
    attack("s5-flood", SERVED, flood).unconnected(),
];

fn jumps(front: &mut Front, by: u32) -> Result<()> {
    let Wide { control, .. } = Wide::connect(front)?;
    control.set(Word::RequestProducer, control.produced().wrapping_add(by));
    front.knock()
}

/// Shows a request and returns its answer.
fn ask(front: &Front, wide: &Wide, kind: u32, data: [u32; 3]) -> Result<ControlResponse> {
    let request = ControlRequest { id: 0xA5A5, kind: kind as u16, data };
    let index = wide.control.produced();
    wide.control.show([request]);
    front.knock()?;
    front.wait("the control request answered", |_| wide.control.answered() != index)?;
    let answer = wide.control.response(index);
    ensure!((answer.id, answer.kind) == (request.id, request.kind), "{answer:?} to {request:?}");
    Ok(answer)
}

/// A page with these queues in a table.
fn table(front: &Front, queues: &[u32]) -> Result<Page> {
    let page = front.grants.page(front.domain, Access::Read)?;
    for (place, queue) in queues.iter().enumerate() {
        page.shared().store(place * size_of::<u32>(), *queue);
    }
    Ok(page)
}

/// What each request must be answered by, one after the other.
fn requests(front: &mut Front) -> Result<()> {
    let wide = Wide::connect(front)?;
    let good = table(front, &[1; 128])?.reference;
    let beyond = table(front, &[[0; 63].as_slice(), &[2; 1]].concat())?.reference;
    let far = table(front, &[u32::MAX; 64])?.reference;
    let (half, most) = (1 << 31, u32::MAX);
    let mut cases = vec![
        (XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS, [0; 3], UNKNOWN),
        (XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS, [1, 0, 0], UNKNOWN),
        (XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM, [2, 0, 0], INVALID),
        (XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM, [most, 0, 0], INVALID),
        (XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM, [1, 0, 0], SUCCESS),
        (XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS, [0x10, 0, 0], INVALID),
        (XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS, [most, 0, 0], INVALID),
        (XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS, [0xF, 0, 0], SUCCESS),
        (XEN_NETIF_CTRL_TYPE_SET_HASH_KEY, [good, 41, 0], OVERFLOW),
        (XEN_NETIF_CTRL_TYPE_SET_HASH_KEY, [good, most, 0], OVERFLOW),
        (XEN_NETIF_CTRL_TYPE_SET_HASH_KEY, [good, 40, 0], SUCCESS),
        (XEN_NETIF_CTRL_TYPE_SET_HASH_KEY, [most, 0, 0], SUCCESS),
        (XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE, [129, 0, 0], INVALID),
        (XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE, [most, 0, 0], INVALID),
        (XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING, [good, 1, 0], INVALID),
        (XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE, [64, 0, 0], SUCCESS),
    ];
    let mappings = [
        ([good, 64, 0], SUCCESS),
        ([good, 1, 64], INVALID),
        ([good, 65, 0], INVALID),
        ([good, most, 1], INVALID),
        ([good, 1, most], INVALID),
        ([good, half, half], INVALID),
        ([good, 129, 0], OVERFLOW),
        ([good, 0, 129], OVERFLOW),
        ([good, most, 0], OVERFLOW),
        ([beyond, 64, 0], INVALID),
        ([far, 64, 0], INVALID),
        ([most, 0, 64], SUCCESS),
    ];
    let mapping = |(data, status)| (XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING, data, status);
    cases.extend(mappings.map(mapping));
    for reference in bad(front)? {
        cases.push((XEN_NETIF_CTRL_TYPE_SET_HASH_KEY, [reference, 40, 0], INVALID));
        cases.push((XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING, [reference, 64, 0], INVALID));
    }
    cases.extend([0, 8, 9, 10, 11, 0xFFFF].map(|kind| (kind, [good, 1, 0], UNKNOWN)));
    for (kind, data, status) in cases {
        let answer = ask(front, &wide, kind, data)?;
        ensure!(answer.status == status as u32, "type {kind}, {data:x?}: {answer:?}");
    }
    let size = ask(front, &wide, XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE, [0; 3])?;
    ensure!(size.data == 128, "{size:?}");
    Ok(())
}

/// A table whose queues are some that there are and some that there are not in turn, while
/// it is read.
fn table_changes(front: &mut Front) -> Result<()> {
    let wide = Wide::connect(front)?;
    let page = table(front, &[0; 128])?;
    let setting = [
        (XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM, 1),
        (XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS, 0xF),
        (XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE, 128),
    ];
    for (kind, value) in setting {
        ask(front, &wide, kind, [value, 0, 0])?;
    }
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let (shared, over) = (page.shared(), &over);
        let changer = scope.spawn(move || {
            for queue in [1, u32::MAX, 0, 2].into_iter().cycle() {
                (0..128).for_each(|place| shared.store(place * size_of::<u32>(), queue));
                if over.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let set = (0..TABLES).try_for_each(|_| {
            let data = [page.reference, 128, 0];
            let answer = ask(front, &wide, XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING, data)?;
            let possible = [SUCCESS as u32, INVALID as u32];
            ensure!(possible.contains(&answer.status), "{answer:?}");
            Ok(())
        });
        over.store(true, Ordering::Relaxed);
        // It does not panic.
        let _ = changer.join();
        set
    })
}

/// The ring is full again and again, of requests that each take a copy.
fn flood(front: &mut Front) -> Result<()> {
    let wide = Wide::connect(front)?;
    let page = table(front, &[0; 10])?.reference;
    let data = [page, 40, 0];
    let kind = XEN_NETIF_CTRL_TYPE_SET_HASH_KEY as u16;
    for _ in 0..FILLS {
        wide.control.show((0..128).map(|id| ControlRequest { id, kind, data }));
        front.knock()?;
        front
            .wait("a full ring answered", |_| wide.control.answered() == wide.control.produced())?;
    }
    let last = wide.control.response(wide.control.produced().wrapping_sub(1));
    ensure!((last.id, last.status) == (127, SUCCESS as u32), "{last:?}");
    Ok(())
}
