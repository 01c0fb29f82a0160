mod recorded;

use std::collections::BTreeSet;

use super::disks::{Io, io_v1, io_v2};
use super::families::DESCRIPTORS;
use super::processes::{States, max_open_files};
use super::*;

#[test]
fn families_have_one_name_each_and_labels_that_differ() {
    let names: BTreeSet<_> = DESCRIPTORS.iter().map(|family| family.name).collect();
    assert_eq!(names.len(), DESCRIPTORS.len());
    for family in DESCRIPTORS {
        let keys: Vec<_> = family.label_keys().collect();
        let different: BTreeSet<_> = keys.iter().collect();
        assert_eq!(different.len(), keys.len(), "{}", family.name);
        assert!(family.name.starts_with("container_") && !family.help.is_empty());
        let total = family.name.ends_with("_total");
        // cAdvisor's own exception: a gauge (number of inodes) with the suffix of a counter.
        let counts = family.kind == Kind::Counter || family.name == "container_fs_inodes_total";
        assert!(!total || counts, "{}", family.name);
    }
}

#[test]
fn devices_are_read_in_both_versions() {
    let bytes = b"254:0 Read 4096\n254:0 Write 8192\n254:0 Sync 1\n254:0 Total 12288\n\
                  7:1 Read 1\nTotal 12289\n";
    let operations = b"254:0 Read 2\n254:0 Write 3\n254:0 Total 5\nTotal 5\nodd\n9:9\n";
    let vda = Io { read_bytes: 4096, written_bytes: 8192, reads: 2, writes: 3 };
    let found = io_v1(bytes, operations);
    assert_eq!(found[&(254, 0)], vda);
    assert_eq!(found[&(7, 1)], Io { read_bytes: 1, ..Io::default() });
    assert_eq!(found.len(), 2);
    let found = io_v2(
        b"254:0 rbytes=4096 wbytes=8192 rios=2 wios=3 dbytes=0 dios=0 cost.usage=7\n7:1 \nodd\n",
    );
    assert_eq!(found[&(254, 0)], vda);
    assert_eq!(found[&(7, 1)], Io::default());
    assert_eq!(found.len(), 2);
}

#[test]
fn tasks_are_counted_by_what_they_do() {
    let mut states = States::default();
    for stat in [
        &b"1 (sh) S 0 1"[..],
        b"2 (a ) R (b) R 0",
        b"3 (kworker) I 0",
        b"4 (dd) D 0",
        b"5 (gdb) t 0",
        b"6 (dead) Z 0",
        b"7 (cut)",
        b"",
    ] {
        states.count(stat);
    }
    let expected = States { running: 1, sleeping: 2, stopped: 1, uninterruptible: 1 };
    assert_eq!(states, expected);
}

#[test]
fn the_limit_of_open_files_may_be_none() {
    let limits = |soft: &str| {
        format!(
            "Limit                     Soft Limit           Hard Limit           Units     \n\
             Max processes             7823                 7823                 processes \n\
             Max open files            {soft}                 524288               files     \n"
        )
    };
    assert_eq!(max_open_files(&limits("1024")), Some(1024));
    assert_eq!(max_open_files(&limits("unlimited")), Some(u64::MAX));
    assert_eq!(max_open_files("Max processes 1 1"), None);
}
