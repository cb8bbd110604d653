//! The binary `annals`: the command line of the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    annals_api::cli::main()
}
