//! The two byte rings of `xenstore_domain_interface`.
//!
//! Each side's own index lives here and is only ever published; the other side's
//! is read once per transfer and believed only as far as the ring is long.

use core::mem::offset_of;

use crate::SharedPage;
use crate::bindings::{XENSTORE_RING_SIZE, xenstore_domain_interface as interface};

const SIZE: usize = XENSTORE_RING_SIZE as usize;

/// The other side published an index that the ring's length contradicts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BadIndex;

/// Our end of both rings. The page's starting indices may be anything (H-16).
pub(super) struct Rings {
    req_prod: u32,
    rsp_cons: u32,
}

impl Rings {
    /// Takes the rings over as the page has them.
    pub(super) fn attach(page: &SharedPage) -> Self {
        Self {
            req_prod: page.load(offset_of!(interface, req_prod)),
            rsp_cons: page.load(offset_of!(interface, rsp_cons)),
        }
    }

    /// Appends as many of `bytes` as there is room for; returns how many.
    pub(super) fn send(&mut self, page: &SharedPage, bytes: &[u8]) -> Result<usize, BadIndex> {
        let used = filled(self.req_prod, page.load(offset_of!(interface, req_cons)))?;
        let count = bytes.len().min(SIZE - used);
        let (start, first) = split(self.req_prod, count);
        let ring = offset_of!(interface, req);
        page.write_bytes(ring + start, &bytes[..first]);
        page.write_bytes(ring, &bytes[first..count]);
        self.req_prod = self.req_prod.wrapping_add(count as u32);
        page.store(offset_of!(interface, req_prod), self.req_prod);
        Ok(count)
    }

    /// Takes as many bytes as there are, up to `into`'s length; returns how many.
    pub(super) fn receive(
        &mut self,
        page: &SharedPage,
        into: &mut [u8],
    ) -> Result<usize, BadIndex> {
        let available = filled(page.load(offset_of!(interface, rsp_prod)), self.rsp_cons)?;
        let count = into.len().min(available);
        let (start, first) = split(self.rsp_cons, count);
        let ring = offset_of!(interface, rsp);
        page.read_bytes(ring + start, &mut into[..first]);
        page.read_bytes(ring, &mut into[first..count]);
        self.rsp_cons = self.rsp_cons.wrapping_add(count as u32);
        page.store(offset_of!(interface, rsp_cons), self.rsp_cons);
        Ok(count)
    }
}

/// How many bytes lie between two free-running indices.
fn filled(producer: u32, consumer: u32) -> Result<usize, BadIndex> {
    let filled = producer.wrapping_sub(consumer) as usize;
    if filled <= SIZE { Ok(filled) } else { Err(BadIndex) }
}

/// Where in the ring `count` bytes from `index` begin, and how many of them come
/// before the ring wraps.
fn split(index: u32, count: usize) -> (usize, usize) {
    let start = index as usize % SIZE;
    (start, count.min(SIZE - start))
}
