//! The way up, and down: resets, and the set-up after each (4.6).

use core::time::Duration;

use kernel::Pools;
use kernel::memory::Registers;
use kernel::packet::MacAddress;
use log::Level;
use xen::Instant;

use super::moderation::{Moderation, Pace};
use super::regs::*;
use super::{E1000e, Interrupts, Messages, OTHERS, QUEUES, State};
use crate::nic::{BufferProvider, Fault, Link};
use crate::pci::{Command, ConfigSpace};

/// How long the end of DMA is waited for; the reset comes in any case (3.1.3.10).
pub(super) const QUIESCE: Duration = Duration::from_millis(10);
/// How long nothing may be touched after a reset (10.2.2.1).
const SETTLE: Duration = Duration::from_micros(2);
/// How long a reset may take. The datasheet gives no time; a few milliseconds are
/// usual, most of them for reading the NVM.
pub(super) const RESET: Duration = Duration::from_millis(200);
/// How long transactions may be pending after bus mastering went off (ARCHITECTURE.md,
/// the reset ladder).
pub(super) const ABANDON: Duration = Duration::from_millis(100);

/// A ring fills its page.
const RING_BYTES: u32 = 4096;

impl<R: Registers, C: ConfigSpace, B: BufferProvider> E1000e<R, C, B> {
    /// The first half of a reset: the device may start nothing new.
    pub(super) fn begin_reset(&mut self, now: Instant) {
        self.statistics.resets += 1;
        self.link = Link::Down;
        self.interrupts = Interrupts::Missing;
        self.armed = 0;
        // The order behind xen-pt (ARCHITECTURE.md): bus mastering off, with Interrupt
        // Disable.
        if !self.function.change_command(Command::empty(), Command::BUS_MASTER) {
            let gone = self.function.command() == Command::all();
            return self.abandon(if gone { Fault::Gone } else { Fault::Command }, now);
        }
        if self.read(STATUS) == u32::MAX {
            return self.abandon(Fault::Gone, now);
        }
        // 4.6.1: interrupts are masked.
        self.write(IMC, u32::MAX);
        self.change(RCTL, RCTL_EN, 0);
        self.change(TCTL, TCTL_EN, 0);
        // 3.1.3.10: no new requests on the bus. A reset that hangs is not repeated by
        // writing back its bit.
        self.change(CTRL, CTRL_RST, CTRL_GIO_MASTER_DISABLE);
        // 4.5.2: firmware must not be at the PHY while it is reset.
        self.change(EXTCNF_CTRL, 0, EXTCNF_CTRL_MDIO_SW_OWNERSHIP);
        self.state = State::Quiescing(now);
    }

    pub(super) fn quiesce(&mut self, since: Instant, now: Instant) {
        let status = self.read(STATUS);
        if status == u32::MAX {
            return self.abandon(Fault::Gone, now);
        }
        let quiet = status & STATUS_GIO_MASTER_ENABLE == 0;
        let owned = self.read(EXTCNF_CTRL) & EXTCNF_CTRL_MDIO_SW_OWNERSHIP != 0;
        if !(quiet && owned) && now.since(since) < QUIESCE {
            if !owned {
                self.change(EXTCNF_CTRL, 0, EXTCNF_CTRL_MDIO_SW_OWNERSHIP);
            }
            return;
        }
        // 4.6.2: the reset.
        self.change(CTRL, 0, CTRL_RST);
        self.state = State::Resetting(now);
    }

    pub(super) fn finish_reset(&mut self, since: Instant, pools: &mut Pools, now: Instant) {
        if now.since(since) < SETTLE {
            return;
        }
        if self.read(CTRL) & CTRL_RST != 0 || self.read(EEC) & EEC_AUTO_RD == 0 {
            if self.read(STATUS) == u32::MAX {
                self.abandon(Fault::Gone, now);
            } else if now.since(since) >= RESET {
                self.abandon(Fault::Reset, now);
            }
            return;
        }
        // 4.6.1 again: the reset may have left causes behind. With all masked, the
        // read clears them.
        self.write(IMC, u32::MAX);
        self.read(ICR);
        self.change(EXTCNF_CTRL, EXTCNF_CTRL_MDIO_SW_OWNERSHIP, 0);
        self.reclaim(pools);
        if self.stopping {
            self.receiver.release(pools);
            self.state = State::Stopped;
            return;
        }
        self.state = match self.configure(pools, now) {
            Ok(()) => State::Running,
            Err(fault) => State::Failed(now, fault),
        };
    }

    /// Sets up a device just reset and lets it run.
    fn configure(&mut self, pools: &mut Pools, now: Instant) -> Result<(), Fault> {
        self.mac = self.read_mac()?;
        if !self.receiver.prepare(pools) {
            return Err(Fault::NoBuffers);
        }
        self.configure_general();
        self.configure_receive();
        self.configure_transmit();
        let interrupts = self.configure_interrupts(now);
        if !self.function.change_command(Command::BUS_MASTER, Command::empty()) {
            return Err(Fault::Command);
        }
        // 4.6.5: the receiver comes on once its ring is ready, its tail after it.
        let accept = RCTL_UPE | RCTL_MPE | RCTL_BAM | RCTL_DPF;
        self.write(RCTL, RCTL_EN | RCTL_LPE | accept | RCTL_SECRC);
        self.write(RDT, self.receiver.tail());
        self.change(
            TCTL,
            TCTL_CT | TCTL_COLD,
            TCTL_EN | TCTL_PSP | TCTL_CT_SUGGESTED | TCTL_COLD_FULL_DUPLEX,
        );
        if interrupts {
            self.test_interrupts(now);
        }
        self.survey = now;
        self.update_link();
        Ok(())
    }

    /// 10.2.5.23: the reset has loaded the address from the NVM.
    fn read_mac(&self) -> Result<MacAddress, Fault> {
        let (low, high) = (self.read(RAL), self.read(RAH));
        let [a, b, c, d] = low.to_le_bytes();
        let [e, f, ..] = high.to_le_bytes();
        let mac = MacAddress::new([a, b, c, d, e, f]);
        (high & RAH_AV != 0 && mac.is_unicast()).then_some(mac).ok_or(Fault::NoAddress)
    }

    /// 4.6.2 and 4.6.3.2: the link comes up by itself, nothing forced; no tags
    /// inserted or stripped, and no pause frames, which would let the wire's other
    /// end stop us. Statistics (4.6.4) are clear after a reset.
    fn configure_general(&self) {
        let off = CTRL_FRCSPD | CTRL_FRCDPLX | CTRL_RFCE | CTRL_TFCE | CTRL_VME;
        self.change(CTRL, off, CTRL_SLU);
        self.change(GCR, 0, GCR_COMPLETIONS);
        self.change(GCR2, 0, GCR2_COMPLETIONS);
    }

    /// 4.6.5, as far as the receiver is off. All frames pass, so the filter tables
    /// stay as they are. Acknowledgements of TCP raise no cause of their own, which
    /// in MSI-X mode would be an interrupt each.
    fn configure_receive(&self) {
        self.write(RFCTL, RFCTL_EXSTEN | RFCTL_ACK_DIS);
        self.write(RXCSUM, RXCSUM_IPOFLD | RXCSUM_TUOFLD);
        self.write(RDBAL, self.receiver.base() as u32);
        self.write(RDBAH, (self.receiver.base() >> 32) as u32);
        self.write(RDLEN, RING_BYTES);
        self.write(RDH, 0);
        self.write(RDT, 0);
        self.write(RXDCTL, DCTL_GRAN | DCTL_WTHRESH_ONE);
    }

    /// 4.6.6, as far as the transmitter is off.
    fn configure_transmit(&self) {
        self.write(TDBAL, self.transmitter.base() as u32);
        self.write(TDBAH, (self.transmitter.base() >> 32) as u32);
        self.write(TDLEN, RING_BYTES);
        self.write(TDH, 0);
        self.write(TDT, 0);
        self.write(TXDCTL, DCTL_GRAN | DCTL_WTHRESH_ONE | TXDCTL_RESERVED);
        self.write(TIPG, TIPG_SUGGESTED);
    }

    /// 7.4.2: the queues send message 0, everything else message 1. A queue's cause
    /// is cleared by its message; nothing is masked by it on the datasheet's device,
    /// and everything on QEMU's, so the driver does its own masking. Returns whether
    /// there are interrupts.
    fn configure_interrupts(&mut self, now: Instant) -> bool {
        let Some(Messages { msix, table, messages }) = &self.messages else { return false };
        let queues = IVAR_VALID << IVAR_RXQ0_SHIFT | IVAR_VALID << IVAR_TXQ0_SHIFT;
        let other = (IVAR_VALID | 1) << IVAR_OTHER_SHIFT;
        self.write(IVAR, queues | other | IVAR_EVERY_WRITE_BACK);
        self.write(EIAC, QUEUES);
        self.moderation = Moderation::new(&self.statistics, now);
        self.write(EITR[0], self.moderation.pace().interval());
        self.write(EITR[1], Pace::Steady.interval());
        let automatic = CTRL_EXT_EIAME | CTRL_EXT_IAME;
        self.change(CTRL_EXT, automatic, CTRL_EXT_PBA_CLR | CTRL_EXT_DRV_LOAD);
        match msix.enable(&self.function, table, messages) {
            Ok(()) => true,
            Err(error) => {
                // What is half set up must not fire later.
                let _ = msix.disable(&self.function);
                self.tell(Level::Warn, format_args!("polled, since {error}"), now);
                false
            }
        }
    }

    /// Asks for an interrupt of each cause (10.2.4.4).
    fn test_interrupts(&mut self, now: Instant) {
        self.interrupts = Interrupts::Testing { since: now, queues: true, other: true };
        self.armed = QUEUES;
        self.write(IMS, QUEUES | OTHERS);
        self.write(ICS, QUEUES | OTHERS);
    }

    /// Gives up a device that does not answer or does not reset.
    pub(super) fn abandon(&mut self, fault: Fault, now: Instant) {
        self.link = Link::Down;
        self.interrupts = Interrupts::Missing;
        // Reads the register back. A device that ignores even this is Xen's to
        // contain.
        self.function.change_command(Command::empty(), Command::BUS_MASTER);
        self.state = State::Abandoning(now, fault);
    }

    /// The ladder's last rung (ARCHITECTURE.md): sent packets go back once the bus is
    /// quiet, or regardless. Receive buffers stay until a reset succeeds.
    pub(super) fn give_up(
        &mut self,
        since: Instant,
        fault: Fault,
        pools: &mut Pools,
        now: Instant,
    ) {
        let quiet = self.function.transactions_pending() == Some(false);
        if quiet || now.since(since) >= ABANDON {
            self.reclaim(pools);
            self.state = State::Failed(now, fault);
        }
    }

    fn reclaim(&mut self, pools: &mut Pools) {
        self.statistics.send_aborted += self.transmitter.reclaim(pools);
    }
}
