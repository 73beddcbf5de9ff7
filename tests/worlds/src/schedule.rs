//! Packets that honest parties send at fixed times, whatever else happens: what comes of
//! them says whether anybody noticed.

use std::time::Duration;

use xen::Instant;

use crate::{Id, Outgoing, Uplink, World, frames};

/// A station on the wire.
pub const OUTSIDE: [u8; 6] = [2, 0, 0, 0, 0, 0x77];

/// A packet that is sent.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// By which vif; from the wire, where by none.
    pub from: Option<Id>,
    /// To which vif, or to the wire.
    pub to: Option<Id>,
    /// How many bytes it has.
    pub len: usize,
}

/// What is sent in the n-th turn.
pub type Plan = fn(turn: usize) -> Vec<Step>;

/// When what is sent, and when it was.
#[derive(Default)]
pub(crate) struct Schedule {
    plan: Option<Plan>,
    interval: Duration,
    next: Option<Instant>,
    sent: Vec<Instant>,
}

impl Schedule {
    /// When the next turn is.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.next
    }
}

impl<U: Uplink> World<U> {
    /// From now on packets are sent by this plan.
    pub fn follow(&mut self, plan: Plan, interval: Duration) {
        let next = Some(self.now());
        self.schedule = Schedule { plan: Some(plan), interval, next, sent: Vec::new() };
    }

    /// The plan rests until [`go_on`](Self::go_on).
    pub fn rest(&mut self) {
        self.schedule.next = None;
    }

    /// The plan goes on, at once.
    pub fn go_on(&mut self) {
        self.schedule.next = Some(self.now());
    }

    /// When something was sent by plan.
    pub fn turns_of_plan(&self) -> Vec<Instant> {
        self.schedule.sent.clone()
    }

    /// Sends what is due by plan, and lets nobody move yet.
    pub fn keep_schedule(&mut self) {
        let now = self.now();
        if self.schedule.next.is_some_and(|next| next <= now) {
            self.schedule.next = Some(now + self.schedule.interval);
            self.send_turn();
        }
    }

    fn send_turn(&mut self) {
        let Some(plan) = self.schedule.plan else { return };
        let turn = self.schedule.sent.len();
        self.schedule.sent.push(self.now());
        let address = |world: &Self, who: Option<Id>| who.map_or(OUTSIDE, |id| world[id].mac());
        for Step { from, to, len } in plan(turn) {
            let frame = frames::plain(address(self, to), address(self, from), len, turn as u64);
            match from {
                Some(id) => {
                    let rest = len as u16 - 40;
                    self[id].send(&Outgoing::cut(&frame, vec![(0, 40), (5, rest)]));
                }
                None => self.wire.inject(frame),
            }
        }
    }

    /// Sends what a plan says at the moments at which another world did.
    pub fn repeat(&mut self, plan: Plan, moments: &[Instant]) {
        self.schedule = Schedule { plan: Some(plan), ..Schedule::default() };
        for moment in moments {
            self.pass(moment.since(self.now()));
            self.send_turn();
            self.settle();
        }
    }
}
