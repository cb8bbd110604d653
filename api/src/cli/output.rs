//! Where results go: the one place of the command line that writes to standard output.
//!
//! Results go to standard output, as text for people or as JSON for programs; logs, progress and errors go to
//! standard error. A reader that goes away (`annals export --output - | head`) ends the command without a word.

use std::fmt::Display;
use std::io::{self, Write};

use serde::Serialize;

/// Results of one command.
pub(super) struct Output {
    writer: Box<dyn Write + Send>,
    json: bool,
}

impl Output {
    /// Standard output; `json` decides which of its two forms [`Output::result`] takes.
    pub(super) fn stdout(json: bool) -> Self {
        Self {
            writer: Box::new(io::stdout()),
            json,
        }
    }

    /// Whether results are JSON.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// One result: `value` as one line of JSON, or what `text` writes.
    ///
    /// # Errors
    /// What writing gives.
    pub(super) fn result(
        &mut self,
        value: &impl Serialize,
        text: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.json {
            serde_json::to_writer(&mut self.writer, value)?;
            writeln!(self.writer)?;
        } else {
            text(&mut self.writer)?;
        }
        self.writer.flush()
    }

    /// The writer itself, for results that are a stream of bytes.
    pub(super) fn bytes(&mut self) -> &mut (dyn Write + Send) {
        &mut self.writer
    }
}

/// Says something to the person at the terminal, beside the results. A standard error that is gone is no reason to stop.
pub(super) fn note(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Rows of equal length as aligned columns, two blanks between them; the first row is the heading.
pub(super) fn table(writer: &mut dyn Write, rows: &[Vec<String>]) -> io::Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width + 2 - cell.chars().count()));
        }
        writeln!(writer, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_do_not_end_in_blanks() {
        let mut written = Vec::new();
        let rows = [["name", "position"], ["users", "12"], ["contents", "3"]];
        table(&mut written, &rows.map(|row| row.map(str::to_owned).to_vec())).expect("memory");
        let text = String::from_utf8(written).expect("text");
        assert_eq!(text, "name      position\nusers     12\ncontents  3\n");
    }
}
