//! Ends pods before the host shuts down.
//!
//! ```text
//! notice ─► no new pods, node not ready ─► band by band: Failed, ended ─► the host continues
//!   └────────────── cancelled ─► as before; static pods start again
//! ```
//! An ended pod stays failed like any other, except a static one, which its file still requests.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;

use super::Pods;
use crate::backend::{self, ErrorKind, Notice, Shutdown};
use crate::clock::now;
use crate::lifecycle::Backoff;
use crate::pod::backoff::later;
use crate::pod::reason::verdict;
use crate::pod::record::Verdict;
use crate::pod::room::Entry;
use crate::pod::shutdown::{Band, Bands};
use crate::pod::translate::priority;
use crate::telemetry::error_chain;

const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";

/// First delay between attempts to subscribe again.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(60);

impl Pods {
    /// Ends pods by these bands before the host shuts down, until the drain. Does nothing without
    /// bands, or if the host has no shutdown notifications.
    pub fn start_shutdown(self: &Arc<Self>, bands: Bands, host: Arc<dyn Shutdown>) {
        if !bands.is_empty() {
            let work = self.clone().mind_shutdown(bands, host);
            drop(self.room.deps.tasks.spawn_until_drain("node shutdown", work));
        }
    }

    /// Whether the host is shutting down.
    pub(super) fn is_shutting_down(&self) -> bool {
        self.shutting_down.load(Ordering::Acquire)
    }

    async fn mind_shutdown(self: Arc<Self>, bands: Bands, host: Arc<dyn Shutdown>) {
        let mut pauses = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
        loop {
            let error = match host.notice().await {
                Ok(mut notice) => {
                    pauses = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
                    let Err(error) = self.heed(&bands, &mut *notice).await;
                    error
                }
                Err(error) if error.kind == ErrorKind::Unsupported => {
                    let error = error_chain(&error);
                    tracing::warn!(
                        error,
                        "systemd-logind not found: pods are not terminated before a shutdown"
                    );
                    return;
                }
                Err(error) => error,
            };
            tracing::warn!(error = error_chain(&error), "cannot watch for shutdowns, retrying");
            tokio::time::sleep(pauses.next()).await;
        }
    }

    /// Reacts to notifications; returns when there are no more.
    async fn heed(
        self: &Arc<Self>,
        bands: &Bands,
        notice: &mut dyn Notice,
    ) -> Result<Infallible, backend::Error> {
        let patience = notice.patience();
        let (wanted, bands) = (bands.total(), bands.within(patience));
        if wanted > patience {
            tracing::warn!(
                ?wanted,
                ?patience,
                "logind waits less than pods.shutdown_grace, so all pods get less: raise \
                 InhibitDelayMaxSec in logind.conf"
            );
        }
        let mut begun = notice.next().await?;
        loop {
            if !begun {
                self.go_on();
                notice.hold().await?;
                begun = notice.next().await?;
                continue;
            }
            tracing::warn!("host is shutting down, terminating pods");
            self.shutting_down.store(true, Ordering::Release);
            begun = self.end_all(&bands, notice).await?;
            if begun {
                tracing::info!("all pods terminated, shutdown continues");
                notice.release();
                begun = notice.next().await?;
            }
        }
    }

    /// Ends all pods; returns whether the shutdown is still in progress.
    async fn end_all(
        &self,
        bands: &Bands,
        notice: &mut dyn Notice,
    ) -> Result<bool, backend::Error> {
        let end = async {
            for band in bands.iter() {
                self.end_band(bands, band).await;
            }
        };
        tokio::pin!(end);
        loop {
            // Cancel-safe: both branches are, and the first one is pinned outside.
            tokio::select! {
                () = &mut end => return Ok(true),
                told = notice.next() => match told {
                    Ok(true) => {}
                    Ok(false) => return Ok(false),
                    // The bus shuts down with the host, so there is no time to ask again.
                    Err(error) => {
                        end.await;
                        return Err(error);
                    }
                },
            }
        }
    }

    async fn end_band(&self, bands: &Bands, band: &Band) {
        let of_band = |entry: &Arc<Entry>| {
            let life = entry.life();
            !life.settled && bands.of(priority(life.given.spec())) == Some(band)
        };
        let entries: Vec<_> = self.room.all().into_iter().filter(of_band).collect();
        let ends = entries.iter().map(|entry| async {
            if let Err(error) = self.end_with_host(entry, band.grace).await {
                tracing::warn!(pod = %entry.key, error = error_chain(&error),
                    "cannot terminate pod");
            }
            entry.ended().await;
        });
        if tokio::time::timeout(band.grace, join_all(ends)).await.is_err() {
            let late = entries.iter().filter(|entry| of_band(entry)).map(|e| e.key.to_string());
            let late: Vec<_> = late.collect();
            tracing::warn!(?late, priority = band.priority, "pods did not terminate in time");
        }
    }

    async fn end_with_host(&self, entry: &Entry, grace: Duration) -> Result<(), crate::pod::Error> {
        let at = now();
        let boot = self.room.deps.host.facts().boot_id.clone();
        self.change(entry, |life| {
            if life.verdict.is_none() {
                life.ended_with = Some(boot);
            }
            let grace = grace.min(life.grace());
            life.judge(Verdict {
                succeeded: false,
                reason: verdict::TERMINATED.to_owned(),
                message: MESSAGE.to_owned(),
                at,
                deadline: later(at, grace),
                disrupted: true,
            });
        })
        .await?;
        Ok(())
    }

    /// Handles that there is no shutdown, or that it was cancelled.
    fn go_on(self: &Arc<Self>) {
        if self.shutting_down.swap(false, Ordering::AcqRel) {
            tracing::info!("shutdown was cancelled");
            // For pods that arrived meanwhile.
            self.gone.notify_one();
        }
        let ended = |entry: &Arc<Entry>| entry.life().is_static_ended_with_host();
        for entry in self.room.all().into_iter().filter(ended) {
            let pods = self.clone();
            drop(self.room.deps.tasks.spawn_until_drain("static pod", async move {
                entry.ended().await;
                let again = pods.change(&entry, |life| {
                    life.begin_again();
                    entry.regenerate();
                });
                if let Err(error) = again.await {
                    let error = error_chain(&error);
                    tracing::warn!(pod = %entry.key, error, "cannot restart static pod");
                }
            }));
        }
    }
}
