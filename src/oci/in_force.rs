//! The limits in a stored spec: reads a container's current limits, and restores earlier ones.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Error;
use crate::model::resources::{HugepageLimit, Resources};

const PLACE: &str = "/linux/resources";

/// The limits of a stored spec in CRI's terms; 0 and "" where there is none.
pub fn resources_of(spec: &Value) -> Resources {
    let limits = spec.pointer(PLACE).unwrap_or(&Value::Null);
    let number = |path: &str| limits.pointer(path).and_then(Value::as_i64).unwrap_or_default();
    let text =
        |path: &str| limits.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    Resources {
        cpu_period: number("/cpu/period"),
        cpu_quota: number("/cpu/quota"),
        cpu_shares: number("/cpu/shares"),
        memory_limit: number("/memory/limit"),
        memory_swap_limit: number("/memory/swap"),
        oom_score_adj: spec["process"]["oomScoreAdj"].as_i64().unwrap_or_default(),
        cpuset_cpus: text("/cpu/cpus"),
        cpuset_mems: text("/cpu/mems"),
        hugepage_limits: hugepages(&limits["hugepageLimits"]),
        unified: unified(&limits["unified"]),
    }
}

fn hugepages(list: &Value) -> Vec<HugepageLimit> {
    let limit = |one: &Value| {
        let page_size = one["pageSize"].as_str()?.to_owned();
        Some(HugepageLimit { page_size, limit: one["limit"].as_u64()? })
    };
    list.as_array().map(|list| list.iter().filter_map(limit).collect()).unwrap_or_default()
}

fn unified(files: &Value) -> BTreeMap<String, String> {
    let entry = |(file, value): (&String, &Value)| Some((file.clone(), value.as_str()?.to_owned()));
    files.as_object().map(|files| files.iter().filter_map(entry).collect()).unwrap_or_default()
}

/// The `linux.resources` of a stored spec, to be kept for [`put_back`]; null when it has none.
pub fn stored_limits(spec: &Value) -> Value {
    spec.pointer(PLACE).cloned().unwrap_or_default()
}

/// Restores `before` (from [`stored_limits`]) as the limits of a spec. Returns the limits with
/// which to update the live task. In these a limit that was not set before has the value for
/// unlimited, because an omitted limit would stay unchanged.
pub fn put_back(spec: &mut Value, before: &Value) -> Result<Value, Error> {
    let linux = spec.get_mut("linux").and_then(Value::as_object_mut);
    let linux = linux.ok_or(Error::StoredSpec("linux section"))?;
    let after = linux.remove("resources").unwrap_or_default();
    if !before.is_null() {
        linux.insert("resources".to_owned(), before.clone());
    }
    let mut live = before.as_object().cloned().unwrap_or_default();
    live.remove("devices");
    for (group, name, free) in [
        ("memory", "limit", json!(-1)),
        ("memory", "swap", json!(-1)),
        ("cpu", "quota", json!(-1)),
        ("cpu", "period", json!(100_000)),
        ("cpu", "shares", json!(1024)),
    ] {
        if after[group].get(name).is_some() && before[group].get(name).is_none() {
            let group = live.entry(group).or_insert_with(|| Value::Object(Map::new()));
            if let Some(group) = group.as_object_mut() {
                group.insert(name.to_owned(), free);
            }
        }
    }
    Ok(Value::Object(live))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(limits: Value) -> Value {
        json!({ "process": { "oomScoreAdj": 7 }, "linux": { "resources": limits, "x": 1 } })
    }

    #[test]
    fn every_limit_is_read_back() {
        let found = resources_of(&spec(json!({
            "cpu": {"period": 100_000, "quota": -1, "shares": 512, "cpus": "0-1", "mems": "0"},
            "memory": {"limit": 64 << 20, "swap": 96 << 20},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}],
            "unified": {"memory.high": "50000000"},
            "devices": [{"allow": false}],
        })));
        let wanted = Resources {
            cpu_period: 100_000,
            cpu_quota: -1,
            cpu_shares: 512,
            memory_limit: 64 << 20,
            memory_swap_limit: 96 << 20,
            oom_score_adj: 7,
            cpuset_cpus: "0-1".to_owned(),
            cpuset_mems: "0".to_owned(),
            hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit: 4 << 20 }],
            unified: [("memory.high".to_owned(), "50000000".to_owned())].into(),
        };
        assert_eq!(found, wanted);
        assert_eq!(resources_of(&json!({})), Resources::default());
        assert_eq!(resources_of(&Value::Null), Resources::default());
    }

    #[test]
    fn the_way_back_unsets_what_was_not_set() {
        let before = json!({"memory": {"limit": 5}, "devices": [{"allow": false}]});
        let mut spec_now = spec(json!({
            "memory": {"limit": 9, "swap": 9},
            "cpu": {"quota": 1000, "shares": 2, "period": 5000},
            "devices": [{"allow": false}],
        }));
        let live = put_back(&mut spec_now, &before).unwrap();
        assert_eq!(spec_now, spec(before));
        assert_eq!(
            live,
            json!({
                "memory": {"limit": 5, "swap": -1},
                "cpu": {"quota": -1, "shares": 1024, "period": 100_000},
            })
        );
    }

    #[test]
    fn limits_that_were_never_there_are_taken_out() {
        let mut without = json!({"linux": {"x": 1}});
        assert_eq!(stored_limits(&without), Value::Null);
        let mut spec_now = spec(json!({"memory": {"limit": 9}}));
        let live = put_back(&mut spec_now, &stored_limits(&without)).unwrap();
        assert_eq!(spec_now["linux"], without["linux"]);
        assert_eq!(live, json!({"memory": {"limit": -1}}));
        assert_eq!(put_back(&mut without, &Value::Null).unwrap(), json!({}));
        assert!(put_back(&mut json!({}), &Value::Null).is_err());
    }
}
