//! Writing to the terminal: results to stdout, which must arrive; notes to stderr, which may not; columns.
//!
//! The one idea: a result that cannot be written is an error with a code, and a note that cannot be written ends nothing.

use std::io::{ErrorKind, Write};

/// Exit code of a result that could not be written: that of files.
const UNWRITTEN: i32 = 3;

/// Characters of the narrowest line that is written for.
const NARROW: usize = 80;

/// Writes to stdout as it is. When the reader is gone (`haggle config | head`) the process ends quietly; when nothing can be
/// written (a full disk) it says so and ends with a code.
pub fn print(text: &str) {
    print_bytes(text.as_bytes());
}

/// The same for what need not be UTF-8: a path alone.
pub fn print_bytes(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(e) => {
            note(&format!("haggle: stdout: cannot be written: {e}; free space, or send it elsewhere"));
            std::process::exit(UNWRITTEN);
        }
    }
}

/// Writes a line to stderr, if anything takes it: a run never ends because nobody listens.
pub fn note(line: &str) {
    let _ = std::io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}

/// Writes what should be known of the input to stderr, a line each.
pub fn known<'a>(lines: impl IntoIterator<Item = &'a String>) {
    lines.into_iter().for_each(|line| note(&format!("haggle: {}", plain(line))));
}

/// A text of others as a terminal may show it: what would move the cursor or set the title is spelled out.
pub fn plain(text: &str) -> String {
    let spelled = |c: char| if c.is_control() && c != '\n' { c.escape_default().to_string() } else { c.into() };
    text.chars().map(spelled).collect()
}

/// Writes a line to stdout.
pub fn line(text: &str) {
    print(&format!("{text}\n"));
}

/// Rows as aligned columns: the first to the left, the rest to the right. The first row is the head.
pub fn columns(rows: &[Vec<String>]) -> String {
    let n = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|row| row.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..n).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (c, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[c] - cell.chars().count());
            line += &if c == 0 { format!("{cell}{pad}") } else { format!("  {pad}{cell}") };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// The same, cut into parts below each other where the columns are wider than `width`; each part begins with the first column.
pub fn fitted(rows: &[Vec<String>], width: usize) -> String {
    let n = rows.iter().map(Vec::len).max().unwrap_or(0);
    let part = |from: usize, to: usize| -> String {
        let of = |row: &Vec<String>| {
            let own = from.min(row.len())..to.min(row.len());
            row.iter().take(1).chain(&row[own]).cloned().collect()
        };
        columns(&rows.iter().map(of).collect::<Vec<_>>())
    };
    let (mut text, mut from) = (String::new(), 1);
    while from < n {
        let fits = |to: &usize| part(from, *to).lines().all(|line| line.chars().count() <= width);
        let to = (from + 1..=n).rev().find(fits).unwrap_or(from + 1);
        text += &part(from, to);
        from = to;
    }
    text
}

/// Characters of a line of what the results go to: those of a terminal, 80 at least; 80 of anything else.
pub fn width() -> usize {
    width_of(terminal_size::terminal_size_of(std::io::stdout()))
}

/// The same of what the notes go to.
pub fn note_width() -> usize {
    width_of(terminal_size::terminal_size_of(std::io::stderr()))
}

fn width_of(size: Option<(terminal_size::Width, terminal_size::Height)>) -> usize {
    size.map_or(NARROW, |(width, _)| usize::from(width.0)).max(NARROW)
}

/// Names and what they are, aligned.
pub fn pairs(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    rows.iter().map(|(name, what)| format!("{name:width$}  {what}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_spelled_out() {
        assert_eq!(
            plain("a\u{1b}]0;title\u{7} \u{9b}2J caf\u{e9}\nb\r"),
            "a\\u{1b}]0;title\\u{7} \\u{9b}2J caf\u{e9}\nb\\r"
        );
    }

    #[test]
    fn columns_align_by_characters() {
        let rows = [vec!["a".into(), "±1".into()], vec!["long".into(), "12345".into()]];
        assert_eq!(columns(&rows), "a        ±1\nlong  12345\n");
    }
}
