//! Ethernet addresses.

use core::fmt;
use core::str::FromStr;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// All stations.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// The address made of `bytes`, in the order of the wire.
    pub const fn new(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }

    /// The bytes, in the order of the wire.
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }

    /// Whether it names a group of stations; the broadcast address does.
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether it names one station: neither a group nor zero, which names none.
    pub fn is_unicast(self) -> bool {
        !self.is_multicast() && self.0 != [0; 6]
    }

    /// Whether it is one of the sixteen group addresses for a bridge's own
    /// protocols, which no bridge forwards (IEEE 802.1Q, table 8-1).
    pub fn is_reserved(self) -> bool {
        self.0[..5] == [0x01, 0x80, 0xc2, 0x00, 0x00] && self.0[5] < 0x10
    }

    /// The address as a number.
    pub const fn to_u64(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|byte| write!(f, ":{byte:02x}"))
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not six bytes in hexadecimal, two digits each, between colons.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MalformedMac;

impl fmt::Display for MalformedMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an Ethernet address such as 00:16:3e:01:02:03")
    }
}

impl FromStr for MacAddress {
    type Err = MalformedMac;

    fn from_str(text: &str) -> Result<Self, MalformedMac> {
        let mut parts = text.split(':');
        let mut bytes = [0; 6];
        for byte in &mut bytes {
            let part = parts.next().ok_or(MalformedMac)?;
            // `from_str_radix` would also take a sign.
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(MalformedMac);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| MalformedMac)?;
        }
        parts.next().map_or(Ok(Self(bytes)), |_| Err(MalformedMac))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_must_be_six_pairs_of_digits() {
        assert_eq!(
            "00:16:3e:0A:b2:ff".parse(),
            Ok(MacAddress::new([0x00, 0x16, 0x3e, 0x0a, 0xb2, 0xff]))
        );
        for text in [
            "",
            ":",
            "00",
            "00:16:3e:01:02",
            "00:16:3e:01:02:",
            "00:16:3e:01:02:03:",
            "00:16:3e:01:02:03:04",
            "0:16:3e:01:02:03",
            "000:16:3e:01:02:03",
            "+1:16:3e:01:02:03",
            "00-16-3e-01-02-03",
            "00:16:3e:01:02:0g",
            " 00:16:3e:01:02:03",
            "00:16:3e:01:02:é",
        ] {
            assert_eq!(text.parse::<MacAddress>(), Err(MalformedMac), "{text:?}");
        }
    }

    #[test]
    fn kinds_of_addresses() {
        let kinds = |bytes| {
            let address = MacAddress::new(bytes);
            (address.is_unicast(), address.is_multicast(), address.is_reserved())
        };
        assert_eq!(kinds([0, 0x16, 0x3e, 0, 0, 1]), (true, false, false));
        assert_eq!(kinds([0; 6]), (false, false, false));
        assert_eq!(kinds([0xff; 6]), (false, true, false));
        assert_eq!(kinds([0x01, 0x80, 0xc2, 0, 0, 0x00]), (false, true, true));
        assert_eq!(kinds([0x01, 0x80, 0xc2, 0, 0, 0x0f]), (false, true, true));
        assert_eq!(kinds([0x01, 0x80, 0xc2, 0, 0, 0x10]), (false, true, false));
        assert_eq!(kinds([0x01, 0x80, 0xc2, 0, 1, 0x00]), (false, true, false));
    }

    proptest! {
        #[test]
        fn display_and_parse_agree(bytes: [u8; 6]) {
            let address = MacAddress::new(bytes);
            prop_assert_eq!(address.to_string().parse(), Ok(address));
            prop_assert_eq!(address.to_u64().to_be_bytes()[2..].to_vec(), bytes.to_vec());
        }
    }
}
