//! The console: the same commands, on the terminal from which the program was started. Its thread is detached and owns
//! nothing: it blocks in a read that nothing can interrupt, and must not delay the end of the program.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::getpgrp;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{Cmd, CompletionType, Config, Editor, Helper, KeyEvent};

use super::Context;
use super::table;
use super::terminal::{Interrupts, StopSignal, Terminal};
use crate::threads;

/// In the working directory, as in the original.
const HISTORY: &str = ".cbpx_history";

/// How long the end of the program waits for an answer that is being written.
const FAREWELL: Duration = Duration::from_millis(300);

/// A running console. Dropping it lets the current command finish its answer, and restores the terminal's settings,
/// which line editing has changed.
pub struct Console {
    interrupts: Interrupts,
    /// Locked while a command runs; true when no more commands are to be read.
    closing: Arc<Mutex<bool>>,
    before: Option<Termios>,
}

impl Console {
    /// Starts the console if standard input and output are a terminal in whose foreground the program runs; otherwise
    /// returns `None`, and the proxy runs without a console. `interrupts` receives Ctrl-C.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(context: Context, interrupts: Interrupts) -> io::Result<Option<Console>> {
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Ok(None);
        }
        if !is_in_foreground() {
            log::info!("no console: the terminal belongs to another program");
            return Ok(None);
        }
        let closing = Arc::new(Mutex::new(false));
        let before = tcgetattr(io::stdin()).ok();
        let console = Console { interrupts: interrupts.clone(), closing: Arc::clone(&closing), before };
        // Detached: see above.
        drop(threads::spawn("console", move || converse(&context, &interrupts, &closing))?);
        Ok(Some(console))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.interrupts.interrupt();
        if let Some(mut closing) = self.closing.try_lock_for(FAREWELL) {
            *closing = true;
        }
        if let Some(before) = self.before.as_ref().filter(|_| is_in_foreground()) {
            // Fails if the terminal has gone.
            tcsetattr(io::stdin(), OptionalActions::Now, before).ok();
        }
    }
}

/// Whether this process is in the terminal's foreground; true if the terminal is not the controlling one.
fn is_in_foreground() -> bool {
    tcgetpgrp(io::stdin()).map_or(true, |group| group == getpgrp())
}

fn converse(context: &Context, interrupts: &Interrupts, closing: &Mutex<bool>) {
    let mut editor = match editor() {
        Ok(editor) => editor,
        Err(e) => return log::error!("no console: {e}"),
    };
    // If the terminal cannot be written to, the first command fails.
    let mut out = io::stdout();
    writeln!(out, "{} {}: 'help' lists the commands", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION")).ok();
    loop {
        if !is_in_foreground() {
            return log::info!("console closed: the terminal belongs to another program");
        }
        let line = match editor.readline(concat!(env!("CARGO_PKG_NAME"), "> ")) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            // Ctrl-D repeats the prompt. If the terminal has gone, the console ends, and the program does not.
            Err(ReadlineError::Eof) if tcgetattr(io::stdin()).is_ok() => {
                writeln!(out).ok();
                continue;
            }
            Err(e) => return log::info!("console closed: {e}"),
        };
        if line.trim().is_empty() || line.starts_with(' ') {
            continue;
        }
        remember(&mut editor, &line);
        log::info!("console: {}", table::printable(&line));
        let closing = closing.lock();
        let mut terminal = Terminal::new(&mut out, StopSignal::CtrlC(interrupts));
        if table::run(context, &line, &mut terminal).is_err() {
            return log::info!("console closed: the terminal cannot be written to");
        }
        // Another prompt would change the terminal's settings again while they are being restored.
        if *closing || terminal.ending {
            return;
        }
    }
}

type LineEditor = Editor<CommandCompleter, FileHistory>;

fn editor() -> rustyline::Result<LineEditor> {
    let config = Config::builder().completion_type(CompletionType::List).build();
    let history = FileHistory::with_config(&config);
    let mut editor = Editor::with_history(config, history)?;
    editor.set_helper(Some(CommandCompleter));
    // Ctrl-Z would stop every program of the process group, and stopping this one has no use.
    editor.bind_sequence(KeyEvent::ctrl('Z'), Cmd::Noop);
    // Created with mode 0600. If the directory is not writable, there is no history.
    OpenOptions::new().append(true).create(true).mode(0o600).open(HISTORY).ok();
    editor.load_history(Path::new(HISTORY)).ok();
    Ok(editor)
}

fn remember(editor: &mut LineEditor, line: &str) {
    editor.add_history_entry(line).ok();
    editor.save_history(Path::new(HISTORY)).ok();
}

/// Completes the names of the commands.
struct CommandCompleter;

impl Completer for CommandCompleter {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &rustyline::Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let begun = &line[..at];
        let names = table::ROWS.iter().map(|row| row.name.to_owned());
        Ok((0, names.filter(|name| name.starts_with(begun)).collect()))
    }
}

impl Hinter for CommandCompleter {
    type Hint = String;
}

impl Highlighter for CommandCompleter {}
impl Validator for CommandCompleter {}
impl Helper for CommandCompleter {}
