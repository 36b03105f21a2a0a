//! Fuzz target: as `segment`, but on the heap and without waiting, and so some forty times as fast.
//!
//! Not here: files, record locks and what another process may do to them; those are `segment`'s.

#![no_main]

#[path = "../case.rs"]
mod case;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    case::run_on_heap(input);
});
