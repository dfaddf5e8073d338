//! Rules of the repository itself: which way imports point, how long a file may be, what the papers must mention.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::proxy::CBPX;

/// The folder of each dialect below src/dialects, in the words by which code and comments would name it. `cbpx` is also
/// the program's name, `balance` and `fallback` are also English: they count only as part of a path.
const DIALECT_WORDS: &[(&str, &[&str])] = &[
    ("balance", &["dialects::balance", "balance 3", "`balance`"]),
    ("cbpx", &["dialects::cbpx"]),
    ("fallback", &["dialects::fallback", "tcp_fallback", "`fallback`"]),
    ("fproxy", &["fproxy"]),
    ("pumpkin", &["pumpkin", "PumpkinLB"]),
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

/// A row of the table of modules in src/lib.rs: the module, and what it imports.
type Row = (String, BTreeSet<String>);

/// The table of modules in src/lib.rs, in its order.
fn table() -> Vec<Row> {
    let text = read("src/lib.rs");
    let lines = text.lines().skip_while(|line| *line != "//! | module | what it knows | imports |").skip(2);
    let rows = lines.take_while(|line| line.starts_with("//! |")).map(|line| {
        let cells: Vec<&str> = line.trim_start_matches("//! ").trim_matches('|').split('|').map(str::trim).collect();
        let [module, _, imports] = cells[..] else { panic!("not three columns: {line}") };
        let imports = imports.split(',').map(|name| name.trim().to_owned()).filter(|name| name != "nothing");
        (module.trim_matches(['[', ']', '`']).to_owned(), imports.collect())
    });
    rows.collect()
}

/// The module a path leads to, and the path within it: `crate::core::msg` is `core`, and `msg`. The path may be a list.
fn targets(path: &str) -> Vec<(String, String)> {
    let one = |path: &str| {
        let name: String = path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let within = path[name.len()..].trim_start_matches("::").to_owned();
        (name, within)
    };
    match path.strip_prefix('{') {
        Some(list) => list.trim_end_matches(['}', ';']).split(',').map(|item| one(item.trim())).collect(),
        None => vec![one(path)],
    }
}

/// What follows `crate::` on a line, or as many `super::` as lead there, or the crate's name in `main`.
fn mentions<'a>(line: &'a str, own: &str, depth: usize) -> Vec<&'a str> {
    let above = "super::".repeat(depth);
    let by_super = line.match_indices(&above).filter(|(at, _)| !line[..*at].ends_with("super::"));
    let by_super = by_super.map(|(at, _)| &line[at + above.len()..]).filter(|rest| !rest.starts_with("super::"));
    let by_crate = line.match_indices("crate::").map(|(at, found)| &line[at + found.len()..]);
    let by_name = line.trim_start().strip_prefix("use cbpx::").filter(|_| own == "main");
    by_crate.chain(by_super).chain(by_name).collect()
}

/// How many `super` lead from a file to the crate.
fn depth(path: &Path) -> usize {
    let below = path.strip_prefix(root().join("src")).unwrap();
    below.components().count() - usize::from(path.ends_with("mod.rs"))
}

/// What each module imports according to its `use` lines and paths, with a place where it does.
fn imports() -> BTreeMap<String, BTreeMap<String, String>> {
    let mut found: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for (path, text) in sources("src") {
        let own = module(&path);
        // Only declares the modules.
        if own == "lib" {
            continue;
        }
        let imports = found.entry(own.clone()).or_default();
        for (number, line) in without_tests(&text).lines().enumerate() {
            if line.trim_start().starts_with("//") {
                continue;
            }
            let at = format!("{}:{}: {line}", path.display(), number + 1);
            for (name, within) in mentions(line, &own, depth(&path)).into_iter().flat_map(targets) {
                assert!(!name.is_empty(), "write a `use` of several modules on one line each: {at}");
                if name != own {
                    let inner = name == "core" && own != CORE_OWNER && !within.starts_with("msg");
                    assert!(!inner, "only {CORE_OWNER} may see more than messages: {at}");
                    imports.insert(name, at.clone());
                }
            }
        }
    }
    found
}

#[test]
fn each_module_imports_what_the_table_in_lib_rs_says_and_nothing_else() {
    let told: BTreeMap<_, _> = table().into_iter().collect();
    let found = imports();
    assert!(found.len() >= 18, "{found:?}");
    for (module, imports) in &found {
        let told = told.get(module).unwrap_or_else(|| panic!("src/lib.rs has no row for {module}"));
        for (name, at) in imports {
            assert!(told.contains(name), "src/lib.rs does not say that {module} imports {name}: {at}");
        }
        let unused: Vec<_> = told.iter().filter(|name| !imports.contains_key(*name)).collect();
        assert!(unused.is_empty(), "src/lib.rs says that {module} imports {unused:?}, and it does not");
    }
    let gone: Vec<_> = told.keys().filter(|module| !found.contains_key(*module)).collect();
    assert!(gone.is_empty(), "src/lib.rs tells of modules that do not exist: {gone:?}");
}

/// The table is in such an order that each module imports only modules above it: so there is no circle.
#[test]
fn modules_import_only_what_stands_above_them_in_the_table() {
    let mut above = BTreeSet::new();
    let mut circles = Vec::new();
    for (module, imports) in table() {
        circles.extend(imports.difference(&above).map(|name| (module.clone(), name.clone())));
        above.insert(module);
    }
    assert!(circles.is_empty(), "imports of a module that stands below: {circles:?}");
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
fn no_dialect_is_named_in_the_modules_above_dialects() {
    let order: Vec<String> = table().into_iter().map(|(module, _)| module).collect();
    let above: Vec<_> = order.iter().take_while(|module| *module != "dialects").collect();
    for module in ["core", "engine", "relay", "net", "config", "observe", "control"] {
        assert!(above.iter().any(|name| *name == module), "{module} is not above dialects: {above:?}");
    }
    let folders = fs::read_dir(root().join("src/dialects")).unwrap().map(|entry| entry.unwrap().path());
    for folder in folders.filter(|path| path.is_dir()) {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let words = DIALECT_WORDS.iter().find(|(dialect, _)| *dialect == name).map(|(_, words)| *words);
        let words = words.unwrap_or_else(|| panic!("{name}: a new dialect needs a row in DIALECT_WORDS"));
        for (path, text) in sources("src").into_iter().filter(|(path, _)| above.contains(&&module(path))) {
            for (number, line) in text.lines().enumerate() {
                let found = words.iter().find(|word| line.contains(**word));
                assert!(found.is_none(), "{}:{} names {name}: {line}", path.display(), number + 1);
            }
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
