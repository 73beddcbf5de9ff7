//! How much of its memory the domain takes at its start.

use drivers::network::Network;
use kernel::Pools;
use kernel::memory::{Buffers, Layout, Window};
use kernel::pages::choice::Mode;
use kernel::switch::{Limits, Switches};
use xen::fake::FakeXen;
use xen::{Hypervisor, PAGE_SIZE};

use crate::allocations::used;
use crate::world::{US, ram};
use crate::{Uplink, Wire};

/// As the image has them.
const SWITCHES: Limits = Limits { switches: 16, ports: 128, addresses: 4096 };
const COPIES: usize = 512;

/// How many bytes of heap are left for vifs where memory is laid out like this: all but what
/// its packets, buffers, frames and the first switch take.
pub fn heap_for_vifs(layout: &Layout) -> usize {
    let xen = FakeXen::new(US);
    let pages = (layout.free.end - layout.free.start - layout.heap()) as usize / PAGE_SIZE;
    let frames = (layout.window.end - layout.window.start) as usize / PAGE_SIZE;
    let (small, large) = (ram(&xen, pages / 8), ram(&xen, pages - pages / 8));
    let frames = xen.foreign_frames(frames);
    let wire: Wire = Uplink::new(&xen);
    let before = used();
    let limits = kernel::Limits { packets: layout.packets(), copies: COPIES, map: Mode::Auto };
    let pools = Pools::new(Buffers::new(small, large), Window::of(frames), limits);
    let mut network = Network::new(xen.clone(), pools, Switches::new(SWITCHES, [3, 5]));
    let bridge = "xenbr0".parse().expect("a name");
    network.set_uplink(wire.driver(&xen), &bridge, xen.now()).expect("a first port");
    (layout.heap() as isize - (used() - before)) as usize
}
