//! Images: listing, pulling, removing, and transfer as archives.

use std::os::unix::fs::PermissionsExt as _;
use std::pin::Pin;

use futures::Stream;
use podbay::proto::podbay::v1::images_server::Images;
use podbay::proto::podbay::v1::*;
use tokio::io::AsyncReadExt as _;
use tonic::{Request, Response, Status, Streaming};

use super::agent::{Agent, Done, Fake, PATIENCE};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

const DIGEST: &str = "sha256:aaaaaaaaaaaabbbbbbbbbbbbccccccccccccddddddddddddeeeeeeeeeeeeffff";

#[tonic::async_trait]
impl Images for Fake {
    async fn list_images(
        &self,
        request: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        let wanted = request.into_inner().image;
        let state = self.state.lock().expect("state");
        let images = state.images.iter().filter(|(name, _)| wanted.is_empty() || **name == wanted);
        let images = images.map(|(name, size)| Image {
            id: format!("sha256:{}", "0123456789".repeat(6)),
            tags: vec![name.clone()],
            size: *size,
            ..Image::default()
        });
        Ok(Response::new(ListImagesResponse { images: images.collect() }))
    }

    async fn pull(
        &self,
        request: Request<PullRequest>,
    ) -> Result<Response<Answers<PullResponse>>, Status> {
        let request = request.into_inner();
        self.ask("Pull", &request)?;
        let name = request.image;
        self.state.lock().expect("state").images.insert(name.clone(), 1);
        let progress = |digest: &str, state: PullState, done, total| {
            let digest = digest.to_owned();
            let progress = PullProgress { digest, state: state.into(), done, total };
            PullResponse { event: Some(pull_response::Event::Progress(progress)) }
        };
        let steps = [
            progress("", PullState::Resolving, 0, 0),
            progress(DIGEST, PullState::Waiting, 0, 5000),
            progress("", PullState::Downloading, 5100, 5100),
            progress(DIGEST, PullState::Downloading, 2500, 5000),
            progress(DIGEST, PullState::Stored, 5000, 5000),
            progress(DIGEST, PullState::Unpacked, 5000, 5000),
        ];
        let image = PulledImage {
            id: format!("sha256:{name}"),
            reference: format!("docker.io/library/{name}"),
            digest: DIGEST.to_owned(),
        };
        let end = match name.contains("absent") {
            true => Err(Status::not_found(format!("pull {name}: not found"))),
            false => Ok(PullResponse { event: Some(pull_response::Event::Image(image)) }),
        };
        let steps = steps.into_iter().map(Ok).chain([end]);
        Ok(Response::new(Box::pin(futures::stream::iter(steps))))
    }

    /// Keeps what came; an archive that begins with `bad` is refused before its end.
    async fn load(
        &self,
        request: Request<Streaming<LoadRequest>>,
    ) -> Result<Response<LoadResponse>, Status> {
        let mut requests = request.into_inner();
        let Some(LoadRequest { input: Some(load_request::Input::Start(start)) }) =
            requests.message().await?
        else {
            return Err(Status::invalid_argument("start: must come first"));
        };
        self.ask("Load", &start)?;
        let mut archive = Vec::new();
        while let Some(request) = requests.message().await? {
            let Some(load_request::Input::Data(data)) = request.input else {
                return Err(Status::invalid_argument("data: must come"));
            };
            archive.extend_from_slice(&data);
            if archive.starts_with(b"bad") {
                return Err(Status::invalid_argument("bad archive: no tar"));
            }
        }
        self.state.lock().expect("state").archive = archive;
        let image = |names: &[&str]| LoadedImage {
            id: "sha256:1".to_owned(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            digest: String::new(),
        };
        Ok(Response::new(LoadResponse { images: vec![image(&["a:1", "b:1"]), image(&[])] }))
    }

    /// Gives back what came last; for `cut:1` only half of it.
    async fn save(
        &self,
        request: Request<SaveRequest>,
    ) -> Result<Response<Answers<SaveResponse>>, Status> {
        let request = request.into_inner();
        self.ask("Save", &request)?;
        let archive = self.state.lock().expect("state").archive.clone();
        let total = archive.len() as u64;
        let half = if request.images[0] == "cut:1" { archive.len() / 2 } else { archive.len() };
        let first = SaveResponse { data: Vec::new(), total };
        let pieces = archive[..half].chunks(100_000);
        let pieces = pieces.map(|data| SaveResponse { data: data.to_vec(), total: 0 });
        let all: Vec<_> = [first].into_iter().chain(pieces).map(Ok).collect();
        Ok(Response::new(Box::pin(futures::stream::iter(all))))
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Result<Response<RemoveImageResponse>, Status> {
        let name = request.into_inner().image;
        match self.state.lock().expect("state").images.remove(&name) {
            Some(_) => Ok(Response::new(RemoveImageResponse {})),
            None => Err(Status::not_found(format!("image {name:?} is not found"))),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_listed_and_removed() {
    let agent = Agent::start().await;
    agent.state(|state| state.images.insert("nginx:1".to_owned(), 1));
    agent.state(|state| state.images.insert("b:2".to_owned(), 12_345_678));
    let table = "IMAGE   TAG   IMAGE ID       SIZE\nb       2     012345678901   12.3MB\nnginx   1     012345678901   1B\n";
    assert_eq!(agent.run(&["images"]).await.good(), table);
    assert_eq!(agent.run(&["images", "-o", "name", "b:2"]).await.good(), "b:2\n");
    let json = agent.run(&["images", "-o", "jsonpath={.items[*].repoTags[0]}"]).await.good();
    assert_eq!(json, "b:2 nginx:1");
    let done = agent.run(&["rmi", "gone:1", "b:2"]).await;
    assert_eq!(done.out, "image b:2 deleted\n");
    assert_eq!(done.bad(3), "error: image \"gone:1\" is not found\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_tells_its_layers_in_lines_where_there_is_no_terminal() {
    let agent = Agent::start().await;
    let done = agent.run(&["pull", "nginx:1"]).await;
    assert_eq!(done.out, "docker.io/library/nginx:1 sha256:nginx:1\n");
    let layers = "aaaaaaaaaaaa: downloaded (5.00kB)\naaaaaaaaaaaa: unpacked (5.00kB)\n";
    assert_eq!((done.code, done.err.as_str()), (0, layers));
    let quiet = agent.run(&["pull", "-q", "nginx:1", "b:1", "--runtime-handler", "kata"]).await;
    assert_eq!(quiet.good(), "sha256:nginx:1\nsha256:b:1\n");
    assert!(agent.asked().contains("runtime_handler: \"kata\""), "{}", agent.asked());
    let fault = agent.run(&["pull", "-q", "absent:1"]).await.bad(3);
    assert_eq!(fault, "error: pull absent:1: not found\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_has_a_bar_for_each_layer_on_a_terminal() {
    let agent = Agent::start().await;
    let size = nix::pty::Winsize { ws_row: 24, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    let pair = nix::pty::openpty(&size, None).expect("openpty");
    let mut command = agent.command(&["pull", "nginx:1"]);
    command.env("TERM", "xterm").stderr(pair.slave);
    let child = command.spawn().expect("spawn");
    // The last end of the terminal on our side, so that reading ends with the program.
    drop(command);
    let mut ours = tokio::fs::File::from_std(pair.master.into());
    let mut seen = Vec::new();
    let both = async {
        // A terminal whose other end is closed fails to be read.
        let _ = ours.read_to_end(&mut seen).await;
        child.wait_with_output().await.expect("wait")
    };
    let done = Done::from(tokio::time::timeout(PATIENCE, both).await.expect("it hangs"));
    assert_eq!((done.code, done.out.as_str()), (0, "docker.io/library/nginx:1 sha256:nginx:1\n"));
    let seen = String::from_utf8_lossy(&seen);
    assert!(seen.contains("nginx:1") && seen.contains("aaaaaaaaaaaa"), "{seen:?}");
    assert!(seen.contains("5.00 kB"), "bytes are shown: {seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_loaded_from_a_file_or_a_pipe() {
    let agent = Agent::start().await;
    let archive: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
    std::fs::write(agent.dir.path().join("a.tar"), &archive).expect("file");
    let lines = "image a:1 loaded\nimage b:1 loaded\nimage sha256:1 loaded\n";
    assert_eq!(agent.run(&["load", "-i", "a.tar"]).await.good(), lines);
    assert!(agent.state(|state| std::mem::take(&mut state.archive)) == archive);
    let ids = agent.run_with(&["load", "-q", "--name", "mine:1"], &archive).await.good();
    assert_eq!(ids, "sha256:1\nsha256:1\n");
    assert!(agent.state(|state| state.archive.clone()) == archive);
    assert!(agent.asked().contains("names: [\"mine:1\"]"), "{}", agent.asked());

    // The agent says no while there is more to send.
    let bad = [b"bad".to_vec(), archive].concat();
    let fault = agent.run_with(&["load"], &bad.repeat(10)).await.bad(1);
    assert_eq!(fault, "error: bad archive: no tar\n");
    let fault = agent.run(&["load", "-i", "absent.tar"]).await.bad(1);
    assert!(fault.contains("read absent.tar"), "{fault}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_saved_whole_or_not_at_all() {
    let agent = Agent::start().await;
    let archive: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
    agent.state(|state| state.archive = archive.clone());
    let path = agent.dir.path().join("a.tar");
    agent.run(&["save", "-o", "a.tar", "a:1", "b:1"]).await.good();
    assert!(std::fs::read(&path).expect("the archive") == archive);
    assert!(agent.asked().contains("[\"a:1\", \"b:1\"]"), "{}", agent.asked());
    let mut child = agent.command(&["save", "a:1"]).spawn().expect("spawn");
    let mut piped = Vec::new();
    child.stdout.take().expect("stdout").read_to_end(&mut piped).await.expect("read");
    assert!(piped == archive && child.wait().await.expect("wait").success());
    agent.run(&["save", "-o", "/dev/null", "a:1"]).await.good();

    std::fs::write(&path, "before").expect("file");
    let fault = agent.run(&["save", "-o", "a.tar", "cut:1"]).await.bad(1);
    assert!(fault.contains("received 500000 of 1000000 bytes"), "{fault}");
    assert_eq!(std::fs::read_to_string(&path).expect("file"), "before");
    let left = std::fs::read_dir(agent.dir.path()).expect("folder");
    let left: Vec<_> = left.map(|entry| entry.expect("entry").file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("partial")), "{left:?}");
    let fault = agent.run(&["save", "-o", "absent/a.tar", "a:1"]).await.bad(1);
    assert!(fault.contains("write absent/a.tar"), "{fault}");
    let mode = std::fs::metadata(&path).expect("file").permissions().mode();
    assert_eq!(mode & 0o111, 0, "an archive is no program");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_gets_and_gives_no_archive() {
    let agent = Agent::start().await;
    let size = nix::pty::Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    let pair = nix::pty::openpty(&size, None).expect("openpty");
    for (args, words) in [(&["save", "a:1"][..], "to a terminal"), (&["load"], "from a terminal")] {
        let terminal = || pair.slave.try_clone().expect("clone");
        let mut command = agent.command(args);
        let child = command.stdin(terminal()).stdout(terminal()).spawn().expect("spawn");
        let done = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
        let fault = Done::from(done.expect("it hangs").expect("wait")).bad(2);
        assert!(fault.contains(words), "{fault}");
    }
    assert!(!agent.asked().contains("Save") && !agent.asked().contains("Load"));
}
