//! What must come of a packet that an honest guest sends.

use xen::PAGE_SIZE;
use xen::netif::Status;

use crate::{Id, Outgoing, TxAnswer, Uplink, World, frames};

/// Grant statuses: refusals, one that is worth another try, and positive ones that
/// mean nothing (XSA-316).
pub const STATUSES: [i16; 6] = [-1, -3, -12, 1, 2, i16::MAX];

impl<U: Uplink> World<U> {
    /// Sends a frame of `len` bytes from one guest to another; which.
    pub fn send(&mut self, from: Id, to: Id, len: usize) -> Vec<u8> {
        let frame = frames::plain(self[to].mac(), self[from].mac(), len, len as u64);
        self[from].send(&Outgoing::whole(&frame));
        self.settle();
        frame
    }

    /// Sends a packet from one guest to another, and sees that it arrives unchanged, that
    /// all slots are answered, and that everything is at rest again.
    ///
    /// # Panics
    /// If any of it is not so.
    pub fn pass_on(&mut self, from: Id, to: Id, packet: &Outgoing) {
        let ids = self[from].send(packet);
        self.settle();
        let received = std::mem::take(&mut self[to].received);
        let len = packet.bytes.len();
        assert_eq!(received.len(), 1, "{len} bytes in {:?}", packet.pieces);
        assert!(received[0].bytes == packet.bytes, "{len} bytes changed: {:?}", packet.pieces);
        assert_eq!(received[0].failed, 0);
        let room = PAGE_SIZE - usize::from(received[0].headroom);
        let fewest = len.div_ceil(room);
        let most = fewest.max(packet.pieces.len() + 1);
        assert!((fewest..=most).contains(&received[0].slots), "P-19: {:?}", packet.pieces);
        self.check_answers(from, &ids, Status::Okay);
        self.check_at_rest();
    }

    /// Checks that a guest has got a response of this status to each of these slots, and
    /// no other (P-15).
    ///
    /// # Panics
    /// If it has not.
    pub fn check_answers(&mut self, from: Id, ids: &[u16], status: Status) {
        let mut answered = std::mem::take(&mut self[from].answers);
        answered.sort_by_key(|answer| ids.iter().position(|id| *id == answer.id));
        let status = status as i16;
        let expected: Vec<_> = ids.iter().map(|&id| TxAnswer { id, status }).collect();
        assert_eq!(answered, expected, "one response a slot (P-15)");
        assert_eq!(self[from].unanswered(), 0);
    }
}
