//! A small controller for several nodes: it keeps a number of replicas of one pod running across
//! several agents, and replaces those that die. It is a plain client of `podbay.v1`.
//!
//! It follows one watch stream per agent and records the state. After each event it creates missing
//! replicas where there are the fewest, and deletes superfluous or ended ones. The pods of an agent
//! that does not answer for a while are Unknown: they are created elsewhere, and the superfluous
//! ones are deleted when it is back. An interrupt deletes all; any other end leaves the pods to the
//! agents, and the next controller finds them by their label.
//!
//! ```text
//! podbay certs client controller          # its role in the agents' policies: operate
//! cargo run --example controller -- --replicas 3 \
//!     --agent /run/podbay/podbay.sock --agent https://node-2.example:7443 \
//!     --ca ca.crt --cert controller.crt --key controller.key examples/replica.yaml
//! ```

use std::collections::BTreeMap;
use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use podbay::ctl::connect::Client;
use podbay::ctl::context::Context;
use podbay::proto::podbay::v1 as api;
use podbay::proto::podbay::v1::pods_client::PodsClient;
use podbay::telemetry::error_chain;
use serde_json::Value;
use tokio::signal::ctrl_c;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// Keeps replicas of a pod alive over several agents.
#[derive(Parser)]
struct Arguments {
    /// Address of an agent, a socket's path or https://host:port; once for each.
    #[arg(long = "agent", required = true)]
    agents: Vec<String>,
    /// Certificate authority of agents with https.
    #[arg(long, requires_all = ["cert", "key"])]
    ca: Option<PathBuf>,
    /// Certificate of this controller.
    #[arg(long)]
    cert: Option<PathBuf>,
    /// Its key.
    #[arg(long)]
    key: Option<PathBuf>,
    /// How many pods there should be in all.
    #[arg(long, default_value_t = 2)]
    replicas: usize,
    /// How many seconds an agent may be away before its pods are made elsewhere.
    #[arg(long, default_value_t = 3)]
    patience: u64,
    /// The pod to copy: YAML or JSON. Its name becomes the first part of theirs.
    template: PathBuf,
}

/// Pods of this controller carry it.
const LABEL: &str = "podbay.io/controller";
const RETRY: Duration = Duration::from_millis(500);
/// An agent that takes longer for a call is asked again later.
const CALL: Duration = Duration::from_secs(10);
const NEWS: usize = 256;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let text = std::fs::read_to_string(&arguments.template)
        .with_context(|| format!("read {}", arguments.template.display()))?;
    let wanted = Wanted {
        template: serde_saphyr::from_str(&text).context("read the template")?,
        replicas: arguments.replicas,
        patience: Duration::from_secs(arguments.patience),
    };
    let client = |address: &String| {
        let (ca, cert, key) = (&arguments.ca, &arguments.cert, &arguments.key);
        if address.starts_with("https:") && ca.is_none() {
            bail!("agent {address} needs --ca, --cert and --key");
        }
        let (ca, cert, key) = (ca.clone(), cert.clone(), key.clone());
        let context = Context { ca, cert, key, ..Context::default() };
        Ok(Client::lazy(context.agent(address.clone(), Path::new(""))?)?.pods)
    };
    let agents = arguments.agents.iter().map(client).collect::<Result<_>>()?;
    let interrupted = async { ctrl_c().await.unwrap_or_default() };
    let again = async { ctrl_c().await.and(ctrl_c().await) };
    // Cancel-safe: the program ends.
    tokio::select! {
        kept = keep(agents, wanted, interrupted, |line| println!("{line}")) => kept,
        _ = again => bail!("interrupted again: pods may be left"),
    }
}

/// What there should be.
pub struct Wanted {
    /// The pod to copy.
    pub template: Value,
    /// How many of it.
    pub replicas: usize,
    /// How long an agent may be away before its pods are Unknown.
    pub patience: Duration,
}

/// Keeps the replicas until `stop` completes, then deletes them and waits until they are gone. `say`
/// gets a line for whatever changes.
pub async fn keep(
    agents: Vec<PodsClient<Channel>>,
    mut wanted: Wanted,
    stop: impl Future<Output = ()>,
    say: impl FnMut(String),
) -> Result<()> {
    let name = wanted.template["metadata"]["name"].as_str();
    let name = name.context("the template has no name")?.to_owned();
    wanted.template["metadata"]["labels"][LABEL] = name.as_str().into();
    let (sender, mut news) = mpsc::channel(NEWS);
    let mut watches = JoinSet::new();
    for (index, client) in agents.iter().enumerate() {
        watches.spawn(follow(index, client.clone(), name.clone(), sender.clone()));
    }
    let agents = agents.into_iter().map(Agent::new).collect();
    let mut controller = Controller { agents, wanted, name, next: 0, say };
    let mut tick = tokio::time::interval(RETRY);
    let mut stopping = false;
    tokio::pin!(stop);
    while !stopping || !controller.is_done() {
        // Cancel-safe: a channel, a timer and a signal.
        tokio::select! {
            Some((agent, told)) = news.recv() => controller.hear(agent, told),
            _ = tick.tick() => controller.look_at_the_clock(),
            () = &mut stop, if !stopping => {
                stopping = true;
                controller.wanted.replicas = 0;
            }
        }
        controller.reconcile().await;
    }
    Ok(())
}

/// What a watch tells.
enum News {
    /// All pods follow, from the beginning.
    Anew,
    Pod(Box<api::Pod>),
    Gone(String),
    /// All that the agent has is told.
    UpToDate,
    Away(String),
}

/// Follows the pods of one agent for ever; after a break it goes on where it was.
async fn follow(
    agent: usize,
    mut client: PodsClient<Channel>,
    name: String,
    news: mpsc::Sender<(usize, News)>,
) -> Result<()> {
    let mut after = None;
    loop {
        let selector =
            api::Selector { labels: format!("{LABEL}={name}"), ..api::Selector::default() };
        let request = api::WatchRequest { selector: Some(selector), after: after.clone() };
        let away = match client.watch(request).await {
            Ok(answer) => {
                if after.is_none() {
                    news.send((agent, News::Anew)).await?;
                }
                let mut stream = answer.into_inner();
                loop {
                    match stream.message().await {
                        Ok(Some(event)) => {
                            after = event.revision.clone().or(after);
                            news.send((agent, told(event))).await?;
                        }
                        Ok(None) => break "it ends".to_owned(),
                        Err(status) => break why(&status),
                    }
                }
            }
            Err(status) => {
                // What was missed is not kept any more: begin with the state as it is.
                if status.code() == tonic::Code::OutOfRange {
                    after = None;
                }
                why(&status)
            }
        };
        news.send((agent, News::Away(away))).await?;
        tokio::time::sleep(RETRY).await;
    }
}

fn told(event: api::WatchResponse) -> News {
    match (event.r#type(), event.pod) {
        (api::WatchEventType::Deleted, Some(pod)) => News::Gone(pod.name),
        (_, Some(pod)) => News::Pod(Box::new(pod)),
        (_, None) => News::UpToDate,
    }
}

/// How far the pods of an agent are known.
#[derive(Clone, Copy, PartialEq)]
enum Contact {
    /// Not all of them have been told, since then.
    Learning(Instant),
    /// They are as they were told.
    Close,
    /// They are as they were told until then, when it went away.
    Away(Instant),
    /// It has been away for too long: they are Unknown.
    Lost,
}

struct Agent {
    client: PodsClient<Channel>,
    /// As they were told last.
    pods: BTreeMap<String, api::Pod>,
    contact: Contact,
    /// Why it is away.
    trouble: Option<String>,
}

impl Agent {
    fn new(client: PodsClient<Channel>) -> Self {
        let contact = Contact::Learning(Instant::now());
        Self { client, pods: BTreeMap::new(), contact, trouble: None }
    }

    /// Pods that count as replicas.
    fn replicas(&self) -> impl DoubleEndedIterator<Item = &api::Pod> {
        let known = self.contact != Contact::Lost;
        self.pods
            .values()
            .filter(move |pod| known && pod.deletion_deadline.is_none() && !is_over(pod))
    }

    fn summary(&self, pod: &api::Pod) -> String {
        let phase = if self.contact == Contact::Lost { api::Phase::Unknown } else { pod.phase() };
        let phase = phase.as_str_name().trim_start_matches("PHASE_").to_lowercase();
        let address = pod.addresses.first().map(|address| format!(" at {address}"));
        let ending = if pod.deletion_deadline.is_some() { ", ending" } else { "" };
        format!("{} is {phase}{}{ending}", pod.name, address.unwrap_or_default())
    }
}

fn is_over(pod: &api::Pod) -> bool {
    matches!(pod.phase(), api::Phase::Succeeded | api::Phase::Failed)
}

struct Controller<S> {
    agents: Vec<Agent>,
    wanted: Wanted,
    name: String,
    next: u32,
    say: S,
}

impl<S: FnMut(String)> Controller<S> {
    fn say(&mut self, index: usize, what: &str) {
        (self.say)(format!("agent {index}: {what}"));
    }

    fn hear(&mut self, index: usize, news: News) {
        let agent = &mut self.agents[index];
        match news {
            News::Anew => {
                agent.pods.clear();
                agent.contact = Contact::Learning(Instant::now());
            }
            News::Pod(pod) => {
                let now = agent.summary(&pod);
                let before = agent.pods.insert(pod.name.clone(), *pod);
                let before = before.map(|pod| agent.summary(&pod));
                if before.as_ref() != Some(&now) {
                    self.say(index, &now);
                }
            }
            News::Gone(name) => {
                agent.pods.remove(&name);
                self.say(index, &format!("{name} is gone"));
            }
            News::UpToDate => {
                let was_lost = agent.contact == Contact::Lost;
                (agent.contact, agent.trouble) = (Contact::Close, None);
                if was_lost {
                    self.say_all(index);
                }
            }
            News::Away(why) => {
                if agent.contact == Contact::Close {
                    agent.contact = Contact::Away(Instant::now());
                }
                if agent.trouble.as_ref() != Some(&why) {
                    agent.trouble = Some(why.clone());
                    self.say(index, &format!("away, {why}"));
                }
            }
        }
    }

    fn say_all(&mut self, index: usize) {
        let agent = &self.agents[index];
        let all: Vec<_> = agent.pods.values().map(|pod| agent.summary(pod)).collect();
        all.iter().for_each(|summary| self.say(index, summary));
    }

    /// Gives up agents that have been away for too long.
    fn look_at_the_clock(&mut self) {
        for index in 0..self.agents.len() {
            if let Contact::Learning(since) | Contact::Away(since) = self.agents[index].contact
                && since.elapsed() > self.wanted.patience
            {
                self.agents[index].contact = Contact::Lost;
                self.say_all(index);
            }
        }
    }

    /// Whether no agent that answers has any pod, or may have one.
    fn is_done(&self) -> bool {
        self.agents.iter().all(|agent| match agent.contact {
            Contact::Close => agent.pods.is_empty(),
            Contact::Lost => true,
            Contact::Learning(_) | Contact::Away(_) => false,
        })
    }

    /// Brings what is there nearer to what should be.
    async fn reconcile(&mut self) {
        if self.agents.iter().any(|agent| matches!(agent.contact, Contact::Learning(_))) {
            return;
        }
        for index in self.by_load() {
            let pods = self.agents[index].pods.values();
            let over: Vec<_> = pods.filter(|pod| is_over(pod)).cloned().collect();
            for pod in over {
                self.delete(index, pod).await;
            }
        }
        loop {
            let all: usize = self.agents.iter().map(|agent| agent.replicas().count()).sum();
            let changed = match all.cmp(&self.wanted.replicas) {
                std::cmp::Ordering::Less => self.create_one().await,
                std::cmp::Ordering::Equal => false,
                std::cmp::Ordering::Greater => self.delete_one().await,
            };
            if !changed {
                return;
            }
        }
    }

    /// The agents that answer; those with the fewest replicas first.
    fn by_load(&self) -> Vec<usize> {
        let close = |index: &usize| self.agents[*index].contact == Contact::Close;
        let mut found: Vec<_> = (0..self.agents.len()).filter(close).collect();
        found.sort_by_key(|index| self.agents[*index].replicas().count());
        found
    }

    /// Creates a replica on the first agent that takes it; false if there is none.
    async fn create_one(&mut self) -> bool {
        for index in self.by_load() {
            if self.create(index).await {
                return true;
            }
        }
        false
    }

    /// Deletes a replica where there are the most, if possible one that does not run.
    async fn delete_one(&mut self) -> bool {
        let Some(index) = self.by_load().pop() else { return false };
        let replicas = self.agents[index].replicas().rev();
        let Some(pod) = replicas.min_by_key(|pod| pod.phase() == api::Phase::Running) else {
            return false;
        };
        let pod = pod.clone();
        self.delete(index, pod).await
    }

    /// False when the agent did not take it.
    async fn create(&mut self, index: usize) -> bool {
        self.next += 1;
        let mut pod = self.wanted.template.clone();
        let name = format!("{}-{:x}-{}", self.name, std::process::id(), self.next);
        pod["metadata"]["name"] = name.clone().into();
        let request = api::ApplyRequest {
            manifest: pod.to_string(),
            manner: api::Manner::Create.into(),
            ..api::ApplyRequest::default()
        };
        let made = self.agents[index].client.apply(limited(request)).await.map(|answer| {
            answer.into_inner().pods.into_iter().filter_map(|made| made.pod).collect()
        });
        self.done(index, &format!("{name} created"), made)
    }

    async fn delete(&mut self, index: usize, pod: api::Pod) -> bool {
        if pod.deletion_deadline.is_some() {
            return false;
        }
        let what = format!("{} deleted", pod.name);
        let selector =
            api::Selector { namespace: pod.namespace, name: pod.name, ..api::Selector::default() };
        let request =
            api::DeleteRequest { selector: Some(selector), ..api::DeleteRequest::default() };
        let ending = self.agents[index].client.delete(limited(request)).await;
        self.done(index, &what, ending.map(|answer| answer.into_inner().pods))
    }

    /// Says what was done and remembers the pods; the watch tells the same, but later.
    fn done(&mut self, index: usize, what: &str, pods: Result<Vec<api::Pod>, Status>) -> bool {
        match pods {
            Ok(pods) => {
                self.say(index, what);
                let pods = pods.into_iter().map(|pod| (pod.name.clone(), pod));
                self.agents[index].pods.extend(pods);
                true
            }
            Err(status) => {
                self.say(index, &format!("not {what}: {}", why(&status)));
                false
            }
        }
    }
}

/// What an agent says, or why it could not be asked.
fn why(status: &Status) -> String {
    status.source().map_or_else(|| status.message().to_owned(), error_chain)
}

/// A call that the agent has to answer in time.
fn limited<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL);
    request
}
