//! The program `holdfast-shim`; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    holdfast_shim::cli::main()
}
