//! The entry point: parses arguments, runs the agent or a command, and returns an exit code: 0
//! success, 1 failure, 2 invalid arguments or configuration. `--help` lists the other codes of the
//! commands that query an agent.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use podbay::config::{Config, Faults, Process};
use podbay::ctl::{self, AgentArgs, Cli, Command, ConfigCommand};
use podbay::telemetry;

/// Maximum number of worker threads: the agent mostly waits, and each thread costs memory.
const MAX_WORKERS: usize = 4;

/// Stack size of a worker thread: deeply nested manifests are parsed on it. Unused parts cost no
/// memory.
const STACK: usize = 2 << 20;

/// How long a thread for blocking work waits for more of it.
const IDLE: Duration = Duration::from_secs(2);

/// Number of heaps of the C library. With its default, eight per core, every thread that briefly
/// reads files keeps one.
#[cfg(target_env = "gnu")]
const HEAPS: i32 = 2;

/// Free bytes at the end of a heap above which they are returned to the kernel, as after a burst.
#[cfg(target_env = "gnu")]
const TRIM: i32 = 256 << 10;

const FAILED: u8 = 1;
const MISUSED: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse_from(ctl::habits::translate(std::env::args_os()));
    match &cli.command {
        Command::Agent(_)
        | Command::Config(ConfigCommand::Show(_) | ConfigCommand::Check { .. })
            if !cli.agent.is_empty() =>
        {
            eprintln!(
                "error: --context, --address and --client-config are for commands that ask an agent"
            );
            ExitCode::from(MISUSED)
        }
        Command::Agent(args) => agent(args),
        Command::Config(ConfigCommand::Show(args)) => match load(args) {
            Ok(config) => print(&config.show()),
            Err(code) => code,
        },
        Command::Config(ConfigCommand::Check { file }) => match ctl::config::check(file) {
            Ok(()) => print("ok\n"),
            Err(faults) => refuse(&faults, FAILED),
        },
        Command::Certs(command) => match ctl::certs::run(command) {
            Ok(told) => print(&told),
            Err(error) => {
                eprintln!("podbay: {}", telemetry::error_chain(error.as_ref()));
                ExitCode::from(FAILED)
            }
        },
        _ => ask(&cli),
    }
}

/// Runs a command that does not start the agent.
fn ask(cli: &Cli) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: start the runtime: {error}");
            return ExitCode::from(FAILED);
        }
    };
    let done = runtime.block_on(ctl::run(&cli.agent, &cli.command));
    // A pending read of standard input must not delay the exit.
    runtime.shutdown_background();
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprint!("{}", error.report());
            ExitCode::from(error.exit_code())
        }
    }
}

/// Runs the agent until it is told to stop.
fn agent(args: &AgentArgs) -> ExitCode {
    let config = match load(args) {
        Ok(config) => config,
        Err(code) => return code,
    };
    keep_memory_small();
    let done = telemetry::init(&config.telemetry.level, config.telemetry.format)
        .map_err(anyhow::Error::from)
        .and_then(|()| run(config));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("podbay: {}", telemetry::error_chain(error.as_ref()));
            ExitCode::from(FAILED)
        }
    }
}

/// Configures the C library's allocator for a small, long-running process.
#[cfg(target_env = "gnu")]
fn keep_memory_small() {
    use nix::libc;
    for (setting, value) in [(libc::M_ARENA_MAX, HEAPS), (libc::M_TRIM_THRESHOLD, TRIM)] {
        // SAFETY: no other thread runs yet, and mallopt(3) only stores the number.
        unsafe { libc::mallopt(setting, value) };
    }
}

#[cfg(not(target_env = "gnu"))]
fn keep_memory_small() {}

/// Runs the agent on a new runtime.
fn run(config: Config) -> anyhow::Result<()> {
    let runtime = runtime()?;
    let done = runtime.block_on(podbay::app::run(config));
    // Hanging work (a CNI plugin, a dead file system) must not delay the exit.
    runtime.shutdown_background();
    Ok(done?)
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.min(MAX_WORKERS))
        .thread_stack_size(STACK)
        .thread_keep_alive(IDLE)
        .enable_all()
        .build()
}

fn load(args: &AgentArgs) -> Result<Config, ExitCode> {
    Config::load(&Process, &args.flags()).map_err(|faults| refuse(&faults, MISUSED))
}

fn refuse(faults: &Faults, code: u8) -> ExitCode {
    eprintln!("{faults}");
    ExitCode::from(code)
}

/// Prints to standard output; a closed pipe (`podbay config show | head`) is not an error.
fn print(text: &str) -> ExitCode {
    match std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::from(FAILED),
        _ => ExitCode::SUCCESS,
    }
}
