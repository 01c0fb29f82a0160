//! How fast output gets through to the log file, and news to many listeners.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use podbay::proto::runtime::v1 as cri;
use tokio::task::JoinSet;

use super::load::{Images, Recipe, Times};
use super::wait::eventually;
use super::world::Side;

/// What one container writes, in MB (1,000,000 bytes) of lines of 100 bytes.
const LOG_MB: u64 = 100;
/// Clients of GetContainerEvents.
const LISTENERS: usize = 20;
const SOON: Duration = Duration::from_secs(120);

/// A container that writes as fast as it is let: MB/s by the times of its status, and what all
/// of the side (without the writer itself) used of the CPU for it, in ms.
pub async fn log(side: &Side, images: &Images, round: usize) -> Result<Times> {
    let mut recipe = Recipe::new(side, images);
    let name = format!("log-{round}");
    let line = "x".repeat(99);
    let script = format!("yes {line} | head -c {LOG_MB}000000");
    let before = side.cpu.millis()?;
    let pod = recipe.start_with(&name, &[&script], &mut Times::new()).await?;
    let empty = side.cpu.millis()?;
    let id = &pod.containers[0];
    let ended =
        eventually(SOON, async || recipe.status(id).await.ok().filter(|it| it.finished_at > 0));
    let status = ended.await.context("the writer does not end")?;
    ensure!(status.exit_code == 0, "the writer failed: {}", status.message);
    let used = side.cpu.millis()? - empty.max(before);
    let size = std::fs::metadata(&status.log_path).context("no log file")?.len();
    ensure!(size > LOG_MB * 1_000_000, "the log is not whole: {size} bytes");
    let seconds = (status.finished_at - status.started_at) as f64 / 1e9;
    recipe.end(pod, &mut Times::new()).await?;
    Ok(vec![("MB per second", LOG_MB as f64 / seconds), ("CPU for 100 MB, ms", used)])
}

/// From the call of StartContainer until the last of many listeners has heard of it.
pub async fn news(side: &Side, images: &Images, round: usize) -> Result<Times> {
    let mut recipe = Recipe::new(side, images);
    let mut listeners = JoinSet::new();
    for _ in 0..LISTENERS {
        let stream = side.runtime().get_container_events(cri::GetEventsRequest {}).await;
        let mut stream = stream.context("GetContainerEvents")?.into_inner();
        listeners.spawn(async move {
            while let Ok(Some(event)) = stream.message().await {
                let started =
                    event.container_event_type() == cri::ContainerEventType::ContainerStartedEvent;
                // A pod's own start is told under the id of the pod.
                let of_pod =
                    event.pod_sandbox_status.is_some_and(|pod| pod.id == event.container_id);
                let fresh = event.created_at > 0 && started && !of_pod;
                if fresh {
                    return Some((event.container_id, Instant::now()));
                }
            }
            None
        });
    }
    let mut times = Times::new();
    let begun = Instant::now();
    let pod = recipe.start(&format!("news-{round}"), 1, &mut times).await?;
    let start = times.iter().find(|(name, _)| *name == "StartContainer").context("no start")?.1;
    let called = Instant::now() - Duration::from_secs_f64(start / 1000.0);
    ensure!(called >= begun, "the start was before the pod");
    let heard =
        tokio::time::timeout(SOON, listeners.join_all()).await.context("an event is missing")?;
    let mut last = called;
    for one in heard {
        let (id, at) = one.context("the events ended")?;
        ensure!(id == pod.containers[0], "news of another container");
        last = last.max(at);
    }
    recipe.end(pod, &mut Times::new()).await?;
    Ok(vec![("start until 20 listeners know", (last - called).as_secs_f64() * 1000.0)])
}
