//! placeholder
use crate::cli::{Invocation, Usage};
use std::ffi::OsString;
#[derive(Debug)]
pub struct Options;
pub fn parse(_: &[OsString]) -> Result<Invocation, Usage> {
    Ok(Invocation::Demo(Options))
}
pub fn run(_: &Options) -> Result<bool, Box<dyn std::error::Error>> {
    Ok(true)
}
