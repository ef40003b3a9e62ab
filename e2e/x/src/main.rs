//! cargo x: the developer command.
fn main() {}
