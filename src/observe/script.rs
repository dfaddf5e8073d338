//! The log lines of the switch script. They are the same in every style of log.

use std::path::Path;

use log::{error, info};

use crate::core::msg::ScriptEnd;

/// The script is about to be started with these arguments.
pub fn started(script: &Path, arguments: &[String]) {
    info!("running switch script: {} {}", script.display(), arguments.join(" "));
}

/// A line of the script's output.
pub fn output(line: &str) {
    info!("script: {line}");
}

/// The script has exited, was killed or could not be started.
pub fn ended(end: ScriptEnd) {
    match end {
        ScriptEnd::Exited(0) => info!("switch script returned: 0"),
        ScriptEnd::Exited(_) | ScriptEnd::Signalled(_) | ScriptEnd::NotStarted(_) => error!("switch {end}"),
    }
}
