//! The time of day.

use std::time::{SystemTime, UNIX_EPOCH};

/// The current time, in nanoseconds since the Unix epoch, as in `UnixNanos`.
pub fn now() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    elapsed.map_or(0, |elapsed| i64::try_from(elapsed.as_nanos()).unwrap_or(i64::MAX))
}
