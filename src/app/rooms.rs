//! The rooms of the domain, joined, and what the front hall gets of them.

use std::sync::Arc;

use super::Error;
use super::ground::Ground;
use super::options::{
    apparmor_default, container_options, handlers, image_options, is_systemd, oci_settings,
    pods_options, sandbox_options, stats_options,
};
use crate::backend::RuntimeHandler;
use crate::board::Board;
use crate::config::Config;
use crate::container::{self, Containers};
use crate::image::Images;
use crate::pod::{Pods, PodsDeps};
use crate::sandbox::{self, Sandboxes};
use crate::serve::{CriServices, Identity, PodServices};
use crate::stats::{self, Stats};
use crate::stream;

/// The rooms over one ground.
pub(super) struct Rooms {
    pub(super) images: Arc<Images>,
    pub(super) containers: Arc<Containers>,
    pub(super) sandboxes: Arc<Sandboxes>,
    pub(super) pods: Arc<Pods>,
    pub(super) stats: Arc<Stats>,
    pub(super) handlers: Vec<RuntimeHandler>,
}

impl Rooms {
    /// Makes them; nothing runs yet.
    pub(super) async fn new(config: &Config, ground: &Ground) -> Result<Self, Error> {
        let Ground { tasks, store, host, below, network, pumps, nri: _ } = ground;
        let images =
            Images::new(below.clone(), below.clone(), tasks.clone(), image_options(config));
        let board = Arc::new(Board::new());
        let deps = container::Deps {
            runtime: below.clone(),
            host: host.clone(),
            hooks: ground.hooks(),
            images: images.clone(),
            store: store.clone(),
            board: board.clone(),
            tasks: tasks.clone(),
            pumps: pumps.clone(),
        };
        let oci = oci_settings(config, &**host, apparmor_default(config, &**host).await);
        let handlers = handlers(config, is_systemd(config, &**host));
        let containers = Containers::new(deps.clone(), container_options(config, oci.clone()));
        let sandboxes = Arc::new(Sandboxes::new(
            sandbox::Deps { base: deps, network: network.clone(), containers: containers.clone() },
            sandbox_options(config, oci, &handlers)?,
        ));
        let pods = Pods::new(
            PodsDeps {
                sandboxes: sandboxes.clone(),
                images: images.clone(),
                host: host.clone(),
                store: store.clone(),
                tasks: tasks.clone(),
            },
            pods_options(config, &**host, &handlers),
        );
        let stats = Stats::new(
            stats::Deps { runtime: below.clone(), board, tasks: tasks.clone() },
            stats_options(config, &**host, &handlers),
        );
        Ok(Self { images, containers, sandboxes, pods, stats, handlers })
    }

    /// What the CRI is served with.
    pub(super) fn cri_services(
        &self,
        config: &Config,
        ground: &Ground,
        urls: Arc<stream::Urls>,
    ) -> CriServices {
        CriServices {
            sandboxes: self.sandboxes.clone(),
            images: self.images.clone(),
            stats: self.stats.clone(),
            runtime: ground.below.clone(),
            network: ground.network.clone(),
            urls,
            identity: Identity {
                handlers: self.handlers.clone(),
                default_handler: config.runtimes.default.clone(),
                config: config.to_json(),
            },
        }
    }

    /// What `podbay.v1` is served with.
    pub(super) fn pod_services(&self) -> PodServices {
        PodServices::of(&self.pods, &self.sandboxes, &self.stats, &self.images)
    }
}
