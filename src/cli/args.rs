//! The command line exactly as typed. Nothing here is checked beyond its form; `config` and the
//! verbs do that.

use super::eval::args::Eval;
use super::gov::args::Gov;
use super::testnet::{Millis, Percent};
use crate::config::{KeepAlive, Lasting, Listen, MemorySize};
use crate::obs::LogFormat;
use crate::store::catalogue::CATALOGUE;
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use quorate_core::plan::Size;
use std::path::PathBuf;

const AFTER_HELP: &str = "\
Start here:
  quorate run smollm2:135m \"Why is the sky blue?\"    ask once (a model that is missing is pulled)
  quorate run smollm2:135m                           a conversation
  quorate run \"Why is the sky blue?\"                 ask the default model
  quorate up                                         an OpenAI API on http://127.0.0.1:7867/v1

Environment:
  QUORATE_HOME      where settings, identity and models live (default: the XDG directories)
  QUORATE_API_KEY   the key of the API, instead of --api-key-file
  QUORATE_OFFLINE   1: never use the network to fetch a model
  QUORATE_LISTEN, QUORATE_THREADS, QUORATE_MAX_MEMORY, ...: any flag of `up`; the flag wins
  QUORATE_LOG       what to log, e.g. info or quorate=debug (RUST_LOG works too)
  NO_COLOR          no colours

Exit codes: 0 done, 1 failed, 2 usage, 3 settings, 4 no such model, 5 taken (home, port, slots),
6 does not fit, 7 network, 130 interrupted";

/// A language model that runs on your machine, alone or together with others.
#[derive(Debug, Parser)]
#[command(name = "quorate", bin_name = "quorate", version, after_help = AFTER_HELP)]
#[command(arg_required_else_help = true)]
#[command(max_term_width = 100, disable_help_subcommand = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) verb: Verb,

    /// Read settings from this file
    #[arg(
        long,
        global = true,
        env = "QUORATE_CONFIG",
        hide_env = true,
        value_name = "FILE"
    )]
    #[arg(value_hint = ValueHint::FilePath)]
    pub(super) config: Option<PathBuf>,

    /// How to write the log
    #[arg(
        long,
        global = true,
        env = "QUORATE_LOG_FORMAT",
        hide_env = true,
        value_name = "FORMAT"
    )]
    pub(super) log_format: Option<LogFormat>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Start the node: an OpenAI-compatible API for the programs on this machine
    #[command(alias = "serve")]
    Up(Up),
    /// Ask a model: once, from a pipe, or in a conversation
    Run(Box<Run>),
    /// Decide a recorded answer again, from the recorded opinions, and compare
    Replay(Replay),
    /// Fetch a model
    Pull(Pull),
    /// Show installed models
    #[command(visible_alias = "ls")]
    List(ReadVerb),
    /// Show what a model is: hash, context, vocabulary
    Show(Show),
    /// Remove a model
    Rm(Rm),
    /// Show models in memory
    Ps(ReadVerb),
    /// Let a model leave memory
    Stop(Stop),
    /// Show how the node is doing
    Status(ReadVerb),
    /// Found a mesh
    #[command(subcommand)]
    Mesh(Mesh),
    /// Let another machine into the mesh: prints a line for `join`
    Invite(Invite),
    /// Enter a mesh
    Join(Join),
    /// Belong to no mesh any more
    Leave,
    /// Show the other nodes of the mesh
    Peers(ReadVerb),
    /// What models are taught on top: LoRA adapters
    #[command(subcommand)]
    Adapter(Adapter),
    /// Say what this node serves the mesh
    #[command(subcommand)]
    Expert(Expert),
    /// Serve nobody but yourself, until `resume` or a restart
    Pause,
    /// Serve the members of the mesh again
    Resume,
    /// Several nodes on this machine, with made-up distances between them
    #[command(subcommand)]
    Testnet(Testnet),
    /// Decide with others: keys, proposals, votes, halts
    #[command(subcommand)]
    Gov(Gov),
    /// Check everything a node needs, with a remedy for each fault
    Doctor(ReadVerb),
    /// Measure speed
    #[command(subcommand)]
    Bench(Bench),
    /// Compare mixtures of experts with the best single one, on your texts
    Eval(Eval),
    /// Simulate a mesh in virtual time
    #[command(subcommand)]
    Sim(Sim),
    /// Print a completion script for your shell
    Completions(Completions),
}

/// What any verb that loads a model may be told.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Machine")]
pub(super) struct MachineFlags {
    /// Threads that compute [default: one for each physical core]
    #[arg(long, value_name = "N")]
    pub(super) threads: Option<u32>,
    /// Memory that models may fill, e.g. 8GB [default: what is free, less a tenth]
    #[arg(long, value_name = "SIZE")]
    pub(super) max_memory: Option<MemorySize>,
    /// Tokens that one conversation may hold [default: as trained, at most 8192]
    #[arg(long, value_name = "TOKENS")]
    pub(super) ctx: Option<u32>,
    /// Layers on the graphics card [default: as many as fit]
    #[arg(long, value_name = "N")]
    pub(super) gpu_layers: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct Up {
    /// Where the API listens; beyond loopback it needs a key [default: 127.0.0.1:7867]
    #[arg(long, value_name = "ADDR")]
    pub(super) listen: Option<Listen>,
    /// A file with the key that clients must show
    #[arg(
        long,
        env = "QUORATE_API_KEY_FILE",
        hide_env = true,
        value_name = "FILE"
    )]
    #[arg(value_hint = ValueHint::FilePath)]
    pub(super) api_key_file: Option<PathBuf>,
    /// How long an unused model stays in memory: 30s, 5m, 2h, forever [default: 5m]
    #[arg(long, value_name = "TIME")]
    #[arg(allow_hyphen_values = true)]
    pub(super) keep_alive: Option<KeepAlive>,
    /// Load this model at once instead of at its first request
    #[arg(long, value_name = "MODEL")]
    pub(super) model: Option<String>,
    #[command(flatten)]
    pub(super) machine: MachineFlags,
    /// Report the start as lines of JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Run {
    /// A short name (smollm2:135m), org/repo:QUANT from the hub, the path of a .gguf file, or `mesh`
    /// [default: the default model; then the prompt must be one quoted text]
    pub(super) model: Option<String>,
    /// What to ask; without it, and without piped input, a conversation begins
    pub(super) prompt: Vec<String>,
    /// Print load time, prompt rate and answer rate afterwards
    #[arg(long)]
    pub(super) verbose: bool,
    /// Write all that the answer was decided by to a new file, for `quorate replay`. The file holds
    /// your prompt: it is private, and only you may read it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) record: Option<PathBuf>,
    #[command(flatten)]
    pub(super) answer: AnswerFlags,
    #[command(flatten)]
    pub(super) machine: MachineFlags,
}

#[derive(Debug, Args)]
pub(super) struct Replay {
    /// What `quorate run --record` has written
    #[arg(value_hint = ValueHint::FilePath)]
    pub(super) file: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// How answers are drawn.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Answer")]
pub(super) struct AnswerFlags {
    /// Instructions that come before the conversation
    #[arg(long, value_name = "TEXT")]
    pub(super) system: Option<String>,
    /// 0: always the most likely token; 1: the model as it is [default: 0.7]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub(super) temperature: Option<f64>,
    /// Keep the fewest top tokens that reach this mass [default: 0.95]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(super) top_p: Option<f64>,
    /// Keep this many top tokens; 0 keeps all [default: 0]
    #[arg(long, value_name = "K")]
    pub(super) top_k: Option<u32>,
    /// Keep tokens with this share of the best one's probability [default: 0]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(super) min_p: Option<f64>,
    /// Make recent tokens less likely; 1 is off [default: 1.1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(super) repeat_penalty: Option<f64>,
    /// The same seed, prompt and settings give the same answer
    #[arg(long, value_name = "N")]
    pub(super) seed: Option<u64>,
    /// Tokens at most in an answer
    #[arg(long, short = 'n', value_name = "N")]
    pub(super) max_tokens: Option<u32>,
    /// So many experts of the mesh may lie: a token needs N + 1 that support it, and its value is the mean
    /// without the N highest and lowest; 2N + 1 experts are asked. For `mesh` only
    #[arg(long, value_name = "N")]
    pub(super) robust: Option<u32>,
    /// End the answer before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub(super) stop: Vec<String>,
    /// `json`, or a file with a JSON schema that the answer must obey
    #[arg(long, value_name = "json|FILE", value_hint = ValueHint::FilePath)]
    pub(super) format: Option<String>,
    /// With `mesh`: how much each expert counts is learned from the prompt by this rule: uniform, single,
    /// bayes, share, convex or meta [default: what the mesh has voted for]. `follow` goes on to learn from the answer, as does
    /// any of them with `:follow(SHARE,LAG)` behind it
    #[arg(long, value_name = "RULE")]
    pub(super) weights: Option<String>,
    /// With `mesh`: one expert speaks at a time, and hands over now and then. Fastest over a distance
    #[arg(long)]
    pub(super) handover: bool,
    /// With `mesh`: guess no token ahead of its decision. Slower, and the same answer
    #[arg(long)]
    pub(super) plodding: bool,
    /// With `mesh`: where a guess is a close call, send its second choice beside it. More questions, fewer
    /// round trips, and the same answer
    #[arg(long, conflicts_with = "plodding")]
    pub(super) branches: bool,
    /// With `mesh`: how the answer is drawn. seeded: the seed gives the same answer again; rejection: all
    /// accept or reject what one drafts, which often needs fewer of their answers, and the text depends on
    /// who is quick [default: seeded]
    #[arg(long, value_name = "seeded|rejection", conflicts_with = "handover")]
    pub(super) sampler: Option<Draw>,
}

/// How an answer of several experts is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Draw {
    Seeded,
    Rejection,
}

/// Every short name, for the help of `pull`.
fn catalogue() -> String {
    let mut text = String::from("Short names:\n");
    for entry in CATALOGUE {
        let size = entry
            .bytes
            .map_or_else(String::new, |bytes| Size(bytes).to_string());
        text += &format!(
            "  {:<16}{size:<10}context {}\n",
            entry.alias, entry.context_length
        );
    }
    text + "Any other model of the Hugging Face hub: org/repo:QUANT[@revision]"
}

#[derive(Debug, Args)]
#[command(after_help = catalogue())]
pub(super) struct Pull {
    /// A short name, org/repo:QUANT[@revision], or the path of a .gguf file
    pub(super) model: String,
    /// Report progress as lines of JSON (so it is anyway where there is no terminal)
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ReadVerb {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    pub(super) model: String,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Rm {
    #[arg(required = true)]
    pub(super) models: Vec<String>,
    /// Do not ask
    #[arg(long, short)]
    pub(super) yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct Stop {
    pub(super) model: String,
}

#[derive(Debug, Subcommand)]
pub(super) enum Mesh {
    /// A mesh of your own for friends and tests, with this node as its first
    New(MeshNew),
}

#[derive(Debug, Args)]
pub(super) struct MeshNew {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Adapter {
    /// Convert one for a model and give it a name
    Add(AdapterAdd),
    /// Remove one
    Rm(AdapterRm),
    /// Show installed adapters
    #[command(visible_alias = "ls")]
    List(ReadVerb),
}

#[derive(Debug, Args)]
pub(super) struct AdapterAdd {
    /// What `expert add --adapter` takes: small letters, digits, '-', '_' and '.'
    pub(super) name: String,
    /// A folder that PEFT has saved (adapter_config.json, adapter_model.safetensors), or a converted
    /// .gguf file
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(super) source: PathBuf,
    /// The model that it was trained on [default: the default model]
    #[arg(long, value_name = "MODEL")]
    pub(super) base: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct AdapterRm {
    pub(super) name: String,
}

#[derive(Debug, Subcommand)]
pub(super) enum Expert {
    /// Serve one more: a model, with an adapter or a private prefix if you like
    Add(ExpertAdd),
    /// Serve one no longer
    Rm(ExpertRm),
    /// Show what is served
    #[command(visible_alias = "ls")]
    List(ReadVerb),
}

#[derive(Debug, Args)]
pub(super) struct ExpertAdd {
    /// What requests ask for: small letters, digits, '-', '_' and '.'
    pub(super) name: String,
    /// The model behind it; `mesh` for all of this node's mesh, as one expert of those of other meshes that
    /// --allow names; or the pass that this printed on a node of another mesh
    #[arg(long, value_name = "MODEL|mesh|PASS")]
    pub(super) model: String,
    /// What it is taught on top, as `quorate adapter list` names it
    #[arg(long, value_name = "NAME")]
    pub(super) adapter: Option<String>,
    /// Text that stands before every session; nobody is shown it, but what the expert says can leak it
    #[arg(long, value_name = "TEXT")]
    pub(super) prefix: Option<String>,
    /// The same, from a file that is read anew at every load
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) prefix_file: Option<PathBuf>,
    /// The id of a node that may ask, or `mesh` for every member; may be given several times
    #[arg(long, value_name = "NODE|mesh")]
    pub(super) allow: Vec<String>,
    /// For yourself alone
    #[arg(long, conflicts_with = "allow")]
    pub(super) keep: bool,
}

#[derive(Debug, Args)]
pub(super) struct ExpertRm {
    pub(super) name: String,
}

#[derive(Debug, Subcommand)]
pub(super) enum Testnet {
    /// Start it, and keep it up until Ctrl-C
    Up(TestnetUp),
    /// Stop the one that was started on this home
    Down(TestnetDown),
}

#[derive(Debug, Args)]
pub(super) struct TestnetUp {
    /// How many nodes
    pub(super) nodes: usize,
    /// Round trip between any two nodes, e.g. 100ms
    #[arg(long, value_name = "TIME")]
    pub(super) rtt: Option<Millis>,
    /// Packets that are lost on the way, e.g. 1%
    #[arg(long, value_name = "SHARE")]
    pub(super) loss: Option<Percent>,
    /// A named link: lan, metro, continent, intercontinental, satellite, absurd
    #[arg(long, value_name = "NAME")]
    pub(super) link: Option<String>,
    /// Experts asked for every token [default: as a new mesh has it]
    #[arg(long, value_name = "K")]
    pub(super) k: Option<u32>,
    /// The model of every node, each with a prefix of its own [default: the default model]
    #[arg(long, value_name = "MODEL")]
    pub(super) model: Option<String>,
    /// Who may halt and govern it: a public key, or a .pub file of `quorate gov keygen`
    #[arg(long, value_name = "KEY")]
    pub(super) participant: Vec<String>,
    /// Ten ports a node, from here on
    #[arg(long, value_name = "PORT", default_value = "17860")]
    pub(super) base_port: u16,
    /// Report as lines of JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct TestnetDown {}

#[derive(Debug, Args)]
pub(super) struct Invite {
    /// How long it opens the door: 30m, 24h, 7d
    #[arg(long, value_name = "TIME", default_value = "24h")]
    pub(super) expires: Lasting,
    /// Take an invite back, by its name
    #[arg(long, value_name = "NAME")]
    pub(super) revoke: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Join {
    /// What `quorate invite` printed on a node of the mesh; line breaks in it do no harm
    #[arg(required = true)]
    pub(super) invite: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Bench {
    /// This program against a bare llama.cpp loop, side by side
    Solo(BenchSolo),
    /// What it costs to decide every token together: bytes, exactness, rates, gaps
    Mesh(BenchMesh),
    /// How fast a text is that experts far apart decide together, measured and predicted
    Wan(BenchWan),
    /// What learned weights cost the router, without any model
    Weights(ReadVerb),
    /// What one liar among four experts gets into a text under each way of mixing, without any model
    Hostile(ReadVerb),
}

#[derive(Debug, Args)]
pub(super) struct BenchWan {
    /// Round trips between the nodes
    #[arg(
        long,
        value_name = "MS",
        value_delimiter = ',',
        default_value = "0,20,50,100,200,400",
        value_parser = clap::value_parser!(u32).range(..=2_000)
    )]
    pub(super) rtt_ms: Vec<u32>,
    /// Experts that decide every token
    #[arg(long, value_name = "K", default_value_t = 4, value_parser = clap::value_parser!(u8).range(2..=4))]
    pub(super) k: u8,
    /// Length of each text
    #[arg(long, value_name = "N", default_value_t = 240, value_parser = clap::value_parser!(u32).range(8..=600))]
    pub(super) tokens: u32,
    /// What a replayed expert takes for one position
    #[arg(long, value_name = "MS", default_value_t = 30)]
    pub(super) c_ms: u32,
    /// What the router's own expert takes for a draft
    #[arg(long, value_name = "MS", default_value_t = 10)]
    pub(super) td_ms: u32,
    /// A batch takes as long as one position, or in proportion to what was measured on two cores
    #[arg(long, value_enum, default_value_t = BatchTimes::Flat)]
    pub(super) batches: BatchTimes,
    /// Experts that decide texts of their own: a file of [[expert]] tables, of which the first K are taken.
    /// Recordings do not say whose they are: keep them in a folder for each list
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) experts: Option<PathBuf>,
    /// Only replay recordings, or only let real experts speak [default: both]
    #[arg(long, value_enum)]
    pub(super) only: Option<WanSource>,
    /// Keep the recordings in this folder, and take those that are there
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) recordings: Option<PathBuf>,
    /// Draw the replayed rows into this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) svg: Option<PathBuf>,
    #[command(flatten)]
    pub(super) machine: MachineFlags,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum BatchTimes {
    Flat,
    Table,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum WanSource {
    Replay,
    Real,
}

#[derive(Debug, Args)]
pub(super) struct BenchMesh {
    #[command(flatten)]
    pub(super) machine: MachineFlags,
    /// How long the four real experts speak, for bytes and exactness
    #[arg(long, value_name = "SECONDS", default_value_t = 180)]
    pub(super) seconds: u64,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct BenchSolo {
    /// [default: the default model]
    pub(super) model: Option<String>,
    #[command(flatten)]
    pub(super) machine: MachineFlags,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Sim {
    /// People halt, resume and change a large mesh: latencies, and promises that must not break
    Gov(SimGov),
    /// Requests on a mesh whose nodes crash, split, lie and halt: nothing unsafe, and every answer comes
    Mesh(SimMesh),
}

#[derive(Debug, Args)]
pub(super) struct SimMesh {
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(super) nodes: u16,
    /// Between every two nodes: lan, metro, continent, intercontinental, satellite, absurd
    #[arg(long, value_name = "NAME", default_value = "metro")]
    pub(super) link: String,
    /// Nothing goes wrong
    #[arg(long)]
    pub(super) calm: bool,
    /// How many histories
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(super) seeds: u64,
    /// The seed of the first one
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub(super) first_seed: u64,
    /// Where a history that breaks a promise is written [default: here]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) keep: Option<PathBuf>,
    /// Print a line of JSON for each history
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct SimGov {
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(super) nodes: usize,
    /// Share of packets that every link loses
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    pub(super) loss: f64,
    /// Share of nodes that take everything and pass nothing on
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub(super) silent: f64,
    /// How many histories
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(super) seeds: u64,
    /// The seed of the first one
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub(super) first_seed: u64,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Completions {
    pub(super) shell: clap_complete::Shell,
}
