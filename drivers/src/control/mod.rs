//! Everything that goes through XenStore: the client, the vifs' backends, and the
//! toolstack's wishes for the domain itself.

mod shutdown;

use core::time::Duration;

use xen::hypercall::Shutdown;
use xen::store::{Event, Store};
use xen::{Instant, SharedPage};

use crate::netback::{Backend, VifHost};
use shutdown::ShutdownWatch;

/// How long the vifs have to close before the domain ends regardless: enough to cut
/// off whoever holds pages, and no more, since the toolstack's user waits.
const STOP_PATIENCE: Duration = Duration::from_secs(8);
/// How many events are taken at a time, so that packets have their turn.
const EVENTS_PER_POLL: usize = 16;

/// The control plane. See the module's documentation.
pub struct Control {
    store: Store,
    backend: Backend,
    shutdown: ShutdownWatch,
    stopping_since: Option<Instant>,
}

/// What is to come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outlook {
    /// When to poll again, if nothing happens before. Not later than now where there
    /// was more to do than is done at a time.
    pub deadline: Option<Instant>,
    /// All is closed, or past waiting for: end the domain.
    pub shutdown: Option<Shutdown>,
}

impl Control {
    /// A control plane on the page that is shared with xenstored.
    pub fn new(page: SharedPage) -> Self {
        Self {
            store: Store::new(page),
            backend: Backend::new(),
            shutdown: ShutdownWatch::new(),
            stopping_since: None,
        }
    }

    /// Does what is to be done now. To be called when xenstored's port fired, when
    /// the deadline has come, and when the host may have gone on with a
    /// disconnection or seen a carrier change; when there is nothing to do, it costs
    /// next to nothing. `notify` raises the event at xenstored's end.
    pub fn poll(
        &mut self,
        host: &mut impl VifHost,
        now: Instant,
        mut notify: impl FnMut(),
    ) -> Outlook {
        let mut deadline = Some(now);
        for _ in 0..EVENTS_PER_POLL {
            self.shutdown.poll(&mut self.store, now);
            let next = self.backend.poll(&mut self.store, host, now);
            // Last, so that what was just asked for is on its way.
            let Some(event) = self.store.poll(&mut notify) else {
                deadline = next.into_iter().chain(self.shutdown.deadline()).min();
                break;
            };
            if let Event::Lost(fault) = &event {
                log::error!("XenStore: {fault}");
            }
            self.shutdown.event(&event, now);
            self.backend.event(&event, host, now);
        }
        let Some(asked) = self.shutdown.asked() else {
            return Outlook { deadline, shutdown: None };
        };
        if asked == Shutdown::Crash {
            return Outlook { deadline, shutdown: Some(asked) };
        }
        let since = match self.stopping_since {
            Some(since) => since,
            None => {
                log::info!("closing {} vifs to {asked:?}", self.backend.vifs());
                self.backend.stop();
                self.stopping_since = Some(now);
                // The backend has something to do at once.
                deadline = Some(now);
                now
            }
        };
        let end = since + STOP_PATIENCE;
        let over = self.backend.is_stopped() || now >= end;
        Outlook {
            deadline: Some(deadline.unwrap_or(end).min(end)),
            shutdown: over.then_some(asked),
        }
    }
}

#[cfg(test)]
mod tests {
    use xen::DomainId;
    use xen::bindings::{XS_READ, XS_TRANSACTION_END, XS_TRANSACTION_START, XS_WATCH, XS_WRITE};
    use xen::fake_store::{Netfront, Toolstack, VifPaths, Xenstored};

    use super::*;
    use crate::netback::{
        Carrier, ConnectRequest, Options, Progress, Rate, Urgency, VifConfig, VifId,
    };

    const US: DomainId = DomainId(5);
    const GUEST: DomainId = DomainId(10);

    struct Host;

    impl VifHost for Host {
        type Refusal = &'static str;
        type Fault = &'static str;

        fn admit(&mut self, _: VifId, _: &VifConfig) -> Result<(), &'static str> {
            Ok(())
        }

        fn connect(&mut self, _: &ConnectRequest, _: Instant) -> Result<(), &'static str> {
            Ok(())
        }

        fn reconfigure(&mut self, _: VifId, _: Options) {}

        fn limit(&mut self, _: VifId, _: Option<Rate>, _: Instant) {}

        fn disconnect(&mut self, _: VifId, _: Urgency, _: Instant) -> Progress {
            Progress::Finished
        }

        fn next_carrier(&mut self) -> Option<(VifId, Carrier<&'static str>)> {
            None
        }
    }

    struct World {
        xenstored: Xenstored,
        control: Control,
        now: Instant,
        front: Option<Netfront>,
    }

    impl World {
        fn new() -> Self {
            let mut world = Self::before_start();
            assert_eq!(world.run(), None);
            world
        }

        fn before_start() -> Self {
            let mut xenstored = Xenstored::new();
            xenstored.create_domain(US);
            xenstored.create_domain(GUEST);
            let control = Control::new(xenstored.connect(US, 0));
            Self { xenstored, control, now: Instant(1), front: None }
        }

        fn run(&mut self) -> Option<Shutdown> {
            for _ in 0..10_000 {
                let mut moved = false;
                let outlook = self.control.poll(&mut Host, self.now, || moved = true);
                if outlook.shutdown.is_some() {
                    return outlook.shutdown;
                }
                moved |= outlook.deadline.is_some_and(|deadline| deadline <= self.now);
                moved |= self.xenstored.serve();
                moved |= self.front.as_ref().is_some_and(|front| front.poll(&mut self.xenstored));
                if !moved {
                    return None;
                }
            }
            panic!("never quiet");
        }

        fn ask(&mut self, what: &str) -> Option<Shutdown> {
            let path = "/local/domain/5/control/shutdown";
            self.xenstored.act(DomainId::ZERO).write(path, what).unwrap();
            self.run()
        }

        fn own(&mut self, path: &str) -> Result<String, &'static str> {
            self.xenstored.act(US).read(path)
        }

        fn connect(&mut self, closes: bool) {
            let vif = VifPaths { frontend: GUEST, backend: US, devid: 0 };
            Toolstack::attach(&mut self.xenstored, &vif, &[]).unwrap();
            let mut front = Netfront::new(vif);
            front.closes = closes;
            self.front = Some(front);
            self.run();
            assert_eq!(self.own("backend/vif/10/0/state").as_deref(), Ok("4"));
        }
    }

    #[test]
    fn announces() {
        let mut world = World::new();
        assert_eq!(world.own("control/feature-poweroff").as_deref(), Ok("1"));
        assert_eq!(world.own("control/feature-reboot").as_deref(), Ok("1"));
        // Also where the toolstack made no such nodes for us to write.
        let mut world = World::before_start();
        world.xenstored.inject(XS_WRITE, "control/feature-poweroff", "EACCES", 1);
        world.run();
        assert_eq!(world.ask("poweroff"), Some(Shutdown::PowerOff));
    }

    /// H-15: what can be asked for, each acknowledged by emptying the node.
    #[test]
    fn wishes() {
        for (wish, expected) in [
            ("poweroff", Some(Shutdown::PowerOff)),
            ("halt", Some(Shutdown::PowerOff)),
            ("reboot", Some(Shutdown::Reboot)),
            ("suspend", None),
            ("crash", None),
            ("po\u{7}weroff and more than anybody would like to read of", None),
            ("", None),
        ] {
            let mut world = World::new();
            assert_eq!(world.ask(wish), expected, "{wish}");
            assert_eq!(world.own("control/shutdown").as_deref(), Ok(""));
            // One that is not done does not hinder one that is.
            assert!(world.ask("reboot").is_some());
        }
    }

    /// A crash happens at once, as any other would, and nothing else is a wish there.
    #[test]
    fn crashes_when_asked() {
        let mut world = World::new();
        world.connect(true);
        world.xenstored.act(DomainId::ZERO).write("/local/domain/5/control/sysrq", "s").unwrap();
        assert_eq!(world.run(), None);
        world.xenstored.act(DomainId::ZERO).write("/local/domain/5/control/sysrq", "c").unwrap();
        assert_eq!(world.run(), Some(Shutdown::Crash));
        assert_eq!(world.own("backend/vif/10/0/state").as_deref(), Ok("4"));
    }

    /// A wish that was there before us, and one that replaces another.
    #[test]
    fn wishes_in_passing() {
        let mut world = World::before_start();
        world.xenstored.act(US).write("control/shutdown", "halt").unwrap();
        assert_eq!(world.run(), Some(Shutdown::PowerOff));

        let mut world = World::new();
        world.xenstored.act(US).write("control/shutdown", "suspend").unwrap();
        while !world.xenstored.served.contains_key(&XS_TRANSACTION_START) {
            world.control.poll(&mut Host, world.now, || ());
            world.xenstored.serve();
        }
        assert_eq!(world.ask("reboot"), Some(Shutdown::Reboot));
    }

    /// One that cannot be acknowledged is obeyed all the same.
    #[test]
    fn wishes_that_cannot_be_acknowledged() {
        let mut world = World::new();
        world.xenstored.inject(XS_TRANSACTION_END, "", "EIO", 1);
        assert_eq!(world.ask("poweroff"), Some(Shutdown::PowerOff));
    }

    /// The vifs close first.
    #[test]
    fn closes_vifs_first() {
        let mut world = World::new();
        world.connect(true);
        assert_eq!(world.ask("poweroff"), Some(Shutdown::PowerOff));
        assert_eq!(world.own("backend/vif/10/0/state").as_deref(), Ok("6"));
    }

    /// A guest that does not play along delays the end, but not for long.
    #[test]
    fn does_not_wait_for_ever() {
        let mut world = World::new();
        world.connect(false);
        assert_eq!(world.ask("poweroff"), None);
        assert_eq!(world.own("backend/vif/10/0/state").as_deref(), Ok("5"));
        world.now = world.now + STOP_PATIENCE - Duration::from_nanos(1);
        assert_eq!(world.run(), None);
        let outlook = world.control.poll(&mut Host, world.now, || ());
        assert_eq!(outlook.deadline, Some(world.now + Duration::from_nanos(1)));
        world.now = world.now + Duration::from_nanos(1);
        assert_eq!(world.run(), Some(Shutdown::PowerOff));
    }

    /// After a lost connection it watches again.
    #[test]
    fn survives_a_lost_connection() {
        let mut world = World::new();
        world.xenstored.offer_reconnection(US);
        world.xenstored.break_index(US, 3000);
        assert_eq!(world.run(), None);
        assert_eq!(world.ask("reboot"), Some(Shutdown::Reboot));
    }

    /// More events than are taken at a time: packets have their turn in between.
    #[test]
    fn storms_are_taken_in_portions() {
        let mut world = World::new();
        for _ in 0..100 {
            world.xenstored.act(US).write("control/shutdown", "").unwrap();
        }
        world.xenstored.serve();
        let outlook = world.control.poll(&mut Host, world.now, || ());
        assert_eq!(outlook.deadline, Some(world.now));
        let outlook = world.control.poll(&mut Host, world.now, || ());
        assert_eq!(outlook.deadline, None, "a ring's kilobyte is taken");
        assert_eq!(world.run(), None);
    }

    /// What xenstored could not do once is tried again.
    #[test]
    fn requests_that_fail_once() {
        for kind in [XS_WATCH, XS_READ] {
            let mut world = World::before_start();
            world.xenstored.act(US).write("control/shutdown", "reboot").unwrap();
            world.xenstored.inject(kind, "shutdown", "EIO", 1);
            assert_eq!(world.run(), None);
            let second = Duration::from_secs(1);
            let outlook = world.control.poll(&mut Host, world.now, || ());
            assert_eq!(outlook.deadline, Some(world.now + second));
            world.now = world.now + second;
            assert_eq!(world.run(), Some(Shutdown::Reboot), "{kind}");
        }
    }
}
