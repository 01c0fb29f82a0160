//! Checks the sources against architecture rules: which room may use which, where I/O may happen,
//! where wire types may be named, how long a file may be.
//!
//! The rules are described in ARCHITECTURE.md. Test code (`#[cfg(test)]` modules, `tests.rs`) is
//! exempt from the rules about rooms, since it may need to build anything.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use regex::Regex;

/// Rooms that every room may look at: plain types, ids, owned tasks, how errors are told.
const GROUND: &[&str] = &["model", "ids", "lifecycle", "telemetry"];

/// What each room may look at besides itself and [`GROUND`]. `lib`, `main` and `app` join the
/// rooms and may see all of them.
const MAY_SEE: &[(&str, &[&str])] = &[
    (
        "serve",
        &["pod", "sandbox", "container", "image", "stream", "stats", "board", "proto", "backend"],
    ),
    ("pod", &["sandbox", "container", "image", "board", "oci", "logs", "store", "backend"]),
    ("sandbox", &["container", "image", "board", "oci", "logs", "store", "pause", "backend"]),
    ("stream", &["sandbox"]),
    ("stats", &["board", "backend"]),
    ("container", &["image", "board", "cdi", "oci", "logs", "store", "backend"]),
    ("image", &["oci", "logs", "store", "backend"]),
    ("board", &["backend"]),
    ("pause", &[]),
    ("store", &[]),
    ("oci", &["backend"]),
    ("cdi", &[]),
    ("logs", &[]),
    ("backend", &[]),
    ("ctl", &["proto", "config"]),
    ("config", &[]),
    ("proto", &[]),
];

/// Single files that may look at more, and why: `serve/status.rs` is the one table from error to
/// gRPC code, so it names the errors of all rooms; a container's user is echoed in its status.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("serve/status.rs", "cdi"),
    ("serve/status.rs", "oci"),
    ("serve/status.rs", "store"),
    ("serve/cri/convert/status.rs", "oci::user"),
    ("board/snapshot.rs", "oci::user"),
];

/// The ground looks at nobody, but for ids, which model may carry.
const GROUND_MAY_SEE: &[(&str, &[&str])] =
    &[("model", &["ids"]), ("ids", &[]), ("lifecycle", &[]), ("telemetry", &[])];

/// Files and folders that do no input or output, besides whole rooms.
const PURE_FILES: &str = "logs/line logs/format pod/admit pod/backoff pod/manifest pod/phase \
                          pod/plan pod/quantity pod/translate";

const JOINERS: &[&str] = &["lib", "main", "app"];
const ADAPTERS: &[&str] = &["containerd", "cni", "linux", "nri"];
const LONGEST_FILE: usize = 500;
const NAMES_THAT_SAY_NOTHING: &[&str] =
    &["utils", "util", "helpers", "helper", "common", "manager", "misc"];

/// One source file with comments, strings and test modules taken out (line numbers kept).
struct Source {
    path: PathBuf,
    code: String,
    lines: usize,
}

impl Source {
    fn read(path: &Path) -> Self {
        let text =
            std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let code = without_test_modules(&without_comments_and_strings(&text));
        Self { path: path.to_owned(), code, lines: text.lines().count() }
    }

    /// Path below `src`, e.g. `serve/cri/pods.rs`.
    fn inside(&self) -> &Path {
        self.path.strip_prefix(src()).expect("a file below src")
    }

    fn room(&self) -> String {
        let first = self.inside().components().next().expect("a file name");
        first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
    }

    fn is_test_code(&self) -> bool {
        self.path.file_name().is_some_and(|name| name == "tests.rs")
            || self.inside().components().any(|part| part.as_os_str() == "tests")
    }

    fn line_of(&self, offset: usize) -> usize {
        self.code[..offset].matches('\n').count() + 1
    }

    /// `file:line` of every match.
    fn finds(&self, pattern: &Regex) -> Vec<String> {
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

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn src() -> PathBuf {
    root().join("src")
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
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

fn sources() -> &'static [Source] {
    static ALL: OnceLock<Vec<Source>> = OnceLock::new();
    let all =
        ALL.get_or_init(|| files_below(&src()).iter().map(|path| Source::read(path)).collect());
    assert!(all.len() > 10, "the sources were not found: {} files", all.len());
    all
}

fn rule_sources() -> impl Iterator<Item = &'static Source> {
    sources().iter().filter(|source| !source.is_test_code())
}

fn blank(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect()
}

/// Blanks comments, strings and character literals, so that only code is left to search.
fn without_comments_and_strings(text: &str) -> String {
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
fn crate_paths(code: &str) -> BTreeSet<String> {
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

fn allowed(room: &str) -> BTreeSet<&'static str> {
    if let Some((_, rooms)) = GROUND_MAY_SEE.iter().find(|(name, _)| *name == room) {
        return rooms.iter().copied().collect();
    }
    let row = MAY_SEE.iter().find(|(name, _)| *name == room);
    let (_, rooms) = row.unwrap_or_else(|| {
        panic!("room `{room}` is new: say in tests/architecture.rs what it may look at")
    });
    rooms.iter().chain(GROUND).copied().collect()
}

fn no_offence(offences: &[String], rule: &str) {
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

#[test]
fn rooms_look_only_where_they_may() {
    let mut offences = Vec::new();
    for source in rule_sources() {
        let room = source.room();
        if JOINERS.contains(&room.as_str()) {
            continue;
        }
        let allowed = allowed(&room);
        for path in crate_paths(&source.code) {
            let seen = path.split("::").next().unwrap_or_default();
            let file = source.inside().to_string_lossy().into_owned();
            let excepted = EXCEPTIONS
                .iter()
                .any(|(name, there)| *name == file && (*there == seen || path.starts_with(there)));
            if seen != room && !allowed.contains(seen) && !excepted {
                offences.push(format!("{} looks at crate::{path}", source.inside().display()));
            }
        }
    }
    no_offence(&offences, "a room looks where it may not");
}

#[test]
fn only_the_composition_root_names_adapters() {
    let mut offences = Vec::new();
    for source in rule_sources() {
        let room = source.room();
        if room == "backend" || JOINERS.contains(&room.as_str()) {
            continue;
        }
        for path in crate_paths(&source.code) {
            if let Some(("backend", inner)) = path.split_once("::")
                && (ADAPTERS.contains(&inner) || inner == "fake")
            {
                offences.push(format!("{} names crate::{path}", source.inside().display()));
            }
        }
    }
    no_offence(&offences, "only app.rs chooses adapters");
}

#[test]
fn pure_rooms_do_no_input_or_output() {
    let io = Regex::new(
        r"\bstd::(?:fs|process|thread)\b|\bstd::net::(?:Tcp|Udp)\w+|\bstd::os::unix::net\b|\btokio\b|\breqwest\b|\bnix::|\brustix::|\basync\s+fn\b",
    )
    .expect("a good pattern");
    let pure = |path: &Path| {
        let text = path.to_string_lossy();
        path.starts_with("oci")
            // Its streams are handles that others read and write.
            || (path.starts_with("model") && path != Path::new("model/streams.rs"))
            || PURE_FILES.split(' ').any(|stem| {
                text.starts_with(&format!("{stem}.")) || text.starts_with(&format!("{stem}/"))
            })
    };
    let offences: Vec<_> = rule_sources()
        .filter(|source| pure(source.inside()))
        .flat_map(|source| source.finds(&io))
        .collect();
    no_offence(&offences, "pure code does no input or output");
}

#[test]
fn the_wire_stops_at_the_front_hall() {
    let wire = Regex::new(r"\b(?:prost|prost_types|tonic|containerd_client|tonic_\w+)\s*::")
        .expect("a good pattern");
    let at_the_edge = |source: &Source| {
        ["serve", "ctl", "proto"].contains(&source.room().as_str())
            || source.inside().starts_with("backend/containerd")
            || source.inside().starts_with("backend/nri")
            || source.inside() == Path::new("backend/containerd.rs")
            // A gRPC probe is a client of the application's own wire.
            || source.inside() == Path::new("pod/handler/grpc.rs")
    };
    let offences: Vec<_> = rule_sources()
        .filter(|source| !at_the_edge(source))
        .flat_map(|source| source.finds(&wire))
        .collect();
    let rule = "wire types are named only in serve, ctl, proto, backend/{containerd,nri}";
    no_offence(&offences, rule);
}

#[test]
fn tasks_are_owned_and_queues_bounded() {
    let bare = Regex::new(
        r"\btokio::(?:task::)?spawn\s*\(|\btask::spawn\s*\(|\bunbounded_channel\b|\bruntime::Handle::current\(\)\.spawn\b",
    )
    .expect("a good pattern");
    let offences: Vec<_> = rule_sources().flat_map(|source| source.finds(&bare)).collect();
    no_offence(&offences, "use lifecycle::Tasks::spawn or a JoinSet, and bounded channels");
}

#[test]
fn grpc_codes_are_chosen_in_one_place() {
    // The front turns a panic of a handler into an answer; it has no error to look up.
    let table = [Path::new("serve/status.rs"), Path::new("serve/front.rs")];
    let chosen = Regex::new(r"\bStatus::(?:internal|unknown)\s*\(").expect("a good pattern");
    let offences: Vec<_> = rule_sources()
        .filter(|source| !table.contains(&source.inside()))
        .flat_map(|source| source.finds(&chosen))
        .collect();
    no_offence(&offences, "serve/status.rs alone turns errors into codes");
}

#[test]
fn nothing_is_left_undone() {
    let undone =
        Regex::new(r"\b(?:todo|unimplemented)!|#\[ignore|\bdbg!\s*\(").expect("a good pattern");
    let offences: Vec<_> = sources().iter().flat_map(|source| source.finds(&undone)).collect();
    no_offence(&offences, "no todo!, unimplemented!, dbg! and no ignored test");
}

#[test]
fn unsafe_code_is_denied_and_each_exception_is_explained() {
    let text = std::fs::read_to_string(src().join("lib.rs")).expect("src/lib.rs");
    assert!(text.contains("#![deny(unsafe_code)]"), "src/lib.rs denies unsafe code");
    let used = Regex::new(r"\bunsafe\s*(?:\{|impl\b|fn\b|extern\b)").expect("a good pattern");
    let mut offences = Vec::new();
    for path in files_below(&src()) {
        let text = std::fs::read_to_string(&path).expect("a source file");
        let uses = used.find_iter(&without_comments_and_strings(&text)).count();
        let reasons = text.matches("SAFETY:").count();
        if uses > reasons {
            offences.push(format!("{}: {uses} unsafe, {reasons} SAFETY", path.display()));
        }
    }
    no_offence(&offences, "each unsafe block has its SAFETY line");
}

#[test]
fn files_are_short_and_well_named() {
    let mut offences = Vec::new();
    let folders = ["src", "tests", "benches", "examples"];
    for path in folders.iter().flat_map(|folder| files_below(&root().join(folder))) {
        let lines = std::fs::read_to_string(&path).expect("a source file").lines().count();
        if lines > LONGEST_FILE {
            offences.push(format!("{}: {lines} lines", path.display()));
        }
        let below = path.strip_prefix(root()).expect("a file of ours").with_extension("");
        for part in below.components().map(|part| part.as_os_str().to_string_lossy().into_owned()) {
            if NAMES_THAT_SAY_NOTHING.contains(&part.as_str()) {
                offences.push(format!("{}: `{part}` says nothing", path.display()));
            }
        }
    }
    no_offence(&offences, "files stay under 500 lines, names say what is inside");
}

#[test]
fn long_test_modules_have_their_own_file() {
    let mut offences = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test_code()) {
        let inline = source.lines - source.code.trim_end().lines().count();
        if inline > 130 {
            offences.push(format!("{}: {inline} lines of tests", source.inside().display()));
        }
    }
    no_offence(&offences, "a test module over 100 lines moves to x/tests.rs beside x.rs");
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
}
