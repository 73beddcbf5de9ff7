//! The Intel 82574 (and QEMU's `e1000e`). Section numbers are those of its
//! datasheet, revision 3.4.
//!
//! Bringing it up follows 4.6 in the order that xen-pt wants (ARCHITECTURE.md, "The NIC
//! behind xen-pt"), and is the same at boot and after a fault:
//!
//! ```text
//! Stopped ──start──► Quiescing ──► Resetting ──► Running
//!    ▲                   ▲             │            │ bus mastering lost,
//!    └───────stop────────┼─────────────┤            │ a packet not sent, stop
//!                        ├─────────────┼────────────┘
//!                  retry │             │ it does not finish, or the device is gone
//!                        └── Failed ◄──┴── Abandoning: the bus falls quiet
//! ```
//!
//! The device takes packets from [`transmit`] and fills buffers for [`receive`];
//! neither gives memory back while the device could still reach it.

mod bring_up;
mod moderation;
mod offload;
mod receive;
mod regs;
mod transmit;

use core::fmt;
use core::time::Duration;

use kernel::Pools;
use kernel::memory::{DmaPage, Registers};
use kernel::packet::{Batch, MacAddress};
use kernel::switch::{Holding, Port, PortQueue, Traffic, Versions};
use log::Level;
use xen::Instant;

use self::moderation::Moderation;
use self::receive::Receiver;
use self::regs::*;
use self::transmit::Transmitter;
use super::{BufferProvider, Cause, Fault, Link, Nic, Statistics, Status};
use crate::log_budget::LogBudget;
use crate::pci::{Command, ConfigSpace, Function, Identity, Message, Msix};

pub use self::regs::LEN as REGISTERS_LEN;

/// The BAR with the registers.
pub const REGISTERS_BAR: u8 = 0;

/// Descriptors in a ring, which fills its page.
const SLOTS: usize = 256;

/// When a device that failed is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// How often a running device is looked at.
const SURVEY: Duration = Duration::from_secs(1);
/// How long a packet may be in the ring: longer than a full one takes at 10 Mbit/s, even
/// where each descriptor tells of as much as it can.
const STALL: Duration = Duration::from_secs(2);
/// How long the device has a packet at most. One that is not sent is noticed by the
/// survey after [`STALL`], and is back when the reset is done, or when the reset
/// ladder's last rung is reached.
const HOLDING: Duration = STALL
    .saturating_add(SURVEY)
    .saturating_add(bring_up::QUIESCE)
    .saturating_add(bring_up::RESET)
    .saturating_add(bring_up::ABANDON);
/// How long an interrupt may take that the driver asked for.
const INTERRUPT_TEST: Duration = Duration::from_secs(1);

const QUEUES: u32 = CAUSE_RXQ0 | CAUSE_TXQ0;
const OTHERS: u32 = CAUSE_LSC | CAUSE_OTHER;

/// Whether the driver is for such a device.
pub fn supports(identity: &Identity) -> bool {
    // 82574L and 82574LA.
    matches!((identity.vendor, identity.device), (0x8086, 0x10d3 | 0x10f6))
}

/// How a device's interrupts reach us.
pub struct Messages<R> {
    /// The function's MSI-X.
    pub msix: Msix,
    /// The registers of the BAR that its table is in.
    pub table: R,
    /// A message for each [`Cause`], in their order.
    pub messages: [Message; 2],
}

/// Whether the device is QEMU's, which no card's maker has put a name to.
fn is_emulated(identity: &Identity) -> bool {
    identity.subsystem == (0x8086, 0)
}

/// Where on its way the device is, and since when.
#[derive(Clone, Copy, Debug)]
enum State {
    /// Down, after a reset or before the first.
    Stopped,
    /// Bus mastering is off, and what DMA is under way ends.
    Quiescing(Instant),
    /// The reset is under way.
    Resetting(Instant),
    Running,
    /// The device did not reset. What it still asked for comes back.
    Abandoning(Instant, Fault),
    Failed(Instant, Fault),
}

/// Whether interrupts come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Interrupts {
    /// They do not.
    Missing,
    /// One for each cause was asked for; these have not come.
    Testing {
        since: Instant,
        queues: bool,
        other: bool,
    },
    Working,
}

/// An 82574.
pub struct E1000e<R, C, B: BufferProvider> {
    function: Function<C>,
    registers: R,
    messages: Option<Messages<R>>,
    receiver: Receiver<B>,
    transmitter: Transmitter,
    state: State,
    stopping: bool,
    interrupts: Interrupts,
    moderation: Moderation,
    /// Causes of the queues that may interrupt.
    armed: u32,
    mac: MacAddress,
    link: Link,
    survey: Instant,
    statistics: Statistics,
    log: LogBudget,
}

impl<R: Registers, C: ConfigSpace, B: BufferProvider> E1000e<R, C, B> {
    /// A driver for `function`, which decodes `registers`, with a page for each of
    /// its two rings and `buffers` to receive into. Without `messages` it is
    /// polled. Nothing is touched before [`Nic::start`].
    pub fn new(
        function: Function<C>,
        registers: R,
        messages: Option<Messages<R>>,
        rings: [DmaPage; 2],
        buffers: B,
    ) -> Self {
        let [receive, transmit] = rings;
        let emulated = function.identity().as_ref().is_some_and(is_emulated);
        Self {
            function,
            registers,
            messages,
            receiver: Receiver::new(receive, buffers),
            transmitter: Transmitter::new(transmit, emulated),
            state: State::Stopped,
            stopping: false,
            interrupts: Interrupts::Missing,
            moderation: Moderation::new(&Statistics::default(), Instant(0)),
            armed: 0,
            mac: MacAddress::new([0; 6]),
            link: Link::Down,
            survey: Instant(0),
            statistics: Statistics::default(),
            log: LogBudget::default(),
        }
    }

    fn read(&self, register: u32) -> u32 {
        self.registers.read(register)
    }

    fn write(&self, register: u32, value: u32) {
        self.registers.write(register, value);
    }

    fn change(&self, register: u32, clear: u32, set: u32) {
        self.write(register, self.read(register) & !clear | set);
    }

    /// Has the queues interrupt as often as suits what passes.
    fn moderate(&mut self, now: Instant) {
        if self.interrupts == Interrupts::Working
            && let Some(pace) = self.moderation.look(&self.statistics, now)
        {
            self.write(EITR[0], pace.interval());
        }
    }

    /// Looks whether a running device still runs.
    fn look(&mut self, pools: &mut Pools, now: Instant) {
        if let Interrupts::Testing { since, .. } = self.interrupts
            && now.since(since) >= INTERRUPT_TEST
        {
            self.give_up_interrupts(now);
        }
        if now < self.survey {
            return;
        }
        self.survey = now + SURVEY;
        let command = self.function.command();
        if command == Command::all() || self.read(STATUS) == u32::MAX {
            return self.abandon(Fault::Gone, now);
        }
        if !command.contains(Command::BUS_MASTER) {
            // NETBACK-SPEC H-13: Xen's answer to ten IOMMU faults.
            self.statistics.mastering_lost += 1;
            self.tell(Level::Warn, format_args!("bus mastering was taken away; resetting"), now);
            return self.begin_reset(now);
        }
        self.update_link();
        self.collect_statistics();
        self.transmitter.reap(pools);
        // A packet in the ring has a bound in every state (NETBACK-SPEC O-8).
        match self.transmitter.oldest() {
            Some(_) if self.link == Link::Down => {
                // Nothing is sent until there is a link again, which may be never.
                self.statistics.flushes += 1;
                self.tell(Level::Info, format_args!("resetting, to flush it"), now);
                self.begin_reset(now);
            }
            Some(since) if now.since(since) >= STALL => {
                self.statistics.stalls += 1;
                self.tell(Level::Warn, format_args!("sending has stopped; resetting"), now);
                self.begin_reset(now);
            }
            _ => {}
        }
    }

    /// Tells the operator, if not too much was told already: the counters have it all.
    fn tell(&mut self, level: Level, what: fmt::Arguments<'_>, now: Instant) {
        if self.log.take(now) {
            log::log!(level, "{}: {what}", self.function.address());
        }
    }

    fn give_up_interrupts(&mut self, now: Instant) {
        self.tell(Level::Warn, format_args!("polled, since its interrupts do not come"), now);
        self.interrupts = Interrupts::Missing;
        self.armed = 0;
        self.write(IMC, u32::MAX);
        if let Some(messages) = &self.messages {
            let _ = messages.msix.disable(&self.function);
        }
    }

    /// 10.2.2.2.
    fn update_link(&mut self) {
        let status = self.read(STATUS);
        let up = status & STATUS_LU != 0 && status != u32::MAX;
        let speed = match status >> STATUS_SPEED_SHIFT & 3 {
            0 => 10,
            1 => 100,
            _ => 1000,
        };
        let full_duplex = status & STATUS_FD != 0;
        let link = if up { Link::Up { speed, full_duplex } } else { Link::Down };
        let lost = core::mem::replace(&mut self.link, link) != Link::Down && !up;
        self.statistics.links_lost += u64::from(lost);
    }

    /// 10.2.7: counters of 32 bits that reading clears.
    fn collect_statistics(&mut self) {
        let read = |register| match self.registers.read(register) {
            u32::MAX => 0,
            count => u64::from(count),
        };
        let device = &mut self.statistics.device;
        device.received += read(GPRC);
        device.sent += read(GPTC);
        device.missed += read(MPC);
        device.checksum_errors += read(CRCERRS);
        device.length_errors += read(RUC) + read(RFC) + read(ROC) + read(RJC);
        device.other_errors += read(RXERRC);
    }

    fn runs(&self) -> bool {
        matches!(self.state, State::Running)
    }

    /// Whether packets are sent.
    fn sends(&self) -> bool {
        self.runs() && self.link != Link::Down
    }
}

impl<R: Registers, C: ConfigSpace, B: BufferProvider> Port for E1000e<R, C, B> {
    fn transmit(&mut self, queue: &mut PortQueue, pools: &mut Pools, now: Instant) -> Traffic {
        self.reap(pools);
        if !self.sends() {
            return Traffic::default();
        }
        let tail = self.transmitter.tail();
        let sent = self.transmitter.transmit(queue, pools, now, &mut self.statistics);
        if self.transmitter.tail() != tail {
            self.write(TDT, self.transmitter.tail());
            // Who sleeps on received packets sleeps on sent ones as well.
            if self.armed != 0 {
                self.rearm();
            }
        }
        sent
    }

    fn partial_checksums(&self) -> Versions {
        Versions::ALL
    }

    fn holding(&self) -> Holding {
        Holding::Mapped(HOLDING)
    }

    fn room(&self) -> usize {
        if self.sends() { self.transmitter.room() } else { 0 }
    }
}

impl<R: Registers, C: ConfigSpace, B: BufferProvider> Nic for E1000e<R, C, B> {
    fn start(&mut self, now: Instant) {
        self.stopping = false;
        if matches!(self.state, State::Stopped) {
            self.begin_reset(now);
        }
    }

    fn stop(&mut self, now: Instant) {
        self.stopping = true;
        if matches!(self.state, State::Running | State::Failed(..)) {
            self.begin_reset(now);
        }
    }

    fn watchdog(&mut self, pools: &mut Pools, now: Instant) -> Status {
        match self.state {
            State::Stopped => {}
            State::Quiescing(since) => self.quiesce(since, now),
            State::Resetting(since) => self.finish_reset(since, pools, now),
            State::Running => {
                self.moderate(now);
                self.look(pools, now);
            }
            State::Abandoning(since, fault) => self.give_up(since, fault, pools, now),
            State::Failed(since, _) if now.since(since) >= RETRY => self.begin_reset(now),
            State::Failed(..) => {}
        }
        match self.state {
            State::Stopped => Status::Stopped,
            State::Running => Status::Running,
            State::Failed(_, fault) => Status::Failed(fault),
            _ => Status::Changing,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Stopped => None,
            State::Quiescing(since) | State::Resetting(since) | State::Abandoning(since, _) => {
                Some(since)
            }
            State::Running => Some(self.survey),
            State::Failed(since, _) => Some(since + RETRY),
        }
    }

    fn receive(&mut self, batch: &mut Batch, pools: &mut Pools) -> bool {
        if !self.runs() {
            return false;
        }
        let taken = self.receiver.receive(batch, pools, &mut self.statistics);
        if taken > 0 {
            self.write(RDT, self.receiver.tail());
        }
        taken == kernel::packet::BATCH || batch.is_full()
    }

    fn reap(&mut self, pools: &mut Pools) {
        if self.runs() {
            self.transmitter.reap(pools);
        }
    }

    fn acknowledge(&mut self, cause: Cause) {
        self.statistics.interrupts += 1;
        if let Interrupts::Testing { queues, other, .. } = &mut self.interrupts {
            match cause {
                Cause::Queues => *queues = false,
                Cause::Other => *other = false,
            }
            if !*queues && !*other {
                self.interrupts = Interrupts::Working;
            }
        }
        if !self.runs() || self.interrupts == Interrupts::Missing {
            return;
        }
        match cause {
            // Masked while the loop looks by itself.
            Cause::Queues if self.armed != 0 => {
                self.write(IMC, self.armed);
                self.armed = 0;
            }
            Cause::Queues => {}
            Cause::Other => {
                // Reading ICR would clear the queues' causes with the rest
                // (10.2.4.1); writing clears what is written.
                self.write(ICR, !QUEUES);
                self.update_link();
            }
        }
    }

    fn rearm(&mut self) {
        if !self.runs() || self.interrupts == Interrupts::Missing {
            return;
        }
        let sending = self.transmitter.oldest().map_or(0, |_| CAUSE_TXQ0);
        let missing = (CAUSE_RXQ0 | sending) & !self.armed;
        if missing != 0 {
            self.write(IMS, missing);
            self.armed |= missing;
        }
    }

    fn is_polled(&self) -> bool {
        self.interrupts != Interrupts::Working
    }

    fn mac(&self) -> MacAddress {
        self.mac
    }

    fn segmentation(&self) -> Versions {
        Versions::ALL
    }

    fn link(&self) -> Link {
        self.link
    }

    fn statistics(&self) -> Statistics {
        self.statistics
    }
}
