//! `--sort-by PATH`: sorts objects by one of their fields.

use std::cmp::Ordering;
use std::str::FromStr;

use serde_json::Value;
use serde_json_path::JsonPath;

use super::{path, plain};

/// The sort key.
#[derive(Debug, Clone)]
pub struct SortBy {
    path: JsonPath,
    text: String,
}

impl FromStr for SortBy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self { path: path::single(text)?, text: text.to_owned() })
    }
}

impl SortBy {
    /// Sorts; objects without the field come first, and equal ones keep their order.
    pub fn sort(&self, objects: &mut [Value]) -> Result<(), String> {
        let has = |object: &Value| !self.path.query(object).all().is_empty();
        if !objects.is_empty() && !objects.iter().any(has) {
            return Err(format!("--sort-by: couldn't find any field with path {:?}", self.text));
        }
        objects.sort_by(|a, b| {
            let first = |object| self.path.query(object).all().first().copied();
            compare(first(a), first(b))
        });
        Ok(())
    }
}

fn compare(a: Option<&Value>, b: Option<&Value>) -> Ordering {
    match (a, b) {
        (Some(Value::Number(a)), Some(Value::Number(b))) => {
            a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal)
        }
        (Some(a), Some(b)) => natural(&plain(a), &plain(b)),
        (a, b) => a.is_some().cmp(&b.is_some()),
    }
}

/// Compares texts with embedded numbers by value: `web-2` before `web-10`.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (of_a, of_b) = (digits(a), digits(b));
        if of_a > 0 && of_b > 0 {
            let (x, y) = (a[..of_a].trim_start_matches('0'), b[..of_b].trim_start_matches('0'));
            match x.len().cmp(&y.len()).then_with(|| x.cmp(y)) {
                Ordering::Equal => (a, b) = (&a[of_a..], &b[of_b..]),
                other => return other,
            }
            continue;
        }
        let (mut left, mut right) = (a.chars(), b.chars());
        match (left.next(), right.next()) {
            (Some(x), Some(y)) if x == y => (a, b) = (left.as_str(), right.as_str()),
            (x, y) => return x.cmp(&y),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sorted(by: &str, mut objects: Vec<Value>) -> Result<String, String> {
        by.parse::<SortBy>()?.sort(&mut objects)?;
        Ok(objects.iter().map(|object| super::super::text(object, "/n")).collect())
    }

    #[test]
    fn objects_are_sorted_by_a_field() {
        let all = || {
            vec![
                json!({"n": "a", "x": {"count": 10, "name": "web-10", "at": "2026-11-23T07:00:00Z"}}),
                json!({"n": "b", "x": {"count": 9, "name": "web-2", "at": "2025-11-23T07:00:00Z"}}),
                json!({"n": "c", "x": {"at": "2025-12-23T07:00:00Z"}}),
            ]
        };
        assert_eq!(sorted(".x.count", all()).as_deref(), Ok("cba"));
        assert_eq!(sorted("{.x.name}", all()).as_deref(), Ok("cba"));
        assert_eq!(sorted("x.at", all()).as_deref(), Ok("bca"));
        assert!(sorted(".y", all()).expect_err("no such field").contains("\".y\""));
        assert_eq!(sorted(".y", vec![]).as_deref(), Ok(""));
        assert!(sorted(".x[", all()).is_err());
    }

    #[test]
    fn numbers_in_text_count_by_their_value() {
        for (a, b) in [("web-2", "web-10"), ("a", "b"), ("a", "a1"), ("a9b", "a10a"), ("1", "a")] {
            assert_eq!((natural(a, b), natural(b, a)), (Ordering::Less, Ordering::Greater), "{a}");
        }
        assert_eq!(natural("a01", "a1"), Ordering::Equal);
    }
}
