//! Commands for `exec`, run on this machine.

use std::process::Stdio;

use podbay::proto::podbay::v1::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::agent::Fake;

/// Runs a command of `exec` here; answers its exit code.
pub async fn execute(
    fake: &Fake,
    start: ExecStart,
    mut requests: Streaming<ExecRequest>,
    sender: &mpsc::Sender<Result<ExecResponse, Status>>,
) -> i32 {
    let say = |output| Ok(ExecResponse { output: Some(output) });
    let spawned = Command::new(&start.command[0])
        .args(&start.command[1..])
        .stdin(if start.stdin { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let Ok(mut child) = spawned else { return 127 };
    // Written apart: a command that waits for a reader of its output takes no input.
    let mut writers = tokio::task::JoinSet::new();
    let mut stdin = child.stdin.take().map(|mut pipe| {
        let (pieces, mut taken) = mpsc::channel::<Vec<u8>>(1024);
        writers.spawn(async move {
            while let Some(piece) = taken.recv().await {
                // It may have ended.
                let _ = pipe.write_all(&piece).await;
            }
        });
        pieces
    });
    let mut stdout = child.stdout.take().expect("stdout");
    let mut stderr = child.stderr.take().expect("stderr");
    let (mut out, mut err) = (vec![0; 4096], vec![0; 4096]);
    let (mut out_open, mut err_open, mut asking) = (true, true, true);
    while out_open || err_open {
        tokio::select! {
            read = stdout.read(&mut out), if out_open => match read.expect("read") {
                0 => out_open = false,
                n => drop(sender.send(say(exec_response::Output::Stdout(out[..n].to_vec()))).await),
            },
            read = stderr.read(&mut err), if err_open => match read.expect("read") {
                0 => err_open = false,
                n => drop(sender.send(say(exec_response::Output::Stderr(err[..n].to_vec()))).await),
            },
            request = requests.message(), if asking => match request {
                Ok(Some(ExecRequest { input: Some(input) })) => match input {
                    exec_request::Input::Stdin(data) => if let Some(stdin) = &mut stdin {
                        stdin.try_send(data).expect("room");
                    },
                    exec_request::Input::StdinEnd(_) => stdin = None,
                    other => drop(fake.ask("Exec", &other)),
                },
                _ => (asking, stdin) = (false, None),
            },
        }
    }
    child.wait().await.expect("wait").code().unwrap_or(-1)
}
