//! The table that is printed.

use std::fmt::Write as _;

use serde::Deserialize;

/// One figure, as the client prints it.
#[derive(Debug, Clone, Deserialize)]
pub struct Figure {
    /// Of what.
    pub name: String,
    /// `ms`, `s`, `KiB` or `MiB/s`.
    pub unit: String,
    /// The value, or the one in the middle.
    pub value: f64,
    /// The 95th percentile.
    pub p95: Option<f64>,
}

/// One runtime.
#[derive(Debug)]
pub struct Column {
    /// Its name.
    pub title: String,
    /// What was measured.
    pub figures: Vec<Figure>,
}

/// A line for each figure of the first column. A second one adds its own figures, and by which factor the first is
/// better.
pub fn table(columns: &[Column]) -> String {
    let Some((first, others)) = columns.split_first() else { return String::new() };
    let mut text = format!("\n{:<38} {:<6} {:>22}", "median (95th percentile)", "unit", first.title);
    for other in others {
        let _ = write!(text, " {:>22} {:>8}", other.title, "factor");
    }
    text.push('\n');
    for figure in &first.figures {
        let _ = write!(text, "{:<38} {:<6} {:>22}", figure.name, figure.unit, shown(figure));
        for other in others {
            let theirs = other.figures.iter().find(|theirs| theirs.name == figure.name);
            let cell = theirs.map_or("-".to_owned(), shown);
            let factor = theirs.and_then(|theirs| factor(figure, theirs));
            let factor = factor.map_or("-".to_owned(), |factor| format!("{factor:.1}"));
            let _ = write!(text, " {cell:>22} {factor:>8}");
        }
        text.push('\n');
    }
    text
}

fn shown(figure: &Figure) -> String {
    let digits = match figure.value.abs() {
        value if value < 100.0 => 2,
        value if value < 1000.0 => 1,
        _ => 0,
    };
    match figure.p95 {
        Some(p95) => format!("{:.digits$} ({p95:.digits$})", figure.value),
        None => format!("{:.digits$}", figure.value),
    }
}

/// How many times better ours is; none where a ratio says nothing.
fn factor(ours: &Figure, theirs: &Figure) -> Option<f64> {
    let (more, less) = if ours.unit == "MiB/s" { (ours, theirs) } else { (theirs, ours) };
    (more.value > 0.0 && less.value > 0.0).then(|| more.value / less.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(name: &str, unit: &str, value: f64, p95: Option<f64>) -> Figure {
        Figure { name: name.to_owned(), unit: unit.to_owned(), value, p95 }
    }

    #[test]
    fn factors_say_how_much_better_the_first_is() {
        let columns = [
            Column {
                title: "ours".to_owned(),
                figures: vec![
                    figure("start", "ms", 4.0, Some(5.0)),
                    figure("rate", "MiB/s", 600.0, None),
                    figure("growth", "KiB", -3.0, None),
                    figure("alone", "ms", 1.0, None),
                ],
            },
            Column {
                title: "theirs".to_owned(),
                figures: vec![
                    figure("start", "ms", 80.0, Some(90.0)),
                    figure("rate", "MiB/s", 200.0, None),
                    figure("growth", "KiB", 1200.0, None),
                ],
            },
        ];
        let table = table(&columns);
        let lines: Vec<Vec<&str>> =
            table.trim().lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["median", "(95th", "percentile)", "unit", "ours", "theirs", "factor"]);
        assert_eq!(lines[1], ["start", "ms", "4.00", "(5.00)", "80.00", "(90.00)", "20.0"]);
        assert_eq!(lines[2], ["rate", "MiB/s", "600.0", "200.0", "3.0"]);
        assert_eq!(lines[3], ["growth", "KiB", "-3.00", "1200", "-"]);
        assert_eq!(lines[4], ["alone", "ms", "1.00", "-", "-"]);
        assert_eq!(lines.len(), 5);
    }

    #[test]
    fn alone_there_is_no_factor() {
        let column = Column { title: "ours".to_owned(), figures: vec![figure("start", "ms", 4.0, None)] };
        let table = table(&[column]);
        assert!(!table.contains("factor") && table.contains("start"), "{table}");
    }
}
