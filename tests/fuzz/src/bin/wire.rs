//! What comes from the wire.
#![cfg_attr(fuzzing, no_main)]

fuzz::target!(WIRE);
