//! What a frontend writes into its rings.
#![cfg_attr(fuzzing, no_main)]

fuzz::target!(RING);
