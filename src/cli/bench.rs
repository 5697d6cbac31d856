//! `bench solo`: starts a whole node in this process and hands it to the measurement.

use super::args::BenchSolo;
use super::context::Context;
use crate::error::Outcome;

#[cfg(not(feature = "llama"))]
pub(super) fn solo(_: &Context, _: &BenchSolo) -> Outcome {
    Err(crate::error::Failure::new(
        crate::error::Kind::Failed,
        "this quorate was built without llama.cpp, so there is nothing to compare with",
    ))
}

#[cfg(feature = "llama")]
pub(super) use with_llama::solo;

#[cfg(feature = "llama")]
mod with_llama {
    use super::{BenchSolo, Context, Outcome};
    use crate::app::App;
    use crate::bench::{self, BenchError, Child, SoloOptions, SoloReport};
    use crate::error::{Failure, Kind};
    use crate::node::Audience;
    use crate::{api, cli::term};
    use std::fmt::Write;
    use std::sync::Arc;
    use tokio_util::sync::CancellationToken;

    pub(in crate::cli) fn solo(context: &Context, args: &BenchSolo) -> Outcome {
        let settings = Arc::new(context.settings.clone());
        let typed = args
            .model
            .clone()
            .unwrap_or_else(|| settings.default_model.clone());
        let runtime = tokio::runtime::Runtime::new()
            .map_err(|error| Failure::new(Kind::Failed, error.to_string()))?;
        let in_runtime = runtime.enter();
        let app = App::start(&context.home, &settings, Audience::Alone)?;
        drop(in_runtime);
        let library = app.library.clone();
        match bench::child() {
            Some(Child::Bare) => {
                let (nowhere, _) = tokio::sync::mpsc::channel(1);
                let request = library.load_request(&typed, nowhere).map_err(failed)?;
                return Child::run_bare(&request).map_err(failed);
            }
            Some(Child::Node) => {
                return runtime
                    .block_on(Child::run_node(app.node.clone(), &typed))
                    .map_err(failed);
            }
            None => {}
        }
        let mut state = app.state.clone();
        state.api_key_hash = None;
        let stop = CancellationToken::new();
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0)))
            .map_err(|error| {
                failed(BenchError::Failed {
                    what: "HTTP",
                    why: error.to_string(),
                })
            })?;
        let api = listener.local_addr().map_err(failed)?;
        let serving = runtime.spawn(api::serve(state, listener, stop.clone()));
        let options = SoloOptions {
            node: app.node.clone(),
            model: typed.clone(),
            api,
            request: Box::new({
                let typed = typed.clone();
                move |events| library.load_request(&typed, events)
            }),
            program: std::env::current_exe().map_err(failed)?,
            child_args: std::env::args().skip(1).collect(),
            run_args: vec!["run".into(), typed, "Hello".into()],
            progress: Box::new(|what| tracing::info!(target: "quorate::bench", what)),
        };
        let measured = bench::solo(&options, runtime.handle()).map_err(failed);
        stop.cancel();
        runtime.block_on(async {
            // Nobody is connected any more; how it ends is of no interest.
            drop(serving.await);
            drop(options);
            app.shut_down().await;
        });
        let report = measured?;
        if args.json {
            let json = serde_json::to_string_pretty(&report).map_err(failed)?;
            term::line(json)
        } else {
            term::line(table(&report))
        }
    }

    fn failed(error: impl ToString) -> Failure {
        Failure::new(Kind::Failed, error.to_string())
    }

    fn table(r: &SoloReport) -> String {
        let mut text = format!("{:<18}{:>10}{:>10}{:>8}\n", "", "quorate", "bare", "ratio");
        for (name, ours, raw) in [
            ("decode tok/s", r.decode_tps, r.raw_decode_tps),
            ("prefill tok/s", r.prefill_tps, r.raw_prefill_tps),
            (
                "scored tok/s",
                r.scored_prefill_tps,
                r.raw_scored_prefill_tps,
            ),
            ("8 streams tok/s", r.streams8_tps, r.raw_streams8_tps),
            ("first token ms", r.ttft_ms, r.raw_ttft_ms),
        ] {
            let ratio = ours / raw;
            // Writing to a string cannot fail.
            writeln!(text, "{name:<18}{ours:>10.1}{raw:>10.1}{ratio:>8.3}").ok();
        }
        let r128 = (r.opinion_us_128k, r.perturbed_us_128k);
        write!(
            text,
            "opinion            {:.0} us (128k: {:.0}), perturbed {:.0} us (128k: {:.0})\n\
             over HTTP          {:.3} of decode\n\
             longest stall      {:.0} ms beside a long prompt\n\
             memory             {:+.0} MB beside the bare loop\n\
             cold first token   {:.0} ms",
            r.opinion_us,
            r128.0,
            r.perturbed_us,
            r128.1,
            r.http_decode_ratio,
            r.prefill_stall_ms,
            r.rss_overhead_mb,
            r.cold_first_token_ms,
        )
        .ok();
        text
    }
}
