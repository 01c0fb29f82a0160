//! Whole pods: latencies for callers of `podbay.v1`, which have no counterpart in the plugin. The
//! bars come from a kubelet with containerd on a similar machine.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::{join_all, try_join_all};
use podbay::proto::podbay::v1 as api;
use podbay::proto::podbay::v1::pods_client::PodsClient;
use tonic::transport::Channel;

use super::Options;
use super::measure::Usage;
use super::report::Report;
use super::wait::eventually;
use super::world::Side;

/// Pods that are applied in one moment.
const AT_ONCE: usize = 20;
const WATCHERS: usize = 100;
/// Changes that the watchers are told of.
const CHANGES: usize = 20;
const LIMIT: Duration = Duration::from_secs(60);

/// Measures and reports all figures of whole pods.
pub async fn measure(
    options: &Options,
    side: &Side,
    image: &str,
    report: &mut Report,
) -> Result<()> {
    let pods = WholePods { client: PodsClient::new(side.channel()), image: image.to_owned() };
    let mut add = |name: &str, value: f64| report.add(side.number, "whole pods", name, value);
    for number in 0..options.singles + 2 {
        let name = format!("whole-{number}");
        let took = pods.first_words(&name).await?;
        // Two for warmth, not counted.
        if number >= 2 {
            add("Apply to first log line, one, s", took);
        }
        pods.delete_all().await?;
    }
    for round in 0..options.rounds {
        let names: Vec<_> = (0..AT_ONCE).map(|number| format!("crowd-{round}-{number}")).collect();
        let mut took = try_join_all(names.iter().map(|name| pods.first_words(name))).await?;
        took.sort_by(f64::total_cmp);
        add("Apply to first log line, 20 at once, median, s", took[AT_ONCE / 2]);
        add("Apply to first log line, 20 at once, last, s", took[AT_ONCE - 1]);
        pods.delete_all().await?;
    }
    try_join_all((0..options.pods).map(|number| pods.serve(format!("probed-{number}")))).await?;
    pods.all_ready(options.pods).await?;
    for (name, value) in Usage::memory(side)? {
        if name == "agent alone, RSS" {
            add("agent alone with 50 pods, RSS, MiB", value);
        }
    }
    let before = Usage::cpu(side)?;
    tokio::time::sleep(Duration::from_secs(options.idle_seconds)).await;
    for ((name, after), (_, before)) in Usage::cpu(side)?.into_iter().zip(before) {
        let percent = (after - before) / options.idle_seconds as f64 * 100.0;
        if name == "agent alone" {
            add("idle with 1 s HTTP probes, agent alone, % of a core", percent);
        }
    }
    for delay in pods.news().await? {
        add("a change reaches one of 100 watchers, ms", delay);
    }
    pods.delete_all().await
}

struct WholePods {
    client: PodsClient<Channel>,
    image: String,
}

impl WholePods {
    /// Applies a pod with an init container; seconds until the app's first log line is read.
    async fn first_words(&self, name: &str) -> Result<f64> {
        let image = &self.image;
        let manifest = format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}"}},"spec":{{
            "terminationGracePeriodSeconds":0,
            "initContainers":[{{"name":"init","image":"{image}","command":["/bin/true"]}}],
            "containers":[{{"name":"app","image":"{image}",
            "command":["/bin/sh","-c","echo here; exec sleep 1000"]}}]}}}}"#
        );
        let start = Instant::now();
        self.apply(manifest).await?;
        let follow = api::LogsRequest {
            namespace: "default".into(),
            name: name.into(),
            container: "app".into(),
            follow: true,
            ..api::LogsRequest::default()
        };
        let words = eventually(LIMIT, async || {
            let mut log = self.client.clone().logs(follow.clone()).await.ok()?.into_inner();
            log.message().await.ok().flatten()
        });
        let words = words.await.context("no log line")?;
        let took = start.elapsed().as_secs_f64();
        ensure!(words.data.starts_with(b"here"), "another log: {words:?}");
        Ok(took)
    }

    /// Applies a web server that is asked once a second whether it is ready.
    async fn serve(&self, name: String) -> Result<()> {
        let image = &self.image;
        let manifest = format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}"}},"spec":{{
            "terminationGracePeriodSeconds":0,
            "containers":[{{"name":"web","image":"{image}",
            "command":["/bin/sh","-c","cd /tmp; touch index.html; exec httpd -f -p 8080"],
            "readinessProbe":{{"httpGet":{{"path":"/index.html","port":8080}},"periodSeconds":1}}
            }}]}}}}"#
        );
        self.apply(manifest).await
    }

    async fn apply(&self, manifest: String) -> Result<()> {
        let request = api::ApplyRequest { manifest, ..api::ApplyRequest::default() };
        self.client.clone().apply(request).await.context("Apply")?;
        Ok(())
    }

    async fn list(&self) -> Option<Vec<api::Pod>> {
        let all = api::ListRequest::default();
        Some(self.client.clone().list(all).await.ok()?.into_inner().pods)
    }

    async fn all_ready(&self, count: usize) -> Result<()> {
        let is_ready = |pod: &api::Pod| pod.containers.iter().all(|it| it.ready);
        let ready = eventually(LIMIT * 2, async || {
            let pods = self.list().await?;
            (pods.len() == count && pods.iter().all(is_ready)).then_some(())
        });
        ready.await.context("not all are ready")
    }

    async fn delete_all(&self) -> Result<()> {
        let request = api::DeleteRequest { all: true, ..api::DeleteRequest::default() };
        self.client.clone().delete(request).await.context("Delete")?;
        let gone = eventually(LIMIT, async || self.list().await?.is_empty().then_some(()));
        gone.await.context("not all are gone")
    }

    /// Milliseconds from the call that changes a pod until a watcher has the news, for each
    /// watcher and change.
    async fn news(&self) -> Result<Vec<f64>> {
        let begin = Instant::now();
        let mut watchers = Vec::new();
        for _ in 0..WATCHERS {
            let request = api::WatchRequest::default();
            watchers.push(self.client.clone().watch(request).await?.into_inner());
        }
        let heard = watchers.into_iter().map(|mut news| async move {
            let mut times = vec![None; CHANGES];
            while times.iter().any(Option::is_none) {
                let event = news.message().await.ok().flatten()?;
                let mark =
                    event.pod.and_then(|pod| pod.labels.get("change")?.parse::<usize>().ok());
                if let Some(time) = mark.and_then(|mark| times.get_mut(mark)) {
                    time.get_or_insert_with(|| begin.elapsed());
                }
            }
            Some(times.into_iter().flatten().collect::<Vec<_>>())
        });
        let heard = tokio::spawn(join_all(heard));
        let manifest = self.list().await.context("List")?.swap_remove(0).object;
        let mut object: serde_json::Value = serde_json::from_str(&manifest)?;
        for part in ["status", "metadata/resourceVersion"] {
            if let Some((outer, inner)) = part.split_once('/') {
                object[outer].as_object_mut().context("an object")?.remove(inner);
            } else {
                object.as_object_mut().context("an object")?.remove(part);
            }
        }
        let mut told = Vec::new();
        for change in 0..CHANGES {
            // The watchers have to be quiet again: one change is measured, not a queue.
            tokio::time::sleep(Duration::from_millis(200)).await;
            object["metadata"]["labels"] = serde_json::json!({ "change": change.to_string() });
            told.push(begin.elapsed());
            self.apply(object.to_string()).await?;
        }
        let heard = tokio::time::timeout(LIMIT, heard).await.context("not all have heard")??;
        let delays = heard.into_iter().flatten().flat_map(|times| {
            let delays = times.into_iter().zip(&told).map(|(heard, told)| heard - *told);
            delays.map(|delay| delay.as_secs_f64() * 1e3).collect::<Vec<_>>()
        });
        Ok(delays.collect())
    }
}
