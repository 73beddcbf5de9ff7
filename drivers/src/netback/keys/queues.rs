//! The keys of a vif's queues and of its control ring (P-24, P-25).

use kernel::switch::MAX_LANES;
use xen::event::RemotePort;
use xen::grant::GrantRef;

use super::{KeyError, Keys, Problem, contradicts};

/// The most queues of a vif. Each takes two frames of the window for its rings, two of
/// Xen's maptrack handles and one event channel, or two where it is split; the control ring
/// one of each: 64 vifs of so many take 1088 frames and handles, and up to 1088 channels
/// (L-10: `max_event_channels` is 1023 where nothing else is configured). Each has a shard of
/// the page tracker, of which there are 65,535.
pub const MAX_QUEUES: usize = MAX_LANES;

/// A queue's rings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueRings {
    /// The keys that they were read from.
    pub keys: &'static QueueKeys,
    /// The ring of what the guest sends.
    pub tx_ring: GrantRef,
    /// The ring of what the guest receives.
    pub rx_ring: GrantRef,
    /// Where the guest waits for events.
    pub ports: RemotePorts,
}

/// A queue's event channels (P-24).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RemotePorts {
    /// One for both rings.
    Shared(RemotePort),
    /// One for each.
    Split {
        /// The tx ring's.
        tx: RemotePort,
        /// The rx ring's.
        rx: RemotePort,
    },
}

/// The control ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControlRing {
    /// The ring.
    pub ring: GrantRef,
    /// Its event channel.
    pub port: RemotePort,
}

/// The names of the keys of one queue.
#[derive(PartialEq, Eq, Debug)]
pub struct QueueKeys {
    /// The queue's number, where there are several.
    pub number: Option<u8>,
    /// The tx ring.
    pub tx_ring: &'static str,
    /// The rx ring.
    pub rx_ring: &'static str,
    /// The event channel of both.
    pub port: &'static str,
    /// That of the tx ring alone.
    pub tx_port: &'static str,
    /// That of the rx ring alone.
    pub rx_port: &'static str,
}

impl QueueKeys {
    /// The keys of a vif's queues, so many. A vif's only queue has them in the vif's
    /// directory; where there are more, each has a directory of its own (P-24).
    pub fn of(queues: usize) -> &'static [Self] {
        if queues == 1 { &ONLY_QUEUE } else { &QUEUES[..queues.min(MAX_QUEUES)] }
    }

    const fn names(&self) -> [&'static str; 5] {
        [self.tx_ring, self.rx_ring, self.port, self.tx_port, self.rx_port]
    }
}

/// The keys of a queue below `$dir`.
macro_rules! queue_keys {
    ($number:expr, $dir:literal) => {
        QueueKeys {
            number: $number,
            tx_ring: concat!($dir, "tx-ring-ref"),
            rx_ring: concat!($dir, "rx-ring-ref"),
            port: concat!($dir, "event-channel"),
            tx_port: concat!($dir, "event-channel-tx"),
            rx_port: concat!($dir, "event-channel-rx"),
        }
    };
}

static ONLY_QUEUE: [QueueKeys; 1] = [queue_keys!(None, "")];
static QUEUES: [QueueKeys; MAX_QUEUES] = [
    queue_keys!(Some(0), "queue-0/"),
    queue_keys!(Some(1), "queue-1/"),
    queue_keys!(Some(2), "queue-2/"),
    queue_keys!(Some(3), "queue-3/"),
    queue_keys!(Some(4), "queue-4/"),
    queue_keys!(Some(5), "queue-5/"),
    queue_keys!(Some(6), "queue-6/"),
    queue_keys!(Some(7), "queue-7/"),
];

/// The names of the control ring's keys.
pub const CONTROL_RING: &str = "ctrl-ring-ref";
/// The name of its event channel's key.
pub const CONTROL_PORT: &str = "event-channel-ctrl";

/// How many queues the frontend has.
pub(super) const NUM_QUEUES: &str = "multi-queue-num-queues";

/// How many keys a queue has.
const KEYS_OF_A_QUEUE: usize = 5;

/// The keys of queues that are several.
const QUEUE_KEYS: &[&str] = {
    const NAMES: [[&str; KEYS_OF_A_QUEUE]; MAX_QUEUES] = {
        let mut names = [[""; KEYS_OF_A_QUEUE]; MAX_QUEUES];
        let mut queue = 0;
        while queue < MAX_QUEUES {
            names[queue] = QUEUES[queue].names();
            queue += 1;
        }
        names
    };
    NAMES.as_flattened()
};

/// The keys of so many queues.
pub(in crate::netback) fn queue_keys(queues: usize) -> &'static [&'static str] {
    QUEUE_KEYS.get(..queues * KEYS_OF_A_QUEUE).unwrap_or(QUEUE_KEYS)
}

/// How many queues the frontend has, by the keys of its directory.
pub(in crate::netback) fn num_queues(keys: &Keys<'_>) -> Result<usize, KeyError> {
    match keys.optional_number(NUM_QUEUES)? {
        None => Ok(1),
        Some(queues @ 1..) if queues as usize <= MAX_QUEUES => Ok(queues as usize),
        Some(_) => Err(KeyError { key: NUM_QUEUES, problem: Problem::Unsupported }),
    }
}

impl QueueRings {
    pub(super) fn parse(keys: &Keys<'_>, names: &'static QueueKeys) -> Result<Self, KeyError> {
        let tx_ring = GrantRef(keys.number(names.tx_ring)?);
        let rx_ring = GrantRef(keys.number(names.rx_ring)?);
        let ports = match keys.pair([names.tx_port, names.rx_port])? {
            Some([tx, rx]) => RemotePorts::Split { tx: RemotePort(tx), rx: RemotePort(rx) },
            None => RemotePorts::Shared(RemotePort(keys.number(names.port)?)),
        };
        Ok(Self { keys: names, tx_ring, rx_ring, ports })
    }
}

/// No page is two rings, as far as its reference tells (F-8).
pub(super) fn all_different(
    queues: &[QueueRings],
    control: Option<&ControlRing>,
) -> Result<(), KeyError> {
    let of_queues = queues.iter().flat_map(|queue| {
        [(queue.keys.tx_ring, queue.tx_ring), (queue.keys.rx_ring, queue.rx_ring)]
    });
    let of_control = control.map(|control| (CONTROL_RING, control.ring));
    let rings = of_queues.chain(of_control);
    for (place, (key, ring)) in rings.clone().enumerate() {
        if let Some((before, _)) = rings.clone().take(place).find(|(_, other)| *other == ring) {
            return Err(contradicts(key, before));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{error, values, without};
    use super::super::{FRONTEND_KEYS, Frontend};
    use super::*;

    const SEVERAL: [(&str, &str); 16] = [
        ("request-rx-copy", "1"),
        ("multi-queue-num-queues", "3"),
        ("queue-0/tx-ring-ref", "10"),
        ("queue-0/rx-ring-ref", "11"),
        ("queue-0/event-channel", "12"),
        ("queue-1/tx-ring-ref", "20"),
        ("queue-1/rx-ring-ref", "21"),
        ("queue-1/event-channel-tx", "22"),
        ("queue-1/event-channel-rx", "23"),
        ("queue-2/tx-ring-ref", "30"),
        ("queue-2/rx-ring-ref", "31"),
        ("queue-2/event-channel", "32"),
        ("queue-3/tx-ring-ref", "30"),
        ("ctrl-ring-ref", "40"),
        ("event-channel-ctrl", "41"),
        // Of no meaning where the queues are several.
        ("tx-ring-ref", "20"),
    ];

    /// A frontend with these keys.
    fn several(pairs: &[(&str, &str)]) -> Result<Frontend, KeyError> {
        let (keys, queues) = (values(FRONTEND_KEYS, pairs), values(QUEUE_KEYS, pairs));
        let read = queue_keys(num_queues(&Keys::frontend(&keys)).unwrap_or(0)).len();
        Frontend::parse(&Keys::frontend(&keys), &Keys::queues(&queues[..read]))
    }

    /// The same, but for one.
    fn several_but(key: &'static str, value: &str) -> Result<Frontend, KeyError> {
        let mut pairs = without(&SEVERAL, key);
        pairs.push((key, value));
        several(&pairs)
    }

    /// P-24, P-25.
    #[test]
    fn frontends_of_several_queues() {
        let frontend = several(&SEVERAL).unwrap();
        let rings = frontend.queues.iter().map(|queue| (queue.tx_ring.0, queue.rx_ring.0));
        assert_eq!(rings.collect::<Vec<_>>(), [(10, 11), (20, 21), (30, 31)]);
        let ports: Vec<_> = frontend.queues.iter().map(|queue| queue.ports).collect();
        let split = RemotePorts::Split { tx: RemotePort(22), rx: RemotePort(23) };
        let shared = |port| RemotePorts::Shared(RemotePort(port));
        assert_eq!(ports, [shared(12), split, shared(32)]);
        let control = ControlRing { ring: GrantRef(40), port: RemotePort(41) };
        assert_eq!(frontend.control, Some(control));
        assert_eq!(frontend.queues[2].keys.rx_port, "queue-2/event-channel-rx");
        assert_eq!(queue_keys(2).last(), Some(&"queue-1/event-channel-rx"));
        // Both kinds of event channels: the split ones count.
        let ports = several_but("queue-1/event-channel", "9").unwrap().queues[1].ports;
        assert_eq!(ports, split);
        assert!(
            several(&without(&without(&SEVERAL, "ctrl-ring-ref"), "event-channel-ctrl"))
                .unwrap()
                .control
                .is_none()
        );
    }

    #[test]
    fn bad_frontends_of_several_queues() {
        for key in [
            "queue-0/tx-ring-ref",
            "queue-1/rx-ring-ref",
            "queue-2/event-channel",
            "queue-1/event-channel-tx",
            "queue-1/event-channel-rx",
            "ctrl-ring-ref",
            "event-channel-ctrl",
        ] {
            let found = several(&without(&SEVERAL, key));
            assert_eq!(error(found), Some((key, Problem::Missing)), "{key}");
            for value in ["", "x", "-1", "4294967296"] {
                assert_eq!(error(several_but(key, value)), Some((key, Problem::Malformed)));
            }
        }
        // One ring in two places (F-8).
        for (key, value, other) in [
            ("queue-0/rx-ring-ref", "10", "queue-0/tx-ring-ref"),
            ("queue-2/tx-ring-ref", "10", "queue-0/tx-ring-ref"),
            ("queue-2/rx-ring-ref", "20", "queue-1/tx-ring-ref"),
            ("queue-1/tx-ring-ref", "11", "queue-0/rx-ring-ref"),
            ("ctrl-ring-ref", "31", "queue-2/rx-ring-ref"),
            ("ctrl-ring-ref", "10", "queue-0/tx-ring-ref"),
        ] {
            let problem = Problem::Contradicts(other);
            assert_eq!(error(several_but(key, value)), Some((key, problem)), "{key}");
        }
        for queues in ["0", "9", "65535", "4294967295"] {
            let problem = ("multi-queue-num-queues", Problem::Unsupported);
            assert_eq!(error(several_but(problem.0, queues)), Some(problem), "{queues}");
        }
        // More than it has the keys of.
        let missing = ("queue-3/rx-ring-ref", Problem::Missing);
        assert_eq!(error(several_but("multi-queue-num-queues", "8")), Some(missing));
    }
}
