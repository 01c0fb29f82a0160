//! Expansion of `$(NAME)` in commands, arguments and values of variables.

/// Replaces each `$(NAME)` by the result of `value_of`. An unknown name is left unchanged, `$$` is
/// a literal `$`, and a `$` before anything else, or an unterminated `$(`, is literal text.
pub fn expand(text: &str, value_of: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(escaped) = after.strip_prefix('$') {
            out.push('$');
            rest = escaped;
            continue;
        }
        match after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            Some((name, behind)) => {
                match value_of(name) {
                    Some(value) => out.push_str(&value),
                    None => out.push_str(&rest[at..rest.len() - behind.len()]),
                }
                rest = behind;
            }
            None => {
                out.push('$');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn known(name: &str) -> Option<String> {
        match name {
            "A" => Some("1".to_owned()),
            "B" => Some("$(A)".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn as_kubernetes_has_it() {
        for (text, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(B)", "$(A)"),
            ("$(EMPTY)", ""),
            ("$(NONE)", "$(NONE)"),
            ("$()", "$()"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$$$$(A)", "$$(A)"),
            ("$A", "$A"),
            ("$", "$"),
            ("$$", "$"),
            ("$(A", "$(A"),
            ("$(A$(A)", "$(A$(A)"),
            ("$((A))", "$((A))"),
            ("foo$", "foo$"),
            ("$é$(A)", "$é1"),
            ("$($$)", "$($$)"),
        ] {
            assert_eq!(expand(text, known), expected, "{text:?}");
        }
    }

    /// The same rules implemented byte by byte, like Kubernetes' own parser.
    fn plainly(text: &str) -> String {
        let bytes = text.as_bytes();
        let (mut out, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            if bytes[at] != b'$' || at + 1 == bytes.len() {
                out.push(bytes[at]);
                at += 1;
                continue;
            }
            match bytes[at + 1] {
                b'$' => {
                    out.push(b'$');
                    at += 2;
                }
                b'(' => match bytes[at + 2..].iter().position(|&b| b == b')') {
                    Some(length) => {
                        let name = std::str::from_utf8(&bytes[at + 2..at + 2 + length]).unwrap();
                        let value = known(name).unwrap_or_else(|| format!("$({name})"));
                        out.extend(value.bytes());
                        at += length + 3;
                    }
                    None => {
                        out.extend(b"$(");
                        at += 2;
                    }
                },
                other => {
                    out.extend([b'$', other]);
                    at += 2;
                }
            }
        }
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn any_text_is_read_as_kubernetes_reads_it(text in "[$()AB xé]{0,24}") {
            prop_assert_eq!(expand(&text, known), plainly(&text));
        }

        #[test]
        fn text_without_a_dollar_stays(text in "[^$]{0,40}") {
            prop_assert_eq!(expand(&text, known), text);
        }

        #[test]
        fn doubled_dollars_are_never_read(text in ".{0,40}") {
            let doubled = text.replace('$', "$$");
            prop_assert_eq!(expand(&doubled, known), text);
        }

        #[test]
        fn with_nothing_known_only_doubled_dollars_change(text in "[$()A]{0,24}") {
            let out = expand(&text, |_| None);
            prop_assert!(out.len() <= text.len());
            if !text.contains("$$") {
                prop_assert_eq!(out, text);
            }
        }
    }
}
