//! SPDY sessions with an independent client: client-go, in the program of tests/clients/streaming
//! (built by scripts/setup.sh). Processes and ports are simulated.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use podbay::stream::spdy::{
    Agreement, Connection, Incoming, Limits, PortForward, RemoteCommand, Version, port_forward,
    remote_command,
};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

#[path = "support/parts.rs"]
mod parts;

use parts::parts;

/// Serves one session for each connection; the path says which. Tells of clients that left.
struct Server {
    address: SocketAddr,
    left: mpsc::Receiver<()>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let (tell, left) = mpsc::channel(8);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, tell.clone()));
            }
        });
        Self { address, left }
    }

    async fn run(&self, subcommand: &str, path: &str, flags: &[&str]) -> Value {
        let child = tokio::process::Command::new(parts().join("streaming-client"))
            .args([subcommand, "-timeout=30s", "-url"])
            .arg(format!("http://{}{path}", self.address))
            .args(flags)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(Duration::from_secs(60), child)
            .await
            .expect("the client ends")
            .expect("streaming-client: run scripts/setup.sh test");
        let said = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"))
    }
}

/// Answers the upgrade with the client's first choice that is served and holds the session.
async fn serve(socket: TcpStream, left: mpsc::Sender<()>) {
    let mut socket = BufReader::new(socket);
    let (mut path, mut choice) = (String::new(), String::new());
    loop {
        let mut line = String::new();
        socket.read_line(&mut line).await.expect("a head");
        if line.trim().is_empty() {
            break;
        }
        if path.is_empty() {
            path = line.split(' ').nth(1).expect("a path").to_owned();
        }
        let (name, value) = line.trim().split_once(": ").unwrap_or_default();
        if choice.is_empty() && name.eq_ignore_ascii_case("x-stream-protocol-version") {
            // Go clients list all they know in one line, also versions that SPDY does not have.
            let served =
                |name: &&str| *name == PortForward::PROTOCOL || Version::from_name(name).is_some();
            choice = value.split(',').map(str::trim).find(served).unwrap_or_default().to_owned();
        }
    }
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: {choice}\r\n\r\n"
    );
    socket.write_all(answer.as_bytes()).await.expect("an answer");
    let (connection, incoming) = Connection::server(socket, Limits::default());
    let session = async {
        if choice == PortForward::PROTOCOL {
            port_forward(incoming, PortForward::default(), dial).await;
        } else {
            let version = Version::from_name(&choice).expect("a version");
            process(incoming, version, &path, left).await;
        }
    };
    // How a client closes is its own affair: what it says it got is checked.
    let _ = tokio::join!(connection.run(), session);
}

async fn dial(port: u16) -> Result<TcpStream, String> {
    TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string())
}

/// Plays the process that the path names.
async fn process(incoming: Incoming, version: Version, path: &str, left: mpsc::Sender<()>) {
    let tty = path == "/size";
    let stdin = matches!(path, "/echo" | "/deaf" | "/size");
    let creation = Duration::from_secs(30);
    let agreement = Agreement { version, stdin, stdout: true, stderr: !tty, tty, creation };
    let RemoteCommand { mut io, errors, gone, background } =
        remote_command(incoming, agreement).await.expect("all streams");
    let mut stdout = io.stdout.take().expect("stdout");
    let mut code = 0;
    match path {
        "/echo" => {
            tokio::io::copy(&mut io.stdin.take().expect("stdin"), &mut stdout).await.expect("echo");
        }
        "/exit3" => {
            stdout.write_all(b"to stdout").await.expect("stdout");
            io.stderr.take().expect("stderr").write_all(b"to stderr").await.expect("stderr");
            code = 3;
        }
        "/big" => {
            for line in 0..200_000_u32 {
                stdout.write_all(format!("line {line:0>40}\n").as_bytes()).await.expect("stdout");
            }
        }
        "/deaf" => {
            drop(io.stdin.take());
            stdout.write_all(b"did not listen").await.expect("stdout");
        }
        "/size" => {
            let sizes = io.resize.as_mut().expect("sizes");
            for _ in 0..2 {
                let size = sizes.recv().await.expect("a size");
                let text = format!("{}x{} ", size.width, size.height);
                stdout.write_all(text.as_bytes()).await.expect("stdout");
            }
        }
        "/hang" => {
            stdout.write_all(b"READY").await.expect("stdout");
            gone.cancelled().await;
            left.send(()).await.expect("the test");
        }
        other => panic!("no process {other}"),
    }
    // A client of the first version takes the end of both outputs for success: it must read the
    // error first, and leaves then.
    let outputs = (io, stdout);
    let outputs = (version == Version::V1 && code != 0).then_some(outputs);
    let status = match (version, code) {
        (Version::V4, 0) => json!({"metadata": {}, "status": "Success"}).to_string(),
        (Version::V4, code) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        })
        .to_string(),
        (_, 0) => String::new(),
        (_, code) => format!("command terminated with exit code {code}"),
    };
    // A client that has left is not told.
    let _ = errors.finish(status.as_bytes()).await;
    if let Some(outputs) = outputs {
        gone.cancelled().await;
        drop(outputs);
    }
    drop(background);
}

#[tokio::test]
async fn exit_codes_and_both_outputs_arrive_in_every_version() {
    let server = Server::start().await;
    for version in Version::ALL {
        let flags = ["-subprotocol", version.name()];
        let got = server.run("exec", "/exit3", &flags).await;
        // A client of the first version stops at the error, whatever else has come.
        if version > Version::V1 {
            assert_eq!(got["stdout"]["text"], "to stdout", "{got}");
            assert_eq!(got["stderr"]["text"], "to stderr", "{got}");
        }
        if version == Version::V4 {
            assert_eq!(got["exit_code"], 3, "{got}");
        } else {
            let error = got["error"].as_str().unwrap_or_default();
            assert!(error.contains("command terminated with exit code 3"), "{got}");
        }
        // A client of the first version does not end its stdin.
        if version == Version::V1 {
            continue;
        }
        let flags = ["-subprotocol", version.name(), "-stdin", "-stdin-text", "a word"];
        let got = server.run("exec", "/echo", &flags).await;
        assert_eq!(got["exit_code"], 0, "{got}");
        assert_eq!(got["stdout"]["text"], "a word", "{got}");
    }
}

#[tokio::test]
async fn much_arrives_whole_in_both_directions() {
    let server = Server::start().await;
    let got = server.run("exec", "/echo", &["-stdin", "-stdin-size", "10485760"]).await;
    assert_eq!(got["exit_code"], 0, "{got}");
    assert_eq!(got["stdout"]["bytes"], 10_485_760, "{got}");
    assert_eq!(got["stdout"]["sha256"], got["stdin"]["sha256"]);
    let got = server.run("exec", "/big", &[]).await;
    assert_eq!(got["exit_code"], 0, "{got}");
    assert_eq!(got["stdout"]["bytes"], 200_000 * 46, "{got}");
}

#[tokio::test]
async fn sizes_of_the_terminal_arrive() {
    let server = Server::start().await;
    let flags =
        ["-tty", "-stdin", "-hold-stdin", "-sizes", "80x24,132x50", "-sizes-after", "80x24"];
    let got = server.run("exec", "/size", &flags).await;
    assert_eq!(got["exit_code"], 0, "{got}");
    assert_eq!(got["stdout"]["text"], "80x24 132x50 ");
}

#[tokio::test]
async fn a_process_that_does_not_listen_still_ends_well() {
    let server = Server::start().await;
    let flags = ["-stdin", "-stdin-size", "1048576", "-hold-stdin"];
    let got = server.run("exec", "/deaf", &flags).await;
    assert_eq!(got["exit_code"], 0, "{got}");
    assert_eq!(got["stdout"]["text"], "did not listen");
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed() {
    let mut server = Server::start().await;
    let got = server.run("attach", "/hang", &["-cancel-after", "READY"]).await;
    assert_eq!(got["canceled"], true, "{got}");
    let left = tokio::time::timeout(Duration::from_secs(20), server.left.recv()).await;
    assert_eq!(left, Ok(Some(())));
}

/// A port that answers each connection with what it got, in capitals, once it has got all.
async fn shouting_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("its address").port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut got = Vec::new();
                socket.read_to_end(&mut got).await.expect("to read");
                got.make_ascii_uppercase();
                socket.write_all(&got).await.expect("to write");
            });
        }
    });
    port
}

async fn refusing_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("its address").port()
}

#[tokio::test]
async fn a_refused_port_leaves_the_session_alive() {
    let server = Server::start().await;
    let (open, refused) = (shouting_port().await, refusing_port().await);
    for more in [&[][..], &["-no-request-id"]] {
        let sends = [
            format!("-send={open}:first"),
            format!("-send={refused}:lost"),
            format!("-send={open}:@5000000"),
        ];
        let mut flags: Vec<&str> = sends.iter().map(String::as_str).collect();
        flags.extend(more);
        let got = server.run("portforward", "/", &flags).await;
        assert_eq!(got["error"], Value::Null, "{got}");
        assert_eq!(got["connections"][0]["received"]["text"], "FIRST", "{got}");
        let error = got["connections"][1]["error"].as_str().unwrap_or_default();
        assert!(error.starts_with(&format!("error forwarding port {refused}: ")), "{got}");
        assert!(error.contains("refused"), "{got}");
        assert_eq!(got["connections"][2]["received"]["bytes"], 5_000_000, "{got}");
        for served in [0, 2] {
            assert_eq!(got["connections"][served]["error"], Value::Null, "{got}");
        }
    }
}

#[tokio::test]
async fn a_local_listener_is_forwarded_as_by_kubectl() {
    let server = Server::start().await;
    let port = shouting_port().await;
    let sends = [format!("-send={port}:one"), format!("-send={port}:two")];
    let got = server.run("portforward", "/", &["-tool", &sends[0], &sends[1]]).await;
    assert_eq!(got["error"], Value::Null, "{got}");
    assert_eq!(got["connections"][0]["received"]["text"], "ONE", "{got}");
    assert_eq!(got["connections"][1]["received"]["text"], "TWO", "{got}");
}
