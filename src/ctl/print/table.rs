//! Tables with columns as wide as their contents, separated by three spaces.

/// Number of spaces between columns.
const GAP: usize = 3;

/// Minimum column width, as in kubectl.
const NARROWEST: usize = 6;

/// The colour class of a cell, for terminals with colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mood {
    /// Neutral.
    #[default]
    Plain,
    /// Good state.
    Good,
    /// In progress.
    Busy,
    /// A problem.
    Bad,
}

impl Mood {
    /// Text with the escapes of its colour around it.
    fn paint(self, text: &str) -> String {
        let colour = match self {
            Self::Plain => return text.to_owned(),
            Self::Good => 32,
            Self::Busy => 33,
            Self::Bad => 31,
        };
        format!("\u{1b}[{colour}m{text}\u{1b}[0m")
    }
}

/// One cell.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cell {
    text: String,
    mood: Mood,
}

impl Cell {
    /// A cell with a colour.
    pub fn new(text: &str, mood: Mood) -> Self {
        // A cell is one line.
        Self { text: super::safe(text).replace(['\n', '\t'], " "), mood }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text.as_ref(), Mood::Plain)
    }
}

/// A table that is printed in parts: later rows keep the column widths of earlier ones.
#[derive(Debug, Clone, Default)]
pub struct Table {
    header: Vec<String>,
    widths: Vec<usize>,
    begun: bool,
    colours: bool,
}

impl Table {
    /// A table with these columns; without any there is no header row.
    pub fn new<T: Into<String>>(header: impl IntoIterator<Item = T>, colours: bool) -> Self {
        let header: Vec<String> = header.into_iter().map(Into::into).collect();
        Self { header, colours, ..Self::default() }
    }

    /// Formats these rows, with the header before the first ones.
    pub fn rows(&mut self, rows: &[Vec<Cell>]) -> String {
        let mut text = String::new();
        let header: Vec<Cell> = self.header.iter().map(Cell::from).collect();
        let with_header = !self.begun && !header.is_empty();
        self.begun = true;
        for row in with_header.then_some(&header).into_iter().chain(rows) {
            self.widen(row);
        }
        if with_header {
            self.write(&mut text, &header);
        }
        rows.iter().for_each(|row| self.write(&mut text, row));
        text
    }

    fn widen(&mut self, row: &[Cell]) {
        self.widths.resize(self.widths.len().max(row.len()), NARROWEST - GAP);
        for (width, cell) in self.widths.iter_mut().zip(row) {
            *width = (*width).max(cell.text.chars().count());
        }
    }

    fn write(&self, text: &mut String, row: &[Cell]) {
        for (index, (cell, width)) in row.iter().zip(&self.widths).enumerate() {
            match cell.mood {
                mood if self.colours => text.push_str(&mood.paint(&cell.text)),
                _ => text.push_str(&cell.text),
            }
            if index + 1 < row.len() {
                let blanks = width + GAP - cell.text.chars().count();
                text.extend(std::iter::repeat_n(' ', blanks));
            }
        }
        text.push('\n');
    }
}

/// Aligns lines with tab-terminated cells: a column extends over adjacent lines that have it, as
/// needed by `describe`.
pub fn align(text: &str) -> String {
    const PADDING: usize = 2;
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len() - 1]).collect();
    let columns = widths.iter().map(Vec::len).max().unwrap_or_default();
    for column in 0..columns {
        let mut from = 0;
        while from < lines.len() {
            let run = widths[from..].iter().take_while(|row| row.len() > column).count();
            let widest =
                lines[from..from + run].iter().map(|row| row[column].chars().count()).max();
            for row in &mut widths[from..from + run] {
                row[column] = widest.unwrap_or_default() + PADDING;
            }
            from += run.max(1);
        }
    }
    let mut aligned = String::with_capacity(text.len() * 2);
    for (cells, widths) in lines.iter().zip(&widths) {
        for (index, cell) in cells.iter().enumerate() {
            aligned.push_str(cell);
            if let Some(width) = widths.get(index) {
                aligned.extend(std::iter::repeat_n(' ', width - cell.chars().count()));
            }
        }
        aligned.truncate(aligned.trim_end_matches(' ').len());
        aligned.push('\n');
    }
    aligned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_later_rows_keep_the_widths() {
        let mut table = Table::new(["NAME", "STATUS"], false);
        let first = table.rows(&[vec!["a-long-name".into(), "Up".into()]]);
        assert_eq!(first, "NAME          STATUS\na-long-name   Up\n");
        let then = table.rows(&[vec!["b".into(), Cell::new("Down", Mood::Bad)]]);
        assert_eq!(then, "b             Down\n");
    }

    #[test]
    fn colours_do_not_shift_columns_and_cells_are_one_line() {
        let mut table = Table::new(Vec::<String>::new(), true);
        let rows = [vec![Cell::new("up", Mood::Good), "x\ny\u{1b}[1m".into()]];
        assert_eq!(table.rows(&rows), "\u{1b}[32mup\u{1b}[0m    x y^[[1m\n");
    }

    #[test]
    fn tabs_become_columns_over_neighbouring_lines() {
        let text = "Name:\tweb\nLong Name:\tx\nConditions:\n  Type\tStatus\n  Ready\tTrue\n";
        assert_eq!(
            align(text),
            "Name:       web\nLong Name:  x\nConditions:\n  Type   Status\n  Ready  True\n"
        );
    }
}
