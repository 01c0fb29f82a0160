//! A plugin: calls to it, and the handling of failures.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use super::launch::Launched;
use super::link::{CallError, Link, code};
use super::proto::{
    ConfigureRequest, ConfigureResponse, Container, ContainerUpdate, Empty, Event, FailurePolicy,
    PLUGIN_SERVICE, PodSandbox, StateChangeEvent, SynchronizeRequest, SynchronizeResponse, Told,
};
use crate::backend::{Error, ErrorKind, Result};
use crate::locks::{Mutex, MutexGuard};

/// Bytes reserved in a [`SynchronizeRequest`] for everything except its objects.
const MARGIN: usize = 4096;

/// Index and name of a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// Two digits.
    pub(super) index: String,
    /// Its name.
    pub(super) name: String,
}

impl Identity {
    /// Validates index and name.
    pub(super) fn new(index: &str, name: &str) -> std::result::Result<Self, String> {
        if index.len() != 2 || !index.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("the index {index:?} is not two digits"));
        }
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte);
        if name.is_empty() || name.len() > 255 || !name.bytes().all(good) {
            return Err(format!("the name {name:?} may contain only A-Z a-z 0-9 - _ . +"));
        }
        Ok(Self { index: index.to_owned(), name: name.to_owned() })
    }

    /// Parses the name of a program, `NN-name`.
    pub(super) fn of_file(file: &str) -> std::result::Result<Self, String> {
        let (index, name) = file.split_once('-').ok_or("must be named NN-name")?;
        Self::new(index, name)
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.index, self.name)
    }
}

/// A plugin that has registered.
#[derive(Debug)]
pub(super) struct Plugin {
    pub(super) identity: Identity,
    link: Arc<Link>,
    /// Its process, if podbay started it; killed when dropped.
    _launched: Option<Launched>,
    limit: Duration,
    /// Time limit for one answer while it joins, which may have to look at many containers.
    joining_limit: Duration,
    events: i32,
    /// Whether it subscribed to specific events. If not, it may not know all of them.
    chose: bool,
    policy: FailurePolicy,
    /// Events that it supports only in the older form.
    old_form: Mutex<BTreeSet<&'static str>>,
}

/// The settings for configuring a plugin.
pub(super) struct Setup {
    /// Configuration text.
    pub(super) config: String,
    /// How long it may take to register, and then to answer `Synchronize`.
    pub(super) registration_timeout: Duration,
    /// Time limit for each answer.
    pub(super) request_timeout: Duration,
}

impl Plugin {
    /// Configures a registered plugin.
    pub(super) async fn configure(
        identity: Identity,
        link: Arc<Link>,
        launched: Option<Launched>,
        setup: &Setup,
    ) -> Result<Self> {
        let mut plugin = Self {
            identity,
            link,
            _launched: launched,
            limit: setup.request_timeout,
            joining_limit: setup.registration_timeout.max(setup.request_timeout),
            events: 0,
            chose: false,
            policy: FailurePolicy::default(),
            old_form: Mutex::default(),
        };
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let request = ConfigureRequest {
            config: setup.config.clone(),
            runtime_name: "podbay".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            registration_timeout: millis(setup.registration_timeout),
            request_timeout: millis(setup.request_timeout),
            nri_version: super::INTERFACE_VERSION.to_owned(),
        };
        let answer = plugin.call("Configure", request.encode_to_vec().into()).await;
        let answer: ConfigureResponse = plugin.named("Configure", answer.and_then(decode))?;
        let unknown = answer.events & !Event::all_bits();
        if unknown != 0 {
            let tried = format!("subscribe plugin {} to events 0x{unknown:x}", plugin.identity);
            return Err(Error::new(ErrorKind::InvalidArgument, tried));
        }
        plugin.events = if answer.events == 0 { Event::all_bits() } else { answer.events };
        plugin.chose = answer.events != 0;
        plugin.policy = answer.failure_policy.unwrap_or_default();
        Ok(plugin)
    }

    /// Whether it subscribed to this event.
    pub(super) fn wants(&self, event: Event) -> bool {
        self.events & event.bit() != 0
    }

    /// Whether it has disconnected.
    pub(super) fn is_closed(&self) -> bool {
        self.link.is_closed()
    }

    /// Closes its connection.
    pub(super) fn close(&self) {
        self.link.close();
    }

    /// Completes once it has disconnected.
    pub(super) fn closed(&self) -> impl Future<Output = ()> + Send + 'static {
        self.link.closed()
    }

    /// Sends the plugin all existing pods and containers, in as many messages as needed. Returns
    /// its requests.
    pub(super) async fn synchronize(
        &self,
        pods: Vec<PodSandbox>,
        containers: Vec<Container>,
    ) -> Result<Vec<ContainerUpdate>> {
        let mut parts = split(pods, containers, super::frames::MAX_BODY - MARGIN);
        let last = parts.pop().unwrap_or_default();
        for part in parts {
            let answer = self.synchronize_part(&part).await?;
            if !answer.more || !answer.update.is_empty() {
                let tried = format!("synchronize plugin {} in several messages", self.identity);
                return Err(Error::new(ErrorKind::Unsupported, tried));
            }
        }
        Ok(self.synchronize_part(&last).await?.update)
    }

    async fn synchronize_part(&self, part: &SynchronizeRequest) -> Result<SynchronizeResponse> {
        let payload = part.encode_to_vec().into();
        let answer =
            self.link.call(PLUGIN_SERVICE, "Synchronize", payload, self.joining_limit).await;
        self.named("Synchronize", answer.and_then(decode))
    }

    /// Sends an event that has no answer.
    pub(super) async fn tell(&self, event: Event, method: &'static str, told: &Told) -> Result<()> {
        if !self.wants(event) {
            return Ok(());
        }
        let mut answer = None;
        if !self.old_form().contains(method) {
            match self.call(method, told.encode_to_vec().into()).await {
                Err(CallError::Refused(status)) if status.code == code::UNIMPLEMENTED => {
                    self.old_form().insert(method);
                }
                other => answer = Some(other),
            }
        }
        let answer = match answer {
            Some(answer) => answer,
            None => self.tell_in_old_form(event, told).await,
        };
        self.judge(method, answer.and_then(decode::<Empty>)).map(drop)
    }

    async fn tell_in_old_form(
        &self,
        event: Event,
        told: &Told,
    ) -> std::result::Result<Bytes, CallError> {
        let Told { pod, container } = told.clone();
        let change = StateChangeEvent { event: event as i32, pod, container };
        self.call("StateChange", change.encode_to_vec().into()).await
    }

    /// Sends a request. `None` when the plugin did not subscribe, or failed to answer and the
    /// request continues without it.
    pub(super) async fn ask<A: Message + Default>(
        &self,
        event: Event,
        method: &'static str,
        request: &impl Message,
    ) -> Result<Option<A>> {
        if !self.wants(event) {
            return Ok(None);
        }
        let answer = self.call(method, request.encode_to_vec().into()).await;
        self.judge(method, answer.and_then(decode))
    }

    /// Like [`Plugin::ask`], for a plugin that has to answer: a missing answer is a refusal, unless
    /// the plugin does not know the request and did not subscribe to it.
    pub(super) async fn must_answer<A: Message + Default>(
        &self,
        method: &'static str,
        request: &impl Message,
    ) -> Result<A> {
        let answer = self.call(method, request.encode_to_vec().into()).await.and_then(decode);
        match &answer {
            Err(CallError::Refused(status))
                if status.code == code::UNIMPLEMENTED && !self.chose =>
            {
                return Ok(A::default());
            }
            Err(error) => {
                self.drop_if_broken(method, error);
            }
            Ok(_) => {}
        }
        self.named(method, answer)
    }

    async fn call(&self, method: &str, payload: Bytes) -> std::result::Result<Bytes, CallError> {
        self.link.call(PLUGIN_SERVICE, method, payload, self.limit).await
    }

    fn old_form(&self) -> MutexGuard<'_, BTreeSet<&'static str>> {
        self.old_form.lock()
    }

    /// A refusal fails the request. A plugin that does not answer is disconnected and ignored,
    /// unless it asked for another policy.
    fn judge<A>(
        &self,
        method: &str,
        answer: std::result::Result<A, CallError>,
    ) -> Result<Option<A>> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(error) => {
                let broken = self.drop_if_broken(method, &error);
                if broken && !self.policy.fail_request {
                    return Ok(None);
                }
                self.named(method, Err(error)).map(Some)
            }
        }
    }

    /// Whether the plugin failed, in contrast to refusing; if so it is disconnected.
    fn drop_if_broken(&self, method: &str, error: &CallError) -> bool {
        let (broken, kept) = match error {
            CallError::Refused(_) | CallError::TooLong(_) => (false, true),
            CallError::TimedOut(_) => (true, self.policy.keep_connected),
            CallError::Closed | CallError::Garbled(_) => (true, false),
        };
        if broken {
            tracing::warn!(plugin = %self.identity, method, %error, kept, "NRI plugin failed");
        }
        if !kept {
            self.close();
        }
        broken
    }

    fn named<A>(&self, method: &str, answer: std::result::Result<A, CallError>) -> Result<A> {
        answer.map_err(|error| {
            let kind = match &error {
                CallError::TimedOut(_) => ErrorKind::DeadlineExceeded,
                CallError::Refused(status) if status.code == code::INVALID_ARGUMENT => {
                    ErrorKind::InvalidArgument
                }
                _ => ErrorKind::Other,
            };
            Error::new(kind, format!("{method} of NRI plugin {}", self.identity)).because(error)
        })
    }
}

fn decode<A: Message + Default>(payload: Bytes) -> std::result::Result<A, CallError> {
    A::decode(payload).map_err(|error| CallError::Garbled(error.to_string()))
}

/// Splits pods and containers into messages of at most `limit` bytes; all but the last announce
/// more. An object longer than that is sent alone.
fn split(
    pods: Vec<PodSandbox>,
    containers: Vec<Container>,
    limit: usize,
) -> Vec<SynchronizeRequest> {
    let mut parts = vec![SynchronizeRequest::default()];
    let mut room = limit;
    let mut next = |length: usize, add: &mut dyn FnMut(&mut SynchronizeRequest)| {
        // Plus a tag, and a length of at most four bytes.
        let length = length + 5;
        let empty = room == limit;
        if length > room && !empty {
            parts.push(SynchronizeRequest::default());
            room = limit;
        }
        room = room.saturating_sub(length);
        let last = parts.len() - 1;
        add(&mut parts[last]);
    };
    for pod in pods {
        let mut pod = Some(pod);
        let length = pod.as_ref().map_or(0, Message::encoded_len);
        next(length, &mut |part| part.pods.extend(pod.take()));
    }
    for container in containers {
        let mut container = Some(container);
        let length = container.as_ref().map_or(0, Message::encoded_len);
        next(length, &mut |part| part.containers.extend(container.take()));
    }
    let last = parts.len() - 1;
    for part in &mut parts[..last] {
        part.more = true;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_checked() {
        for (index, name) in [("00", "a"), ("99", "Net.device_1+x-y")] {
            let identity = Identity::new(index, name).unwrap();
            assert_eq!(Identity::of_file(&identity.to_string()), Ok(identity));
        }
        for (index, name) in [
            ("", "a"),
            ("1", "a"),
            ("0a", "a"),
            ("100", "a"),
            ("00", ""),
            ("00", "a/b"),
            ("00", "é"),
        ] {
            assert!(Identity::new(index, name).is_err(), "{index:?} {name:?}");
        }
        for file in ["plugin", "1-a", "00", "00-", "00-a b", "-00-a"] {
            assert!(Identity::of_file(file).is_err(), "{file:?}");
        }
    }

    #[test]
    fn what_is_too_much_for_one_message_goes_into_several() {
        let pods =
            |n| (0..n).map(|i| PodSandbox { id: format!("{i:0100}"), ..PodSandbox::default() });
        let containers =
            |n| (0..n).map(|i| Container { id: format!("{i:0100}"), ..Container::default() });
        let whole = split(pods(3).collect(), containers(3).collect(), 10_000);
        assert_eq!(whole.len(), 1);
        assert!(!whole[0].more);
        let parts = split(pods(30).collect(), containers(30).collect(), 1000);
        assert!(parts.iter().all(|part| part.encoded_len() <= 1000));
        let more: Vec<_> = parts.iter().map(|part| part.more).collect();
        assert!(more[..more.len() - 1].iter().all(|&more| more) && !more[more.len() - 1]);
        let sent: Vec<_> = parts.iter().flat_map(|part| part.pods.clone()).collect();
        assert_eq!(sent, pods(30).collect::<Vec<_>>());
        let sent: Vec<_> = parts.iter().flat_map(|part| part.containers.clone()).collect();
        assert_eq!(sent, containers(30).collect::<Vec<_>>());
        assert_eq!(split(Vec::new(), Vec::new(), 1000), [SynchronizeRequest::default()]);
        assert_eq!(split(pods(3).collect(), Vec::new(), 10).len(), 3);
    }
}
