//! Label columns of a table: `-L KEY,...` and `--show-labels`.

use serde_json::Value;

use super::table::Cell;
use super::{pairs, plain};

/// The label columns to show.
#[derive(Debug, Clone, Default)]
pub struct Labels {
    /// A column for each of these keys.
    pub keys: Vec<String>,
    /// A column with all labels.
    pub all: bool,
}

impl Labels {
    /// Their header cells, named by the last part of each key.
    pub fn header(&self) -> Vec<String> {
        let name = |key: &String| key.rsplit('/').next().unwrap_or(key).to_uppercase();
        let all = self.all.then(|| "LABELS".to_owned());
        self.keys.iter().map(name).chain(all).collect()
    }

    /// Their cells in an object's row.
    pub fn cells(&self, object: &Value) -> Vec<Cell> {
        let labels = object.pointer("/metadata/labels");
        let value = |key: &String| labels.and_then(|labels| labels.get(key)).map(plain);
        let mut cells: Vec<Cell> =
            self.keys.iter().map(|key| value(key).unwrap_or_default().into()).collect();
        if self.all {
            let all = pairs(object, "/metadata/labels", "=").join(",");
            cells.push(if all.is_empty() { "<none>".into() } else { all.into() });
        }
        cells
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_have_columns_of_their_own() {
        let labels = Labels { keys: vec!["x.io/app".to_owned(), "no".to_owned()], all: true };
        assert_eq!(labels.header(), ["APP", "NO", "LABELS"]);
        let pod = json!({"metadata": {"labels": {"x.io/app": "web"}}});
        assert_eq!(labels.cells(&pod), ["web".into(), "".into(), Cell::from("x.io/app=web")]);
        assert_eq!(labels.cells(&json!({}))[2], "<none>".into());
    }
}
