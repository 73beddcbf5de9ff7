//! The backend's state machine: one total function, [`next`], from what is to what
//! is to be done about it. It takes one step; whoever calls it carries the step out,
//! publishes the new state and asks again, until the answer is to wait.
//!
//! ```text
//!                     ┌────────────────── theirs 1, online ───────────────────┐
//!                     ▼                                                       │
//!   Initialising → InitWait ── theirs 4 → Connected ─ theirs 7 → Reconfigured │
//!        1           2                       4                       8        │
//!        │           │                       ├───────────────────────┘        │
//!        │           │ theirs 5, 6 or gone   │ theirs 1, 5, 6 or gone         │
//!        │           │ or stop               │ or stop                        │
//!        │           ▼                       ▼                                │
//!        └───────▶ Closing 5 ── theirs no longer connected ─▶ Closed 6 ───────┘
//!                                                                │ offline
//!                                                                ▼
//!                                                            (removed)
//! ```
//!
//! The numbers are xenbus's. *Gone* is a state that is missing, unreadable or 0: the
//! guest or the toolstack removed the directory (X-10, L-4). *Offline* is `online=0`
//! in our directory, *stop* a state 5 that the toolstack wrote there (X-11), or our
//! own wish to shut down or to refuse the vif. A state that is not a number says
//! nothing and changes nothing (X-12).
//!
//! A frontend that says 7 has changed what it may change while packets flow, or is about
//! to, and waits for our 8, which stays when it goes back to 4, as with Linux (P-23).
//!
//! Closing always passes through 5, where nothing is connected any more, so that a
//! frontend that waits for 5 sees it (X-6); 6 is published only when the frontend
//! cannot be using the rings; the directory goes only after 6, and only when the
//! toolstack has said that the device is not to come back (L-6).

use xen::store;

/// Our state, as we last published it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ours {
    /// The toolstack made the directory; nothing of ours is in it.
    Initialising,
    /// Features are advertised; the frontend may write its keys.
    InitWait,
    /// Packets flow.
    Connected,
    /// They do, as the frontend has changed it meanwhile.
    Reconfigured,
    /// Nothing flows and nothing is mapped.
    Closing,
    /// Both sides are done.
    Closed,
}

impl Ours {
    /// Xenbus's number for it.
    pub const fn number(self) -> u8 {
        match self {
            Self::Initialising => 1,
            Self::InitWait => 2,
            Self::Connected => 4,
            Self::Reconfigured => 8,
            Self::Closing => 5,
            Self::Closed => 6,
        }
    }

    /// What to believe of a directory that is new to us. Whatever an earlier
    /// incarnation had advertised or connected (2, 4, …) is no more.
    pub fn adopt(own_state: &[u8]) -> Self {
        match own_state {
            b"5" => Self::Closing,
            b"6" => Self::Closed,
            _ => Self::Initialising,
        }
    }
}

/// The frontend's state, as its node says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Theirs {
    /// 0.
    Unknown,
    /// 1: started, or started again.
    Initialising,
    /// 2.
    InitWait,
    /// 3.
    Initialised,
    /// 4: its keys are written.
    Connected,
    /// 5.
    Closing,
    /// 6.
    Closed,
    /// 7.
    Reconfiguring,
    /// 8.
    Reconfigured,
    /// There is no such node.
    Missing,
    /// There may be one, but not for us: so a directory looks that was removed.
    Unreadable,
    /// The node holds none of xenbus's numbers.
    Garbage,
}

impl Theirs {
    /// Reads the node's value.
    pub fn read(value: &Result<alloc::vec::Vec<u8>, store::Error>) -> Self {
        match value.as_deref() {
            Ok(b"0") => Self::Unknown,
            Ok(b"1") => Self::Initialising,
            Ok(b"2") => Self::InitWait,
            Ok(b"3") => Self::Initialised,
            Ok(b"4") => Self::Connected,
            Ok(b"5") => Self::Closing,
            Ok(b"6") => Self::Closed,
            Ok(b"7") => Self::Reconfiguring,
            Ok(b"8") => Self::Reconfigured,
            Ok(_) => Self::Garbage,
            Err(store::Error::NotFound) => Self::Missing,
            Err(store::Error::Denied) => Self::Unreadable,
            Err(_) => Self::Garbage,
        }
    }

    /// Nobody is there to answer (X-10).
    const fn is_gone(self) -> bool {
        matches!(self, Self::Unknown | Self::Missing | Self::Unreadable)
    }
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Nothing, until something changes.
    Wait,
    /// Write the features and publish 2 (X-1, X-9).
    Advertise,
    /// Map rings, bind the port, publish 4 (X-3). Where that fails the next state is
    /// Closing, not Connected.
    Connect,
    /// Publish 8 (P-23).
    Reconfigure,
    /// Undo what is connected, publish 5.
    Close,
    /// Publish 6.
    Finish,
    /// Delete our directory.
    Remove,
}

/// The step to take from `ours`, and the state it leads to.
pub fn next(ours: Ours, theirs: Theirs, online: bool, stop: bool) -> (Ours, Action) {
    let leaving = theirs.is_gone() || matches!(theirs, Theirs::Closing | Theirs::Closed);
    let action = match ours {
        Ours::Initialising if stop || !online || leaving => Action::Close,
        Ours::Initialising => Action::Advertise,

        Ours::InitWait if stop || leaving => Action::Close,
        Ours::InitWait if theirs == Theirs::Connected && online => Action::Connect,
        Ours::InitWait => Action::Wait,

        // 1: the guest crashed and starts again (X-8).
        Ours::Connected | Ours::Reconfigured
            if stop || leaving || theirs == Theirs::Initialising =>
        {
            Action::Close
        }
        Ours::Connected if theirs == Theirs::Reconfiguring => Action::Reconfigure,
        Ours::Connected | Ours::Reconfigured => Action::Wait,

        Ours::Closing => match theirs {
            // It still uses, or may use, what it shares with us: it has to move.
            Theirs::Connected
            | Theirs::Closing
            | Theirs::Reconfiguring
            | Theirs::Reconfigured
            | Theirs::Garbage => Action::Wait,
            _ => Action::Finish,
        },

        Ours::Closed if !online => Action::Remove,
        Ours::Closed if theirs == Theirs::Initialising && !stop => Action::Advertise,
        Ours::Closed => Action::Wait,
    };
    let next = match action {
        Action::Wait | Action::Remove => ours,
        Action::Advertise => Ours::InitWait,
        Action::Connect => Ours::Connected,
        Action::Reconfigure => Ours::Reconfigured,
        Action::Close => Ours::Closing,
        Action::Finish => Ours::Closed,
    };
    (next, action)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: [Ours; 6] = [
        Ours::Initialising,
        Ours::InitWait,
        Ours::Connected,
        Ours::Closing,
        Ours::Closed,
        Ours::Reconfigured,
    ];

    const THEIRS: [Theirs; 12] = [
        Theirs::Unknown,
        Theirs::Initialising,
        Theirs::InitWait,
        Theirs::Initialised,
        Theirs::Connected,
        Theirs::Closing,
        Theirs::Closed,
        Theirs::Reconfiguring,
        Theirs::Reconfigured,
        Theirs::Missing,
        Theirs::Unreadable,
        Theirs::Garbage,
    ];

    /// The whole product. A row is one of our states 1, 2, 4, 5, 6, 8; a column one of
    /// theirs in the order of `THEIRS`; an entry the state to publish, `.` to wait,
    /// `R` to remove.
    #[rustfmt::skip]
    const TABLE: [(bool, bool, [&str; 6]); 4] = [
        // online, no stop        012345678MUG
        (true, false, [/* 1 */   "522225522552",    // X-1, X-4, X-10, X-12
                       /* 2 */   "5...455..55.",    // X-2, X-3, X-4
                       /* 4 */   "55...558.55.",    // X-5, X-6, X-8, P-23
                       /* 5 */   "6666..6..66.",    // X-7
                       /* 6 */   ".2..........",    // X-9
                       /* 8 */   "55...55..55."]),
        // offline: nothing comes up, and 6 is the end (L-6)
        (false, false, [/* 1 */  "555555555555",
                        /* 2 */  "5....55..55.",
                        /* 4 */  "55...558.55.",
                        /* 5 */  "6666..6..66.",
                        /* 6 */  "RRRRRRRRRRRR",
                        /* 8 */  "55...55..55."]),
        // online, stop (X-11): down to 6, and there it stays
        (true, true, [/* 1 */    "555555555555",
                      /* 2 */    "555555555555",
                      /* 4 */    "555555555555",
                      /* 5 */    "6666..6..66.",
                      /* 6 */    "............",
                      /* 8 */    "555555555555"]),
        // offline, stop: a detach
        (false, true, [/* 1 */   "555555555555",
                       /* 2 */   "555555555555",
                       /* 4 */   "555555555555",
                       /* 5 */   "6666..6..66.",
                       /* 6 */   "RRRRRRRRRRRR",
                       /* 8 */   "555555555555"]),
    ];

    fn product() -> impl Iterator<Item = (Ours, Theirs, bool, bool, char)> {
        TABLE.into_iter().flat_map(|(online, stop, rows)| {
            OURS.into_iter().zip(rows).flat_map(move |(ours, row)| {
                assert_eq!(row.len(), THEIRS.len());
                let entries = THEIRS.into_iter().zip(row.chars());
                entries.map(move |(theirs, entry)| (ours, theirs, online, stop, entry))
            })
        })
    }

    #[test]
    fn every_combination() {
        assert_eq!(product().count(), 6 * 12 * 2 * 2);
        for (ours, theirs, online, stop, entry) in product() {
            let expected = match entry {
                '.' => (ours, Action::Wait),
                'R' => (ours, Action::Remove),
                '2' => (Ours::InitWait, Action::Advertise),
                '4' => (Ours::Connected, Action::Connect),
                '5' => (Ours::Closing, Action::Close),
                '6' => (Ours::Closed, Action::Finish),
                '8' => (Ours::Reconfigured, Action::Reconfigure),
                other => panic!("{other} in the table"),
            };
            let found = next(ours, theirs, online, stop);
            assert_eq!(found, expected, "{ours:?}, {theirs:?}, online {online}, stop {stop}");
        }
    }

    /// With nothing else changing, every walk ends within four steps.
    #[test]
    fn walks_end() {
        for (ours, theirs, online, stop, _) in product() {
            let mut state = ours;
            let mut steps = 0;
            loop {
                let (to, action) = next(state, theirs, online, stop);
                match action {
                    Action::Wait | Action::Remove => break,
                    _ => state = to,
                }
                steps += 1;
                assert!(steps <= 4, "{ours:?}, {theirs:?}, online {online}, stop {stop}");
            }
            // What ends in a wait is as it should be for good: asking again tells the same.
            assert_eq!(next(state, theirs, online, stop).0, state);
        }
    }

    /// From anything that may be connected, 6 is reached through 5 alone (X-6), Connected
    /// only from InitWait, and Reconfigured only from Connected, while it is asked for.
    #[test]
    fn no_state_is_skipped() {
        for (ours, theirs, online, stop, _) in product() {
            let (to, _) = next(ours, theirs, online, stop);
            if to == Ours::Closed && ours != Ours::Closed {
                assert_eq!(ours, Ours::Closing);
            }
            if to == Ours::Connected && ours != Ours::Connected {
                assert_eq!(ours, Ours::InitWait);
            }
            if to == Ours::Reconfigured && ours != Ours::Reconfigured {
                assert_eq!((ours, theirs, stop), (Ours::Connected, Theirs::Reconfiguring, false));
            }
        }
    }

    /// The directory goes with state 6 and online=0 and not otherwise (L-6).
    #[test]
    fn removal() {
        for (ours, theirs, online, stop, _) in product() {
            let (_, action) = next(ours, theirs, online, stop);
            assert_eq!(action == Action::Remove, ours == Ours::Closed && !online);
        }
    }

    /// When the guest is gone or done, a stop leads to 6 by itself.
    #[test]
    fn stops_end_closed() {
        for (ours, theirs, online, stop, _) in product() {
            let held_up = matches!(
                theirs,
                Theirs::Connected
                    | Theirs::Closing
                    | Theirs::Reconfiguring
                    | Theirs::Reconfigured
                    | Theirs::Garbage
            );
            if !stop || held_up {
                continue;
            }
            let mut state = ours;
            for _ in 0..3 {
                state = next(state, theirs, online, stop).0;
            }
            assert_eq!(state, Ours::Closed);
        }
    }

    #[test]
    fn values() {
        let read = |text: &[u8]| Theirs::read(&Ok(text.to_vec()));
        for (number, theirs) in THEIRS.into_iter().take(9).enumerate() {
            assert_eq!(read(number.to_string().as_bytes()), theirs);
        }
        for text in ["", "9", "10", "01", " 1", "1 ", "-1", "4294967297", "0x1", "abc", "4\0", "ж"]
        {
            assert_eq!(read(text.as_bytes()), Theirs::Garbage, "{text:?}");
        }
        assert_eq!(Theirs::read(&Err(store::Error::NotFound)), Theirs::Missing);
        assert_eq!(Theirs::read(&Err(store::Error::Denied)), Theirs::Unreadable);
        assert_eq!(Theirs::read(&Err(store::Error::TooLong)), Theirs::Garbage);
        for ours in OURS {
            let text = ours.number().to_string();
            let adopted = match ours {
                Ours::Closing | Ours::Closed => ours,
                _ => Ours::Initialising,
            };
            assert_eq!(Ours::adopt(text.as_bytes()), adopted);
        }
    }
}
