mod recorded;

use std::collections::BTreeSet;

use super::disks::{Io, io_v1, io_v2};
use super::families::DESCRIPTORS;
use super::processes::{States, max_open_files};
use super::sockets::{Udp, tcp, udp};
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
        // cAdvisor's own exceptions: gauges with the suffix of a counter.
        let is_odd =
            ["fs_inodes_total", "usage_total"].iter().any(|end| family.name.ends_with(end));
        let counts = family.kind == Kind::Counter || is_odd;
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
fn sockets_are_counted_by_their_states() {
    let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when\n";
    let tcp4 = format!(
        "{head}   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1\n   \
         1: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 02:000A 00000000 0 0 2\n   \
         2: 0100007F:1F90 0100007F:9C41 01 0 0\n   3: odd\n   4: a b 0C\n   5: a b 00\n"
    );
    let counts = tcp(&tcp4);
    assert_eq!((counts[0], counts[9], counts.iter().sum::<u64>()), (2, 1, 3));
    let udp4 = format!(
        "{head} 1: 00000000:0035 00000000:0000 07 00000010:00000200 00:0 0 0 0 11 2 0 5\n \
         2: 0100007F:0035 0100007F:9C40 01 00000001:00000002 00:0 0 0 0 12 2 0 7\n"
    );
    let sums = Udp { listen: 1, dropped: 12, received: 0x202, sent: 0x11 };
    assert_eq!(udp(&udp4), sums);
    assert_eq!((tcp(""), udp("")), ([0; 11], Udp::default()));
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
