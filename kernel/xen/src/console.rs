//! The PV console: two byte rings in a page shared with the console daemon.

use core::mem::offset_of;

use crate::SharedPage;
use crate::bindings::xencons_interface;

const INPUT: usize = offset_of!(xencons_interface, in_);
const INPUT_SIZE: u32 = 1024;
const OUTPUT: usize = offset_of!(xencons_interface, out);
const OUTPUT_SIZE: u32 = 2048;
const INPUT_CONSUMED: usize = offset_of!(xencons_interface, in_cons);
const INPUT_PRODUCED: usize = offset_of!(xencons_interface, in_prod);
const OUTPUT_CONSUMED: usize = offset_of!(xencons_interface, out_cons);
const OUTPUT_PRODUCED: usize = offset_of!(xencons_interface, out_prod);

const _: () = assert!(OUTPUT - INPUT == INPUT_SIZE as usize);
const _: () = assert!(INPUT_CONSUMED - OUTPUT == OUTPUT_SIZE as usize);

/// Our end of the console. Indices of ours are kept in private: what the daemon
/// does to the page can garble text and nothing else.
#[derive(Debug)]
pub struct Console {
    page: SharedPage,
    consumed: u32,
    produced: u32,
}

impl Console {
    /// Takes over the console where it stands.
    pub fn new(page: SharedPage) -> Self {
        let consumed = page.load(INPUT_CONSUMED);
        let produced = page.load(OUTPUT_PRODUCED);
        Self { page, consumed, produced }
    }

    /// Writes what fits of `text` and returns how much that was. The daemon has to
    /// be notified of it.
    pub fn write(&mut self, text: &[u8]) -> usize {
        let waiting = self.produced.wrapping_sub(self.page.load(OUTPUT_CONSUMED));
        let room = OUTPUT_SIZE.saturating_sub(waiting) as usize;
        let text = &text[..room.min(text.len())];
        for (offset, byte) in text.iter().enumerate() {
            let index = self.produced.wrapping_add(offset as u32);
            let at = OUTPUT + (index % OUTPUT_SIZE) as usize;
            self.page.write_bytes(at, core::slice::from_ref(byte));
        }
        self.produced = self.produced.wrapping_add(text.len() as u32);
        self.page.store(OUTPUT_PRODUCED, self.produced);
        text.len()
    }

    /// Reads what came, up to `into`'s length, and returns how much that was. The
    /// daemon has to be notified of it.
    pub fn read(&mut self, into: &mut [u8]) -> usize {
        let waiting = self.page.load(INPUT_PRODUCED).wrapping_sub(self.consumed);
        if waiting > INPUT_SIZE {
            // Not an index the daemon can have written; start over from there.
            self.consumed = self.consumed.wrapping_add(waiting);
            return 0;
        }
        let len = into.len().min(waiting as usize);
        for (offset, byte) in into[..len].iter_mut().enumerate() {
            let index = self.consumed.wrapping_add(offset as u32);
            let at = INPUT + (index % INPUT_SIZE) as usize;
            self.page.read_bytes(at, core::slice::from_mut(byte));
        }
        self.consumed = self.consumed.wrapping_add(len as u32);
        self.page.store(INPUT_CONSUMED, self.consumed);
        len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PAGE_SIZE;
    use core::ptr::NonNull;

    #[repr(align(4096))]
    struct Page {
        _bytes: [u8; PAGE_SIZE],
    }

    /// A console and the daemon's view of the same page, leaked for the test.
    fn console() -> (Console, SharedPage) {
        let base = NonNull::from(Box::leak(Box::new(Page { _bytes: [0; PAGE_SIZE] }))).cast();
        // SAFETY: the page is leaked, and reached through shared pages alone.
        let [ours, theirs] = [base; 2].map(|base| unsafe { SharedPage::new(base) });
        // Just below the wrap of the indices.
        for index in [INPUT_CONSUMED, INPUT_PRODUCED, OUTPUT_CONSUMED, OUTPUT_PRODUCED] {
            theirs.store(index, u32::MAX - 10);
        }
        (Console::new(ours), theirs)
    }

    #[test]
    fn output_stops_where_the_ring_is_full_and_goes_on_across_the_wrap() {
        let (mut console, daemon) = console();
        let text = vec![b'x'; 3000];
        assert_eq!(console.write(&text), 2048);
        assert_eq!(console.write(&text), 0);
        daemon.store(OUTPUT_CONSUMED, daemon.load(OUTPUT_PRODUCED).wrapping_sub(5));
        assert_eq!(console.write(b"hello, world"), 12);
        let end = daemon.load(OUTPUT_PRODUCED);
        let seen = [12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1].map(|back| {
            let mut byte = [0];
            let at = end.wrapping_sub(back) % OUTPUT_SIZE;
            daemon.read_bytes(OUTPUT + at as usize, &mut byte);
            byte[0]
        });
        assert_eq!(&seen, b"hello, world");
    }

    #[test]
    fn input_comes_in_order_and_impossible_indices_are_survived() {
        let (mut console, daemon) = console();
        let at = ((u32::MAX - 10) % INPUT_SIZE) as usize;
        daemon.write_bytes(INPUT + at, b"hi");
        daemon.store(INPUT_PRODUCED, u32::MAX - 8);
        let mut line = [0; 8];
        assert_eq!(console.read(&mut line), 2);
        assert_eq!(&line[..2], b"hi");
        daemon.store(INPUT_PRODUCED, 0x4000_0000);
        assert_eq!(console.read(&mut line), 0);
        assert_eq!(console.read(&mut line), 0);
        daemon.store(OUTPUT_CONSUMED, 0x4000_0000);
        assert_eq!(console.write(b"lost"), 0);
    }
}
