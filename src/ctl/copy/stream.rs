//! A command in a container whose input or output is an archive.

use bytes::Bytes;
use tokio::sync::mpsc;
use tonic::Streaming;

use super::Far;
use crate::ctl::connect::Client;
use crate::ctl::error::Error;
use crate::proto::podbay::v1::{
    ExecRequest, ExecResponse, ExecStart, StdinEnd, exec_request, exec_response,
};

/// Maximum number of bytes after an archive, which is padded to a full record.
const PADDING: usize = 1 << 20;

/// Maximum number of bytes kept of a command's error output.
const COMPLAINT: usize = 4096;

/// A running command in a container.
pub(super) struct Running {
    answers: Streaming<ExecResponse>,
    complaint: Vec<u8>,
    // Dropping it ends the requests and thereby the command.
    _requests: mpsc::Sender<ExecRequest>,
    _feeder: tokio::task::JoinSet<()>,
}

/// Starts a command, optionally with pieces for its stdin.
pub(super) async fn run(
    client: &mut Client,
    far: &Far,
    command: &[String],
    input: Option<mpsc::Receiver<Bytes>>,
) -> Result<Running, Error> {
    let start = ExecStart {
        namespace: far.namespace.clone(),
        name: far.pod.clone(),
        container: far.container.clone(),
        command: command.to_vec(),
        stdin: input.is_some(),
        tty: false,
        size: None,
    };
    let request = |input| ExecRequest { input: Some(input) };
    let (sender, receiver) = mpsc::channel(4);
    let _ = sender.try_send(request(exec_request::Input::Start(start)));
    let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let answers = client.pods.exec(requests).await?.into_inner();
    let mut feeder = tokio::task::JoinSet::new();
    if let Some(mut input) = input {
        let sender = sender.clone();
        feeder.spawn(async move {
            while let Some(piece) = input.recv().await {
                let piece = request(exec_request::Input::Stdin(piece.to_vec()));
                if sender.send(piece).await.is_err() {
                    return;
                }
            }
            let _ = sender.send(request(exec_request::Input::StdinEnd(StdinEnd {}))).await;
        });
    }
    Ok(Running { answers, complaint: Vec::new(), _requests: sender, _feeder: feeder })
}

impl Running {
    /// Waits for the end and returns the exit code; output is ignored.
    pub(super) async fn code(&mut self) -> Result<i32, Error> {
        loop {
            if let Next::Exit(code) = self.next().await? {
                return Ok(code);
            }
        }
    }

    /// Passes the output on until a successful end. If the receiver stops early it reports why
    /// itself; the end is awaited anyway while no more than an archive's padding arrives.
    pub(super) async fn output(&mut self, to: mpsc::Sender<Bytes>) -> Result<(), Error> {
        let mut unread = 0;
        loop {
            match self.next().await? {
                Next::Output(piece) => {
                    let length = piece.len();
                    if to.send(piece).await.is_err() {
                        unread += length;
                        if unread > PADDING {
                            return Ok(());
                        }
                    }
                }
                Next::Other => {}
                Next::Exit(0) => return Ok(()),
                Next::Exit(code) => return Err(self.failed("pack in the container", code)),
            }
        }
    }

    /// The error of a failed command.
    pub(super) fn failed(&self, what: &str, code: i32) -> Error {
        let complaint = String::from_utf8_lossy(&self.complaint);
        let why = match complaint.trim() {
            "" => "is there a tar in the container?",
            complaint => &complaint.lines().collect::<Vec<_>>().join("; "),
        };
        Error::Failed(format!("{what}: tar exited with code {code}: {why}"))
    }

    async fn next(&mut self) -> Result<Next, Error> {
        let Some(answer) = self.answers.message().await? else {
            return Err(Error::Failed(
                "the connection was closed before the command exited".to_owned(),
            ));
        };
        Ok(match answer.output {
            Some(exec_response::Output::Stdout(data)) => Next::Output(data.into()),
            Some(exec_response::Output::Stderr(data)) => {
                let room = COMPLAINT - self.complaint.len();
                self.complaint.extend_from_slice(&data[..data.len().min(room)]);
                Next::Other
            }
            Some(exec_response::Output::Exit(exit)) => Next::Exit(exit.exit_code),
            Some(exec_response::Output::Started(_)) | None => Next::Other,
        })
    }
}

enum Next {
    Output(Bytes),
    Exit(i32),
    Other,
}
