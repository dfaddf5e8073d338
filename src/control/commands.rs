//! The commands: they ask the coordinator or read the statistics, and print the result in the format that scripts
//! parse.

use std::io;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::table::{CommandResult, ROWS, printable, visible};
use super::terminal::Terminal;
use super::{Context, FixedSettings};
use crate::core::msg::{Answer, Command, Outcome};
use crate::engine::messages::{Reply, SwitchTimings};
use crate::observe::stats::Snapshot;
use crate::settings;
use crate::threads as thread_names;

type CommandOutput = io::Result<CommandResult>;

pub fn hello(_: &Context, _: &[&str], terminal: &mut Terminal<'_>) -> CommandOutput {
    let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    terminal.line(&format!(" Hello! This is {name} {version}, at your service"))?;
    Ok(CommandResult::Done)
}

pub fn help(_: &Context, _: &[&str], terminal: &mut Terminal<'_>) -> CommandOutput {
    terminal.line(" Commands (several on a line are separated by ';'):")?;
    for row in ROWS {
        let arguments = if row.arguments.is_empty() { String::new() } else { format!(" {}", row.arguments) };
        let usage = if arguments.is_empty() { String::new() } else { format!(" ({}{arguments})", row.name) };
        terminal.line(&format!("   {:<10} : {}{usage}", row.name, row.help))?;
    }
    Ok(CommandResult::Done)
}

pub fn prompt(_: &Context, _: &[&str], terminal: &mut Terminal<'_>) -> CommandOutput {
    terminal.keep_open = true;
    Ok(CommandResult::Done)
}

pub fn threads(_: &Context, _: &[&str], terminal: &mut Terminal<'_>) -> CommandOutput {
    terminal.line(&format!(" Threads: {}", thread_names::list().join(" ")))?;
    Ok(CommandResult::Done)
}

pub fn abort(context: &Context, _: &[&str], terminal: &mut Terminal<'_>) -> CommandOutput {
    match context.ask(Command::Abort) {
        Some(Answer::RollingBack) => {
            terminal.line(" The switch is undone")?;
            Ok(CommandResult::Done)
        }
        Some(_) => refused(terminal, " No switch is running"),
        None => too_late(terminal),
    }
}

pub fn quit(context: &Context, arguments: &[&str], terminal: &mut Terminal<'_>) -> CommandOutput {
    let (command, words) = match arguments {
        [] => (Command::Quit, " Exiting..."),
        ["force"] => (Command::QuitForce, " Terminating connections and exiting..."),
        words => {
            return refused(
                terminal,
                &format!(" Not quitting: 'quit' takes nothing or 'force', not '{}'", printable(&words.join(" "))),
            );
        }
    };
    match context.ask(command) {
        Some(Answer::InUse { assigned: 0, held: 0 }) => refused(terminal, " Not quitting: a switch is running"),
        Some(Answer::InUse { assigned, held }) => refused(
            terminal,
            &format!(" Not quitting: clients connected: {assigned}, held: {held} ('quit force' resets them)"),
        ),
        Some(_) => {
            terminal.ending = true;
            terminal.line(words)?;
            Ok(CommandResult::Done)
        }
        None => too_late(terminal),
    }
}

pub fn set(context: &Context, arguments: &[&str], terminal: &mut Terminal<'_>) -> CommandOutput {
    match arguments {
        [] => {
            list_settings(context, terminal)?;
            Ok(CommandResult::Done)
        }
        [name, value] => change(context, name, value, terminal),
        [_] | [_, _, _, ..] => refused(terminal, "Use: 'set PARAMETER VALUE' to change a setting, 'set' to list all"),
    }
}

fn change(context: &Context, name: &str, value: &str, terminal: &mut Terminal<'_>) -> CommandOutput {
    let Some(row) = settings::find(name) else {
        let known = FixedSettings::NAMES.contains(&name);
        let text = if known { " Parameter is not settable: " } else { " No such parameter: " };
        return refused(terminal, &format!("{text}{}", printable(name)));
    };
    let setting = match row.parse(value) {
        Ok(setting) => setting,
        Err(refusal) => return refused(terminal, &format!(" {}", visible(&refusal.to_string()))),
    };
    match context.ask(Command::Set(setting)) {
        Some(_) => {
            terminal.line(&format!(" Parameter '{name}' set to '{}' ", printable(value)))?;
            Ok(CommandResult::Done)
        }
        None => too_late(terminal),
    }
}

fn list_settings(context: &Context, terminal: &mut Terminal<'_>) -> io::Result<()> {
    let now = context.stats.read().view.settings;
    let shown = |name: &str| settings::find(name).map(|row| row.show(&now)).unwrap_or_default();
    let fixed = &context.fixed;
    let rows = [
        ("Remote control port", fixed.control.clone()),
        ("Listening on", fixed.port.clone()),
        ("Active backend", fixed.active.clone()),
        ("Standby backend", fixed.standby.clone()),
        ("Switch timeout", shown("switch_max_time")),
        ("Max queued conns", shown("max_queued_conns")),
        ("Max open conns", shown("max_open_conns")),
        ("listen() backlog", fixed.backlog.clone()),
        ("Network buffer", shown("net_buffer_size")),
        ("Thread pairs", shown("thread_pairs")),
        ("Switch loop wait", shown("switch_loop_wait")),
        ("Switch script", fixed.script.clone()),
        ("Log file", fixed.log_file.clone()),
        ("Log level", fixed.log_level.clone()),
    ];
    for (label, value) in rows {
        terminal.line(&format!(" {label:<20}: {value}"))?;
    }
    let names: Vec<_> = settings::ROWS.iter().map(|row| format!("'{}'", row.name)).collect();
    terminal.line("")?;
    terminal.line(&format!(" Dynamic: [{}]", names.join(", ")))?;
    // Below the lines that existing scripts parse.
    terminal.line("")?;
    terminal.line(&format!(" Room for {}", fixed.room))
}

pub fn stats(context: &Context, arguments: &[&str], terminal: &mut Terminal<'_>) -> CommandOutput {
    let Some(interval) = arguments.first().and_then(|sleep| sleep.parse::<f64>().ok()) else {
        headings(terminal)?;
        terminal.line(&row(&context.stats.read()))?;
        return Ok(CommandResult::Done);
    };
    // A longer interval is a typing mistake; the bound also keeps the number within the range of a `Duration`.
    if !(0.1..=86_400.0).contains(&interval) {
        return refused(terminal, " SLEEP must be >= 0.1 seconds (and at most 86400)");
    }
    let mut left = match arguments.get(1).map(|count| count.parse::<u64>()) {
        None => u64::MAX,
        Some(Ok(count)) if count >= 1 => count,
        Some(_) => return refused(terminal, " COUNT must be >= 1: how many rows to show"),
    };
    const HEADINGS_EVERY: u64 = 50;
    let mut printed = 0;
    terminal.repeat(Duration::from_secs_f64(interval), |terminal| {
        if printed % HEADINGS_EVERY == 0 {
            headings(terminal)?;
        }
        terminal.line(&row(&context.stats.read()))?;
        printed += 1;
        left -= 1;
        Ok(left > 0)
    })?;
    Ok(CommandResult::Done)
}

pub fn switch(context: &Context, _: &[&str], terminal: &mut Terminal<'_>) -> CommandOutput {
    // Looks the backends' names up again before the clock starts. For addresses this takes no time.
    context.refresher.refresh();
    follow(context, &context.handle.ask(Command::Switch), terminal)
}

/// Streams a switchover until its outcome is known, which is printed at once.
fn follow(context: &Context, replies: &Receiver<Reply>, terminal: &mut Terminal<'_>) -> CommandOutput {
    let interval = || context.stats.read().view.settings.switch_loop_wait;
    let mut last_row: Option<Instant> = None;
    let mut wait = interval();
    loop {
        let reply = match last_row {
            Some(at) => replies.recv_deadline(at + wait),
            None => replies.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match reply {
            Ok(Reply::SwitchStarted { from, to, timeout, max_queued }) => {
                terminal.line(&format!(
                    " Starting switch: {from} -> {to}, timeout: {:.2} s, {max_queued} connections buffer",
                    timeout.as_secs_f64()
                ))?;
                terminal.line("")?;
                headings(terminal)?;
                let now = context.stats.read();
                last_row = Some(Instant::now());
                // A switchover that had nothing to wait for may already be over; this row describes its start.
                terminal.line(&row(&Snapshot { switch_time: Some(0.0), active: from, ..now }))?;
            }
            Ok(Reply::SettingChanged) => wait = interval(),
            Ok(Reply::ScriptLine(line)) => terminal.line(&format!(" script: {line}"))?,
            Ok(Reply::Answer(Answer::Switched(outcome), timings)) => {
                if let Some(timings) = timings {
                    terminal.line(&summary(&timings))?;
                }
                terminal.line("")?;
                terminal.line(&format!(" {outcome}"))?;
                return Ok(match outcome {
                    Outcome::Moved { .. } => CommandResult::Done,
                    Outcome::Failed(_) => CommandResult::Refused,
                });
            }
            Ok(Reply::Answer(Answer::SwitchRunning, _)) => {
                return refused(terminal, " Busy: a switch is running already");
            }
            Ok(Reply::Answer(_, _)) | Err(RecvTimeoutError::Disconnected) => return too_late(terminal),
            Err(RecvTimeoutError::Timeout) => {
                last_row = Some(Instant::now());
                terminal.line(&row(&context.stats.read()))?;
            }
        }
    }
}

fn summary(timings: &SwitchTimings) -> String {
    let seconds = |time: Duration| time.as_secs_f64();
    format!(
        " Took {:.3} s: drain {:.3} s, script {:.3} s; {} clients held",
        seconds(timings.total),
        seconds(timings.drain),
        seconds(timings.script),
        timings.held
    )
}

fn headings(terminal: &mut Terminal<'_>) -> io::Result<()> {
    terminal.line(" SWtime Current backend       active in queue ->cps cps-> q total")?;
    terminal.line(" ------ --------------------- ------ -------- ----- ----- -------")
}

fn row(now: &Snapshot) -> String {
    let time = now.switch_time.map_or_else(|| "[n/a]".to_owned(), |time| format!("{time:.2}"));
    format!(
        " {time:<6} {:<21} {:>6} {:>8} {:>5} {:>5} {:>7}",
        now.active, now.view.assigned, now.view.held, now.queued_per_second, now.dequeued_per_second, now.total
    )
}

fn refused(terminal: &mut Terminal<'_>, text: &str) -> CommandOutput {
    terminal.line(text)?;
    Ok(CommandResult::Refused)
}

fn too_late(terminal: &mut Terminal<'_>) -> CommandOutput {
    refused(terminal, " Too late: the program is ending")
}
