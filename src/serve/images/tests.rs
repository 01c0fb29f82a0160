//! Tests of the service through a socket, with the image room and fakes.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::{oneshot, watch};
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

use super::about::of_message;
use super::*;
use crate::backend::fake::{Fakes, SNAPSHOTTER};
use crate::image::Options;
use crate::image::tests::registry::{Content, Registry, Reply};
use crate::image::tests::tar::Layout;
use crate::lifecycle::Tasks;
use crate::proto::podbay::v1::images_client::ImagesClient;
use crate::proto::podbay::v1::images_server::{Images as _, ImagesServer};
use crate::proto::podbay::v1::*;
use crate::serve::{Door, Grant, Role, SocketOptions, bind, connections, run};

const SOON: Duration = Duration::from_secs(20);
const NAME: &str = "registry.example/app:v1";

struct World {
    folder: tempfile::TempDir,
    fakes: Fakes,
    door: ImageDoor,
    stop: Option<oneshot::Sender<()>>,
    running: tokio::task::JoinHandle<Result<(), crate::serve::Error>>,
}

impl World {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fakes = Fakes::new(folder.path());
        let options = Options {
            snapshotter: SNAPSHOTTER.to_owned(),
            config_dirs: vec![],
            ..Options::default()
        };
        let images =
            Images::new(fakes.images.clone(), fakes.runtime.clone(), Tasks::new(), options);
        let closing = CancellationToken::new();
        let door = ImageDoor::new(images, closing.clone());
        let path = folder.path().join("podbay.sock");
        let listener = bind(&SocketOptions { path, mode: 0o600, gid: None }).await.unwrap();
        let routes = Routes::new(ImagesServer::new(door.clone()));
        let (stop, stopped) = oneshot::channel();
        let (_, ready) = watch::channel(true);
        let stopped = async {
            let _ = stopped.await;
        };
        let incoming = connections(listener);
        let running = tokio::spawn(run(incoming, Door::local(), routes, ready, closing, stopped));
        Self { folder, fakes, door, stop: Some(stop), running }
    }

    async fn client(&self) -> ImagesClient<Channel> {
        let path = self.folder.path().join("podbay.sock");
        let endpoint = Endpoint::from_shared(format!("unix://{}", path.display())).unwrap();
        ImagesClient::new(endpoint.connect().await.unwrap())
    }

    async fn clean(&self) {
        let clean = async {
            while !self.fakes.leftovers().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        let cleaned = tokio::time::timeout(SOON, clean).await;
        assert!(cleaned.is_ok(), "{:?}", self.fakes.leftovers());
    }

    async fn stop(mut self) {
        self.clean().await;
        let _ = self.stop.take().unwrap().send(());
        tokio::time::timeout(SOON, self.running).await.unwrap().unwrap().unwrap();
    }
}

fn start(names: &[&str]) -> LoadRequest {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    let start = LoadStart { names, ..LoadStart::default() };
    LoadRequest { input: Some(load_request::Input::Start(start)) }
}

fn data(bytes: &[u8]) -> LoadRequest {
    LoadRequest { input: Some(load_request::Input::Data(bytes.to_vec())) }
}

fn archive() -> Vec<u8> {
    let mut content = Content::default();
    let parts = content.image("v1", &[b"one", &[7; 300_000]]);
    Layout::of(&content).named(&content, &parts.manifest, NAME).pack()
}

fn upload(archive: &[u8]) -> Vec<LoadRequest> {
    let pieces = archive.chunks(100_000).map(data);
    [start(&[])].into_iter().chain(pieces).collect()
}

#[tokio::test]
async fn images_are_loaded_listed_saved_and_removed() {
    let world = World::start().await;
    let mut client = world.client().await;
    let loaded = client.load(futures::stream::iter(upload(&archive()))).await.unwrap();
    let loaded = loaded.into_inner().images;
    assert_eq!(loaded[0].names, [NAME]);
    let request = |image: &str| ListImagesRequest { image: image.to_owned() };
    let listed = client.list_images(request("")).await.unwrap().into_inner().images;
    assert_eq!((&listed[0].id, &listed[0].tags[..]), (&loaded[0].id, &[NAME.to_owned()][..]));
    assert_eq!(client.list_images(request("other")).await.unwrap().into_inner().images, []);

    let save = SaveRequest { images: vec![NAME.to_owned()] };
    let mut stream = client.save(save).await.unwrap().into_inner();
    let total = stream.message().await.unwrap().unwrap().total;
    let mut saved = Vec::new();
    while let Some(piece) = stream.message().await.unwrap() {
        assert_eq!(piece.total, 0);
        saved.extend_from_slice(&piece.data);
    }
    assert_eq!(saved.len() as u64, total);
    let remove = RemoveImageRequest { image: NAME.to_owned() };
    client.remove_image(remove.clone()).await.unwrap();
    assert_eq!(client.remove_image(remove).await.unwrap_err().code(), Code::NotFound);
    let again = client.load(futures::stream::iter(upload(&saved))).await.unwrap().into_inner();
    assert_eq!(again.images, loaded);
    world.stop().await;
}

#[tokio::test]
async fn wrong_requests_name_their_field() {
    let world = World::start().await;
    let mut client = world.client().await;
    let mut load = async |messages: Vec<LoadRequest>| {
        let refused = client.load(futures::stream::iter(messages)).await.unwrap_err();
        (refused.code(), refused.message().to_owned())
    };
    let (code, message) = load(vec![]).await;
    assert!(code == Code::InvalidArgument && message.contains("start"), "{message}");
    let (code, message) = load(vec![data(b"x")]).await;
    assert!(code == Code::InvalidArgument && message.contains("start"), "{message}");
    let (code, message) = load(vec![start(&[]), data(&[0; 512]), start(&[])]).await;
    assert!(code == Code::Cancelled && message.contains("after the first message"), "{message}");
    let (code, message) = load(vec![start(&["UPPER"]), data(b"x")]).await;
    assert!(code == Code::InvalidArgument && message.contains("UPPER"), "{message}");
    let (code, message) = load(vec![start(&[]), data(&[1; 4096])]).await;
    assert!(code == Code::InvalidArgument && message.contains("bad archive"), "{message}");
    let save = |images: &[&str]| SaveRequest {
        images: images.iter().map(|image| (*image).to_owned()).collect(),
    };
    for (images, code) in [
        (&[][..], Code::InvalidArgument),
        (&["a:1"], Code::NotFound),
        (&["a\n"], Code::InvalidArgument),
    ] {
        assert_eq!(client.save(save(images)).await.unwrap_err().code(), code, "{images:?}");
    }
    let pull = PullRequest { image: "a b".to_owned(), ..PullRequest::default() };
    assert_eq!(client.pull(pull).await.unwrap_err().code(), Code::InvalidArgument);
    let token = RegistryCredentials { registry_token: "a\r\nb".to_owned(), ..Default::default() };
    let pull =
        PullRequest { image: "a".to_owned(), credentials: Some(token), ..Default::default() };
    let refused = client.pull(pull).await.unwrap_err();
    assert!(refused.message().contains("credentials.registry_token"), "{refused:?}");
    world.stop().await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let world = World::start().await;
    let mut client = world.client().await;
    let mut half = upload(&archive());
    half.pop();
    let (sent, all_sent) = oneshot::channel();
    let mut sent = Some(sent);
    let messages = futures::stream::iter(half).chain(futures::stream::poll_fn(move |_| {
        sent.take().map(|sent| sent.send(()));
        std::task::Poll::Pending
    }));
    tokio::select! {
        ended = client.load(messages) => panic!("{ended:?}"),
        sent = all_sent => sent.unwrap(),
    }
    world.stop().await;
}

#[tokio::test]
async fn a_pull_tells_its_steps_and_ends_with_its_caller() {
    let mut content = Content::default();
    let parts = content.image("v1", &[b"one", &[7; 300_000]]);
    let registry = Registry::start(content).await;
    let world = World::start().await;
    let mut client = world.client().await;
    let pull = |image: String| PullRequest { image, ..PullRequest::default() };
    let mut stream = client.pull(pull(registry.name("app:v1"))).await.unwrap().into_inner();
    let (mut layers, mut image) = (BTreeSet::new(), None);
    while let Some(message) = stream.message().await.unwrap() {
        match message.event.unwrap() {
            pull_response::Event::Progress(step) => {
                assert!(image.is_none() && step.state() != PullState::Unspecified);
                layers.extend(Some(step.digest).filter(|digest| !digest.is_empty()));
            }
            pull_response::Event::Image(pulled) => image = Some(pulled),
        }
    }
    let image = image.expect("the image comes last");
    assert_eq!((image.id, image.digest), (parts.config.to_string(), parts.manifest.to_string()));
    assert_eq!(image.reference, registry.name("app:v1"));
    assert_eq!(layers, parts.layers.iter().map(ToString::to_string).collect());

    let mut stream = client.pull(pull(registry.name("app:absent"))).await.unwrap().into_inner();
    let error = loop {
        match stream.message().await {
            Ok(message) => assert!(message.is_some(), "it must fail"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), Code::NotFound);

    let mut other = Content::default();
    other.image("v1", &[b"not here yet"]);
    let silent = Registry::with_hook(other, |request| {
        let blob = request.path.contains("/blobs/");
        blob.then(|| Reply { stall: true, stop_after: Some(0), ..Reply::ok("x") })
    })
    .await;
    let mut stream = client.pull(pull(silent.name("app:v1"))).await.unwrap().into_inner();
    let asked = async {
        while silent.count("/blobs/") == 0 {
            tokio::task::yield_now().await;
        }
    };
    let steps = async { while stream.message().await.unwrap().is_some() {} };
    tokio::select! {
        asked = tokio::time::timeout(SOON, asked) => asked.expect("a blob is asked for"),
        () = steps => panic!("the registry is silent"),
    }
    assert!(!world.fakes.leftovers().is_empty(), "it is under way");
    drop(stream);
    world.stop().await;
}

/// A request by a caller with a role in one namespace, or in all.
fn as_somebody<T>(message: T, limited: bool) -> Request<T> {
    let mut request = Request::new(message);
    let namespaces = limited.then(|| Arc::new(BTreeSet::from(["team".to_owned()])));
    request.extensions_mut().insert(Grant { role: Role::Operate, namespaces });
    request
}

#[tokio::test]
async fn what_touches_everybody_takes_the_role_everywhere() {
    let world = World::start().await;
    let door = &world.door;
    for limited in [true, false] {
        let denied = |code: Code| code == Code::PermissionDenied;
        let names = || vec![NAME.to_owned()];
        let save = door.save(as_somebody(SaveRequest { images: names() }, limited)).await;
        assert_eq!(denied(save.err().unwrap().code()), limited);
        let request = RemoveImageRequest { image: NAME.to_owned() };
        let remove = door.remove_image(as_somebody(request, limited)).await;
        assert_eq!(denied(remove.err().unwrap().code()), limited);
        door.list_images(as_somebody(ListImagesRequest::default(), limited)).await.unwrap();
        let request = PullRequest { image: NAME.to_owned(), ..PullRequest::default() };
        assert!(door.pull(as_somebody(request, limited)).await.is_ok());
    }
    let unknown = door.list_images(Request::new(ListImagesRequest::default())).await;
    assert_eq!(unknown.unwrap_err().code(), Code::PermissionDenied, "nobody has looked at it");
    world.stop().await;
}

#[test]
fn the_audit_hears_names_and_no_credentials() {
    use prost::Message as _;
    let credentials = RegistryCredentials {
        username: "me".to_owned(),
        password: "hunter2".to_owned(),
        ..RegistryCredentials::default()
    };
    let pull = PullRequest {
        image: "app:1".to_owned(),
        credentials: Some(credentials),
        ..PullRequest::default()
    };
    assert!(!format!("{pull:?}").contains("hunter2"));
    let what = |rpc: &str, message: Vec<u8>| of_message(rpc, &message).map(|about| about.what);
    assert_eq!(what("Pull", pull.encode_to_vec()).as_deref(), Some("image app:1"));
    let load = |names: &[&str]| what("Load", start(names).encode_to_vec());
    assert_eq!(load(&[]).as_deref(), Some("images of an archive"));
    assert_eq!(load(&["a", "b"]).as_deref(), Some("image a, b"));
    assert_eq!(what("Load", data(b"x").encode_to_vec()), None);
    let images = (0..10).map(|n| n.to_string()).collect();
    let save = what("Save", SaveRequest { images }.encode_to_vec());
    assert_eq!(save.as_deref(), Some("image 0, 1, 2, 3, 4, 5, 6, 7 and 2 more"));
    assert_eq!(what("ListImages", vec![]), None);
    let remove = RemoveImageRequest { image: "a".to_owned() };
    assert_eq!(what("RemoveImage", remove.encode_to_vec()).as_deref(), Some("image a"));
    assert_eq!(what("Pods", vec![]), None);
}
