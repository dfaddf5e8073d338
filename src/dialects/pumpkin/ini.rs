//! Parses a configuration file of sections, keys and values, and keeps line numbers so that messages can name the line.
//!
//! The format is that of Python's `configparser`, with one exception: a line with a `=` is split there, so that a key
//! may contain `:`; `:` separates only on lines without `=`. The crates for such files (configparser, rust-ini) keep no
//! line numbers and accept a repeated key, which is an error here.

use std::fmt;

/// A parsed file.
#[derive(Debug, PartialEq, Eq)]
pub struct Ini(Vec<Section>);

/// `[name]` and the entries after it.
#[derive(Debug, PartialEq, Eq)]
pub struct Section {
    pub name: String,
    pub line: usize,
    pub entries: Vec<IniEntry>,
}

/// `key = value`; the key is in lower case.
#[derive(Debug, PartialEq, Eq)]
pub struct IniEntry {
    pub key: String,
    /// A value continued on indented lines has all of them, separated by line breaks.
    pub value: String,
    pub line: usize,
}

/// A mistake and its line.
#[derive(Debug, PartialEq, Eq)]
pub struct IniMistake {
    line: usize,
    what: String,
}

impl fmt::Display for IniMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl Ini {
    /// Parses a whole file.
    ///
    /// # Errors
    /// Reports the first mistake.
    pub fn parse(text: &str) -> Result<Ini, IniMistake> {
        let mut reader = IniReader { sections: Vec::new(), open: None };
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (number, line) in text.lines().enumerate() {
            reader.line(number + 1, line)?;
        }
        let mut ini = Ini(reader.sections);
        for entry in ini.0.iter_mut().flat_map(|section| &mut section.entries) {
            entry.value = without_percent(entry)?;
        }
        Ok(ini)
    }

    /// In the order of the file.
    pub fn sections(&self) -> &[Section] {
        &self.0
    }

    pub fn section(&self, name: &str) -> Option<&Section> {
        self.0.iter().find(|section| section.name == name)
    }
}

struct IniReader {
    sections: Vec<Section>,
    /// Indentation of the last key, while its value may continue.
    open: Option<usize>,
}

impl IniReader {
    fn line(&mut self, number: usize, line: &str) -> Result<(), IniMistake> {
        let mistake = |what: String| Err(IniMistake { line: number, what });
        let text = line.trim();
        if text.is_empty() || text.starts_with(['#', ';']) {
            return Ok(());
        }
        let indent = line.len() - line.trim_start().len();
        if let (Some(open), Some(entry)) = (self.open, self.last_entry())
            && indent > open
        {
            if !entry.value.is_empty() {
                entry.value.push('\n');
            }
            entry.value.push_str(text);
            return Ok(());
        }
        // A line may begin with an IPv6 address in brackets as its key.
        if let (Some(rest), false) = (text.strip_prefix('['), text.contains("]:") && text.contains('=')) {
            let Some((name, after)) = rest.split_once(']') else {
                return mistake(format!("'{text}' has no ']'"));
            };
            if name.is_empty() || !after.is_empty() {
                return mistake(format!("'{text}' is not a section like [mappings]"));
            }
            if let Some(before) = self.sections.iter().find(|section| section.name == name) {
                return mistake(format!("section [{name}] is there already, in line {}", before.line));
            }
            self.open = None;
            self.sections.push(Section { name: name.to_owned(), line: number, entries: Vec::new() });
            return Ok(());
        }
        let Some((key, value)) = text.split_once('=').or_else(|| text.split_once(':')) else {
            return mistake(format!("'{text}' has neither '=' nor ':'"));
        };
        let (key, value) = (key.trim().to_lowercase(), value.trim().to_owned());
        if key.is_empty() {
            return mistake(format!("'{text}' has no key"));
        }
        let Some(section) = self.sections.last_mut() else {
            return mistake(format!("'{text}' comes before the first section"));
        };
        if let Some(before) = section.entries.iter().find(|entry| entry.key == key) {
            return mistake(format!("key '{key}' is in [{}] already, in line {}", section.name, before.line));
        }
        section.entries.push(IniEntry { key, value, line: number });
        self.open = Some(indent);
        Ok(())
    }

    fn last_entry(&mut self) -> Option<&mut IniEntry> {
        self.sections.last_mut().and_then(|section| section.entries.last_mut())
    }
}

/// The value with `%%` replaced by `%`.
fn without_percent(entry: &IniEntry) -> Result<String, IniMistake> {
    let mut value = String::new();
    let mut rest = entry.value.as_str();
    while let Some((before, after)) = rest.split_once('%') {
        let Some(after) = after.strip_prefix('%') else {
            let what = format!("a '%' in the value of '{}' is written '%%' (given: {})", entry.key, entry.value);
            return Err(IniMistake { line: entry.line, what: what.replace('\n', " ") });
        };
        value.push_str(before);
        value.push('%');
        rest = after;
    }
    value.push_str(rest);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All entries as `section.key=value@line`.
    fn read(text: &str) -> Vec<String> {
        let ini = Ini::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        let shown = |section: &Section| {
            let name = section.name.clone();
            let shown = move |entry: &IniEntry| format!("{name}.{}={}@{}", entry.key, entry.value, entry.line);
            section.entries.iter().map(shown).collect::<Vec<_>>()
        };
        ini.sections().iter().flat_map(shown).collect()
    }

    fn wrong(text: &str) -> String {
        Ini::parse(text).expect_err(text).to_string()
    }

    #[test]
    fn both_separators_are_taken_with_and_without_spaces() {
        let text = "[s]\na=1\nb = 2\nc: 3\nd :4\n";
        assert_eq!(read(text), ["s.a=1@2", "s.b=2@3", "s.c=3@4", "s.d=4@5"]);
    }

    #[test]
    fn a_line_with_an_equals_sign_is_split_there_so_that_a_key_may_have_a_colon() {
        let text = "[s]\n127.0.0.1:80=a:1\n8080: b:2\n[::1]:90 = c:3\n";
        assert_eq!(read(text), ["s.127.0.0.1:80=a:1@2", "s.8080=b:2@3", "s.[::1]:90=c:3@4"]);
    }

    #[test]
    fn keys_are_case_insensitive_and_sections_are_not() {
        assert_eq!(read("[S]\nKey=Value\n[s]\nKEY=x\n"), ["S.key=Value@2", "s.key=x@4"]);
        assert!(Ini::parse("[S]\n").unwrap().section("s").is_none());
    }

    #[test]
    fn comments_and_blank_lines_are_nothing_also_within_a_value() {
        let text = "# one\n; two\n\n[s]\n  # three\na=1,\n# four\n\n  2\n";
        assert_eq!(read(text), ["s.a=1,\n2@6"]);
        assert_eq!(read("[s]\na=1 # not a comment\n"), ["s.a=1 # not a comment@2"]);
    }

    #[test]
    fn indented_lines_go_on_with_the_value_before() {
        assert_eq!(read("[s]\na=1,\n  2,\n\t3\nb=\n  4\n"), ["s.a=1,\n2,\n3@2", "s.b=4@5"]);
        assert_eq!(read("[s]\n  a=1\n  b=2\n    3\n"), ["s.a=1@2", "s.b=2\n3@3"], "what counts is the key's indent");
        assert_eq!(read("[s]\r\na=1\r\n"), ["s.a=1@2"]);
    }

    #[test]
    fn a_percent_sign_is_written_twice() {
        assert_eq!(read("[s]\na=fe80::1%%eth0\nb=%%%%\n"), ["s.a=fe80::1%eth0@2", "s.b=%%@3"]);
        assert_eq!(wrong("[s]\na=%(b)s\n"), "line 2: a '%' in the value of 'a' is written '%%' (given: %(b)s)");
        assert!(wrong("[s]\na=100%\n").starts_with("line 2: a '%'"));
    }

    #[test]
    fn what_is_repeated_is_an_error_that_names_both_lines() {
        assert_eq!(wrong("[s]\nA=1\nb=2\na=3\n"), "line 4: key 'a' is in [s] already, in line 2");
        assert_eq!(wrong("[s]\n\n[s]\n"), "line 3: section [s] is there already, in line 1");
        assert_eq!(read("[s]\na=1\n[t]\na=1\n").len(), 2);
    }

    #[test]
    fn what_is_no_line_of_such_a_file_is_named() {
        for (text, told) in [
            ("a=1\n", "line 1: 'a=1' comes before the first section"),
            ("[s\n", "line 1: '[s' has no ']'"),
            ("[]\n", "line 1: '[]' is not a section like [mappings]"),
            ("[s] x\n", "line 1: '[s] x' is not a section like [mappings]"),
            ("[s]\njust words\n", "line 2: 'just words' has neither '=' nor ':'"),
            ("[s]\n= 4\n", "line 2: '= 4' has no key"),
            ("  indented\n", "line 1: 'indented' has neither '=' nor ':'"),
        ] {
            assert_eq!(wrong(text), told);
        }
    }

    #[test]
    fn an_empty_file_has_nothing_in_it() {
        assert_eq!(Ini::parse("").unwrap().sections(), []);
        assert_eq!(read("\u{feff}[s]\na=\n"), ["s.a=@2"]);
    }
}
