//! One function and its header (PCI Local Bus 3.0, section 6).

use super::{Address, ConfigSpace};

const ID: u8 = 0x00;
const COMMAND: u8 = 0x04;
const CLASS: u8 = 0x08;
const SUBSYSTEM: u8 = 0x2c;
const CAPABILITIES: u8 = 0x34;

/// Status bit 4, in the upper half of the word at [`COMMAND`].
const HAS_CAPABILITIES: u32 = 1 << 20;

const CAPABILITY_EXPRESS: u8 = 0x10;
/// Device Status is the upper half of the word here in the PCI Express capability;
/// bit 5 of it is Transactions Pending (PCI Express 3.0, 7.8.5).
const EXPRESS_DEVICE: u8 = 0x08;
const TRANSACTIONS_PENDING: u32 = 1 << 21;

/// More capabilities than this do not fit between the header and the end.
const MOST_CAPABILITIES: usize = 48;

bitflags::bitflags! {
    /// The Command register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Command: u16 {
        /// Decodes its I/O BARs.
        const IO = 1 << 0;
        /// Decodes its memory BARs.
        const MEMORY = 1 << 1;
        /// May read and write memory, and send messages.
        const BUS_MASTER = 1 << 2;
        /// Raises no INTx.
        const INTX_DISABLE = 1 << 10;
        const _ = !0;
    }
}

/// What a function is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The vendor.
    pub vendor: u16,
    /// The vendor's name for the device.
    pub device: u16,
    /// Base class and subclass.
    pub class: (u8, u8),
    /// Who made the card, and their name for it.
    pub subsystem: (u16, u16),
}

impl Identity {
    /// Whether it is an Ethernet controller.
    pub const fn is_ethernet(&self) -> bool {
        matches!(self.class, (0x02, 0x00))
    }
}

/// A function that we own.
#[derive(Clone, Debug)]
pub struct Function<C> {
    config: C,
    address: Address,
}

impl<C: ConfigSpace> Function<C> {
    /// The function at `address`.
    pub const fn new(config: C, address: Address) -> Self {
        Self { config, address }
    }

    /// Where it is.
    pub const fn address(&self) -> Address {
        self.address
    }

    /// What it is; `None` where no function answers.
    pub fn identity(&self) -> Option<Identity> {
        let id = self.read(ID);
        let vendor = id as u16;
        if vendor == 0xffff || vendor == 0 {
            return None;
        }
        let class = self.read(CLASS);
        let subsystem = self.read(SUBSYSTEM);
        Some(Identity {
            vendor,
            device: (id >> 16) as u16,
            class: ((class >> 24) as u8, (class >> 16) as u8),
            subsystem: (subsystem as u16, (subsystem >> 16) as u16),
        })
    }

    /// The Command register; all ones where the function is gone.
    pub fn command(&self) -> Command {
        Command::from_bits_retain(self.read(COMMAND) as u16)
    }

    /// Changes the Command register. Interrupt Disable is set by every write, or
    /// xen-pt brings INTx back. The Status half is written with zeros, which clear
    /// nothing there. Returns whether the function took the change.
    pub fn change_command(&self, set: Command, clear: Command) -> bool {
        let command = self.command().difference(clear) | set | Command::INTX_DISABLE;
        self.write(COMMAND, command.bits().into());
        let now = self.command();
        now != Command::all() && now.contains(set) && !now.intersects(clear)
    }

    /// The capabilities' ids and offsets, in the order of their chain. A chain that
    /// loops or leaves the space ends.
    pub fn capabilities(&self) -> impl Iterator<Item = (u8, u8)> {
        let status = self.read(COMMAND);
        let present = status != u32::MAX && status & HAS_CAPABILITIES != 0;
        let mut next = if present { self.read(CAPABILITIES) as u8 & !3 } else { 0 };
        core::iter::from_fn(move || {
            // The first 64 bytes are the header.
            if next < 0x40 {
                return None;
            }
            let at = next;
            let header = self.read(at);
            next = (header >> 8) as u8 & !3;
            Some((header as u8, at))
        })
        .take(MOST_CAPABILITIES)
    }

    /// The offset of the first capability with `id`.
    pub fn capability(&self, id: u8) -> Option<u8> {
        self.capabilities().find(|&(found, _)| found == id).map(|(_, at)| at)
    }

    /// Whether requests of the function are still to be answered: while so, it may
    /// yet write memory. `None` where it does not say.
    pub fn transactions_pending(&self) -> Option<bool> {
        let express = self.capability(CAPABILITY_EXPRESS)?;
        let device = self.read(express.checked_add(EXPRESS_DEVICE)?);
        (device != u32::MAX).then_some(device & TRANSACTIONS_PENDING != 0)
    }

    pub(super) fn read(&self, register: u8) -> u32 {
        self.config.read(self.address, register)
    }

    pub(super) fn write(&self, register: u8, value: u32) {
        self.config.write(self.address, register, value);
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::fake::Model;

    #[test]
    fn s_19_command_writes_keep_intx_off_and_leave_the_status_alone() {
        let model = Model::nic();
        let function = model.function();
        assert!(function.change_command(Command::MEMORY, Command::empty()));
        assert!(function.change_command(Command::BUS_MASTER, Command::empty()));
        assert!(function.change_command(Command::empty(), Command::BUS_MASTER));
        let kept = Command::MEMORY | Command::INTX_DISABLE;
        assert_eq!(function.command(), kept);
        assert_eq!(model.status() & 0xf900, 0xf900, "errors are cleared by writing ones");
        model.vanish();
        assert!(!function.change_command(Command::BUS_MASTER, Command::empty()));
        assert!(!function.change_command(Command::empty(), Command::BUS_MASTER));
        assert_eq!(function.identity(), None);
    }

    #[test]
    fn capability_chains_end() {
        let model = Model::nic();
        let function = model.function();
        let ids: Vec<u8> = function.capabilities().map(|(id, _)| id).collect();
        assert_eq!(ids, [0x01, 0x05, 0x10, 0x11]);
        model.set(0xa0, 0x0011 | 0xc8 << 8);
        assert_eq!(function.capabilities().count(), MOST_CAPABILITIES, "a loop");
        assert_eq!(function.capability(0x99), None);
        model.set(0xc8, 0x0001 | 0x10 << 8);
        assert_eq!(function.capabilities().count(), 1, "into the header");
        model.vanish();
        assert_eq!(function.capabilities().count(), 0);
        assert_eq!(function.transactions_pending(), None);
    }

    #[test]
    fn pending_transactions_are_read_from_device_status() {
        let model = Model::nic();
        let function = model.function();
        assert_eq!(function.transactions_pending(), Some(false));
        model.set(0xe8, 1 << 21);
        assert_eq!(function.transactions_pending(), Some(true));
        // A capability at the very end has no room for the register.
        model.set(0x34, 0xfc);
        model.set(0xfc, 0x10);
        assert_eq!(function.transactions_pending(), None);
    }

    #[test]
    fn identity_names_the_ethernet_controller() {
        let model = Model::nic();
        let identity = model.function().identity().unwrap();
        assert_eq!((identity.vendor, identity.device), (0x8086, 0x10d3));
        assert!(identity.is_ethernet());
    }
}
