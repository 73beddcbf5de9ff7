//! An 82574 in software: its registers, its interrupts, its DMA. It asserts the
//! rules that the real one leaves to the driver, and misbehaves when told to.
//!
//! Written from the datasheet, not from the driver: numbers stand here as they do
//! there.

mod dma;
mod headers;
mod interrupts;
mod receive;
mod segments;
mod send;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use kernel::memory::{DmaPage, Registers};
use xen::fake::FakeXen;
use xen::{Hypervisor, Instant};

use super::Model;
use super::config::PLACE;
use crate::nic::BufferProvider;
use crate::nic::e1000e::{E1000e, Messages, REGISTERS_BAR, REGISTERS_LEN};
use crate::pci::{Address, Command, ConfigSpace, Function, Message, Msix, WINDOW, assign};

pub use interrupts::{OTHER, QUEUES};
pub use send::Sender;

/// The device's own address.
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
const RXCSUM: u32 = 0x5000;
const RFCTL: u32 = 0x5008;
const RAL: u32 = 0x5400;
const RAH: u32 = 0x5404;
const COUNTERS: Range<u32> = 0x4000..0x4130;

const EN: u32 = 1 << 1;
const LSC: u32 = 1 << 2;
const RXQ0: u32 = 1 << 20;
const TXQ0: u32 = 1 << 22;
const OTHERS: u32 = 1 << 24;

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

/// The device, and what it is connected to.
pub struct Device {
    /// Its configuration space.
    pub config: Model,
    /// What it does wrong now.
    pub faults: Faults,
    /// Vectors of the messages sent.
    pub messages: RefCell<Vec<u8>>,
    /// Frames on the wire.
    pub wire: RefCell<Vec<Vec<u8>>>,
    /// How often it was reset.
    pub resets: Cell<u32>,
    /// Its transmitter.
    pub sender: RefCell<Sender>,
    /// How often a register was read or written.
    pub accesses: Cell<usize>,
    /// RAL and RAH as the NVM has them.
    pub nvm: Cell<[u32; 2]>,
    xen: FakeXen,
    /// Which blocks of our RAM nobody has lent to it.
    out_of_bounds: RefCell<Vec<bool>>,
    /// How often Xen caught it looking where nothing is.
    strikes: Cell<u32>,
    link: Cell<bool>,
    lied: Cell<bool>,
    /// What it says of registers, whatever they are.
    claims: RefCell<HashMap<u32, u32>>,
    registers: RefCell<HashMap<u32, u32>>,
    table: RefCell<[u32; 20]>,
    /// When the last reset began.
    reset: Cell<Option<Instant>>,
}

/// What the device decodes.
#[derive(Clone)]
pub enum Bar {
    /// BAR 0, the registers.
    Registers(Rc<Device>),
    /// BAR 3, the MSI-X table.
    Table(Rc<Device>),
}

impl Device {
    /// A device in `xen`'s machine, whose clock is its clock.
    pub fn new(config: Model, xen: FakeXen) -> Rc<Self> {
        let [a, b, c, d, e, f] = MAC;
        let device = Self {
            config,
            faults: Faults::default(),
            messages: RefCell::default(),
            wire: RefCell::default(),
            resets: Cell::new(0),
            sender: RefCell::default(),
            accesses: Cell::new(0),
            nvm: Cell::new([
                u32::from_le_bytes([a, b, c, d]),
                1 << 31 | u32::from_le_bytes([e, f, 0, 0]),
            ]),
            xen,
            out_of_bounds: RefCell::default(),
            strikes: Cell::new(0),
            link: Cell::new(true),
            lied: Cell::new(false),
            claims: RefCell::default(),
            registers: RefCell::default(),
            table: RefCell::new([0; 20]),
            reset: Cell::new(None),
        };
        // As firmware or a former driver may leave it: receiving.
        device.set(RCTL, EN);
        device.set(IMS, !0);
        device.set(CTRL, 1 << 3 | 1 << 20);
        Rc::new(device)
    }

    /// The driver for it, put together as the image does.
    ///
    /// # Panics
    /// If it does not find the device's parts.
    pub fn driver<B: BufferProvider>(
        self: &Rc<Self>,
        rings: [DmaPage; 2],
        interrupts: bool,
        buffers: B,
    ) -> E1000e<Bar, Rc<Self>, B> {
        let function = Function::new(self.clone(), PLACE);
        let regions = assign(&function, WINDOW, &[]).expect("BARs");
        assert!(regions.iter().any(|r| r.index == REGISTERS_BAR && r.size == REGISTERS_LEN));
        let messages = interrupts.then(|| Messages {
            msix: Msix::find(&function, &regions).expect("MSI-X"),
            table: Bar::Table(self.clone()),
            messages: [QUEUES, OTHER].map(|vector| Message::new(vector, 0).expect("a vector")),
        });
        E1000e::new(function, Bar::Registers(self.clone()), messages, rings, buffers)
    }

    /// A register, without what reading it does.
    pub fn get(&self, register: u32) -> u32 {
        self.registers.borrow().get(&register).copied().unwrap_or(0)
    }

    /// Sets a register, without what writing it does.
    pub fn set(&self, register: u32, value: u32) {
        self.registers.borrow_mut().insert(register, value);
    }

    /// Has every read of a register give a value, whatever else it does, or with none the
    /// truth again.
    pub fn claim(&self, register: u32, value: Option<u32>) {
        let mut claims = self.claims.borrow_mut();
        match value {
            Some(value) => drop(claims.insert(register, value)),
            None => drop(claims.remove(&register)),
        }
    }

    fn count(&self, counter: u32) {
        self.set(counter, self.get(counter) + 1);
    }

    /// The address in a pair of registers.
    fn base(&self, low: u32) -> u64 {
        u64::from(self.get(low + 4)) << 32 | u64::from(self.get(low))
    }

    /// Whether it has written back what was not true, since its last reset.
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
    ///
    /// # Panics
    /// If the configuration space is gone.
    pub fn lose_mastering(&self) {
        let command = Command::BUS_MASTER;
        assert!(self.config.function().change_command(Command::empty(), command));
    }

    /// The cable is plugged in, or pulled.
    pub fn set_link(&self, up: bool) {
        self.link.set(up);
        self.raise(LSC);
    }

    fn reset(&self) {
        assert!(!self.masters(), "a reset with bus mastering on");
        assert!(self.config.function().command().contains(Command::INTX_DISABLE));
        assert_eq!(self.get(IMS), 0, "a reset with interrupts unmasked");
        assert_eq!((self.get(RCTL) | self.get(TCTL)) & EN, 0, "a reset of a running device");
        assert!(self.get(CTRL) & 1 << 2 != 0, "a reset without master disable");
        self.registers.borrow_mut().clear();
        self.sender.take();
        self.lied.set(false);
        self.resets.set(self.resets.get() + 1);
        self.reset.set(Some(self.xen.now()));
        self.set(CTRL, 1 << 3 | 1 << 20);
        self.set(TCTL, 0x3003_f008 & !EN);
        self.set(ICR, LSC);
    }

    /// Whether a reset is still under way. Nothing may be touched for its first
    /// microsecond (10.2.2.1).
    fn resetting(&self) -> bool {
        let Some(since) = self.reset.get() else { return false };
        let waited = self.xen.now().since(since);
        assert!(waited >= Duration::from_micros(1), "touched {waited:?} after a reset");
        self.faults.stuck_reset.get() || waited < Duration::from_millis(1)
    }

    /// Whether the NVM has been read since (EEC, Auto Read Done).
    fn loaded(&self) -> bool {
        let read = |since| self.xen.now().since(since) >= Duration::from_millis(3);
        !self.resetting() && self.reset.get().is_some_and(read)
    }
}

impl Device {
    /// What a read gives: what it claims, or the truth.
    fn read_register(&self, offset: u32) -> u32 {
        let value = self.look_at_register(offset);
        self.claims.borrow().get(&offset).copied().unwrap_or(value)
    }

    fn look_at_register(&self, offset: u32) -> u32 {
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

    fn write_register(&self, offset: u32, value: u32) {
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
}

// Never inlined, so that a profile tells the device from its driver.
impl Registers for Bar {
    #[inline(never)]
    fn read(&self, offset: u32) -> u32 {
        match self {
            Self::Registers(device) => device.read_register(offset),
            Self::Table(device) => device.read_table(offset),
        }
    }

    #[inline(never)]
    fn write(&self, offset: u32, value: u32) {
        match self {
            Self::Registers(device) => device.write_register(offset, value),
            Self::Table(device) => device.write_table(offset, value),
        }
    }
}

impl ConfigSpace for Rc<Device> {
    fn read(&self, address: Address, register: u8) -> u32 {
        self.config.read(address, register)
    }

    fn write(&self, address: Address, register: u8, value: u32) {
        self.config.write(address, register, value);
    }
}
