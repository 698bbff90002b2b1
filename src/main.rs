//! The `haggle` binary.

fn main() {}
