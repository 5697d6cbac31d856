//! `eval`, exactly as typed.

use crate::cli::args::MachineFlags;
use clap::{Args, Subcommand, ValueHint};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum EvalVerb {
    /// Compare the answers of experts with those they decide together, on tasks that can be checked
    Text(EvalText),
}

#[derive(Debug, Args)]
#[command(after_help = "\
A file of tasks:

    [[task]]
    name = \"sum-1\"
    domain = \"sums\"
    prompt = \"12 + 30 =\"
    number = 42                 # the last number of the answer; or: answer = \"text\"; or:
    # program = [\"python3\", \"check.py\"]   # reads {\"prompt\", \"answer\"}, ends with 0 if it is right
    tokens = 16                 # at most [default: 64]
    stop = [\"\\n\"]

Answers are greedy, and kept: a second run only judges, and an interrupted one goes on.")]
pub(in crate::cli) struct EvalText {
    /// A file of [[task]] tables
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[arg(default_value = "research/experts/tasks.toml")]
    pub(in crate::cli) tasks: PathBuf,
    /// A file of [[expert]] tables as in the settings [default: those of the settings]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(in crate::cli) experts: Option<PathBuf>,
    /// Leave these experts out
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub(in crate::cli) without: Vec<String>,
    /// How weights are learned where all answer together
    #[arg(
        long,
        value_name = "RULE,...",
        value_delimiter = ',',
        default_value = "uniform,single,meta"
    )]
    pub(in crate::cli) weights: Vec<String>,
    /// Run the programs that the tasks name: they are the task writer's, and read what experts wrote
    #[arg(long)]
    pub(in crate::cli) run_programs: bool,
    /// Of the intervals
    #[arg(long, value_name = "N", default_value_t = 6)]
    pub(in crate::cli) seed: u64,
    #[command(flatten)]
    pub(in crate::cli) machine: MachineFlags,
    /// Print JSON
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Every expert scores every text once; scores are kept, so a second run computes weights only, and an
interrupted one goes on. research/mixing.md says what is measured, and why.")]
pub(in crate::cli) struct Eval {
    #[command(subcommand)]
    pub(in crate::cli) verb: Option<EvalVerb>,
    /// A folder of texts, with one sub-folder for each domain
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    #[arg(default_value = "research/experts/docs")]
    pub(in crate::cli) docs: PathBuf,
    /// Only these sub-folders
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub(in crate::cli) domains: Vec<String>,
    /// A file of [[expert]] tables as in the settings; the first one is the base [default: those of
    /// the settings]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(in crate::cli) experts: Option<PathBuf>,
    /// An expert of the list that stands outside of the mixture, to compare with
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) against: Option<String>,
    /// A folder with NAME.txt of what an expert was made from, for the gate
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(in crate::cli) profiles: Option<PathBuf>,
    /// Of all draws: documents, positions, intervals
    #[arg(long, value_name = "N", default_value_t = 6)]
    pub(in crate::cli) seed: u64,
    /// Fewer documents: minutes instead of an hour
    #[arg(long)]
    pub(in crate::cli) quick: bool,
    /// Documents that change domain [default: 128; 12 with --quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(in crate::cli) mixed: Option<u16>,
    /// Documents of each domain [default: 24; 2 with --quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(in crate::cli) pure: Option<u16>,
    /// Draw it: an SVG file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(in crate::cli) plot: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) machine: MachineFlags,
    /// Print JSON
    #[arg(long)]
    pub(in crate::cli) json: bool,
}
