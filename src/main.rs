//! The program: parses one command line and returns one exit status.

use std::io::{self, Write};
use std::process::ExitCode;

use cbpx::cli::{self, Invocation, ctl};
use cbpx::dialects::Usage;
use cbpx::process::complain;
use cbpx::{demo, process};

/// `cbpx ctl` got no answer.
const UNREACHABLE: u8 = 3;

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()) {
        Ok(invocation) => run(invocation),
        Err(Usage { words, status }) => {
            complain(&words);
            ExitCode::from(status)
        }
    }
}

fn run(invocation: Invocation) -> ExitCode {
    match invocation {
        Invocation::Print(text) => finish(io::stdout().write_all(text.as_bytes()).map_err(Into::into)),
        Invocation::Tell { text, status } => {
            complain(text.trim_end());
            ExitCode::from(status)
        }
        Invocation::Serve { config, warnings } => {
            let name = &config.process.name;
            match process::run(&config, &warnings) {
                Ok(()) => ExitCode::SUCCESS,
                Err(failure) => {
                    if failure.is_news() {
                        complain(&format!("{name}: {failure}"));
                    }
                    ExitCode::from(failure.status)
                }
            }
        }
        Invocation::Demo(options) => match demo::run(&options) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(e) => finish(Err(e)),
        },
        Invocation::Ctl(request) => match request.run(&mut io::stdout()) {
            Ok(ctl::CtlOutcome::Done) => ExitCode::SUCCESS,
            Ok(ctl::CtlOutcome::Refused) => ExitCode::FAILURE,
            Ok(ctl::CtlOutcome::Unreachable(words)) => {
                complain(&format!("cbpx ctl: {words}"));
                ExitCode::from(UNREACHABLE)
            }
            Err(e) => finish(Err(e.into())),
        },
        Invocation::Instance(request) => match request.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(failed) => {
                failed.words.iter().for_each(|words| complain(words));
                ExitCode::from(failed.status)
            }
        },
    }
}

fn finish(result: Result<(), Box<dyn std::error::Error>>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            complain(&format!("cbpx: {e}"));
            ExitCode::FAILURE
        }
    }
}
