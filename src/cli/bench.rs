//! `bench solo`: starts a whole node in this process and hands it to the measurement. `bench mesh`
//! and `bench wan` take only its models: they make nodes of their own.

use super::args::{BenchHostile, BenchMesh, BenchSolo, BenchWan, ReadVerb};
use super::context::Context;
use crate::error::Outcome;

#[cfg(not(feature = "llama"))]
pub(super) fn solo(_: &Context, _: &BenchSolo) -> Outcome {
    Err(without_llama())
}

#[cfg(not(feature = "llama"))]
pub(super) fn mesh(_: &Context, _: &BenchMesh) -> Outcome {
    Err(without_llama())
}

#[cfg(not(feature = "llama"))]
pub(super) fn wan(_: &Context, _: &BenchWan) -> Outcome {
    Err(without_llama())
}

#[cfg(not(feature = "llama"))]
pub(super) fn weights(_: &ReadVerb) -> Outcome {
    Err(without_llama())
}

#[cfg(not(feature = "llama"))]
pub(super) fn hostile(_: &BenchHostile) -> Outcome {
    Err(without_llama())
}

#[cfg(not(feature = "llama"))]
pub(super) fn swap(_: &Context, _: &BenchHostile) -> Outcome {
    Err(without_llama())
}

#[cfg(not(feature = "llama"))]
fn without_llama() -> crate::error::Failure {
    crate::error::Failure::new(
        crate::error::Kind::Failed,
        "this quorate was built without llama.cpp, so there is nothing to measure",
    )
}

#[cfg(feature = "llama")]
pub(super) use with_llama::{hostile, mesh, solo, swap, wan, weights};

#[cfg(feature = "llama")]
mod with_llama {
    use super::super::args::{BatchTimes, WanSource};
    use super::{BenchHostile, BenchMesh, BenchSolo, BenchWan, Context, Outcome, ReadVerb};
    use crate::app::App;
    use crate::bench::{self, BenchError, Child, MeshOptions, MeshReport, SoloOptions, SoloReport};
    use crate::bench::{Batches, Detection, SwapOptions, SwapReport, WanOptions, WanRow, Whose};
    use crate::config::{ExpertSettings, Settings};
    use crate::error::{Failure, Kind};
    use crate::node::Audience;
    use crate::{api, cli::term};
    use std::fmt::Write;
    use std::sync::Arc;
    use tokio::runtime::Runtime;
    use tokio_util::sync::CancellationToken;

    /// A whole node, and what it runs on.
    fn start(context: &Context, settings: &Arc<Settings>) -> Outcome<(Runtime, App)> {
        let runtime =
            Runtime::new().map_err(|error| Failure::new(Kind::Failed, error.to_string()))?;
        let in_runtime = runtime.enter();
        let app = App::start(&context.home, settings, Audience::Alone)?;
        drop(in_runtime);
        Ok((runtime, app))
    }

    pub(in crate::cli) fn solo(context: &Context, args: &BenchSolo) -> Outcome {
        let settings = Arc::new(context.settings.clone());
        let typed = args
            .model
            .clone()
            .unwrap_or_else(|| settings.default_model.clone());
        let (runtime, app) = start(context, &settings)?;
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

    pub(in crate::cli) fn mesh(context: &Context, args: &BenchMesh) -> Outcome {
        let settings = Arc::new(context.settings.clone());
        let (runtime, app) = start(context, &settings)?;
        let (library, typed) = (app.library.clone(), settings.default_model.clone());
        let found = library.find(&typed)?;
        let options = MeshOptions {
            models: library.models(),
            model: found.name,
            memory_bytes: found.bytes,
            request: Box::new(move |events| library.load_request(&typed, events)),
            speak: std::time::Duration::from_secs(args.seconds),
            progress: Box::new(|what| tracing::info!(target: "quorate::bench", what)),
        };
        let measured = bench::mesh(&options, runtime.handle()).map_err(failed);
        runtime.block_on(app.shut_down());
        let report = measured?;
        if args.json {
            term::json(&report)
        } else {
            term::line(mesh_table(&report))
        }
    }

    pub(in crate::cli) fn wan(context: &Context, args: &BenchWan) -> Outcome {
        let mut settings = context.settings.clone();
        settings.experts = match &args.experts {
            Some(list) => ExpertSettings::read_list(list)?,
            None => Vec::new(),
        };
        let listed = settings.experts.iter().map(|expert| expert.name.clone());
        let listed: Vec<String> = listed.collect();
        if args.experts.is_some() && listed.len() < usize::from(args.k) {
            let message = format!("--experts: {} of {} are there", listed.len(), args.k);
            return Err(Failure::new(Kind::Usage, message).hint("or ask for fewer, with --k"));
        }
        let settings = Arc::new(settings);
        let (runtime, app) = start(context, &settings)?;
        let (library, typed) = (app.library.clone(), settings.default_model.clone());
        let millis = |ms: u32| std::time::Duration::from_millis(u64::from(ms));
        let options = WanOptions {
            listed: listed.len(),
            request: Arc::new(move |whose, events| match whose {
                Whose::Default => library.load_request(&typed, events),
                Whose::Listed(at) => library.load_request(&listed[at], events),
            }),
            rtts_ms: args.rtt_ms.clone(),
            k: usize::from(args.k),
            tokens: args.tokens,
            check: millis(args.c_ms),
            draft: millis(args.td_ms),
            batches: match args.batches {
                BatchTimes::Flat => Batches::Flat,
                BatchTimes::Table => Batches::Table,
            },
            replay: args.only != Some(WanSource::Real),
            real: args.only != Some(WanSource::Replay),
            recordings: args.recordings.clone(),
            progress: Box::new(|what| tracing::info!(target: "quorate::bench", what)),
        };
        let measured = bench::wan(&options, runtime.handle()).map_err(failed);
        runtime.block_on(app.shut_down());
        let report = measured?;
        if let Some(file) = &args.svg {
            std::fs::write(file, report.svg()).map_err(failed)?;
        }
        if args.json {
            term::json(&report)?;
        } else {
            term::line(wan_table(&report.rows))?;
        }
        match (report.equal_text, report.lost.first()) {
            (true, None) => Ok(()),
            (false, _) => Err(failed("a replayed text is not the recorded one")),
            (_, Some(lost)) => Err(failed(lost)),
        }
    }

    fn wan_table(rows: &[WanRow]) -> String {
        let mut text = format!(
            "{:<8}{:>8}{:>11}{:>8}{:>10}{:>10}{:>11}{:>8}{:>9}\n",
            "source",
            "rtt ms",
            "sampler",
            "alpha",
            "mode",
            "tokens/s",
            "predicted",
            "skip %",
            "equal %"
        );
        for r in rows {
            let (source, mode) = (format!("{:?}", r.source), format!("{:?}", r.mode));
            // Writing to a string cannot fail.
            writeln!(
                text,
                "{:<8}{:>8.0}{:>11}{:>8.2}{:>10}{:>10.2}{:>11.2}{:>8.1}{:>9.1}",
                source.to_lowercase(),
                r.rtt_ms,
                r.sampler,
                r.alpha,
                mode.to_lowercase(),
                r.tps,
                r.predicted_tps,
                r.skip_pct,
                r.equal_pct
            )
            .ok();
        }
        text
    }

    pub(in crate::cli) fn weights(args: &ReadVerb) -> Outcome {
        let report = bench::weights();
        if args.json {
            return term::json(&report);
        }
        term::line(format!(
            "weights of {} experts, {} awake: {:.1} us a token; a prompt of {} tokens: {:.1} us a token",
            report.experts, report.awake, report.token_us, report.prompt_tokens, report.prompt_us
        ))
    }

    pub(in crate::cli) fn hostile(args: &BenchHostile) -> Outcome {
        let rows = bench::hostile();
        if args.json {
            return term::json(&rows);
        }
        let mut table =
            "attack         mixing                  injected  texts hit      TV  its weight\n"
                .to_owned();
        for row in rows {
            let injected = 100.0 * f64::from(row.injected) / f64::from(row.tokens.max(1));
            let weight = row.liar_weight.map_or("-".into(), |w| format!("{w:.2}"));
            let _ = writeln!(
                table,
                "{:<14} {:<23} {injected:>6.1} % {:>8.0} %  {:>6.3}  {weight:>10}",
                row.attack, row.mixing, row.texts_hit_pct, row.tv
            );
        }
        term::line(table.trim_end())
    }

    pub(in crate::cli) fn swap(context: &Context, args: &BenchHostile) -> Outcome {
        let settings = Arc::new(context.settings.clone());
        let (runtime, app) = start(context, &settings)?;
        let (library, typed) = (app.library.clone(), settings.default_model.clone());
        let scratch = args.scratch.clone().unwrap_or_else(std::env::temp_dir);
        let options = SwapOptions {
            request: Box::new(move |events| library.load_request(&typed, events)),
            scratch: scratch.join(format!("quorate-swap-{}", std::process::id())),
            progress: Box::new(|what| tracing::info!(target: "quorate::bench", what)),
        };
        let measured = bench::swap(&options).map_err(failed);
        runtime.block_on(app.shut_down());
        let report = measured?;
        match args.json {
            true => term::json(&report),
            false => term::line(swap_table(&report)),
        }
    }

    fn swap_table(r: &SwapReport) -> String {
        let told = |d: &Detection| {
            let tokens = |n: Option<u64>| n.map_or("never".into(), |n| n.to_string());
            format!(
                "{}/{} within 300 tokens (half {}, 95 % {})",
                d.within_300,
                d.streams,
                tokens(d.tokens_p50),
                tokens(d.tokens_p95)
            )
        };
        let mut text = String::new();
        for row in &r.honest {
            // Writing to a string cannot fail.
            writeln!(
                text,
                "honest {:<31} {:<9} at {:.1}, top_p {:.2}: distance {:.5}, score {:.3} (most {:.3})",
                row.shape,
                row.asked,
                row.temperature,
                row.top_p,
                row.distance_mean,
                row.exceeds[0],
                row.score_max
            )
            .ok();
        }
        for row in &r.swaps {
            writeln!(
                text,
                "swapped for {:<7} {}: distance {:.5}, score {:.3}; found: {}; after an honest life: {}",
                row.file,
                row.shape,
                row.distance_mean,
                row.exceeds[0],
                told(&row.detection),
                told(&row.late)
            )
            .ok();
        }
        let (f, c) = (&r.false_alarms, &r.costs);
        write!(
            text,
            "honest experts of {} audited tokens: {} of {} ever suspected, {} found guilty\n\
             a spoken token takes {:.0} us, one of an audit {:.0} us, of which {:.0} % are compared: \
             {:.0} spoken tokens pay for 300 audited ones",
            f.tokens_each,
            f.suspect,
            f.experts,
            f.swapped,
            c.spoken_us,
            c.audited_us,
            100.0 * c.compared_share,
            c.spoken_for_300
        )
        .ok();
        text
    }

    fn mesh_table(r: &MeshReport) -> String {
        let tail: Vec<String> = r
            .tail_mass
            .iter()
            .map(|(length, mass)| format!("{length}: {:.2} %", 100.0 * mass))
            .collect();
        format!(
            "naive loop         {:.2} tokens/s at 100 ms one way\n\
             opinion            {:.1} bytes ({:.1} plain, {} at most)\n\
             second questions   {:.2} % of {} positions, {} wrong (tables: {:.2} % of {}, {} wrong)\n\
             outside of lists   {}\n\
             experts differ by  {:.3}\n\
             router, K = 16     {:.0} us a token\n\
             over loopback      {:.3} of the local rate\n\
             an expert lost     {:.0} ms (deadline {:.0} ms, an answer {:.0} ms; closed: {:.0} ms)\n\
             8 routers          fairness {:.2} (sessions {:.2}), {:.3} of four experts' own rate\n\
             idle swarms        {}\n\
             simulated meshes   {}",
            r.naive_tps,
            r.bytes_mean,
            r.bytes_mean_plain,
            r.bytes_max,
            r.second_ask_pct,
            r.positions,
            r.wrong_choices,
            r.second_ask_pct_tables,
            r.positions_tables,
            r.wrong_choices_tables,
            tail.join(", "),
            r.expert_tv,
            r.router_us_k16,
            r.loopback_ratio,
            r.kill_gap_ms,
            r.kill_deadline_ms,
            r.kill_answer_ms,
            r.kill_gap_closed_ms,
            r.fairness,
            r.fairness_sessions,
            r.aggregate_ratio,
            idle_row(r),
            if r.sim_sizes_ok {
                "good"
            } else {
                "BROKEN: see quorate sim mesh"
            },
        )
    }

    fn idle_row(r: &MeshReport) -> String {
        if let Some(why) = r.missing.get("gossip_bytes_per_s") {
            return format!("not measured: {why}");
        }
        format!(
            "{}, {:.0} links each: {:.0} bytes/s of gossip a node, {:.0} in all; look-ups {:.2} hops, {} at most",
            r.idle_nodes,
            r.idle_links,
            r.gossip_bytes_per_s,
            r.idle_all_bytes_per_s,
            r.lookup_hops_mean,
            r.lookup_hops_max,
        )
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
