//! Runs one row of the table on a node.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::row::{Row, table};
use super::support::{eventually, wait_until};
use super::watched::{Watched, phase};

/// Namespace of all pods of the table.
pub const NAMESPACE: &str = "timelines";

/// How long a row may wait for anything.
const LIMIT: Duration = Duration::from_secs(90);

/// How long a container that runs may take to its first words.
const SOON: Duration = Duration::from_secs(10);

/// What runs pods.
#[async_trait]
pub trait Node: Send + Sync {
    /// Hands a pod over.
    async fn apply(&self, pod: &Value) -> Result<(), String>;

    /// The states of the pod with this name, from now on.
    async fn watch(&self, name: &str) -> Result<BoxStream<'_, Result<Pod, String>>, String>;

    /// Has the pod ended with this grace period in seconds, or with its own.
    async fn delete(&self, name: &str, grace: Option<i64>) -> Result<(), String>;

    /// Nothing of it runs any more, and nobody has heard of it.
    async fn is_gone(&self, name: &str) -> bool;
}

/// Where rows run.
pub struct Place {
    pub node: Box<dyn Node>,
    /// Reference of the image of all containers that name none.
    pub image: String,
    /// For the folders of the marks.
    pub folder: PathBuf,
    /// How many pods run at a time.
    pub at_once: usize,
}

/// Runs the rows that `fits` lets pass, and panics with all that is not as they say. `KIT_ROW`
/// runs only rows with this text in their names.
pub async fn run_table(place: Place, fits: impl Fn(&Row) -> bool) {
    let only = std::env::var("KIT_ROW").unwrap_or_default();
    let place = Arc::new(place);
    let rows = table().into_iter().enumerate();
    let rows = rows.filter(|(_, row)| row.name.contains(&only) && fits(row));
    let results: Vec<Option<String>> = futures::stream::iter(rows)
        .map(|(number, row)| {
            let place = Arc::clone(&place);
            async move {
                let name = row.name.clone();
                let faults = Case::new(&place, number, row).run().await;
                (!faults.is_empty()).then(|| format!("{name}\n  {}", faults.join("\n  ")))
            }
        })
        .buffer_unordered(place.at_once)
        .collect()
        .await;
    let faults: Vec<&str> = results.iter().flatten().map(String::as_str).collect();
    let (all, good) = (results.len(), results.len() - faults.len());
    println!("{good} of {all} rows are as the table says");
    assert!(faults.is_empty(), "{good} of {all} rows agree, but not:\n\n{}", faults.join("\n\n"));
}

/// One row on its way.
struct Case<'a> {
    node: &'a dyn Node,
    name: String,
    row: Row,
    marks: PathBuf,
    pod: Value,
}

impl<'a> Case<'a> {
    fn new(place: &'a Place, number: usize, row: Row) -> Self {
        let name = format!("row-{number}");
        let marks = place.folder.join(format!("marks-{number}"));
        std::fs::create_dir(&marks).expect("a folder for the marks");
        let pod = row.pod(&name, NAMESPACE, &place.image, &marks);
        Self { node: place.node.as_ref(), name, row, marks, pod }
    }

    /// What is not as the row says.
    async fn run(self) -> Vec<String> {
        if let Err(error) = self.node.apply(&self.pod).await {
            return vec![format!("apply: {error}")];
        }
        let mut watched = Watched::default();
        let mut faults = Vec::new();
        if let Err(fault) = self.follow(&mut watched).await {
            faults.push(fault);
        }
        faults.extend(watched.faults(&self.row));
        let wrong = || self.row.wrong_marks(&read_marks(&self.marks.join("order")));
        if self.row.delete.is_none() {
            // A container runs a moment before its script has written anything; what it writes at
            // an end that is not the row's does not count.
            eventually(SOON, async || wrong().is_none().then_some(())).await;
            faults.extend(wrong());
        }
        faults.extend(self.end(&watched).await);
        if self.row.delete.is_some() {
            faults.extend(wrong());
        }
        faults
    }

    /// Watches the pod until the row's moment.
    async fn follow(&self, watched: &mut Watched) -> Result<(), String> {
        let watching = async {
            let mut news = self.node.watch(&self.name).await?;
            while let Some(pod) = news.next().await {
                watched.see(pod?);
                if self.row.until.is_met(watched.last()) {
                    return Ok(());
                }
                // For ever: nothing that the row waits for can come.
                if ["Succeeded", "Failed"].contains(&phase(watched.last())) {
                    return Err(format!("{:?} does not come", self.row.until));
                }
            }
            Err("the watch has ended".to_owned())
        };
        let reached = tokio::time::timeout(LIMIT, watching).await;
        reached
            .unwrap_or_else(|_| {
                Err(format!("{:?} is not reached within {LIMIT:?}", self.row.until))
            })
            .map_err(|fault| format!("{fault}; the pod is\n{}", watched.summary()))
    }

    /// Deletes the pod, as the row says or at once, and waits until it is gone.
    async fn end(&self, watched: &Watched) -> Vec<String> {
        let wanted = self.row.delete.as_ref();
        let grace = wanted.map_or(Some(0), |delete| delete.grace);
        let began = Instant::now();
        if let Err(error) = self.node.delete(&self.name, grace).await {
            return vec![format!("delete: {error}; it was {}", watched.summary())];
        }
        wait_until(LIMIT, "the pod is gone", async || self.node.is_gone(&self.name).await).await;
        let took = began.elapsed();
        let least = wanted.and_then(|delete| delete.took).unwrap_or(0);
        let too_fast = took < Duration::from_secs(least);
        too_fast.then(|| format!("gone after {took:?}, not before {least} s")).into_iter().collect()
    }
}

fn read_marks(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
