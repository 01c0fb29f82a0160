use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::pod::Allocatable;

fn given(limits: &[Value]) -> Given {
    let containers: Vec<Value> =
        limits.iter().map(|l| json!({ "name": "c", "resources": { "limits": l } })).collect();
    let pod = json!({ "metadata": { "uid": "u" }, "spec": { "containers": containers } });
    Given {
        pod: Arc::new(serde_json::from_value(pod).unwrap()),
        objects: Default::default(),
        source: Default::default(),
    }
}

#[test]
fn memory_is_the_least_of_volume_pod_and_node() {
    let context = |node: u64, pod: Option<u64>| VolumeContext {
        allocatable: Allocatable { memory: node, ..Allocatable::default() },
        pod_memory_limit: pod,
    };
    let table = [
        (None, 0, None, None),
        (None, 1000, None, Some(1000)),
        (None, 1000, Some(500), Some(500)),
        (Some(100), 1000, Some(500), Some(100)),
        (Some(700), 1000, Some(500), Some(500)),
        (Some(5000), 1000, None, Some(1000)),
        (Some(5000), 0, None, Some(5000)),
    ];
    for (limit, node, pod, wanted) in table {
        assert_eq!(most_memory(limit, &context(node, pod)), wanted, "{limit:?} {node} {pod:?}");
    }
}

#[test]
fn huge_pages_are_of_a_size_that_the_pod_asks_for() {
    let small = json!({ "hugepages-2Mi": "4Mi", "cpu": "1" });
    let both = [small.clone(), json!({ "hugepages-1Gi": "1Gi" })];
    let one = given(&[small.clone(), small]);
    assert_eq!(page_size(&one, ""), Ok(2 << 20));
    assert_eq!(page_size(&one, "-2Mi"), Ok(2 << 20));
    assert_eq!(page_size(&given(&both), "-1Gi"), Ok(1 << 30));
    let (both, none) = (given(&both), given(&[]));
    for (pod, named) in [(&one, "-1Gi"), (&one, "2Mi"), (&one, "-"), (&both, ""), (&none, "")] {
        assert!(page_size(pod, named).unwrap_err().contains("HugePages"), "{named}");
    }
}

#[test]
fn size_limits_are_bytes_and_zero_is_none() {
    let limit = |text: &str| {
        let source = serde_json::from_value(json!({ "sizeLimit": text })).unwrap();
        size_limit("v", Some(&source))
    };
    assert_eq!(limit("1Gi").unwrap(), Some(1 << 30));
    assert_eq!(limit("0").unwrap(), None);
    assert!(limit("lots").unwrap_err().to_string().contains("\"lots\""));
    assert_eq!(size_limit("v", None).unwrap(), None);
}
