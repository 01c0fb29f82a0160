//! `-o custom-columns=NAME:PATH,...`.

use std::str::FromStr;

use serde_json::Value;
use serde_json_path::JsonPath;

use super::path;
use super::table::{Cell, Table};

/// User-defined columns.
#[derive(Debug, Clone)]
pub struct Columns {
    columns: Vec<(String, JsonPath)>,
    headers: bool,
}

impl Columns {
    /// Sets whether there is a header row.
    #[must_use]
    pub fn headers(self, headers: bool) -> Self {
        Self { headers, ..self }
    }

    /// A table with a row for each object; `<none>` where a path has no result.
    pub fn render(&self, objects: &[Value]) -> String {
        let cell = |object: &Value, path: &JsonPath| match path::pick(path, object, ",") {
            found if found.is_empty() => Cell::from("<none>"),
            found => Cell::from(found),
        };
        let row = |object| self.columns.iter().map(|(_, path)| cell(object, path)).collect();
        let rows: Vec<Vec<Cell>> = objects.iter().map(row).collect();
        let header = self.columns.iter().filter(|_| self.headers).map(|(name, _)| name.clone());
        Table::new(header, false).rows(&rows)
    }
}

impl FromStr for Columns {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let column = |text: &str| {
            let parts =
                // The name may be empty: `:.metadata.name`.
                text.split_once(':').filter(|(_, path)| !path.is_empty());
            let (name, path) =
                parts.ok_or_else(|| format!("custom-columns: {text:?} is not NAME:PATH"))?;
            Ok((name.to_owned(), path::single(path)?))
        };
        let columns = text.split(',').map(column).collect::<Result<_, String>>()?;
        Ok(Self { columns, headers: true })
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
        let names: Columns = ":metadata.name".parse().expect("no name");
        assert_eq!(names.clone().render(&objects), "\na\nb\n");
        assert_eq!(names.headers(false).render(&objects), "a\nb\n");
        for bad in ["", "NAME", "NAME:", "A:.a,B", "A:.a[", "A:{.a"] {
            assert!(bad.parse::<Columns>().is_err(), "{bad}");
        }
    }
}
