//! The keys of a vif's two directories, read into types (NETBACK-SPEC, Keys).
//!
//! Our directory's keys are the toolstack's and describe what was configured (K-1);
//! the frontend's are the guest's and can hold anything (K-4). Both are parsed by
//! the same strict rules: decimal numbers of digits alone, switches that are
//! numbers, and what cannot be understood or honoured is an error that names the
//! key, never a default.

mod queues;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use kernel::packet::MacAddress;
use kernel::switch::{Versions, VlanError, Vlans};
use xen::event::RemotePort;
use xen::grant::GrantRef;
use xen::store;

use super::VifId;
use queues::{NUM_QUEUES, all_different};

pub(super) use queues::{CONTROL_PORT, CONTROL_RING, num_queues, queue_keys};
pub use queues::{ControlRing, MAX_QUEUES, QueueKeys, QueueRings, RemotePorts};

/// A switch's name as the toolstack gives it (`bridge=`).
pub type BridgeName = heapless::String<32>;

/// What the toolstack configured (K-1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VifConfig {
    /// The guest's address.
    pub mac: MacAddress,
    /// The switch to join.
    pub bridge: BridgeName,
    /// The largest IP packet, where one is configured: 68 to 65517 bytes.
    pub mtu: Option<u16>,
    /// The limit on what the guest sends, where one is configured.
    pub rate: Option<Rate>,
    /// The VLANs it takes part in, where they are configured.
    pub vlans: Option<Box<Vlans>>,
}

/// A limit on a guest's sending (P-26).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Bytes per interval; not zero.
    pub bytes: u64,
    /// The interval in microseconds; not zero.
    pub interval: u32,
}

/// All that connecting a vif takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectRequest {
    /// Which vif.
    pub vif: VifId,
    /// What the toolstack configured.
    pub config: VifConfig,
    /// What the frontend shares and can do.
    pub frontend: Frontend,
}

/// What the frontend wrote (K-4): allegations, well-formed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frontend {
    /// Its queues: one at least.
    pub queues: heapless::Vec<QueueRings, MAX_QUEUES>,
    /// The control ring, where it has one (P-25).
    pub control: Option<ControlRing>,
    /// It says when it has put buffers into an empty rx ring; where it does not, it
    /// has to be polled (P-22).
    pub rx_notify: bool,
    /// It takes packets in more than one slot.
    pub scatter_gather: bool,
    /// It takes IPv4 packets whose checksum is still to be made.
    pub ipv4_checksum: bool,
    /// The same for IPv6.
    pub ipv6_checksum: bool,
    /// It takes TCP segments over IPv4 that are still to be cut.
    pub gso_v4: bool,
    /// The same for IPv6.
    pub gso_v6: bool,
    /// What it may change at any time.
    pub options: Options,
}

/// What a frontend may change while it is connected (K-4).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Options {
    /// It wants multicast of the groups alone that it names (P-13).
    pub multicast_control: bool,
    /// So many bytes left free in a page before what it receives (P-23), as far as there
    /// is room.
    pub xdp_headroom: u32,
}

/// Why a directory's keys make no vif.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyError {
    /// The key.
    pub key: &'static str,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What can be wrong with a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// It is not there, and has to be.
    Missing,
    /// It cannot be read.
    Unreadable,
    /// Its value is not of the form it has to have, or out of range.
    Malformed,
    /// Its value contradicts where or beside what it stands.
    Contradicts(&'static str),
    /// It asks for what this backend does not do.
    Unsupported,
    /// It does not name VLANs.
    Vlans(VlanError),
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, problem } = self;
        match problem {
            Problem::Missing => write!(f, "{key} is missing"),
            Problem::Unreadable => write!(f, "{key} cannot be read"),
            Problem::Malformed => write!(f, "{key} is malformed"),
            Problem::Contradicts(what) => write!(f, "{key} contradicts {what}"),
            Problem::Unsupported => write!(f, "{key} asks for what is not supported"),
            Problem::Vlans(error) => write!(f, "{key} is malformed: {error}"),
        }
    }
}

/// The keys of our directory that are read when a vif is met.
pub(super) const CONFIG_KEYS: &[&str] = &[
    "frontend",
    "frontend-id",
    "handle",
    "mac",
    "bridge",
    "mtu",
    "rate",
    "vlan",
    "script",
    "type",
    "state",
];

/// The keys of our directory that are read whenever a vif is looked at, before the
/// frontend's.
pub(super) const LOOK_KEYS: &[&str] = &["state", "online", "rate"];

/// Keys of our directory that are looked at elsewhere, or never.
const IDLE_KEYS: &[&str] = &["online", "hotplug-status"];

/// The features that are advertised (K-2), written before state 2.
pub(super) const FEATURES: &[(&str, &str)] = &[
    ("feature-sg", "1"),
    ("feature-rx-copy", "1"),
    ("feature-rx-flip", "0"),
    ("feature-gso-tcpv4", "1"),
    ("feature-gso-tcpv6", "1"),
    ("feature-ipv6-csum-offload", "1"),
    ("feature-multicast-control", "1"),
    ("feature-dynamic-multicast-control", "1"),
    ("feature-xdp-headroom", "1"),
    ("feature-split-event-channels", "1"),
    ("multi-queue-max-queues", "8"),
    ("feature-ctrl-ring", "1"),
    ("carrier", "1"),
];

/// The keys of the frontend's directory that are read when it is Connected. Those of its
/// queues are read next, where it has several.
pub(super) const FRONTEND_KEYS: &[&str] = &[
    "tx-ring-ref",
    "rx-ring-ref",
    "event-channel",
    "event-channel-tx",
    "event-channel-rx",
    "request-rx-copy",
    NUM_QUEUES,
    CONTROL_RING,
    CONTROL_PORT,
    "feature-rx-notify",
    "feature-sg",
    "feature-gso-tcpv4",
    "feature-gso-tcpv6",
    "feature-no-csum-offload",
    "feature-ipv6-csum-offload",
    "request-multicast-control",
    "xdp-headroom",
];

/// Those that are read whenever a connected frontend is looked at.
pub(super) const OPTION_KEYS: &[&str] = &["request-multicast-control", "xdp-headroom"];

/// Why a key of our directory has no effect, where an operator may expect one.
pub(super) fn without_effect(key: &str) -> Option<&'static str> {
    let ours = FEATURES.iter().any(|(name, _)| *name == key) || key == "hotplug-error";
    if ours || CONFIG_KEYS.contains(&key) || IDLE_KEYS.contains(&key) {
        return None;
    }
    Some(match key {
        "ip" => "of what a guest sends, no addresses are checked but mac=",
        "gatewaydev" | "netdev" => "vifs are joined to bridge=, and nothing is routed",
        "vifname" => "there are no interfaces to be named; it is called by its numbers",
        "trusted" => "it is for the frontend to read, in its own directory",
        "forwarddev" => "nothing is passed on to devices of COLO",
        _ => "it is not known",
    })
}

/// The answers to reading a directory's keys.
pub(super) struct Keys<'a> {
    names: &'static [&'static str],
    values: &'a [Result<Vec<u8>, store::Error>],
}

impl<'a> Keys<'a> {
    pub(super) fn config(values: &'a [Result<Vec<u8>, store::Error>]) -> Self {
        Self { names: CONFIG_KEYS, values }
    }

    pub(super) fn look(values: &'a [Result<Vec<u8>, store::Error>]) -> Self {
        Self { names: LOOK_KEYS, values }
    }

    pub(super) fn frontend(values: &'a [Result<Vec<u8>, store::Error>]) -> Self {
        Self { names: FRONTEND_KEYS, values }
    }

    pub(super) fn options(values: &'a [Result<Vec<u8>, store::Error>]) -> Self {
        Self { names: OPTION_KEYS, values }
    }

    /// Those of queues that are several.
    pub(super) fn queues(values: &'a [Result<Vec<u8>, store::Error>]) -> Self {
        Self { names: queue_keys(MAX_QUEUES), values }
    }

    /// What was read of `key`.
    pub(super) fn raw(&self, key: &str) -> &'a Result<Vec<u8>, store::Error> {
        let place = self.names.iter().position(|name| *name == key);
        place.and_then(|place| self.values.get(place)).unwrap_or(&Err(store::Error::NotFound))
    }

    fn optional(&self, key: &'static str) -> Result<Option<&'a str>, KeyError> {
        match self.raw(key) {
            Ok(value) => match core::str::from_utf8(value) {
                Ok(text) if text.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Some(text)),
                _ => Err(malformed(key)),
            },
            Err(store::Error::NotFound) => Ok(None),
            Err(store::Error::TooLong) => Err(malformed(key)),
            Err(_) => Err(KeyError { key, problem: Problem::Unreadable }),
        }
    }

    fn required(&self, key: &'static str) -> Result<&'a str, KeyError> {
        self.optional(key)?.ok_or(KeyError { key, problem: Problem::Missing })
    }

    fn number(&self, key: &'static str) -> Result<u32, KeyError> {
        number(self.required(key)?).ok_or(malformed(key))
    }

    fn optional_number(&self, key: &'static str) -> Result<Option<u32>, KeyError> {
        let Some(text) = self.optional(key)? else { return Ok(None) };
        number(text).map(Some).ok_or(malformed(key))
    }

    /// Two numbers that are there together, or not at all.
    fn pair(&self, keys: [&'static str; 2]) -> Result<Option<[u32; 2]>, KeyError> {
        let missing = |key| KeyError { key, problem: Problem::Missing };
        match (self.optional_number(keys[0])?, self.optional_number(keys[1])?) {
            (Some(one), Some(other)) => Ok(Some([one, other])),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(missing(keys[0])),
            (Some(_), None) => Err(missing(keys[1])),
        }
    }

    /// A number that stands for yes unless it is zero; `absent` where there is none.
    fn switch(&self, key: &'static str, absent: bool) -> Result<bool, KeyError> {
        let Some(text) = self.optional(key)? else { return Ok(absent) };
        number::<u32>(text).map(|number| number != 0).ok_or(malformed(key))
    }

    /// The limit on what the guest sends, which may change at any time.
    pub(super) fn rate(&self) -> Result<Option<Rate>, KeyError> {
        self.optional("rate")?.map(rate).transpose()
    }

    /// What an operator should know of what is configured and has no effect, although its
    /// key may have one.
    pub(super) fn remarks(&self) -> impl Iterator<Item = &'static str> {
        let value = |key| self.raw(key).as_deref().unwrap_or(b"");
        // The one that the toolstack names where nobody else does.
        let plain = value("script").is_empty() || value("script").ends_with(b"/vif-bridge");
        let script = (!plain).then_some(
            "script has no effect: none is run, and the vif is joined to bridge= without one",
        );
        // L-8.
        let emulated = (value("type") == b"vif_ioemu").then_some(
            "the guest's emulated NIC is not connected: it takes a tap in the domain where the \
             guest's device model runs. The paravirtual vif is served; type=vif asks for it alone",
        );
        script.into_iter().chain(emulated)
    }

    /// The frontend's directory: somewhere in the guest's own part of the store.
    pub(super) fn frontend_dir(&self, vif: VifId) -> Result<String, KeyError> {
        let key = "frontend";
        let path = self.required(key)?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_@".contains(&byte);
        if path.len() > 256 || !path.bytes().all(allowed) {
            return Err(malformed(key));
        }
        let home = alloc::format!("/local/domain/{}/", vif.frontend.0);
        if !path.starts_with(&home) {
            return Err(contradicts(key, "the directory it stands in"));
        }
        Ok(String::from(path))
    }
}

impl VifConfig {
    pub(super) fn parse(keys: &Keys<'_>, vif: VifId) -> Result<Self, KeyError> {
        for (key, expected) in [("frontend-id", u32::from(vif.frontend.0)), ("handle", vif.handle)]
        {
            if keys.number(key)? != expected {
                return Err(contradicts(key, "the directory it stands in"));
            }
        }
        let mac: MacAddress = keys.required("mac")?.parse().map_err(|_| malformed("mac"))?;
        if !mac.is_unicast() {
            return Err(malformed("mac"));
        }
        let bridge = keys.required("bridge")?;
        let bridge = BridgeName::try_from(bridge).ok().filter(|name| !name.is_empty());
        Ok(Self {
            mac,
            bridge: bridge.ok_or(malformed("bridge"))?,
            mtu: keys.optional("mtu")?.map(mtu).transpose()?,
            rate: keys.rate()?,
            vlans: keys.optional("vlan")?.map(vlans).transpose()?,
        })
    }
}

impl Frontend {
    /// Over which versions of IP it takes segments that are still to be cut. They come in
    /// many pages and without a checksum: it has to take those as well.
    pub const fn segmentation(&self) -> Versions {
        Versions {
            v4: self.gso_v4 && self.scatter_gather && self.ipv4_checksum,
            v6: self.gso_v6 && self.scatter_gather && self.ipv6_checksum,
        }
    }

    /// What its keys say, those of its directory and, where it has several queues, theirs.
    pub(super) fn parse(keys: &Keys<'_>, queue_keys: &Keys<'_>) -> Result<Self, KeyError> {
        // Flipping pages went out of use; a frontend that does not ask for copies
        // would wait for ever (K-4).
        if !keys.switch("request-rx-copy", false)? {
            return Err(KeyError { key: "request-rx-copy", problem: Problem::Unsupported });
        }
        let queues = num_queues(keys)?;
        let queue_keys = if queues == 1 { keys } else { queue_keys };
        let queues = QueueKeys::of(queues).iter().map(|names| QueueRings::parse(queue_keys, names));
        let queues: heapless::Vec<_, MAX_QUEUES> = queues.collect::<Result<_, _>>()?;
        let control = keys.pair([CONTROL_RING, CONTROL_PORT])?;
        let control = control
            .map(|[ring, port]| ControlRing { ring: GrantRef(ring), port: RemotePort(port) });
        all_different(&queues, control.as_ref())?;
        Ok(Self {
            queues,
            control,
            rx_notify: keys.switch("feature-rx-notify", false)?,
            scatter_gather: keys.switch("feature-sg", false)?,
            ipv4_checksum: !keys.switch("feature-no-csum-offload", false)?,
            ipv6_checksum: keys.switch("feature-ipv6-csum-offload", false)?,
            gso_v4: keys.switch("feature-gso-tcpv4", false)?,
            gso_v6: keys.switch("feature-gso-tcpv6", false)?,
            options: Options::parse(keys)?,
        })
    }
}

impl Options {
    pub(super) fn parse(keys: &Keys<'_>) -> Result<Self, KeyError> {
        let key = "xdp-headroom";
        let headroom = keys.optional(key)?.map(|text| number(text).ok_or(malformed(key)));
        Ok(Self {
            multicast_control: keys.switch("request-multicast-control", false)?,
            xdp_headroom: headroom.transpose()?.unwrap_or(0),
        })
    }
}

const fn malformed(key: &'static str) -> KeyError {
    KeyError { key, problem: Problem::Malformed }
}

const fn contradicts(key: &'static str, what: &'static str) -> KeyError {
    KeyError { key, problem: Problem::Contradicts(what) }
}

/// A decimal number of digits alone: `parse` would also take a sign.
fn number<T: core::str::FromStr>(text: &str) -> Option<T> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn mtu(text: &str) -> Result<u16, KeyError> {
    // At least what IPv4 asks of a link; at most a frame of 65535 with its header
    // and a VLAN tag.
    match number(text) {
        Some(mtu @ 68..=65517) => Ok(mtu),
        _ => Err(malformed("mtu")),
    }
}

fn rate(text: &str) -> Result<Rate, KeyError> {
    let parts = text.split_once(',').and_then(|(bytes, interval)| {
        Some(Rate { bytes: number(bytes)?, interval: number(interval)? })
    });
    parts.filter(|rate| rate.bytes > 0 && rate.interval > 0).ok_or(malformed("rate"))
}

fn vlans(text: &str) -> Result<Box<Vlans>, KeyError> {
    let vlans = text.parse().map(Box::new);
    vlans.map_err(|error| KeyError { key: "vlan", problem: Problem::Vlans(error) })
}

/// The guest and number that two path components name; `None` unless they are in
/// the form the toolstack writes.
pub(super) fn vif_id(frontend: &str, handle: &str) -> Option<VifId> {
    Some(VifId { frontend: guest(frontend)?, handle: canonical(handle)? })
}

/// The guest that a path component names.
pub(super) fn guest(text: &str) -> Option<xen::DomainId> {
    canonical(text).and_then(xen::DomainId::checked)
}

fn canonical(text: &str) -> Option<u32> {
    let plain = text == "0" || !text.starts_with('0');
    number(text).filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use xen::DomainId;

    use super::*;

    const VIF: VifId = VifId { frontend: DomainId(3), handle: 1 };

    pub(super) type Values = Vec<Result<Vec<u8>, store::Error>>;

    pub(super) fn values(names: &[&str], pairs: &[(&str, &str)]) -> Values {
        let value = |name: &&str| {
            let pair = pairs.iter().find(|(key, _)| key == name);
            pair.map(|(_, value)| value.as_bytes().to_vec()).ok_or(store::Error::NotFound)
        };
        names.iter().map(value).collect()
    }

    const CONFIG: [(&str, &str); 5] = [
        ("frontend", "/local/domain/3/device/vif/1"),
        ("frontend-id", "3"),
        ("handle", "1"),
        ("mac", "00:16:3e:01:02:03"),
        ("bridge", "xenbr0"),
    ];

    const FRONTEND: [(&str, &str); 4] = [
        ("tx-ring-ref", "768"),
        ("rx-ring-ref", "769"),
        ("event-channel", "15"),
        ("request-rx-copy", "1"),
    ];

    fn config_with(key: &'static str, value: &str) -> Result<VifConfig, KeyError> {
        let mut pairs = vec![(key, value)];
        pairs.extend(CONFIG);
        VifConfig::parse(&Keys::config(&values(CONFIG_KEYS, &pairs)), VIF)
    }

    fn frontend_with(key: &'static str, value: &str) -> Result<Frontend, KeyError> {
        let mut pairs = vec![(key, value)];
        pairs.extend(FRONTEND);
        parse(&values(FRONTEND_KEYS, &pairs))
    }

    /// A frontend of one queue.
    fn parse(values: &Values) -> Result<Frontend, KeyError> {
        Frontend::parse(&Keys::frontend(values), &Keys::queues(&[]))
    }

    pub(super) fn without<'a>(pairs: &[(&'a str, &'a str)], key: &str) -> Vec<(&'a str, &'a str)> {
        pairs.iter().copied().filter(|(name, _)| *name != key).collect()
    }

    pub(super) fn error<T>(result: Result<T, KeyError>) -> Option<(&'static str, Problem)> {
        result.err().map(|error| (error.key, error.problem))
    }

    #[test]
    fn configurations() {
        let config = config_with("mtu", "9000").unwrap();
        assert_eq!(config.mac.bytes(), [0x00, 0x16, 0x3e, 1, 2, 3]);
        assert_eq!(config.bridge.as_str(), "xenbr0");
        assert_eq!((config.mtu, config.rate), (Some(9000), None));
        let rate = Rate { bytes: u64::MAX, interval: 50_000 };
        let config = config_with("rate", "18446744073709551615,50000").unwrap();
        assert_eq!((config.mtu, config.rate), (None, Some(rate)));
        assert_eq!(config.vlans, None);
        let vlans = config_with("vlan", "10p/100-102").unwrap().vlans.unwrap();
        assert_eq!(*vlans, "10p/100/101/102".parse().unwrap());
    }

    #[test]
    fn bad_configurations() {
        for (key, _) in &CONFIG[1..] {
            let found = values(CONFIG_KEYS, &without(&CONFIG, key));
            let result = VifConfig::parse(&Keys::config(&found), VIF);
            assert_eq!(error(result), Some((*key, Problem::Missing)));
        }
        for (key, value) in [
            ("mac", ""),
            ("mac", "00:16:3e:01:02"),
            ("mac", "00:16:3e:01:02:03:04"),
            ("mac", "01:00:5e:00:00:01"),
            ("mac", "ff:ff:ff:ff:ff:ff"),
            ("mac", "00:00:00:00:00:00"),
            ("bridge", ""),
            ("bridge", "x23456789012345678901234567890123"),
            ("bridge", "xen br0"),
            ("bridge", "brücke"),
            ("mtu", "67"),
            ("mtu", "65518"),
            ("mtu", "-1"),
            ("mtu", "0x5dc"),
            ("rate", ""),
            ("rate", "1000"),
            ("rate", "0,50000"),
            ("rate", "1000,0"),
            ("rate", "1000,4294967296"),
            ("rate", "1000,50000,1"),
            ("handle", "+1"),
            ("frontend-id", "x"),
        ] {
            assert_eq!(error(config_with(key, value)), Some((key, Problem::Malformed)), "{value}");
        }
        for key in ["handle", "frontend-id"] {
            let problem = Problem::Contradicts("the directory it stands in");
            assert_eq!(error(config_with(key, "2")), Some((key, problem)));
        }
        for (value, problem) in [
            ("", VlanError::Term),
            ("10/10", VlanError::Twice(10)),
            ("4095", VlanError::Range),
            ("10/20", VlanError::NoPvid),
        ] {
            let problem = Problem::Vlans(problem);
            assert_eq!(error(config_with("vlan", value)), Some(("vlan", problem)), "{value}");
        }
        assert_eq!(error(config_with("vlan", "10 ")), Some(("vlan", Problem::Malformed)));
    }

    #[test]
    fn frontend_directories() {
        let dir = |path: &str| {
            Keys::config(&values(CONFIG_KEYS, &[("frontend", path)])).frontend_dir(VIF)
        };
        let good = "/local/domain/3/device/vif/1";
        assert_eq!(dir(good).as_deref(), Ok(good));
        let elsewhere = Problem::Contradicts("the directory it stands in");
        for (path, problem) in [
            ("", elsewhere),
            ("/local/domain/33/device/vif/1", elsewhere),
            ("device/vif/1", elsewhere),
            ("/local/domain/3/../4/device/vif/1", Problem::Malformed),
            (&format!("/local/domain/3/{}", "x".repeat(256)), Problem::Malformed),
        ] {
            assert_eq!(error(dir(path)), Some(("frontend", problem)), "{path}");
        }
    }

    #[test]
    fn frontends() {
        let queue = QueueRings {
            keys: &QueueKeys::of(1)[0],
            tx_ring: GrantRef(768),
            rx_ring: GrantRef(769),
            ports: RemotePorts::Shared(RemotePort(15)),
        };
        let plain = Frontend {
            queues: [queue].into_iter().collect(),
            control: None,
            rx_notify: false,
            scatter_gather: false,
            ipv4_checksum: true,
            ipv6_checksum: false,
            gso_v4: false,
            gso_v6: false,
            options: Options { multicast_control: false, xdp_headroom: 0 },
        };
        assert_eq!(frontend_with("multi-queue-num-queues", "1"), Ok(plain.clone()));
        assert_eq!(frontend_with("feature-sg", "0"), Ok(plain));
        let with = |key, value| frontend_with(key, value).unwrap();
        assert!(with("feature-rx-notify", "1").rx_notify);
        assert!(with("feature-sg", "7").scatter_gather);
        assert!(!with("feature-no-csum-offload", "1").ipv4_checksum);
        assert!(with("feature-ipv6-csum-offload", "1").ipv6_checksum);
        assert!(with("feature-gso-tcpv4", "1").gso_v4 && with("feature-gso-tcpv6", "1").gso_v6);
        assert!(with("request-multicast-control", "1").options.multicast_control);
        assert_eq!(with("xdp-headroom", "65536").options.xdp_headroom, 65_536);
        assert_eq!(with("tx-ring-ref", "4294967295").queues[0].tx_ring, GrantRef(u32::MAX));
    }

    /// Segments still to be cut come in many pages and without a checksum (P-21).
    #[test]
    fn segmentation_takes_pages_and_blank_checksums() {
        let all = Frontend {
            scatter_gather: true,
            ipv6_checksum: true,
            gso_v4: true,
            gso_v6: true,
            ..frontend_with("feature-sg", "1").unwrap()
        };
        let taken = |frontend: Frontend| {
            let Versions { v4, v6 } = frontend.segmentation();
            [v4, v6]
        };
        assert_eq!(taken(all.clone()), [true, true]);
        assert_eq!(taken(Frontend { scatter_gather: false, ..all.clone() }), [false, false]);
        assert_eq!(taken(Frontend { ipv4_checksum: false, ..all.clone() }), [false, true]);
        assert_eq!(taken(Frontend { ipv6_checksum: false, ..all.clone() }), [true, false]);
        assert_eq!(taken(Frontend { gso_v4: false, ..all.clone() }), [false, true]);
        assert_eq!(taken(Frontend { gso_v6: false, ..all.clone() }), [true, false]);
    }

    /// F-8, F-9: every key, every kind of garbage.
    #[test]
    fn bad_frontends() {
        for (key, _) in &FRONTEND[..3] {
            let found = values(FRONTEND_KEYS, &without(&FRONTEND, key));
            let result = parse(&found);
            assert_eq!(error(result), Some((*key, Problem::Missing)));
        }
        let long = "1".repeat(2048);
        for key in FRONTEND_KEYS {
            for value in ["", "abc", "-1", "+1", "4294967296", "0x10", " 1", "1\0", "١", &long] {
                let problem = Some((*key, Problem::Malformed));
                assert_eq!(error(frontend_with(key, value)), problem, "{value}");
            }
            let mut found = values(FRONTEND_KEYS, &FRONTEND);
            let place = FRONTEND_KEYS.iter().position(|name| name == key).unwrap();
            for (answer, problem) in [
                (store::Error::Denied, Problem::Unreadable),
                (store::Error::Io, Problem::Unreadable),
                (store::Error::TooLong, Problem::Malformed),
            ] {
                found[place] = Err(answer);
                let result = parse(&found);
                assert_eq!(error(result), Some((*key, problem)));
            }
        }
        for queues in ["0", "9", "65535"] {
            let problem = ("multi-queue-num-queues", Problem::Unsupported);
            assert_eq!(error(frontend_with(problem.0, queues)), Some(problem));
        }
        let copy = ("request-rx-copy", Problem::Unsupported);
        assert_eq!(error(frontend_with("request-rx-copy", "0")), Some(copy));
        let found = values(FRONTEND_KEYS, &without(&FRONTEND, "request-rx-copy"));
        assert_eq!(error(parse(&found)), Some(copy));
        let same = ("rx-ring-ref", Problem::Contradicts("tx-ring-ref"));
        assert_eq!(error(frontend_with("rx-ring-ref", "768")), Some(same));
        for (half, other) in
            [("event-channel-tx", "event-channel-rx"), ("event-channel-rx", "event-channel-tx")]
        {
            let missing = Some((other, Problem::Missing));
            assert_eq!(error(frontend_with(half, "16")), missing, "half a pair");
        }
    }

    #[test]
    fn names_in_paths() {
        assert_eq!(vif_id("3", "1"), Some(VIF));
        assert_eq!(vif_id("0", "0"), Some(VifId { frontend: DomainId(0), handle: 0 }));
        for (frontend, handle) in [
            ("03", "1"),
            ("3", "01"),
            ("", "1"),
            ("3", ""),
            ("32752", "1"),
            ("65539", "1"),
            ("3", "4294967296"),
            ("-3", "1"),
            ("x", "1"),
        ] {
            assert_eq!(vif_id(frontend, handle), None, "{frontend}/{handle}");
        }
    }

    #[test]
    fn keys_without_effect() {
        let told = ["ip", "gatewaydev", "netdev", "vifname", "trusted", "forwarddev", "vlna"];
        for (place, key) in told.iter().enumerate() {
            let why = without_effect(key).unwrap();
            let same = told.iter().position(|other| without_effect(other) == Some(why));
            assert_eq!(same, Some(place - usize::from(*key == "netdev")), "{key}: {why}");
        }
        for key in ["mac", "bridge", "rate", "vlan", "feature-sg", "carrier", "hotplug-error"] {
            assert_eq!(without_effect(key), None);
        }
        let remarks = |key, value| {
            let found = values(CONFIG_KEYS, &[(key, value)]);
            Keys::config(&found).remarks().count()
        };
        assert_eq!(remarks("script", "/etc/xen/scripts/vif-bridge"), 0);
        assert_eq!(remarks("script", "/usr/local/etc/xen/scripts/vif-bridge"), 0);
        assert_eq!(remarks("script", "/etc/xen/scripts/vif-route"), 1);
        assert_eq!(remarks("type", "vif"), 0);
        assert_eq!(remarks("type", "vif_ioemu"), 1);
    }
}
