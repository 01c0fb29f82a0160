//! Log files: format, streams, partial lines, terminals, reopening.

use std::sync::Arc;

use podbay::proto::runtime::v1 as cri;
use serde_json::{Map, Value, json};

use crate::compare::scenarios;
use crate::facts::{code, entries};
use crate::rig::{LivePod, Rig, SOON};
use crate::support::builders::Container;
use crate::support::wait_until;

scenarios! {
    "runtime should support starting container with log" => formats,
    "runtime should support reopening container log" => reopening,
    "container logs: long and partial lines" => partial,
    "container logs: no path, deep path, existing file" => paths,
}

/// Entries of each stream in order: tag, length, and the text when it is short.
fn facts(log: &str) -> Value {
    let mut found = Map::new();
    for (stream, tag, text) in entries(log) {
        let list = found.entry(stream).or_insert_with(|| json!([]));
        let row = json!([tag, text.len(), if text.len() < 200 { text } else { String::new() }]);
        list.as_array_mut().expect("an array").push(row);
    }
    found.into()
}

async fn logged(rig: &Rig, pod: &LivePod, spec: &Container) -> Value {
    let status = rig.run_to_end(pod, spec).await;
    facts(&std::fs::read_to_string(&status.log_path).expect("the log"))
}

async fn formats(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("log-formats")).await;
    let mut found = Map::new();
    for (name, script) in [
        ("both", "echo out; echo err >&2; echo out2"),
        ("empty-lines", "echo; echo; echo end"),
        ("no-newline", "printf 'unfinished'"),
        ("nothing", "true"),
        ("carriage", "printf 'a\\r\\nb\\rc\\n'"),
        ("bytes", "printf 'x\\001\\000y\\n'"),
        ("unicode", "printf 'h\\303\\244\\n'"),
    ] {
        found.insert(
            name.into(),
            logged(&rig, &pod, &Container::script(name, &rig.image, script)).await,
        );
        let name = format!("{name}-tty");
        let spec = Container::script(&name, &rig.image, script).tty();
        found.insert(name, logged(&rig, &pod, &spec).await);
    }
    found.into()
}

async fn partial(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("log-partial")).await;
    let mut found = Map::new();
    for length in [16383, 16384, 16385, 32768, 40000] {
        for (end, newline) in [("line", "; echo"), ("cut", "")] {
            let name = format!("{end}-{length}");
            let script = format!("head -c {length} /dev/zero | tr '\\0' x{newline}");
            let facts = logged(&rig, &pod, &Container::script(&name, &rig.image, &script)).await;
            found.insert(name, facts);
        }
    }
    found.into()
}

async fn reopening(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("log-reopen")).await;
    let script = "trap 'exit 0' TERM; n=0; while [ $n -lt 6 ]; do [ -e /go/$n ] && { echo line $n; n=$((n+1)); }; sleep 0.02; done; sleep 86400 & wait";
    let go = rig.env().file("reopen-go");
    std::fs::create_dir_all(&go).expect("a folder");
    let spec =
        Container::script("c", &rig.image, script).mount(&go.display().to_string(), "/go", true);
    let id = rig.launch(&pod, &spec).await;
    let at = std::path::PathBuf::from(&pod.spec.config.log_directory);
    let tell = async |n: usize| {
        std::fs::write(go.join(n.to_string()), "").expect("a file");
        let text = format!("line {n}\n");
        wait_until(SOON, "the line is logged", async || {
            let read = |name: &str| std::fs::read_to_string(at.join(name)).unwrap_or_default();
            read("c.log").contains(&text) || read("old.log").contains(&text)
        })
        .await;
    };
    let reopen = async || {
        let request = cri::ReopenContainerLogRequest { container_id: id.clone() };
        code(&rig.runtime().reopen_container_log(request).await)
    };
    tell(0).await;
    std::fs::rename(at.join("c.log"), at.join("old.log")).expect("a rename");
    tell(1).await;
    let first = reopen().await;
    tell(2).await;
    let again = reopen().await;
    tell(3).await;
    let texts = |name: &str| {
        let log = std::fs::read_to_string(at.join(name)).unwrap_or_default();
        entries(&log).into_iter().map(|(_, _, text)| text).collect::<Vec<_>>()
    };
    let (old, new) = (texts("old.log"), texts("c.log"));
    rig.stop(&id, 5).await;
    std::fs::remove_file(at.join("c.log")).expect("a removal");
    let ended = reopen().await;
    json!({
        "codes": [first, again, ended], "old": old, "new": new,
        "made for an exited container": at.join("c.log").exists(),
    })
}

async fn paths(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("log-paths")).await;
    let at = std::path::PathBuf::from(&pod.spec.config.log_directory);
    std::fs::create_dir_all(&at).expect("a folder");
    std::fs::write(at.join("there.log"), "").expect("a file");
    let mut found = Map::new();
    for (name, path) in [
        ("none", ""),
        ("deep", "deep/er/0.log"),
        ("there", "there.log"),
        ("outside", "../outside.log"),
    ] {
        let mut spec = Container::script(name, &rig.image, "echo hello");
        spec.config.log_path = path.into();
        let facts = match rig.create(&pod, &spec).await {
            Ok(id) => {
                let started = rig.start_created(&id).await;
                let path =
                    if started.is_ok() { rig.ended(&id).await.log_path } else { String::new() };
                let said = std::fs::read_to_string(&path).unwrap_or_default();
                json!({"start": code(&started), "path": path, "said": facts(&said)})
            }
            Err(e) => json!({"create": format!("{:?}", e.code())}),
        };
        found.insert(name.into(), facts);
    }
    found.into()
}
