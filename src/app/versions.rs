//! Known unsafe versions of containerd and runc.

/// The first three numbers of a version; the rest is ignored.
fn numbers(version: &str) -> Option<(u32, u32, u32)> {
    let start = version.find(|c: char| c.is_ascii_digit())?;
    let mut parts = version[start..].splitn(3, '.');
    let mut next = || {
        let part = parts.next()?;
        let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part[..end].parse().ok()
    };
    let (major, minor) = (next()?, next()?);
    Some((major, minor, next().unwrap_or(0)))
}

/// The first safe version of this containerd release line, if this one is older.
pub(super) fn safe_containerd(version: &str) -> Option<&'static str> {
    let version = numbers(version)?;
    let (safe, name) = match version {
        (0 | 1, ..) => ((1, 7, 33), "1.7.33"),
        (2, 0, _) => ((2, 0, 10), "2.0.10"),
        (2, 1, _) => ((2, 1, 9), "2.1.9"),
        (2, 2, _) => ((2, 2, 5), "2.2.5"),
        _ => ((2, 3, 2), "2.3.2"),
    };
    (version < safe).then_some(name)
}

/// The first safe version of this runc release line, if this one is older.
pub(super) fn safe_runc(version: &str) -> Option<&'static str> {
    let version = numbers(version)?;
    let (safe, name) = match version {
        (1, 4, _) => ((1, 4, 3), "1.4.3"),
        _ => ((1, 3, 6), "1.3.6"),
    };
    (version < safe).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_versions_are_told_from_safe_ones() {
        for (version, expected) in [
            ("1.6.20~ds1", Some("1.7.33")),
            ("v1.7.32", Some("1.7.33")),
            ("1.7.33", None),
            ("v2.0.9", Some("2.0.10")),
            ("v2.0.10", None),
            ("2.1.8+unknown", Some("2.1.9")),
            ("2.1.9-k3s1", None),
            ("2.2.4", Some("2.2.5")),
            ("2.2.5", None),
            ("2.3.1", Some("2.3.2")),
            ("v2.3.2", None),
            ("2.4.0", None),
            ("3.0", None),
            ("", None),
            ("devel", None),
        ] {
            assert_eq!(safe_containerd(version), expected, "containerd {version:?}");
        }
        for (version, expected) in [
            ("1.1.5+ds1", Some("1.3.6")),
            ("1.2.9", Some("1.3.6")),
            ("1.3.5", Some("1.3.6")),
            ("1.3.6", None),
            ("1.4.0-rc.1", Some("1.4.3")),
            ("1.4.2", Some("1.4.3")),
            ("1.4.3", None),
            ("1.5.0", None),
            ("2.0", None),
            ("unknown", None),
        ] {
            assert_eq!(safe_runc(version), expected, "runc {version:?}");
        }
    }
}
