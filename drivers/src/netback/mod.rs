//! The backend half of guests' network interfaces.

pub mod state;
