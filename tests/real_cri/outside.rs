//! Exec, Attach and PortForward with an independent client: client-go, over SPDY and WebSocket
//! (tests/clients/streaming, built by scripts/setup.sh).

use serde_json::Value;

use crate::rig::{Rig, SOON};
use crate::sessions::client;
use crate::support::builders::Container;
use crate::support::containerd::Line;
use crate::support::eventually;

/// A protocol with its flags, for each that client-go has for commands.
const COMMANDS: [&[&str]; 7] = [
    &["-protocol=spdy"],
    &["-protocol=spdy", "-subprotocol=v3.channel.k8s.io"],
    &["-protocol=spdy", "-subprotocol=v2.channel.k8s.io"],
    &["-protocol=spdy", "-subprotocol=channel.k8s.io"],
    &["-protocol=websocket"],
    &["-protocol=websocket", "-subprotocol=v4.channel.k8s.io"],
    &["-protocol=websocket", "-subprotocol=channel.k8s.io"],
];

/// The two that are used today: SPDY with v4, WebSocket with v5.
const TODAY: [&str; 2] = ["-protocol=spdy", "-protocol=websocket"];

async fn exec(rig: &Rig, id: &str, script: &str, flags: &[&str]) -> Value {
    let tty = flags.contains(&"-tty");
    let url = rig.exec_url(id, script, tty).await;
    client("exec", &url, flags).await
}

pub async fn commands_run(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("outside")).await;
    let id = rig.launch_waiting(&pod, "c").await;
    let script = "echo out; echo err >&2; exit 7";
    for flags in COMMANDS {
        // Only what was asked for is opened: a stdin is.
        let flags = [flags, &["-stdin"]].concat();
        let got = exec(&rig, &id, script, &flags).await;
        assert_eq!(got["stdout"]["text"], "out\n", "{flags:?}: {got}");
        assert_eq!(got["stderr"]["text"], "err\n", "{flags:?}: {got}");
        let code = got["exit_code"].as_i64();
        let told = got["error"].as_str().unwrap_or_default();
        // Before v4 the code is only in a text, and the first client does not wait for it.
        let first = flags.contains(&"-subprotocol=channel.k8s.io");
        assert!(first || code == Some(7) || told.contains("exit code 7"), "{flags:?}: {got}");
        let got = exec(&rig, &id, "true", &flags).await;
        assert_eq!(got["exit_code"], 0, "{flags:?}: {got}");
    }
    for protocol in TODAY {
        let flags = [protocol, "-stdin", "-stdin-size", "10485760"];
        let got = exec(&rig, &id, "cat", &flags).await;
        assert_eq!(got["exit_code"], 0, "{got}");
        assert_eq!(got["stdout"]["bytes"], 10_485_760, "{got}");
        assert_eq!(got["stdout"]["sha256"], got["stdin"]["sha256"], "{got}");
        // The end of input alone, and output after it.
        let flags = [protocol, "-stdin", "-stdin-text", "12345"];
        let got = exec(&rig, &id, "wc -c; echo done", &flags).await;
        assert_eq!(got["stdout"]["text"], "5\ndone\n", "{got}");
        // A client that leaves takes its command along.
        let flags = [protocol, "-stdin", "-hold-stdin", "-cancel-after", "up"];
        let got = exec(&rig, &id, "echo up; exec sleep 4343", &flags).await;
        assert_eq!(got["canceled"], true, "{got}");
        let gone = eventually(SOON, async || {
            (!rig.exec(&id, "ps -o args").await.contains("sleep 4343")).then_some(())
        });
        gone.await.unwrap_or_else(|| panic!("the command of a gone client runs ({protocol})"));
    }
    rig.finish().await;
}

pub async fn terminals_are_resized(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("sizes")).await;
    let id = rig.launch_waiting(&pod, "c").await;
    let script = "exec 2>/dev/null; until [ \"$(stty size)\" = '24 80' ]; do sleep 0.1; done; stty size; \
                  until [ \"$(stty size)\" = '50 132' ]; do sleep 0.1; done; exit 9";
    for protocol in TODAY {
        let flags = [
            protocol,
            "-tty",
            "-stdin",
            "-hold-stdin",
            "-sizes",
            "80x24,132x50",
            "-sizes-after",
            "24 80",
        ];
        let got = exec(&rig, &id, script, &flags).await;
        assert_eq!(got["exit_code"], 9, "{got}");
        assert_eq!(got["stdout"]["text"], "24 80\r\n", "{got}");
    }
    rig.finish().await;
}

pub async fn containers_are_attached_to(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("attached")).await;
    for (number, protocol) in TODAY.into_iter().enumerate() {
        let name = format!("c{number}");
        let mut spec = Container::script(&name, &rig.image, "wc -c; echo err >&2; exit 6");
        (spec.config.stdin, spec.config.stdin_once) = (true, true);
        let id = rig.launch(&pod, &spec).await;
        let url = rig.attach_url(&id, true, false).await;
        let got = client("attach", &url, &[protocol, "-stdin", "-stdin-size", "3000000"]).await;
        assert_eq!(got["stdout"]["text"], "3000000\n", "{got}");
        assert_eq!(got["stderr"]["text"], "err\n", "{got}");
        assert_eq!(got["exit_code"], 0, "attach tells no code: {got}");
        assert_eq!(rig.ended(&id).await.exit_code, 6);
    }
    rig.finish().await;
}

pub async fn ports_are_forwarded(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("web")).await;
    rig.launch_web(&pod).await;
    let get = "-send=8080:GET /index.html HTTP/1.0\r\n\r\n";
    for protocol in TODAY {
        let flags = [protocol, get, "-send=8081:nobody", get];
        let url = rig.forward_url(&pod, &[]).await.expect("PortForward");
        let got = client("portforward", &url, &flags).await;
        assert_eq!(got["error"], Value::Null, "the session lives on: {got}");
        for served in [0, 2] {
            let text = got["connections"][served]["received"]["text"].as_str();
            assert!(text.is_some_and(|text| text.contains("hello from the pod")), "{got}");
        }
        let refused = got["connections"][1]["error"].as_str().unwrap_or_default();
        assert!(refused.starts_with("error forwarding port 8081: "), "{got}");
    }
    rig.finish().await;
}
