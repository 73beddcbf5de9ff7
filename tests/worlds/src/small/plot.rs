//! What can happen in a small world.

use std::time::Duration;

use kernel::switch::Holding;
use xen::fake::Kind;

/// A guest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Who {
    /// It sends.
    A,
    /// It receives.
    B,
}

/// To whom a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum To {
    /// To everybody: B and the wire.
    All,
    /// To B.
    B,
    /// To an address that nobody knows: B and the wire.
    Stranger,
    /// To bridges: the domain itself, and nobody else.
    Bridges,
}

/// How a guest's device ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The guest is destroyed.
    Death,
    /// Its driver goes, and the guest lives on.
    Close,
}

/// Packets enough for all that the plots send, and their clones.
pub const POOL: usize = 8;

/// Who does what in a small world, and how often. In which order is open.
#[derive(Clone, Debug)]
pub struct Plot {
    /// What A sends: to whom, and in pieces of which lengths.
    pub packets: Vec<(To, Vec<u16>)>,
    /// How many pages B offers, one at a time.
    pub offers: usize,
    /// How the NIC holds lent pages.
    pub holding: Holding,
    /// How many descriptors the NIC has.
    pub descriptors: usize,
    /// How often the NIC stalls, and is reset.
    pub stalls: usize,
    /// How often a tenth of a second passes.
    pub waits: usize,
    /// How often ten seconds pass.
    pub droughts: usize,
    /// How many pages A takes away while they are lent.
    pub revocations: usize,
    /// How often A writes other bytes to the pages that it lends.
    pub edits: usize,
    /// Which operations Xen may refuse, rings' maps left out, and how many in all.
    pub refusals: (Vec<Kind>, usize),
    /// Which ends there may be, one of them at most.
    pub ends: Vec<(Who, End)>,
    /// Whether who ended comes back.
    pub returns: bool,
    /// How many packets can be on their way at once.
    pub pool: usize,
    /// How many pages can be mapped beside the rings'.
    pub frames: usize,
}

impl Default for Plot {
    /// A broadcast in two pages, of which B and the NIC have a part each, and a packet
    /// for B: three pages lent, room for all, and nothing that disturbs.
    fn default() -> Self {
        Self {
            packets: vec![(To::All, vec![300, 400]), (To::B, vec![500])],
            offers: 2,
            holding: Holding::Mapped(Duration::from_secs(4)),
            descriptors: 6,
            stalls: 0,
            waits: 0,
            droughts: 0,
            revocations: 0,
            edits: 0,
            refusals: (vec![], 0),
            ends: vec![],
            returns: false,
            pool: POOL,
            frames: 4,
        }
    }
}

impl Plot {
    /// Whether everything that is sent has to arrive, if there is room for it.
    pub(super) fn is_calm(&self) -> bool {
        let waits = self.waits + self.droughts;
        let disturbances = [self.stalls, waits, self.revocations, self.refusals.1];
        disturbances == [0; 4] && self.ends.is_empty() && self.pool >= POOL
    }
}

/// What can happen next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// The domain takes a turn.
    Turn,
    /// A sends its next packet.
    Send,
    /// B offers a page.
    Offer,
    /// The NIC sends the oldest packet that it has.
    Complete,
    /// The NIC's driver finds that it does not get on.
    Stall,
    /// A tenth of a second passes: what is borrowed is copied.
    Wait,
    /// Ten seconds pass: who does not receive has no carrier.
    Drought,
    /// A takes away the oldest page that it lends.
    Revoke,
    /// A writes other bytes to the pages that it lends, and the domain has seen.
    Edit,
    /// Xen refuses the next operation of a kind.
    Refuse(Kind),
    /// A guest's device ends.
    End(Who, End),
    /// The control plane takes a vif apart, or goes on with it.
    Disconnect(Who),
    /// The same, after 5 s of it.
    Force(Who),
    /// A guest's device connects again: of the same guest, if that lives.
    Connect(Who),
}

/// What is left of a plot.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) offers: usize,
    pub(super) stalls: usize,
    pub(super) waits: usize,
    pub(super) droughts: usize,
    pub(super) revocations: usize,
    pub(super) edits: usize,
    pub(super) refusals: usize,
    pub(super) ends: usize,
    pub(super) returns: usize,
}

impl Left {
    pub(super) fn of(plot: &Plot) -> Self {
        Self {
            offers: plot.offers,
            stalls: plot.stalls,
            waits: plot.waits,
            droughts: plot.droughts,
            revocations: plot.revocations,
            edits: plot.edits,
            refusals: plot.refusals.1,
            ends: usize::from(!plot.ends.is_empty()),
            returns: plot.returns.into(),
        }
    }
}
