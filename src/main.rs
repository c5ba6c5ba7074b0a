//! `headgate`: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    headgate::cli::main()
}
