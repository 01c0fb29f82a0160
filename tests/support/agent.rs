//! The real binary in a test: own configuration, own socket, output in a file.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use podbay::proto::runtime::v1 as cri;
use podbay::proto::runtime::v1::image_service_client::ImageServiceClient;
use podbay::proto::runtime::v1::runtime_service_client::RuntimeServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::census::Census;
use super::env::TestEnv;
use super::process::Daemon;
use super::{census, eventually};

/// CRI answers may be as large as kubelet takes them.
const MESSAGE_LIMIT: usize = 16 << 20;
const READY_LIMIT: Duration = Duration::from_secs(20);
/// SIGTERM to exit, as the agent promises.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A client of the runtime service.
pub type Runtime = RuntimeServiceClient<Channel>;
/// A client of the image service.
pub type Images = ImageServiceClient<Channel>;

/// An agent in its world. Dropping it kills it and clears the world away.
pub struct TestAgent {
    // Dropped in this order: first the agent, then its world.
    daemon: Option<Daemon>,
    channel: Channel,
    /// The world.
    pub env: TestEnv,
    before: Census,
}

impl TestAgent {
    /// Starts the agent in this world and waits until it is healthy.
    pub async fn start(env: TestEnv) -> Self {
        let before = Census::take(&env).await;
        let mut daemon = launch(&env);
        let channel = ready(&env, &mut daemon).await;
        Self { daemon: Some(daemon), channel, env, before }
    }

    /// No podbay: containerd's own CRI plugin in the same world, with this image for its pods.
    /// What asks for the agent's process panics.
    pub async fn start_plugin(mut env: TestEnv, pause: &str) -> Self {
        let before = Census::take(&env).await;
        env.serve_cri(pause);
        let endpoint = endpoint(&env.containerd.address());
        let channel = eventually(READY_LIMIT, async || {
            let channel = endpoint.connect().await.ok()?;
            let request = cri::StatusRequest { verbose: false };
            let answer = Runtime::new(channel.clone()).status(request).await.ok()?.into_inner();
            let network = answer.status?.conditions.into_iter();
            let mut network = network.filter(|it| it.r#type == "NetworkReady");
            network.next()?.status.then_some(channel)
        });
        let channel = channel.await;
        let channel = channel.unwrap_or_else(|| panic!("not ready:\n{}", env.containerd.log()));
        Self { daemon: None, channel, env, before }
    }

    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("an agent of its own")
    }

    pub fn runtime(&self) -> Runtime {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_LIMIT)
    }

    pub fn images(&self) -> Images {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_LIMIT)
    }

    /// For other services (health, reflection).
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub fn pid(&self) -> u32 {
        self.daemon().pid()
    }

    /// Everything that the agent has logged, over all its starts.
    pub fn log(&self) -> String {
        self.daemon().output()
    }

    pub fn log_file(&self) -> PathBuf {
        log_file(&self.env)
    }

    /// SIGKILL. Containers go on.
    pub fn kill9(&mut self) {
        self.daemon.as_mut().expect("an agent of its own").kill9();
    }

    /// Starts it again, after [`Self::kill9`], [`Self::stop`] or while it runs (then it is killed
    /// first), and waits until it is healthy. Old clients are dead.
    pub async fn restart(&mut self) {
        self.kill9();
        let mut daemon = launch(&self.env);
        self.channel = ready(&self.env, &mut daemon).await;
        self.daemon = Some(daemon);
    }

    /// SIGTERM; the agent must end with code 0 within 10 s.
    pub async fn stop(&mut self) {
        let daemon = self.daemon.as_mut().expect("an agent of its own");
        let status = daemon.terminate(STOP_LIMIT).await;
        let words = daemon.last_words();
        let status =
            status.unwrap_or_else(|| panic!("still runs {STOP_LIMIT:?} after SIGTERM:\n{words}"));
        assert!(status.success(), "ended with {status} after SIGTERM:\n{words}");
    }

    /// Runs one more agent on the same root until it ends by itself; for refusals.
    pub async fn second(&self) -> (Option<ExitStatus>, String) {
        let log = self.env.file("second.log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_podbay"));
        command.args(["agent", "--config"]).arg(self.env.write_config());
        let mut daemon = Daemon::start(&mut command, &log);
        let status = eventually(READY_LIMIT, async || daemon.ended()).await;
        (status, daemon.output())
    }

    /// Forgets what was there before: from now on this is the base of [`Self::assert_clean`].
    /// Called after pulling the images that a test needs.
    pub async fn count_from_here(&mut self) {
        self.before = Census::take(&self.env).await;
    }

    /// Waits until the world is as it was at the start (or at [`Self::count_from_here`]).
    pub async fn assert_clean(&self) {
        census::assert_nothing_left(&self.env, &self.before).await;
    }

    /// Like [`Self::assert_clean`], whatever images were pulled and folders mounted by the test.
    pub async fn assert_no_pod_is_left(&self) {
        census::assert_no_pod_is_left(&self.env, &self.before).await;
    }
}

fn log_file(env: &TestEnv) -> PathBuf {
    env.file("agent.log")
}

fn launch(env: &TestEnv) -> Daemon {
    let mut command = Command::new(env!("CARGO_BIN_EXE_podbay"));
    command.args(["agent", "--config"]).arg(env.write_config()).current_dir("/");
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("PODBAY_") {
            command.env_remove(key);
        }
    }
    command.envs(env.variables().iter().map(|(name, value)| (name, value)));
    Daemon::start(&mut command, &log_file(env))
}

fn endpoint(socket: &Path) -> Endpoint {
    Endpoint::from_shared(format!("unix://{}", socket.display())).expect("a socket address")
}

async fn ready(env: &TestEnv, daemon: &mut Daemon) -> Channel {
    let endpoint = endpoint(&env.socket());
    let mut ended = None;
    let channel = eventually(READY_LIMIT, async || {
        ended = daemon.ended();
        if ended.is_some() {
            return Some(None);
        }
        let channel = endpoint.connect().await.ok()?;
        let request = HealthCheckRequest { service: String::new() };
        let answer = HealthClient::new(channel.clone()).check(request).await.ok()?;
        (answer.into_inner().status() == ServingStatus::Serving).then_some(Some(channel))
    });
    let channel = channel.await.flatten();
    channel.unwrap_or_else(|| {
        let fate =
            ended.map_or("is not healthy".to_owned(), |status| format!("ended with {status}"));
        panic!("the agent {fate}:\n{}", daemon.last_words())
    })
}
