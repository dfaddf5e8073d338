//! Rules of the repository itself: which way imports point, how long a file may be, what the papers must mention.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::proxy::CBPX;

/// What each module of the crate may import. Files of a module may import each other.
const ARROWS: &[(&str, &[&str])] = &[
    ("endpoint", &[]),
    ("rate_limit", &[]),
    ("threads", &[]),
    ("children", &[]),
    ("lib", &[]),
    ("config", &["endpoint"]),
    ("net", &["endpoint", "rate_limit", "threads"]),
    ("settings", &["config"]),
    ("core", &["config", "endpoint"]),
    ("demo", &["config", "endpoint", "process", "settings", "threads"]),
    ("observe", &["config", "core", "dialects", "endpoint", "threads"]),
    ("relay", &["core", "endpoint", "engine", "net", "observe", "rate_limit", "threads"]),
    ("engine", &["children", "config", "core", "dialects", "endpoint", "net", "observe", "relay", "threads"]),
    ("control", &["config", "core", "dialects", "endpoint", "engine", "net", "observe", "settings", "threads"]),
    ("cli", &["config", "control", "demo", "dialects", "endpoint", "net", "observe"]),
    ("dialects", &["cli", "config", "control", "core", "endpoint", "engine", "observe", "rate_limit", "settings"]),
    (
        "process",
        &[
            "children", "config", "control", "core", "dialects", "endpoint", "engine", "net", "observe", "relay",
            "threads",
        ],
    ),
    ("main", &["cli", "demo", "dialects", "process"]),
];

/// Of which only messages and ids may be known outside `core` itself, and by whom more.
const CORE_OWNER: &str = "engine";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All Rust files below a folder.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found
}

/// The part of a file before its own tests.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text)
}

/// The module a source file belongs to: the first name below `src`.
fn module(path: &Path) -> String {
    let below = path.strip_prefix(root().join("src")).unwrap();
    let first = below.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

#[test]
fn imports_point_one_way() {
    for (path, text) in sources("src") {
        let own = module(&path);
        let allowed = ARROWS.iter().find(|(name, _)| *name == own).map(|(_, allowed)| *allowed);
        let allowed = allowed.unwrap_or_else(|| panic!("{}: a new module needs a row in ARROWS", path.display()));
        for (number, line) in without_tests(&text).lines().enumerate() {
            let mentions = line.split("crate::").skip(1).chain(line.trim_start().strip_prefix("use cbpx::"));
            for mention in mentions.filter(|_| !line.trim_start().starts_with("//")) {
                let name: String = mention.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let at = format!("{}:{}: {line}", path.display(), number + 1);
                let names: Vec<String> = match mention.strip_prefix('{') {
                    Some(list) => list
                        .trim_end_matches(['}', ';'])
                        .split(',')
                        .map(|item| item.trim().split("::").next().unwrap_or_default().to_owned())
                        .collect(),
                    None => vec![name],
                };
                for name in names {
                    assert!(own == name || allowed.contains(&name.as_str()), "{own} must not import {name}: {at}");
                    let inner = name == "core" && own != "core" && own != CORE_OWNER;
                    assert!(
                        !inner || mention.starts_with("core::msg"),
                        "only {CORE_OWNER} may see more than messages: {at}"
                    );
                }
            }
        }
    }
}

#[test]
fn no_file_is_too_long_to_be_read_in_one_sitting() {
    const LINES: usize = 400;
    for (path, text) in sources("src").into_iter().chain(sources("tests")).chain(sources("contrib")) {
        let lines = without_tests(&text).lines().count();
        assert!(lines <= LINES, "{} has {lines} lines, more than {LINES}", path.display());
    }
}

#[test]
fn every_source_file_says_what_it_guarantees() {
    for (path, text) in sources("src").into_iter().chain(sources("tests")) {
        assert!(text.starts_with("//!"), "{} does not begin with its purpose", path.display());
    }
}

#[test]
fn no_dialect_is_known_below_the_command_line() {
    for (path, text) in sources("src") {
        if !["core", "engine", "relay", "net", "config"].contains(&module(&path).as_str()) {
            continue;
        }
        for dialect in ["tcp_fallback", "PumpkinLB", "pumpkin", "fproxy"] {
            assert!(!text.contains(dialect), "{} names {dialect}", path.display());
        }
    }
}

#[test]
fn the_crate_is_free_of_unsafe_code() {
    assert!(read("src/lib.rs").contains("#![forbid(unsafe_code)]"));
    for (path, text) in sources("src") {
        let unsafe_block = ["unsafe", " {"].concat();
        assert!(!text.contains(&unsafe_block), "{}", path.display());
    }
}

#[test]
fn the_changelog_tells_of_this_version() {
    assert!(read("CHANGELOG.md").contains(&format!("## {}", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn the_readme_explains_every_flag_command_setting_and_ending() {
    let readme = read("README.md");
    let help = Command::new(CBPX).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let flags = help.split_whitespace().filter(|word| word.starts_with("--")).map(|word| word.trim_end_matches(','));
    let flags: Vec<&str> = flags.filter(|flag| flag.len() > 3).collect();
    assert!(flags.len() >= 18, "the help lists the flags: {flags:?}");
    for flag in flags {
        assert!(readme.contains(&format!("`{flag}")) || readme.contains(&format!(" {flag}`")), "README lacks {flag}");
    }
    let table = read("src/control/table.rs");
    let commands: Vec<&str> = table.split("name: \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(commands.len() >= 9, "{commands:?}");
    for command in commands {
        assert!(readme.contains(&format!("`{command}")), "README lacks the command {command}");
    }
    let settings = read("src/settings.rs");
    for name in settings.split("name: \"").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(readme.contains(name), "README lacks the setting {name}");
    }
    let words = read("src/observe/words.rs");
    for ending in words.split("CloseReason::").skip(1).filter_map(|rest| rest.split('"').nth(1)) {
        assert!(readme.contains(ending), "README lacks the ending '{ending}'");
    }
}
