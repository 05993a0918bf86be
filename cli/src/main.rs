//! The `nokv` binary.
fn main() {}
