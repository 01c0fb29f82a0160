//! ADD and DEL over the plugins of a network: CNI specification, section 3.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::config::{Network, Plugin, Version};
use super::error::Failure;
use super::exec::{self, Call, Runner, Verb};
use super::result;
use crate::backend::linux::StandIn;

/// One interface of one pod on one network.
#[derive(Debug)]
pub(super) struct Link<'a> {
    pub network: &'a Network,
    pub container: &'a str,
    /// `None` when it no longer exists; then plugins only release resources outside of it.
    pub netns: Option<&'a Path>,
    pub if_name: &'a str,
    pub args: &'a [(String, String)],
    pub capabilities: &'a Map<String, Value>,
}

impl Link<'_> {
    fn call<'b>(&'b self, verb: Verb, args: &'b str) -> Call<'b> {
        let (container, netns, if_name) = (self.container, self.netns, self.if_name);
        Call { verb, container, netns, if_name, args }
    }

    fn args_text(&self) -> String {
        let pairs: Vec<String> = self.args.iter().map(|(k, v)| format!("{k}={v}")).collect();
        pairs.join(";")
    }

    /// Runs ADD of all plugins within a total time of `limit`; the result of the last one is the
    /// network's.
    pub(super) fn add(&self, runner: &Runner, limit: Duration) -> Result<Value, Failure> {
        let (started, args) = (Instant::now(), self.args_text());
        let version = self.network.version;
        let mut previous = None;
        for plugin in self.busy() {
            let told = previous.as_ref().filter(|_| version >= Version::CHAINED);
            let request = plugin.request(self.network, self.capabilities, told);
            let left = limit.saturating_sub(started.elapsed());
            let stdout = runner.run(&plugin.kind, &self.call(Verb::Add, &args), &request, left)?;
            let mut answer = exec::answer(&plugin.kind, &stdout)?;
            // The next plugin reads it in the network's version.
            answer["cniVersion"] = version.to_string().into();
            previous = Some(answer);
        }
        Ok(previous.unwrap_or_default())
    }

    /// Runs DEL of all plugins in reverse order, each with its own `limit`, and continues after
    /// failures. `result` is that of ADD, if known.
    pub(super) fn del(
        &self,
        runner: &Runner,
        limit: Duration,
        result: Option<&Value>,
    ) -> Vec<Failure> {
        let (network, args) = (self.network, self.args_text());
        let told = result.filter(|_| network.version >= Version::DEL_WITH_RESULT);
        let mut failures = Vec::new();
        for plugin in self.busy().rev() {
            let request = plugin.request(network, self.capabilities, told);
            let run = |netns| {
                let call = Call { netns, ..self.call(Verb::Del, &args) };
                runner.run(&plugin.kind, &call, &request, limit)
            };
            // With a stand-in namespace, a plugin may fail although its rules are gone already.
            let done = match self.stand_in(plugin, result) {
                Some(stand_in) => run(Some(stand_in.path())).or_else(|_| run(None)),
                None => run(self.netns),
            };
            match done {
                Err(failure) if !self.is_done(&failure, result.is_some()) => failures.push(failure),
                _ => {}
            }
        }
        failures
    }

    /// The plugins that have work to do for this pod. The first one always has, because the
    /// network's result begins with it.
    fn busy(&self) -> impl DoubleEndedIterator<Item = &Plugin> {
        let plugins = self.network.plugins.iter().enumerate();
        plugins
            .filter(|(index, plugin)| *index == 0 || !plugin.is_idle(self.capabilities))
            .map(|(_, plugin)| plugin)
    }

    /// A stand-in namespace with the addresses that ADD assigned. If the real namespace is gone, a
    /// masquerading plugin could not find its rules; they would stay for ever and affect a later
    /// pod with the same address.
    fn stand_in(&self, plugin: &Plugin, result: Option<&Value>) -> Option<StandIn> {
        if self.netns.is_some() || !plugin.masquerades() {
            return None;
        }
        let addresses = result::addresses(result?, self.if_name).ok()?;
        StandIn::new(self.if_name, &addresses)
            .inspect_err(|error| {
                let container = self.container;
                tracing::warn!(container, %error, "masquerading rules of a lost netns may remain");
            })
            .ok()
    }

    /// Whether nothing is left to do after a failed DEL. `was_added`: ADD is known to have
    /// succeeded.
    fn is_done(&self, failure: &Failure, was_added: bool) -> bool {
        match failure {
            Failure::Failed { text, .. } => {
                let text = text.to_ascii_lowercase();
                text.contains("not found")
                    || (self.netns.is_none() && text.contains("no such file or directory"))
            }
            // A missing plugin cannot have added anything either.
            Failure::Missing { .. } => !was_added,
            _ => false,
        }
    }
}

/// Runs STATUS of a network's plugins, in versions that have it.
pub(super) fn status(network: &Network, runner: &Runner, limit: Duration) -> Result<(), Failure> {
    /// Error code of a plugin that knows the version but not the command.
    const UNKNOWN_VERB: u32 = 4;
    if network.version < Version::STATUS {
        return Ok(());
    }
    for plugin in &network.plugins {
        let request = plugin.request(network, &Map::new(), None);
        let call = Call::about_no_pod(Verb::Status);
        match runner.run(&plugin.kind, &call, &request, limit) {
            Ok(_) | Err(Failure::Failed { code: UNKNOWN_VERB, .. }) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
