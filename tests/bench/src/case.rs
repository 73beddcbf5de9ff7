//! What is measured.

/// From where to where packets go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Path {
    /// From one guest to another, beside others who are silent.
    Guests,
    /// From one guest to another, a different pair in each round.
    Pairs,
    /// From one guest to all others.
    Flood,
    /// From a guest to stations behind the NIC.
    ToWire,
    /// From a station behind the NIC to a guest.
    FromWire,
}

impl Path {
    /// As it is called in results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Guests => "guests",
            Self::Pairs => "pairs",
            Self::Flood => "flood",
            Self::ToWire => "to-wire",
            Self::FromWire => "from-wire",
        }
    }
}

/// One measurement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Case {
    /// The packets' way.
    pub path: Path,
    /// The length of a frame in bytes, without its check sequence.
    pub len: usize,
    /// How many packets there are at once.
    pub batch: usize,
    /// How many vifs there are.
    pub vifs: usize,
    /// How many stations are known behind the NIC, and sent to in turn.
    pub stations: usize,
    /// How many vCPUs the domain has.
    pub vcpus: usize,
    /// How many queues each vif has, used in turn.
    pub queues: usize,
}

impl Case {
    /// As it is called in results.
    pub fn name(&self) -> String {
        let Self { path, len, batch, vifs, stations, vcpus, queues } = self;
        let several = if *vcpus > 1 { format!("-vcpus{vcpus}-queues{queues}") } else { "".into() };
        format!("{}-{len}B-batch{batch}-vifs{vifs}-stations{stations}{several}", path.name())
    }
}

/// How many vifs, or addresses, growth is looked at with. The last is as many addresses as
/// are learnt behind the NIC.
const GROWTH: [usize; 4] = [2, 10, 100, 1000];

/// What the others differ from.
const ONE: Case =
    Case { path: Path::Guests, len: 60, batch: 8, vifs: 2, stations: 1, vcpus: 1, queues: 1 };

/// What is measured of several vCPUs: eight packets at once for each, of vifs whose queues
/// are spread over all; and of vifs that are elsewhere than where the packets come from or go.
pub fn cases_of_several_vcpus() -> Vec<Case> {
    let mut cases = Vec::new();
    for len in [60, 1514] {
        for vcpus in [1, 2, 4] {
            cases.push(Case { len, vcpus, queues: vcpus, batch: 8 * vcpus, ..ONE });
        }
        for path in [Path::Guests, Path::ToWire, Path::FromWire] {
            cases.push(Case { path, len, vcpus: 2, ..ONE });
        }
    }
    cases
}

/// All that is measured.
pub fn cases() -> Vec<Case> {
    let few = [(Path::Guests, 2), (Path::Flood, 9), (Path::ToWire, 2), (Path::FromWire, 2)];
    let mut cases = Vec::new();
    for (path, vifs) in few {
        for len in [60, 1514] {
            for batch in [1, 8, 32] {
                cases.push(Case { path, len, batch, vifs, ..ONE });
            }
        }
    }
    for path in [Path::Guests, Path::Pairs] {
        let grown = GROWTH.map(|vifs| Case { path, vifs, ..ONE });
        cases.extend(grown);
    }
    let path = Path::ToWire;
    cases.extend(GROWTH.map(|stations| Case { path, stations, ..ONE }));
    cases.extend(cases_of_several_vcpus());
    let mut different = Vec::new();
    for case in cases {
        if !different.contains(&case) {
            different.push(case);
        }
    }
    different
}
