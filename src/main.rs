//! Parse, run, exit code; everything else is in the library.

use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    quorate::openmp::settle();
    // `run --verbose` counts from here.
    let started = Instant::now();
    quorate::tls::install_provider();
    quorate::cli::main(started)
}
