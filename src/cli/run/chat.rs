//! A conversation at the terminal: history, several lines between `"""`, commands with a slash.

use super::ask::{Ask, Options, message};
use super::speaker::{Speaker, Told};
use super::{answer, report};
use crate::cli::interrupt::Interrupt;
use crate::cli::term;
use crate::error::{Failure, Kind, Outcome};
use quorate_core::chat::{Message, Role};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Instant;

const FENCE: &str = "\"\"\"";
const HELP: &str = "\
  /set NAME VALUE   temperature, top_p, top_k, min_p, repeat_penalty, seed, max_tokens, stop,
                    format (json, FILE or none), verbose (on or off); `default` undoes a setting
  /system TEXT      instructions that come before the conversation; without TEXT: none
  /show             settings, and what answers
  /clear            forget the conversation
  /save FILE        write the conversation to a file
  /bye              leave (so does Ctrl-D)
  \"\"\"               begins and ends a text of several lines
  Ctrl-C            stops the answer, not the program";

/// Is `--verbose` on?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verbose {
    On,
    Off,
}

impl From<bool> for Verbose {
    fn from(on: bool) -> Verbose {
        if on { Verbose::On } else { Verbose::Off }
    }
}

struct Chat<'a> {
    speaker: &'a mut Speaker,
    interrupt: &'a Interrupt,
    model: String,
    options: Options,
    messages: Vec<Message>,
    verbose: Verbose,
}

pub(super) fn converse(
    speaker: &mut Speaker,
    interrupt: &Interrupt,
    model: String,
    options: Options,
    history: &Path,
    verbose: Verbose,
) -> Outcome {
    let mut chat = Chat {
        speaker,
        interrupt,
        model,
        options,
        messages: Vec::new(),
        verbose,
    };
    let mut editor = editor(history)?;
    let colour = term::stdout_colour();
    let greeting = format!(
        "{} here, local: the prompt stays on this machine. /help for help, /bye to leave.",
        chat.model
    );
    term::line(term::dim(&greeting, colour))?;
    while let Some(text) = read(&mut editor)? {
        let ended = match Line::parse(&text) {
            Line::Empty => Ok(Next::Stay),
            Line::Command { name, rest } => chat.command(name, rest),
            Line::Say(text) => chat.say(text).map(|()| Next::Stay),
        };
        match ended {
            Ok(Next::Stay) => {}
            Ok(Next::Leave) => break,
            Err(failure) if failure.kind == Kind::BrokenPipe => return Err(failure),
            // Whatever went wrong, the conversation is worth keeping.
            Err(failure) => eprintln!("error: {failure}"),
        }
    }
    save_history(&mut editor, history);
    Ok(())
}

enum Next {
    Stay,
    Leave,
}

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Empty,
    Command { name: &'a str, rest: &'a str },
    Say(&'a str),
}

impl Line<'_> {
    fn parse(text: &str) -> Line<'_> {
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Line::Empty;
        }
        match trimmed.strip_prefix('/') {
            // A path or two slashes is something to say.
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '?') => {
                let (name, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
                if name.contains('/') {
                    Line::Say(trimmed)
                } else {
                    Line::Command {
                        name,
                        rest: rest.trim(),
                    }
                }
            }
            _ => Line::Say(trimmed),
        }
    }
}

impl Chat<'_> {
    fn say(&mut self, text: &str) -> Outcome {
        let started = Instant::now();
        let mut messages = Vec::new();
        if let Some(system) = &self.options.flags.system {
            messages.push(message(Role::System, system.clone()));
        }
        messages.extend(self.messages.iter().cloned());
        messages.push(message(Role::User, text.to_owned()));
        let ask = Ask {
            model: self.model.clone(),
            messages,
            options: self.options.clone(),
            record: false,
        };
        let told: Told = answer(self.speaker, &ask, self.interrupt)?;
        if self.verbose == Verbose::On {
            report(&told, started)?;
        }
        if told.cut {
            eprintln!("(cut: max_tokens or the context is reached; /clear begins anew)");
        }
        // What was interrupted counts too: the next question may be about it.
        self.messages.push(message(Role::User, text.to_owned()));
        self.messages.push(message(Role::Assistant, told.text));
        Ok(())
    }

    fn command(&mut self, name: &str, rest: &str) -> Outcome<Next> {
        match name {
            "bye" | "exit" | "quit" => return Ok(Next::Leave),
            "help" | "?" => term::line(HELP)?,
            "clear" => {
                self.messages.clear();
                term::line("forgotten")?;
            }
            "system" => self.options.flags.system = (!rest.is_empty()).then(|| rest.to_owned()),
            "show" => self.show()?,
            "save" => self.save(rest)?,
            "set" => {
                let (name, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
                self.set(name, value.trim())?;
            }
            _ => {
                return Err(
                    Failure::new(Kind::Usage, format!("there is no command /{name}"))
                        .hint("/help shows them; begin with a space to say it instead"),
                );
            }
        }
        Ok(Next::Stay)
    }

    fn set(&mut self, name: &str, value: &str) -> Outcome {
        let mut flags = self.options.flags.clone();
        match name {
            "temperature" => flags.temperature = number(name, value)?,
            "top_p" => flags.top_p = number(name, value)?,
            "top_k" => flags.top_k = number(name, value)?,
            "min_p" => flags.min_p = number(name, value)?,
            "repeat_penalty" => flags.repeat_penalty = number(name, value)?,
            "seed" => flags.seed = number(name, value)?,
            "max_tokens" => flags.max_tokens = number(name, value)?,
            "stop" => {
                flags.stop = Some(value)
                    .filter(|v| !matches!(*v, "" | "default"))
                    .map(str::to_owned)
                    .into_iter()
                    .collect()
            }
            "format" => {
                flags.format = Some(value)
                    .filter(|v| !matches!(*v, "" | "none" | "default"))
                    .map(str::to_owned)
            }
            "verbose" => {
                self.verbose = (value != "off").into();
                return Ok(());
            }
            _ => {
                return Err(
                    Failure::new(Kind::Usage, format!("there is no setting '{name}'"))
                        .hint("/help shows the settings"),
                );
            }
        }
        self.options = Options::checked(&flags)?;
        Ok(())
    }

    fn show(&self) -> Outcome {
        let flags = &self.options.flags;
        let text = |value: Option<String>| value.unwrap_or_else(|| "default".to_owned());
        for (name, value) in [
            ("model", self.model.clone()),
            ("answers", format!("{}; local", self.speaker.place())),
            ("messages", self.messages.len().to_string()),
            ("system", text(flags.system.clone())),
            (
                "temperature",
                text(flags.temperature.map(|v| v.to_string())),
            ),
            ("top_p", text(flags.top_p.map(|v| v.to_string()))),
            ("top_k", text(flags.top_k.map(|v| v.to_string()))),
            ("min_p", text(flags.min_p.map(|v| v.to_string()))),
            (
                "repeat_penalty",
                text(flags.repeat_penalty.map(|v| v.to_string())),
            ),
            ("seed", text(flags.seed.map(|v| v.to_string()))),
            ("max_tokens", text(flags.max_tokens.map(|v| v.to_string()))),
            ("stop", text(flags.stop.first().cloned())),
            ("format", text(flags.format.clone())),
        ] {
            term::line(format!("  {name:<16}{value}"))?;
        }
        Ok(())
    }

    fn save(&self, path: &str) -> Outcome {
        if path.is_empty() {
            return Err(Failure::new(Kind::Usage, "/save needs the name of a file"));
        }
        let mut text = String::new();
        for message in &self.messages {
            let who = if message.role == Role::User {
                "You"
            } else {
                &self.model
            };
            text += &format!("## {who}\n\n{}\n\n", message.content.trim());
        }
        let path = crate::cli::context::expand_home(&PathBuf::from(path));
        let mut options = std::fs::OpenOptions::new();
        // Never over something that is there already.
        options
            .write(true)
            .create_new(true)
            .open(&path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
            .map_err(|error| Failure::file("write", &path, &error))?;
        term::line(format!("saved to {}", path.display()))
    }
}

fn number<T: FromStr>(name: &str, value: &str) -> Outcome<Option<T>> {
    if matches!(value, "default" | "none") {
        return Ok(None);
    }
    value.parse().map(Some).map_err(|_| {
        Failure::new(Kind::Usage, format!("{name} takes a number, not '{value}'"))
            .hint(format!("/set {name} default undoes it"))
    })
}

type Editor = rustyline::Editor<(), FileHistory>;

fn editor(history: &Path) -> Outcome<Editor> {
    let mut editor = Editor::new().map_err(|error| {
        Failure::new(
            Kind::Failed,
            format!("cannot read from the terminal: {error}"),
        )
    })?;
    // The first conversation has no history, and none is worth a message.
    editor.load_history(history).ok();
    Ok(editor)
}

fn save_history(editor: &mut Editor, path: &Path) {
    let made = path
        .parent()
        .is_none_or(|dir| crate::home::create_private_dir(dir).is_ok());
    if !made || editor.save_history(path).is_err() {
        tracing::warn!(target: "quorate::cli", path = %path.display(), "the line history is not kept");
    }
}

/// One input, of several lines where `"""` opens it. None: the person leaves.
fn read(editor: &mut Editor) -> Outcome<Option<String>> {
    loop {
        match read_line(editor, ">>> ")? {
            Typed::End => return Ok(None),
            Typed::Interrupt => term::line("(/bye or Ctrl-D leaves)")?,
            Typed::Line(line) => match line.trim_start().strip_prefix(FENCE) {
                None => return Ok(Some(line)),
                Some(opened) => match read_fenced(editor, opened)? {
                    Some(text) => return Ok(Some(text)),
                    None => term::line("(forgotten)")?,
                },
            },
        }
    }
}

/// What follows `"""`, up to the next one. None: the person thought better of it.
fn read_fenced(editor: &mut Editor, opened: &str) -> Outcome<Option<String>> {
    let mut text = opened.to_owned();
    while !text.trim_end().ends_with(FENCE) {
        let Typed::Line(line) = read_line(editor, "... ")? else {
            return Ok(None);
        };
        text.push('\n');
        text += &line;
    }
    let end = text.trim_end().len() - FENCE.len();
    text.truncate(end);
    Ok(Some(text))
}

enum Typed {
    Line(String),
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D, or the terminal is gone.
    End,
}

fn read_line(editor: &mut Editor, prompt: &str) -> Outcome<Typed> {
    match editor.readline(prompt) {
        Ok(line) => {
            // Whether it was kept decides nothing.
            editor.add_history_entry(line.as_str()).ok();
            Ok(Typed::Line(line))
        }
        Err(ReadlineError::Interrupted) => Ok(Typed::Interrupt),
        Err(ReadlineError::Eof) => Ok(Typed::End),
        Err(error) => Err(Failure::new(
            Kind::Failed,
            format!("cannot read from the terminal: {error}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_paths() {
        assert_eq!(
            Line::parse("/set seed 7"),
            Line::Command {
                name: "set",
                rest: "seed 7"
            }
        );
        assert_eq!(
            Line::parse("/?"),
            Line::Command {
                name: "?",
                rest: ""
            }
        );
        assert_eq!(
            Line::parse("/etc/passwd holds what?"),
            Line::Say("/etc/passwd holds what?")
        );
        assert_eq!(Line::parse("// is a comment"), Line::Say("// is a comment"));
        assert_eq!(Line::parse("  "), Line::Empty);
    }

    #[test]
    fn numbers_say_what_they_are_not() {
        assert_eq!(number::<u64>("seed", "7").unwrap(), Some(7));
        assert_eq!(number::<u64>("seed", "default").unwrap(), None);
        assert!(
            number::<u64>("seed", "lots")
                .unwrap_err()
                .message
                .contains("'lots'")
        );
    }
}
