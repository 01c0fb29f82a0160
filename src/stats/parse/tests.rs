//! These tests use files as written by kernels 5.15 (v2) and 6.18 (v1).

use super::*;

const MEMORY_STAT_V1: &[u8] = b"cache 11038720
rss 16994304
rss_huge 0
shmem 8998912
mapped_file 7585792
pgfault 127667
pgmajfault 3
inactive_file 28672
active_file 2011136
hierarchical_memory_limit 268435456
hierarchical_memsw_limit 536870912
total_cache 17266167
total_rss 116526694
total_mapped_file 293044
total_swap 4096
total_pgfault 353054477
total_pgmajfault 60137
total_inactive_file 13446242
total_active_file 3810926
";

const MEMORY_STAT_V2: &[u8] = b"anon 2932736
file 10010624
kernel 1048576
kernel_stack 65536
sock 0
file_mapped 4055040
inactive_file 6053888
active_file 3956736
pgfault 33116
pgmajfault 35
";

const PRESSURE: &[u8] = b"some avg10=14.66 avg60=15.62 avg300=28.25 total=6971514552
full avg10=0.50 avg60=0.25 avg300=0.12 total=17
";

const NET_DEV: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 3673900196  347567    0    0    0     0          0         0 3673900196  347567    0    0    0     0       0          0
  eth0: 616253585   35765    1    2    3     4          5         6  2658611   23135    7    8    9    10      11         12
vlan0.10@x:1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
broken: 1 2 3
";

#[test]
fn numbers_are_read_exactly_or_not_at_all() {
    assert_eq!(number(b"18446744073709551615\n"), Some(u64::MAX));
    assert_eq!(number(b"max\n"), Some(u64::MAX));
    assert_eq!(number(b"0"), Some(0));
    for bad in [&b""[..], b"\n", b"-1\n", b"1 2", b"18446744073709551616", b"0x10", b"\xff"] {
        assert_eq!(number(bad), None, "{bad:?}");
    }
}

#[test]
fn pairs_leave_out_what_they_do_not_understand() {
    let text = b"nr_periods 12\n\nodd\nname 1 2\nusage_usec 5000000\nlast 3";
    let found: Vec<_> = pairs(text).collect();
    assert_eq!(found, [(&b"nr_periods"[..], 12), (&b"usage_usec"[..], 5_000_000), (b"last", 3)]);
    assert_eq!(value_of(text, "usage_usec"), Some(5_000_000));
    assert_eq!(value_of(text, "usage"), None);
}

#[test]
fn memory_of_v1_counts_the_cgroups_below() {
    let stat = memory_stat_v1(MEMORY_STAT_V1);
    let expected = MemoryStat {
        rss: 116_526_694,
        cache: 17_266_167,
        mapped_file: 293_044,
        active_file: 3_810_926,
        inactive_file: 13_446_242,
        page_faults: 353_054_477,
        major_page_faults: 60_137,
        own_page_faults: Some(127_667),
        own_major_page_faults: Some(3),
        kernel: None,
        swap: Some(4096),
        limit: Some(268_435_456),
        swap_limit: Some(536_870_912),
    };
    assert_eq!(stat, expected);
}

#[test]
fn memory_of_v2_has_other_words() {
    let stat = memory_stat_v2(MEMORY_STAT_V2);
    let expected = MemoryStat {
        rss: 2_932_736,
        cache: 10_010_624,
        mapped_file: 4_055_040,
        active_file: 3_956_736,
        inactive_file: 6_053_888,
        page_faults: 33_116,
        major_page_faults: 35,
        kernel: Some(1_048_576),
        ..MemoryStat::default()
    };
    assert_eq!(stat, expected);
}

#[test]
fn pressure_is_told_in_nanoseconds() {
    let expected = Pressure {
        some: Waiting { total: 6_971_514_552_000, avg10: 14.66, avg60: 15.62, avg300: 28.25 },
        full: Waiting { total: 17_000, avg10: 0.5, avg60: 0.25, avg300: 0.12 },
    };
    assert_eq!(pressure(PRESSURE), Some(expected));
    let old = pressure(b"some avg10=1.00 avg60=0.00 avg300=0.00 total=1\n").expect("pressure");
    assert_eq!((old.some.total, old.full), (1000, Waiting::default()));
    for none in [&b""[..], b"full avg10=0.00 total=1\n", b"\xff"] {
        assert_eq!(pressure(none), None, "{none:?}");
    }
}

#[test]
fn interfaces_are_all_but_lo() {
    let found = interfaces(NET_DEV);
    let names: Vec<_> = found.iter().map(|interface| interface.name.as_str()).collect();
    assert_eq!(names, ["eth0", "vlan0.10@x"]);
    let received = Traffic { bytes: 616_253_585, packets: 35_765, errors: 1, dropped: 2 };
    let sent = Traffic { bytes: 2_658_611, packets: 23_135, errors: 7, dropped: 8 };
    assert_eq!((found[0].received, found[0].sent), (received, sent));
    assert_eq!(found[1].sent.bytes, 9);
}
