//! The attack list (NETBACK-SPEC section 4): what guests have tried on other backends, and
//! what they could try on this one, each id in its tests' names. docs/SECURITY.md says
//! which advisory each stands for.
//!
//! Whatever is tried, it is tried beside two honest guests who notice nothing
//! ([`harness`]).

mod addresses;
mod checksums;
mod control_ring;
mod crowd;
mod document;
mod drops;
mod events;
mod grants;
mod harness;
mod headroom;
mod hypervisor;
mod indices;
mod keys;
mod limits;
mod lives;
mod multicast;
mod pages;
mod queues;
mod rings;
mod scale;
mod segmentation;
mod slots;
mod stalls;
mod store;
mod vlans;
