//! A deliberate defect, and the test that sees it.

use std::panic;

use kernel::defect::{self, Defect};

/// O-10: a packet that is given back while the device still has it.
#[test]
fn packets_ended_at_once_are_seen() {
    defect::set(Some(Defect::EndsPacketsAtOnce));
    let outcome = panic::catch_unwind(crate::send::packets_are_sent_in_order_and_ended_once_sent);
    defect::set(None);
    assert!(outcome.is_err());
}
