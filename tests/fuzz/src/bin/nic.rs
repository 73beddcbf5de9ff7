//! What a NIC says.
#![cfg_attr(fuzzing, no_main)]

fuzz::target!(NIC);
