//! An 82574 in software: its registers, its interrupts, its DMA. It asserts the
//! rules that the real one leaves to the driver, and misbehaves when told to.
//!
//! Written from the datasheet, not from the driver: numbers stand here as they do
//! there.

mod send;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::Duration;

use drivers::pci::Command;
use kernel::memory::Registers;
use xen::Instant;

use crate::config::Model;
use crate::memory::Memory;
use send::Sender;

pub const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];

const CTRL: u32 = 0x0000;
const RST: u32 = 1 << 26;
const STATUS: u32 = 0x0008;
const EEC: u32 = 0x0010;
const ICR: u32 = 0x00c0;
const ICS: u32 = 0x00c8;
const IMS: u32 = 0x00d0;
const IMC: u32 = 0x00d8;
const EIAC: u32 = 0x00dc;
const IVAR: u32 = 0x00e4;
const RCTL: u32 = 0x0100;
const TCTL: u32 = 0x0400;
const RDBAL: u32 = 0x2800;
const RDLEN: u32 = 0x2808;
const RDH: u32 = 0x2810;
const RDT: u32 = 0x2818;
const TDBAL: u32 = 0x3800;
const TDLEN: u32 = 0x3808;
const TDH: u32 = 0x3810;
const TDT: u32 = 0x3818;
const TXDCTL: u32 = 0x3828;
const RFCTL: u32 = 0x5008;
const RAL: u32 = 0x5400;
const RAH: u32 = 0x5404;
const COUNTERS: std::ops::Range<u32> = 0x4000..0x4130;

const EN: u32 = 1 << 1;
const LSC: u32 = 1 << 2;
const RXQ0: u32 = 1 << 20;
const TXQ0: u32 = 1 << 22;
const OTHER: u32 = 1 << 24;

/// What the device does wrong.
#[derive(Default)]
pub struct Faults {
    /// Every read gives ones: unplugged, or not decoded.
    pub gone: Cell<bool>,
    /// Resets do not finish.
    pub stuck_reset: Cell<bool>,
    /// DMA does not end by itself.
    pub busy: Cell<bool>,
    /// Messages are lost on their way.
    pub silent: Cell<bool>,
    /// Nothing is sent any more.
    pub stalled: Cell<bool>,
    /// A message masks its cause, as QEMU has it.
    pub masks_itself: Cell<bool>,
    /// What is sent comes back.
    pub loopback: Cell<bool>,
}

pub struct Device {
    pub config: Model,
    pub memory: Memory,
    pub faults: Faults,
    pub now: Cell<Instant>,
    /// Vectors of the messages sent.
    pub messages: RefCell<Vec<u8>>,
    /// Frames on the wire.
    pub wire: RefCell<Vec<Vec<u8>>>,
    pub resets: Cell<u32>,
    pub sender: RefCell<Sender>,
    /// How often a register was read or written.
    pub accesses: Cell<usize>,
    /// RAL and RAH as the NVM has them.
    pub nvm: Cell<[u32; 2]>,
    link: Cell<bool>,
    lied: Cell<bool>,
    registers: RefCell<HashMap<u32, u32>>,
    table: RefCell<[u32; 20]>,
    /// When the last reset began.
    reset: Cell<Option<Instant>>,
}

/// What the device decodes.
#[derive(Clone, Copy)]
pub enum Bar {
    /// BAR 0, the registers.
    Registers(&'static Device),
    /// BAR 3, the MSI-X table.
    Table(&'static Device),
}

impl Device {
    pub fn new(config: Model, memory: Memory) -> &'static Self {
        let [a, b, c, d, e, f] = MAC;
        let device = Self {
            config,
            memory,
            faults: Faults::default(),
            now: Cell::new(Instant(0)),
            messages: RefCell::default(),
            wire: RefCell::default(),
            resets: Cell::new(0),
            sender: RefCell::default(),
            accesses: Cell::new(0),
            nvm: Cell::new([
                u32::from_le_bytes([a, b, c, d]),
                1 << 31 | u32::from_le_bytes([e, f, 0, 0]),
            ]),
            link: Cell::new(true),
            lied: Cell::new(false),
            registers: RefCell::default(),
            table: RefCell::new([0; 20]),
            reset: Cell::new(None),
        };
        // As firmware or a former driver may leave it: receiving.
        device.set(RCTL, EN);
        device.set(IMS, !0);
        device.set(CTRL, 1 << 3 | 1 << 20);
        Box::leak(Box::new(device))
    }

    pub fn get(&self, register: u32) -> u32 {
        self.registers.borrow().get(&register).copied().unwrap_or(0)
    }

    pub fn set(&self, register: u32, value: u32) {
        self.registers.borrow_mut().insert(register, value);
    }

    pub fn count(&self, counter: u32) {
        self.set(counter, self.get(counter) + 1);
    }

    /// Whether it has ever written back what was not true.
    pub fn has_lied(&self) -> bool {
        self.lied.get()
    }

    /// One of the faults.
    pub fn fault(&self, number: u8) -> &Cell<bool> {
        let Faults { gone, stuck_reset, busy, silent, stalled, loopback, .. } = &self.faults;
        [gone, stuck_reset, busy, silent, stalled, loopback][usize::from(number)]
    }

    fn masters(&self) -> bool {
        let command = self.config.function().command();
        !self.faults.gone.get() && command.contains(Command::BUS_MASTER)
    }

    /// What Xen does after ten IOMMU faults.
    pub fn lose_mastering(&self) {
        let command = Command::BUS_MASTER;
        assert!(self.config.function().change_command(Command::empty(), command));
    }

    pub fn set_link(&self, up: bool) {
        self.link.set(up);
        self.raise(LSC);
    }

    /// A frame comes from the wire, without its checksum.
    pub fn arrive(&self, frame: &[u8]) -> bool {
        if self.get(RCTL) & EN == 0 || !self.masters() || !self.link.get() {
            return false;
        }
        if frame.len() > 1518 {
            self.count(0x40ac);
            return false;
        }
        let (head, tail) = (self.get(RDH), self.get(RDT));
        if head == tail {
            self.count(0x4010);
            return false;
        }
        let at = self.base(RDBAL) + u64::from(head) * 16;
        let mut descriptor = [0; 16];
        self.memory.read(at, &mut descriptor);
        let address = u64::from_le_bytes(descriptor[..8].try_into().unwrap());
        let clear = descriptor[8..] == [0; 8];
        assert!(clear || self.lied.get(), "a descriptor posted with status in it");
        self.memory.write(address, frame);
        self.count(0x4074);
        self.complete_receive(0b11, frame.len() as u16);
        true
    }

    fn complete_receive(&self, status: u32, len: u16) {
        let head = self.get(RDH);
        let at = self.base(RDBAL) + u64::from(head) * 16;
        // Everything but status and length is garbage.
        self.memory.write(at, &[0xee; 16]);
        self.memory.write(at + 8, &status.to_le_bytes());
        self.memory.write(at + 12, &len.to_le_bytes());
        self.set(RDH, (head + 1) % 256);
        let ack = if self.get(RFCTL) & 1 << 12 == 0 { 1 << 17 } else { 0 };
        self.raise(RXQ0 | ack);
    }

    /// Goes on with what it has to send.
    pub fn kick(&self) {
        self.send(usize::MAX);
    }

    /// Sends one frame though it is stalled.
    pub fn send_one(&self) {
        self.faults.stalled.set(false);
        self.send(1);
        self.faults.stalled.set(true);
    }

    /// Writes back the next receive descriptor, whatever is true, if it can write at
    /// all.
    pub fn lie(&self, status: u32, len: u16) {
        if self.masters() && self.get(RCTL) & EN != 0 {
            self.lied.set(true);
            self.complete_receive(status, len);
        }
    }

    fn base(&self, low: u32) -> u64 {
        u64::from(self.get(low + 4)) << 32 | u64::from(self.get(low))
    }

    fn raise(&self, causes: u32) {
        let other = if causes & !(RXQ0 | TXQ0) != 0 { OTHER } else { 0 };
        let fresh = (causes | other) & !self.get(ICR);
        self.set(ICR, self.get(ICR) | causes | other);
        self.notify(fresh);
    }

    /// Sends the messages of causes that have just become pending (7.4.2).
    fn notify(&self, fresh: u32) {
        for (cause, shift) in [(RXQ0, 0), (TXQ0, 8), (OTHER, 16)] {
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

    fn reset(&self) {
        assert!(!self.masters(), "a reset with bus mastering on");
        assert!(self.config.function().command().contains(Command::INTX_DISABLE));
        assert_eq!(self.get(IMS), 0, "a reset with interrupts unmasked");
        assert_eq!((self.get(RCTL) | self.get(TCTL)) & EN, 0, "a reset of a running device");
        assert!(self.get(CTRL) & 1 << 2 != 0, "a reset without master disable");
        self.registers.borrow_mut().clear();
        self.sender.take();
        self.resets.set(self.resets.get() + 1);
        self.reset.set(Some(self.now.get()));
        self.set(CTRL, 1 << 3 | 1 << 20);
        self.set(TCTL, 0x3003_f008 & !EN);
        self.set(ICR, LSC);
    }

    /// Whether a reset is still under way. Nothing may be touched for its first
    /// microsecond (10.2.2.1).
    fn resetting(&self) -> bool {
        let Some(since) = self.reset.get() else { return false };
        let waited = self.now.get().since(since);
        assert!(waited >= Duration::from_micros(1), "touched {waited:?} after a reset");
        self.faults.stuck_reset.get() || waited < Duration::from_millis(1)
    }

    /// Whether the NVM has been read since (EEC, Auto Read Done).
    fn loaded(&self) -> bool {
        let read = |since| self.now.get().since(since) >= Duration::from_millis(3);
        !self.resetting() && self.reset.get().is_some_and(read)
    }

    fn enable_receive(&self, value: u32) {
        assert!(self.base(RDBAL) != 0 && self.get(RDBAL).is_multiple_of(16), "no ring");
        assert_eq!((self.get(RDLEN), self.get(RDH)), (4096, 0));
        assert!(self.masters(), "receiving without bus mastering");
        assert_eq!(self.get(ICR), 0, "causes left over from before");
        assert!(self.get(RFCTL) & 1 << 15 != 0, "the model knows extended descriptors");
        assert_eq!(value & 1 << 5, 0, "long packets would leave their buffers");
        let wanted = 1 << 3 | 1 << 4 | 1 << 15 | 1 << 26;
        assert_eq!(value & wanted, wanted, "promiscuous, checksums stripped");
    }

    fn enable_transmit(&self) {
        assert!(self.base(TDBAL) != 0 && self.get(TDBAL).is_multiple_of(16), "no ring");
        assert_eq!((self.get(TDLEN), self.get(TDH)), (4096, 0));
        assert!(self.masters(), "sending without bus mastering");
        assert!(self.get(TXDCTL) & 1 << 22 != 0, "TXDCTL bit 22 must be set");
    }
}

impl Device {
    fn read(&self, offset: u32) -> u32 {
        assert!(offset.is_multiple_of(4) && offset < 0x2_0000, "register {offset:#x}");
        self.resetting();
        self.accesses.set(self.accesses.get() + 1);
        if self.faults.gone.get() {
            return !0;
        }
        let value = self.get(offset);
        match offset {
            CTRL => value | if self.resetting() { RST } else { 0 },
            STATUS => {
                let masters = value | u32::from(self.get(CTRL) & 1 << 2 == 0) << 19;
                let busy = u32::from(self.faults.busy.get()) << 19;
                masters | busy | if self.link.get() { 0b11 | 2 << 6 } else { 0 }
            }
            EEC => u32::from(self.loaded()) << 9,
            RAL | RAH if self.loaded() => self.nvm.get()[(offset - RAL) as usize / 4],
            // Cleared where everything is masked (10.2.4.1); otherwise the driver
            // does not read it.
            ICR => {
                assert_eq!(self.get(IMS), 0, "the read clears other queues' causes");
                self.set(ICR, 0);
                value
            }
            IMC | ICS => 0,
            _ if COUNTERS.contains(&offset) => {
                self.set(offset, 0);
                value
            }
            _ => value,
        }
    }

    fn write(&self, offset: u32, value: u32) {
        assert!(offset.is_multiple_of(4) && offset < 0x2_0000, "register {offset:#x}");
        self.resetting();
        self.accesses.set(self.accesses.get() + 1);
        if self.faults.gone.get() {
            return;
        }
        match offset {
            CTRL => {
                assert_eq!(value & (1 << 3 | 1 << 20), 1 << 3 | 1 << 20, "reserved bits of CTRL");
                match value & RST {
                    0 => self.set(CTRL, value),
                    _ => self.reset(),
                }
            }
            ICR => self.set(ICR, self.get(ICR) & !value),
            ICS => self.raise(value),
            IMS => {
                let fresh = value & !self.get(IMS);
                self.set(IMS, self.get(IMS) | value);
                self.notify(fresh);
            }
            IMC => self.set(IMS, self.get(IMS) & !value),
            RCTL => {
                if value & EN != 0 {
                    self.enable_receive(value);
                }
                self.set(RCTL, value);
            }
            TCTL => {
                if value & EN != 0 {
                    self.enable_transmit();
                }
                self.set(TCTL, value);
                self.kick();
            }
            RDT => {
                assert!(value < 256, "tail {value}");
                self.set(RDT, value);
            }
            TDT => {
                assert!(value < 256, "tail {value}");
                self.set(TDT, value);
                self.kick();
            }
            RDBAL..=RDH => {
                assert_eq!(self.get(RCTL) & EN, 0, "the ring moves under the receiver");
                self.set(offset, value);
            }
            TDBAL..=TDH => {
                assert_eq!(self.get(TCTL) & EN, 0, "the ring moves under the transmitter");
                self.set(offset, value);
            }
            STATUS => {}
            _ => self.set(offset, value),
        }
    }

    fn read_table(&self, offset: u32) -> u32 {
        if self.faults.gone.get() { !0 } else { self.table.borrow()[offset as usize / 4] }
    }

    fn write_table(&self, offset: u32, value: u32) {
        let word = offset as usize / 4;
        assert_eq!(self.get(RCTL) & EN, 0, "the table traps; not at run time");
        assert_eq!(self.config.get(0xa0) >> 31, 0, "an entry changes while MSI-X is on");
        let mut table = self.table.borrow_mut();
        assert!(word % 4 == 3 || table[word | 3] & 1 == 1, "an entry changes unmasked");
        table[word] = value;
    }
}

impl Registers for Bar {
    fn read(&self, offset: u32) -> u32 {
        match self {
            Self::Registers(device) => device.read(offset),
            Self::Table(device) => device.read_table(offset),
        }
    }

    fn write(&self, offset: u32, value: u32) {
        match self {
            Self::Registers(device) => device.write(offset, value),
            Self::Table(device) => device.write_table(offset, value),
        }
    }
}
