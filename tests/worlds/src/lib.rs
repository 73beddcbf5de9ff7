//! Host worlds: the whole domain but its boot, on a hypervisor, a xenstored and a
//! wire in memory, among guests that behave or do not.
//!
//! A [`World`] turns the domain's own loop in virtual time and lets it sleep like
//! the image does: a turn happens only when an event, an interrupt or the deadline
//! is there to wake it, so that a wake-up that is lost, or a loop that never rests,
//! fails a test.
//!
//! Its NIC is a scripted one on a [`Wire`], which does what a test says and nothing
//! else, or the image's own driver with a [`Card`].

pub mod allocations;
mod card;
pub mod compositions;
mod delivery;
pub mod explorer;
pub mod frames;
mod front;
mod scale;
pub mod scenarios;
mod schedule;
pub mod small;
pub mod streams;
pub mod trials;
mod uplink;
mod vcpus;
mod wire;
mod world;

pub use card::Card;
pub use delivery::STATUSES;
pub use drivers::fake::journal::{Level, journal};
pub use front::TxAnswer;
pub use front::{ControlRings, Front, Manners, Outgoing, Received, Rings, Spread, ToldHash};

pub use scale::heap_for_vifs;
pub use schedule::{OUTSIDE, Plan, Step};
pub use uplink::Uplink;
pub use vcpus::Vcpus;
pub use wire::Wire;
pub use world::{GUESTS, Id, US, World, pools, pools_with};
