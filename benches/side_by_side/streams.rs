//! Throughput of output to the log file.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::load::{Images, Recipe, Times};
use super::wait::eventually;
use super::world::Side;

/// What one container writes, in MB (1,000,000 bytes) of lines of 100 bytes.
const LOG_MB: u64 = 100;
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
