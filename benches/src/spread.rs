//! Median and extremes of what was measured several times.

use serde::Serialize;

/// Median and extremes.
#[derive(Clone, Copy, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// Of at least one value.
    pub fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let [lower, upper] = [(values.len() - 1) / 2, values.len() / 2].map(|at| values[at]);
        Some(Spread {
            median: (lower + upper) / 2.0,
            min,
            max,
        })
    }

    /// For people.
    pub fn show(&self, digits: usize) -> String {
        let Spread { median, min, max } = self;
        match *min < 0.0 {
            true => format!("{median:.digits$} [{min:.digits$} to {max:.digits$}]"),
            false => format!("{median:.digits$} [{min:.digits$}-{max:.digits$}]"),
        }
    }
}

/// Lines of cells, each column as wide as its widest cell.
pub fn in_columns(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |at: usize| lines.iter().map(|line| line[at].len()).max();
    let widths: Vec<usize> = (0..columns).filter_map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths);
        let cells: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}
