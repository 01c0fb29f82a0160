//! Env files in volumes, as Kubernetes defines them: a subset of POSIX shell syntax, so strict that
//! both give the same values.
//!
//! ```text
//! # a comment
//! NAME='literal value'
//! MANY='one line
//! and another'
//! ```

use std::collections::BTreeMap;

use super::env::is_name;

/// Existing files, by volume and path in it.
pub type EnvFiles = BTreeMap<(String, String), Vec<u8>>;

/// The variables in a file; for a repeated name the last value.
///
/// # Errors
/// The first line that is not a variable, a comment or empty, and why.
pub(super) fn parse(bytes: &[u8]) -> Result<BTreeMap<&str, &str>, String> {
    let mut rest = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    if rest.contains('\0') {
        return Err("it contains a NUL".to_owned());
    }
    let whole = rest;
    let mut variables = BTreeMap::new();
    while !rest.is_empty() {
        let read = whole.len() - rest.len();
        let number = || whole[..read].matches('\n').count() + 1;
        let wrong = |problem: &str| format!("line {}: {problem}", number());
        let line = rest.split('\n').next().unwrap_or_default();
        let found = line.trim_start_matches(is_blank);
        if found.is_empty() || found.starts_with('#') {
            rest = after(rest, line);
            continue;
        }
        let (name, _) = found.split_once('=').ok_or_else(|| wrong("NAME='value' is wanted"))?;
        let value = &rest[line.len() - found.len() + name.len() + 1..];
        let name = name.trim_end_matches(is_blank);
        if !is_name(name) || name.contains(' ') {
            return Err(wrong("what is before the = is no name of a variable"));
        }
        let value = value.trim_start_matches(is_blank).strip_prefix('\'');
        let value = value.ok_or_else(|| wrong("a value must be in single quotes"))?;
        let (value, behind) =
            value.split_once('\'').ok_or_else(|| wrong("the single quote is not closed"))?;
        let end = behind.split('\n').next().unwrap_or_default();
        if !end.chars().all(is_blank) {
            return Err(wrong("nothing may follow the closing quote of a value"));
        }
        variables.insert(name, value);
        rest = after(behind, end);
    }
    Ok(variables)
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

/// The text after a line and its line end.
fn after<'t>(text: &'t str, line: &str) -> &'t str {
    text.get(line.len() + 1..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(&str, &str)> {
        parse(text.as_bytes())
            .unwrap_or_else(|error| panic!("{text:?}: {error}"))
            .into_iter()
            .collect()
    }

    #[test]
    fn values_are_taken_as_they_are() {
        for (text, expected) in [
            ("", &[][..]),
            ("\n  \n# A='1'\n   # more\n", &[]),
            ("A='1'", &[("A", "1")]),
            ("  A = '1'  \n\tB\t=\t'2'\t\n", &[("A", "1"), ("B", "2")]),
            ("A=''\n", &[("A", "")]),
            ("A='one\n two\n\n# three'\nB='x'\n", &[("A", "one\n two\n\n# three"), ("B", "x")]),
            ("A='$B ${C} `d` \\n \"e\" = #'", &[("A", "$B ${C} `d` \\n \"e\" = #")]),
            ("A='1'\nA='2'\n", &[("A", "2")]),
            ("a.b-c='\u{fc}'\n", &[("a.b-c", "\u{fc}")]),
        ] {
            assert_eq!(pairs(text), expected, "{text:?}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_its_line() {
        for (text, expected) in [
            ("A=1", "line 1: a value must be in single quotes"),
            ("\nA=\"1\"", "line 2: a value must be in single quotes"),
            ("A=", "line 1: a value must be in single quotes"),
            ("A=\n'1'", "line 1: a value must be in single quotes"),
            ("A='x\ny'\nB='1''2'", "line 3: nothing may follow"),
            ("A='1'$B", "line 1: nothing may follow"),
            ("A='1' # one", "line 1: nothing may follow"),
            ("A='1'\r\n", "line 1: nothing may follow"),
            ("A='1\nB=2\n", "line 1: the single quote is not closed"),
            ("A", "line 1: NAME='value' is wanted"),
            ("='1'", "line 1: what is before the = is no name"),
            ("export A='1'", "line 1: what is before the = is no name"),
            ("\u{fc}='1'", "line 1: what is before the = is no name"),
            ("A='\0'", "it contains a NUL"),
        ] {
            let error = parse(text.as_bytes()).expect_err(text);
            assert!(error.starts_with(expected), "{text:?}: {error}");
        }
        assert_eq!(parse(b"A='\xff'"), Err("it is not UTF-8".to_owned()));
    }

    proptest::proptest! {
        #[test]
        fn what_a_shell_would_write_comes_back(
            variables in proptest::collection::btree_map("[A-Z_][A-Z0-9_]{0,8}", "[^'\0]{0,40}", 0..6),
            between in "[ \t\n]{0,4}",
        ) {
            let lines = variables.iter().map(|(name, value)| format!("{between}{name}='{value}'\n"));
            let text: String = lines.collect();
            let found = pairs(&text);
            let wanted: Vec<_> = variables.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            proptest::prop_assert_eq!(found, wanted);
        }

        #[test]
        fn no_text_breaks_it(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
