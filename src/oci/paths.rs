//! Paths inside a container, handled as text; nothing here accesses a file system.

use super::Error;

/// The path from the container's root with `.`, `..` and doubled slashes resolved as text, so
/// that it can never name anything above the root.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Number of elements of a cleaned path.
pub(super) fn depth(cleaned: &str) -> usize {
    cleaned.split('/').filter(|part| !part.is_empty()).count()
}

/// Whether `path` is `folder` or below it; both cleaned.
pub(super) fn is_within(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Checks and cleans an absolute path given by a caller.
pub(super) fn absolute(field: impl FnOnce() -> String, path: &str) -> Result<String, Error> {
    if let Some(problem) = problem_of(path) {
        return Err(Error::invalid(field(), problem));
    }
    Ok(clean(path))
}

/// What is wrong with `path` as an absolute path, if anything.
pub(super) fn problem_of(path: &str) -> Option<String> {
    if !path.starts_with('/') {
        Some(format!("{path:?} is not an absolute path"))
    } else if has_control(path) {
        Some(format!("{path:?} contains a control character"))
    } else {
        None
    }
}

/// Whether text contains a control character (newline, NUL, …).
pub(super) fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_never_leaves_the_root() {
        for (dirty, cleaned) in [
            ("/", "/"),
            ("", "/"),
            ("//a///b/", "/a/b"),
            ("/a/./b/../c", "/a/c"),
            ("/../../etc", "/etc"),
            ("../x", "/x"),
            ("/a/..", "/"),
            ("x/../..", "/"),
            ("//a/./b/", "/a/b"),
        ] {
            assert_eq!(clean(dirty), cleaned, "{dirty}");
        }
    }

    #[test]
    fn within_compares_whole_elements() {
        assert!(is_within("/dev", "/dev"));
        assert!(is_within("/dev/pts", "/dev"));
        assert!(!is_within("/devices", "/dev"));
    }

    #[test]
    fn relative_and_control_characters_are_refused() {
        for bad in ["", "a", "./a", "/a\nb", "/a\0"] {
            let error = absolute(|| "x".to_owned(), bad).unwrap_err();
            assert!(matches!(error, Error::Invalid { ref field, .. } if field == "x"), "{bad}");
        }
    }
}
