//! Tasks whose answers can be checked: a file of `[[task]]` tables.

use crate::eval::{EvalError, Result};
use quorate_core::limits::{
    EVAL_ANSWER_TOKENS_MAX, EVAL_TASKS_BYTES_MAX, EVAL_TASKS_MAX, STOP_STRING_BYTES_MAX,
    STOP_STRINGS_MAX,
};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Tokens of an answer, where the task does not say.
const TOKENS: u32 = 64;
/// What a program may take to look at an answer.
const PROGRAM_TIME: Duration = Duration::from_secs(120);
const PROGRAM_LOOK: Duration = Duration::from_millis(10);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    task: Vec<RawTask>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTask {
    name: String,
    domain: String,
    prompt: String,
    tokens: Option<u32>,
    #[serde(default)]
    stop: Vec<String>,
    answer: Option<String>,
    number: Option<f64>,
    program: Option<Vec<String>>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Task {
    pub(super) name: String,
    pub(super) domain: String,
    pub(super) prompt: String,
    pub(super) tokens: u32,
    pub(super) stop: Vec<String>,
    pub(super) check: Check,
}

/// When an answer is right.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Check {
    /// It is this text, spaces around it aside.
    Answer(String),
    /// The last number in it is this one.
    Number(f64),
    /// This program, which reads `{"prompt", "answer"}` in JSON, ends with 0.
    Program(Vec<String>),
}

pub(super) struct Tasks {
    /// Programs run here.
    folder: PathBuf,
    pub(super) all: Vec<Task>,
}

impl Tasks {
    pub(super) fn read(path: &Path) -> Result<Tasks> {
        let unreadable = |why: String| EvalError::Read {
            path: path.to_owned(),
            why,
        };
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| {
                file.take(EVAL_TASKS_BYTES_MAX + 1)
                    .read_to_string(&mut text)
            })
            .map_err(|error| unreadable(error.to_string()))?;
        if text.len() as u64 > EVAL_TASKS_BYTES_MAX {
            return Err(unreadable(format!(
                "more than {EVAL_TASKS_BYTES_MAX} bytes"
            )));
        }
        let file: RawFile = toml::from_str(&text).map_err(|error| unreadable(error.to_string()))?;
        let whole = std::path::absolute(path).map_err(|error| unreadable(error.to_string()))?;
        let folder = whole.parent().unwrap_or(Path::new("/")).to_owned();
        let all = checked(file.task).map_err(unreadable)?;
        Ok(Tasks { folder, all })
    }

    pub(super) fn need_programs(&self) -> bool {
        let runs = |task: &Task| matches!(task.check, Check::Program(_));
        self.all.iter().any(runs)
    }

    pub(super) fn is_right(&self, task: &Task, answer: &str) -> Result<bool> {
        match &task.check {
            Check::Answer(expected) => Ok(answer.trim() == expected.trim()),
            Check::Number(expected) => {
                let near = |number: f64| (number - expected).abs() <= 1e-9 * expected.abs();
                Ok(last_number(answer).is_some_and(near))
            }
            Check::Program(argv) => {
                let both = serde_json::json!({"prompt": task.prompt, "answer": answer});
                let says_yes = self.run(argv, &both.to_string());
                says_yes.map_err(|error| {
                    EvalError::Panel(format!("task {}: {}: {error}", task.name, argv[0]))
                })
            }
        }
    }

    /// A program that takes too long says no.
    fn run(&self, argv: &[String], input: &str) -> std::io::Result<bool> {
        let mut child = Command::new(&argv[0])
            .args(&argv[1..])
            .current_dir(&self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not want to read it all may still know its answer.
            stdin.write_all(input.as_bytes()).ok();
        }
        let begun = Instant::now();
        while begun.elapsed() < PROGRAM_TIME {
            if let Some(status) = child.try_wait()? {
                return Ok(status.success());
            }
            std::thread::sleep(PROGRAM_LOOK);
        }
        child.kill()?;
        child.wait()?;
        Ok(false)
    }
}

fn checked(raw: Vec<RawTask>) -> std::result::Result<Vec<Task>, String> {
    if raw.is_empty() || raw.len() > EVAL_TASKS_MAX {
        return Err(format!("a file has 1 to {EVAL_TASKS_MAX} [[task]] tables"));
    }
    let mut names = BTreeSet::new();
    let mut all = Vec::new();
    for raw in raw {
        let of = |why: &str| format!("task '{}': {why}", raw.name);
        if !names.insert(raw.name.clone()) {
            return Err(of("there are two of this name"));
        }
        let tokens = raw.tokens.unwrap_or(TOKENS);
        if !(1..=EVAL_ANSWER_TOKENS_MAX).contains(&tokens) {
            return Err(of(&format!("tokens are 1 to {EVAL_ANSWER_TOKENS_MAX}")));
        }
        let is_short = |stop: &String| (1..=STOP_STRING_BYTES_MAX).contains(&stop.len());
        if raw.stop.len() > STOP_STRINGS_MAX || !raw.stop.iter().all(is_short) {
            return Err(of(
                "too many stop strings, or one that is empty or too long",
            ));
        }
        let check = match (&raw.answer, raw.number, &raw.program) {
            (Some(answer), None, None) => Check::Answer(answer.clone()),
            (None, Some(number), None) if number.is_finite() => Check::Number(number),
            (None, None, Some(argv)) if !argv.is_empty() => Check::Program(argv.clone()),
            _ => return Err(of("it has one of answer, number and program")),
        };
        all.push(Task {
            name: raw.name,
            domain: raw.domain,
            prompt: raw.prompt,
            tokens,
            stop: raw.stop,
            check,
        });
    }
    Ok(all)
}

/// Digits with a point between them at most, and a minus before them that is none between two.
fn last_number(text: &str) -> Option<f64> {
    let is_part = |c: char| c.is_ascii_digit() || c == '.';
    let end = text.rfind(|c: char| c.is_ascii_digit())? + 1;
    let from = text[..end].rfind(|c: char| !is_part(c));
    let from = from.map_or(0, |at| {
        at + text[at..].chars().next().map_or(1, char::len_utf8)
    });
    let digits = text[from..end].trim_start_matches('.');
    let number: f64 = digits.parse().ok()?;
    let before = &text[..end - digits.len()];
    let is_negative = before.strip_suffix('-').is_some_and(|before| {
        !before
            .trim_end()
            .ends_with(|c: char| c.is_alphanumeric() || c == ')')
    });
    Some(if is_negative { -number } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> std::result::Result<Vec<Task>, String> {
        let file: RawFile = toml::from_str(text).map_err(|error| error.to_string())?;
        checked(file.task)
    }

    #[test]
    fn a_file_is_read_and_its_mistakes_are_named() {
        let head = "[[task]]\nname = \"a\"\ndomain = \"sums\"\nprompt = \"1+1=\"\n";
        let one = read(&format!("{head}number = 2\n")).unwrap();
        assert_eq!(
            (one[0].tokens, &one[0].check),
            (TOKENS, &Check::Number(2.0))
        );
        let wrong = [
            ("", "1 to"),
            (head, "one of answer"),
            (
                &format!("{head}answer = \"2\"\nnumber = 2\n"),
                "one of answer",
            ),
            (&format!("{head}number = nan\n"), "one of answer"),
            (&format!("{head}program = []\n"), "one of answer"),
            (&format!("{head}number = 2\ntokens = 0\n"), "tokens are"),
            (&format!("{head}number = 2\nstop = [\"\"]\n"), "stop"),
            (
                &format!("{head}number = 2\n{head}number = 2\n"),
                "two of this name",
            ),
            (&format!("{head}numbre = 2\n"), "numbre"),
        ];
        for (text, why) in wrong {
            let said = read(text).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
    }

    #[test]
    fn the_last_number_counts() {
        let numbers = [
            ("It comes to 42.", Some(42.0)),
            ("6 times 7 is 42.50 euros", Some(42.5)),
            ("x = -3", Some(-3.0)),
            ("10-3", Some(3.0)),
            ("10 - 3", Some(3.0)),
            ("(a) -3", Some(3.0)),
            ("é7", Some(7.0)),
            ("none", None),
            ("", None),
        ];
        for (text, number) in numbers {
            assert_eq!(last_number(text), number, "{text}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn programs_judge_by_how_they_end() {
        let tasks = Tasks {
            folder: std::env::temp_dir(),
            all: Vec::new(),
        };
        let shell = |script: &str| {
            let argv = ["sh", "-c", script].map(String::from);
            tasks.run(&argv, "{\"answer\": \"blue\"}")
        };
        assert!(shell("grep -q blue").unwrap());
        assert!(!shell("grep -q red").unwrap());
        assert!(shell("exit 0").unwrap());
        assert!(tasks.run(&["no such program".into()], "").is_err());
    }
}
