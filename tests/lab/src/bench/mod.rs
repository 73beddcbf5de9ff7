//! Causeway measured side by side with Linux in its place, on the same Xen.
//!
//! - [`sides`] are what is compared, and how each is started.
//! - [`rows`] are what is measured of each.
//! - [`rounds`] runs them, boot by boot, and keeps every figure as [`samples`].
//! - [`report`] makes a table and plots of the samples alone.

mod accounting;
mod memory;
mod plot;
mod report;
mod rounds;
mod rows;
mod samples;
mod sides;

pub use report::redraw;
pub use rounds::run;
