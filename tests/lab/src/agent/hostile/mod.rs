//! A network frontend of user space that breaks the rules, one of them a run. It knows what each attack must lead to as
//! far as a guest can see that; what only the toolstack sees is the harness's to check.

mod control;
mod floods;
mod grants;
mod groups;
mod headroom;
mod keys;
mod queues;
mod rings;
mod segments;
mod slots;

use std::io::{self, Read};

use anyhow::{Context, Result, bail};

use super::netfront::{self, Front};

/// What an attack leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The vif is served on as if nothing had been.
    Served,
    /// The vif is served no more, and the error says so in these words (P-16).
    Broken(&'static str),
    /// The vif is not connected, and the error says so in these words.
    Refused(&'static str),
    /// The connection is over, by the attacker's own doing.
    Ended,
}

impl Outcome {
    /// The words of the error, where there is one.
    pub fn error(self) -> Option<&'static str> {
        match self {
            Outcome::Broken(words) | Outcome::Refused(words) => Some(words),
            Outcome::Served | Outcome::Ended => None,
        }
    }
}

/// One attack. Those that are refused are made on a frontend that has not connected, all
/// others on one that is served, unless they connect it as they need it.
pub struct Attack {
    /// How it is called: after the item of NETBACK-SPEC that it is about.
    pub name: &'static str,
    /// What it leads to.
    pub outcome: Outcome,
    /// Whether it is made on a frontend that is served.
    is_served: bool,
    play: fn(&mut Front) -> Result<()>,
}

const fn attack(
    name: &'static str,
    outcome: Outcome,
    play: fn(&mut Front) -> Result<()>,
) -> Attack {
    Attack { name, outcome, is_served: !matches!(outcome, Outcome::Refused(_)), play }
}

impl Attack {
    /// The same on a frontend that has not connected yet.
    const fn unconnected(self) -> Attack {
        Attack { is_served: false, ..self }
    }
}

/// The attack that goes on until the guest is no more.
pub const ENDLESS: &str = "f12-flood-without-end";

/// What is printed once an attack is over and had its outcome.
pub const PLAYED: &str = "played";

/// All attacks, in the order they are to be made. The last one is none: what an honest
/// frontend does works still.
pub fn attacks() -> impl Iterator<Item = &'static Attack> {
    const HONEST: Attack = attack("honest", Outcome::Served, |_| Ok(()));
    const ALL: [&[Attack]; 10] = [
        rings::ATTACKS,
        slots::ATTACKS,
        segments::ATTACKS,
        grants::ATTACKS,
        keys::ATTACKS,
        queues::ATTACKS,
        control::ATTACKS,
        groups::ATTACKS,
        headroom::ATTACKS,
        floods::ATTACKS,
    ];
    ALL.into_iter().flatten().chain([&HONEST])
}

/// Makes an attack and waits for its outcome, tells of it, and closes the vif when
/// standard input ends.
pub fn run(name: &str, victim: &str) -> Result<()> {
    let victim = netfront::mac(victim)?;
    if name == ENDLESS {
        return floods::without_end(&mut Front::meet(victim)?);
    }
    let attack = attacks().find(|attack| attack.name == name);
    let Attack { outcome, is_served, play, .. } =
        attack.with_context(|| format!("no attack {name}"))?;
    let mut front = Front::meet(victim)?;
    if *is_served {
        front.connect()?;
        front.takes_what_is_sent()?;
    }
    play(&mut front)?;
    match outcome {
        Outcome::Served => front.served()?,
        Outcome::Broken(_) => front.backend_says("carrier", &["0"]).map(drop)?,
        Outcome::Refused(words) => {
            front.backend_is(&["5"])?;
            let error = front.backend_key("hotplug-error")?;
            if !error.contains(words) {
                bail!("the error is {error:?} where it should have {words:?}");
            }
        }
        Outcome::Ended => {}
    }
    println!("{PLAYED}");
    io::stdin().read_to_end(&mut Vec::new())?;
    front.close()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_told_apart() {
        let names: BTreeSet<_> = attacks().map(|attack| attack.name).collect();
        assert_eq!(names.len(), attacks().count());
        assert!(!names.contains(ENDLESS));
    }
}
