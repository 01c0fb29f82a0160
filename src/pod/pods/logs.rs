//! The logs of pods.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};
use tokio::sync::watch;

use super::Pods;
use super::door::default_container;
use crate::logs::read::{self, ReadOptions};
use crate::pod::face::{Error, LogLines, LogOptions};
use crate::pod::object::PodKey;
use crate::pod::plan::wanted;
use crate::pod::record::{Instance, State};
use crate::pod::room::{Entry, Room};

/// Interval of checking whether a followed container has a successor.
const SUCCESSOR: Duration = Duration::from_millis(200);

/// One container's log.
struct Source {
    room: Arc<Room>,
    entry: Arc<Entry>,
    container: String,
    options: ReadOptions,
}

impl Pods {
    pub(super) async fn read_logs(
        &self,
        key: &PodKey,
        options: LogOptions,
    ) -> Result<LogLines, Error> {
        let entry = self.room.shown(key).ok_or_else(|| Error::NotFound(key.clone()))?;
        if options.follow && options.previous {
            let message = "a container that has ended is not followed".to_owned();
            return Err(Error::Argument { field: "previous", message });
        }
        let names = names(&entry, &options)?;
        let many = names.len() > 1;
        let mut streams: Vec<BoxStream<'static, Result<Bytes, Error>>> = Vec::new();
        let mut skipped = None;
        for name in names {
            let stream = self.read_one(&entry, name.clone(), &options).await;
            let stream = match stream {
                Ok(stream) => stream,
                // Of several containers, those that have not started are skipped.
                Err(error @ Error::Container { .. }) if options.all_containers => {
                    skipped.get_or_insert(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            streams.push(if many { prefixed(&name, stream) } else { stream });
        }
        if let Some(error) = skipped.filter(|_| streams.is_empty()) {
            return Err(error);
        }
        if options.follow {
            return Ok(streams.into_iter().collect::<SelectAll<_>>().boxed());
        }
        Ok(futures::stream::iter(streams).flatten().boxed())
    }

    async fn read_one(
        &self,
        entry: &Arc<Entry>,
        container: String,
        options: &LogOptions,
    ) -> Result<LogLines, Error> {
        let life = entry.life();
        let problem = |message: &str| Error::Container {
            pod: entry.key.clone(),
            container: container.clone(),
            message: message.to_owned(),
        };
        let unit = life.units.get(&container);
        let current = unit.and_then(|unit| unit.current.as_ref());
        let attempt = match (current, options.previous) {
            (Some(current), false) => current.attempt,
            // The container shown as `lastState`; while a container waits for its restart that is
            // the newest one.
            (Some(current), true) if self.is_last(entry, &container, current) => current.attempt,
            (Some(current), true) if current.attempt > 0 => current.attempt - 1,
            (_, true) => return Err(problem("there is no container before it")),
            (None, false) => return Err(problem("it is waiting to start")),
        };
        let source = Source {
            room: self.room.clone(),
            entry: entry.clone(),
            container,
            options: ReadOptions {
                tail: options.tail,
                since: options.since,
                limit_bytes: options.limit_bytes,
                timestamps: options.timestamps,
                follow: options.follow,
                ..ReadOptions::default()
            },
        };
        source.read(attempt).await
    }

    /// Whether a container is shown as the last one, because the next is not started yet.
    fn is_last(&self, entry: &Entry, name: &str, current: &Instance) -> bool {
        let view = self.room.deps.hub.get(&entry.key);
        let status = view.as_ref().and_then(|view| view.pod.status.as_ref());
        let lists = status
            .into_iter()
            .flat_map(|status| [&status.container_statuses, &status.init_container_statuses]);
        let mut all = lists.flat_map(|list| list.iter().flatten());
        let status = all.find(|status| status.name == name);
        let last = status.and_then(|status| status.last_state.as_ref()?.terminated.as_ref());
        let id = last.and_then(|last| last.container_id.as_deref()).unwrap_or_default();
        id.ends_with(current.id.as_str())
    }
}

/// The containers whose logs are requested.
fn names(entry: &Entry, options: &LogOptions) -> Result<Vec<String>, Error> {
    let life = entry.life();
    let all = wanted(life.given.spec());
    if options.all_containers {
        if options.container.is_some() {
            let message = "all containers are asked for".to_owned();
            return Err(Error::Argument { field: "container", message });
        }
        return Ok(all.iter().map(|wanted| wanted.name.to_owned()).collect());
    }
    let name = match &options.container {
        Some(name) => name.clone(),
        None => default_container(&life.given),
    };
    if all.iter().any(|wanted| wanted.name == name) {
        return Ok(vec![name]);
    }
    let message = "the pod has no such container".to_owned();
    Err(Error::Container { pod: entry.key.clone(), container: name, message })
}

impl Source {
    fn path(&self, attempt: u32) -> PathBuf {
        let folder = self.room.log_folder(&self.entry.life().given).join(&self.container);
        folder.join(format!("{attempt}.log"))
    }

    async fn read(self, attempt: u32) -> Result<LogLines, Error> {
        let (ended, is_ended) = watch::channel(!self.runs(attempt));
        let first = read::open(&self.path(attempt), self.options, is_ended).await;
        let first = first.map_err(Error::Log)?;
        if !self.options.follow {
            return Ok(first.map(|piece| piece.map_err(Error::Log)).boxed());
        }
        Ok(self.follow(attempt, ended, first.boxed()).boxed())
    }

    /// Follows one container after the other until the pod ends.
    fn follow(
        self,
        mut attempt: u32,
        mut ended: watch::Sender<bool>,
        mut pieces: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> impl futures::Stream<Item = Result<Bytes, Error>> + Send {
        async_stream::stream! {
            loop {
                let mut look = tokio::time::interval(SUCCESSOR);
                loop {
                    // Cancel-safe: a piece is received completely or not at all.
                    tokio::select! {
                        piece = pieces.next() => match piece {
                            Some(piece) => yield piece.map_err(Error::Log),
                            None => break,
                        },
                        _ = look.tick() => drop(ended.send_replace(!self.runs(attempt))),
                    }
                }
                let Some(next) = self.successor(attempt).await else { return };
                attempt = next;
                let (sender, is_ended) = watch::channel(!self.runs(attempt));
                ended = sender;
                // Only the first container is not read from the beginning.
                let options = ReadOptions { tail: None, ..self.options };
                match read::open(&self.path(attempt), options, is_ended).await {
                    Ok(stream) => pieces = stream.boxed(),
                    Err(error) => {
                        yield Err(Error::Log(error));
                        return;
                    }
                }
            }
        }
    }

    /// Whether this container may still write.
    fn runs(&self, attempt: u32) -> bool {
        let life = self.entry.life();
        let current = life.units.get(&self.container).and_then(|unit| unit.current.as_ref());
        current.is_some_and(|current| {
            current.attempt == attempt && !matches!(current.state, State::Ended(_))
        })
    }

    /// The next container, once it exists; `None` when there will be none.
    async fn successor(&self, attempt: u32) -> Option<u32> {
        let mut look = tokio::time::interval(SUCCESSOR);
        loop {
            look.tick().await;
            let life = self.entry.life();
            let current = life.units.get(&self.container).and_then(|unit| unit.current.as_ref());
            if let Some(next) = current.filter(|current| current.attempt > attempt) {
                return Some(next.attempt);
            }
            let spec = wanted(life.given.spec());
            let restarts = spec.iter().any(|wanted| {
                let end = life.units.get(&self.container).and_then(|unit| unit.ended());
                wanted.name == self.container && end.is_some_and(|end| wanted.restarts(end.code))
            });
            if life.is_ending() || !restarts || !self.room.has(&self.entry.uid) {
                return None;
            }
        }
    }
}

/// Prefixes each line with the container's name.
fn prefixed(name: &str, mut stream: LogLines) -> BoxStream<'static, Result<Bytes, Error>> {
    let head = format!("[{name}] ");
    let lines = async_stream::stream! {
        let mut at_start = true;
        while let Some(piece) = stream.next().await {
            let Ok(piece) = piece else {
                yield piece;
                return;
            };
            let mut out = BytesMut::with_capacity(piece.len() + head.len());
            for line in piece.split_inclusive(|byte| *byte == b'\n') {
                if at_start {
                    out.extend_from_slice(head.as_bytes());
                }
                out.extend_from_slice(line);
                at_start = line.ends_with(b"\n");
            }
            yield Ok(out.freeze());
        }
    };
    lines.boxed()
}
