//! Image archives: written by one agent and read by other tools, and vice versa.

use std::path::Path;
use std::process::{Command, Output};

use futures::StreamExt as _;
use podbay::proto::podbay::v1::images_client::ImagesClient;
use podbay::proto::podbay::v1::load_request::Input;
use podbay::proto::podbay::v1::{LoadRequest, LoadStart, Phase};
use serde_json::json;

use crate::rig::{Rig, pod};
use crate::support::containerd::Line;
use crate::support::images::ImageBuilder;
use crate::support::registry::Registry;
use crate::support::{eventually, parts};

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

#[track_caller]
fn good(command: &mut Command) -> String {
    let output = run(command);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn podbay(rig: &Rig) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_podbay"));
    command.env("PODBAY_ADDRESS", rig.agent.env.socket());
    command
}

fn skopeo() -> Command {
    let mut command = Command::new("skopeo");
    command.arg("--insecure-policy");
    command
}

fn of(transport: &str, path: &Path, name: &str) -> String {
    format!("{transport}:{}{name}", path.display())
}

/// Runs a pod of an image that no registry is asked for.
async fn runs(rig: &Rig, name: &str, image: &str) {
    let container = json!({ "name": "a", "image": image, "imagePullPolicy": "Never",
        "command": ["/bin/sh", "-c", "echo it runs; sleep 600"] });
    rig.apply(&pod(name, &[container], json!({}))).await;
    rig.phase(name, Phase::Running).await;
    rig.log_has(name, "a", "it runs").await;
    rig.delete(name, Some(1)).await;
    rig.gone(name).await;
}

pub async fn an_image_goes_out_and_comes_back(line: Line) {
    let mut rig = Rig::start(line).await;
    let saved = rig.agent.env.file("saved.tar");
    good(podbay(&rig).args(["save", "-o"]).arg(&saved).arg(&rig.image));
    let piped = run(podbay(&rig).args(["save", &rig.image])).stdout;
    assert!(piped == std::fs::read(&saved).expect("the archive"), "always the same bytes");
    good(podbay(&rig).args(["rmi", &rig.image]));
    let listed = good(podbay(&rig).args(["images", "-o", "name"]));
    assert_eq!(listed, "");
    rig.agent.count_from_here().await;

    // Half of it, by the command line and by a client that hangs up.
    let half = rig.agent.env.file("half.tar");
    std::fs::write(&half, &piped[..piped.len() / 2]).expect("half an archive");
    let refused = run(podbay(&rig).args(["load", "-i"]).arg(&half));
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        refused.status.code() == Some(1) && why.contains("bad archive: it is truncated"),
        "{why}"
    );
    hang_up(&rig, &piped[..piped.len() / 2]).await;
    rig.agent.assert_clean().await;

    let loaded = good(podbay(&rig).args(["load", "-i"]).arg(&saved));
    assert_eq!(loaded, format!("image {} loaded\n", rig.image));
    runs(&rig, "back", &rig.image).await;
    good(podbay(&rig).args(["rmi", &rig.image]));
    rig.agent.assert_clean().await;
}

/// Sends the beginning of an archive and goes.
async fn hang_up(rig: &Rig, archive: &[u8]) {
    let message = |input| LoadRequest { input: Some(input) };
    let pieces = archive.chunks(1 << 20).map(|piece| message(Input::Data(piece.to_vec())));
    let all: Vec<_> =
        [message(Input::Start(LoadStart::default()))].into_iter().chain(pieces).collect();
    let messages = futures::stream::iter(all).chain(futures::stream::pending());
    let mut images = ImagesClient::new(rig.agent.channel());
    let load = images.load(messages);
    let began = eventually(crate::rig::SOON, async || {
        let census = crate::support::census::Census::take(&rig.agent.env).await;
        (!census.of("lease").is_empty()).then_some(())
    });
    tokio::select! {
        ended = load => panic!("{ended:?}"),
        began = began => assert!(began.is_some(), "the load did not begin"),
    }
}

pub async fn other_tools_read_it_and_are_read(line: Line) {
    let mut rig = Rig::start(line).await;
    let file = |name: &str| rig.agent.env.file(name);
    let saved = file("saved.tar");
    good(podbay(&rig).args(["save", "-o"]).arg(&saved).arg(&rig.image));

    // skopeo checks all digests on its way, in both readings of the archive.
    let (docker, oci) = (file("docker.tar"), file("oci.tar"));
    let packed = file("packed.tar.gz");
    let from = of("oci-archive", &saved, "");
    let to = of("docker-archive", &docker, ":again.example/docker:1");
    good(skopeo().args(["copy", &from, &to]));
    let from = of("docker-archive", &saved, "");
    let to = of("oci-archive", &oci, ":again.example/oci:1");
    good(skopeo().args(["copy", &from, &to]));
    // So does containerd's own client.
    let address = rig.agent.env.containerd.address();
    let ctr = || {
        let mut ctr = Command::new(match line {
            Line::V1 => "/usr/bin/ctr".into(),
            Line::V2 => parts().join("ctr"),
        });
        ctr.arg("--address").arg(&address).args(["--namespace", "other", "images"]);
        ctr
    };
    good(ctr().args(["import", "--no-unpack"]).arg(&saved));
    let imported = good(ctr().args(["ls", "-q"]));
    assert!(imported.lines().any(|name| name == rig.image), "{imported}");

    good(podbay(&rig).args(["rmi", &rig.image]));
    rig.agent.count_from_here().await;
    for (archive, name) in [(&docker, "again.example/docker:1"), (&oci, "again.example/oci:1")] {
        let loaded = good(podbay(&rig).args(["load", "-i"]).arg(archive));
        assert_eq!(loaded, format!("image {name} loaded\n"));
        runs(&rig, "again", name).await;
        good(podbay(&rig).args(["rmi", name]));
        rig.agent.assert_clean().await;
    }
    // Compressed as a whole, under a name of one's own.
    let gzip =
        good(Command::new("sh").args(["-c", "gzip -c \"$0\" > \"$1\""]).args([&docker, &packed]));
    assert_eq!(gzip, "");
    good(podbay(&rig).args(["load", "--name", "mine:1", "-i"]).arg(&packed));
    runs(&rig, "mine", "mine:1").await;
    good(podbay(&rig).args(["rmi", "mine:1"]));
    rig.agent.assert_clean().await;
}

pub async fn a_pull_is_followed(line: Line) {
    let mut rig = Rig::start(line).await;
    let registry = Registry::start().await;
    let large = vec![7; 3 << 20];
    let image = ImageBuilder::web().file("/large", &large, 0o644).build();
    let name = registry.push(&image, "followed", "1").await;
    let pulled = run(podbay(&rig).args(["pull", &name]));
    let (out, err) =
        (String::from_utf8_lossy(&pulled.stdout), String::from_utf8_lossy(&pulled.stderr));
    assert_eq!(out, format!("{name} {}\n", image.id));
    assert_eq!(err.matches(": downloaded (").count(), 2, "{err}");
    assert_eq!(err.matches(": unpacked (").count(), 2, "{err}");
    assert_eq!(good(podbay(&rig).args(["pull", "-q", &name])), format!("{}\n", image.id));
    good(podbay(&rig).args(["rmi", &name, &rig.image]));
    let gone = run(podbay(&rig).args(["rmi", &name]));
    assert_eq!(gone.status.code(), Some(3));
    rig.agent.count_from_here().await;
    let census = crate::support::census::Census::take(&rig.agent.env).await;
    for kind in ["image", "content", "ingest", "lease", "snapshot"] {
        assert!(census.of(kind).is_empty(), "{kind}: {:?}", census.of(kind));
    }
}
