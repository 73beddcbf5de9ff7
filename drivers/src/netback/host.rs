//! What the control plane asks of the data plane.

use core::fmt;

use xen::Instant;

use super::{ConnectRequest, Options, Rate, VifConfig, VifId};

/// The data plane: whoever moves packets for the vifs that this connects. A vif is
/// known here from a successful [`connect`](Self::connect) until
/// [`disconnect`](Self::disconnect) has finished, and connected at most once.
pub trait VifHost {
    /// Why a vif cannot be served. Shown to the operator.
    type Refusal: fmt::Display;
    /// How a frontend broke the protocol. Shown to the operator.
    type Fault: fmt::Display;

    /// Whether a vif so configured can be served at all; asked before anything is
    /// advertised, so that `xl` hears of it while it waits for the attach.
    ///
    /// # Errors
    /// What cannot be done. The vif is closed and stays closed.
    fn admit(&mut self, vif: VifId, config: &VifConfig) -> Result<(), Self::Refusal>;

    /// Maps the rings, binds the port and begins to serve.
    ///
    /// # Errors
    /// What went wrong; all is undone. The vif is closed, and the frontend may try
    /// again.
    fn connect(&mut self, request: &ConnectRequest, now: Instant) -> Result<(), Self::Refusal>;

    /// Takes note of what the frontend of a connected vif changed.
    fn reconfigure(&mut self, vif: VifId, options: Options);

    /// Limits what the guest of a connected vif sends from now on, or no more.
    fn limit(&mut self, vif: VifId, rate: Option<Rate>, now: Instant);

    /// Begins to take a vif apart, and goes on with it, in the order of O-12. Called
    /// again and again until it has finished. With [`Urgency::Forced`] it finishes
    /// in this call, whatever it takes: the toolstack's patience is at its end.
    fn disconnect(&mut self, vif: VifId, urgency: Urgency, now: Instant) -> Progress;

    /// The next vif whose carrier changed since the last call, and how it is now:
    /// what it was in between is not told.
    fn next_carrier(&mut self) -> Option<(VifId, Carrier<Self::Fault>)>;
}

/// Whether packets reach the guest behind a connected vif.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Carrier<Fault> {
    /// They do, as soon as the vif is connected.
    Up,
    /// The guest has left its ring short of receive slots for too long. It still
    /// sends, and the carrier is up again once it refills the ring.
    Stalled,
    /// The frontend broke the protocol (P-16): it is not served any more until it
    /// connects anew.
    Broken(Fault),
}

impl<Fault: fmt::Display> fmt::Display for Carrier<Fault> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up => f.write_str("up"),
            Self::Stalled => f.write_str("off, the guest takes no packets"),
            Self::Broken(fault) => write!(f, "off, the frontend broke the protocol: {fault}"),
        }
    }
}

/// How long a disconnection may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Urgency {
    /// Until whoever holds the vif's pages is done with them.
    Patient,
    /// No longer.
    Forced,
}

/// How far a disconnection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Progress {
    /// Pages are still out.
    Pending,
    /// Nothing of the vif is left.
    Finished,
}
