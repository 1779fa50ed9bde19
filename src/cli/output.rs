//! Standard output and the end of a command.

use std::fmt;
use std::io::{self, BufWriter, Stdout, Write};
use std::process::ExitCode;

use thiserror::Error;

use crate::client::ClientError;

/// Why a command failed, in words for whoever typed it.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// What to print.
    #[error("{0}")]
    Message(String),
    /// The reader of standard output is gone: nothing to print to nobody.
    #[error("standard output is closed")]
    OutputClosed,
    /// It was told in full already.
    #[error("it was told already")]
    Told,
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self::Message(message)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Message(error.to_string())
    }
}

impl From<io::Error> for Failure {
    /// Of writing to standard output.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Message(format!("cannot write to standard output: {error}")),
        }
    }
}

/// Ends a command: prints what went wrong and gives the exit code.
pub(crate) fn finish(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) | Err(Failure::OutputClosed) => ExitCode::SUCCESS,
        Err(Failure::Told) => ExitCode::FAILURE,
        Err(Failure::Message(message)) => {
            complain(format_args!("{message}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints a line to standard error. Nobody can be told if that fails.
pub(crate) fn complain(message: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "ottla: {message}");
}

/// Buffered standard output.
pub(crate) fn stdout() -> BufWriter<Stdout> {
    BufWriter::with_capacity(64 << 10, io::stdout())
}

/// A table as Kafka's tools print it: columns, no lines.
pub(crate) fn table(headers: &[&str]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING).set_content_arrangement(comfy_table::ContentArrangement::Disabled);
    table.set_header(headers.iter().copied());
    table
}

/// Writes a table without the spaces at the ends of its lines.
pub(crate) fn write_table(out: &mut impl Write, table: &comfy_table::Table) -> io::Result<()> {
    // The preset keeps one space at the left of each column.
    table.lines().try_for_each(|line| writeln!(out, "{}", line.trim_end().strip_prefix(' ').unwrap_or(&line).trim_end()))
}

/// Bytes as text for people: UTF-8 as it is, control characters and other bytes escaped.
pub(crate) fn readable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_made_readable() {
        assert_eq!(readable("a\tß\n".as_bytes()), "a\\tß\\n");
        assert_eq!(readable(b"\xff\x00a"), "\\xff\\u{0}a");
    }

    #[test]
    fn tables_have_no_trailing_space() {
        let mut table = table(&["A", "LONGER"]);
        table.add_row(["xyz", ""]);
        let mut out = Vec::new();
        write_table(&mut out, &table).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "A    LONGER\nxyz\n");
    }
}
