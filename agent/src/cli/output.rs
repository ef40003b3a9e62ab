//! What goes to stdout.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

/// Prints a text. A reader that has gone (`holdfast config | head -1`) is no error.
pub fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Rows in columns of equal width, but for the last one.
pub fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    rows.iter().fold(String::new(), |mut text, row| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}  "));
        let line: String = cells.collect();
        let _ = writeln!(text, "{}", line.trim_end());
        text
    })
}
