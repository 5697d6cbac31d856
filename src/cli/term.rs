//! The terminal: tables, colours, questions. Escape codes only where a person looks.

use crate::error::{Failure, Kind, Outcome};
use crate::obs::no_colour_unset;
use std::io::{self, BufRead, IsTerminal, Write};

/// An answer to a yes-no question.
const ANSWER_BYTES_MAX: u64 = 64;

pub(super) fn stdout_is_tty() -> bool {
    io::stdout().is_terminal()
}

/// Colour for standard output?
pub(super) fn stdout_colour() -> bool {
    stdout_is_tty()
        && no_colour_unset()
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Grey, for what is said beside the answer.
pub(super) fn dim(text: &str, colour: bool) -> String {
    if colour {
        format!("\x1b[2m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// One line to standard output; a reader that left is `Kind::BrokenPipe`.
pub(super) fn line(text: impl AsRef<str>) -> Outcome {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", text.as_ref())?;
    Ok(())
}

pub(super) fn json(value: &impl serde::Serialize) -> Outcome {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(Kind::Failed, format!("cannot write JSON: {error}")))?;
    line(text)
}

/// One object on one line, as scripts read streams.
pub(super) fn ndjson(value: &impl serde::Serialize) -> Outcome {
    let text = serde_json::to_string(value)
        .map_err(|error| Failure::new(Kind::Failed, format!("cannot write JSON: {error}")))?;
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}

/// Columns as wide as their widest cell, four spaces between, as Ollama prints them.
pub(super) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> Outcome {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells
            .chain([head[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut out = io::stdout().lock();
    let mut print = |cells: [&str; N]| {
        let padded: Vec<String> = cells
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        writeln!(out, "{}", padded.join("    ").trim_end())
    };
    print(head)?;
    for row in rows {
        print(std::array::from_fn(|column| row[column].as_str()))?;
    }
    Ok(())
}

/// Asks a person; where there is none, the answer is the error's hint.
pub(super) fn confirm(question: &str, flag: &str) -> Outcome<bool> {
    if !io::stdin().is_terminal() {
        return Err(
            Failure::new(Kind::Usage, format!("nobody is here to answer: {question}"))
                .hint(format!("add {flag} to do it without a question")),
        );
    }
    let mut err = io::stderr().lock();
    write!(err, "{question} [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    io::Read::take(io::stdin().lock(), ANSWER_BYTES_MAX).read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// "3 minutes ago", as in `list`.
pub(super) fn ago(then_unix_s: u64, now_unix_s: u64) -> String {
    let seconds = now_unix_s.saturating_sub(then_unix_s);
    match seconds {
        0..60 => "just now".to_owned(),
        _ => format!("{} ago", span(seconds)),
    }
}

/// The largest unit that fits: "4 minutes".
pub(super) fn span(seconds: u64) -> String {
    let (number, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        86_400..604_800 => (seconds / 86_400, "day"),
        604_800..2_592_000 => (seconds / 604_800, "week"),
        2_592_000..31_536_000 => (seconds / 2_592_000, "month"),
        _ => (seconds / 31_536_000, "year"),
    };
    format!("{number} {unit}{}", if number == 1 { "" } else { "s" })
}

pub(super) fn now_unix_s() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_like_speech() {
        for (seconds, text) in [
            (1, "1 second"),
            (119, "1 minute"),
            (7_200, "2 hours"),
            (864_000, "1 week"),
        ] {
            assert_eq!(span(seconds), text);
        }
        assert_eq!(ago(100, 90), "just now", "a clock that went back");
    }
}
