//! Frontends of other systems, as far as what they write to XenStore and how they use their
//! rings is known: modelled, not run.

use worlds::streams::{check_stream, finished, outgoing, segment};
use worlds::{Id, Manners, Outgoing, World, frames};
use xen::netif::Status;
use xen::ring::RX_RING_SIZE;

/// What a system's frontend is like.
struct Model {
    system: &'static str,
    manners: Manners,
    /// Keys that it writes beside.
    writes: &'static [(&'static str, &'static str)],
    /// Keys that it does not know.
    lacks: &'static [&'static str],
}

const NO_GSO: [bool; 2] = [false; 2];
const GSO_KEYS: [&str; 2] = ["feature-gso-tcpv4", "feature-gso-tcpv6"];

fn models() -> Vec<Model> {
    let plain = Manners { gso: NO_GSO, ipv6_checksum: false, ..Manners::default() };
    vec![
        Model {
            system: "Windows, all that its driver can",
            manners: Manners { queues: 4, split: true, control: true, ..Manners::default() },
            writes: &[("request-multicast-control", "0"), ("feature-no-csum-offload", "0")],
            lacks: &["xdp-headroom"],
        },
        Model {
            // Segments of its own form, which nobody sends any more (P-17).
            system: "Windows, an older driver",
            manners: Manners { gso: NO_GSO, ..Manners::default() },
            writes: &[("feature-gso-tcpv4-prefix", "1"), ("feature-gso-tcpv6-prefix", "1")],
            lacks: &GSO_KEYS,
        },
        Model {
            system: "FreeBSD",
            manners: Manners { gso: [true, false], ipv6_checksum: false, ..Manners::default() },
            writes: &[("multi-queue-num-queues", "1")],
            lacks: &["feature-gso-tcpv6", "feature-ipv6-csum-offload", "xdp-headroom"],
        },
        Model {
            system: "NetBSD",
            manners: Manners { scatter_gather: false, ..plain.clone() },
            writes: &[],
            lacks: &["feature-sg", GSO_KEYS[0], GSO_KEYS[1], "feature-ipv6-csum-offload"],
        },
        Model {
            system: "OpenBSD",
            manners: plain.clone(),
            writes: &[],
            lacks: &["feature-ipv6-csum-offload"],
        },
        Model {
            system: "illumos",
            manners: Manners { scatter_gather: false, ..plain.clone() },
            writes: &[("request-multicast-control", "1")],
            lacks: &["feature-no-csum-offload"],
        },
        Model {
            // Few pages, and nothing left to others.
            system: "a boot firmware",
            manners: Manners {
                scatter_gather: false,
                ipv4_checksum: false,
                offers: 8,
                ..plain.clone()
            },
            writes: &[],
            lacks: &[GSO_KEYS[0], GSO_KEYS[1], "feature-sg"],
        },
        Model {
            system: "a library operating system that raises no events for what it offers",
            manners: Manners { rx_notify: false, offers: RX_RING_SIZE / 2, ..plain },
            writes: &[],
            lacks: &["feature-rx-notify", "feature-ipv6-csum-offload"],
        },
    ]
}

fn attach(world: &mut World, model: &Model) -> Id {
    let id = world.add(1, model.manners.clone(), &[]);
    world[id].xenbus.keys.retain(|(name, _)| !model.lacks.contains(&name.as_str()));
    for (name, value) in model.writes {
        world[id].set_key(name, value);
    }
    world.settle();
    id
}

/// Packets of all sizes both ways, and a stream to it that a guest left to be cut.
fn exchange(world: &mut World, linux: Id, other: Id, system: &str) {
    for len in [60, 61, 590, 1514] {
        for (from, to) in [(linux, other), (other, linux)] {
            let frame = frames::plain(world[to].mac(), world[from].mac(), len, len as u64);
            world.pass_on(from, to, &Outgoing::whole(&frame));
        }
    }
    for v6 in [false, true] {
        // No longer than eight pages take at once.
        let sent = segment(world[other].mac(), world[linux].mac(), v6, 8000, 1400);
        let out = outgoing(&sent, v6);
        let ids = world[linux].send(&out);
        world.settle();
        world.check_answers(linux, &ids, Status::Okay);
        let got: Vec<_> = world[other].received.drain(..).collect();
        match &got[..] {
            [whole] if whole.gso.is_some() => assert_eq!(whole.bytes, out.bytes, "{system}"),
            _ => check_stream(&finished(got), &sent.0, 1400, system),
        }
    }
}

/// They come, close, come again without going, and leave.
#[test]
fn frontends_of_other_systems_are_served() {
    for model in models() {
        let mut world = World::new();
        let linux = world.attach(0);
        let other = attach(&mut world, &model);
        assert!(world.is_connected(other), "{}: {:?}", model.system, world.error(other));
        exchange(&mut world, linux, other, model.system);
        for state in ["5", "6"] {
            world.set_front(other, state);
            world.settle();
        }
        world.restart(other);
        assert!(world.is_connected(other), "{}: {:?}", model.system, world.error(other));
        exchange(&mut world, linux, other, model.system);
        assert_eq!(world.detach(other), Ok(()), "{}", model.system);
        world.end();
    }
}
