//! Checks the sources against architecture rules: which room may use which, where I/O may happen,
//! where wire types may be named, how long a file may be.
//!
//! The rules are described in ARCHITECTURE.md. Test code (`#[cfg(test)]` modules, `tests.rs`) is
//! exempt from the rules about rooms, since it may need to build anything.

#[path = "architecture/sources.rs"]
mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use regex::Regex;

use sources::{
    Source, crate_paths, files_below, functions, root, rule_sources, sources, src,
    without_comments_and_strings,
};

/// Rooms that every room may look at: plain types, ids, the time, owned tasks, locks, how errors
/// are told. They look at nobody, not even at each other.
const GROUND: &[&str] = &["model", "ids", "clock", "lifecycle", "locks", "telemetry"];

/// What each room may look at besides itself and [`GROUND`]. `lib`, `main` and `app` join the
/// rooms and may see all of them.
const MAY_SEE: &[(&str, &[&str])] = &[
    ("serve", &["pod", "sandbox", "container", "image", "stream", "stats", "proto", "backend"]),
    ("pod", &["sandbox", "container", "image", "board", "oci", "logs", "store", "backend"]),
    ("sandbox", &["container", "image", "board", "oci", "store", "backend"]),
    ("stream", &["sandbox"]),
    ("stats", &["board", "backend"]),
    ("container", &["image", "board", "cdi", "oci", "logs", "store", "backend"]),
    ("image", &["backend"]),
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

/// Files and folders that do no input or output, besides whole rooms.
const PURE_FILES: &str = "logs/line logs/format pod/admit pod/backoff pod/manifest pod/phase \
                          pod/plan pod/quantity pod/translate";

const JOINERS: &[&str] = &["lib", "main", "app"];
const ADAPTERS: &[&str] = &["containerd", "cni", "linux", "nri"];
const LONGEST_FILE: usize = 500;
const LONGEST_FUNCTION: usize = 60;
const NAMES_THAT_SAY_NOTHING: &[&str] =
    &["utils", "util", "helpers", "helper", "common", "manager", "misc"];

fn allowed(room: &str) -> BTreeSet<&'static str> {
    if GROUND.contains(&room) {
        return BTreeSet::new();
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
    let mut used = BTreeSet::new();
    for source in rule_sources() {
        let room = source.room();
        if JOINERS.contains(&room.as_str()) {
            continue;
        }
        let allowed = allowed(&room);
        let file = source.inside().to_string_lossy().into_owned();
        for path in crate_paths(&source.code) {
            let seen = path.split("::").next().unwrap_or_default();
            let excepted = EXCEPTIONS
                .iter()
                .find(|(name, there)| *name == file && (*there == seen || path.starts_with(there)));
            if seen == room || allowed.contains(seen) {
                used.insert((room.clone(), seen.to_owned()));
            } else if let Some((name, there)) = excepted {
                used.insert(((*name).to_owned(), (*there).to_owned()));
            } else {
                offences.push(format!("{file} looks at crate::{path}"));
            }
        }
    }
    no_offence(&offences, "a room looks where it may not");
    let unused: Vec<_> = permissions()
        .filter(|(who, there)| !used.contains(&((*who).to_owned(), (*there).to_owned())))
        .map(|(who, there)| format!("{who} never looks at {there}"))
        .collect();
    no_offence(&unused, "what nobody looks at need not be allowed");
}

/// Each permission: a room or a file, and where it may look.
fn permissions() -> impl Iterator<Item = (&'static str, &'static str)> {
    let of_rooms =
        MAY_SEE.iter().flat_map(|(room, rooms)| rooms.iter().map(|there| (*room, *there)));
    of_rooms.chain(EXCEPTIONS.iter().copied())
}

/// The rooms of the table in ARCHITECTURE.md, and where it says that they may look. What follows a
/// semicolon is about single files.
fn described() -> BTreeMap<String, BTreeSet<String>> {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let table = text.split("| room | owns | may use |").nth(1).expect("the table of the rooms");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let words = |cell: &str| {
        let list = cell.split(';').next().unwrap_or_default().split(", ");
        let names = list.map(|word| match word.trim() {
            "seams" | "plain types of the seams" => "backend".to_owned(),
            "wire types" => "proto".to_owned(),
            name => name.to_owned(),
        });
        names.filter(|name| name != "nobody").collect()
    };
    let row = |line: &str| {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").collect();
        let [room, _, may_use] = cells.as_slice() else { panic!("three cells: {line}") };
        (room.trim().trim_matches('`').to_owned(), words(may_use))
    };
    rows.map(row).collect()
}

#[test]
fn the_description_of_the_rooms_is_true() {
    let expected: BTreeMap<String, BTreeSet<String>> = MAY_SEE
        .iter()
        .map(|(room, rooms)| {
            ((*room).to_owned(), rooms.iter().map(|it| (*it).to_owned()).collect())
        })
        .collect();
    assert_eq!(described(), expected, "ARCHITECTURE.md, and then tests/architecture.rs");
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
        r"\bstd::(?:fs|process|thread)\b|\bstd::net::(?:Tcp|Udp)\w+|\bstd::os::unix::net\b|\btokio\b|\breqwest\b|\bnix::|\brustix::|\bcrate::clock\b|\bSystemTime::now\b|\bnow_utc\b|\basync\s+fn\b",
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
    no_offence(&offences, "pure code does no input or output and reads no clock");
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
fn no_lock_is_poisoned() {
    let poisoned =
        Regex::new(r"\bPoisonError\b|\bstd::sync::(?:\{[^}]*\b)?(?:Mutex|RwLock|LockResult)\b")
            .expect("a good pattern");
    let offences: Vec<_> = rule_sources()
        .filter(|source| source.inside() != Path::new("locks.rs"))
        .flat_map(|source| source.finds(&poisoned))
        .collect();
    no_offence(&offences, "use crate::locks for what is not held over an await");
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
fn functions_are_short() {
    let mut offences = Vec::new();
    for source in rule_sources() {
        for (start, end) in functions(&source.code) {
            let lines = source.line_of(end) - source.line_of(start) + 1;
            if lines > LONGEST_FUNCTION {
                let (file, line) = (source.inside().display(), source.line_of(start));
                offences.push(format!("{file}:{line}: {lines} lines"));
            }
        }
    }
    no_offence(&offences, "a function says on one screen what it does");
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
fn every_kind_of_record_has_its_stored_forms() {
    let table = Regex::new("const TABLE: &'static str = \"([^\"]+)\"").expect("a good pattern");
    let mut tables = BTreeSet::new();
    for source in rule_sources().filter(|source| source.code.contains("impl Record for")) {
        let text = std::fs::read_to_string(src().join(source.inside())).expect("a source");
        tables.extend(table.captures_iter(&text).map(|found| format!("{}.json", &found[1])));
    }
    assert!(tables.len() > 5, "{tables:?}");
    for folder in ["tests/data/records", "tests/data/records/old"] {
        let files = std::fs::read_dir(root().join(folder)).expect("the stored forms");
        let names = files.map(|file| file.expect("a file").file_name().to_string_lossy().into());
        let stored: BTreeSet<String> = names.filter(|name| name != "old").collect();
        assert_eq!(stored, tables, "{folder}: see src/store/tests/stored.rs");
    }
}

#[test]
fn the_readme_shows_lines_of_the_recorded_session() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).unwrap();
    let (readme, session) = (read("README.md"), read("docs/demo.md"));
    let shown = readme.split("```text\n").nth(1).unwrap().split("```").next().unwrap();
    assert!(shown.lines().count() > 5);
    let recorded: BTreeSet<&str> = session.lines().collect();
    let made_up: Vec<&str> = shown.lines().filter(|line| !recorded.contains(line)).collect();
    assert_eq!(made_up, [""; 0]);
}
