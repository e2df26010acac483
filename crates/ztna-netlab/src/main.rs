//! `ztna-netlab`: see `--help`.

use std::process::ExitCode;

use ztna_netlab::args::{self, Invocation};
#[cfg(target_os = "linux")]
use ztna_netlab::io::{run, run_net};
use ztna_netlab::{Error, lab, verdict};

/// EX_USAGE of sysexits.h, as the other commands of this repository use it.
const USAGE: u8 = 64;
const FAILED: u8 = 1;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args::parse(&arguments) {
        Ok(Invocation::Help) => {
            print!("{}", args::HELP);
            return ExitCode::SUCCESS;
        }
        Ok(Invocation::NetHelp) => {
            print!("{}", lab::HELP);
            return ExitCode::SUCCESS;
        }
        Ok(Invocation::VerdictHelp) => {
            print!("{}", verdict::HELP);
            return ExitCode::SUCCESS;
        }
        Ok(Invocation::Verdict(questions)) => {
            for question in questions {
                println!("{}", question.answer());
            }
            return ExitCode::SUCCESS;
        }
        Ok(Invocation::Wire(wire)) => run(&wire),
        Ok(Invocation::Net(config)) => run_net(&config),
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ztna-netlab: {error}");
            ExitCode::from(match error {
                Error::Invalid { .. } | Error::Missing(_) | Error::Config(_) => USAGE,
                Error::Io { .. } => FAILED,
            })
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn run(_: &args::WireArgs) -> ztna_netlab::Result<()> {
    Err(unsupported())
}

#[cfg(not(target_os = "linux"))]
fn run_net(_: &std::path::Path) -> ztna_netlab::Result<()> {
    Err(unsupported())
}

#[cfg(not(target_os = "linux"))]
fn unsupported() -> Error {
    Error::Io { what: "TUN devices in network namespaces".into(), source: std::io::ErrorKind::Unsupported.into() }
}
