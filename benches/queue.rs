//! What an append, a pop and a round trip cost.

fn main() {}
