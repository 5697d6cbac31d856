//! What a person sees when something does not work: what happened, why, and the next command.
//! Library errors are `thiserror` enums near their operation; they become a `Failure` here.

use std::fmt;
use std::path::Path;

/// The kinds of failure, which are the exit codes. Scripts rely on them: README.md lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Something went wrong that has no code of its own; `doctor` found a failing check.
    Failed,
    /// The command line makes no sense. clap uses the same number.
    Usage,
    /// The configuration or the environment is refused.
    Config,
    /// No such model, or it is not installed.
    NotFound,
    /// Somebody else has it: the home directory, the port, all the slots.
    Taken,
    /// It does not fit into memory or onto the disk.
    TooLarge,
    /// It needs the network, which is off or does not answer.
    Network,
    /// The reader of our output went away. Not an error: `quorate list | head -1` is fine.
    BrokenPipe,
    /// Ctrl-C, by the shell's convention.
    Interrupted,
}

impl Kind {
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::BrokenPipe => 0,
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::Config => 3,
            Kind::NotFound => 4,
            Kind::Taken => 5,
            Kind::TooLarge => 6,
            Kind::Network => 7,
            Kind::Interrupted => 130,
        }
    }
}

#[derive(Debug)]
pub struct Failure {
    pub kind: Kind,
    pub message: String,
    /// What to do about it, usually a command.
    pub hint: Option<String>,
}

pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub fn new(kind: Kind, message: impl Into<String>) -> Failure {
        Failure {
            kind,
            message: message.into(),
            hint: None,
        }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// A file operation that failed, with its path and the likely remedy.
    pub fn file(doing: &str, path: &Path, error: &std::io::Error) -> Failure {
        use std::io::ErrorKind;
        let message = format!("cannot {doing} {}: {error}", path.display());
        let kind = match error.kind() {
            ErrorKind::BrokenPipe => Kind::BrokenPipe,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Kind::TooLarge,
            _ => Kind::Config,
        };
        let failure = Failure::new(kind, message);
        match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => failure.hint(
                "give this user the right to write there, or choose another place: \
                 export QUORATE_HOME=/some/writable/directory",
            ),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => failure
                .hint("free some space: `quorate list` shows models, `quorate rm` removes one"),
            ErrorKind::NotADirectory | ErrorKind::AlreadyExists => failure.hint(
                "something that is not a directory is in the way: move it, or set QUORATE_HOME",
            ),
            _ => failure,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// Writing to our own output: only a reader that left is no error.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        let kind = match error.kind() {
            std::io::ErrorKind::BrokenPipe => Kind::BrokenPipe,
            std::io::ErrorKind::Interrupted => Kind::Interrupted,
            _ => Kind::Failed,
        };
        Failure::new(kind, error.to_string())
    }
}

/// The name in `known` that was probably meant, if one is near.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A third of the letters may be wrong; more and the guess is noise.
    let allowed = (typed.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|name| (edits(typed, name), name))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, name)| name)
}

/// Insertions, deletions, replacements and swaps of neighbours between two words.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let keys = ["listen", "threads", "max_memory"];
        assert_eq!(nearest("lisetn", keys), Some("listen"));
        assert_eq!(nearest("max-memory", keys), Some("max_memory"));
        assert_eq!(nearest("colour", keys), None);
    }

    #[test]
    fn a_full_disk_and_a_closed_door_say_what_to_do() {
        let path = Path::new("/home/ada/.local/share/quorate");
        let full = Failure::file("write", path, &std::io::ErrorKind::StorageFull.into());
        assert_eq!(full.kind, Kind::TooLarge);
        assert!(full.hint.unwrap().contains("quorate rm"));
        let closed = Failure::file("create", path, &std::io::ErrorKind::PermissionDenied.into());
        assert!(closed.hint.unwrap().contains("QUORATE_HOME"));
    }
}
