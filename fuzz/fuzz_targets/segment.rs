//! Fuzz target: falsified bytes anywhere in a segment, and every operation on it. The case itself is in `case.rs`.
//!
//! Nothing is checked here but that every case ends: the sanitizer sees reads out of range of a heap-backed queue, the fuzzer's
//! `-timeout` sees endless loops and its `-rss_limit_mb` sees unbounded memory.

#![no_main]

#[path = "../case.rs"]
mod case;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    case::run(input, std::path::Path::new("/dev/shm"));
});
