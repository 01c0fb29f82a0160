//! A small controller for several nodes: it keeps a number of replicas of one pod running across
//! several agents, and replaces those that die. It is a plain client of `podbay.v1`.
//!
//! It follows one watch stream per agent and records the state. After each event it creates missing
//! replicas where there are the fewest, and deletes superfluous or ended ones. An agent that does
//! not answer for a while counts as dead: its replicas are created elsewhere, and the superfluous
//! ones are deleted when it is back.
//!
//! ```text
//! cargo run --example controller -- --agent /run/a/podbay.sock --agent /run/b/podbay.sock \
//!     --replicas 3 examples/replica.yaml
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use podbay::proto::podbay::v1 as api;
use podbay::proto::podbay::v1::pods_client::PodsClient;
use serde_json::Value;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};

/// Keeps replicas of a pod alive over several agents.
#[derive(Parser)]
struct Arguments {
    /// Socket of an agent; once for each.
    #[arg(long = "agent", required = true)]
    agents: Vec<PathBuf>,
    /// How many pods there should be in all.
    #[arg(long, default_value_t = 2)]
    replicas: usize,
    /// The pod to copy: YAML or JSON. Its name becomes the first part of theirs.
    template: PathBuf,
}

/// Pods of this controller carry it.
const LABEL: &str = "podbay.io/controller";
/// How long an agent may be away before its pods are made elsewhere.
const PATIENCE: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_millis(500);
const NEWS: usize = 256;

/// What a watch tells.
enum News {
    Pod {
        agent: usize,
        pod: Box<api::Pod>,
    },
    Gone {
        agent: usize,
        name: String,
    },
    /// All that the agent has is told.
    UpToDate {
        agent: usize,
    },
    Away {
        agent: usize,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let text = std::fs::read_to_string(&arguments.template)
        .with_context(|| format!("read {}", arguments.template.display()))?;
    let mut template: Value = serde_saphyr::from_str(&text).context("read the template")?;
    let name =
        template["metadata"]["name"].as_str().context("the template has no name")?.to_owned();
    template["metadata"]["labels"][LABEL] = name.as_str().into();

    let (sender, mut news) = mpsc::channel(NEWS);
    let mut agents = Vec::new();
    for (index, socket) in arguments.agents.iter().enumerate() {
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
        let client = PodsClient::new(endpoint.connect_lazy());
        tokio::spawn(follow(index, client.clone(), name.clone(), sender.clone()));
        agents.push(Agent { client, pods: BTreeMap::new(), known: false, away: None });
    }
    let mut controller =
        Controller { agents, template, name, replicas: arguments.replicas, next: 0 };
    let mut stop = Box::pin(tokio::signal::ctrl_c());
    let mut tick = tokio::time::interval(RETRY);
    loop {
        // Cancel-safe: a channel, a signal and a timer.
        tokio::select! {
            Some(told) = news.recv() => controller.hear(told),
            _ = tick.tick() => {}
            _ = &mut stop => break,
        }
        controller.reconcile().await;
    }
    controller.delete_all().await
}

/// Follows the pods of one agent for ever; after a break it goes on where it was.
async fn follow(
    agent: usize,
    mut client: PodsClient<Channel>,
    name: String,
    news: mpsc::Sender<News>,
) -> Result<()> {
    let mut after = None;
    loop {
        let selector =
            api::Selector { labels: format!("{LABEL}={name}"), ..api::Selector::default() };
        let request = api::WatchRequest { selector: Some(selector), after: after.clone() };
        match client.watch(request).await {
            Ok(answer) => {
                let mut stream = answer.into_inner();
                while let Ok(Some(event)) = stream.message().await {
                    after = event.revision.clone();
                    news.send(told(agent, event)).await?;
                }
            }
            // What was missed is not kept any more: begin with the state as it is.
            Err(status) if status.code() == tonic::Code::OutOfRange => after = None,
            Err(_) => {}
        }
        news.send(News::Away { agent }).await?;
        tokio::time::sleep(RETRY).await;
    }
}

fn told(agent: usize, event: api::WatchResponse) -> News {
    match (event.r#type(), event.pod) {
        (api::WatchEventType::Deleted, Some(pod)) => News::Gone { agent, name: pod.name },
        (_, Some(pod)) => News::Pod { agent, pod: Box::new(pod) },
        (_, None) => News::UpToDate { agent },
    }
}

/// What is known of one agent.
struct Agent {
    client: PodsClient<Channel>,
    pods: BTreeMap<String, api::Pod>,
    /// Whether it has told all that it has.
    known: bool,
    away: Option<Instant>,
}

impl Agent {
    fn is_dead(&self) -> bool {
        self.away.is_some_and(|since| since.elapsed() > PATIENCE)
    }

    /// Names of the pods that count.
    fn alive(&self) -> Vec<String> {
        let lives = |pod: &&api::Pod| {
            let over = matches!(pod.phase(), api::Phase::Succeeded | api::Phase::Failed);
            pod.deletion_deadline.is_none() && !over
        };
        self.pods.values().filter(lives).map(|pod| pod.name.clone()).collect()
    }
}

struct Controller {
    agents: Vec<Agent>,
    template: Value,
    name: String,
    replicas: usize,
    next: u32,
}

impl Controller {
    fn hear(&mut self, news: News) {
        match news {
            News::Pod { agent, pod } => {
                let pods = &mut self.agents[agent].pods;
                let before = pods.get(&pod.name).map(summary);
                let now = summary(&pod);
                if before.as_deref() != Some(&now) {
                    println!("agent {agent}: {now}");
                }
                pods.insert(pod.name.clone(), *pod);
            }
            News::Gone { agent, name } => {
                self.agents[agent].pods.remove(&name);
                println!("agent {agent}: {name} is gone");
            }
            News::UpToDate { agent } => {
                let agent = &mut self.agents[agent];
                (agent.known, agent.away) = (true, None);
            }
            News::Away { agent } => {
                self.agents[agent].away.get_or_insert_with(Instant::now);
            }
        }
    }

    /// Brings what is there nearer to what should be.
    async fn reconcile(&mut self) {
        if !self.agents.iter().all(|agent| agent.known || agent.is_dead()) {
            return;
        }
        for index in 0..self.agents.len() {
            let agent = &self.agents[index];
            let over: Vec<_> = agent
                .pods
                .values()
                .filter(|pod| is_over(pod))
                .map(|pod| pod.name.clone())
                .collect();
            for name in over {
                self.delete(index, &name).await;
            }
        }
        let counts = |agents: &[Agent]| {
            let living = agents.iter().enumerate().filter(|(_, agent)| !agent.is_dead());
            living.map(|(index, agent)| (agent.alive().len(), index)).collect::<Vec<_>>()
        };
        loop {
            let counts = counts(&self.agents);
            let all: usize = counts.iter().map(|(count, _)| count).sum();
            let changed = match all.cmp(&self.replicas) {
                std::cmp::Ordering::Equal => return,
                std::cmp::Ordering::Less => match counts.iter().min() {
                    Some((_, index)) => self.create(*index).await,
                    None => return,
                },
                std::cmp::Ordering::Greater => match counts.iter().max() {
                    Some((_, index)) => {
                        let name = self.agents[*index].alive().pop().unwrap_or_default();
                        self.delete(*index, &name).await
                    }
                    None => return,
                },
            };
            if !changed {
                return;
            }
        }
    }

    /// Makes one more replica; false when the agent did not take it.
    async fn create(&mut self, index: usize) -> bool {
        self.next += 1;
        let mut pod = self.template.clone();
        let name = format!("{}-{:x}-{}", self.name, std::process::id(), self.next);
        pod["metadata"]["name"] = name.clone().into();
        let request = api::ApplyRequest {
            manifest: pod.to_string(),
            manner: api::Manner::Create.into(),
            ..api::ApplyRequest::default()
        };
        match self.agents[index].client.apply(request).await {
            Ok(answer) => {
                println!("agent {index}: {name} created");
                let made = answer.into_inner().pods.into_iter().filter_map(|made| made.pod);
                self.agents[index].pods.extend(made.map(|pod| (pod.name.clone(), pod)));
                true
            }
            Err(status) => {
                println!("agent {index}: {name} is not taken: {}", status.message());
                false
            }
        }
    }

    async fn delete(&mut self, index: usize, name: &str) -> bool {
        let Some(pod) = self.agents[index].pods.get(name) else { return false };
        if pod.deletion_deadline.is_some() {
            return false;
        }
        let selector = api::Selector {
            namespace: pod.namespace.clone(),
            name: name.to_owned(),
            ..api::Selector::default()
        };
        let request =
            api::DeleteRequest { selector: Some(selector), ..api::DeleteRequest::default() };
        match self.agents[index].client.delete(request).await {
            Ok(answer) => {
                println!("agent {index}: {name} deleted");
                let ending = answer.into_inner().pods;
                self.agents[index]
                    .pods
                    .extend(ending.into_iter().map(|pod| (pod.name.clone(), pod)));
                true
            }
            Err(status) => {
                println!("agent {index}: {name} is not deleted: {}", status.message());
                false
            }
        }
    }

    async fn delete_all(&mut self) -> Result<()> {
        for index in 0..self.agents.len() {
            let names: Vec<_> = self.agents[index].pods.keys().cloned().collect();
            for name in names {
                self.delete(index, &name).await;
            }
        }
        Ok(())
    }
}

fn is_over(pod: &api::Pod) -> bool {
    pod.deletion_deadline.is_none()
        && matches!(pod.phase(), api::Phase::Succeeded | api::Phase::Failed)
}

fn summary(pod: &api::Pod) -> String {
    let phase = pod.phase().as_str_name().trim_start_matches("PHASE_").to_lowercase();
    let address = pod.addresses.first().map(|address| format!(" at {address}"));
    let ending = if pod.deletion_deadline.is_some() { ", ending" } else { "" };
    format!("{} is {phase}{}{ending}", pod.name, address.unwrap_or_default())
}
