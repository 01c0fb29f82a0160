//! The sources of this crate as the rules read them: code alone, with line numbers kept.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use regex::Regex;

/// One source file with comments, strings and test modules taken out (line numbers kept).
pub struct Source {
    path: PathBuf,
    pub code: String,
    pub lines: usize,
}

impl Source {
    fn read(path: &Path) -> Self {
        let text =
            std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let code = without_test_modules(&without_comments_and_strings(&text));
        Self { path: path.to_owned(), code, lines: text.lines().count() }
    }

    /// Path below `src`, e.g. `serve/cri/pods.rs`.
    pub fn inside(&self) -> &Path {
        self.path.strip_prefix(src()).expect("a file below src")
    }

    pub fn room(&self) -> String {
        let first = self.inside().components().next().expect("a file name");
        first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
    }

    pub fn is_test_code(&self) -> bool {
        self.path.file_name().is_some_and(|name| name == "tests.rs")
            || self.inside().components().any(|part| part.as_os_str() == "tests")
    }

    pub fn line_of(&self, offset: usize) -> usize {
        self.code[..offset].matches('\n').count() + 1
    }

    /// `file:line` of every match.
    pub fn finds(&self, pattern: &Regex) -> Vec<String> {
        let place = |m: regex::Match<'_>| {
            format!(
                "{}:{}: {}",
                self.inside().display(),
                self.line_of(m.start()),
                m.as_str().trim()
            )
        };
        pattern.find_iter(&self.code).map(place).collect()
    }
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub fn src() -> PathBuf {
    root().join("src")
}

pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.expect("a folder entry").path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

pub fn sources() -> &'static [Source] {
    static ALL: OnceLock<Vec<Source>> = OnceLock::new();
    let all =
        ALL.get_or_init(|| files_below(&src()).iter().map(|path| Source::read(path)).collect());
    assert!(all.len() > 10, "the sources were not found: {} files", all.len());
    all
}

pub fn rule_sources() -> impl Iterator<Item = &'static Source> {
    sources().iter().filter(|source| !source.is_test_code())
}

fn blank(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect()
}

/// Blanks comments, strings and character literals, so that only code is left to search.
pub fn without_comments_and_strings(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word_goes_on = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let length = if word_goes_on { None } else { literal_or_comment(rest) };
        match length.or_else(|| punctuated_literal_or_comment(rest)) {
            Some(length) => {
                code.push_str(&blank(&rest[..length]));
                rest = &rest[length..];
            }
            None => {
                code.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    code
}

/// Length of the raw or byte string at the start, if one starts there.
fn literal_or_comment(text: &str) -> Option<usize> {
    let after_b = text.strip_prefix('b').or_else(|| text.strip_prefix('c')).unwrap_or(text);
    let prefix = text.len() - after_b.len();
    if let Some(raw) = after_b.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        let body = raw[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        let length = body.find(&end)? + end.len();
        return Some(prefix + 1 + hashes + 1 + length);
    }
    (prefix == 1).then(|| punctuated_literal_or_comment(after_b)).flatten().map(|n| n + 1)
}

/// Length of the comment, string or character at the start, if one starts there.
fn punctuated_literal_or_comment(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if let Some(body) = text.strip_prefix("/*") {
        return Some(body.find("*/").map_or(text.len(), |end| end + 4));
    }
    let quote = text.chars().next().filter(|c| *c == '"' || *c == '\'')?;
    let mut escaped = false;
    for (offset, c) in text.char_indices().skip(1) {
        let is_lifetime = quote == '\'' && offset == 2 && !text[1..].starts_with('\\') && c != '\'';
        if is_lifetime && text.is_char_boundary(2) {
            return None;
        }
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return Some(offset + 1),
            _ => {}
        }
    }
    None
}

fn without_test_modules(code: &str) -> String {
    let start = Regex::new(
        r"#\[cfg\(test\)\]\s*(?:#\[[^\]]*\]\s*)*(?:pub(?:\([^)]*\))?\s+)?mod\s+\w+\s*\{",
    )
    .expect("a good pattern");
    let mut code = code.to_owned();
    while let Some(found) = start.find(&code) {
        let end = closing_brace(&code, found.end());
        let cut = blank(&code[found.start()..end]);
        code.replace_range(found.start()..end, &cut);
    }
    code
}

/// The offset behind the brace that closes the one just before `from`.
fn closing_brace(code: &str, from: usize) -> usize {
    let mut depth = 1;
    for (offset, c) in code[from..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return from + offset + 1;
        }
    }
    code.len()
}

/// Paths below `crate` that the code names, as far as two steps deep: `sandbox::Sandboxes`.
pub fn crate_paths(code: &str) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    let plain = Regex::new(r"\bcrate::(\w+)(?:::(\w+))?").expect("a good pattern");
    for found in plain.captures_iter(code) {
        let second = found.get(2).map_or(String::new(), |m| format!("::{}", m.as_str()));
        paths.insert(format!("{}{second}", &found[1]));
    }
    let group = Regex::new(r"\bcrate::(?:(\w+)::)?\{").expect("a good pattern");
    for found in group.captures_iter(code) {
        let open = found.get(0).expect("the match").end();
        let inner = &code[open..closing_brace(code, open) - 1];
        for item in top_items(inner) {
            match found.get(1) {
                Some(room) => {
                    let next = item.split("::").next().unwrap_or_default();
                    paths.insert(format!("{}::{next}", room.as_str()))
                }
                None => paths.insert(item),
            };
        }
    }
    paths
}

/// The items of a use group at its top level, each cut to one or two steps.
fn top_items(inner: &str) -> Vec<String> {
    let mut depth = 0;
    let mut items = vec![String::new()];
    for c in inner.chars().filter(|c| !c.is_whitespace()) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(String::new());
                continue;
            }
            _ => {}
        }
        items.last_mut().expect("never empty").push(c);
    }
    let cut = |item: String| {
        item.split("::")
            .take(2)
            .filter(|step| !step.starts_with('{'))
            .collect::<Vec<_>>()
            .join("::")
    };
    items.into_iter().filter(|item| !item.is_empty()).map(cut).collect()
}

/// The functions in code without comments and strings: where each starts and where it ends. One
/// without a body is left out.
pub fn functions(code: &str) -> Vec<(usize, usize)> {
    let start = Regex::new(r"\bfn\s+\w+").expect("a good pattern");
    let bounds = |found: regex::Match<'_>| {
        let mut depth = 0;
        for (offset, c) in code[found.end()..].char_indices() {
            match c {
                '(' | '[' => depth += 1,
                ')' | ']' => depth -= 1,
                ';' if depth == 0 => return None,
                '{' if depth == 0 => {
                    return Some((found.start(), closing_brace(code, found.end() + offset + 1)));
                }
                _ => {}
            }
        }
        None
    };
    start.find_iter(code).filter_map(bounds).collect()
}

#[test]
fn the_reader_of_sources_sees_what_it_should() {
    let text = r##"
        use crate::{ids::PodId, model::{pod, image::Image}, backend};
        use crate::backend::{Error, containerd::Client};
        // use crate::hidden::Comment;
        const TEXT: &str = "crate::hidden::Text { ";
        const RAW: &str = r#"crate::hidden "Raw" {"#;
        const QUOTE: [char; 4] = ['"', '\'', 'é', '\u{22}'];
        const BYTES: &[u8] = b"crate::hidden::Bytes {";
        fn f<'a>(x: &'a crate::store::Store) {}
        #[cfg(test)]
        mod tests { use crate::app::App; fn g() { tokio::spawn(async {}); } }
        use crate::after::Tests;
    "##;
    let code = without_test_modules(&without_comments_and_strings(text));
    let seen: Vec<_> = crate_paths(&code).into_iter().collect();
    assert_eq!(
        seen,
        [
            "after::Tests",
            "backend",
            "backend::Error",
            "backend::containerd",
            "ids::PodId",
            "model",
            "store::Store"
        ]
    );
    assert_eq!(code.lines().count(), text.lines().count(), "line numbers are kept");
    assert!(!code.contains("spawn"));
    assert_eq!(functions(&code).len(), 1, "test modules are not looked at");
    let code = "trait T { fn a(&self, x: [u8; 2]); fn b() -> [u8; 2] { if c { d } else { e } } }";
    let bodies: Vec<_> = functions(code).iter().map(|(from, to)| &code[*from..*to]).collect();
    assert_eq!(bodies, ["fn b() -> [u8; 2] { if c { d } else { e } }"]);
}
