//! Times and durations in kubectl's format.

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

/// `Mon, 23 Nov 2026 07:06:26 +0000`.
const LONG: &[BorrowedFormatItem<'_>] = format_description!(
    "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] [offset_hour sign:mandatory][offset_minute]"
);

/// The time at a JSON pointer.
pub fn time_at(value: &Value, pointer: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(super::text(value, pointer), &Rfc3339).ok()
}

/// The age of the time at a JSON pointer; `<unknown>` without one.
pub fn since(value: &Value, pointer: &str, now: OffsetDateTime) -> String {
    time_at(value, pointer).map_or("<unknown>".to_owned(), |then| ago(then, now))
}

/// The age of a time.
pub fn ago(then: OffsetDateTime, now: OffsetDateTime) -> String {
    human((now - then).whole_seconds())
}

/// The time at a JSON pointer in long form; empty without one.
pub fn long(value: &Value, pointer: &str) -> String {
    time_at(value, pointer).and_then(|time| time.format(&LONG).ok()).unwrap_or_default()
}

/// A duration in seconds, less precise the longer it is: `45s`, `3m20s`, `5h`, `3d4h`, `2y`.
pub fn human(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let two = |big: i64, unit: char, small: i64, part: char| match small {
        0 => format!("{big}{unit}"),
        _ => format!("{big}{unit}{small}{part}"),
    };
    match seconds {
        // The clocks of two machines may differ slightly.
        i64::MIN..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, 'm', seconds % 60, 's'),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, 'h', minutes % 60, 'm'),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(hours / 24, 'd', hours % 24, 'h'),
        691_200..63_072_000 => format!("{}d", hours / 24),
        63_072_000..252_288_000 => two(hours / 24 / 365, 'y', (hours / 24) % 365, 'd'),
        _ => format!("{}y", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_are_written_as_kubectl_does() {
        let rows = [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (10_860, "3h1m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (176_400, "2d1h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (63_158_400, "2y1d"),
            (252_288_000, "8y"),
        ];
        for (seconds, text) in rows {
            assert_eq!(human(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn times_of_objects() {
        let value = json!({"a": "2026-11-23T07:06:26Z", "b": "soon"});
        assert_eq!(long(&value, "/a"), "Mon, 23 Nov 2026 07:06:26 +0000");
        let now = time_at(&value, "/a").expect("time") + time::Duration::seconds(90);
        assert_eq!(since(&value, "/a", now), "90s");
        assert_eq!(since(&value, "/b", now), "<unknown>");
    }
}
