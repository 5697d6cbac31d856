//! What the API counts, in Prometheus's words. Handles are made once; counting costs an atomic add.
//! Labels come from closed enums: no model names, no prompts, nothing a client can make up.

use super::error::{ApiError, Kind};
use crate::driver::NodeStatus;
use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

const SECONDS: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5.0, 10.0, 30.0, 120.0,
];

/// Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Handles>);

struct Handles {
    prometheus: PrometheusHandle,
    outcomes: Vec<Counter>,
    inflight: Gauge,
    first_token_s: Histogram,
    inter_token_s: Histogram,
    duration_s: Histogram,
    prompt_tokens: Counter,
    generation_tokens: Counter,
    running: Gauge,
    waiting: Gauge,
    models_loaded: Gauge,
    memory_used_bytes: Gauge,
    memory_budget_bytes: Gauge,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Finished,
    /// The client went away.
    Cancelled,
    /// The client's fault.
    Invalid,
    Busy,
    /// Halted or shutting down.
    Unavailable,
    Failed,
}

const OUTCOMES: [(Outcome, &str); 6] = [
    (Outcome::Finished, "finished"),
    (Outcome::Cancelled, "cancelled"),
    (Outcome::Invalid, "invalid"),
    (Outcome::Busy, "busy"),
    (Outcome::Unavailable, "unavailable"),
    (Outcome::Failed, "failed"),
];

impl Outcome {
    pub fn of(error: &ApiError) -> Outcome {
        match error.kind {
            Kind::Busy => Outcome::Busy,
            Kind::MeshHalted | Kind::ShuttingDown | Kind::ModelTooLarge => Outcome::Unavailable,
            Kind::GenerationFailed | Kind::Internal | Kind::ModelLoadFailed => Outcome::Failed,
            Kind::DeadlineExceeded => Outcome::Cancelled,
            _ => Outcome::Invalid,
        }
    }
}

/// One request's accounts. Dropped without `end`, the request counts as cancelled.
#[derive(Clone)]
pub struct Running(Arc<RunningInner>);

struct RunningInner {
    metrics: Metrics,
    started: Instant,
    first_token_seen: AtomicBool,
    ended: AtomicBool,
}

impl Metrics {
    pub fn new() -> Metrics {
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
            .expect("the list of buckets is not empty");
        let recorder = builder.build_recorder();
        let outcome = |name: &'static str| {
            let labels = vec![Label::from_static_parts("outcome", name)];
            let key = Key::from_parts("quorate_requests_total", labels);
            recorder.register_counter(&key, &META)
        };
        let handles = Handles {
            outcomes: OUTCOMES.iter().map(|(_, name)| outcome(name)).collect(),
            inflight: gauge(
                &recorder,
                "quorate_requests_inflight",
                "requests between their first byte and their last",
            ),
            first_token_s: histogram(
                &recorder,
                "quorate_time_to_first_token_seconds",
                "from the request to its first token",
            ),
            inter_token_s: histogram(
                &recorder,
                "quorate_inter_token_latency_seconds",
                "between two tokens of a response",
            ),
            duration_s: histogram(
                &recorder,
                "quorate_request_duration_seconds",
                "from the request to its end",
            ),
            prompt_tokens: counter(&recorder, "quorate_prompt_tokens_total", "tokens read"),
            generation_tokens: counter(
                &recorder,
                "quorate_generation_tokens_total",
                "tokens written",
            ),
            running: gauge(
                &recorder,
                "quorate_num_requests_running",
                "generations that decode",
            ),
            waiting: gauge(
                &recorder,
                "quorate_num_requests_waiting",
                "generations in the queue",
            ),
            models_loaded: gauge(&recorder, "quorate_models_loaded", "models in memory"),
            memory_used_bytes: gauge(
                &recorder,
                "quorate_model_memory_bytes",
                "memory of models and their caches",
            ),
            memory_budget_bytes: gauge(
                &recorder,
                "quorate_model_memory_budget_bytes",
                "memory that models may use",
            ),
            prometheus: recorder.handle(),
        };
        let text = "requests by how they ended".into();
        recorder.describe_counter("quorate_requests_total".into(), None, text);
        Metrics(Arc::new(handles))
    }

    /// A request arrived.
    pub fn begin(&self) -> Running {
        self.0.inflight.increment(1.0);
        Running(Arc::new(RunningInner {
            metrics: self.clone(),
            started: Instant::now(),
            first_token_seen: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        }))
    }

    /// A request was refused before it became one.
    pub fn refused(&self, error: &ApiError) {
        self.count(Outcome::of(error));
    }

    /// The page, with the node's own numbers as of now.
    pub fn render(&self, status: &NodeStatus) -> String {
        let handles = &self.0;
        handles.running.set(status.running as f64);
        handles.waiting.set(status.waiting as f64);
        handles.models_loaded.set(status.models.len() as f64);
        handles
            .memory_used_bytes
            .set(status.memory_used_bytes as f64);
        handles
            .memory_budget_bytes
            .set(status.memory_budget_bytes as f64);
        handles.prometheus.render()
    }

    /// Folds what histograms have gathered; without it they grow until somebody reads the page.
    pub fn upkeep(&self) {
        self.0.prometheus.run_upkeep();
    }

    fn count(&self, outcome: Outcome) {
        let index = OUTCOMES.iter().position(|&(o, _)| o == outcome);
        if let Some(counter) = index.and_then(|i| self.0.outcomes.get(i)) {
            counter.increment(1);
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Running {
    pub fn prompt(&self, tokens: u32) {
        self.0.metrics.0.prompt_tokens.increment(tokens.into());
    }

    /// A token came `now`; `last` is when the one before it came in the same choice.
    pub fn token(&self, last: Option<Instant>, now: Instant) {
        let handles = &self.0.metrics.0;
        handles.generation_tokens.increment(1);
        if let Some(last) = last {
            handles.inter_token_s.record(now.duration_since(last));
        } else if !self.0.first_token_seen.swap(true, Ordering::Relaxed) {
            handles
                .first_token_s
                .record(now.duration_since(self.0.started));
        }
    }

    /// Only the first end counts.
    pub fn end(&self, outcome: Outcome) {
        self.0.end(outcome);
    }
}

impl RunningInner {
    fn end(&self, outcome: Outcome) {
        if self.ended.swap(true, Ordering::Relaxed) {
            return;
        }
        self.metrics.0.inflight.decrement(1.0);
        self.metrics.0.duration_s.record(self.started.elapsed());
        self.metrics.count(outcome);
    }
}

impl Drop for RunningInner {
    fn drop(&mut self) {
        self.end(Outcome::Cancelled);
    }
}

const META: Metadata<'static> = Metadata::new("quorate::api", Level::INFO, None);

fn counter(recorder: &impl Recorder, name: &'static str, text: &'static str) -> Counter {
    recorder.describe_counter(name.into(), None, text.into());
    recorder.register_counter(&Key::from_static_name(name), &META)
}

fn gauge(recorder: &impl Recorder, name: &'static str, text: &'static str) -> Gauge {
    recorder.describe_gauge(name.into(), None, text.into());
    recorder.register_gauge(&Key::from_static_name(name), &META)
}

fn histogram(recorder: &impl Recorder, name: &'static str, text: &'static str) -> Histogram {
    recorder.describe_histogram(name.into(), Some(Unit::Seconds), text.into());
    recorder.register_histogram(&Key::from_static_name(name), &META)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_request_counts_as_cancelled_and_leaves_flight() {
        let metrics = Metrics::new();
        let running = metrics.begin();
        let now = Instant::now();
        running.token(None, now);
        running.token(Some(now), now);
        drop(running);
        let finished = metrics.begin();
        finished.end(Outcome::Finished);
        drop(finished);
        let page = metrics.render(&NodeStatus::default());
        for line in [
            "quorate_requests_total{outcome=\"cancelled\"} 1",
            "quorate_requests_total{outcome=\"finished\"} 1",
            "quorate_requests_inflight 0",
            "quorate_generation_tokens_total 2",
            "quorate_time_to_first_token_seconds_count 1",
            "quorate_inter_token_latency_seconds_count 1",
        ] {
            assert!(page.contains(line), "{line} is missing in\n{page}");
        }
    }
}
