//! F-13: as many vifs as are served at once, of as many queues as they may have, and what
//! each of them costs. docs/SCALE.md states the figures.

use std::fs;

use drivers::netback::{MAX_QUEUES, MAX_VIFS};
use drivers::network::{HEAP_FOR_A_QUEUE, HEAP_FOR_A_VIF};
use kernel::memory::Layout;
use worlds::{GUESTS, Id, Manners, Outgoing, US, World, frames, heap_for_vifs};
use xen::PAGE_SIZE;
use xen::hypercall::MemoryRange;

use crate::harness::{Told, attack};

/// What the heap's figures are rounded up to: they differ by a little from vif to vif.
const STEP: usize = 16 << 10;
/// What Xen and xenstored let a domain have where nothing else is configured (H-7, L-9,
/// L-10).
const HANDLES: usize = 1024 * 256;
const PORTS: usize = 1023;
const NODES: usize = 1000;
const WATCHES: usize = 128;
/// Event channels that are set aside for the domain's own.
const OWN_PORTS: usize = 8;

/// What a vif takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Cost {
    /// Frames of the window, Xen's handles for their mappings, and grants of the guest's.
    frames: usize,
    ports: usize,
    nodes: usize,
    watches: usize,
    /// The fake hypervisor's part counts too.
    heap: usize,
}

/// The same of all there are.
fn taken(world: &World) -> Cost {
    let audit = world.xen.audit();
    assert_eq!(audit.mappings.len(), world.network.rings());
    Cost {
        frames: audit.mappings.len(),
        ports: audit.ports.len(),
        nodes: world.store.nodes(US),
        watches: world.store.watches(US),
        heap: 0,
    }
}

/// Attaches so many vifs one after the other; what each takes, which is the same for all,
/// and what there was before.
fn attach(world: &mut World, count: usize, manners: &Manners) -> (Vec<Id>, Cost, Cost) {
    let (start, mut heap) = (taken(world), Vec::new());
    let ids: Vec<_> = (0..count)
        .map(|n| {
            world.most_kept = 0;
            let id = world.attach_with(n % GUESTS.len(), manners.clone(), &[]);
            assert!(world.is_connected(id), "{n}: {:?}", world.error(id));
            let gate = HEAP_FOR_A_VIF + (manners.queues - 1) * HEAP_FOR_A_QUEUE;
            assert!(world.most_kept < gate as isize / 2, "{} bytes", world.most_kept);
            heap.push(world.most_kept as usize);
            id
        })
        .collect();
    heap.sort_unstable();
    let end = taken(world);
    let each = |all: fn(&Cost) -> usize| {
        let more = all(&end) - all(&start);
        assert_eq!(more % count, 0, "the same for each: {more}");
        more / count
    };
    let cost = Cost {
        frames: each(|cost| cost.frames),
        ports: each(|cost| cost.ports),
        nodes: each(|cost| cost.nodes),
        watches: each(|cost| cost.watches),
        heap: heap[count / 2].next_multiple_of(STEP),
    };
    (ids, cost, start)
}

/// Each sends to the next, by all of its queues, and gets what the one before it sends.
fn exchange(world: &mut World, ids: &[Id], queues: usize) {
    for (place, &from) in ids.iter().enumerate() {
        let to = world[ids[(place + 1) % ids.len()]].mac();
        for port in 0..64 {
            let frame = frames::numbered(to, world[from].mac(), port, 1, 300);
            world[from].queue(&Outgoing::whole(&frame));
        }
        world[from].kick();
    }
    world.settle();
    for &id in ids {
        let received = std::mem::take(&mut world[id].received);
        assert_eq!((received.len(), world[id].unanswered()), (64, 0), "{:?}", world[id].vif());
        let mut used: Vec<_> = received.iter().map(|packet| packet.queue).collect();
        used.sort_unstable();
        used.dedup();
        assert_eq!(used.len(), queues);
    }
    world.check_at_rest();
}

/// How many vifs that cost so much there is room for in a domain of 16 MiB, by the heap.
fn by_heap(cost: &Cost, queues: usize) -> usize {
    let range = MemoryRange { base: 1 << 20, size: 15 << 20, kind: 1 };
    let layout = Layout::new(&[range], 0x18_0000).expect("a layout");
    let gate = HEAP_FOR_A_VIF + (queues - 1) * HEAP_FOR_A_QUEUE;
    1 + (heap_for_vifs(&layout) - gate) / cost.heap
}

/// The rows of the document's tables.
fn rows(costs: &[(usize, Cost, Cost); 3]) -> Vec<String> {
    let row = |name: &str, figure: &dyn Fn(&(usize, Cost, Cost)) -> usize| {
        let [a, b, c] = costs.each_ref().map(figure);
        format!("| {name} | {a} | {b} | {c} |")
    };
    let window = (8 << 20) / PAGE_SIZE;
    vec![
        row("frames, handles, grants", &|(_, cost, _)| cost.frames),
        row("event channels", &|(_, cost, _)| cost.ports),
        row("XenStore nodes", &|(_, cost, _)| cost.nodes),
        row("watches", &|(_, cost, _)| cost.watches),
        row("heap, KiB", &|(_, cost, _)| cost.heap >> 10),
        row("nodes: 1000", &|(_, cost, start)| (NODES - start.nodes) / cost.nodes),
        row("watches: 128", &|(_, cost, start)| (WATCHES - start.watches) / cost.watches),
        row("event channels: 1023", &|(_, cost, _)| (PORTS - OWN_PORTS) / cost.ports),
        row("handles: 262144", &|(_, cost, _)| HANDLES / cost.frames),
        row("frames at 16 MiB: 2048", &|(_, cost, _)| window / cost.frames),
        row("heap at 16 MiB: 4096 KiB", &|(queues, cost, _)| by_heap(cost, *queues)),
    ]
}

/// F-13, L-9, L-10: 64 vifs of eight queues exchange packets by all of them; the same of one
/// queue, and where each ring has a channel and there is a control ring, as many as there
/// are channels for. What they cost is what the document says.
#[test]
fn f_13_sixty_four_guests_of_eight_queues() {
    let kinds = [(1, false, MAX_VIFS), (MAX_QUEUES, false, MAX_VIFS), (MAX_QUEUES, true, 59)];
    let costs = kinds.map(|(queues, all, count)| {
        let mut world = World::of_many();
        let offers = if queues == 1 { 80 } else { 32 };
        let manners = Manners { queues, split: all, control: all, offers, ..Manners::default() };
        let (ids, cost, start) = attach(&mut world, count, &manners);
        println!("{count} vifs of {queues} queues: {cost:?} each, beside {start:?}");
        exchange(&mut world, &ids, queues);
        for id in ids {
            assert_eq!(world.detach(id), Ok(()));
        }
        world.end();
        (queues, cost, start)
    });
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/SCALE.md");
    let document = fs::read_to_string(path).expect("it is there");
    let rows = rows(&costs);
    println!("{}", rows.join("\n"));
    let missing: Vec<_> = rows.iter().filter(|row| !document.contains(*row)).collect();
    assert!(missing.is_empty(), "docs/SCALE.md says otherwise: {missing:#?}");
}

/// F-13: vifs of eight queues until no frame is left to map a ring at. The one that gets
/// none is refused and leaves nothing, and there is room for it when another has left.
#[test]
fn f_13_no_frame_is_left_for_another_vif() {
    attack("no frame", Told(1), |world, _| {
        let manners = Manners { queues: MAX_QUEUES, offers: 32, ..Manners::default() };
        let ids = [0, 1, 2].map(|guest| world.attach_with(guest, manners.clone(), &[]));
        assert!(ids.into_iter().all(|id| world.is_connected(id)));
        let late = world.attach_with(0, manners, &[]);
        let error = world.error(late).expect("an error");
        assert!(error.starts_with("no frame left to map queue-5/tx-ring-ref at"), "{error}");
        assert_eq!(world.detach(late), Ok(()));
        exchange(world, &ids, MAX_QUEUES);
        assert_eq!(world.detach(ids[0]), Ok(()));
        let manners = Manners { queues: MAX_QUEUES, ..Manners::default() };
        let next = world.attach_with(0, manners, &[]);
        assert!(world.is_connected(next), "{:?}", world.error(next));
    });
}
