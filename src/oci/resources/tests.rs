use serde_json::json;

use super::super::fixture::Fixture;
use super::*;
use crate::model::resources::HugepageLimit;

fn json_of(resources: &Resources, f: &Fixture) -> Result<Value, Error> {
    linux_resources(resources, &f.facts, &f.settings)
}

fn refused(resources: &Resources, f: &Fixture) -> String {
    match json_of(resources, f) {
        Err(Error::Invalid { field, .. }) => field,
        other => panic!("{other:?}"),
    }
}

fn pages(size: &str, limit: u64) -> Vec<HugepageLimit> {
    vec![HugepageLimit { page_size: size.to_owned(), limit }]
}

#[test]
fn zero_and_empty_are_not_set() {
    assert_eq!(json_of(&Resources::default(), &Fixture::new()).unwrap(), json!({}));
}

#[test]
fn every_limit_has_its_place() {
    let resources = Resources {
        cpu_period: 100_000,
        cpu_quota: -1,
        cpu_shares: 512,
        cpuset_cpus: "0-1,3".to_owned(),
        cpuset_mems: "0".to_owned(),
        memory_limit: 64 << 20,
        memory_swap_limit: 96 << 20,
        hugepage_limits: pages("2MB", 4 << 20),
        unified: [("memory.high".to_owned(), "50000000".to_owned())].into(),
        ..Resources::default()
    };
    assert_eq!(
        json_of(&resources, &Fixture::new()).unwrap(),
        json!({
            "cpu": {"period": 100_000, "quota": -1, "shares": 512, "cpus": "0-1,3", "mems": "0"},
            "memory": {"limit": 64 << 20, "swap": 96 << 20},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}],
            "unified": {"memory.high": "50000000"},
        })
    );
}

#[test]
fn swap_is_the_memory_limit_unless_said_otherwise() {
    for (limit, swap, counted, expected) in [
        (100, 0, true, json!({"memory": {"limit": 100, "swap": 100}})),
        (100, 0, false, json!({"memory": {"limit": 100}})),
        (100, 150, true, json!({"memory": {"limit": 100, "swap": 150}})),
        (100, 150, false, json!({"memory": {"limit": 100}})),
        (100, -1, true, json!({"memory": {"limit": 100, "swap": -1}})),
        (0, 150, true, json!({"memory": {"swap": 150}})),
        (-1, 0, true, json!({"memory": {"limit": -1, "swap": -1}})),
        (0, 150, false, json!({})),
    ] {
        let mut f = Fixture::new();
        f.facts.swap_accounting = counted;
        let resources =
            Resources { memory_limit: limit, memory_swap_limit: swap, ..Resources::default() };
        assert_eq!(json_of(&resources, &f).unwrap(), expected, "{limit} {swap} {counted}");
    }
}

#[test]
fn bad_limits_are_refused_by_field() {
    let f = Fixture::new();
    let d = Resources::default;
    for (resources, field) in [
        (Resources { cpu_period: -1, ..d() }, "cpu_period"),
        (Resources { cpu_quota: -2, ..d() }, "cpu_quota"),
        (Resources { cpu_shares: -5, ..d() }, "cpu_shares"),
        (Resources { cpuset_cpus: "0;1".to_owned(), ..d() }, "cpuset_cpus"),
        (Resources { cpuset_mems: "0\n".to_owned(), ..d() }, "cpuset_mems"),
        (Resources { memory_limit: -2, ..d() }, "memory_limit_in_bytes"),
        (Resources { memory_swap_limit: -2, ..d() }, "memory_swap_limit_in_bytes"),
        (
            Resources { memory_limit: 100, memory_swap_limit: 50, ..d() },
            "memory_swap_limit_in_bytes",
        ),
        (Resources { hugepage_limits: pages("2M/../x", 1), ..d() }, "hugepage_limits[0].page_size"),
        (Resources { hugepage_limits: pages("MB", 1), ..d() }, "hugepage_limits[0].page_size"),
        (Resources { hugepage_limits: pages("2MB", u64::MAX), ..d() }, "hugepage_limits[0].limit"),
        (
            Resources { unified: [("../x.y".to_owned(), String::new())].into(), ..d() },
            "unified[\"../x.y\"]",
        ),
        (
            Resources { unified: [("memory".to_owned(), String::new())].into(), ..d() },
            "unified[\"memory\"]",
        ),
        (
            Resources { unified: [("a.b".to_owned(), "1\0".to_owned())].into(), ..d() },
            "unified[\"a.b\"]",
        ),
    ] {
        assert_eq!(refused(&resources, &f), format!("linux.resources.{field}"));
    }
}

#[test]
fn huge_pages_need_their_controller() {
    let resources = Resources { hugepage_limits: pages("1GB", 0), ..Resources::default() };
    let mut f = Fixture::new();
    f.facts.controllers.retain(|name| name != "hugetlb");
    assert_eq!(json_of(&resources, &f).unwrap(), json!({}));
    f.settings.tolerate_missing_hugetlb = false;
    assert_eq!(refused(&resources, &f), "linux.resources.hugepage_limits");
}

#[test]
fn unified_is_of_v2() {
    let mut f = Fixture::new();
    f.facts.cgroup = CgroupVersion::V1;
    let resources = Resources {
        unified: [("memory.high".to_owned(), "1".to_owned())].into(),
        ..Resources::default()
    };
    assert_eq!(refused(&resources, &f), "linux.resources.unified");
}

#[test]
fn an_update_keeps_what_it_does_not_name() {
    let f = Fixture::new();
    let mut spec = json!({
        "unknown": {"kept": 1},
        "linux": {
            "cgroupsPath": "/a",
            "resources": {
                "devices": [{"allow": false, "access": "rwm"}],
                "cpu": {"shares": 2, "quota": 1000, "period": 100_000},
                "memory": {"limit": 10, "swap": 10},
                "hugepageLimits": [
                    {"pageSize": "2MB", "limit": 1}, {"pageSize": "1GB", "limit": 2}
                ],
                "unified": {"a.b": "1"},
            }
        }
    });
    let update = Resources {
        cpu_quota: 5000,
        memory_limit: 20,
        hugepage_limits: pages("2MB", 3),
        unified: [("c.d".to_owned(), "2".to_owned())].into(),
        ..Resources::default()
    };
    let in_force = apply_to_spec(&mut spec, &update, &f.facts, &f.settings).unwrap();
    let expected = json!({
        "cpu": {"shares": 2, "quota": 5000, "period": 100_000},
        "memory": {"limit": 20, "swap": 20},
        "hugepageLimits": [{"pageSize": "1GB", "limit": 2}, {"pageSize": "2MB", "limit": 3}],
        "unified": {"a.b": "1", "c.d": "2"},
    });
    assert_eq!(in_force, expected);
    assert_eq!(spec["linux"]["resources"]["devices"], json!([{"allow": false, "access": "rwm"}]));
    assert_eq!(spec["linux"]["resources"]["memory"], expected["memory"]);
    assert_eq!(spec["unknown"], json!({"kept": 1}));
}

#[test]
fn a_refused_update_changes_nothing() {
    let f = Fixture::new();
    let before = json!({"linux": {"resources": {"cpu": {"shares": 2}, "memory": {"limit": 100}}}});
    for bad in [
        Resources { cpu_shares: 9, cpu_quota: -7, ..Resources::default() },
        Resources { cpu_shares: 9, memory_swap_limit: 50, ..Resources::default() },
    ] {
        let mut spec = before.clone();
        assert!(apply_to_spec(&mut spec, &bad, &f.facts, &f.settings).is_err());
        assert_eq!(spec, before);
    }
}

#[test]
fn a_stored_spec_without_linux_is_an_error() {
    let f = Fixture::new();
    let result = apply_to_spec(&mut json!({}), &Resources::default(), &f.facts, &f.settings);
    assert!(matches!(result, Err(Error::StoredSpec(_))));
}

#[test]
fn the_oom_score_is_what_the_agent_may_set() {
    let mut f = Fixture::new();
    f.facts.oom_score_adj = -500;
    assert_eq!(oom_score(-998, &f.facts), Ok(-500));
    assert_eq!(oom_score(3, &f.facts), Ok(3));
    f.facts.capabilities.push("CAP_SYS_RESOURCE".to_owned());
    assert_eq!(oom_score(-998, &f.facts), Ok(-998));
    for bad in [-1001, 1001, i64::MIN] {
        assert!(oom_score(bad, &f.facts).is_err(), "{bad}");
    }
}
