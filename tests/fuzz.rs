//! Fuzz tests of parsers for external input: no input may panic, hang or violate a parser's
//! guarantees.
//!
//! Each target starts from the files in tests/data/fuzz, mutates them at random, and continues with
//! inputs that had a new outcome. `KIT_FUZZ_SECONDS` is the duration of each (`make fuzz`: a
//! minute), `KIT_FUZZ_SEED` repeats a run. A failing input is written to a file named in the
//! failure; add it to tests/data/fuzz.

#[path = "fuzz/cdi.rs"]
mod cdi;
#[path = "fuzz/images.rs"]
mod images;
#[path = "fuzz/logs.rs"]
mod logs;
#[path = "fuzz/manifests.rs"]
mod manifests;
#[path = "fuzz/websocket.rs"]
mod websocket;

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::StreamExt;
use podbay::backend::UserFiles;
use podbay::backend::cni::printed_addresses;
use podbay::backend::fake::{Fakes, SNAPSHOTTER};
use podbay::image::{Images, LoadOptions, Options, Reference, challenges};
use podbay::lifecycle::Tasks;
use podbay::model::security::SupplementalGroupsPolicy;
use podbay::oci::user::{UserRequest, resolve};
use podbay::stream::spdy;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// No input may take more of the processor's time.
const LONGEST: Duration = Duration::from_secs(1);
/// No input may take longer, however busy the machine is.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// No input grows beyond.
const LARGEST: usize = 8 << 10;
/// Words that parsers have an ear for.
const WORDS: &[&[u8]] = &[
    b"0",
    b"-1",
    b"4294967295",
    b"4294967296",
    b"2147483648",
    b"\"",
    b"\\",
    b",",
    b"=",
    b":",
    b"@",
    b"/",
    b"\n",
    b"\0",
    b"[",
    b"]",
    b"{",
    b"}",
    b"null",
    b"sha256:",
    b"Bearer ",
    b"::",
    b"\xff",
    b"\x80\x03\x00\x01",
    b"\x80\x03\x00\x08",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\x7f\xff\xff\xff",
    b"\r\n",
    b"\x82\x80",
    b"\x88\x80",
    b"---\n",
    b"- ",
    b"&a ",
    b"*a",
    b"<<: ",
];

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text}: not a number")))
}

/// The inputs that a target starts from.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/fuzz").join(name);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| std::fs::read(path).expect("a readable file")).collect()
}

/// Feeds `target` for the time that is configured. What it returns tells outcomes apart.
fn fuzz(name: &str, mut target: impl FnMut(&[u8]) -> String) {
    let seconds = number("KIT_FUZZ_SECONDS").unwrap_or(2);
    let seed = number("KIT_FUZZ_SEED").unwrap_or_else(rand::random);
    let mut rng = StdRng::seed_from_u64(seed);
    let mut inputs = corpus(name);
    assert!(!inputs.is_empty(), "tests/data/fuzz/{name} is empty");
    let mut outcomes = HashSet::new();
    // First what is known, unchanged.
    for input in inputs.clone() {
        outcomes.insert(run(name, seed, &input, &mut target));
    }
    let (end, mut runs) = (Instant::now() + Duration::from_secs(seconds), 0_u64);
    while Instant::now() < end {
        let input = mutated(&inputs, &mut rng);
        runs += 1;
        if outcomes.insert(run(name, seed, &input, &mut target)) && inputs.len() < 4_096 {
            inputs.push(input);
        }
    }
    println!("{name}: {runs} inputs, {} outcomes, seed {seed}", outcomes.len());
    assert!(runs > 0 && outcomes.len() > 1, "{name}: all inputs look the same to it");
}

fn run(name: &str, seed: u64, input: &[u8], target: &mut impl FnMut(&[u8]) -> String) -> String {
    let start = Instant::now();
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| target(input)));
    let waited = start.elapsed();
    let took = match waited < LONGEST || outcome.is_err() {
        true => waited,
        // Others may have had the processor.
        false => {
            let before = processor_time();
            target(input);
            processor_time() - before
        }
    };
    if let (Ok(outcome), true) = (&outcome, took < LONGEST && waited < LONGEST_WAIT) {
        return outcome.clone();
    }
    let path = std::env::temp_dir().join(format!("podbay-fuzz-{name}-{seed}"));
    std::fs::write(&path, input).expect("to write the input");
    let problem =
        if outcome.is_err() { "a panic".to_owned() } else { format!("{took:?} {waited:?}") };
    panic!("{name}: {problem} from the input in {} (seed {seed})", path.display());
}

/// How long this thread has used a processor, to ten milliseconds.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("this thread");
    let fields = stat.rsplit_once(") ").expect("a name").1;
    // User and system time.
    let ticks =
        fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks"));
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

fn mutated(inputs: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let mut input = inputs[rng.random_range(0..inputs.len())].clone();
    for _ in 0..rng.random_range(1..=6) {
        let at = rng.random_range(0..=input.len());
        let span = at..(at + rng.random_range(0..=16)).min(input.len());
        match rng.random_range(0..8) {
            0 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
            1 if at < input.len() => input[at] = rng.random(),
            2 => drop(input.drain(span)),
            3 => {
                let again = input[span].to_vec();
                input.splice(at..at, again.repeat(rng.random_range(1..=4)));
            }
            4 => {
                let word = WORDS[rng.random_range(0..WORDS.len())];
                input.splice(at..at, word.iter().copied());
            }
            5 => {
                let word = WORDS[rng.random_range(0..WORDS.len())];
                input.splice(span, word.iter().copied());
            }
            6 => {
                let other = &inputs[rng.random_range(0..inputs.len())];
                input.truncate(at);
                input.extend_from_slice(&other[rng.random_range(0..=other.len())..]);
            }
            _ => input.truncate(at),
        }
    }
    input.truncate(LARGEST);
    input
}

/// Only the words of a text before it quotes the input: an outcome is new when its kind is.
fn words(text: &str) -> String {
    let ours = text.split(['"', '`']).next().unwrap_or_default();
    ours.chars().filter(|c| c.is_ascii_alphabetic() || *c == ' ').take(200).collect()
}

#[test]
fn spdy_frames() {
    fuzz("spdy", |bytes| {
        let limits = spdy::Limits::default();
        let mut inflater = spdy::Inflater::default();
        let mut rest = bytes;
        let mut outcome = String::new();
        while let Some((head, after)) = rest.split_first_chunk() {
            rest = after;
            let (length, control) = match spdy::Head::parse(*head) {
                Err(violation) => return outcome + &words(&format!("{violation:?}")),
                Ok(spdy::Head::Data { length, .. }) => (length, None),
                Ok(spdy::Head::Control { kind, flags, length }) => (length, Some((kind, flags))),
            };
            let (payload, after) = rest.split_at(length.min(rest.len()));
            rest = after;
            let Some((kind, flags)) = control else { continue };
            let parsed = spdy::Control::parse(kind, flags, payload, &mut inflater, &limits);
            outcome += &words(&format!("{parsed:?}"));
            if parsed.is_err() {
                break;
            }
        }
        outcome.chars().take(120).collect()
    });
}

/// A whole connection with a session behind it ends once its client has closed.
#[test]
fn spdy_connections() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    fuzz("spdy", |bytes| runtime.block_on(spdy_connection(bytes)));
}

async fn spdy_connection(bytes: &[u8]) -> String {
    let (near, mut far) = tokio::io::duplex(1 << 12);
    let (connection, incoming) = spdy::Connection::server(near, spdy::Limits::default());
    let session = async {
        if bytes.len().is_multiple_of(2) {
            let dial = |_| async { Ok(tokio::io::duplex(1 << 10).0) };
            spdy::port_forward(incoming, spdy::PortForward::default(), dial).await;
            return String::new();
        }
        let agreement = spdy::Agreement {
            version: spdy::Version::V4,
            stdin: true,
            stdout: false,
            stderr: false,
            tty: false,
            creation: Duration::from_secs(30),
        };
        match spdy::remote_command(incoming, agreement).await {
            Err(error) => error.to_string(),
            Ok(mut command) => {
                let mut stdin = command.io.stdin.take().expect("it was agreed on");
                let read = stdin.read_to_end(&mut Vec::new()).await;
                drop(stdin);
                let told = command.errors.finish(b"done").await;
                format!("{} {}", read.is_ok(), told.is_ok())
            }
        }
    };
    let (mut read, mut write) = tokio::io::split(&mut far);
    let client = async {
        let written = async {
            let _ = write.write_all(bytes).await;
            let _ = write.shutdown().await;
        };
        let mut answers = Vec::new();
        let (_, ()) = tokio::join!(read.read_to_end(&mut answers), written);
        answers.len()
    };
    let all = async { tokio::join!(connection.run(), session, client) };
    // The clock is paused: only a hang lets it pass.
    let ended = tokio::time::timeout(Duration::from_secs(600), all).await;
    let (ended, session, _) = ended.expect("a connection whose client has closed ends");
    words(&format!("{ended:?} {session}"))
}

#[test]
fn cni_results() {
    fuzz("cni_result", |bytes| match printed_addresses(bytes, "eth0") {
        Ok(addresses) => format!("{} addresses", addresses.len().min(9)),
        Err(problem) => words(&problem),
    });
}

#[test]
fn image_references() {
    fuzz("image_reference", |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return "not text".to_owned() };
        match Reference::parse(text) {
            Ok(reference) => {
                let again = Reference::parse(&reference.to_string());
                assert_eq!(again.as_ref().ok(), Some(&reference), "it is its own normal form");
                let repository = reference.repository();
                assert!(!repository.split('/').any(|part| matches!(part, "" | "." | "..")));
                format!("{} {}", reference.tag().is_some(), repository.matches('/').count())
            }
            Err(error) => {
                let error = error.to_string();
                error.rsplit(':').next().map(words).unwrap_or_default()
            }
        }
    });
}

/// The whole way of an archive over fakes: one that fails leaves nothing.
#[test]
fn image_archives() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    fuzz("image_archive", |bytes| runtime.block_on(image_archive(bytes, folder.path())));
}

async fn image_archive(bytes: &[u8], folder: &std::path::Path) -> String {
    let fakes = Fakes::new(folder);
    let options =
        Options { snapshotter: SNAPSHOTTER.to_owned(), config_dirs: vec![], ..Options::default() };
    let images = Images::new(fakes.images.clone(), fakes.runtime.clone(), Tasks::new(), options);
    let archive = if bytes.len().is_multiple_of(2) { summed(bytes) } else { bytes.to_vec() };
    let pieces: Vec<_> = archive.chunks(700).map(|it| Ok(it.to_vec().into())).collect();
    let upload = futures::stream::iter(pieces).boxed();
    let loaded = images.load(upload, LoadOptions::default()).await;
    assert_eq!(fakes.leftovers(), [""; 0], "leases and ingests end with the load");
    let there = images.list(None).await.expect("a list").len();
    match loaded {
        Ok(loaded) => {
            assert!(there >= 1 && there <= loaded.len());
            format!("{there} images")
        }
        Err(error) => {
            assert_eq!(there, 0, "it has failed");
            words(&error.to_string()).chars().take(60).collect()
        }
    }
}

/// An archive whose headers have the right sums, so that what they say is looked at.
fn summed(bytes: &[u8]) -> Vec<u8> {
    let mut archive = bytes.to_vec();
    for block in archive.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }
    archive
}

#[test]
fn auth_headers() {
    fuzz("auth_header", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let found = challenges(&text);
        let kinds: String =
            found.iter().map(|one| one.chars().take(2).collect::<String>()).collect();
        kinds.chars().take(12).collect()
    });
}

#[test]
fn user_files() {
    fuzz("user_files", |bytes| {
        // The first line is the wanted user, the rest passwd and group.
        let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
        let user = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
        let rest = parts.next().unwrap_or_default();
        let cut = rest.windows(4).position(|four| four == b"---\n");
        let (passwd, group) = rest.split_at(cut.unwrap_or(rest.len()));
        let files = UserFiles {
            passwd: Some(passwd.to_vec()),
            group: Some(group.get(4..).unwrap_or_default().to_vec()),
        };
        let request = UserRequest {
            image_user: &user,
            run_as_user: None,
            run_as_username: None,
            run_as_group: None,
            supplemental_groups: &[7],
            policy: SupplementalGroupsPolicy::Merge,
        };
        match resolve(&request, &files) {
            Ok(found) => {
                assert!(found.uid <= i32::MAX as u32 && found.gid <= i32::MAX as u32);
                assert!(found.additional_gids.is_sorted());
                assert!(found.additional_gids.contains(&found.gid));
                assert!(!found.home.as_deref().unwrap_or("/").contains('\n'));
                format!("{} {} {}", found.uid == 0, found.gid == 0, found.additional_gids.len())
            }
            Err(error) => words(&error.to_string()).chars().take(24).collect(),
        }
    });
}
