//! A configuration space with one NIC in it, for tests: the 82574's layout, with
//! the rules that hardware has and drivers forget.

use std::cell::RefCell;

use crate::pci::{Address, Command, ConfigSpace, Function};

/// The modelled function's place.
pub(super) const PLACE: Address = Address::new(0, 2, 0);

/// Its registers as the firmware door shows them: decoding off, the host's addresses,
/// four capabilities, every error bit of Status set.
const NIC: [(usize, u32); 15] = [
    (0x00, 0x10d3_8086),
    (0x04, 0xf910_0000),
    (0x08, 0x0200_0000),
    (0x10, 0xfeb8_0000),
    (0x14, 0xfeb6_0000),
    (0x18, 0xc041),
    (0x1c, 0xfebb_0000),
    (0x2c, 0xa01f_8086),
    (0x34, 0xc8),
    (0xc8, 0xd001),
    (0xd0, 0xe005),
    (0xe0, 0xa010),
    (0xa0, 0x0004_0011),
    (0xa4, 0x0003),
    (0xa8, 0x2003),
];

/// The space. Asserts that BARs change only while nothing is decoded, and that
/// INTx stays off once it is.
pub struct Model(RefCell<State>);

struct State {
    words: [u32; 64],
    /// Size masks of the six BARs.
    masks: [u32; 6],
    stuck: Option<u8>,
    gone: bool,
}

impl Model {
    /// A space with the NIC in it.
    pub fn nic() -> Self {
        let mut words = [0; 64];
        for (register, value) in NIC {
            words[register / 4] = value;
        }
        let masks = [0xfffe_0000, 0xfffe_0000, 0xffff_ffe0, 0xffff_c000, 0, 0];
        Self(RefCell::new(State { words, masks, stuck: None, gone: false }))
    }

    /// The function.
    pub fn function(&self) -> Function<&Self> {
        Function::new(self, PLACE)
    }

    /// A register.
    pub fn get(&self, register: u8) -> u32 {
        self.0.borrow().words[usize::from(register) / 4]
    }

    /// Sets a register to what no write could.
    pub fn set(&self, register: u8, value: u32) {
        self.0.borrow_mut().words[usize::from(register) / 4] = value;
    }

    /// The Status register.
    pub fn status(&self) -> u16 {
        (self.get(4) >> 16) as u16
    }

    /// The address in a BAR, of 64 bits where its type says so.
    pub fn bar(&self, index: u8) -> u64 {
        let low = self.get(0x10 + 4 * index);
        let high = if low & 0b110 == 0b100 { self.get(0x14 + 4 * index) } else { 0 };
        u64::from(high) << 32 | u64::from(low & !0xf)
    }

    /// Puts an address into a BAR.
    pub fn set_bar(&self, index: u8, address: u32) {
        self.set(0x10 + 4 * index, address);
    }

    /// Which bits of a BAR can be written.
    pub fn set_mask(&self, index: usize, mask: u32) {
        self.0.borrow_mut().masks[index] = mask;
    }

    /// What a BAR says of itself in its lowest bits.
    pub fn set_type(&self, index: u8, kind: u32) {
        let register = 0x10 + 4 * index;
        self.set(register, self.get(register) & !7 | kind);
    }

    /// Makes a BAR one of 64 bits, above 4 GiB.
    pub fn make_wide(&self, index: u8) {
        self.set_type(index, 0b100);
        self.set(0x14 + 4 * index, 0x38);
        self.set_mask(usize::from(index) + 1, u32::MAX);
    }

    /// Makes a BAR keep its address.
    pub fn stick(&self, index: u8) {
        self.0.borrow_mut().stuck = Some(index);
    }

    /// From now on nothing answers.
    pub fn vanish(&self) {
        self.0.borrow_mut().gone = true;
    }

    /// Whether nothing answers.
    pub fn gone(&self) -> bool {
        self.0.borrow().gone
    }
}

impl ConfigSpace for Model {
    fn read(&self, address: Address, register: u8) -> u32 {
        assert!(register.is_multiple_of(4), "register {register:#x}");
        let state = self.0.borrow();
        if address != PLACE || state.gone {
            return u32::MAX;
        }
        state.words[usize::from(register) / 4]
    }

    fn write(&self, address: Address, register: u8, value: u32) {
        assert!(register.is_multiple_of(4), "register {register:#x}");
        let mut state = self.0.borrow_mut();
        if address != PLACE || state.gone {
            return;
        }
        match register {
            0x04 => {
                let intx = u32::from(Command::INTX_DISABLE.bits());
                assert!(value & intx != 0, "a Command write brings INTx back");
                // Status bits are cleared by ones.
                let status = state.words[1] & !(value & 0xf900_0000) & 0xffff_0000;
                state.words[1] = status | value & 0xffff;
            }
            0x10..0x28 => {
                let decoding = u32::from((Command::IO | Command::MEMORY).bits());
                assert!(state.words[1] & decoding == 0, "a BAR changed while it was decoded");
                let index = (register - 0x10) / 4;
                if state.stuck == Some(index) && value != u32::MAX {
                    return;
                }
                let mask = state.masks[usize::from(index)];
                let upper = index > 0 && state.words[usize::from(register) / 4 - 1] & 7 == 0b100;
                let kind = if upper { 0 } else { state.words[usize::from(register) / 4] & 0xf };
                state.words[usize::from(register) / 4] = value & mask | kind;
            }
            0xa0 => {
                state.words[0xa0 / 4] = value & 0xc000_0000 | state.words[0xa0 / 4] & 0x3fff_ffff
            }
            _ => {}
        }
    }
}
