//! Exec, Attach and PortForward with client-go.

use std::sync::Arc;

use podbay::proto::runtime::v1 as cri;
use serde_json::{Map, Value, json};

use crate::compare::scenarios;
use crate::rig::{Rig, SOON};
use crate::sessions::client;
use crate::support::builders::Container;
use crate::support::eventually;

scenarios! {
    "runtime should support exec" => exec,
    "runtime should support exec with tty" => exec_tty,
    "runtime should support attach" => attach,
    "runtime should support attach with tty" => attach_tty,
    "runtime should support portforward" => portforward,
    "runtime should support portforward in host network" => portforward_host,
    "streaming URLs are good once" => once,
}

/// Both transports with the newest protocol that both servers speak.
const TRANSPORTS: [(&str, &[&str]); 2] = [
    ("spdy", &["-protocol=spdy"]),
    ("websocket", &["-protocol=websocket", "-subprotocol=v4.channel.k8s.io"]),
];

/// What a client of a command was told.
fn heard(got: &Value) -> Value {
    let mut got = got.clone();
    got.as_object_mut().expect("an object").remove("millis");
    // The words of errors may differ, not whether there is one.
    if let Some(error) = got.get_mut("error") {
        *error = "some".into();
    }
    got
}

async fn exec(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("stream-exec")).await;
    let id = rig.launch_waiting(&pod, "c").await;
    let mut found = Map::new();
    for (transport, flags) in TRANSPORTS {
        for (name, script, more) in [
            ("both", "echo out; echo err >&2", &["-stdin"][..]),
            ("code", "exit 7", &["-stdin"]),
            ("signal", "kill -9 $$", &["-stdin"]),
            ("missing", "exec /no/such/program", &["-stdin"]),
            ("input", "head -n 1 | rev", &["-stdin", "-stdin-text", "hello\n"]),
            ("much", "head -c 3000000 /dev/zero | tr '\\0' x | tee /dev/null", &["-stdin"]),
        ] {
            let url = rig.exec_url(&id, script, false).await;
            let got = client("exec", &url, &[flags, more].concat()).await;
            let mut got = heard(&got);
            if name == "much" {
                got["stdout"]["text"] = "".into();
            }
            found.insert(format!("{transport} {name}"), got);
        }
        let request = cri::ExecRequest {
            container_id: id.clone(),
            cmd: vec!["/no/such".into()],
            stdin: true,
            stdout: true,
            stderr: true,
            tty: false,
        };
        let url = rig.runtime().exec(request).await.expect("Exec").into_inner().url;
        let got = client("exec", &url, &[flags, &["-stdin"]].concat()).await;
        found.insert(
            format!("{transport} no program"),
            json!({"exit": got["exit_code"], "failed": got["error"] != Value::Null}),
        );
    }
    // Only what was asked for is there.
    let request = cri::ExecRequest {
        container_id: id,
        cmd: ["sh", "-c", "echo out; echo err >&2; cat"].map(str::to_owned).into(),
        stdout: true,
        ..Default::default()
    };
    let url = rig.runtime().exec(request).await.expect("Exec").into_inner().url;
    let got = client("exec", &url, &["-protocol=spdy", "-stderr=false"]).await;
    found.insert("stdout alone".into(), heard(&got));
    found.into()
}

async fn exec_tty(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("stream-tty")).await;
    let id = rig.launch_waiting(&pod, "c").await;
    let mut found = Map::new();
    for (transport, flags) in TRANSPORTS {
        let more =
            ["-tty", "-stdin", "-hold-stdin", "-sizes", "80x24,132x50", "-sizes-after", "24 80"];
        let script = "until [ \"$(stty size 2>/dev/null)\" = '24 80' ]; do sleep 0.05; done; stty size; \
                      until [ \"$(stty size 2>/dev/null)\" = '50 132' ]; do sleep 0.05; done; tty | tr -d 0-9; echo $TERM; exit 9";
        let url = rig.exec_url(&id, script, true).await;
        let got = client("exec", &url, &[flags, &more].concat()).await;
        found.insert(transport.into(), heard(&got));
    }
    found.into()
}

async fn attached(rig: &Rig, tty: bool) -> Value {
    let pod = rig.run(rig.pod_spec(if tty { "attach-tty" } else { "attach" })).await;
    let mut found = Map::new();
    for (transport, flags) in TRANSPORTS {
        let mut spec =
            Container::script(transport, &rig.image, "read x; echo got $x; echo err >&2; exit 5");
        (spec.config.stdin, spec.config.stdin_once, spec.config.tty) = (true, true, tty);
        let id = rig.launch(&pod, &spec).await;
        let url = rig.attach_url(&id, true, tty).await;
        let mut more = vec!["-stdin", "-stdin-text", "hello\n", "-hold-stdin"];
        more.extend(tty.then_some("-tty"));
        let got = client("attach", &url, &[flags, &more].concat()).await;
        found.insert(
            transport.into(),
            json!({"got": heard(&got), "code": rig.ended(&id).await.exit_code}),
        );
    }
    found.into()
}

async fn attach(rig: Arc<Rig>) -> Value {
    attached(&rig, false).await
}

async fn attach_tty(rig: Arc<Rig>) -> Value {
    attached(&rig, true).await
}

async fn portforward(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("forward")).await;
    rig.launch_web(&pod).await;
    let get = "-send=8080:GET /index.html HTTP/1.0\r\n\r\n";
    let url = rig.forward_url(&pod, &[8080]).await.expect("PortForward");
    let got = client("portforward", &url, &["-protocol=spdy", get, "-send=8081:nobody"]).await;
    let text = got["connections"][0]["received"]["text"].as_str().unwrap_or_default();
    rig.stop_pod(&pod.id).await;
    json!({
        "served": text.contains("hello from the pod"),
        "refused": got["connections"][1]["error"] != Value::Null,
        "stopped pod": rig.forward_url(&pod, &[8080]).await.err().map(|e| format!("{:?}", e.code())),
    })
}

async fn portforward_host(rig: Arc<Rig>) -> Value {
    let mut spec = rig.pod_spec("forward-host").host_network();
    spec.config.hostname.clear();
    let pod = rig.run(spec).await;
    let port = crate::support::registry::free_port();
    let mut spec = Container::script(
        "web",
        &rig.image,
        &format!("mkdir /w; echo hello >/w/index.html; exec httpd -f -p 127.0.0.1:{port} -h /w"),
    );
    spec.namespaces().network = cri::NamespaceMode::Node.into();
    rig.launch(&pod, &spec).await;
    let up = eventually(SOON, async || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    up.await.expect("the server");
    let url = rig.forward_url(&pod, &[port]).await.expect("PortForward");
    let send = format!("-send={port}:GET / HTTP/1.0\r\n\r\n");
    let got = client("portforward", &url, &["-protocol=spdy", &send]).await;
    json!(got["connections"][0]["received"]["text"].as_str().is_some_and(|it| it.contains("hello")))
}

async fn once(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("once")).await;
    let id = rig.launch_waiting(&pod, "c").await;
    let url = rig.exec_url(&id, "true", false).await;
    client("exec", &url, &["-protocol=spdy", "-stdin"]).await;
    let again =
        reqwest::Client::new().post(&url).send().await.expect("an answer").status().as_u16();
    let unknown = format!("{}x", url);
    let unknown =
        reqwest::Client::new().post(&unknown).send().await.expect("an answer").status().as_u16();
    let fresh = rig.exec_url(&id, "true", false).await;
    let plain =
        reqwest::Client::new().post(&fresh).send().await.expect("an answer").status().as_u16();
    json!({"again": again, "unknown": unknown, "no upgrade": plain})
}
