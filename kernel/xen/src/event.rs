//! Event channels.

/// A port of our own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct EventPort(pub u32);

/// A port as another domain names it: an allegation until Xen has bound it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RemotePort(pub u32);
