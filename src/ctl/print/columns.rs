//! `-o custom-columns=NAME:PATH,...`.

use std::str::FromStr;

use serde_json::Value;
use serde_json_path::JsonPath;

use super::path;
use super::table::{Cell, Table};

/// Columns of the caller's choice.
#[derive(Debug, Clone)]
pub struct Columns(Vec<(String, JsonPath)>);

impl Columns {
    /// A table with a row for each object; `<none>` where a path gives nothing.
    pub fn render(&self, objects: &[Value]) -> String {
        let cell = |object: &Value, path: &JsonPath| match path::pick(path, object, ",") {
            found if found.is_empty() => Cell::from("<none>"),
            found => Cell::from(found),
        };
        let row = |object| self.0.iter().map(|(_, path)| cell(object, path)).collect();
        let rows: Vec<Vec<Cell>> = objects.iter().map(row).collect();
        Table::new(self.0.iter().map(|(name, _)| name.clone()), false).rows(&rows)
    }
}

impl FromStr for Columns {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let column = |text: &str| {
            let parts =
                text.split_once(':').filter(|(name, path)| !name.is_empty() && !path.is_empty());
            let (name, path) =
                parts.ok_or_else(|| format!("custom-columns: {text:?} is not NAME:PATH"))?;
            Ok((name.to_owned(), path::single(path)?))
        };
        text.split(',').map(column).collect::<Result<_, String>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_picked() {
        let columns: Columns =
            "NAME:.metadata.name,IMAGES:.spec.containers[*].image".parse().expect("good");
        let objects = [
            json!({"metadata": {"name": "a"}, "spec": {"containers": [{"image": "x"}, {"image": "y"}]}}),
            json!({"metadata": {"name": "b"}}),
        ];
        assert_eq!(columns.render(&objects), "NAME   IMAGES\na      x,y\nb      <none>\n");
        for bad in ["", "NAME", "NAME:", ":.a", "A:.a,B", "A:.a[", "A:{.a"] {
            assert!(bad.parse::<Columns>().is_err(), "{bad}");
        }
    }
}
