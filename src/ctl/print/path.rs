//! `-o jsonpath=`: kubectl's templates. Text outside braces is literal; inside are paths
//! (`{.status.phase}`, `{.items[*].metadata.name}`, filters), quoted text (`{"\n"}`) and `{range
//! PATH}`...`{end}`. Paths are evaluated as in RFC 9535.

use std::str::FromStr;

use serde_json::Value;
use serde_json_path::JsonPath;

/// A parsed template.
#[derive(Debug, Clone)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone)]
enum Part {
    Text(String),
    Path(Vec<JsonPath>),
    Range(Vec<JsonPath>, Vec<Part>),
}

impl Template {
    /// The result of the template for an object.
    pub fn render(&self, value: &Value) -> Result<String, String> {
        let mut text = String::new();
        render(&self.0, value, &mut text);
        Ok(text)
    }
}

/// A single path: `.status.phase`, with or without braces.
pub fn single(text: &str) -> Result<JsonPath, String> {
    let inner = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    match inner {
        Some(inner) => path(inner),
        None if text.contains(['{', '}']) => {
            Err(format!("jsonpath: {text}: the braces do not match"))
        }
        None => path(text),
    }
}

/// The results of a path, separated by `separator`.
pub fn pick(path: &JsonPath, value: &Value, separator: &str) -> String {
    let found = path.query(value).all();
    found.into_iter().map(super::plain).collect::<Vec<_>>().join(separator)
}

fn render(parts: &[Part], value: &Value, text: &mut String) {
    for part in parts {
        match part {
            Part::Text(literal) => text.push_str(literal),
            Part::Path(paths) => {
                let found = paths.iter().flat_map(|path| path.query(value).all());
                text.push_str(&found.map(super::plain).collect::<Vec<_>>().join(" "));
            }
            Part::Range(paths, inner) => {
                let found = paths.iter().flat_map(|path| path.query(value).all());
                found.for_each(|item| render(inner, item, text));
            }
        }
    }
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut rest = text;
        let parts = parts(&mut rest, false)?;
        Ok(Self(parts))
    }
}

/// Parses up to the end, or up to `{end}` inside a range.
fn parts(rest: &mut &str, in_range: bool) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let Some(open) = rest.find('{') else {
            parts.push(Part::Text((*rest).to_owned()));
            *rest = "";
            break;
        };
        if open > 0 {
            parts.push(Part::Text(rest[..open].to_owned()));
        }
        let inner = &rest[open + 1..];
        let close = closing(inner).ok_or_else(|| format!("jsonpath: no }} after {{{inner}"))?;
        let action = inner[..close].trim();
        *rest = &inner[close + 1..];
        match action.split_once(char::is_whitespace) {
            _ if action == "end" && in_range => return Ok(parts),
            _ if action == "end" => return Err("jsonpath: {end} without {range}".to_owned()),
            Some(("range", over)) => {
                let over = paths(over.trim())?;
                parts.push(Part::Range(over, self::parts(rest, true)?));
            }
            _ if action.starts_with(['"', '\'']) => parts.push(Part::Text(quoted(action)?)),
            _ => parts.push(Part::Path(paths(action)?)),
        }
    }
    if in_range { Err("jsonpath: {range} without {end}".to_owned()) } else { Ok(parts) }
}

/// Offset of the closing brace of an action, skipping quoted text.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (offset, c) in text.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (_, '\\') => escaped = true,
            (Some(open), _) if open == c => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '}') => return Some(offset),
            _ => {}
        }
    }
    None
}

/// Decodes quoted text with `\n`, `\t` etc.
fn quoted(text: &str) -> Result<String, String> {
    let fault = || format!("jsonpath: {text} is not a quoted string");
    let quote = text.chars().next().ok_or_else(fault)?;
    let inner = text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    let mut shown = String::new();
    let mut characters = inner.ok_or_else(fault)?.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => match characters.next().ok_or_else(fault)? {
                'n' => shown.push('\n'),
                't' => shown.push('\t'),
                'r' => shown.push('\r'),
                other => shown.push(other),
            },
            _ if c == quote => return Err(fault()),
            _ => shown.push(c),
        }
    }
    Ok(shown)
}

/// Converts kubectl's path with its unions of names, `['metadata.name','status.phase']`, to a path
/// for each of them: there a dot in single quotes separates steps, which RFC 9535 cannot express.
fn paths(text: &str) -> Result<Vec<JsonPath>, String> {
    let mut all = vec![String::new()];
    let mut rest = text;
    while let Some(open) = rest.find('[') {
        let (before, from) = rest.split_at(open);
        let Some(length) = bracket(from) else { break };
        let part = &from[..length];
        let steps = union(&part[1..length - 1]).unwrap_or_else(|| vec![part.to_owned()]);
        let extended = steps
            .iter()
            .flat_map(|step| all.iter().map(move |path| format!("{path}{before}{step}")));
        all = extended.collect();
        rest = &from[length..];
    }
    all.iter().map(|start| path(&format!("{start}{rest}"))).collect()
}

/// The steps of a union of at least two quoted names; `None` if it is something else.
fn union(text: &str) -> Option<Vec<String>> {
    let mut steps = Vec::new();
    let mut rest = text.trim();
    loop {
        let quote = rest.chars().next().filter(|c| "'\"".contains(*c))?;
        let end = rest[1..].find(quote)? + 1;
        let name = &rest[1..end];
        steps.push(match quote {
            '\'' => format!(".{name}"),
            _ => format!("[\"{name}\"]"),
        });
        rest = rest[end + 1..].trim_start();
        match rest.strip_prefix(',') {
            Some(next) => rest = next.trim_start(),
            None if rest.is_empty() && steps.len() > 1 => return Some(steps),
            None => return None,
        }
    }
}

/// Converts kubectl's path to RFC 9535: `.metadata.annotations.a\.b/c` becomes
/// `$['metadata']['annotations']['a.b/c']`; bracketed parts are the same in both.
fn path(text: &str) -> Result<JsonPath, String> {
    let fault = |why: &str| format!("jsonpath: {text}: {why}");
    let mut rest = text.trim();
    rest = rest.strip_prefix(['$', '@']).unwrap_or(rest);
    let mut strict = "$".to_owned();
    while let Some(first) = rest.chars().next() {
        match first {
            '[' => {
                let end = bracket(rest).ok_or_else(|| fault("no ] after ["))?;
                strict.push_str(&in_bracket(&rest[..end]));
                rest = &rest[end..];
            }
            _ => {
                let deep = rest.starts_with("..");
                let start = if deep { 2 } else { usize::from(first == '.') };
                if deep {
                    strict.push_str("..");
                }
                let (name, length) = name(&rest[start..]);
                rest = &rest[start + length..];
                match name.as_str() {
                    "" if rest.starts_with('[') => {}
                    "" if rest.is_empty() && !deep => {}
                    "" => return Err(fault("a name is missing")),
                    "*" => strict.push_str("[*]"),
                    _ => {
                        let escaped = name.replace('\\', "\\\\").replace('\'', "\\'");
                        strict.push_str(&format!("['{escaped}']"));
                    }
                }
            }
        }
    }
    JsonPath::parse(&strict).map_err(|error| fault(error.message()))
}

/// A name up to the next step, with `\.` decoded, and its length as written.
fn name(text: &str) -> (String, usize) {
    let mut name = String::new();
    let mut characters = text.char_indices();
    while let Some((offset, c)) = characters.next() {
        match c {
            '\\' => name.extend(characters.next().map(|(_, c)| c)),
            '.' | '[' => return (name, offset),
            _ => name.push(c),
        }
    }
    (name, text.len())
}

/// Converts a bracketed part to RFC 9535: kubectl writes a dot in a name as `\.`, also after the
/// `@` of a filter.
fn in_bracket(text: &str) -> String {
    let mut strict = String::new();
    let mut quote = None;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let inside = quote.is_some();
        match c {
            '\\' if inside && rest[1..].starts_with('.') => rest = &rest[1..],
            '"' | '\'' if quote.is_none_or(|open| open == c) => {
                quote = if inside { None } else { Some(c) };
            }
            '@' | '$' if !inside => {
                let steps = &rest[1..];
                let ends = |c: char| c.is_whitespace() || "=!<>()&|,]".contains(c);
                let length = steps.find(ends).unwrap_or(steps.len());
                if !steps[..length].contains(['[', '"', '\'', '*']) && !steps.starts_with("..") {
                    strict.push(c);
                    let mut left = &steps[..length];
                    while let Some(after) = left.strip_prefix('.') {
                        let (name, taken) = name(after);
                        strict.push_str(&format!("['{}']", name.replace('\'', "\\'")));
                        left = &after[taken..];
                    }
                    strict.push_str(left);
                    rest = &steps[length..];
                    continue;
                }
            }
            _ => {}
        }
        let length = rest.chars().next().map_or(0, char::len_utf8);
        strict.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    strict
}

/// Length of a bracketed part, including the brackets.
fn bracket(text: &str) -> Option<usize> {
    let mut depth = 0_u32;
    let mut quote = None;
    for (offset, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), _) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 1 => return Some(offset + 1),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn templates_pick_what_kubectl_picks() {
        let value = json!({
            "items": [
                {"metadata": {"name": "a", "annotations": {"x.io/y": "1"}}, "status": {"phase": "Running"}},
                {"metadata": {"name": "b"}, "status": {"phase": "Failed"}, "n": [1, {"k": true}]},
            ],
        });
        let rows = [
            ("{.items[0].metadata.name}", "a"),
            ("{$.items[0].metadata.name}", "a"),
            ("{.items[*].metadata.name}", "a b"),
            ("{.items[-1].metadata.name}", "b"),
            ("{.items[0:1].metadata.name}", "a"),
            ("{..name}", "a b"),
            ("{.items[?(@.status.phase==\"Failed\")].metadata.name}", "b"),
            ("{.items[?(@.status.phase=='Failed')].metadata['name']}", "b"),
            ("{.items[0].metadata.annotations.x\\.io/y}", "1"),
            ("{.items[0].metadata.annotations['x\\.io/y']}", "1"),
            ("{.items[0].metadata.annotations[\"x.io/y\"]}", "1"),
            ("{.items[?(@.metadata.annotations.x\\.io/y=='1')].metadata.name}", "a"),
            ("{.items[?(@.metadata.annotations['x\\.io/y']=='1')].metadata.name}", "a"),
            ("{.items[?(@.status)].metadata.name}", "a b"),
            ("{.items[1].n}", "[1,{\"k\":true}]"),
            ("{.items[0].absent}", ""),
            (
                "names: {range .items[*]}{.metadata.name}{\"\\t\"}{.status.phase}{'\\n'}{end}!",
                "names: a\tRunning\nb\tFailed\n!",
            ),
            ("{range .items[*]}{@.metadata.name},{end}", "a,b,"),
            ("{.items[*]['metadata.name','status.phase']}", "a b Running Failed"),
            ("{.items[1]['metadata.name', \"n\"]}", "b [1,{\"k\":true}]"),
            ("{.items[0].metadata['annotations.x\\.io/y','name']}", "1 a"),
            ("{range .items[0]['metadata','status']}{.name}{.phase};{end}", "a;Running;"),
            ("plain", "plain"),
            ("{\"}\"}", "}"),
        ];
        for (template, expected) in rows {
            let parsed: Template = template.parse().unwrap_or_else(|e| panic!("{template}: {e}"));
            assert_eq!(parsed.render(&value).expect("render"), expected, "{template}");
        }
        assert_eq!(pick(&single(".items[0].metadata.name").expect("path"), &value, ","), "a");
    }

    #[test]
    fn broken_templates_are_refused() {
        let rows = [
            "{.a",
            "{end}",
            "{range .a}x",
            "{.a[}",
            "{.a[?(}",
            "{\"a}",
            "{.a..}",
            "{..}",
            "{.a.'b}",
            "{\"a\"b\"}",
        ];
        for template in rows {
            let fault = template.parse::<Template>().expect_err(template);
            assert!(fault.starts_with("jsonpath: "), "{template}: {fault}");
        }
    }
}
