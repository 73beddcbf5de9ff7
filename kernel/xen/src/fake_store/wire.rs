//! Messages and the page they go through, from xenstored's end.

use std::ptr::NonNull;

use super::tree::Errno;
use crate::{PAGE_SIZE, SharedPage};

/// A request's parts.
pub(super) struct Parsed {
    pub(super) kind: u32,
    pub(super) transaction: u32,
    pub(super) path: String,
    /// What follows the first string.
    pub(super) rest: Vec<u8>,
}

impl Parsed {
    pub(super) fn new(kind: u32, transaction: u32, payload: &[u8]) -> Self {
        let end = payload.iter().position(|&byte| byte == 0).unwrap_or(payload.len());
        let path = String::from_utf8_lossy(&payload[..end]).into_owned();
        let rest = payload.get(end + 1..).unwrap_or_default().to_vec();
        Self { kind, transaction, path, rest }
    }

    pub(super) fn token(&self) -> Result<String, Errno> {
        let end = self.rest.iter().position(|&byte| byte == 0).ok_or("EINVAL")?;
        Ok(String::from_utf8_lossy(&self.rest[..end]).into_owned())
    }
}

pub(super) fn word(bytes: &[u8], index: usize) -> u32 {
    let word: [u8; 4] = bytes[4 * index..4 * index + 4].try_into().expect("four bytes");
    u32::from_ne_bytes(word)
}

pub(super) fn message(kind: u32, id: u32, transaction: u32, payload: &[u8]) -> Vec<u8> {
    let words = [kind, id, transaction, payload.len() as u32];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    bytes.extend_from_slice(payload);
    bytes
}

/// A page that a domain and its xenstored share. It lives as long as the program: a
/// test's domains come and go in no order that a borrow could follow.
#[derive(Clone, Copy)]
pub(super) struct RingPage(NonNull<u8>);

impl RingPage {
    pub(super) fn new() -> Self {
        #[repr(align(4096))]
        struct Page {
            _bytes: [u8; PAGE_SIZE],
        }
        let page = Box::leak(Box::new(Page { _bytes: [0; PAGE_SIZE] }));
        Self(NonNull::from(page).cast())
    }

    pub(super) fn end(self) -> SharedPage {
        // SAFETY: aligned by its type, leaked, and reached only through such ends.
        unsafe { SharedPage::new(self.0) }
    }
}
