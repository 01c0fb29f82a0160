//! A command in a container whose input and output are archives.

use bytes::Bytes;
use tokio::sync::mpsc;
use tonic::Streaming;

use super::Far;
use crate::ctl::connect::Client;
use crate::ctl::error::Error;
use crate::proto::podbay::v1::{
    ExecRequest, ExecResponse, ExecStart, StdinEnd, exec_request, exec_response,
};

/// What may follow the end of an archive: it is filled up to a whole record.
const PADDING: usize = 1 << 20;

/// Most bytes that are kept of what a command complains.
const COMPLAINT: usize = 4096;

/// A command that runs in a container.
pub(super) struct Running {
    answers: Streaming<ExecResponse>,
    complaint: Vec<u8>,
    // Dropped, it ends the requests and with them the command.
    _requests: mpsc::Sender<ExecRequest>,
    _feeder: tokio::task::JoinSet<()>,
}

/// Starts a command; with pieces for its stdin when there are some.
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
    /// Waits for the end and answers the exit code; output is not wanted.
    pub(super) async fn code(&mut self) -> Result<i32, Error> {
        loop {
            if let Next::Exit(code) = self.next().await? {
                return Ok(code);
            }
        }
    }

    /// Hands the output on until a good end. A receiver that goes early says itself why; the end
    /// is waited for all the same while no more comes than the padding of an archive.
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
                Next::Exit(code) => return Err(self.failed("pack there", code)),
            }
        }
    }

    /// What to say of a command that has not ended well.
    pub(super) fn failed(&self, what: &str, code: i32) -> Error {
        let complaint = String::from_utf8_lossy(&self.complaint);
        let why = match complaint.trim() {
            "" => "is there a tar in the container?",
            complaint => complaint,
        };
        Error::Failed(format!("{what}: tar has ended with exit code {code}: {why}"))
    }

    async fn next(&mut self) -> Result<Next, Error> {
        let Some(answer) = self.answers.message().await? else {
            return Err(Error::Failed("the connection has ended before the command".to_owned()));
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
