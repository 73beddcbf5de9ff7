//! What a packet costs in Causeway itself: the real data path, with the driver of the
//! image's NIC, on the hypervisor and the device in software.
//!
//! What the hypervisor does is not counted, nor what guests do: time stops while a call is
//! beyond [`beyond`], and callgrind counts instructions in [`pass`] alone and not beyond it.

mod case;
pub mod marks;
mod metered;
mod workbench;

pub use case::{Case, Path, cases, cases_of_several_vcpus};
pub use metered::{Metered, beyond};
pub use workbench::{Workbench, pass};
