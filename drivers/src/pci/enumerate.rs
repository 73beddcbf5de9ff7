//! What is there.

use super::{Address, ConfigSpace, Function, Identity};

/// Header type, in the third byte of the word here (PCI Local Bus 3.0, 6.1).
const HEADER: u8 = 0x0c;
const BRIDGE: u32 = 1;
/// Primary, secondary and subordinate bus of a bridge.
const BUSES: u8 = 0x18;

/// The most functions looked for.
const MOST_FUNCTIONS: usize = 64;

/// A function found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// Where.
    pub address: Address,
    /// What.
    pub identity: Identity,
}

/// The first function that is `wanted`, on bus 0 or behind its bridges. At most 64
/// functions are looked at, and each bus once, however the bridges are joined. Each
/// look is an exit to the device model, so there are no more than it takes.
pub fn find<C: ConfigSpace>(config: &C, mut wanted: impl FnMut(&Found) -> bool) -> Option<Found> {
    let mut looked_at = 0;
    let mut seen = [false; 256];
    seen[0] = true;
    let mut buses = heapless::Deque::<u8, 256>::new();
    // Each bus enters at most once, so there is always room.
    let _ = buses.push_back(0);
    while let Some(bus) = buses.pop_front() {
        for device in 0..32 {
            for number in 0..8 {
                let function = Function::new(config, Address::new(bus, device, number));
                let Some(identity) = function.identity() else {
                    if number == 0 {
                        break;
                    }
                    continue;
                };
                let found = Found { address: function.address(), identity };
                if wanted(&found) {
                    return Some(found);
                }
                looked_at += 1;
                if looked_at == MOST_FUNCTIONS {
                    return None;
                }
                let header = function.read(HEADER) >> 16;
                if header & 0x7f == BRIDGE {
                    let secondary = (function.read(BUSES) >> 8) as u8;
                    if !core::mem::replace(&mut seen[usize::from(secondary)], true) {
                        let _ = buses.push_back(secondary);
                    }
                }
                if number == 0 && header & 0x80 == 0 {
                    break;
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::string::ToString;
    use std::vec::Vec;

    use super::*;

    /// Answers every address by a rule.
    struct Rule<F>(F);

    impl<F: Fn(Address, u8) -> u32> ConfigSpace for Rule<F> {
        fn read(&self, address: Address, register: u8) -> u32 {
            (self.0)(address, register)
        }

        fn write(&self, _: Address, _: u8, _: u32) {}
    }

    fn functions(config: &impl ConfigSpace) -> Vec<Found> {
        let mut all = Vec::new();
        let found = find(config, |found| {
            all.push(*found);
            false
        });
        assert_eq!(found, None);
        all
    }

    fn names(found: &[Found]) -> Vec<std::string::String> {
        found.iter().map(|found| found.address.to_string()).collect()
    }

    #[test]
    fn functions_are_found_behind_bridges_that_loop() {
        let config = Rule(|address: Address, register| {
            // 00:00.1 is function 0 again: the device has but one and looks at no more.
            let there = ["00:00.0", "00:00.1", "00:02.0", "00:02.3", "00:05.0", "03:00.0"];
            let name = address.to_string();
            if !there.contains(&name.as_str()) {
                return u32::MAX;
            }
            match (name.as_str(), register) {
                (_, 0x00) => 0x1234_8086,
                ("00:02.0", HEADER) => 0x0080_0000,
                ("00:05.0" | "03:00.0", HEADER) => 0x0001_0000,
                ("00:05.0", BUSES) => 0x0003_0300,
                ("03:00.0", BUSES) => 0x0000_0003,
                _ => 0,
            }
        });
        let second = find(&config, |found| found.address.device == 2).unwrap();
        assert_eq!(second.address.to_string(), "00:02.0", "the first that is wanted");
        let found = functions(&config);
        assert_eq!(names(&found), ["00:00.0", "00:02.0", "00:02.3", "00:05.0", "03:00.0"]);
    }

    #[test]
    fn a_space_that_answers_everywhere_ends() {
        let everywhere = Rule(|_, register| if register == HEADER { 0x0081_0000 } else { 0x1111 });
        assert_eq!(functions(&everywhere).len(), MOST_FUNCTIONS);
        let nowhere = Rule(|_, _| u32::MAX);
        assert!(functions(&nowhere).is_empty());
    }
}
