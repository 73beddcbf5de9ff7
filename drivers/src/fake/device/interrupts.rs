//! The device's interrupts (7.4): causes, their masks, and MSI-X messages.

use super::{Device, EIAC, EN, ICR, IMS, IVAR, OTHERS, RCTL, RXQ0, TXQ0};

/// The vector of the message for the queues.
pub const QUEUES: u8 = 0x40;
/// The vector of the message for everything else.
pub const OTHER: u8 = 0x41;

impl Device {
    pub(super) fn raise(&self, causes: u32) {
        let other = if causes & !(RXQ0 | TXQ0) != 0 { OTHERS } else { 0 };
        let fresh = (causes | other) & !self.get(ICR);
        self.set(ICR, self.get(ICR) | causes | other);
        self.notify(fresh);
    }

    /// Sends the messages of causes that have just become pending (7.4.2).
    pub(super) fn notify(&self, fresh: u32) {
        for (cause, shift) in [(RXQ0, 0), (TXQ0, 8), (OTHERS, 16)] {
            if fresh & cause & self.get(ICR) & self.get(IMS) == 0 {
                continue;
            }
            let enabled = self.config.get(0xa0) >> 30 == 0b10;
            let entry = (self.get(IVAR) >> shift & 7) as usize;
            let valid = self.get(IVAR) >> shift & 8 != 0;
            let table = self.table.borrow();
            if enabled && valid && self.masters() && table[entry * 4 + 3] & 1 == 0 {
                assert_eq!(table[entry * 4] & 0xfff0_0fff, 0xfee0_0000);
                if !self.faults.silent.get() {
                    self.messages.borrow_mut().push(table[entry * 4 + 2] as u8);
                }
                let automatic = cause & self.get(EIAC);
                self.set(ICR, self.get(ICR) & !automatic);
                if self.faults.masks_itself.get() {
                    self.set(IMS, self.get(IMS) & !automatic);
                }
            }
        }
    }

    pub(super) fn read_table(&self, offset: u32) -> u32 {
        if self.faults.gone.get() { !0 } else { self.table.borrow()[offset as usize / 4] }
    }

    pub(super) fn write_table(&self, offset: u32, value: u32) {
        let word = offset as usize / 4;
        assert_eq!(self.get(RCTL) & EN, 0, "the table traps; not at run time");
        assert_eq!(self.config.get(0xa0) >> 31, 0, "an entry changes while MSI-X is on");
        let mut table = self.table.borrow_mut();
        assert!(word % 4 == 3 || table[word | 3] & 1 == 1, "an entry changes unmasked");
        table[word] = value;
    }
}
