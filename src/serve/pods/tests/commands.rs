//! Exec and Attach.

use futures::stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::world::*;
use crate::proto::podbay::v1::exec_request::Input;
use crate::proto::podbay::v1::exec_response::Output;
use crate::proto::podbay::v1::*;

fn start(words: &[&str]) -> ExecStart {
    let command = words.iter().map(|word| (*word).to_owned()).collect();
    ExecStart { name: "a".into(), command, ..ExecStart::default() }
}

fn said(input: Input) -> ExecRequest {
    ExecRequest { input: Some(input) }
}

fn stdin(text: &str) -> ExecRequest {
    said(Input::Stdin(text.into()))
}

/// stdout, stderr and exit code of a command.
async fn all(mut answers: Streaming<ExecResponse>) -> Result<(String, String, i32), Status> {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        let answer = tokio::time::timeout(SOON, answers.message()).await.expect("no answer")?;
        match answer.and_then(|answer| answer.output).expect("an exit") {
            Output::Started(_) => {}
            Output::Stdout(bytes) => out.extend(bytes),
            Output::Stderr(bytes) => err.extend(bytes),
            Output::Exit(exit) => {
                let text = |bytes| String::from_utf8(bytes).unwrap();
                return Ok((text(out), text(err), exit.exit_code));
            }
        }
    }
}

async fn exec(world: &World, said: Vec<ExecRequest>) -> Result<(String, String, i32), Status> {
    all(world.client().await.exec(stream::iter(said)).await?.into_inner()).await
}

async fn world() -> World {
    let world = World::start().await;
    for name in ["a", "stdin"] {
        world.face.hub.publish(view(name, "Running"));
    }
    world
}

#[tokio::test]
async fn a_command_has_outputs_and_an_exit_code() {
    let world = world().await;
    let request = stream::iter([said(Input::Start(start(&["say"])))]);
    let mut answers = world.client().await.exec(request).await.unwrap().into_inner();
    let first = answers.message().await.unwrap().unwrap().output;
    assert_eq!(first, Some(Output::Started(ExecStarted { container: "main".into() })));
    assert_eq!(all(answers).await.unwrap(), ("out".into(), "err".into(), 7));
    world.stop().await;
}

#[tokio::test]
async fn input_goes_in_and_ends() {
    let world = world().await;
    let cat = || said(Input::Start(ExecStart { stdin: true, ..start(&["cat"]) }));
    let long = "x".repeat(1 << 20);
    let explicit = vec![cat(), stdin("ab"), stdin(&long), said(Input::StdinEnd(StdinEnd {}))];
    assert_eq!(exec(&world, explicit).await.unwrap().0, format!("ab{long}"));
    // The end of the requests also ends the input.
    assert_eq!(exec(&world, vec![cat(), stdin("ab")]).await.unwrap().0, "ab");
    world.stop().await;
}

#[tokio::test]
async fn a_terminal_has_sizes() {
    let world = world().await;
    let size = |width, height| TerminalSize { width, height };
    let first = ExecStart { tty: true, size: Some(size(80, 24)), ..start(&["sizes"]) };
    let resize = |width, height| said(Input::Resize(size(width, height)));
    let talk = vec![said(Input::Start(first.clone())), resize(0, 9), resize(81, 25)];
    assert_eq!(exec(&world, talk).await.unwrap().0, "80x24;81x25;");
    let talk = vec![said(Input::Start(first)), resize(65_536, 1)];
    let status = exec(&world, talk).await.unwrap_err();
    assert_eq!(status.message(), "resize: must be at most 65535");
    world.stop().await;
}

#[tokio::test]
async fn a_flood_of_output_does_not_hold_up_the_input() {
    let world = world().await;
    let flood = ExecStart { stdin: true, ..start(&["flood"]) };
    let (sender, said_later) = mpsc::channel(4);
    sender.send(said(Input::Start(flood))).await.unwrap();
    let request = ReceiverStream::new(said_later);
    let mut answers = world.client().await.exec(request).await.unwrap().into_inner();
    for _ in 0..20 {
        answers.message().await.unwrap().unwrap();
    }
    sender.send(stdin("q")).await.unwrap();
    assert_eq!(all(answers).await.unwrap().2, 0);
    world.stop().await;
}

#[tokio::test]
async fn who_hangs_up_ends_the_command() {
    let world = world().await;
    let (sender, said_later) = mpsc::channel(4);
    sender.send(said(Input::Start(start(&["hang"])))).await.unwrap();
    let request = ReceiverStream::new(said_later);
    let mut answers = world.client().await.exec(request).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    world.running(1).await;
    drop(answers);
    drop(sender);
    world.running(0).await;
    world.stop().await;
}

#[tokio::test]
async fn the_end_of_the_agent_ends_commands() {
    let world = world().await;
    let request = stream::iter([said(Input::Start(start(&["hang"])))]).chain_pending();
    let mut answers = world.client().await.exec(request).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    world.running(1).await;
    world.stop().await;
    assert_eq!(all(answers).await.unwrap_err().code(), Code::Unavailable);
}

trait ChainPending: stream::Stream + Sized {
    /// Keeps the stream open after the last item.
    fn chain_pending(self) -> stream::Chain<Self, stream::Pending<Self::Item>> {
        futures::StreamExt::chain(self, stream::pending())
    }
}

impl<S: stream::Stream> ChainPending for S {}

#[tokio::test]
async fn wrong_commands_are_refused_by_name() {
    let world = world().await;
    let of = |start: ExecStart| said(Input::Start(start));
    let nobody = ExecStart { name: "x".into(), ..start(&["say"]) };
    let elsewhere = ExecStart { container: "x".into(), ..start(&["say"]) };
    let hang = || of(ExecStart { stdin: true, ..start(&["hang"]) });
    let cases = [
        (vec![stdin("x")], Code::InvalidArgument, "start: must be the first message"),
        (vec![], Code::InvalidArgument, "start: must be the first message"),
        (vec![of(start(&[]))], Code::InvalidArgument, "start.command: must be given"),
        (vec![of(start(&["a\0b"]))], Code::InvalidArgument, "start.command: must not contain"),
        (vec![of(nobody)], Code::NotFound, "pod default/x is not found"),
        (vec![of(elsewhere)], Code::FailedPrecondition, "container \"x\" of pod default/a"),
        (vec![of(start(&["fail"]))], Code::NotFound, "error executing command in container"),
        (vec![of(start(&["hang"])), stdin("x")], Code::InvalidArgument, "stdin: the start did"),
        (vec![hang(), hang()], Code::InvalidArgument, "start: only as the first message"),
        (vec![hang(), ExecRequest { input: None }], Code::InvalidArgument, "input: is not known"),
    ];
    for (talk, code, text) in cases {
        let status = exec(&world, talk).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().starts_with(text), "{status}");
    }
    let ended = said(Input::StdinEnd(StdinEnd {}));
    let status = exec(&world, vec![hang(), ended, stdin("x")]).await.unwrap_err();
    assert_eq!(status.message(), "stdin: has ended already");
    world.running(0).await;
    world.stop().await;
}

#[tokio::test]
async fn attach_joins_the_streams() {
    use attach_request::Input;
    use attach_response::Output;
    let world = world().await;
    let said = |input| AttachRequest { input: Some(input) };
    let start = |name: &str, stdin| {
        said(Input::Start(AttachStart { name: name.into(), stdin, ..AttachStart::default() }))
    };
    let talk = stream::iter([start("stdin", true), said(Input::Stdin(b" you".to_vec()))]);
    let mut answers = world.client().await.attach(talk).await.unwrap().into_inner();
    let first = answers.message().await.unwrap().unwrap().output;
    let started = AttachStarted { container: "main".into(), tty: false, stdin: true };
    assert_eq!(first, Some(Output::Started(started)));
    let mut out = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        let Some(Output::Stdout(bytes)) = answer.output else { panic!("{answer:?}") };
        out.extend(bytes);
    }
    assert_eq!(out, b"hello you");

    let refused = stream::iter([start("a", true)]);
    let status = world.client().await.attach(refused).await.unwrap_err();
    assert_eq!(status.message(), "start.stdin: container \"main\" has no stdin");
    let mut answers =
        world.client().await.attach(stream::iter([start("a", false)])).await.unwrap().into_inner();
    for _ in 0..2 {
        answers.message().await.unwrap().unwrap();
    }
    assert!(answers.message().await.unwrap().is_none(), "the end of the container");
    world.stop().await;
}
