//! `headgate`: arguments in, exit code out.

use std::process::ExitCode;

/// For every thread one heap that gives back what is freed: a gateway runs for years in a few dozen megabytes.
#[global_allocator]
static MEMORY: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    headgate::cli::main()
}
