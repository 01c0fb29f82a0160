//! The fake network, which only assigns addresses.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::IpNet;

use super::super::{
    Attachment, Error, ErrorKind, Network, NetworkReadiness, NetworkStatus, Result,
};
use super::steps::Steps;
use super::world::World;
use crate::ids::PodId;
use crate::locks::{Mutex, MutexGuard};

/// First address: 10.88.0.0 plus the number of the attachment; never reused.
const FIRST_IP: u32 = u32::from_be_bytes([10, 88, 0, 0]);

/// Assigns addresses without connecting anything.
pub struct FakeNetwork {
    steps: Steps,
    world: Arc<World>,
    state: Mutex<State>,
}

struct State {
    given: u32,
    attached: BTreeMap<PodId, NetworkStatus>,
    readiness: NetworkReadiness,
    pod_cidr: Option<String>,
}

impl FakeNetwork {
    pub(super) fn new(steps: Steps, world: Arc<World>) -> Self {
        let state = State {
            given: 0,
            attached: BTreeMap::new(),
            readiness: NetworkReadiness::Ready,
            pod_cidr: None,
        };
        Self { steps, world, state: Mutex::new(state) }
    }

    /// Sets the result of [`Network::readiness`].
    pub fn set_readiness(&self, readiness: NetworkReadiness) {
        self.lock().readiness = readiness;
    }

    /// The last pod CIDR that was set.
    pub fn pod_cidr(&self) -> Option<String> {
        self.lock().pod_cidr.clone()
    }

    /// The addresses of a pod; `None` when it is not attached.
    pub fn attached(&self, pod: &PodId) -> Option<NetworkStatus> {
        self.lock().attached.get(pod).cloned()
    }

    pub(super) fn leftovers(&self) -> Vec<String> {
        self.lock().attached.keys().map(|pod| format!("attachment {pod}")).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn connect(&self, pod: &Attachment) -> Result<NetworkStatus> {
        let tried = || format!("attach pod {}", pod.pod);
        let netns = pod.netns.as_deref().ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, tried()).because("it has no network namespace")
        })?;
        if !self.world.lock().netns.contains(Path::new(netns)) {
            return Err(Error::new(ErrorKind::Other, tried())
                .because(format!("{} is no network namespace", netns.display())));
        }
        let mut state = self.lock();
        if state.attached.contains_key(&pod.pod) {
            return Err(Error::new(ErrorKind::Other, tried()).because("duplicate allocation"));
        }
        state.given += 1;
        let ip = IpAddr::V4(Ipv4Addr::from(FIRST_IP + state.given));
        let result = serde_json::json!({
            "cniVersion": "1.0.0",
            "interfaces": [{ "name": "eth0", "sandbox": netns }],
            "ips": [{ "address": format!("{ip}/16"), "interface": 0 }],
        });
        let status = NetworkStatus { ips: vec![ip], result };
        state.attached.insert(pod.pod.clone(), status.clone());
        Ok(status)
    }
}

#[async_trait]
impl Network for FakeNetwork {
    async fn attach(&self, pod: &Attachment) -> Result<NetworkStatus> {
        self.steps.run("attach", &pod.pod, async { self.connect(pod) }).await
    }

    async fn detach(&self, pod: &Attachment) -> Result<()> {
        let work = async {
            self.lock().attached.remove(&pod.pod);
            Ok(())
        };
        self.steps.run("detach", &pod.pod, work).await
    }

    async fn recall(&self, pod: &Attachment) -> Result<Option<NetworkStatus>> {
        self.steps.run("recall", &pod.pod, async { Ok(self.attached(&pod.pod)) }).await
    }

    async fn end_cut_calls(&self, pods: &[PodId]) -> Result<()> {
        let all: Vec<_> = pods.iter().map(ToString::to_string).collect();
        self.steps.run("end_cut_calls", all.join(" "), async { Ok(()) }).await
    }

    async fn readiness(&self) -> NetworkReadiness {
        self.lock().readiness.clone()
    }

    async fn set_pod_cidr(&self, cidr: &str) -> Result<()> {
        let work = async {
            for part in cidr.split(',') {
                part.trim().parse::<IpNet>().map_err(|error| {
                    let tried = format!("pod_cidr: {part:?} is no address range");
                    Error::new(ErrorKind::InvalidArgument, tried).because(error)
                })?;
            }
            self.lock().pod_cidr = Some(cidr.to_owned());
            Ok(())
        };
        self.steps.run("set_pod_cidr", cidr, work).await
    }
}
