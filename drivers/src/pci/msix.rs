//! MSI-X (PCI Local Bus 3.0, 6.8.2), behind xen-pt: the table traps to the device
//! model, so it is written here and never at run time.

use core::fmt;

use kernel::memory::Registers;

use super::{ConfigSpace, Function, Region};

const CAPABILITY: u8 = 0x11;
/// Message Control, in the upper half of the capability's first word.
const ENABLE: u32 = 1 << 31;
const FUNCTION_MASK: u32 = 1 << 30;
const TABLE: u8 = 0x04;
const PENDING: u8 = 0x08;

const ENTRY: u32 = 16;
const ENTRY_ADDRESS: u32 = 0;
const ENTRY_ADDRESS_HIGH: u32 = 4;
const ENTRY_DATA: u32 = 8;
const ENTRY_CONTROL: u32 = 12;
const MASKED: u32 = 1;

/// Where messages to LAPICs go (Intel SDM volume 3, 11.11.1).
const LAPICS: u32 = 0xfee0_0000;

/// An interrupt message: a fixed, edge-triggered vector for one LAPIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    vector: u8,
    lapic: u8,
}

impl Message {
    /// A message raising `vector` at the LAPIC with id `lapic`. `None` for vectors
    /// below 16, which a LAPIC refuses and of which the device model takes 0 for
    /// an event channel (NETBACK-SPEC C-4).
    pub const fn new(vector: u8, lapic: u8) -> Option<Self> {
        if vector < 16 { None } else { Some(Self { vector, lapic }) }
    }

    /// The vector.
    pub const fn vector(self) -> u8 {
        self.vector
    }
}

/// A function's MSI-X.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Msix {
    capability: u8,
    /// The BAR that the table is in.
    pub bar: u8,
    offset: u32,
    entries: u16,
}

/// Why MSI-X cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MsixError {
    /// The function has none.
    Missing,
    /// The table or the pending bits are outside every memory BAR.
    Misplaced {
        /// Where the table should be: BAR in the low three bits.
        table: u32,
        /// Where the pending bits should be, likewise.
        pending: u32,
    },
    /// There are fewer entries than are needed.
    TooFew {
        /// How many there are.
        entries: u16,
    },
    /// An entry does not hold what was written.
    NotAccepted {
        /// Which.
        entry: u16,
    },
    /// It cannot be switched.
    Stuck,
}

impl fmt::Display for MsixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Missing => write!(f, "there is no MSI-X capability"),
            Self::Misplaced { table, pending } => write!(
                f,
                "the MSI-X table ({table:#x}) or its pending bits ({pending:#x}) are in no BAR"
            ),
            Self::TooFew { entries } => write!(f, "the MSI-X table has only {entries} entries"),
            Self::NotAccepted { entry } => write!(f, "MSI-X entry {entry} did not take a message"),
            Self::Stuck => write!(f, "MSI-X cannot be switched"),
        }
    }
}

impl core::error::Error for MsixError {}

impl Msix {
    /// The function's MSI-X, its table inside one of `regions`.
    pub fn find<C: ConfigSpace>(
        function: &Function<C>,
        regions: &[Region],
    ) -> Result<Self, MsixError> {
        let capability = function.capability(CAPABILITY).ok_or(MsixError::Missing)?;
        // All of the capability's registers are inside configuration space.
        let pending_at = capability.checked_add(PENDING).ok_or(MsixError::Missing)?;
        let entries = (function.read(capability) >> 16 & 0x7ff) as u16 + 1;
        let (table, pending) = (function.read(capability + TABLE), function.read(pending_at));
        let (bar, offset) = (table as u8 & 7, table & !7);
        let pending_bytes = u64::from(entries).div_ceil(64) * 8;
        if !fits(regions, bar, offset, u64::from(entries) * u64::from(ENTRY))
            || !fits(regions, pending as u8 & 7, pending & !7, pending_bytes)
        {
            return Err(MsixError::Misplaced { table, pending });
        }
        Ok(Self { capability, bar, offset, entries })
    }

    /// Fills the table's first entries with `messages`, each while masked, and
    /// unmasks them. MSI-X is off meanwhile, and on afterwards. `table` are the
    /// registers of the BAR that the table is in.
    pub fn enable<C: ConfigSpace, R: Registers>(
        &self,
        function: &Function<C>,
        table: &R,
        messages: &[Message],
    ) -> Result<(), MsixError> {
        if messages.len() > usize::from(self.entries) {
            return Err(MsixError::TooFew { entries: self.entries });
        }
        self.disable(function)?;
        for (entry, message) in (0..).zip(messages) {
            self.fill(table, entry, *message)?;
        }
        self.switch(function, ENABLE)
    }

    /// Switches MSI-X off.
    pub fn disable<C: ConfigSpace>(&self, function: &Function<C>) -> Result<(), MsixError> {
        self.switch(function, 0)
    }

    fn fill<R: Registers>(&self, table: &R, entry: u16, message: Message) -> Result<(), MsixError> {
        let at = self.offset + u32::from(entry) * ENTRY;
        let address = LAPICS | u32::from(message.lapic) << 12;
        let data = u32::from(message.vector);
        table.write(at + ENTRY_CONTROL, MASKED);
        table.write(at + ENTRY_ADDRESS, address);
        table.write(at + ENTRY_ADDRESS_HIGH, 0);
        table.write(at + ENTRY_DATA, data);
        let taken = table.read(at + ENTRY_ADDRESS) == address
            && table.read(at + ENTRY_ADDRESS_HIGH) == 0
            && table.read(at + ENTRY_DATA) == data;
        if !taken {
            return Err(MsixError::NotAccepted { entry });
        }
        table.write(at + ENTRY_CONTROL, 0);
        Ok(())
    }

    fn switch<C: ConfigSpace>(&self, function: &Function<C>, on: u32) -> Result<(), MsixError> {
        let bits = ENABLE | FUNCTION_MASK;
        function.write(self.capability, function.read(self.capability) & !bits | on);
        match function.read(self.capability) & bits == on {
            true => Ok(()),
            false => Err(MsixError::Stuck),
        }
    }
}

fn fits(regions: &[Region], bar: u8, offset: u32, bytes: u64) -> bool {
    let end = u64::from(offset) + bytes;
    regions.iter().any(|region| region.index == bar && end <= region.size)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::vec::Vec;

    use super::*;
    use crate::fake::Model;
    use crate::pci::{WINDOW, assign};

    struct Table {
        words: RefCell<Vec<u32>>,
        deaf: bool,
    }

    impl Table {
        fn new() -> Self {
            Self { words: RefCell::new(std::vec![0; 0x1000]), deaf: false }
        }
    }

    impl Registers for Table {
        fn read(&self, offset: u32) -> u32 {
            self.words.borrow()[offset as usize / 4]
        }

        fn write(&self, offset: u32, value: u32) {
            let mut words = self.words.borrow_mut();
            let word = offset as usize / 4;
            let control = word | 3;
            let masked = word == control || words[control] & MASKED != 0;
            assert!(masked, "an entry changed while it was not masked");
            if word == control || !self.deaf {
                words[word] = value;
            }
        }
    }

    fn messages() -> [Message; 2] {
        [Message::new(0x40, 3).unwrap(), Message::new(0x41, 3).unwrap()]
    }

    #[test]
    fn entries_are_filled_masked_and_then_enabled() {
        let (model, table) = (Model::nic(), Table::new());
        let function = model.function();
        let regions = assign(&function, WINDOW, &[]).unwrap();
        let msix = Msix::find(&function, &regions).unwrap();
        assert_eq!(msix.bar, 3);
        msix.enable(&function, &table, &messages()).unwrap();
        let words = table.words.borrow();
        assert_eq!(words[..8], [0xfee0_3000, 0, 0x40, 0, 0xfee0_3000, 0, 0x41, 0]);
        assert_eq!(model.get(0xa0) >> 30, 0b10, "enabled, not masked as a whole");
        msix.disable(&function).unwrap();
        assert_eq!(model.get(0xa0) >> 30, 0);
    }

    #[test]
    fn small_vectors_do_not_exist() {
        assert_eq!(Message::new(0, 0), None);
        assert_eq!(Message::new(15, 0), None);
        assert_eq!(Message::new(16, 0).map(Message::vector), Some(16));
    }

    #[test]
    fn bad_tables_are_refused() {
        let model = Model::nic();
        let function = model.function();
        let regions = assign(&function, WINDOW, &[]).unwrap();
        let find = || Msix::find(&function, &regions);
        let table = model.get(0xa4);
        for bad in [0x3ff8 | 3, 2, 4, 7, 0xffff_fff8 | 3] {
            model.set(0xa4, bad);
            assert!(matches!(find(), Err(MsixError::Misplaced { .. })), "{bad:#x}");
        }
        model.set(0xa4, table);
        model.set(0xa8, 0xffff_ffff);
        assert!(matches!(find(), Err(MsixError::Misplaced { .. })));
        model.set(0xa8, 0x2003);
        model.set(0xa0, 0x0000_0011);
        let one = find().unwrap();
        let few = one.enable(&function, &Table::new(), &messages());
        assert_eq!(few, Err(MsixError::TooFew { entries: 1 }));
        let deaf = Table { deaf: true, ..Table::new() };
        let refused = one.enable(&function, &deaf, &messages()[..1]);
        assert_eq!(refused, Err(MsixError::NotAccepted { entry: 0 }));
        assert_eq!(model.get(0xa0) >> 31, 0, "off after a refusal");
        model.vanish();
        assert_eq!(find(), Err(MsixError::Missing));
        assert_eq!(one.disable(&function), Err(MsixError::Stuck));
    }
}
