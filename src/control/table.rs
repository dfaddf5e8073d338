//! The table of commands: name, arguments, help and function of each. Help, completion and dispatch all read it.

use super::Context;
use super::commands;
use super::session::CommandSet;
use super::terminal::Terminal;

/// One command.
pub struct CommandRow {
    pub name: &'static str,
    pub arguments: &'static str,
    pub help: &'static str,
    pub run: fn(&Context, &[&str], &mut Terminal<'_>) -> std::io::Result<CommandResult>,
}

/// Whether a command succeeded. `cbpx ctl` turns it into its exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandResult {
    Done,
    Refused,
}

/// All commands, sorted by name.
pub const ROWS: &[CommandRow] = &[
    CommandRow { name: "abort", arguments: "", help: "abort the running switch", run: commands::abort },
    CommandRow { name: "hello", arguments: "", help: "say hello, with the version", run: commands::hello },
    CommandRow { name: "help", arguments: "", help: "list the commands", run: commands::help },
    CommandRow {
        name: "prompt",
        arguments: "",
        help: "keep this session open, with a prompt; hang up to leave",
        run: commands::prompt,
    },
    CommandRow {
        name: "quit",
        arguments: "[force]",
        help: "exit if no client is connected; force: reset them",
        run: commands::quit,
    },
    CommandRow {
        name: "set",
        arguments: "[PARAMETER VALUE]",
        help: "list the settings, or change one",
        run: commands::set,
    },
    CommandRow {
        name: "stats",
        arguments: "[SLEEP [COUNT]]",
        help: "show the counters, every SLEEP seconds",
        run: commands::stats,
    },
    CommandRow { name: "switch", arguments: "", help: "move all clients to the other backend", run: commands::switch },
    CommandRow { name: "threads", arguments: "", help: "list the names of the threads", run: commands::threads },
];

/// The command set of the control protocol.
pub struct SwitchoverCommands;

impl CommandSet for SwitchoverCommands {
    fn prompt(&self) -> String {
        concat!(env!("CARGO_PKG_NAME"), "> ").to_owned()
    }

    fn run(&mut self, context: &Context, line: &str, terminal: &mut Terminal<'_>) -> std::io::Result<CommandResult> {
        run(context, line, terminal)
    }
}

/// Runs one line: commands separated by `;`, one after the other.
///
/// # Errors
/// When the peer cannot be written to any more.
pub fn run(context: &Context, line: &str, terminal: &mut Terminal<'_>) -> std::io::Result<CommandResult> {
    let mut verdict = CommandResult::Done;
    for command in line.split(';') {
        let mut words = command.split_whitespace();
        let Some(name) = words.next() else { continue };
        let arguments: Vec<&str> = words.collect();
        let said = match ROWS.iter().find(|row| row.name == name) {
            Some(row) => (row.run)(context, &arguments, terminal)?,
            None => {
                terminal.line(&format!(" Unknown command: '{}'", printable(name)))?;
                CommandResult::Refused
            }
        };
        if said == CommandResult::Refused {
            verdict = said;
        }
    }
    Ok(verdict)
}

/// A peer's text without control characters, truncated, for the log or an answer.
pub fn printable(text: &str) -> String {
    const SHOWN: usize = 64;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => visible(&text[..end]) + "...",
        None => visible(text),
    }
}

/// The same, not truncated.
pub fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_names_fit_the_help() {
        for pair in ROWS.windows(2) {
            assert!(pair[0].name < pair[1].name, "{} before {}", pair[0].name, pair[1].name);
        }
        for row in ROWS {
            assert!(row.name.len() <= 10 && !row.help.is_empty() && !row.help.ends_with('.'), "{}", row.name);
        }
    }
}
