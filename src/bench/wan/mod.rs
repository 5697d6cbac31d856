//! `quorate bench wan`: how fast a text is that experts far apart decide together.
//!
//! - `record`: real experts of this process decide texts; all that they say is kept
//! - `replay`: experts that say it again, in the time that they are told to take
//! - `far`: whole nodes (drivers, the token plane over QUIC, relays that make the distance) around
//!   either kind of expert
//! - `formulas`: what theory says of the same row; `plot`: both in one picture
//!
//! A replay is about the router, the frames and the path: that many experts share the cores of one
//! machine does not decide it. How often a guess comes true is in the recording, never drawn.

mod far;
mod formulas;
mod plot;
mod record;
mod replay;

pub use replay::Batches;

use super::heard::{distance, tps};
use super::real::Real;
use super::{BenchError, Result, millis};
use crate::expert::EventSender;
use crate::expert::llama::LoadRequest;
use far::{Far, Run};
use formulas::Terms;
use quorate_core::generate::{Guessing, Provenance};
use quorate_core::ids::Position;
use quorate_core::law::Sampler;
use quorate_core::link::Link;
use record::{By, Cast, Minds, Played, drafters, nearest, record};
use replay::Clock;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// Makes an expert of this process ready to be loaded.
pub type Request =
    dyn Fn(Whose, EventSender) -> std::result::Result<LoadRequest, String> + Send + Sync;

/// What an expert is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The default model.
    Default,
    /// The expert at this place of a list that the user gave.
    Listed(usize),
}

/// Shares of right guesses that the recordings should come near to, and the greedy one.
const ALPHAS: [f64; 3] = [0.7, 0.8, 0.9];
const ALPHA_GREEDY: f64 = 0.8;
/// Texts to choose from: a name, the prefixes and how often they are said, the prompt. Who differs from
/// three that are alike guesses worst.
const CASTS: [Cast; 4] = [
    cast(
        "four",
        [0, 1, 2, 3],
        1,
        "Once upon a time, in a village by the sea, there lived",
        1.0,
    ),
    cast("four loud", [0, 1, 2, 3], 6, "The", 1.0),
    cast("three captains and a cook", [0, 0, 0, 3], 6, "The", 1.0),
    cast(
        "three cooks and a compiler",
        [3, 3, 3, 2],
        6,
        "My grandmother",
        1.0,
    ),
];
const CAST_GREEDY: Cast = cast(
    "four greedy",
    [0, 1, 2, 3],
    6,
    "My favourite memory of my grandmother is",
    0.0,
);
/// Under other laws than one draw by all: rejection from the first one's list, and hand-over.
const CAST_REJECTION: Cast = Cast {
    by: By::Rejection,
    ..cast("four by rejection", [0, 1, 2, 3], 1, CASTS[0].prompt, 1.0)
};
const CAST_TURNS: Cast = Cast {
    by: By::Turns,
    ..cast("four by turns", [0, 1, 2, 3], 1, CASTS[0].prompt, 1.0)
};
/// Experts that differ in what they were taught, not in what they were told. Three of one against another
/// differ most, and most in a language that only one of them was taught.
const CASTS_LISTED: [Cast; 4] = [
    listed("listed", [0, 1, 2, 3], "The"),
    listed("listed in a story", [0, 1, 2, 3], CASTS[0].prompt),
    listed("three of the first and one", [0, 0, 0, 1], "Die Datei"),
    listed("three of the third and one", [2, 2, 2, 1], "Le fichier"),
];
/// Where the real experts speak.
const REAL_LINK: &str = "intercontinental";
/// Without guesses every token takes the same time: so much of the text shows it.
const NAIVE_SHARE: u32 = 4;
/// A row in which an expert was lost is of no text that can be compared: again, at most so often.
const TRIES: usize = 3;

const fn cast(
    name: &'static str,
    prefixes: [usize; 4],
    times: usize,
    prompt: &'static str,
    temperature: f32,
) -> Cast {
    Cast {
        name,
        minds: Minds::Told(prefixes, times),
        prompt,
        temperature,
        by: By::Mixing,
    }
}

const fn listed(name: &'static str, places: [usize; 4], prompt: &'static str) -> Cast {
    Cast {
        minds: Minds::Listed(places),
        ..cast(name, [0; 4], 1, prompt, 1.0)
    }
}

/// What to measure.
pub struct WanOptions {
    pub request: Arc<Request>,
    /// Experts of the user's list; the first `k` decide a text of their own.
    pub listed: usize,
    pub rtts_ms: Vec<u32>,
    /// Experts that decide together, at most four.
    pub k: usize,
    pub tokens: u32,
    /// What a replayed expert takes for one position, and the router's own for one draft.
    pub check: Duration,
    pub draft: Duration,
    pub batches: Batches,
    pub replay: bool,
    pub real: bool,
    /// Where recordings are kept for the next time.
    pub recordings: Option<PathBuf>,
    pub progress: Box<dyn Fn(&str) + Send>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    Replay,
    Real,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Naive,
    Block,
    Stream,
    /// The same, with second choices beside the guesses.
    Branches,
    /// One expert speaks at a time, and goes on until the word goes round. Beside it, naive is a round trip for
    /// every token of a speaker elsewhere.
    Handover,
}

impl Mode {
    const ALL: [Mode; 5] = [
        Mode::Naive,
        Mode::Block,
        Mode::Stream,
        Mode::Branches,
        Mode::Handover,
    ];

    fn guessing(self) -> Guessing {
        match self {
            Mode::Naive => Guessing::Never,
            Mode::Block => Guessing::Blocks,
            Mode::Stream | Mode::Handover => Guessing::Stream,
            Mode::Branches => Guessing::Branches,
        }
    }
}

/// The keys of the issue, and at the end some that explain them.
#[derive(Clone, Debug, Serialize)]
pub struct WanRow {
    pub source: Source,
    /// There and back, as the link was set.
    pub rtt_ms: f64,
    pub k: usize,
    pub mode: Mode,
    /// As the router measured them, waiting in a queue included: the slowest of the others for a
    /// position, less the path; and the router's own expert.
    pub compute_ms: f64,
    pub draft_ms: f64,
    /// Guesses that came true; where none were made, those of the drafter in the recording.
    pub alpha: f64,
    pub sampler: &'static str,
    pub link: String,
    /// Tokens by which weights may be behind; they are frozen.
    pub lag: u32,
    /// As replayed experts were told, for one position.
    pub c_ms: Option<f64>,
    pub td_ms: Option<f64>,
    /// Of side branches: wrong guesses that one of them was right about.
    pub hit_rate: Option<f64>,
    /// Tokens that no other node had a part in.
    pub skip_pct: f64,
    /// Guesses that were those of an expert elsewhere that led.
    pub led_pct: f64,
    pub tps: f64,
    /// From the formulas, with what was measured in this row.
    pub predicted_tps: f64,
    /// Tokens that are those of the recording, and the first one that is not.
    pub equal_pct: f64,
    pub first_divergence: Option<usize>,
    pub p99_gap_ms: f64,
    /// Positions behind wrong guesses, for every token and expert.
    pub wasted_checks: f64,
    /// What another node sent for a token, framing included.
    pub bytes_per_expert_token: f64,
    // --- beyond the issue ---
    /// Which text, and whose guesses.
    pub text: String,
    /// From the formulas, with the times that experts were told, the path as measured, and the share of
    /// right guesses of this row.
    pub set_tps: Option<f64>,
    /// Round trip as QUIC measured it.
    pub path_ms: f64,
    pub tokens: usize,
    /// What a token took of this machine's cores, all nodes together.
    pub work_ms: Option<f64>,
    /// Processes that wanted a core meanwhile.
    pub load: Option<f64>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct WanReport {
    pub rows: Vec<WanRow>,
    /// Every replayed text was the recorded one, in every mode.
    pub equal_text: bool,
    /// What could not be measured, and why: an expert was lost again and again.
    pub lost: Vec<String>,
}

impl WanReport {
    /// Measured and predicted over the round trip, as a picture.
    pub fn svg(&self) -> String {
        plot::svg(&self.rows)
    }
}

/// Measures everything. Takes some minutes; blocks, so give it a thread that may.
pub fn wan(options: &WanOptions, runtime: &Handle) -> Result<WanReport> {
    let texts = texts(options)?;
    let greedy = text(options, CAST_GREEDY)?;
    let rejection = text(options, CAST_REJECTION)?;
    for played in texts.iter().chain([&greedy, &rejection]) {
        let alphas: Vec<String> = drafters(played)
            .iter()
            .map(|p| format!("{:.3}", p.alpha))
            .collect();
        (options.progress)(&format!("{}: {}", played.cast.name, alphas.join(" ")));
    }
    let greedy = nearest(&[greedy], &[ALPHA_GREEDY]);
    let others = [rejection, text(options, CAST_TURNS)?];
    let mut report = WanReport::default();
    if options.replay {
        let plain = |_, events| (options.request)(Whose::Default, events);
        let vocab = Real::load(1, &plain)?.vocab()?;
        let (drafts, checks) = clocks(options);
        let mixed = nearest(&texts, &ALPHAS);
        for played in mixed.iter().chain(&greedy).chain(&others) {
            for &rtt_ms in &options.rtts_ms {
                let say = format!("replay: {}, {rtt_ms} ms", played.name());
                (options.progress)(&say);
                let checks = match played.cast.by {
                    By::Mixing | By::Rejection => checks,
                    // A speaker's step is like the router's own: one position, and nobody waits with it.
                    By::Turns => drafts,
                };
                let set = Set::replayed(options, checks, rtt_ms);
                let far = far::replayed(played, &vocab, drafts, checks, set.link);
                let far = runtime.block_on(far)?;
                modes(options, runtime, &far, played, &set, &mut report);
            }
        }
    }
    if options.real {
        let live = if has_list(options) {
            nearest(&texts[CASTS.len()..], &[ALPHAS[1]])
        } else {
            nearest(&texts[..1], &[ALPHAS[1]])
        };
        for played in live.iter().chain(&greedy).chain(&others) {
            (options.progress)("real experts");
            let set = Set::real()?;
            let far = far::real(played, &options.request, set.link);
            let far = runtime.block_on(far)?;
            modes(options, runtime, &far, played, &set, &mut report);
        }
    }
    let mut replayed = report
        .rows
        .iter()
        .filter(|row| row.source == Source::Replay);
    report.equal_text = replayed.all(|row| row.first_divergence.is_none());
    Ok(report)
}

fn text(options: &WanOptions, cast: Cast) -> Result<Played> {
    (options.progress)("a recording");
    let folder = options.recordings.as_deref();
    record(cast, options.k, options.tokens, &*options.request, folder)
}

fn texts(options: &WanOptions) -> Result<Vec<Played>> {
    let listed = CASTS_LISTED.iter().filter(|_| has_list(options));
    let casts = CASTS.iter().chain(listed);
    casts.map(|cast| text(options, *cast)).collect()
}

fn has_list(options: &WanOptions) -> bool {
    options.listed >= options.k
}

fn clocks(options: &WanOptions) -> (Clock, Clock) {
    let clock = |one| Clock {
        one,
        batches: options.batches,
    };
    (clock(options.draft), clock(options.check))
}

/// How a row was set up.
struct Set {
    source: Source,
    link: Link,
    name: String,
    rtt_ms: f64,
    check_ms: Option<f64>,
    draft_ms: Option<f64>,
}

impl Set {
    fn replayed(options: &WanOptions, checks: Clock, rtt_ms: u32) -> Set {
        Set {
            source: Source::Replay,
            link: distance(rtt_ms * 500),
            name: "distance".into(),
            rtt_ms: f64::from(rtt_ms),
            check_ms: Some(millis(checks.one)),
            draft_ms: Some(millis(options.draft)),
        }
    }

    fn real() -> Result<Set> {
        let link = Link::named(REAL_LINK);
        let link = link.ok_or_else(|| BenchError::new("a link", REAL_LINK))?;
        Ok(Set {
            source: Source::Real,
            link,
            name: REAL_LINK.into(),
            // On average half of the jitter comes on top, both ways.
            rtt_ms: f64::from(2 * link.delay_us + link.jitter_us) / 1e3,
            check_ms: None,
            draft_ms: None,
        })
    }
}

fn modes(
    options: &WanOptions,
    runtime: &Handle,
    far: &Far,
    played: &Played,
    set: &Set,
    report: &mut WanReport,
) {
    for &mode in played.cast.by.modes() {
        let tokens = match mode {
            Mode::Naive => (options.tokens / NAIVE_SHARE).max(2),
            Mode::Block | Mode::Stream | Mode::Branches | Mode::Handover => options.tokens,
        };
        let run = again(|| runtime.block_on(far.run(played, mode, tokens)));
        runtime.block_on(far.settle());
        let run = match run {
            Ok(run) => run,
            Err(why) => {
                let (name, rtt_ms) = (played.name(), set.rtt_ms);
                let lost = format!("{name}, {mode:?}, {rtt_ms:.0} ms: {why}");
                (options.progress)(&lost);
                report.lost.push(lost);
                continue;
            }
        };
        let row = row(played, set, mode, &run);
        let said = format!(
            "{mode:?}: {:.2} tokens/s ({:.2})",
            row.tps, row.predicted_tps
        );
        (options.progress)(&said);
        report.rows.push(row);
    }
}

fn again<T>(mut run: impl FnMut() -> Result<T>) -> Result<T> {
    let mut tried = run();
    for _ in 1..TRIES {
        if tried.is_ok() {
            break;
        }
        tried = run();
    }
    tried
}

fn row(played: &Played, set: &Set, mode: Mode, run: &Run) -> WanRow {
    let heard = &run.heard;
    let (count, experts) = (heard.tokens.len(), played.experts.len());
    let each = |total: f64| total / count.max(1) as f64;
    let terms = measured(played, set, mode, run);
    let Terms {
        alpha,
        draft_ms,
        trip_ms,
        ..
    } = terms;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let work_ms = run.cpu.map(|cpu| each(millis(cpu)));
    let right = &played.right[..count.min(played.right.len())];
    let mut predicted_tps = terms.tps(mode, right);
    if let (Source::Real, Some(work_ms)) = (set.source, work_ms) {
        predicted_tps = predicted_tps.min(1e3 * cores as f64 / work_ms);
    }
    let both = heard.tokens.iter().zip(played.tokens());
    let differs: Vec<bool> = both.map(|(a, b)| *a != b).collect();
    let different = differs.iter().filter(|differs| **differs).count();
    let path_ms = millis(run.rtt);
    let set_terms = set
        .check_ms
        .zip(set.draft_ms)
        .map(|(check_ms, draft_ms)| Terms {
            draft_ms,
            trip_ms: path_ms + check_ms,
            step_ms: check_ms,
            ..terms
        });
    WanRow {
        text: played.name(),
        source: set.source,
        rtt_ms: set.rtt_ms,
        k: experts,
        mode,
        compute_ms: (trip_ms - path_ms).max(0.0),
        draft_ms,
        alpha,
        sampler: match played.recording.law.sampler {
            Sampler::Greedy => "greedy",
            Sampler::Rejection => "rejection",
            Sampler::Seeded | Sampler::SeededPlain => "seeded",
        },
        link: set.name.clone(),
        lag: 0,
        c_ms: set.check_ms,
        td_ms: set.draft_ms,
        hit_rate: (mode == Mode::Branches).then_some(terms.hit),
        skip_pct: 100.0 * terms.skipped,
        led_pct: 100.0 * terms.led,
        tps: tps(heard),
        predicted_tps,
        equal_pct: 100.0 - 100.0 * each(different as f64),
        first_divergence: differs.iter().position(|differs| *differs),
        p99_gap_ms: p99_gap_ms(run),
        wasted_checks: each(f64::from(heard.guesses.wasted)) / experts as f64,
        bytes_per_expert_token: each(run.bytes as f64) / (experts - 1).max(1) as f64,
        set_tps: set_terms.map(|terms| terms.tps(mode, right)),
        path_ms,
        tokens: count,
        work_ms,
        load: load(),
    }
}

/// What the formulas need, as this row measured it.
fn measured(played: &Played, set: &Set, mode: Mode, run: &Run) -> Terms {
    let heard = &run.heard;
    let all = heard.provenance.len().max(1) as f64;
    let share = |tokens: usize| tokens as f64 / all;
    let is_alone = |p: &&Provenance| trip_us(p).is_none();
    let skipped = heard.provenance.iter().filter(is_alone).count();
    // A token that needs nobody elsewhere is a guess that came true before it was one.
    let right = heard.guesses.right as usize + skipped;
    let alpha = match (played.cast.by, heard.guesses.right + heard.guesses.wrong) {
        (By::Turns, _) => 1.0,
        (_, 0) => played.alpha,
        (_, _) => right as f64 / (right + heard.guesses.wrong as usize) as f64,
    };
    let guesses = f64::from(heard.guesses.right + heard.guesses.wrong).max(1.0);
    let of_guesses = |count: u32| f64::from(count) / guesses;
    // Who goes on alone takes a step for a token, and a round trip only for the first one of its turn.
    let goes_on = |position: Position| {
        let begins = heard.schedule.iter().any(|c| c.position == position);
        mode == Mode::Handover && !begins
    };
    let first = played.recording.prompt.len() as Position;
    // Without the first token: before it the experts read the prompt.
    let tokens = (first..).zip(&heard.provenance).skip(1);
    let (follow, ask): (Vec<_>, Vec<_>) = tokens.partition(|(position, _)| goes_on(*position));
    let followed = follow.iter().filter(|(_, p)| trip_us(p).is_some()).count();
    Terms {
        alpha,
        hit: f64::from(heard.guesses.hits) / f64::from(heard.guesses.wrong.max(1)),
        draft_ms: mean(heard.provenance.iter().skip(1), own_us),
        trip_ms: mean(ask.iter().map(|(_, p)| *p), trip_us),
        step_ms: match mode {
            Mode::Handover => mean(follow.iter().map(|(_, p)| *p), trip_us),
            // Where somebody leads, and others answer meanwhile, nobody measures its step: as it was told.
            _ => set.check_ms.unwrap_or(0.0),
        },
        skipped: share(skipped),
        followed: share(followed),
        led: of_guesses(heard.guesses.led),
        led_wrong: of_guesses(heard.guesses.led_wrong),
        path_ms: millis(run.rtt),
    }
}

/// How long the slowest of the others took that had a part in a token; None if none had.
fn trip_us(provenance: &Provenance) -> Option<u64> {
    let others = provenance.asked.iter().filter(|v| v.arrived && v.bytes > 0);
    others.map(|vote| vote.answer_us).max()
}

/// How long the router's own expert took.
fn own_us(provenance: &Provenance) -> Option<u64> {
    let mut own = provenance.asked.iter();
    own.find(|v| v.arrived && v.bytes == 0).map(|v| v.answer_us)
}

/// In milliseconds.
fn mean<'a>(
    provenance: impl Iterator<Item = &'a Provenance>,
    us: impl Fn(&Provenance) -> Option<u64>,
) -> f64 {
    let all: Vec<u64> = provenance.filter_map(us).collect();
    all.iter().sum::<u64>() as f64 / all.len().max(1) as f64 / 1e3
}

fn p99_gap_ms(run: &Run) -> f64 {
    let gaps = run.heard.at.windows(2);
    let mut gaps: Vec<Duration> = gaps.map(|two| two[1].duration_since(two[0])).collect();
    gaps.sort_unstable();
    let at = (gaps.len() * 99 / 100).min(gaps.len().saturating_sub(1));
    gaps.get(at).map_or(0.0, |gap| millis(*gap))
}

/// Of the last minute; Linux says it.
fn load() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split(' ').next()?.parse().ok()
}
