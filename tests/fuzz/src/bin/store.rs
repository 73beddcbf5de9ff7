//! What XenStore has of a vif.
#![cfg_attr(fuzzing, no_main)]

fuzz::target!(STORE);
