//! Loom models of the protocol. Run with `RUSTFLAGS="--cfg loom" cargo test --release --lib models`.
