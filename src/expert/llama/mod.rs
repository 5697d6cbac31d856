//! Experts on llama.cpp.
//!
//! - [`load`] returns a handle: facts, a bounded mailbox, a tokeniser. Behind it is one OS thread per
//!   model file (`base`), which owns the weights and every context on them, and gives them turns
//!   (`thread`).
//! - `seat` is one expert there: a context, its adapter if it has one, and its sessions.
//! - `session` is what the router knows of: text, questions, retained rows; `branches` are other texts of it.
//! - `step` is continuous batching: `plan` picks rows under the time that `cost` predicts, `cache`
//!   keeps sequences and prefixes within the cells that `cells` counts.
//!
//! llama.cpp aborts the process when an assertion of its own fails, so every bound is checked
//! before the call: tokens against the vocabulary, text against the context, rows against the
//! batch, cells against the ledger, sequences against what the context was made for.

mod adapter;
mod bare;
mod base;
mod branches;
mod cache;
mod cells;
mod cost;
mod plan;
mod requantise;
mod rows;
mod seat;
mod session;
mod step;
mod thread;
mod tokens;
mod vocab;

pub use bare::{Bare, with_bare};
use base::Base;
pub use requantise::{Quantisation, requantise};

use crate::expert::{EventSender, Expert, ExpertFacts, SubmitError, TokenizeError};
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::{LogOptions, send_logs_to_tracing};
use quorate_core::chat::{Family, Segment};
use quorate_core::ids::{ExpertId, Token};
use quorate_core::limits::{ADAPTER_SEQUENCES_MAX, DRAFT_TOKENS_MAX, SEQUENCES_MAX};
use quorate_core::opinion::ExpertOp;
use quorate_core::plan::CONTEXT_MIN;
use seat::Common;
use session::Private;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use thread::{Door, Entered, Entering, Mail, SeatId};
use tokens::Tokenizer;
use vocab::bos as bos_of;

/// Rows of a batch on a processor. From 8 rows on a row costs the same (measured), and buffers
/// grow with this.
const BATCH_ROWS_CPU: u32 = 128;
/// ...and on a GPU, which wants to be filled.
const BATCH_ROWS_GPU: u32 = 512;
/// Bytes of logits in one step; llama.cpp never gives that buffer back.
const LOGITS_BYTES_MAX: usize = 32 << 20;

/// What to load and how to run it.
#[derive(Debug)]
pub struct LoadRequest {
    /// What clients ask for.
    pub name: String,
    pub path: PathBuf,
    /// SHA-256 of the file, in hex: checked by whoever calls.
    pub sha256: String,
    /// What it was taught on top of the model.
    pub adapter: Option<AdapterFile>,
    pub family: Family,
    pub id: ExpertId,
    /// Text that stands before every session, after the token that begins a text. It is computed
    /// once, and nobody outside is told of it.
    pub prefix: String,
    /// Tokens that one session may hold, the prefix included.
    pub context: u32,
    /// Tokens that all sessions and cached prefixes may hold together; at least `context`.
    pub cells: u32,
    /// Threads for one row, and for several.
    pub threads: u32,
    pub threads_batch: u32,
    pub gpu_layers: u32,
    /// How long a step with prompt rows may take while others wait for their next token...
    pub prefill_ms_shared: u32,
    /// ...and ever.
    pub prefill_ms_alone: u32,
    /// How long a step waits for sessions that were answered by the last one.
    pub gather_us: u32,
    pub events: EventSender,
}

/// A LoRA as llama.cpp loads it: checked against this model by whoever calls.
#[derive(Clone, Debug)]
pub struct AdapterFile {
    pub path: PathBuf,
    pub bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("llama.cpp cannot start: {why}")]
    Backend { why: String },
    #[error("llama.cpp refuses the file {}: {why}; pull the model again or try another quantisation", path.display())]
    Model { path: PathBuf, why: String },
    #[error("llama.cpp refuses the adapter {}: {why}; remove it and add it again", path.display())]
    Adapter { path: PathBuf, why: String },
    #[error("no room for a context of {cells} tokens: {why}; try a smaller --context")]
    Context { cells: u32, why: String },
    #[error("the model does not compute: {why}")]
    Engine { why: String },
    #[error("the private prefix cannot be used: {why}")]
    Prefix { why: String },
    #[error("{what} is {got}, but must be {expected}")]
    Setting {
        what: &'static str,
        got: u64,
        expected: String,
    },
}

/// What steps need to know of the request.
#[derive(Clone, Copy, Debug)]
struct EngineSettings {
    step_us: f64,
    shared_us: f64,
    gather: Duration,
    /// Rows with logits in one step.
    outputs_max: usize,
    skips_masked: bool,
}

/// Loads a model, or puts one more expert on a model in memory. Blocks until it can answer.
pub fn load(request: LoadRequest) -> Result<Arc<dyn Expert>, LoadError> {
    check(&request)?;
    let base = Base::of(&request)?;
    let door = Arc::new(Door::default());
    let (reply, entered) = sync_channel(1);
    let entering = Entering {
        request,
        door: door.clone(),
        reply,
    };
    let died = || LoadError::Engine {
        why: "its thread died".into(),
    };
    let sent = base.mail.send(Mail::Enter(Box::new(entering)));
    sent.map_err(|_| died())?;
    let Entered {
        seat,
        facts,
        tokenizer,
        gone,
    } = entered.recv().map_err(|_| died())??;
    Ok(Arc::new(LlamaExpert {
        facts: Arc::new(facts),
        tokenizer,
        seat,
        door,
        base: Some(base),
        gone: Mutex::new(gone),
    }))
}

/// A step takes a tenth of a second, ten times that on a machine with ten times the work.
const LAST_STEP_MAX: Duration = Duration::from_secs(2);

/// The handle. When it is dropped its context is freed, with the last one the model.
struct LlamaExpert {
    facts: Arc<ExpertFacts>,
    tokenizer: Tokenizer,
    seat: SeatId,
    door: Arc<Door>,
    /// None while it is dropped.
    base: Option<Arc<Base>>,
    /// Closed when the context is freed.
    gone: Mutex<Receiver<()>>,
}

impl Drop for LlamaExpert {
    /// Waits for the step under way: a process that ends before it would free llama.cpp's tables
    /// while they are read. Not for ever: whoever hears the thread's events may be the one who drops it.
    fn drop(&mut self) {
        let Some(base) = self.base.take() else {
            return;
        };
        let until = Instant::now() + LAST_STEP_MAX;
        let wait = |end: &Receiver<()>| {
            let left = until.saturating_duration_since(Instant::now());
            end.recv_timeout(left).ok(); // an end, however it came
        };
        base.mail.send(Mail::Leave(self.seat)).ok(); // or it has ended
        wait(self.gone.get_mut().unwrap_or_else(PoisonError::into_inner));
        if let Some(last) = Arc::into_inner(base) {
            wait(&last.end());
        }
    }
}

impl Expert for LlamaExpert {
    fn facts(&self) -> &Arc<ExpertFacts> {
        &self.facts
    }

    fn submit(&self, op: ExpertOp) -> Result<(), SubmitError> {
        let base = self.base.as_ref().ok_or(SubmitError::Gone)?;
        self.door.enter()?;
        let mail = Mail::Op(self.seat, Instant::now(), op);
        base.mail.try_send(mail).map_err(|error| match error {
            TrySendError::Full(_) => SubmitError::Full,
            TrySendError::Disconnected(_) => SubmitError::Gone,
        })
    }

    fn tokenize(&self, segments: &[Segment], bos: bool) -> Result<Vec<Token>, TokenizeError> {
        self.tokenizer.tokenize(segments, bos)
    }
}

/// The beginning of every session, with the token that begins a text; what is left of the context
/// must be of use to somebody.
fn private_text(
    tokenizer: &Tokenizer,
    bos: Option<Token>,
    request: &LoadRequest,
) -> Result<Private, LoadError> {
    if request.prefix.is_empty() {
        return Ok(Private::default());
    }
    let text = [Segment::Text(request.prefix.clone())];
    let tokens = tokenizer.tokenize(&text, true);
    let tokens = tokens.map_err(|error| LoadError::Prefix {
        why: error.to_string(),
    })?;
    let private = Private::new(tokens, bos);
    let left = (request.context as usize).saturating_sub(private.tokens.len());
    if left < CONTEXT_MIN as usize {
        let (prefix, context) = (private.tokens.len(), request.context);
        return Err(LoadError::Prefix {
            why: format!(
                "{prefix} tokens leave {left} of the context of {context}; it needs {CONTEXT_MIN}"
            ),
        });
    }
    Ok(private)
}

fn check(request: &LoadRequest) -> Result<(), LoadError> {
    let setting = |what, got: u32, ok: bool, expected: String| {
        if ok {
            Ok(())
        } else {
            Err(LoadError::Setting {
                what,
                got: got.into(),
                expected,
            })
        }
    };
    let LoadRequest {
        context,
        cells,
        threads,
        threads_batch,
        ..
    } = *request;
    setting("context", context, context >= 2, "at least 2".into())?;
    setting(
        "cells",
        cells,
        cells >= context,
        format!("at least the context, {context}"),
    )?;
    setting("cells", cells, cells <= 1 << 30, "at most 2^30".into())?;
    setting(
        "threads",
        threads,
        (1..=512).contains(&threads),
        "1 to 512".into(),
    )?;
    setting(
        "threads_batch",
        threads_batch,
        (1..=512).contains(&threads_batch),
        "1 to 512".into(),
    )
}

fn settings(request: &LoadRequest, vocab: usize) -> EngineSettings {
    EngineSettings {
        step_us: f64::from(request.prefill_ms_alone) * 1e3,
        shared_us: f64::from(request.prefill_ms_shared) * 1e3,
        gather: Duration::from_micros(request.gather_us.into()),
        outputs_max: (LOGITS_BYTES_MAX / (4 * vocab.max(1))).max(DRAFT_TOKENS_MAX),
        skips_masked: uses_flash_attention(request),
    }
}

/// llama.cpp's own choice is flash attention everywhere. On a processor it costs three times as
/// much per (row, cell) as the plain matrix product (research/decisions/0004-expert-engine.md).
fn uses_flash_attention(request: &LoadRequest) -> bool {
    request.gpu_layers > 0
}

fn load_model(request: &LoadRequest) -> Result<LlamaModel, LoadError> {
    let params = LlamaModelParams::default().with_n_gpu_layers(request.gpu_layers);
    let refused = |why: String| LoadError::Model {
        path: request.path.clone(),
        why,
    };
    if !request.path.is_file() {
        return Err(refused("there is no such file".into()));
    }
    let backend = backend()?;
    let _one_at_a_time = lock();
    LlamaModel::load_from_file(backend, &request.path, &params)
        .map_err(|error| refused(error.to_string()))
}

fn new_context<'model>(
    model: &'model LlamaModel,
    request: &LoadRequest,
) -> Result<LlamaContext<'model>, LoadError> {
    let rows = if request.gpu_layers > 0 {
        BATCH_ROWS_GPU
    } else {
        BATCH_ROWS_CPU
    };
    let flash = if uses_flash_attention(request) {
        FLASH_AUTO
    } else {
        FLASH_OFF
    };
    let params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(request.cells))
        .with_n_batch(rows)
        .with_n_ubatch(rows)
        .with_n_seq_max(sequences(request) as u32)
        .with_kv_unified(true)
        .with_swa_full(true)
        .with_flash_attention_policy(flash)
        .with_n_threads(request.threads as i32)
        .with_n_threads_batch(request.threads_batch as i32);
    let backend = backend()?;
    let _one_at_a_time = lock();
    let context = model
        .new_context(backend, params)
        .map_err(|error| LoadError::Context {
            cells: request.cells,
            why: error.to_string(),
        })?;
    let n_ctx = context.n_ctx();
    let expected = format!("at least {}", request.context);
    match n_ctx >= request.context {
        true => Ok(context),
        false => Err(LoadError::Setting {
            what: "cells",
            got: n_ctx.into(),
            expected,
        }),
    }
}

/// How many sequences a context holds at most.
fn sequences(request: &LoadRequest) -> usize {
    match request.adapter {
        Some(_) => ADAPTER_SEQUENCES_MAX,
        None => SEQUENCES_MAX,
    }
}

/// `LLAMA_FLASH_ATTN_TYPE_*`, which llama-cpp-2 passes through as a number.
const FLASH_AUTO: i32 = -1;
const FLASH_OFF: i32 = 0;

fn facts(common: &Common<'_>, request: &LoadRequest, private: &Private) -> ExpertFacts {
    let model: &LlamaModel = common.model;
    let adapter_bytes = request.adapter.as_ref().map_or(0, |file| file.bytes);
    ExpertFacts {
        id: request.id,
        peer: None,
        model: request.name.clone(),
        sha256: request.sha256.clone(),
        file: plain_file(request),
        family: family(model, request),
        vocab: common.vocab.clone(),
        bos: common.bos,
        context: request.context - private.tokens.len() as u32,
        model_bytes: model.size() + adapter_bytes,
        cache_bytes: cache_bytes(model, request.cells) + parked_bytes(model, request.cells),
        processor: processor(model, request),
    }
}

/// The hash of the file, if it alone decides what is said.
fn plain_file(request: &LoadRequest) -> Option<[u8; 32]> {
    let is_plain = request.adapter.is_none() && request.prefix.is_empty();
    let hash = || Some(*blake3::Hash::from_hex(&request.sha256).ok()?.as_bytes()); // 32 bytes in hex
    is_plain.then(hash).flatten()
}

/// As asked for; the file's template only says whether the model was taught a default system message.
fn family(model: &LlamaModel, request: &LoadRequest) -> Family {
    let template = model.meta_val_str("tokenizer.chat_template");
    match template {
        Ok(template) => request.family.as_taught(&template),
        Err(_) => request.family,
    }
}

/// Keys and values in 16 bits, for every layer and cell.
fn cache_bytes(model: &LlamaModel, cells: u32) -> u64 {
    let number = |key: &str| model.meta_val_str(key).ok()?.parse::<u64>().ok();
    let arch = model
        .meta_val_str("general.architecture")
        .unwrap_or_default();
    let head = model.n_embd().max(0) as u64 / u64::from(model.n_head().max(1));
    let of = |what: &str| number(&format!("{arch}.attention.{what}_length")).unwrap_or(head);
    let (key, value) = (of("key"), of("value"));
    let per_cell = u64::from(model.n_layer()) * u64::from(model.n_head_kv()) * (key + value) * 2;
    per_cell * u64::from(cells)
}

/// Room for prefixes outside the cells: a quarter of what the cells take. `node::needs` plans it.
fn parked_bytes(model: &LlamaModel, cells: u32) -> u64 {
    cache_bytes(model, cells) / 4
}

fn processor(model: &LlamaModel, request: &LoadRequest) -> String {
    if request.gpu_layers == 0 {
        return format!("cpu, {} threads", request.threads);
    }
    let layers = model.n_layer() + 1;
    let devices = llama_cpp_2::list_llama_ggml_backend_devices();
    let gpu = devices.iter().find(|device| device.backend != "CPU");
    let name = gpu.map_or("cpu (no GPU in this build)".into(), |gpu| {
        gpu.backend.to_lowercase()
    });
    format!("{name}, {}/{layers} layers", request.gpu_layers.min(layers))
}

/// llama.cpp has one backend for the whole process and cannot start it twice.
fn backend() -> Result<&'static LlamaBackend, LoadError> {
    static BACKEND: OnceLock<Result<LlamaBackend, String>> = OnceLock::new();
    let started = BACKEND.get_or_init(|| {
        send_logs_to_tracing(LogOptions::default());
        LlamaBackend::init().map_err(|error| error.to_string())
    });
    started
        .as_ref()
        .map_err(|why| LoadError::Backend { why: why.clone() })
}

/// Making models and contexts in parallel is documented as unsound.
fn lock() -> std::sync::MutexGuard<'static, ()> {
    static LOADING: Mutex<()> = Mutex::new(());
    LOADING.lock().unwrap_or_else(PoisonError::into_inner)
}
