//! Exits of processes: exit codes and reasons, signals, memory, ExecSync and its time limit.

use std::sync::Arc;

use podbay::proto::runtime::v1 as cri;
use serde_json::{Map, Value, json};

use crate::compare::scenarios;
use crate::containers::{pod, remove, seen};
use crate::facts::code;
use crate::rig::{Rig, lossy};
use crate::support::builders::Container;
use crate::support::images::ImageBuilder;

scenarios! {
    "runtime should support execSync" => exec_sync,
    "runtime should support execSync with timeout" => exec_timeout,
    "runtime should support exit codes and reasons" => exits,
    "runtime should terminate with 137 and reason OOMKilled if OOM'ed" => oom,
    "a container whose program is missing" => start_error,
    "stop signals of config and image" => stop_signals,
}

async fn exec_sync(rig: Arc<Rig>) -> Value {
    let pod = pod(&rig, "exec").await;
    let id = rig.launch_waiting(&pod, "c").await;
    let run = async |command: &[&str], timeout: i64| match rig.try_exec(&id, command, timeout).await
    {
        Ok(done) => {
            json!({"out": lossy(&done.stdout), "err": lossy(&done.stderr), "code": done.exit_code})
        }
        Err(e) => json!(format!("{:?}", e.code())),
    };
    json!({
        "both": run(&["sh", "-c", "echo out; echo err >&2; exit 4"], 10).await,
        "no timeout": run(&["echo", "hello"], 0).await,
        "negative timeout": run(&["echo", "hello"], -1).await,
        "killed": run(&["sh", "-c", "kill -9 $$"], 10).await,
        "missing program": run(&["/no/such"], 10).await,
        "not a program": run(&["/etc/passwd"], 10).await,
        "stdin is empty": run(&["sh", "-c", "cat; echo end"], 10).await,
        "environment": run(&["env"], 10).await,
        "place": run(&["pwd"], 10).await,
        "much": run(&["sh", "-c", "head -c 300000 /dev/zero | tr '\\0' x | wc -c; head -c 100000 /dev/zero | tr '\\0' y | cksum"], 10).await,
    })
}

/// The suite looks for the command afterwards: nothing may be left of it. (A child that holds the
/// output would keep the plugin from answering for ever; podbay's own tests have that case.)
async fn exec_timeout(rig: Arc<Rig>) -> Value {
    let pod = pod(&rig, "timeout").await;
    let id = rig.launch_waiting(&pod, "c").await;
    let slow = rig.try_exec(&id, &["sleep", "321321"], 1).await;
    let left = rig.exec(&id, "ps -o args | grep -v grep | grep -c 'sleep 321321' || true").await;
    let later = rig.try_exec(&id, &["echo", "alive"], 5).await.map(|it| lossy(&it.stdout));
    json!({"slow": code(&slow), "left": left, "later": later.expect("ExecSync")})
}

async fn exits(rig: Arc<Rig>) -> Value {
    let pod = pod(&rig, "exits").await;
    let mut found = Map::new();
    for (name, script) in [
        ("zero", "exit 0"),
        ("three", "exit 3"),
        ("255", "exit 255"),
        ("killed", "kill -9 $$"),
        ("terminated", "kill -TERM $$"),
        ("missing", "/no/such/program"),
    ] {
        let id = rig.run_to_end(&pod, &Container::script(name, &rig.image, script)).await.id;
        found.insert(name.into(), seen(&rig, &id).await);
    }
    found.into()
}

async fn oom(rig: Arc<Rig>) -> Value {
    let pod = pod(&rig, "oom").await;
    let script = "x=a; while :; do x=$x$x; done";
    let spec = Container::script("c", &rig.image, script).memory_limit(15 << 20);
    let id = rig.run_to_end(&pod, &spec).await.id;
    let child =
        Container::script("child", &rig.image, "(x=a; while :; do x=$x$x; done); echo code $?");
    let child = rig.run_to_end(&pod, &child.memory_limit(15 << 20)).await.id;
    json!({"c": seen(&rig, &id).await, "child": seen(&rig, &child).await})
}

async fn start_error(rig: Arc<Rig>) -> Value {
    let pod = pod(&rig, "start-error").await;
    let mut found = Map::new();
    for (name, command) in [
        ("missing", "/no/such/program"),
        ("no-path", "nosuchprogram"),
        ("text", "/etc/passwd"),
        ("folder", "/etc"),
    ] {
        let spec = Container::new(name, &rig.image).command(&[command]);
        let facts = match rig.create(&pod, &spec).await {
            Ok(id) => {
                let started = rig.start_created(&id).await;
                let mut facts = json!({"start": code(&started)});
                facts["seen"] = seen(&rig, &id).await;
                facts["again"] = code(&rig.start_created(&id).await);
                facts["removal"] = remove(&rig, &id).await;
                facts
            }
            Err(e) => json!({"create": format!("{:?}", e.code())}),
        };
        found.insert(name.into(), facts);
    }
    found.into()
}

async fn stop_signals(rig: Arc<Rig>) -> Value {
    let bundle = ImageBuilder::busybox().label("for", "stop").stop_signal("SIGUSR1").build();
    let image = rig.registry.push(&bundle, "stop-signal", "1").await;
    rig.pull(&image).await.expect("PullImage");
    let pod = pod(&rig, "stop-signals").await;
    let script = "trap 'exit 10' USR1; trap 'exit 12' USR2; trap 'exit 15' TERM; sleep 86400 & echo up; wait";
    let mut found = Map::new();
    for (name, image, signal) in [
        ("default", &rig.image, cri::Signal::RuntimeDefault),
        ("image", &image, cri::Signal::RuntimeDefault),
        ("config", &image, cri::Signal::Sigusr2),
    ] {
        let mut spec = Container::script(name, image, script);
        spec.config.stop_signal = signal.into();
        let id = rig.launch(&pod, &spec).await;
        crate::support::wait_until(crate::rig::SOON, "it is up", async || {
            rig.log(&pod, name).contains("up")
        })
        .await;
        rig.stop(&id, 20).await;
        found.insert(name.into(), seen(&rig, &id).await);
    }
    found.into()
}
