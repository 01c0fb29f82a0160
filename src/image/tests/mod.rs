//! Tests of the room with a registry on a loopback port and a store in memory.

mod auth;
mod bad_archives;
mod daemon;
mod faults;
mod import;
mod limits;
mod loads;
mod names;
mod pulls;
pub(crate) mod registry;
mod saves;
mod store;
pub(crate) mod tar;
mod tls;

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use self::daemon::Daemon;
use self::registry::{Content, Parts, Registry};
use self::store::Store;
use super::*;
use crate::backend::ImageRecord;
use crate::model::image::ImageConfig;

/// The room with a store of its own.
struct Room {
    images: Arc<Images>,
    store: Arc<Store>,
    tasks: Tasks,
}

fn room() -> Room {
    room_with(|_| {})
}

fn room_with(change: impl FnOnce(&mut Options)) -> Room {
    let mut options = Options {
        snapshotter: "testfs".into(),
        config_dirs: Vec::new(),
        no_progress_timeout: Duration::from_secs(20),
        retry_delay: Duration::from_millis(1),
        ..Options::default()
    };
    change(&mut options);
    let (store, tasks) = (Arc::new(Store::default()), Tasks::new());
    let backend = Arc::clone(&store) as Arc<dyn crate::backend::Images>;
    let images = Images::new(backend, Arc::new(Daemon), tasks.clone(), options);
    Room { images, store, tasks }
}

/// A registry with a three-layer image under `app:v1`.
fn three_layers() -> (Content, Parts) {
    let mut content = Content::default();
    let parts = content.image("v1", &[b"one", b"two", &[7; 300_000]]);
    (content, parts)
}

/// An error with all its causes, as a caller sees it.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause} {cause:?}");
        source = cause.source();
    }
    format!("{text} {error:?}")
}

/// Waits for a condition that another task fulfils.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap_or_else(|_| panic!("{what}"));
}

fn user(name: &str, password: &str) -> Option<Credentials> {
    let (username, password) = (name.to_owned(), password.to_owned());
    Some(Credentials { username, password, ..Credentials::default() })
}
