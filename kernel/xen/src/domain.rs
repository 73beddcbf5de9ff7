//! Who is who on a host.

use core::fmt;

/// A domain's number, unique among the living.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct DomainId(pub u16);

impl DomainId {
    /// The calling domain, in hypercall arguments (`DOMID_SELF`).
    pub const SELF: Self = Self(Self::FIRST_RESERVED);
    /// The control domain, where the toolstack lives.
    pub const ZERO: Self = Self(0);
    /// The first number that no domain can have (`DOMID_FIRST_RESERVED`, xen.h).
    const FIRST_RESERVED: u16 = 0x7ff0;

    /// Takes a number that a peer named; `None` where no domain can have it.
    pub const fn checked(number: u32) -> Option<Self> {
        if number < Self::FIRST_RESERVED as u32 { Some(Self(number as u16)) } else { None }
    }
}

impl fmt::Display for DomainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "d{}", self.0)
    }
}
