//! Lent pages in every situation that the contract lists (NETBACK-SPEC, section 5),
//! and in those in which others lost them. Each panics where a rule is broken.

use std::time::Duration;

use kernel::packet::Fragment;
use kernel::pages::choice::{Mode, Reason};
use kernel::pages::{Claim, Page};
use kernel::switch::Holding;
use xen::fake::{FakeXen, Grant, Kind, When};
use xen::netif::{ExtraFlags, ExtraInfo, Status, TxFlags};
use xen::{Instant, PAGE_SIZE};

use crate::allocations::allocations;
use crate::frames::{self, BROADCAST};
use crate::{Card, GUESTS, Id, Manners, Outgoing, US, Uplink, Wire, World, pools};

/// A station on the wire, which the bridge has not heard of.
const OUTSIDE: [u8; 6] = [2, 0, 0, 0, 0, 9];
const MILLISECOND: Duration = Duration::from_millis(1);

/// A scenario and its name.
pub type Scenario = (&'static str, fn());

/// Hands the names of all scenarios to a macro: those with any NIC, and those in which
/// a scripted one does what no card does, or there is none.
#[macro_export]
macro_rules! for_each_scenario {
    ($use:ident) => {
        $use! {
        any: t1_one_page_is_held_by_everybody,
        t3_local_delivery_keeps_no_page,
        t6_a_source_dies_while_the_nic_reads_its_pages,
        t8_what_is_lent_is_never_written,
        t9_headers_in_any_pieces_leave_for_the_wire,
        t10_headers_are_what_was_looked_at,
        t12_a_page_that_cannot_be_unmapped,
        t13_no_handle_is_left,
        o1_ids_are_only_echoed,
        o8_a_page_waits_for_a_port_for_a_tenth_of_a_second,
        o8_few_pages_of_a_source_wait_for_a_port,
        o9_lenders_share_the_frames,
        o12_a_vif_goes_when_its_pages_are_back,
        o14_a_frame_is_used_again_only_after_its_unmap,
        p15_failures_and_extras_are_answered,
        fragments_that_fill_their_pages_are_one_region,
        the_original_is_released_while_a_clone_is_in_use,
        a_clone_and_its_original_are_released_once_each,
        a_page_stays_for_as_long_as_a_queue_points_at_it,
        a_header_pull_leaves_the_rest_of_the_page,
        what_was_sent_is_given_back_without_more_to_send,
        two_readers_of_one_header_get_their_own_checksums;
        scripted: t4_a_nic_that_stalls_is_reset_and_gives_back,
        t11_a_source_restarts_while_its_pages_are_at_the_nic,
        t15_a_detach_while_the_nic_hangs,
        o11_a_release_allocates_nothing,
        a_port_without_a_bound_gets_copies;
        }
    };
}

macro_rules! list {
    (any: $($any:ident),+; scripted: $($scripted:ident),+;) => {
        /// All of them.
        pub const ALL: &[Scenario] = &[
            $((stringify!($scripted), $scripted),)+
            $((stringify!($any), $any::<Wire>),)+
            $((concat!(stringify!($any), ", with a card"), $any::<Card>),)+
        ];
    };
}

for_each_scenario!(list);

/// A packet with lent pages, from one vif to an address.
fn frame<U: Uplink>(world: &World<U>, from: Id, to: [u8; 6], len: usize) -> Vec<u8> {
    frames::plain(to, world[from].mac(), len, len as u64)
}

fn send<U: Uplink>(world: &mut World<U>, from: Id, frame: &[u8]) {
    world[from].send(&Outgoing::whole(frame));
    world.settle();
}

fn mute() -> Manners {
    Manners { offers: 0, ..Manners::default() }
}

fn mapped<U: Uplink>(world: &World<U>) -> u64 {
    world.network.pools().tracker.counters().mapped
}

fn copied<U: Uplink>(world: &World<U>, reason: Reason) -> u64 {
    let mut copied = world.network.pools().choice.copied();
    copied.find(|(why, _)| *why == reason).map_or(0, |(_, count)| count)
}

/// A world in which everything that can be is mapped, and the device sends when it is
/// told to.
fn slow_wire<U: Uplink>() -> World<U> {
    let world = World::<U>::of(Mode::Always);
    world.wire.pause();
    world
}

/// T-1, O-3: a packet of two pages goes to three guests and to the wire; each is the last
/// one to let go in turn.
pub fn t1_one_page_is_held_by_everybody<U: Uplink>() {
    for last in 0..4 {
        let mut world = slow_wire::<U>();
        let a = world.attach(0);
        let guests = [1, 2, 3].map(|guest| world.attach_with(guest, mute(), &[]));
        let frame = frame(&world, a, BROADCAST, 1400);
        world[a].send(&Outgoing::cut(&frame, vec![(3700, 396), (0, 1004)]));
        world.settle();
        assert_eq!((mapped(&world), world.wire.held().len()), (2, 1));
        assert_eq!(world.network.pools().tracker.counters().holds, 2 * 4);
        let let_go = |world: &mut World<U>, holder: usize| {
            match guests.get(holder) {
                Some(&guest) => world[guest].offer(1),
                None => assert!(world.wire.complete()),
            }
            world.settle();
        };
        for holder in (0..4).filter(|holder| *holder != last) {
            let_go(&mut world, holder);
            assert_eq!(world[a].answers, [], "somebody still looks");
        }
        let_go(&mut world, last);
        assert_eq!(world[a].answers.len(), 2);
        assert_eq!(world.wire.take_frames(), [&frame[..]]);
        for guest in guests {
            assert_eq!(world[guest].received.pop().expect("a copy").bytes, frame);
        }
        world.end();
    }
}

/// T-3: packets for ourselves wait until somebody has time for them; their pages do not.
pub fn t3_local_delivery_keeps_no_page<U: Uplink>() {
    let mut world = World::<U>::of(Mode::Auto);
    let a = world.attach(0);
    // No bridge forwards what is sent there (IEEE 802.1Q, table 8-1).
    let reserved = [0x01, 0x80, 0xc2, 0, 0, 0];
    for n in 0..40 {
        let frame = frame(&world, a, reserved, 1000 + n);
        world[a].queue(&Outgoing::whole(&frame));
    }
    world[a].kick();
    assert!(world.step());
    assert!(!world.network.switches().slow_path().is_empty(), "more than are looked at");
    assert_eq!(world.network.pools().tracker.counters().outstanding(), 0);
    world.end();
}

/// Completions stop; the device is reset, pages go home, and it goes on.
pub fn t4_a_nic_that_stalls_is_reset_and_gives_back() {
    let mut world = slow_wire::<Wire>();
    let a = world.attach(0);
    for len in [1000, 1100] {
        let frame = frame(&world, a, OUTSIDE, len);
        send(&mut world, a, &frame);
    }
    world.pass(50 * MILLISECOND);
    assert_eq!((mapped(&world), world[a].answers.len()), (2, 0));
    world.wire.stall();
    // It looks at the device when it has something to do.
    let small = frame(&world, a, OUTSIDE, 60);
    send(&mut world, a, &small);
    assert_eq!((mapped(&world), world[a].unanswered()), (0, 0));
    world.check_at_rest();
    let frame = frame(&world, a, OUTSIDE, 1200);
    send(&mut world, a, &frame);
    assert!(world.wire.complete());
    world.settle();
    assert_eq!(world.wire.take_frames().pop(), Some(frame));
    world.end();
}

/// A guest is destroyed with pages at the NIC and in another's queue: no zombie, no
/// unmap of what is gone, nothing answered.
pub fn t6_a_source_dies_while_the_nic_reads_its_pages<U: Uplink>() {
    let mut world = slow_wire::<U>();
    let a = world.attach(0);
    let b = world.attach_with(1, mute(), &[]);
    let wide = frame(&world, a, BROADCAST, 1300);
    send(&mut world, a, &wide);
    assert_eq!(mapped(&world), 1);
    // While its page is mapped Xen keeps the guest; the vif goes when the page is back
    // or its time is up.
    let wire = world.wire.clone();
    let domain = world[a].vif().frontend;
    world.die(a);
    assert_eq!(world.xen.audit().zombies, [domain]);
    assert!(wire.complete());
    assert_eq!(world.bury(a), Ok(()), "the toolstack is done with it");
    assert_eq!(mapped(&world), 0);
    assert_eq!(wire.take_frames(), [wide], "read to the end");
    let c = world.attach(2);
    let frame = frame(&world, c, world[b].mac(), 700);
    world[b].offer(8);
    world[b].received.clear();
    send(&mut world, c, &frame);
    assert_eq!(world[b].received.pop().expect("others go on").bytes, frame);
    world.end();
}

/// T-8: a packet whose checksum has to be made for the wire: the wire has it right, and
/// the guest's page is as it was.
pub fn t8_what_is_lent_is_never_written<U: Uplink>() {
    let mut world = World::<U>::of(Mode::Always);
    let a = world.attach(0);
    let mac = world[a].mac();
    let whole = frames::datagram(OUTSIDE, mac, &[7; 1000], true);
    let blank = frames::datagram(OUTSIDE, mac, &[7; 1000], false);
    let tagged = [&whole[..12], &[0x81, 0, 0, 5], &whole[12..]].concat();
    let packets = [(&blank, TxFlags::CSUM_BLANK, &whole), (&tagged, TxFlags::empty(), &tagged)];
    for (sent, flags, on_the_wire) in packets {
        world[a].keeps = true;
        let id = world[a].queue(&Outgoing::whole(sent).with_flags(flags))[0];
        let page = world[a].lent_page(id);
        world[a].kick();
        world.settle();
        assert_eq!(&world.wire.take_frames(), &[&on_the_wire[..]]);
        let mut bytes = vec![0; sent.len()];
        world[a].guest.page(page).read_bytes(0, &mut bytes);
        assert_eq!(&bytes, sent, "the page is as it was (O-5)");
    }
    world.end();
}

/// Headers that straddle slots, and the place where the copy of them ends.
pub fn t9_headers_in_any_pieces_leave_for_the_wire<U: Uplink>() {
    let mut world = World::<U>::of(Mode::Always);
    let a = world.attach(0);
    let cut = |lens: &[u16]| -> Vec<(u16, u16)> {
        // The first at the end of its page, the others at its beginning.
        let first = (PAGE_SIZE as u16 - lens[0], lens[0]);
        let rest = lens[1..].iter().map(|len| (0, *len));
        std::iter::once(first).chain(rest).collect()
    };
    let mut cuts: Vec<Vec<u16>> = (14..=200).map(|first| vec![first, 1000 - first]).collect();
    cuts.extend((126..=130).map(|sum| vec![64, sum - 64, 1000 - sum]));
    cuts.push([&[14][..], &[1; 17], &[969]].concat());
    cuts.push([&[100][..], &[28, 872]].concat());
    for (seed, lens) in cuts.iter().enumerate() {
        let frame = frames::plain(OUTSIDE, world[a].mac(), 1000, seed as u64);
        world[a].send(&Outgoing::cut(&frame, cut(lens)));
        world.settle();
        assert_eq!(world.wire.take_frames(), [frame], "{lens:?}");
        assert_eq!(world[a].unanswered(), 0);
    }
    assert!(world.network.pools().choice.mapped() > 150);
    world.end();
}

/// A guest edits its pages after it sent: the headers are those that were looked at;
/// what follows may be anything.
pub fn t10_headers_are_what_was_looked_at<U: Uplink>() {
    let mut world = slow_wire::<U>();
    let a = world.attach(0);
    let b = world.attach_with(1, mute(), &[]);
    let frame = frame(&world, a, BROADCAST, 1000);
    let id = world[a].send(&Outgoing::whole(&frame))[0];
    world.settle();
    let page = world[a].lent_page(id);
    world[a].guest.page(page).write_bytes(0, &[0xee; 1000]);
    assert!(world.wire.complete());
    world[b].offer(1);
    world.settle();
    let sent = world.wire.take_frames().pop().expect("it is sent");
    let received = world[b].received.pop().expect("it arrives").bytes;
    for bytes in [sent, received] {
        assert_eq!(bytes[..128], frame[..128], "the headers (O-6)");
        assert_eq!(bytes[128..], [0xee; 872], "the payload is the guest's affair");
    }
    world.end();
}

/// A guest's driver starts again while pages of its old ring are at the NIC: they come
/// home late, and the new ring hears nothing of them (O-13).
pub fn t11_a_source_restarts_while_its_pages_are_at_the_nic() {
    let mut world = slow_wire::<Wire>();
    let a = world.attach(0);
    for _ in 0..3 {
        let frame = frame(&world, a, OUTSIDE, 1000);
        send(&mut world, a, &frame);
    }
    assert_eq!(mapped(&world), 3);
    world.restart_with_pages_out(a);
    assert_eq!(mapped(&world), 3, "the device still reads them");
    for len in [600, 700, 800] {
        let frame = frame(&world, a, OUTSIDE, len);
        send(&mut world, a, &frame);
    }
    assert_eq!((mapped(&world), world[a].answers.len()), (6, 0));
    for sent in 1..=6 {
        assert!(world.wire.complete());
        world.settle();
        assert_eq!(mapped(&world), 6 - sent);
        assert_eq!(world[a].answers.len() as u64, sent.saturating_sub(3), "only the new ring's");
    }
    let counters = world.network.pools().tracker.counters();
    assert_eq!((counters.abandoned, counters.outstanding()), (3, 0));
    world.end();
}

/// An unmap fails: the page is never answered, its frame never used again, its vif
/// disabled and reported; everybody else goes on.
pub fn t12_a_page_that_cannot_be_unmapped<U: Uplink>() {
    let mut world = slow_wire::<U>();
    let [a, b] = world.connected();
    let first = frame(&world, a, OUTSIDE, 1000);
    send(&mut world, a, &first);
    let stuck = world.wire.held()[0][1].address / PAGE_SIZE as u64;
    world.xen.fail(Kind::Unmap, When::Nth(1), -4);
    assert!(world.wire.complete());
    world.settle();
    world.xen.clear_faults();
    assert_eq!(world[a].answers, [], "never answered");
    let error = world.error(a).expect("the operator is told");
    assert!(error.contains("unmapped"), "{error}");
    let counters = world.network.pools().tracker.counters();
    assert_eq!((counters.quarantined, counters.mapped, counters.outstanding()), (1, 0, 0));
    for len in 600..700 {
        let frame = frame(&world, b, OUTSIDE, len);
        send(&mut world, b, &frame);
        let frames: Vec<_> = world.wire.held()[0].iter().map(|region| region.address).collect();
        assert!(frames.iter().all(|address| address / PAGE_SIZE as u64 != stuck), "(O-14)");
        assert!(world.wire.complete());
        world.settle();
    }
    assert_eq!(world[b].unanswered(), 0);
    world.quarantined = 1;
    world.forget(a);
    world.end();
}

/// T-13: Xen has no handle left: packets are copied until there are some again.
pub fn t13_no_handle_is_left<U: Uplink>() {
    let mut world = slow_wire::<U>();
    let [a, _] = world.connected();
    world.xen.set_mapping_limit(5);
    for len in [1000, 1100, 1200] {
        let frame = frame(&world, a, OUTSIDE, len);
        send(&mut world, a, &frame);
    }
    assert_eq!((mapped(&world), copied(&world, Reason::Failed)), (1, 2));
    assert_eq!(world[a].unanswered(), 1, "what was copied is answered");
    world.xen.set_mapping_limit(1000);
    let last = frame(&world, a, OUTSIDE, 1300);
    send(&mut world, a, &last);
    assert_eq!(mapped(&world), 2, "again");
    while world.wire.complete() {}
    world.settle();
    let sent: Vec<_> = world.wire.take_frames().iter().map(Vec::len).collect();
    assert_eq!(sent, [1000, 1100, 1200, 1300]);
    assert_eq!(world[a].unanswered(), 0);
    world.end();
}

/// The toolstack takes a vif away while the NIC hangs with its pages: it has its
/// answers in time; the pages come home when the device is reset.
pub fn t15_a_detach_while_the_nic_hangs() {
    let mut world = slow_wire::<Wire>();
    let [a, b] = world.connected();
    for _ in 0..3 {
        let frame = frame(&world, a, OUTSIDE, 1000);
        send(&mut world, a, &frame);
    }
    // Panics unless it is closed and gone in the toolstack's time.
    world.forget(a);
    assert_eq!(world.network.vifs().count(), 1);
    assert_eq!(mapped(&world), 3);
    let frame = frame(&world, b, OUTSIDE, 60);
    send(&mut world, b, &frame);
    world.wire.stall();
    send(&mut world, b, &frame);
    assert_eq!(mapped(&world), 0);
    world.check_at_rest();
    world.end();
}

/// The same id for all, and the ids of a ring that runs backwards.
pub fn o1_ids_are_only_echoed<U: Uplink>() {
    let mut world = World::<U>::of(Mode::Always);
    let a = world.attach(0);
    for _ in 0..3 {
        for len in [200, 1000, 1200] {
            let frame = frame(&world, a, OUTSIDE, len);
            let ids = world[a].send(&Outgoing::whole(&frame));
            world.settle();
            let answers: Vec<_> = world[a].answers.drain(..).map(|answer| answer.id).collect();
            assert_eq!(answers, ids);
        }
    }
    world.end();
}

/// A guest that takes nothing holds a page of another's for 100 ms and no longer.
pub fn o8_a_page_waits_for_a_port_for_a_tenth_of_a_second<U: Uplink>() {
    let mut world = World::<U>::of(Mode::Always);
    let a = world.attach(0);
    let b = world.attach_with(1, mute(), &[]);
    let frame = frame(&world, a, world[b].mac(), 1000);
    send(&mut world, a, &frame);
    world.pass(99 * MILLISECOND);
    assert_eq!(world[a].unanswered(), 1);
    world.pass(2 * MILLISECOND);
    assert_eq!(world[a].unanswered(), 0);
    assert_eq!(world.network.pools().tracker.census().oldest, None);
    world.end();
}

/// Of one source at most 32 pages wait for a port; the rest of its packets is copied.
pub fn o8_few_pages_of_a_source_wait_for_a_port<U: Uplink>() {
    let mut world = World::<U>::of(Mode::Always);
    let a = world.attach(0);
    let b = world.attach_with(1, mute(), &[]);
    for len in 0..100 {
        let frame = frame(&world, a, world[b].mac(), 1000 + len);
        world[a].queue(&Outgoing::whole(&frame));
    }
    world[a].kick();
    world.settle();
    assert_eq!(world.network.pools().tracker.counters().outstanding(), 32);
    world.end();
}

/// O-9, S-6: no lender has more pages mapped than there are frames left; another's are mapped
/// all the same.
pub fn o9_lenders_share_the_frames<U: Uplink>() {
    let mut world = World::<U>::of(Mode::Always);
    let [a, b] = world.connected();
    world.wire.pause();
    for id in [a, b] {
        for len in 0..60 {
            let frame = frame(&world, id, OUTSIDE, 1000 + len);
            world[id].send(&Outgoing::whole(&frame));
            world.settle();
        }
    }
    // Of 64 frames four are the rings', and eight more are kept for such.
    let window = &world.network.pools().window;
    assert_eq!((mapped(&world), window.room()), (39, 13));
    assert_eq!(copied(&world, Reason::Frames), 120 - 39);
    while world.wire.complete() {}
    world.end();
}

/// The last release of a page, and of all pages of a packet, allocates nothing, even
/// where all are released at once (O-11, XSA-424).
pub fn o11_a_release_allocates_nothing() {
    let xen = FakeXen::new(US);
    let guest = xen.create_domain(GUESTS[0]);
    let mut pools = pools(&xen, Mode::Always);
    let shards = [0, 1].map(|_| pools.tracker.open(GUESTS[0], 256).expect("a shard"));
    let mut packets = Vec::new();
    for number in 0..512u16 {
        let reference = guest.grant(guest.add_page(), Grant::ReadOnly);
        let page = Page::Granted(GUESTS[0], reference);
        let claim = Claim { page, id: number, extras: 0, since: Instant(0) };
        let hold = pools.tracker.claim(shards[usize::from(number % 2)], claim).expect("a record");
        let mut packet = pools.take().expect("a packet");
        packet.fragments.push(Fragment::lent(hold, 0, 100)).expect("room");
        let clone = pools.share(&packet).expect("a clone");
        if number < 20 {
            assert!(pools.map(&packet));
        }
        packets.extend([packet, clone]);
    }
    pools.run_maps(&xen);
    let before = allocations();
    for packet in packets.drain(..) {
        pools.give(packet);
    }
    assert_eq!(allocations() - before, 0, "a release allocates (O-11)");
    pools.run_unmaps(&xen);
    let responses =
        shards.map(|shard| std::iter::from_fn(|| pools.tracker.next_response(shard)).count());
    assert_eq!(responses, [256; 2]);
    assert!(xen.audit().is_clean());
}

/// A vif whose pages are with others is not gone before they are back, while there is
/// time; then its guest can use them again.
pub fn o12_a_vif_goes_when_its_pages_are_back<U: Uplink>() {
    let mut world = slow_wire::<U>();
    let a = world.attach(0);
    let wide = frame(&world, a, OUTSIDE, 1000);
    send(&mut world, a, &wide);
    world.set_front(a, "5");
    world.pass(50 * MILLISECOND);
    assert_eq!(world.network.vifs().count(), 1, "a page is out");
    assert!(world.wire.complete());
    world.pass(50 * MILLISECOND);
    assert_eq!(world.network.vifs().count(), 0);
    assert_eq!(world.detach(a), Ok(()));
    world.end();
}

/// Pages come and go at the same frames, each mapped where nothing is.
pub fn o14_a_frame_is_used_again_only_after_its_unmap<U: Uplink>() {
    let mut world = World::<U>::of(Mode::Always);
    let a = world.attach(0);
    world.wire.pause();
    for round in 0..200 {
        let frame = frame(&world, a, OUTSIDE, 600 + round);
        world[a].send(&Outgoing::whole(&frame));
        world.settle();
        if world.wire.held().len() > round % 4 {
            world.wire.complete();
        }
    }
    while world.wire.complete() {
        world.settle();
    }
    let counters = world.network.pools().tracker.counters();
    assert!(counters.maps > 60, "{counters:?}");
    world.end();
}

/// A page that cannot be read fails its own slot; extra info is answered beside its
/// request.
pub fn p15_failures_and_extras_are_answered<U: Uplink>() {
    let mut world = World::<U>::of(Mode::Always);
    let a = world.attach(0);
    let frame = frame(&world, a, OUTSIDE, 1400);
    let extra = ExtraInfo::new(4, ExtraFlags::empty(), [0; 6]);
    let packet = Outgoing::cut(&frame, vec![(0, 1000), (0, 400)]).with_extras(&[extra]);
    let ids = world[a].queue(&packet);
    let page = world[a].reference(ids[1]);
    world[a].guest.revoke(page);
    world[a].kick();
    world.settle();
    assert_eq!(world[a].unanswered(), 0, "every slot, and the extra info");
    let mut answers: Vec<_> = world[a].answers.iter().map(|a| (a.id, a.status)).collect();
    answers.sort();
    assert_eq!(answers, [(ids[0], Status::Okay as i16), (ids[1], Status::Error as i16)]);
    assert!(world.wire.take_frames().is_empty(), "not forwarded");
    world.end();
}

/// A NIC that holds without a bound gets copies; what it keeps costs the guest nothing.
pub fn a_port_without_a_bound_gets_copies() {
    let mut world = World::with(Holding::Private, Mode::Always);
    world.wire.hold(64);
    let a = world.attach(0);
    let frame = frame(&world, a, OUTSIDE, 1000);
    send(&mut world, a, &frame);
    assert_eq!(world[a].unanswered(), 0, "its page is back at once");
    world.pass(Duration::from_secs(60));
    assert!(world.wire.complete());
    assert_eq!(world.wire.take_frames(), [frame]);
    world.end();
}

/// O-7: fragments of a packet that fill their pages and go on in the next one reach the
/// device as one region, others as one each.
pub fn fragments_that_fill_their_pages_are_one_region<U: Uplink>() {
    let page = PAGE_SIZE as u16;
    for (pieces, regions) in [
        (vec![(page - 700, 700), (0, 700)], 2),
        (vec![(page - 700, 699), (0, 701)], 3),
        (vec![(page - 700, 700), (1, 700)], 3),
        (vec![(page - 140, 140), (page - 1000, 1000), (0, 260)], 3),
        (vec![(page - 128, 128), (page - 1000, 1000), (0, 272)], 2),
    ] {
        let mut world = slow_wire::<U>();
        let a = world.attach(0);
        let frame = frame(&world, a, OUTSIDE, 1400);
        world[a].send(&Outgoing::cut(&frame, pieces.clone()));
        world.settle();
        assert_eq!(world.wire.held()[0].len(), regions, "{pieces:?}");
        assert!(world.wire.complete());
        world.settle();
        assert_eq!(world.wire.take_frames(), [frame]);
        world.end();
    }
}

/// The original is at home while a clone of it is still read: the page stays.
pub fn the_original_is_released_while_a_clone_is_in_use<U: Uplink>() {
    let mut world = slow_wire::<U>();
    let a = world.attach(0);
    let b = world.attach(1);
    let wide = frame(&world, a, BROADCAST, 1000);
    let id = world[a].send(&Outgoing::whole(&wide))[0];
    world.settle();
    // b had its copy; the NIC reads later.
    assert_eq!(world[b].received.pop().expect("it arrives").bytes, wide);
    assert_eq!(world[a].answers, []);
    let page = world[a].lent_page(id);
    let mut bytes = vec![0; 1000];
    world[a].guest.page(page).read_bytes(0, &mut bytes);
    assert_eq!(bytes, wide, "nobody has used the page again");
    assert!(world.wire.complete());
    world.settle();
    assert_eq!(world.wire.take_frames(), [wide]);
    assert_eq!(world[a].answers.len(), 1);
    world.end();
}

/// Original and clone end in either order: one response, never two.
pub fn a_clone_and_its_original_are_released_once_each<U: Uplink>() {
    for wire_first in [true, false] {
        let mut world = slow_wire::<U>();
        let a = world.attach(0);
        let b = world.attach_with(1, mute(), &[]);
        let wide = frame(&world, a, BROADCAST, 1000);
        send(&mut world, a, &wide);
        for wire in [wire_first, !wire_first] {
            assert_eq!(world[a].answers, []);
            if wire {
                assert!(world.wire.complete());
            } else {
                world[b].offer(1);
            }
            world.settle();
        }
        // A second response would be to an id that is not out: the frontend notices.
        assert_eq!(world[a].answers.len(), 1);
        world.pass(Duration::from_secs(1));
        assert_eq!(world[a].answers.len(), 1);
        world.end();
    }
}

/// A packet waits for a guest: its page is not the lender's before it was read, and
/// what arrives is what was sent, although the lender uses its pages again at once.
pub fn a_page_stays_for_as_long_as_a_queue_points_at_it<U: Uplink>() {
    let mut world = World::<U>::of(Mode::Always);
    let a = world.attach(0);
    let b = world.attach_with(1, mute(), &[]);
    let c = world.attach(2);
    let waits = frame(&world, a, world[b].mac(), 1000);
    send(&mut world, a, &waits);
    for len in 500..600 {
        let frame = frame(&world, a, world[c].mac(), len);
        send(&mut world, a, &frame);
        assert_eq!(world[c].received.pop().expect("it arrives").bytes, frame);
    }
    assert_eq!(world[a].unanswered(), 1);
    world[b].offer(1);
    world.settle();
    assert_eq!(world[b].received.pop().expect("it arrives").bytes, waits);
    world.end();
}

/// The headers fill the first slot, and more: the rest of the packet is all there.
pub fn a_header_pull_leaves_the_rest_of_the_page<U: Uplink>() {
    let mut world = World::<U>::of(Mode::Always);
    let [a, b] = world.connected();
    for pieces in [vec![(0, 128), (0, 872)], vec![(0, 100), (50, 28), (0, 872)], vec![(0, 1000)]] {
        for to in [world[b].mac(), OUTSIDE] {
            let frame = frame(&world, a, to, 1000);
            world[a].send(&Outgoing::cut(&frame, pieces.clone()));
            world.settle();
            assert_eq!(world[b].received.pop().expect("it arrives").bytes, frame);
            let expected = if to == OUTSIDE { vec![frame] } else { vec![] };
            assert_eq!(world.wire.take_frames(), expected);
        }
    }
    world.end();
}

/// The device sends the last packet there is: its page comes home without another.
pub fn what_was_sent_is_given_back_without_more_to_send<U: Uplink>() {
    let mut world = slow_wire::<U>();
    let a = world.attach(0);
    let frame = frame(&world, a, OUTSIDE, 1000);
    send(&mut world, a, &frame);
    assert!(world.wire.complete());
    world.settle();
    assert_eq!(world[a].answers.len(), 1);
    world.end();
}

/// A packet without a checksum goes to a guest that takes it so, to one that does not,
/// and to the wire: nobody sees what was made for another.
pub fn two_readers_of_one_header_get_their_own_checksums<U: Uplink>() {
    let mut world = World::<U>::of(Mode::Always);
    let a = world.attach(0);
    let b = world.attach_with(1, mute(), &[]);
    let refuses = Manners { ipv4_checksum: false, ..mute() };
    let c = world.attach_with(2, refuses, &[]);
    let mac = world[a].mac();
    for payload in [&[5; 60][..], &[5; 1000]] {
        let whole = frames::datagram(BROADCAST, mac, payload, true);
        let blank = frames::datagram(BROADCAST, mac, payload, false);
        world[a].send(&Outgoing::whole(&blank).with_flags(TxFlags::CSUM_BLANK));
        world.settle();
        assert_eq!(world.wire.take_frames(), [&whole[..]]);
        for (id, expected) in [(c, &whole), (b, &blank)] {
            world[id].offer(1);
            world.settle();
            assert_eq!(&world[id].received.pop().expect("it arrives").bytes, expected);
        }
    }
    world.end();
}
