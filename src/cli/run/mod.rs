//! `run`: one question, or a conversation. A node that is up on this home answers, so that no model
//! is in memory twice; without one, a node in this process does, and listens nowhere. Both print
//! through [`answer`].

use super::args::Run;
use super::client::Client;
use super::context::Context;
use super::interrupt::Interrupt;
use super::{models, term};
use crate::error::{Failure, Kind, Outcome};
use ask::{Ask, Options};
use here::Here;
use quorate_core::limits::BODY_BYTES_MAX;
use record::Target;
use serde_json::Value;
use speaker::{Speaker, Told};
use std::io::{IsTerminal, Read, Write};
use std::time::{Duration, Instant};
use there::There;

mod ask;
mod chat;
mod here;
mod record;
mod speaker;
mod there;

/// The model that is all of us.
const MESH: &str = "mesh";

pub(super) fn run(context: Context, args: &Run, started: Instant) -> Outcome {
    let options = Options::checked(&args.answer)?;
    let (model, words) = model_and_words(&context, args);
    let prompt = prompt(&model, &words)?;
    let target = args.record.as_deref().map(Target::checked).transpose()?;
    if prompt.is_none() && target.is_some() {
        return Err(Failure::new(
            Kind::Usage,
            "--record is for one question, not for a conversation",
        )
        .hint(format!(
            "quorate run {model} --record FILE \"Why is the sky blue?\""
        )));
    }
    let model = ensure_model(&context, &model)?;
    let interrupt = Interrupt::install()?;
    let history = context.home.history();
    let record = target.is_some();
    let mut speaker = speaker(context, &model, &interrupt, record)?;
    let Some(prompt) = prompt else {
        return chat::converse(
            &mut speaker,
            &interrupt,
            model,
            options,
            &history,
            args.verbose.into(),
        );
    };
    let ask = Ask {
        record,
        ..Ask::once(model, &options, prompt)
    };
    let told = answer(&mut speaker, &ask, &interrupt);
    if let Some(target) = target {
        keep(&target, &mut speaker)?;
    }
    let told = told?;
    if args.verbose {
        report(&told, started)?;
    }
    if told.interrupted {
        return Err(Failure::new(Kind::Interrupted, "the answer was stopped"));
    }
    Ok(())
}

/// Who is asked, and the words. Without a model the default one is; no name of a model has spaces in it,
/// so a text in its place is what is asked.
fn model_and_words(context: &Context, args: &Run) -> (String, String) {
    let default = context.settings.default_model.clone();
    match &args.model {
        None => (default, String::new()),
        Some(text) if text.contains(char::is_whitespace) && context.model_name(text).is_err() => {
            let words = [std::slice::from_ref(text), &args.prompt].concat();
            (default, words.join(" "))
        }
        Some(model) => (model.clone(), args.prompt.join(" ")),
    }
}

/// What was asked: words, a pipe, or both with the pipe after the words. None: a person will type.
fn prompt(model: &str, words: &str) -> Outcome<Option<String>> {
    let piped = if std::io::stdin().is_terminal() {
        String::new()
    } else {
        piped()?
    };
    match (words.trim().is_empty(), piped.trim().is_empty()) {
        (false, false) => Ok(Some(format!("{words}\n\n{piped}"))),
        (false, true) => Ok(Some(words.to_owned())),
        (true, false) => Ok(Some(piped)),
        (true, true) if std::io::stdin().is_terminal() && term::stdout_is_tty() => Ok(None),
        (true, true) => Err(Failure::new(
            Kind::Usage,
            "there is nothing to ask: no prompt, and the input is empty",
        )
        .hint(format!("quorate run {model} \"Why is the sky blue?\""))),
    }
}

/// Standard input, whole. More than a request may hold could not be asked anyway.
fn piped() -> Outcome<String> {
    let limit = BODY_BYTES_MAX as u64;
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .take(limit + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(Failure::new(
            Kind::Usage,
            format!("the input is longer than {limit} bytes"),
        )
        .hint("ask about a part of it"));
    }
    String::from_utf8(bytes).map_err(|_| {
        Failure::new(
            Kind::Usage,
            "the input is not text: it has bytes that are not UTF-8",
        )
    })
}

/// The model's one name, after pulling it if it is not here.
fn ensure_model(context: &Context, typed: &str) -> Outcome<String> {
    if typed == MESH {
        if context.home.running_node().is_none() {
            return Err(Failure::new(
                Kind::NotFound,
                "a mesh is asked through the node of this home, and none is up",
            )
            .hint("start it: quorate up"));
        }
        return Ok(typed.to_owned());
    }
    if context.settings.experts.iter().any(|e| e.name == typed) {
        return Ok(typed.to_owned()); // its model is the node's to find
    }
    let name = context.model_name(typed)?;
    if let Some(manifest) = context.store().installed(&name)? {
        return Ok(manifest.name);
    }
    models::pull_with_bar(context, &name)?;
    match context.store().installed(&name)? {
        Some(manifest) => Ok(manifest.name),
        None => Err(Failure::new(
            Kind::NotFound,
            format!("`{name}` is gone again"),
        )),
    }
}

fn speaker(context: Context, model: &str, interrupt: &Interrupt, record: bool) -> Outcome<Speaker> {
    if let Some(client) = Client::of_running_node(&context)? {
        return Ok(Speaker::There(There::new(client)));
    }
    let here = Here::start(&context, model, interrupt, record)?;
    Ok(Speaker::Here(Box::new(here)))
}

/// The recording of what was just answered, also where it failed half-way.
fn keep(target: &Target, speaker: &mut Speaker) -> Outcome {
    match speaker.recording() {
        Some(recording) => target.write(&recording?),
        None => Ok(writeln!(
            std::io::stderr(),
            "nothing is recorded: the answer did not come to an end"
        )?),
    }
}

/// Asks, and prints the answer as it comes.
fn answer(speaker: &mut Speaker, ask: &Ask, interrupt: &Interrupt) -> Outcome<Told> {
    let mut out = std::io::stdout().lock();
    let told = speaker.ask(ask, interrupt, &mut |text| {
        out.write_all(text.as_bytes())?;
        out.flush()?;
        Ok(())
    })?;
    if !told.text.ends_with('\n') {
        writeln!(out)?;
    }
    Ok(told)
}

/// `--verbose`, beside the answer.
fn report(told: &Told, started: Instant) -> Outcome {
    let mut err = std::io::stderr().lock();
    let mut row = |name: &str, value: String| writeln!(err, "{name:<15}{value}");
    let first = told
        .first_token_at
        .map(|at| seconds(at.saturating_duration_since(started)));
    writeln!(std::io::stderr())?;
    if let Some(load) = told.load {
        row("load", seconds(load))?;
    }
    if let Some(first) = first {
        row("first token", format!("{first} after the start"))?;
    }
    let read = told.prompt_tokens.saturating_sub(told.cached_tokens);
    row(
        "prompt",
        rate(
            read,
            told.prefill_us,
            &format!(" ({} cached)", told.cached_tokens),
        ),
    )?;
    row("answer", rate(told.completion_tokens, told.decode_us, ""))?;
    row("total", seconds(started.elapsed()))?;
    row("seed", told.seed.to_string())?;
    row("law", told.law.clone())?;
    let Some(mesh) = &told.mesh else {
        return row(
            "privacy",
            "local (the prompt stayed on this machine)".to_owned(),
        )
        .map_err(Failure::from);
    };
    for (name, value) in mesh_rows(mesh) {
        row(name, value)?;
    }
    row(
        "privacy",
        "mesh (the experts that were asked can read the prompt)".to_owned(),
    )?;
    Ok(())
}

/// What asking others cost, and what nobody else would have cost.
fn mesh_rows(mesh: &Value) -> Vec<(&'static str, String)> {
    let per_token = &mesh["per_token"];
    let number = |name: &str| per_token[name].as_f64().unwrap_or(0.0);
    let cost = format!(
        "{:.1} ms compute + {:.1} ms network, {:.0} B by {:.1} experts",
        number("compute_ms"),
        number("network_ms"),
        number("bytes"),
        number("experts")
    );
    let mut rows = vec![("an opinion", cost)];
    if let Some(guesses) = mesh["guesses"].as_object() {
        // What there was none of is not there: a map may not be asked by `[]`.
        let count = |name: &str| guesses.get(name).and_then(Value::as_u64).unwrap_or(0);
        let (right, wrong) = (count("right"), count("wrong"));
        let share = 100.0 * right as f64 / (right + wrong).max(1) as f64;
        let mut guessed = format!(
            "{} tokens ahead of their decision, {share:.0} % right",
            right + wrong
        );
        if let (branches @ 1.., hits) = (count("branches"), count("hits")) {
            guessed += &format!(
                "; {branches} second choices beside them, {hits} of {wrong} wrong guesses made good"
            );
        }
        rows.push(("guessed", guessed));
    }
    if let Some(solo) = per_token["solo_tokens_per_s"].as_f64() {
        rows.push(("solo", format!("would have been {solo:.1} tokens/s")));
    }
    if let Some(weights) = first_weights(mesh) {
        rows.push(("weights", weights));
    }
    rows.extend(reasons(&mesh["reasons"][0]));
    let changes = mesh["schedules"][0].as_array().map_or(0, Vec::len);
    let semantics = mesh["semantics"].as_str().unwrap_or("?");
    let sets = match changes {
        0 | 1 => "one set of experts throughout".to_owned(),
        n => format!("{n} sets of experts, one after another"),
    };
    rows.push(("experts", format!("{sets} (semantics {semantics})")));
    rows
}

/// How much each expert counts at first, where that was learned, or they do not count the same.
fn first_weights(mesh: &Value) -> Option<String> {
    let set = mesh["schedules"][0][0]["set"].as_array()?;
    let weight = |of: &Value| of["weight"].as_f64().unwrap_or(0.0);
    let one = set.first().map(weight)?;
    let is_equal = set.iter().all(|of| (weight(of) - one).abs() < 1e-9);
    if is_equal && mesh["reasons"][0].is_null() {
        return None;
    }
    let mut shown: Vec<(f64, &str)> = set
        .iter()
        .map(|of| (weight(of), of["expert"].as_str().unwrap_or("?")))
        .collect();
    shown.sort_by(|a, b| b.0.total_cmp(&a.0));
    let shown = shown.iter().map(|(weight, expert)| {
        let short = expert.get(..8).unwrap_or(expert);
        format!("{short} {weight:.2}")
    });
    let shown: Vec<String> = shown.collect();
    let how = match shown.len() {
        1 => "learned from the prompt: nobody else weighs enough to be asked",
        _ => "learned from the prompt",
    };
    Some(format!("{} ({how})", shown.join(", ")))
}

/// Why they count so much.
fn reasons(reasons: &Value) -> Vec<(&'static str, String)> {
    let (Some(experts), Some(strategies)) = (
        reasons["experts"].as_array(),
        reasons["strategies"].as_array(),
    ) else {
        return Vec::new();
    };
    let mut said: Vec<(f64, String)> = Vec::new();
    let mut silent = 0;
    for of in experts {
        let expert = of["expert"].as_str().unwrap_or("?");
        let short = expert.get(..8).unwrap_or(expert);
        match of["nats"].as_f64() {
            None => silent += 1,
            Some(nats) if of["counts"] == true => said.push((nats, format!("{short} {nats:.2}"))),
            Some(nats) => said.push((nats, format!("{short} {nats:.2} (not believed)"))),
        }
    }
    said.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut said: Vec<String> = said.into_iter().map(|(_, said)| said).collect();
    if silent > 0 {
        said.push(format!("{silent} said nothing"));
    }
    let followed = strategies.iter().filter_map(|of| {
        let share = of["share"].as_f64().filter(|share| *share >= 0.01)?;
        Some(format!("{} {share:.2}", of["strategy"].as_str()?))
    });
    let followed: Vec<String> = followed.collect();
    vec![
        (
            "because",
            format!("nats a token of the prompt: {}", said.join(", ")),
        ),
        ("by", followed.join(", ")),
    ]
}

fn seconds(duration: Duration) -> String {
    let ms = duration.as_millis();
    if ms < 1000 {
        format!("{ms} ms")
    } else {
        format!("{:.2} s", duration.as_secs_f64())
    }
}

fn rate(tokens: u64, us: u64, note: &str) -> String {
    let took = seconds(Duration::from_micros(us));
    // One token, or none, says nothing about a rate.
    if tokens < 2 || us == 0 {
        return format!("{tokens} tokens{note} in {took}");
    }
    let per_second = tokens as f64 * 1e6 / us as f64;
    format!("{tokens} tokens{note} in {took}, {per_second:.1} tokens/s")
}
