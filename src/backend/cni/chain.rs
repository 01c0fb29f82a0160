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
    /// `None` when it is gone; then plugins only release what they hold outside of it.
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

    /// Runs ADD of all plugins within `limit` together; the answer of the last one is the
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
            // The next plugin reads it in the version of the network.
            answer["cniVersion"] = version.to_string().into();
            previous = Some(answer);
        }
        Ok(previous.unwrap_or_default())
    }

    /// Runs DEL of all plugins in reverse order, each with `limit` of its own; none is left out
    /// because another failed. `result` is what ADD gave, when it is known.
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
            // A stand-in may be wrong for a plugin whose rules are gone as well.
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

    /// The plugins that have something to do for this pod. The first one always has: the network's
    /// result begins with it.
    fn busy(&self) -> impl DoubleEndedIterator<Item = &Plugin> {
        let plugins = self.network.plugins.iter().enumerate();
        plugins
            .filter(|(index, plugin)| *index == 0 || !plugin.is_idle(self.capabilities))
            .map(|(_, plugin)| plugin)
    }

    /// With the namespace gone, a masquerading plugin would leave its rules behind for ever, and
    /// a later pod with the same address would meet them. It is given a namespace with the
    /// addresses that ADD gave.
    fn stand_in(&self, plugin: &Plugin, result: Option<&Value>) -> Option<StandIn> {
        if self.netns.is_some() || !plugin.masquerades() {
            return None;
        }
        let addresses = result::addresses(result?, self.if_name).ok()?;
        StandIn::new(self.if_name, &addresses)
            .inspect_err(|error| {
                let container = self.container;
                tracing::warn!(container, %error, "masquerading rules of a lost netns may stay");
            })
            .ok()
    }

    /// Whether a failed DEL has nothing left to do. `was_added`: ADD is known to have succeeded.
    fn is_done(&self, failure: &Failure, was_added: bool) -> bool {
        match failure {
            Failure::Failed { text, .. } => {
                let text = text.to_ascii_lowercase();
                text.contains("not found")
                    || (self.netns.is_none() && text.contains("no such file or directory"))
            }
            // What is not there has added nothing either.
            Failure::Missing { .. } => !was_added,
            _ => false,
        }
    }
}

/// Asks the plugins of a network whether they can work now; for versions that know the question.
pub(super) fn status(network: &Network, runner: &Runner, limit: Duration) -> Result<(), Failure> {
    /// The plugin knows the version but not the verb.
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
mod tests {
    use super::*;
    use crate::backend::cni::testing::Plugins;

    const LIMIT: Duration = Duration::from_secs(20);

    fn network(version: &str) -> Network {
        let list = format!(
            r#"{{"cniVersion":"{version}","name":"n","plugins":[{{"type":"one"}},{{"type":"two"}}]}}"#
        );
        Network::from_list(list.as_bytes()).unwrap()
    }

    /// Plugins that write down what they were told and answer with their own name.
    fn recording() -> (Plugins, Runner) {
        let plugins = Plugins::new();
        for kind in ["one", "two"] {
            let script = format!(
                "echo \"$CNI_COMMAND {kind} $(cat)\" >> {}/log; echo '{{\"by\":\"{kind}\"}}'",
                plugins.dir().display()
            );
            plugins.add(kind, &script);
        }
        let runner = Runner::new(vec![plugins.dir().to_owned()]);
        (plugins, runner)
    }

    fn link<'a>(network: &'a Network, nothing: &'a Map<String, Value>) -> Link<'a> {
        Link {
            network,
            container: "c",
            netns: None,
            if_name: "eth0",
            args: &[],
            capabilities: nothing,
        }
    }

    fn log(plugins: &Plugins) -> String {
        std::fs::read_to_string(plugins.dir().join("log")).unwrap()
    }

    #[test]
    fn results_are_chained_and_del_goes_backwards() {
        let (plugins, runner) = recording();
        let (network, nothing) = (network("0.4.0"), Map::new());
        let link = link(&network, &nothing);
        let result = link.add(&runner, LIMIT).unwrap();
        assert_eq!(result, serde_json::json!({"by": "two", "cniVersion": "0.4.0"}));
        assert!(link.del(&runner, LIMIT, Some(&result)).is_empty());
        let log = log(&plugins);
        let lines: Vec<&str> = log.lines().collect();
        assert!(lines[0].starts_with("ADD one") && !lines[0].contains("prevResult"));
        assert!(lines[1].starts_with("ADD two") && lines[1].contains(r#""by":"one""#));
        assert!(lines[2].starts_with("DEL two") && lines[2].contains(r#""by":"two""#));
        assert!(lines[3].starts_with("DEL one") && lines[3].contains(r#""by":"two""#));
    }

    #[test]
    fn portmap_is_run_for_pods_that_publish_ports() {
        let (plugins, runner) = recording();
        plugins.add("portmap", &format!("echo $CNI_COMMAND >> {}/log", plugins.dir().display()));
        let list = br#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"one"},
            {"type":"portmap","capabilities":{"portMappings":true}}]}"#;
        let network = Network::from_list(list).unwrap();
        let calls = |ports: Value| {
            let told = Map::from_iter([("portMappings".to_owned(), ports)]);
            let link = link(&network, &told);
            let result = link.add(&runner, LIMIT).ok();
            assert!(link.del(&runner, LIMIT, result.as_ref()).is_empty());
            let calls = log(&plugins).lines().filter(|line| !line.contains(" one ")).count();
            std::fs::remove_file(plugins.dir().join("log")).unwrap();
            (calls, result.is_some_and(|result| result["by"] == "one"))
        };
        assert_eq!(calls(serde_json::json!([])), (0, true), "the result of the one before it");
        assert_eq!(calls(serde_json::json!([{"hostPort": 80}])).0, 2);
    }

    #[test]
    fn old_versions_are_not_told_the_result_at_del() {
        let (plugins, runner) = recording();
        let (network, nothing) = (network("0.3.1"), Map::new());
        let link = link(&network, &nothing);
        let result = link.add(&runner, LIMIT).unwrap();
        assert!(link.del(&runner, LIMIT, Some(&result)).is_empty());
        assert_eq!(log(&plugins).matches("prevResult").count(), 1, "ADD of the second only");
    }

    #[test]
    fn a_failed_del_does_not_stop_the_others() {
        let (plugins, runner) = recording();
        plugins.add("two", r#"echo '{"code":7,"msg":"broken"}'; exit 1"#);
        let (network, nothing) = (network("1.0.0"), Map::new());
        let failures = link(&network, &nothing).del(&runner, LIMIT, None);
        assert_eq!(failures.len(), 1);
        assert!(log(&plugins).starts_with("DEL one"));
    }

    #[test]
    fn gone_counts_as_done() {
        let (plugins, runner) = recording();
        let (network, nothing) = (network("1.0.0"), Map::new());
        let mut link = link(&network, &nothing);
        plugins.add("two", r#"echo '{"code":1,"msg":"Link not found"}'; exit 1"#);
        plugins.add("one", r#"echo '{"code":1,"msg":"x: no such file or directory"}'; exit 1"#);
        assert!(link.del(&runner, LIMIT, None).is_empty());
        link.netns = Some(Path::new("/n"));
        assert_eq!(link.del(&runner, LIMIT, None).len(), 1, "the namespace is there");
        std::fs::remove_file(plugins.dir().join("one")).unwrap();
        assert!(link.del(&runner, LIMIT, None).is_empty(), "never added");
        assert_eq!(link.del(&runner, LIMIT, Some(&Value::Null)).len(), 1, "added before");
    }

    #[test]
    fn the_budget_of_add_is_shared() {
        let (plugins, runner) = recording();
        plugins.add("one", "sleep 0.3; echo '{}'");
        plugins.add("two", "sleep 100");
        let (network, nothing) = (network("1.0.0"), Map::new());
        let limit = Duration::from_secs(3);
        let failure = link(&network, &nothing).add(&runner, limit).unwrap_err();
        let Failure::TimedOut { kind, after, .. } = failure else { panic!("{failure}") };
        assert_eq!(kind, "two");
        assert!(after <= Duration::from_millis(2700), "{after:?} is more than was left");
    }

    #[test]
    fn status_is_asked_of_versions_that_know_it() {
        let plugins = Plugins::new();
        let runner = Runner::new(vec![plugins.dir().to_owned()]);
        plugins.add("one", r#"echo '{"code":4,"msg":"unknown command"}'; exit 1"#);
        plugins.add("two", r#"echo '{"code":50,"msg":"no daemon"}'; exit 1"#);
        status(&network("1.0.0"), &runner, LIMIT).unwrap();
        let failure = status(&network("1.1.0"), &runner, LIMIT).unwrap_err();
        assert!(failure.to_string().contains("no daemon"), "{failure}");
    }
}
