//! Help texts fit 80 columns, and the usage line has all required arguments.

use std::process::Command;

use crate::backend::Backend;
use crate::command::{Ran, run};
use crate::proxy::{CBPX, Proxy};
use crate::support::TempDir;

const COLUMNS: usize = 80;

/// What asks for help, with this value of `COLUMNS`.
fn ask(words: &[&str], columns: Option<&str>) -> Ran {
    let (dir, mut command) = (TempDir::new("help"), Command::new(CBPX));
    command.args(words).current_dir(dir.path()).env_remove("COLUMNS");
    if let Some(columns) = columns {
        command.env("COLUMNS", columns);
    }
    run(&mut command)
}

/// Help goes to standard output; as in the original, that of fallback goes to standard error.
fn text(words: &[&str], columns: Option<&str>) -> String {
    let ran = ask(words, columns);
    assert_eq!(ran.code, Some(0), "{words:?}: {ran:?}");
    ran.out + &ran.err
}

/// The other uses that `cbpx --help` names: `ctl`, `demo` and the old programs.
fn uses() -> Vec<String> {
    let help = text(&["--help"], None);
    let (_, uses) = help.split_once("Other uses:\n").unwrap();
    let names = uses.lines().map_while(|line| line.strip_prefix("  cbpx ")?.split(' ').next());
    let names: Vec<_> = names.map(str::to_owned).collect();
    assert!(names.len() >= 6 && names.contains(&"ctl".to_owned()), "{names:?}");
    names
}

fn fits(text: &str, what: &str) {
    let long: Vec<_> = text.lines().filter(|line| line.chars().count() > COLUMNS).collect();
    assert!(!text.trim().is_empty() && long.is_empty(), "{what}: more than {COLUMNS} columns: {long:#?}");
}

#[test]
fn every_help_text_fits_80_columns_whatever_the_terminal() {
    let names = uses();
    let mut questions = vec![vec!["-h"], vec!["--help"], vec!["pumpkin", "--help-config"]];
    questions.extend(names.iter().map(|name| vec![name.as_str(), "--help"]));
    for words in questions {
        let usual = text(&words, None);
        fits(&usual, &words.join(" "));
        for columns in ["20", "80", "300"] {
            assert_eq!(text(&words, Some(columns)), usual, "{words:?} with COLUMNS={columns}");
        }
    }
}

#[test]
fn what_a_wrong_command_line_is_answered_fits_80_columns() {
    for words in [&["balance"][..], &["fallback"], &["pumpkin"], &["fproxy"], &["ctl"], &["demo", "--nosuch"]] {
        let ran = ask(words, Some("300"));
        assert_ne!(ran.code, Some(0), "{ran:?}");
        fits(&ran.err, &words.join(" "));
    }
}

#[test]
fn the_words_of_control_fit_80_columns() {
    let backend = Backend::echo("A");
    let proxy = Proxy::start(&backend.address(), &backend.address(), &[]);
    let help = proxy.ask("help");
    assert!(help.lines().count() >= 10, "{help}");
    fits(&help, "help over control");
    let balance = crate::balance::Balance::start(&[], &[&backend.address()]);
    let help = balance.ask("help");
    assert!(help.lines().count() >= 10, "{help}");
    fits(&help, "help over the control of balance");
}

#[test]
fn the_other_uses_keep_their_indent() {
    let help = text(&["--help"], Some("40"));
    let (_, uses) = help.split_once("Other uses:\n").unwrap();
    let (uses, _) = uses.split_once("\n\n").unwrap();
    assert!(uses.lines().all(|line| line.starts_with("  cbpx ")), "{uses}");
}

/// The usage: from its line to the next empty one.
fn usage(help: &str) -> String {
    let lower = help.to_lowercase();
    let at = lower.find("usage: ").unwrap_or_else(|| panic!("no usage in: {help}"));
    help[at..].split("\n\n").next().unwrap().to_owned()
}

#[test]
fn the_usage_line_names_everything_that_must_be_given() {
    // The flags that must be given are those that are missed.
    let missed = ask(&[], None).err;
    let missed = missed.lines().find_map(|line| line.strip_prefix("cbpx: missing: ")).unwrap().to_owned();
    let flags: Vec<_> = missed.split(", ").map(|flag| &flag[..2]).collect();
    assert_eq!(flags, ["-p", "-a", "-s", "-t", "-c", "-o"]);
    let line = usage(&text(&["--help"], None));
    for flag in flags {
        assert!(line.contains(&format!(" {flag} ")), "no {flag} in {line}");
    }
    for (words, required) in [
        (&["ctl", "--help"][..], &["COMMAND"][..]),
        (&["balance", "--help"], &["PORT"]),
        (&["fallback", "--help"], &["LOCAL:PORT", "REMOTE:PORT"]),
        (&["pumpkin", "--help"], &["CONFIG"]),
        (&["fproxy", "--help"], &["CLUSTER", " -- ", "BACKEND"]),
    ] {
        let line = usage(&text(words, None));
        for word in required {
            assert!(line.contains(word), "no {word} in {line}");
        }
    }
}
