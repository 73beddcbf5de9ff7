//! What can happen next in a small world, what it comes to, and how states are told
//! apart.

use std::fmt::Write;
use std::hash::{DefaultHasher, Hasher};

use drivers::netback::Urgency;
use drivers::netback::data::STALL_TIMEOUT;
use kernel::switch::MAX_WAIT;
use xen::fake::{Grant, Kind};
use xen::{Hypervisor, PAGE_SIZE};

use super::plot::Left;
use super::text::TextHasher;
use super::{Action, Device, EDITED, End, NOWHERE, PATIENCE, POOL, Phase, SmallWorld, Who};
use crate::explorer::Play;

impl Play for SmallWorld {
    type Action = Action;

    fn actions(&self) -> Vec<Action> {
        let Left { offers, stalls, waits, droughts, .. } = self.left;
        let Left { revocations, edits, refusals, ends, returns, .. } = self.left;
        let [a, b] = [Who::A, Who::B].map(|who| self.phase(who) == Phase::Connected);
        let held = !self.wire.held().is_empty();
        let lends = self.devices[0].front.lent().next().is_some();
        let mut actions = vec![Action::Turn];
        let mut add = |action, can| actions.extend(Some(action).filter(|_| can));
        add(Action::Send, a && self.sent.len() < self.plot.packets.len());
        add(Action::Offer, b && offers > 0);
        add(Action::Complete, held);
        add(Action::Stall, held && stalls > 0);
        add(Action::Wait, waits > 0);
        add(Action::Drought, droughts > 0);
        add(Action::Revoke, a && lends && revocations > 0);
        add(Action::Edit, a && edits > 0 && !self.devices[0].taken.is_empty());
        for &kind in &self.plot.refusals.0 {
            add(Action::Refuse(kind), refusals > 0 && self.meanwhile.refuses().is_none());
        }
        for &(who, end) in &self.plot.ends {
            add(Action::End(who, end), ends > 0);
        }
        for who in [Who::A, Who::B] {
            let phase = self.phase(who);
            let ending = matches!(phase, Phase::Ending(..));
            add(Action::Disconnect(who), ending || matches!(phase, Phase::Ended(_)));
            add(Action::Force(who), ending);
            add(Action::Connect(who), returns > 0 && matches!(phase, Phase::Gone(_)));
        }
        actions
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Turn => self.turn(),
            Action::Send => self.send(),
            Action::Offer => {
                self.left.offers -= 1;
                self.device(Who::B).front.offer(1);
            }
            Action::Complete => assert!(self.wire.complete()),
            Action::Stall => {
                self.left.stalls -= 1;
                self.wire.stall();
            }
            Action::Wait => {
                self.left.waits -= 1;
                self.xen.advance(MAX_WAIT);
            }
            Action::Drought => {
                self.left.droughts -= 1;
                self.xen.advance(STALL_TIMEOUT);
            }
            Action::Revoke => {
                self.left.revocations -= 1;
                self.spoilt = true;
                let front = &self.device(Who::A).front;
                let oldest = front.lent().next().expect("a page lent");
                let reference = front.reference(oldest);
                front.guest.regrant(reference, NOWHERE, Grant::ReadOnly);
            }
            Action::Edit => {
                self.left.edits -= 1;
                self.edited = self.sent.len();
                let Device { front, taken, .. } = self.device(Who::A);
                for id in taken.keys() {
                    front.guest.page(front.lent_page(*id)).write(0, &[EDITED; PAGE_SIZE]);
                }
            }
            Action::Refuse(kind) => {
                self.left.refusals -= 1;
                self.meanwhile.refuse(kind);
                self.spoilt |= kind == Kind::Copy;
            }
            Action::End(who, end) => {
                self.left.ends -= 1;
                self.end_device(who, end);
            }
            Action::Disconnect(who) => self.disconnect(who, Urgency::Patient),
            Action::Force(who) => {
                if let Phase::Ending(_, since) = self.phase(who) {
                    let passed = self.xen.now().since(since);
                    self.xen.advance(PATIENCE.saturating_sub(passed));
                }
                self.disconnect(who, Urgency::Forced);
            }
            Action::Connect(who) => {
                self.left.returns -= 1;
                self.come_back(who);
            }
        }
        self.check();
    }

    /// Of the domain and of the hypervisor all, but for what [`TextHasher`] and
    /// [`FakeXen::hash_state`] leave out; and of those around them what decides what
    /// they do, and what is checked. How many packets and pages there were so far
    /// follows from the rest, as long as no rule is broken.
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.xen.hash_state(&mut hasher);
        let Self { network, left, devices, sent, next, edited, next_domain, .. } = self;
        let flags = (self.restless, self.spoilt, self.ended);
        let refusals = (self.meanwhile.refuses(), self.meanwhile.kept());
        let sent = (sent, next, edited);
        let state = (network, left, devices, sent, next_domain, flags, refusals);
        write!(TextHasher::new(&mut hasher), "{state:?}").expect("it takes all");
        hasher.finish()
    }

    fn end(mut self) {
        // Packets that found no room follow when those before them are gone.
        for _ in 0..if self.plot.pool < POOL { self.plot.packets.len() } else { 1 } {
            // Only time passes: what waits for a guest goes home, what the NIC has stays.
            self.pass(MAX_WAIT);
            while self.wire.complete() {
                self.check();
            }
            self.settle();
        }
        if !self.ended {
            self.check_at_rest();
        }
        for who in [Who::A, Who::B] {
            match self.phase(who) {
                Phase::Connected => {
                    assert_eq!(self.device(who).front.unanswered(), 0, "{who:?} waits");
                    self.end_device(who, End::Close);
                }
                Phase::Ended(_) | Phase::Ending(..) => {}
                Phase::Gone(_) => continue,
            }
            self.disconnect(who, Urgency::Patient);
            assert!(matches!(self.phase(who), Phase::Gone(_)), "pages of {who:?} are out");
        }
        self.settle();
        self.check_empty();
    }
}
