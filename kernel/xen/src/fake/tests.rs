use std::time::Duration;

use super::*;
use crate::bindings::GNTMAP_readonly;
use crate::grant::{GrantError, GrantRegion};
use crate::{LocalRegion, PAGE_SIZE};

const US: DomainId = DomainId(1);
const A: DomainId = DomainId(5);
const B: DomainId = DomainId(6);

const GENERAL: GrantError = GrantError(-1);
const BAD_DOMAIN: GrantError = GrantError(-2);
const BAD_REFERENCE: GrantError = GrantError(-3);
const BAD_HANDLE: GrantError = GrantError(-4);
const PERMISSION: GrantError = GrantError(-8);
const BAD_PAGE: GrantError = GrantError(-9);
const CROSSES_PAGE: GrantError = GrantError(-10);
const NO_SPACE: GrantError = GrantError(-13);

struct World {
    xen: FakeXen,
    a: Guest,
    b: Guest,
    /// Two pages of ours.
    base: NonNull<u8>,
    first: LocalFrame,
}

fn world() -> World {
    let xen = FakeXen::new(US);
    let (a, b) = (xen.create_domain(A), xen.create_domain(B));
    let (base, first) = xen.ram(2);
    World { xen, a, b, base, first }
}

impl World {
    fn copy(&self, mut copy: GrantCopy) -> Result<(), GrantError> {
        // SAFETY: nothing references our two pages.
        unsafe { self.xen.grant_copy(std::slice::from_mut(&mut copy)) };
        copy.status()
    }

    fn map(&self, mut map: GrantMap) -> Result<GrantHandle, GrantError> {
        self.xen.grant_map(std::slice::from_mut(&mut map));
        map.handle()
    }

    fn unmap(&self, handle: GrantHandle, frame: &ForeignFrame) -> Result<(), GrantError> {
        let mut unmap = [GrantUnmap::new(handle, frame)];
        self.xen.grant_unmap(&mut unmap);
        unmap[0].status()
    }

    fn frame(&self) -> ForeignFrame {
        self.xen.foreign_frames(1).remove(0)
    }

    /// A page of a guest's with these first bytes, granted to us.
    fn granted(&self, guest: &Guest, bytes: &[u8], grant: Grant) -> (GuestFrame, GrantRef) {
        let frame = guest.add_page();
        guest.page(frame).write_bytes(0, bytes);
        (frame, guest.grant(frame, grant))
    }

    /// `len` bytes at `offset` of our first page.
    fn local(&self, offset: usize, len: usize) -> LocalRegion {
        LocalRegion::new(self.first, offset, len).unwrap()
    }

    /// Our second page, as bytes.
    fn second(&self) -> LocalRegion {
        // SAFETY: the second of two pages.
        let frame = unsafe { LocalFrame::new(self.first.number() + 1) };
        LocalRegion::new(frame, 0, PAGE_SIZE).unwrap()
    }

    fn ours(&self, offset: usize, len: usize) -> Vec<u8> {
        // SAFETY: within the two pages, which nothing writes now.
        let bytes = unsafe { std::slice::from_raw_parts(self.base.as_ptr(), 2 * PAGE_SIZE) };
        bytes[offset..offset + len].to_vec()
    }
}

fn region(domain: DomainId, reference: GrantRef, offset: u16) -> GrantRegion {
    GrantRegion { domain, reference, offset }
}

fn bytes_of<const N: usize>(page: &SharedPage, offset: usize) -> [u8; N] {
    let mut bytes = [0; N];
    page.read_bytes(offset, &mut bytes);
    bytes
}

#[test]
fn copies_move_bytes_each_way_and_between_guests() {
    let world = world();
    let (_, from) = world.granted(&world.a, b"hello", Grant::ReadOnly);
    let (frame, to) = world.granted(&world.b, b"", Grant::Writable);
    let inward = GrantCopy::from_grant(region(A, from, 1), world.local(4090, 4));
    assert_eq!(world.copy(inward), Ok(()));
    assert_eq!(world.ours(4088, 10), b"\0\0ello\0\0\0\0");
    let outward = GrantCopy::to_grant(world.local(4091, 3), region(B, to, 4093));
    assert_eq!(world.copy(outward), Ok(()));
    assert_eq!(&bytes_of(&world.b.page(frame), 4092), b"\0llo");
    let between = GrantCopy::between_grants(region(A, from, 0), region(B, to, 7), 5);
    assert_eq!(world.copy(between), Ok(()));
    assert_eq!(&bytes_of(&world.b.page(frame), 6), b"\0hello\0");
    assert!(world.xen.audit().is_clean(), "a copy holds nothing");
}

#[test]
fn a_copy_stays_inside_both_pages() {
    let world = world();
    let (_, from) = world.granted(&world.a, b"", Grant::ReadOnly);
    let (_, to) = world.granted(&world.b, b"", Grant::Writable);
    let between = |from_offset, to_offset, len| {
        let (from, to) = (region(A, from, from_offset), region(B, to, to_offset));
        world.copy(GrantCopy::between_grants(from, to, len))
    };
    assert_eq!(between(0, 0, 4096), Ok(()));
    assert_eq!(between(4095, 4095, 1), Ok(()));
    assert_eq!(between(4095, 0, 2), Err(CROSSES_PAGE));
    assert_eq!(between(0, 4095, 2), Err(CROSSES_PAGE));
    assert_eq!(between(65535, 0, 1), Err(CROSSES_PAGE));
    assert_eq!(between(0, 0, 65535), Err(CROSSES_PAGE));
    assert_eq!(between(65535, 65535, 0), Ok(()), "nothing crosses nothing");
    let nobody = region(DomainId(99), GrantRef(0), 0);
    assert_eq!(world.copy(GrantCopy::between_grants(nobody, nobody, 0)), Ok(()));
}

#[test]
fn a_copy_asks_for_what_was_granted() {
    let world = world();
    let (page, readonly) = world.granted(&world.a, b"a", Grant::ReadOnly);
    let (_, writable) = world.granted(&world.a, b"a", Grant::Writable);
    let foreign = world.a.grant_to(B, page, Grant::Writable);
    let (gone, empty) = world.granted(&world.a, b"", Grant::Writable);
    world.a.balloon_out(gone);
    let (table, fixed) = world.granted(&world.a, b"a", Grant::Writable);
    world.a.make_page_table(table);
    let (_, ended) = world.granted(&world.a, b"", Grant::Writable);
    assert!(world.a.end_grant(ended));
    let beyond = GrantRef(512);
    let cases = [
        (readonly, Ok(()), Err(GENERAL)),
        (writable, Ok(()), Ok(())),
        (foreign, Err(GENERAL), Err(GENERAL)),
        (empty, Err(BAD_PAGE), Err(BAD_PAGE)),
        (fixed, Ok(()), Err(GENERAL)),
        (ended, Err(GENERAL), Err(GENERAL)),
        (GrantRef(0), Err(GENERAL), Err(GENERAL)),
        (beyond, Err(BAD_REFERENCE), Err(BAD_REFERENCE)),
        (GrantRef(u32::MAX), Err(BAD_REFERENCE), Err(BAD_REFERENCE)),
    ];
    for (reference, reads, writes) in cases {
        let region = region(A, reference, 0);
        let name = format!("{reference:?}");
        let inward = GrantCopy::from_grant(region, world.local(0, 1));
        assert_eq!(world.copy(inward), reads, "from {name}");
        assert_eq!(world.copy(GrantCopy::to_grant(world.local(0, 1), region)), writes, "to {name}");
    }
    let own = GrantCopy::from_grant(region(DomainId::SELF, GrantRef(8), 0), world.local(0, 1));
    assert_eq!(world.copy(own), Err(GENERAL), "we grant nothing");
    let nobody = region(DomainId(99), writable, 0);
    let inward = GrantCopy::from_grant(nobody, world.local(0, 1));
    assert_eq!(world.copy(inward), Err(BAD_DOMAIN));
    world.a.die();
    let inward = GrantCopy::from_grant(region(A, writable, 0), world.local(0, 1));
    assert_eq!(world.copy(inward), Err(BAD_DOMAIN));
}

#[test]
fn a_copys_local_side_is_our_own_ram() {
    let world = world();
    let (_, reference) = world.granted(&world.a, b"a", Grant::Writable);
    let frame = world.frame();
    let theirs = region(A, reference, 0);
    let local = |number| {
        // SAFETY: not true, which the fake is to find out.
        LocalRegion::new(unsafe { LocalFrame::new(number) }, 0, 1).unwrap()
    };
    let nowhere = local(frame.number());
    assert_eq!(world.copy(GrantCopy::from_grant(theirs, nowhere)), Err(BAD_PAGE));
    world.map(GrantMap::new(A, reference, &frame, true)).unwrap();
    assert_eq!(world.copy(GrantCopy::from_grant(theirs, nowhere)), Err(BAD_PAGE), "a guest's");
    assert_eq!(world.copy(GrantCopy::to_grant(nowhere, theirs)), Err(BAD_PAGE));
    let mut foreign = GrantCopy::from_grant(theirs, world.local(0, 1));
    foreign.raw().dest.domid = B.0;
    assert_eq!(world.copy(foreign), Err(PERMISSION), "another domain's frame");
}

#[test]
fn a_batch_goes_on_after_a_failure() {
    let world = world();
    let (_, good) = world.granted(&world.a, b"xy", Grant::ReadOnly);
    let references = [good, GrantRef(0), good];
    let mut batch = [0, 1, 2].map(|at| {
        let from = region(A, references[at], at as u16 / 2);
        GrantCopy::from_grant(from, world.local(at, 1))
    });
    // SAFETY: nothing references our pages.
    unsafe { world.xen.grant_copy(&mut batch) };
    assert_eq!(batch.map(|copy| copy.status()), [Ok(()), Err(GENERAL), Ok(())]);
    assert_eq!(world.ours(0, 4), b"x\0y\0");
    let counts = world.xen.counts();
    assert_eq!((counts.copy_calls, counts.copies), (1, 3));
}

#[test]
fn a_mapped_page_is_the_guests_page() {
    let world = world();
    let (page, reference) = world.granted(&world.a, b"abcd", Grant::Writable);
    let (theirs, frame) = (world.a.page(page), world.frame());
    let handle = world.map(GrantMap::new(A, reference, &frame, true)).unwrap();
    let ours = world.xen.page(&frame);
    assert_eq!(&bytes_of(&ours, 0), b"abcd");
    ours.store(4, 0x6867_6665);
    assert_eq!(&bytes_of(&theirs, 2), b"cdefgh");
    theirs.write_bytes(0, b"A");
    assert_eq!(&bytes_of(&ours, 0), b"Abcd");
    assert_eq!(world.unmap(handle, &frame), Ok(()));
    assert!(world.xen.audit().is_clean());
}

#[test]
fn what_is_written_to_a_readonly_mapping_is_lost_without_a_word() {
    let world = world();
    let (page, reference) = world.granted(&world.a, b"abcd", Grant::ReadOnly);
    let frame = world.frame();
    assert_eq!(world.map(GrantMap::new(A, reference, &frame, true)), Err(GENERAL));
    world.map(GrantMap::new(A, reference, &frame, false)).unwrap();
    let ours = world.xen.page(&frame);
    ours.store(0, 7);
    ours.write(4, &8_u64);
    ours.write_bytes(1, b"xy");
    assert_eq!(&bytes_of(&ours, 0), b"abcd\0", "we do not see it either");
    assert_eq!(&bytes_of(&world.a.page(page), 0), b"abcd\0");
}

#[test]
fn where_nothing_is_mapped_reads_give_ones_and_writes_are_lost() {
    let world = world();
    let (page, reference) = world.granted(&world.a, b"abcd", Grant::Writable);
    let frame = world.frame();
    let ours = world.xen.page(&frame);
    assert_eq!(ours.load(0), u32::MAX);
    ours.store(0, 7);
    assert_eq!(ours.load(0), u32::MAX);
    let handle = world.map(GrantMap::new(A, reference, &frame, true)).unwrap();
    assert_eq!(&bytes_of(&ours, 0), b"abcd", "the same view, the page is there now");
    world.unmap(handle, &frame).unwrap();
    ours.write_bytes(0, b"late");
    assert_eq!(bytes_of(&ours, 4092), [0xff; 4]);
    assert_eq!(ours.load(0), u32::MAX);
    assert_eq!(&bytes_of(&world.a.page(page), 0), b"abcd");
}

#[test]
fn a_device_reads_our_ram_and_what_is_mapped_and_nothing_else() {
    let world = world();
    let read = |address: u64, len| {
        let mut bytes = vec![0; len];
        world.xen.device_read(address, &mut bytes).map(|()| bytes)
    };
    let (page, reference) = world.granted(&world.a, b"abc", Grant::ReadOnly);
    let copy = |offset, len| {
        let from = GrantRegion { domain: A, reference, offset: 0 };
        world.copy(GrantCopy::from_grant(from, world.local(offset, len)))
    };
    assert_eq!(copy(PAGE_SIZE - 3, 3), Ok(()));
    let ours = world.local(PAGE_SIZE - 3, 3).dma_address();
    assert_eq!(read(ours, 4), Ok(b"abc\0".to_vec()), "over the page's end");
    let frame = world.frame();
    assert_eq!(read(frame.address(), 1), Err(IommuFault { address: frame.address() }));
    let handle = world.map(GrantMap::new(A, reference, &frame, false)).expect("granted");
    assert_eq!(read(frame.address() + 1, 2), Ok(b"bc".to_vec()));
    world.a.page(page).write_bytes(1, b"X");
    assert_eq!(read(frame.address(), 3), Ok(b"aXc".to_vec()), "the page itself");
    let end = frame.address() + PAGE_SIZE as u64;
    assert_eq!(read(end - 1, 2), Err(IommuFault { address: end }));
    world.a.die();
    assert_eq!(read(frame.address(), 3), Ok(b"aXc".to_vec()), "a mapping keeps its page");
    assert_eq!(world.unmap(handle, &frame), Ok(()));
    assert_eq!(read(frame.address(), 1), Err(IommuFault { address: frame.address() }));
}

#[test]
fn a_device_writes_our_ram_and_nothing_else() {
    let world = world();
    let ours = world.local(PAGE_SIZE - 1, 1).dma_address();
    assert_eq!(world.xen.device_write(ours, b"abc"), Ok(()), "over the page's end");
    let mut bytes = [0; 3];
    assert_eq!(world.xen.device_read(ours, &mut bytes), Ok(()));
    assert_eq!(&bytes, b"abc");
    let frame = world.frame();
    let fault = Err(IommuFault { address: frame.address() });
    assert_eq!(world.xen.device_write(frame.address(), b"X"), fault);
    let (page, reference) = world.granted(&world.a, b"abc", Grant::Writable);
    let handle = world.map(GrantMap::new(A, reference, &frame, true)).expect("granted");
    assert_eq!(world.xen.device_write(frame.address(), b"X"), fault);
    world.a.page(page).read_bytes(0, &mut bytes);
    assert_eq!(&bytes, b"abc");
    assert_eq!(world.unmap(handle, &frame), Ok(()));
}

#[test]
fn a_map_asks_for_what_was_granted() {
    let world = world();
    let (page, readonly) = world.granted(&world.a, b"", Grant::ReadOnly);
    let foreign = world.a.grant_to(B, page, Grant::Writable);
    let (gone, empty) = world.granted(&world.a, b"", Grant::Writable);
    world.a.balloon_out(gone);
    let (table, fixed) = world.granted(&world.a, b"a", Grant::Writable);
    world.a.make_page_table(table);
    let frame = world.frame();
    let refused = |map| world.map(map).unwrap_err();
    assert_eq!(refused(GrantMap::new(A, readonly, &frame, true)), GENERAL);
    assert_eq!(refused(GrantMap::new(A, foreign, &frame, false)), GENERAL);
    assert_eq!(refused(GrantMap::new(A, empty, &frame, false)), BAD_PAGE);
    assert_eq!(refused(GrantMap::new(A, fixed, &frame, true)), GENERAL);
    assert_eq!(refused(GrantMap::new(A, GrantRef(0), &frame, false)), GENERAL);
    assert_eq!(refused(GrantMap::new(A, GrantRef(512), &frame, false)), BAD_REFERENCE);
    assert_eq!(refused(GrantMap::new(DomainId(99), readonly, &frame, false)), BAD_DOMAIN);
    assert!(world.xen.audit().is_clean());
    world.map(GrantMap::new(A, readonly, &frame, false)).unwrap();
}

#[test]
fn a_map_says_host_map_and_at_most_readonly() {
    let world = world();
    let (_, reference) = world.granted(&world.a, b"", Grant::Writable);
    let frame = world.frame();
    for (flags, error) in [(0, BAD_REFERENCE), (GNTMAP_readonly, BAD_REFERENCE), (3, GENERAL)] {
        let mut map = GrantMap::new(A, reference, &frame, true);
        map.raw().flags = flags;
        assert_eq!(world.map(map), Err(error), "flags {flags}");
    }
}

#[test]
#[should_panic(expected = "a grant of our own")]
fn our_own_grants_are_not_mapped() {
    let world = world();
    let _ = world.map(GrantMap::new(US, GrantRef(8), &world.frame(), false));
}

#[test]
#[should_panic(expected = "domain crashed: mapping at frame")]
fn a_map_over_a_mapping_crashes_us() {
    let world = world();
    let (_, reference) = world.granted(&world.a, b"", Grant::ReadOnly);
    let frame = world.frame();
    world.map(GrantMap::new(A, reference, &frame, false)).unwrap();
    let _ = world.map(GrantMap::new(A, reference, &frame, false));
}

#[test]
fn a_map_over_our_ram_takes_it_from_us() {
    let world = world();
    let (_, reference) = world.granted(&world.a, b"abcd", Grant::ReadOnly);
    // SAFETY: not true, and that is the point.
    let frame = unsafe { ForeignFrame::new(world.first.number()) };
    let to = |local| GrantCopy::from_grant(region(A, reference, 0), local);
    assert_eq!(world.copy(to(world.local(0, 1))), Ok(()));
    let handle = world.map(GrantMap::new(A, reference, &frame, false)).unwrap();
    assert_eq!(&bytes_of(&world.xen.page(&frame), 0), b"abcd");
    assert_eq!(world.copy(to(world.local(0, 1))), Err(BAD_PAGE));
    world.unmap(handle, &frame).unwrap();
    assert_eq!(world.copy(to(world.local(0, 1))), Err(BAD_PAGE), "it does not come back");
    assert_eq!(world.copy(to(world.second())), Ok(()), "its neighbour is still there");
    assert_eq!(world.xen.audit().displaced, [frame.number()]);
    assert!(!world.xen.audit().is_clean());
}

#[test]
fn an_unmap_needs_the_right_handle_at_the_right_frame() {
    let world = world();
    let references = [b"a", b"b"].map(|bytes| world.granted(&world.a, bytes, Grant::ReadOnly).1);
    let frames = world.xen.foreign_frames(3);
    let map = |at: usize| world.map(GrantMap::new(A, references[at], &frames[at], false)).unwrap();
    let handles = [map(0), map(1)];
    assert_ne!(handles[0], handles[1]);
    assert_eq!(world.unmap(GrantHandle(77), &frames[0]), Err(BAD_HANDLE));
    assert_eq!(world.unmap(handles[0], &frames[1]), Err(GENERAL));
    assert_eq!(world.unmap(handles[0], &frames[2]), Err(GENERAL));
    assert_eq!(world.xen.audit().mappings.len(), 2, "nothing happened");
    assert_eq!(world.unmap(handles[0], &frames[0]), Ok(()));
    assert_eq!(world.unmap(handles[0], &frames[0]), Err(BAD_HANDLE), "once");
    let left = &world.xen.audit().mappings;
    let expected = Mapping {
        domain: A,
        reference: references[1],
        frame: frames[1].number(),
        writable: false,
        handle: handles[1],
    };
    assert_eq!(left, &[expected]);
}

#[test]
fn handles_run_out_and_come_back() {
    let world = world();
    let (_, reference) = world.granted(&world.a, b"", Grant::ReadOnly);
    world.xen.set_mapping_limit(2);
    let frames = world.xen.foreign_frames(3);
    let map = |at: usize| world.map(GrantMap::new(A, reference, &frames[at], false));
    let (first, _) = (map(0).unwrap(), map(1).unwrap());
    assert_eq!(map(2), Err(NO_SPACE));
    let nobody = GrantMap::new(A, GrantRef(0), &frames[2], false);
    assert_eq!(world.map(nobody), Err(NO_SPACE), "before anything is looked at");
    world.unmap(first, &frames[0]).unwrap();
    let handles: Vec<_> = (0..600)
        .map(|_| {
            assert_eq!(world.map(nobody), Err(GENERAL));
            let handle = map(2).unwrap();
            world.unmap(handle, &frames[2]).unwrap();
            handle
        })
        .collect();
    let again = handles.iter().position(|handle| *handle == first);
    assert_eq!(again, Some(255), "handles are used again, but late");
}

#[test]
fn a_page_in_use_stays_what_it_was_whatever_the_guest_does() {
    let world = world();
    let (page, reference) = world.granted(&world.a, b"old", Grant::ReadOnly);
    let other = world.a.add_page();
    world.a.page(other).write_bytes(0, b"new");
    let frame = world.frame();
    let handle = world.map(GrantMap::new(A, reference, &frame, false)).unwrap();
    let copied = || {
        let copy = GrantCopy::from_grant(region(A, reference, 0), world.local(0, 3));
        world.copy(copy).map(|()| world.ours(0, 3))
    };
    assert!(!world.a.end_grant(reference), "in use");
    world.a.regrant(reference, other, Grant::Writable);
    assert_eq!(&bytes_of(&world.xen.page(&frame), 0), b"old");
    assert_eq!(copied(), Ok(b"old".to_vec()), "as long as it is mapped");
    let write = GrantCopy::to_grant(world.local(0, 1), region(A, reference, 0));
    assert_eq!(world.copy(write), Err(GENERAL), "two pages by one grant");
    world.a.revoke(reference);
    assert_ne!(world.a.grant(other, Grant::ReadOnly), reference, "it is in use");
    let theirs = world.a.page(page);
    world.a.balloon_out(page);
    assert_eq!(theirs.load(0), u32::MAX, "the guest has it no longer");
    assert_eq!(world.a.page(page).load(0), u32::MAX);
    assert_eq!(&bytes_of(&world.xen.page(&frame), 0), b"old");
    world.unmap(handle, &frame).unwrap();
    assert_eq!(copied(), Err(GENERAL));
}

#[test]
fn an_honest_guest_ends_no_grant_in_use() {
    let world = world();
    let (_, reference) = world.granted(&world.a, b"", Grant::ReadOnly);
    let frame = world.frame();
    let map = || world.map(GrantMap::new(A, reference, &frame, false));
    let handle = map().unwrap();
    assert!(!world.a.end_grant(reference));
    world.unmap(handle, &frame).unwrap();
    let handle = map().unwrap();
    world.unmap(handle, &frame).unwrap();
    assert!(world.a.end_grant(reference));
    assert_eq!(map(), Err(GENERAL));
}

#[test]
fn a_replaced_page_is_seen_by_the_next_use() {
    let world = world();
    let (page, reference) = world.granted(&world.a, b"old", Grant::Writable);
    let theirs = world.a.page(page);
    world.a.replace_page(page);
    assert_eq!(bytes_of(&theirs, 0), [0; 3]);
    theirs.write_bytes(0, b"new");
    let copy = GrantCopy::from_grant(region(A, reference, 0), world.local(0, 3));
    assert_eq!(world.copy(copy), Ok(()));
    assert_eq!(world.ours(0, 3), b"new");
}

#[test]
fn grants_are_numbered_anew_when_they_end() {
    let world = world();
    let page = world.a.add_page();
    let first = world.a.grant(page, Grant::ReadOnly);
    assert_eq!(first, GrantRef(8), "the first eight are the toolstack's");
    let references: Vec<_> = (0..600).map(|_| world.a.grant(page, Grant::ReadOnly)).collect();
    assert_eq!(references[599], GrantRef(608), "the table grows");
    assert!(world.a.end_grant(references[5]));
    assert_eq!(world.a.grant(page, Grant::ReadOnly), references[5]);
    world.a.revoke(references[7]);
    world.a.regrant(references[7], page, Grant::ReadOnly);
    assert_eq!(world.a.grant(page, Grant::ReadOnly), GrantRef(609), "not twice");
}

#[test]
fn a_dead_domain_stays_until_its_last_page_is_unmapped() {
    let world = world();
    let (_, reference) = world.granted(&world.a, b"abcd", Grant::ReadOnly);
    let frames = world.xen.foreign_frames(2);
    let map = |at: usize| world.map(GrantMap::new(A, reference, &frames[at], false));
    let handles = [map(0).unwrap(), map(1).unwrap()];
    world.a.die();
    assert_eq!(&bytes_of(&world.xen.page(&frames[0]), 0), b"abcd");
    assert_eq!(world.xen.audit().zombies, [A]);
    let copy = GrantCopy::from_grant(region(A, reference, 0), world.local(0, 1));
    assert_eq!(world.copy(copy), Err(BAD_DOMAIN));
    assert_eq!(world.xen.bind_interdomain(A, RemotePort(1)), Err(Errno(3)));
    world.unmap(handles[0], &frames[0]).unwrap();
    assert_eq!(world.xen.audit().zombies, [A]);
    assert_eq!(world.unmap(handles[0], &frames[0]), Err(BAD_HANDLE));
    world.unmap(handles[1], &frames[1]).unwrap();
    assert!(world.xen.audit().is_clean());
    let again = world.xen.create_domain(A);
    assert_eq!(again.id(), A);
}

#[test]
#[should_panic(expected = "domain crashed: unmapping handle 0 of d5, which is gone")]
fn an_unmap_after_the_domain_has_gone_crashes_us() {
    let world = world();
    let (_, reference) = world.granted(&world.a, b"", Grant::ReadOnly);
    let frame = world.frame();
    let handle = world.map(GrantMap::new(A, reference, &frame, false)).unwrap();
    world.a.die();
    world.unmap(handle, &frame).unwrap();
    let _ = world.unmap(handle, &frame);
}

#[test]
fn a_port_binds_once_and_only_if_it_was_opened_for_us() {
    let world = world();
    let bind = |remote| world.xen.bind_interdomain(A, remote);
    let (port, for_b) = (world.a.open_port(), world.a.open_port_for(B));
    assert_eq!(bind(for_b), Err(Errno(22)));
    assert_eq!(bind(RemotePort(99)), Err(Errno(22)));
    assert_eq!(world.xen.bind_interdomain(DomainId(99), port), Err(Errno(3)));
    let ours = bind(port).unwrap();
    assert_eq!(bind(port), Err(Errno(22)), "bound already");
    let open = [OpenPort { port: ours, domain: A }];
    assert_eq!(world.xen.audit().ports, open);
    assert_eq!(world.xen.audit().of(A).1, open);
    assert_eq!(world.xen.audit().of(B).1, []);
    assert_eq!(world.xen.close(ours), Ok(()));
    assert_eq!(world.xen.close(ours), Err(Errno(22)));
    assert_eq!(bind(port), Ok(ours), "unbound again, and the number is free");
}

#[test]
fn events_go_both_ways_and_binding_raises_one() {
    let world = world();
    let (first, second) = (world.a.open_port(), world.b.open_port());
    world.a.notify(first);
    let ports = [
        world.xen.bind_interdomain(A, first).unwrap(),
        world.xen.bind_interdomain(B, second).unwrap(),
    ];
    assert_eq!(world.xen.take_pending(), ports, "to be safe");
    assert_eq!(world.xen.take_pending(), []);
    world.b.notify(second);
    world.b.notify(second);
    assert_eq!(world.xen.take_pending(), [ports[1]], "twice is once");
    world.xen.notify(ports[0]);
    world.xen.notify(ports[0]);
    assert_eq!((world.a.take_events(first), world.a.take_events(first)), (2, 0));
    assert_eq!(world.b.take_events(second), 0);
    assert_eq!(world.xen.counts().notifies, 2);
}

#[test]
fn a_port_whose_other_end_closes_stays_open_and_leads_nowhere() {
    let world = world();
    let remotes = [world.a.open_port(), world.b.open_port()];
    let ports = [
        world.xen.bind_interdomain(A, remotes[0]).unwrap(),
        world.xen.bind_interdomain(B, remotes[1]).unwrap(),
    ];
    world.xen.take_pending();
    world.a.close_port(remotes[0]);
    let again = world.a.open_port();
    assert_eq!(again, remotes[0], "the number is used again");
    world.b.die();
    let reborn = world.xen.create_domain(B);
    assert_eq!(reborn.open_port(), remotes[1]);
    ports.iter().for_each(|port| world.xen.notify(*port));
    world.a.notify(again);
    assert_eq!(world.a.take_events(again), 0);
    assert_eq!(reborn.take_events(remotes[1]), 0, "another domain of that number");
    assert_eq!(world.xen.take_pending(), []);
    assert_eq!(world.xen.audit().ports.len(), 2);
    assert_eq!(ports.map(|port| world.xen.close(port)), [Ok(()); 2]);
    assert_eq!(world.xen.bind_interdomain(A, again), Ok(ports[0]), "it is still for us");
    world.xen.close(ports[0]).unwrap();
    world.xen.notify(ports[1]);
    let audit = world.xen.audit();
    assert_eq!((audit.ports.len(), audit.stray_notifies), (0, 1));
}

#[test]
fn ports_run_out() {
    let world = world();
    world.xen.set_port_limit(1);
    let bind = || world.xen.bind_interdomain(A, world.a.open_port());
    let port = bind().unwrap();
    assert_eq!(bind(), Err(Errno(28)));
    world.xen.close(port).unwrap();
    assert_eq!(bind(), Ok(port));
}

#[test]
fn faults_strike_when_ordered_and_nothing_is_done_then() {
    let world = world();
    let (page, reference) = world.granted(&world.a, b"abcd", Grant::Writable);
    let copy = || {
        let outward = GrantCopy::to_grant(world.local(0, 1), region(A, reference, 0));
        world.copy(outward).err().map(|error| error.0)
    };
    let five = || [(); 5].map(|()| copy());
    world.xen.fail(Kind::Copy, When::Nth(2), -12);
    world.xen.fail(Kind::Map, When::Every(1), -1);
    assert_eq!(five(), [None, Some(-12), None, None, None]);
    world.xen.clear_faults();
    world.xen.fail(Kind::Copy, When::Every(2), 7);
    assert_eq!(five(), [None, Some(7), None, Some(7), None]);
    world.xen.clear_faults();
    world.xen.fail(Kind::Copy, When::Next(3), -12);
    world.xen.fail(Kind::Copy, When::Nth(2), -1);
    assert_eq!(five(), [Some(-12), Some(-12), Some(-12), None, None]);
    assert_eq!(world.xen.counts().faults, 6);

    world.a.page(page).write_bytes(0, b"abcd");
    let by = Box::new(move |operation: &Operation| {
        *operation == Operation::Copy { from: None, to: Some((A, reference)), len: 1 }
    });
    world.xen.fail(Kind::Copy, When::Chosen(by), -1);
    assert_eq!(copy(), Some(-1));
    assert_eq!(&bytes_of(&world.a.page(page), 0), b"abcd");
    let inward = GrantCopy::from_grant(region(A, reference, 0), world.local(0, 1));
    assert_eq!(world.copy(inward), Ok(()));
}

#[test]
fn every_call_can_fail() {
    let world = world();
    let (_, reference) = world.granted(&world.a, b"", Grant::Writable);
    let (frame, port) = (world.frame(), world.a.open_port());
    world.xen.fail(Kind::Map, When::Nth(1), 1);
    assert_eq!(world.map(GrantMap::new(A, reference, &frame, true)), Err(GrantError(1)));
    assert!(world.xen.audit().is_clean());
    let handle = world.map(GrantMap::new(A, reference, &frame, true)).unwrap();
    world.xen.fail(Kind::Unmap, When::Nth(1), -1);
    assert_eq!(world.unmap(handle, &frame), Err(GENERAL));
    assert_eq!(world.xen.audit().of(A).0.len(), 1, "the mapping stays");
    assert_eq!(world.unmap(handle, &frame), Ok(()));
    world.xen.fail(Kind::Bind, When::Nth(1), 12);
    assert_eq!(world.xen.bind_interdomain(A, port), Err(Errno(12)));
    let ours = world.xen.bind_interdomain(A, port).unwrap();
    world.xen.fail(Kind::Notify, When::Nth(1), 1);
    world.xen.notify(ours);
    assert_eq!(world.a.take_events(port), 0);
    world.xen.notify(ours);
    assert_eq!(world.a.take_events(port), 1);
    world.xen.fail(Kind::Close, When::Nth(1), -22);
    assert_eq!(world.xen.close(ours), Err(Errno(22)));
    assert_eq!(world.xen.audit().ports.len(), 1);
    assert_eq!(world.xen.close(ours), Ok(()));
    let counts = world.xen.counts();
    let expected = Counts {
        map_calls: 2,
        maps: 2,
        unmap_calls: 2,
        unmaps: 2,
        binds: 2,
        closes: 2,
        notifies: 2,
        faults: 5,
        ..Counts::default()
    };
    assert_eq!(counts, expected);
    world.xen.grant_map(&mut []);
    assert_eq!(world.xen.counts() - counts, Counts { map_calls: 1, ..Counts::default() });
}

#[test]
fn time_passes_when_told_to() {
    let xen = FakeXen::new(US);
    let clone = xen.clone();
    assert_eq!(xen.now(), Instant(0));
    clone.advance(Duration::from_micros(5));
    assert_eq!(xen.now(), Instant(5000));
}

#[test]
fn ram_is_zeroed_and_its_frames_follow_each_other() {
    let xen = FakeXen::new(US);
    let (first, second) = (xen.ram(2), xen.ram(1));
    assert_eq!(second.1.number(), first.1.number() + 2);
    assert_eq!(first.0.as_ptr().addr() % PAGE_SIZE, 0);
    // SAFETY: two pages of ours, which nothing writes.
    let bytes = unsafe { std::slice::from_raw_parts(first.0.as_ptr(), 2 * PAGE_SIZE) };
    assert!(bytes.iter().all(|byte| *byte == 0));
    let holes = [xen.foreign_frames(2), xen.foreign_frames(1)];
    let holes: Vec<_> = holes.iter().flatten().map(ForeignFrame::number).collect();
    assert_eq!(holes[2] - holes[0], 2);
    assert!(holes.iter().all(|number| *number > second.1.number()));
}
