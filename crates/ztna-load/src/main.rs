//! `ztna-load`: see `--help`.

use std::process::ExitCode;

use ztna_load::args::{self, Invocation};
use ztna_load::{Error, io};

/// Exit codes as the other commands of this repository use them: EX_USAGE of sysexits.h, and failure while running.
const USAGE: u8 = 64;
const FAILED: u8 = 1;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args::parse(&arguments) {
        Ok(Invocation::Help) => {
            print!("{}", args::HELP);
            return ExitCode::SUCCESS;
        }
        Ok(Invocation::Handshakes(clients)) => io::handshakes(&clients),
        Ok(Invocation::Nodes(clients)) => io::nodes(&clients),
        Ok(Invocation::Flood(flood)) => io::flood(&flood),
        Err(error) => Err(error),
    };
    match outcome {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ztna-load: {error}");
            ExitCode::from(match error {
                Error::Invalid { .. } | Error::Missing(_) => USAGE,
                Error::Folder(_) | Error::Failed(_) | Error::Io { .. } => FAILED,
            })
        }
    }
}
