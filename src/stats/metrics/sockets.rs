//! Metrics of a pod's TCP and UDP sockets, from the tables of its network namespace.

use std::path::Path;

use super::Samples;
use super::families::{self, Family};

/// Names of TCP's states, by their number in the kernel's table from 1 on.
const TCP_STATES: [&str; 11] = [
    "established",
    "synsent",
    "synrecv",
    "finwait1",
    "finwait2",
    "timewait",
    "close",
    "closewait",
    "lastack",
    "listen",
    "closing",
];

/// The state of a UDP socket that is not connected.
const UDP_UNCONNECTED: usize = 7;

/// Adds all these metrics, for the network namespace of a process. A host without IPv6 has no
/// sockets of it.
pub(super) fn add(samples: &mut Samples, proc: &Path, pid: u32) {
    let table = |name: &str| {
        let path = proc.join(format!("{pid}/net/{name}"));
        std::fs::read_to_string(path).unwrap_or_default()
    };
    add_tcp(samples, &families::TCP_USAGE, &table("tcp"));
    add_tcp(samples, &families::TCP6_USAGE, &table("tcp6"));
    add_udp(samples, &families::UDP_USAGE, &table("udp"));
    add_udp(samples, &families::UDP6_USAGE, &table("udp6"));
}

fn add_tcp(samples: &mut Samples, family: &Family<1>, table: &str) {
    for (state, count) in TCP_STATES.into_iter().zip(tcp(table)) {
        samples.add(family, [state], count);
    }
}

fn add_udp(samples: &mut Samples, family: &Family<1>, table: &str) {
    let Udp { listen, dropped, received, sent } = udp(table);
    for (state, value) in
        [("listen", listen), ("dropped", dropped), ("rxqueued", received), ("txqueued", sent)]
    {
        samples.add(family, [state], value);
    }
}

/// Number of sockets in each of [`TCP_STATES`].
pub(super) fn tcp(table: &str) -> [u64; TCP_STATES.len()] {
    let mut counts = [0; TCP_STATES.len()];
    for line in table.lines().skip(1) {
        let count = state(line).and_then(|state| counts.get_mut(state.checked_sub(1)?));
        if let Some(count) = count {
            *count += 1;
        }
    }
    counts
}

/// The hexadecimal state in a line of a table, after the entry's number and two addresses.
fn state(line: &str) -> Option<usize> {
    usize::from_str_radix(line.split_ascii_whitespace().nth(3)?, 16).ok()
}

/// Sums over the UDP sockets of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Udp {
    /// Number of sockets that are not connected.
    pub listen: u64,
    /// Datagrams dropped.
    pub dropped: u64,
    /// Bytes received and not yet read.
    pub received: u64,
    /// Bytes not yet sent.
    pub sent: u64,
}

pub(super) fn udp(table: &str) -> Udp {
    let mut sums = Udp::default();
    for line in table.lines().skip(1) {
        let mut fields = line.split_ascii_whitespace();
        sums.listen += u64::from(state(line) == Some(UDP_UNCONNECTED));
        if let Some((sent, received)) = fields.clone().nth(4).and_then(|both| both.split_once(':'))
        {
            sums.sent += u64::from_str_radix(sent, 16).unwrap_or_default();
            sums.received += u64::from_str_radix(received, 16).unwrap_or_default();
        }
        sums.dropped += fields.next_back().and_then(|drops| drops.parse().ok()).unwrap_or(0);
    }
    sums
}
