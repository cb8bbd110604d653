//! The program `annals`, built beside the tests so that cargo tells them where it is (`CARGO_BIN_EXE_annals-under-test`).

use std::process::ExitCode;

fn main() -> ExitCode {
    annals_api::cli::main()
}
