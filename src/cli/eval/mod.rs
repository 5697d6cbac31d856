//! `eval`: the experts of a list, or of the settings, on a folder of texts.

pub(super) mod args;

use super::context::Context;
use crate::error::{Failure, Kind, Outcome};
use args::{Eval, EvalText};

#[cfg(not(feature = "llama"))]
pub(super) fn eval(_: &Context, _: &Eval) -> Outcome {
    nobody()
}

#[cfg(not(feature = "llama"))]
pub(super) fn eval_text(_: &Context, _: &EvalText) -> Outcome {
    nobody()
}

#[cfg(not(feature = "llama"))]
fn nobody() -> Outcome {
    Err(Failure::new(
        Kind::Failed,
        "this quorate was built without llama.cpp, so there is nobody to evaluate",
    ))
}

#[cfg(feature = "llama")]
pub(super) use with_llama::{eval, eval_text};

#[cfg(feature = "llama")]
mod with_llama {
    use super::{Context, Eval, EvalText, Failure, Kind, Outcome};
    use crate::app::App;
    use crate::cli::term;
    use crate::config::{ExpertSettings, Settings};
    use crate::eval::{self, Amounts, EvalError, Options, Report, Source, TextOptions, TextReport};
    use crate::expert::EventSender;
    use crate::expert::llama::{LoadRequest, load};
    use crate::node::{Audience, Library};
    use indicatif::{ProgressBar, ProgressStyle};
    use quorate_core::weights::Strategy;
    use serde_json::json;
    use std::cell::Cell;
    use std::io::IsTerminal;
    use std::path::Path;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    /// Tokens of the longest document, and one more. A private prefix has at most one token a byte. No
    /// more: without flash attention every row pays for every cell.
    const CONTEXT: u32 = 4 * 192 + 2;
    /// Steps as long as they get: every document is then computed in the same batches, whatever
    /// else the machine does.
    const STEP_MS: u32 = 600_000;
    /// Between two lines of progress.
    const LINE_INTERVAL: Duration = Duration::from_secs(1);
    /// Bytes of a text from which a profile is made.
    const PROFILE_BYTES_MAX: u64 = 1 << 20;

    pub(in crate::cli) fn eval(context: &Context, args: &Eval) -> Outcome {
        let settings = settings(context, args.experts.as_deref())?;
        let outside = args.against.iter().cloned().collect::<Vec<_>>();
        let experts = names(&settings, &outside)?;
        let report = with_library(context, settings, |library| {
            let source = |name: &String| source(library, name, args.profiles.as_deref());
            let options = Options {
                docs: args.docs.clone(),
                domains: args.domains.clone(),
                amounts: amounts(args),
                experts: experts.iter().map(source).collect::<Outcome<_>>()?,
                against: args.against.as_ref().map(source).transpose()?,
                seed: args.seed,
                quick: args.quick,
                shelf: context.home.state.join("eval"),
                progress: progress(),
            };
            eval::eval(&options).map_err(failure)
        })?;
        if let Some(path) = &args.plot {
            std::fs::write(path, eval::svg(&report))
                .map_err(|error| Failure::file("write", path, &error))?;
        }
        if args.json {
            return term::json(&report);
        }
        show(&report)
    }

    pub(in crate::cli) fn eval_text(context: &Context, args: &EvalText) -> Outcome {
        let settings = settings(context, args.experts.as_deref())?;
        let experts = names(&settings, &args.without)?;
        let rules = args.weights.iter().map(|name| rule(name));
        let rules = rules.collect::<Outcome<Vec<Strategy>>>()?;
        let report = with_library(context, settings, |library| {
            let source = |name: &String| source(library, name, None);
            let options = TextOptions {
                tasks: args.tasks.clone(),
                experts: experts.iter().map(source).collect::<Outcome<_>>()?,
                rules: rules.clone(),
                runs_programs: args.run_programs,
                seed: args.seed,
                shelf: context.home.state.join("eval"),
                progress: progress(),
            };
            eval::eval_text(&options).map_err(failure)
        })?;
        if args.json {
            return term::json(&report);
        }
        show_text(&report)
    }

    fn settings(context: &Context, list: Option<&Path>) -> Outcome<Settings> {
        let mut settings = context.settings.clone();
        if let Some(path) = list {
            settings.experts = ExpertSettings::read_list(path)?;
        }
        Ok(settings)
    }

    /// Does this with the experts of these settings at hand.
    fn with_library<T>(
        context: &Context,
        settings: Settings,
        work: impl FnOnce(&Library) -> Outcome<T>,
    ) -> Outcome<T> {
        let runtime = tokio::runtime::Runtime::new()
            .map_err(|error| Failure::new(Kind::Failed, error.to_string()))?;
        let in_runtime = runtime.enter();
        let app = App::start(&context.home, &Arc::new(settings), Audience::Alone)?;
        drop(in_runtime);
        let done = work(&app.library);
        runtime.block_on(app.shut_down());
        done
    }

    fn rule(name: &str) -> Outcome<Strategy> {
        let known = Strategy::named(name).filter(|s| *s != Strategy::Gate);
        known.ok_or_else(|| {
            let message = format!(
                "--weights {name}: rules are uniform, single, bayes, share, convex and meta"
            );
            Failure::new(Kind::Usage, message)
        })
    }

    fn amounts(args: &Eval) -> Amounts {
        let usual = match args.quick {
            true => Amounts::QUICK,
            false => Amounts::WHOLE,
        };
        Amounts {
            mixed: args.mixed.map_or(usual.mixed, usize::from),
            pure_per_domain: args.pure.map_or(usual.pure_per_domain, usize::from),
        }
    }

    /// Those of the list, in its order, without those outside.
    fn names(settings: &Settings, outside: &[String]) -> Outcome<Vec<String>> {
        let all = settings.experts.iter().map(|expert| expert.name.clone());
        let all: Vec<String> = all.collect();
        if let Some(unknown) = outside.iter().find(|name| !all.contains(name)) {
            let message = format!("no expert of the list has the name {unknown}");
            return Err(Failure::new(Kind::NotFound, message));
        }
        let inside = all.into_iter().filter(|n| !outside.contains(n));
        let inside: Vec<String> = inside.collect();
        match inside.is_empty() {
            false => Ok(inside),
            true => Err(
                Failure::new(Kind::Usage, "there is no expert to evaluate").hint(
                    "write a list of [[expert]] tables and name it: --experts FILE \
                 (`quorate expert add` writes such tables into the settings)",
                ),
            ),
        }
    }

    fn source(library: &Library, name: &str, profiles: Option<&Path>) -> Outcome<Source> {
        library.find(name)?;
        let (nowhere, _) = tokio::sync::mpsc::channel(1);
        let failed = |why: String| Failure::new(Kind::Failed, format!("expert '{name}': {why}"));
        let request = library.load_request(name, nowhere).map_err(failed)?;
        let (library, typed) = (library.clone(), name.to_owned());
        let loads = move |events: EventSender| {
            let request = library.load_request(&typed, events)?;
            let prefix = u32::try_from(request.prefix.len()).unwrap_or(u32::MAX);
            let context = request.context.min(CONTEXT.saturating_add(prefix));
            let request = LoadRequest {
                context,
                cells: context,
                prefill_ms_alone: STEP_MS,
                prefill_ms_shared: STEP_MS,
                ..request
            };
            load(request).map_err(|error| error.to_string())
        };
        Ok(Source {
            name: name.to_owned(),
            id: request.id,
            load: Box::new(loads),
            profile: profiles.map_or(Ok(None), |folder| profile(folder, name))?,
        })
    }

    /// An expert without such a file publishes nothing.
    fn profile(folder: &Path, name: &str) -> Outcome<Option<String>> {
        use std::io::Read;
        let path = folder.join(format!("{name}.txt"));
        let mut bytes = Vec::new();
        let read = std::fs::File::open(&path)
            .and_then(|file| file.take(PROFILE_BYTES_MAX).read_to_end(&mut bytes));
        match read {
            Ok(_) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::file("read", &path, &error)),
        }
    }

    /// A bar on a terminal; elsewhere a line of JSON for programs, at most one a second.
    fn progress() -> Box<crate::eval::Progress> {
        const TEMPLATE: &str = "{bar:32} {percent:>3}% {pos}/{len} ETA {eta} {wide_msg}";
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(0);
            if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
                bar.set_style(style);
            }
            return Box::new(move |what, done, all| {
                bar.set_length(all as u64);
                bar.set_position(done as u64);
                bar.set_message(what.to_owned());
            });
        }
        let said = Cell::new(None::<Instant>);
        Box::new(move |what, done, of| {
            let is_due = said.get().is_none_or(|at| at.elapsed() >= LINE_INTERVAL);
            if is_due || done == of {
                said.set(Some(Instant::now()));
                eprintln!(
                    "{}",
                    json!({"event": "progress", "what": what, "done": done, "of": of})
                );
            }
        })
    }

    fn failure(error: EvalError) -> Failure {
        let kind = match &error {
            EvalError::Read { .. } | EvalError::Keep { .. } => Kind::Config,
            EvalError::NoDocuments { .. } | EvalError::NoDomain { .. } => Kind::NotFound,
            EvalError::Panel(_) | EvalError::Programs => Kind::Usage,
            EvalError::Expert { .. } => Kind::Failed,
        };
        let failure = Failure::new(kind, error.to_string());
        match error {
            EvalError::NoDocuments { .. } => failure.hint(
                "a folder of texts in UTF-8, with one sub-folder for each domain: --docs DIR",
            ),
            EvalError::Programs => failure.hint("look at them, then say --run-programs"),
            _ => failure,
        }
    }

    fn show_text(report: &TextReport) -> Outcome {
        let rows = report.rows.iter().map(|row| {
            [
                row.domain.clone(),
                row.who.clone(),
                format!("{} of {}", row.right, row.tasks),
                format!("{:.3} [{:.3}, {:.3}]", row.share, row.ci[0], row.ci[1]),
            ]
        });
        let rows: Vec<[String; 4]> = rows.collect();
        term::table(["DOMAIN", "WHO", "RIGHT", "SHARE"], &rows)?;
        for difference in &report.vs_best_of_domain {
            term::line(format!(
                "{}: {:+.3} [{:+.3}, {:+.3}] of the tasks against the best expert of each domain, known afterwards",
                difference.who, difference.share, difference.ci[0], difference.ci[1]
            ))?;
        }
        Ok(())
    }

    fn show(report: &Report) -> Outcome {
        for skipped in &report.documents.skipped {
            eprintln!("warning: {} left out: {:?}", skipped.file, skipped.why);
        }
        let row = |row: &eval::Row| {
            let interval = |ci: [f64; 2]| format!("[{:.3}, {:.3}]", ci[0], ci[1]);
            [
                row.domain.clone(),
                row.strategy.to_owned(),
                row.k.to_string(),
                format!("{:.3} {}", row.nats, interval(row.ci)),
                format!(
                    "{:.3} {}",
                    row.vs_oracle.ppl_ratio,
                    interval(row.vs_oracle.ci)
                ),
            ]
        };
        let rows: Vec<[String; 5]> = report.rows.iter().map(row).collect();
        term::table(
            ["DOMAIN", "STRATEGY", "K", "NATS", "PPL / BEST SINGLE"],
            &rows,
        )?;
        let gains = &report.gain_vs_best_single;
        for (set, gain) in [("mixed", gains.mixed), ("pure", gains.pure)] {
            if let Some(gain) = gain {
                term::line(format!(
                    "{set}: {} of {} experts, {}: perplexity x {:.3} [{:.3}, {:.3}] of the best single expert's",
                    report.k,
                    report.experts.len(),
                    report.strategy,
                    gain.ppl_ratio,
                    gain.ci[0],
                    gain.ci[1]
                ))?;
            }
        }
        for row in &report.joining {
            term::line(format!(
                "a newcomer's answers to prompts of {} tokens, with what {} nodes of {} requests a day saw: {:+.3} [{:+.3}, {:+.3}] nats a token better",
                row.prompt, row.nodes, row.requests_a_day, row.saved, row.ci[0], row.ci[1]
            ))?;
        }
        let yes =
            |is: Option<bool>| is.map_or("nothing to say", |is| if is { "yes" } else { "no" });
        let verdict = &report.verdict;
        term::line(format!(
            "mixing pays where text changes domain: {}; costs nothing where it does not: {}; {} experts are enough: {}; default: {}",
            yes(verdict.mixed_pays),
            yes(verdict.pure_free),
            report.k,
            yes(verdict.few_suffice),
            verdict.default.unwrap_or("as it is")
        ))?;
        term::line(format!(
            "experts differ by {:.3} ({:.3} to {:.3}); drafts accepted {:.3} (base), {:.3} (heaviest); promises broken: {}",
            report.tv.mean,
            report.tv.min,
            report.tv.max,
            report.alpha.mean,
            report.alpha.heaviest,
            report.guarantee_violations
        ))
    }
}
