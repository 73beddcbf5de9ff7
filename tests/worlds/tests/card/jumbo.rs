//! Frames longer than 1500 bytes of payload, by each vif's mtu.

use kernel::pages::choice::Mode;
use kernel::switch::DropReason;
use worlds::{Card, Manners, Outgoing, Uplink, World, frames};
use xen::fake::FakeXen;
use xen::netif::{RxFlags, TxFlags};

use crate::{CardWorld, OUTSIDE, check_wire, statistics};

fn run(card: fn(&FakeXen) -> Card, mode: Mode) {
    let mut world: CardWorld = World::around(card, mode);
    let a = world.attach_with(0, Manners::default(), &[("mtu", "9000")]);
    let b = world.attach(1);
    let [wide, narrow] = [a, b].map(|id| world[id].mac());
    for len in [1515, 2048, 2049, 4096, 9014] {
        let frame = frames::plain(wide, OUTSIDE, len, 1);
        world.wire.inject(frame.clone());
        world.settle();
        let got = world[a].received.pop().expect("it arrives");
        assert!(got.bytes == frame, "{len}");
        let frame = frames::plain(OUTSIDE, wide, len, 2);
        world[a].send(&Outgoing::whole(&frame));
        world.settle();
        assert!(world.wire.take_frames() == [frame], "{len}");
    }
    for v6 in [false, true] {
        let whole = frames::transport(wide, OUTSIDE, v6, true, &[7; 8900]);
        world.wire.inject(whole.clone());
        world.settle();
        let got = world[a].received.pop().expect("it arrives");
        assert!(got.bytes == whole);
        assert_eq!(got.flags, RxFlags::DATA_VALIDATED);
        let whole = frames::transport(OUTSIDE, wide, v6, true, &[7; 8900]);
        let blank = Outgoing::whole(&frames::blank(whole.clone(), v6, true));
        world[a].send(&blank.with_flags(TxFlags::CSUM_BLANK));
        world.settle();
        assert!(world.wire.take_frames() == [whole]);
    }
    // Who has no mtu= has 1500, and a tag.
    for (len, passes) in [(1514, true), (1515, false), (9014, false)] {
        let before = world.drops(DropReason::TooLong);
        world.wire.inject(frames::plain(narrow, OUTSIDE, len, 3));
        world.settle();
        assert_eq!(world[b].received.drain(..).count(), usize::from(passes), "{len}");
        assert_eq!(world.drops(DropReason::TooLong) - before, u64::from(!passes));
    }
    // On the wire there is a limit, too.
    let before = world.drops(DropReason::TooLong);
    world[a].send(&Outgoing::whole(&frames::plain(OUTSIDE, wide, 9015, 4)));
    world.settle();
    assert_eq!(world.drops(DropReason::TooLong) - before, 1);
    assert!(world.wire.take_frames().is_empty());
    assert_eq!(statistics(&world).send_refused, 0);
    check_wire(&mut world, a);
    check_wire(&mut world, b);
    world.end();
}

#[test]
fn long_frames_cross_a_card() {
    for mode in [Mode::Always, Mode::Never] {
        run(Uplink::new, mode);
    }
}

#[test]
fn long_frames_cross_an_emulated_card() {
    run(Card::emulated, Mode::Always);
}
