//! `quorate gov`, as typed.

use clap::{Args, Subcommand, ValueEnum, ValueHint};
use std::path::PathBuf;

const AFTER_HELP: &str = "\
A walk, with the keys on sticks and the mesh on a node:
  quorate gov keygen --out /stick/ada.key                  each person, once
  quorate gov init --preset solo --participant /stick/ada.key.pub
  quorate gov propose config serving.gather_us=600         writes a request
  quorate gov sign *.request --key /stick/ada.key          on any machine, without a network
  quorate gov import *.parcel                              back on the node
  quorate gov halt --reason smoke --key /stick/ada.key     one person stops everything
  quorate gov resume --key /stick/ada.key                  and enough of them go on
  quorate gov export --out log.parcel; quorate gov verify log.parcel

With --key a verb signs at once; without, it writes a request for `quorate gov sign`.
Without --log a verb reads the mesh of this home; with --log FILE an exported one.";

#[derive(Debug, Subcommand)]
#[command(after_help = AFTER_HELP)]
pub(in crate::cli) enum Gov {
    /// Make a vote key: an encrypted file for a stick, never for a node
    Keygen(Keygen),
    /// Found a mesh in this home
    Init(Init),
    /// Propose a change for people to vote on
    #[command(subcommand)]
    Propose(Propose),
    /// Vote on an open proposal
    Vote(Vote),
    /// Stop the mesh: one person is enough
    Halt(Halt),
    /// Propose that the mesh goes on
    Resume(Resume),
    /// Take a machine, or one admission, out of the mesh: one person is enough
    Revoke(Revoke),
    /// Sign a request that was written elsewhere
    Sign(Sign),
    /// Take signed files into the mesh of this home
    Import(Import),
    /// Write the whole mesh into one file that anybody can verify
    Export(Export),
    /// Check an exported file (a mesh, or an audit log), with no node and no trust
    Verify(Verify),
    /// Show what a file says, or what an id of this mesh stands for
    Show(Show),
    /// Show all that was signed, and which halts are over
    Log(Log),
    /// Show how the mesh stands
    Status(Status),
    /// Show what this node allowed and refused, or write it into a file that anybody can verify
    Audit(Audit),
    /// What this node refuses beyond what its mesh forbids
    #[command(subcommand)]
    Policy(Policy),
    /// Stop a mesh of real processes in the middle of their streams, and say how quick it was
    Drill(Drill),
    /// One process of a drill
    #[command(hide = true)]
    DrillNode,
}

/// Which mesh is meant.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Mesh")]
pub(super) struct Where {
    /// An exported file [default: the mesh of this home]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) log: Option<PathBuf>,
}

/// The key, and where what it signs goes.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Signing")]
pub(super) struct Signing {
    /// Sign with this vote key, instead of writing a request
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) key: Option<PathBuf>,
    #[command(flatten)]
    pub(super) passphrase: PassphraseFlag,
    /// Write to this file [default: signed at home: into the mesh; else a file named after its content]
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) out: Option<PathBuf>,
    /// Do not ask before signing
    #[arg(long, short)]
    pub(super) yes: bool,
}

#[derive(Debug, Default, Args)]
pub(super) struct PassphraseFlag {
    /// Read the passphrase from the first line of this file, instead of asking
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Keygen {
    /// Where the key goes, e.g. /media/stick/ada.key
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) out: PathBuf,
    #[command(flatten)]
    pub(super) passphrase: PassphraseFlag,
    /// For tests: a key whose passphrase is quickly guessed
    #[arg(long)]
    pub(super) throw_away: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum PresetName {
    /// One person, no witnesses
    Solo,
    /// For tests: any number of people; its keys protect nothing
    Lab,
    /// Three people or more, three witnesses or more
    Community,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Init {
    #[arg(long)]
    pub(super) preset: PresetName,
    /// The public key of a person, or the .pub file that holds it; once for each person
    #[arg(long, value_name = "KEY", required = true)]
    pub(super) participant: Vec<String>,
    /// The id or public key of a node that says what it has seen and when; once for each
    #[arg(long, value_name = "NODE")]
    pub(super) witness: Vec<String>,
    /// Witnesses that make a checkpoint [default: more than half]
    #[arg(long, value_name = "N")]
    pub(super) witnesses_needed: Option<u8>,
    /// The id of a node that may admit others; this node is one
    #[arg(long, value_name = "NODE")]
    pub(super) node: Vec<String>,
    /// Phase in which the mesh begins: 0 reads only, 1 suggests, 2 makes minor changes, 3 major ones
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) phase: u8,
    /// What must be shown before phases 1, 2 and 3: a file with three lines [default: the preset's]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) criteria: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Propose {
    /// Change settings of the mesh
    Config(ProposeConfig),
    /// Go one phase up with a vote, or down at once
    Phase(ProposePhase),
    /// Change who decides and who witnesses
    Membership(ProposeMembership),
    /// Let no halt take the config back below a version
    MinSafe(ProposeMinSafe),
}

#[derive(Debug, Args)]
pub(super) struct Proposing {
    #[command(flatten)]
    pub(super) mesh: Where,
    #[command(flatten)]
    pub(super) signing: Signing,
    /// Days until the proposal is void
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=7))]
    pub(super) days: u8,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ProposeConfig {
    /// Settings, e.g. serving.gather_us=600; `quorate gov status` shows all
    #[arg(required = true, value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
    #[command(flatten)]
    pub(super) how: Proposing,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ProposePhase {
    #[arg(value_name = "0-3")]
    pub(super) phase: u8,
    /// What shows that the exit criteria are met: its hash goes into the vote
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) evidence: Option<PathBuf>,
    #[command(flatten)]
    pub(super) how: Proposing,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ProposeMembership {
    /// The public key of a new participant, or its .pub file
    #[arg(long, value_name = "KEY")]
    pub(super) add: Vec<String>,
    /// A participant who leaves: the first letters of the key are enough
    #[arg(long, value_name = "KEY")]
    pub(super) remove: Vec<String>,
    #[arg(long, value_name = "NODE")]
    pub(super) add_witness: Vec<String>,
    #[arg(long, value_name = "NODE")]
    pub(super) remove_witness: Vec<String>,
    /// Witnesses that make a checkpoint [default: more than half]
    #[arg(long, value_name = "N")]
    pub(super) witnesses_needed: Option<u8>,
    #[command(flatten)]
    pub(super) how: Proposing,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ProposeMinSafe {
    pub(super) version: u64,
    #[command(flatten)]
    pub(super) how: Proposing,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Vote {
    /// The first letters of the proposal's id; `quorate gov status` shows what is open
    pub(super) proposal: String,
    /// Say no. It stops nothing that enough others say yes to
    #[arg(long)]
    pub(super) no: bool,
    #[command(flatten)]
    pub(super) mesh: Where,
    #[command(flatten)]
    pub(super) signing: Signing,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Halt {
    /// Why: everybody who is stopped reads it
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: String,
    /// The id of the mesh, where neither a home nor a file says it
    #[arg(long, value_name = "HEX", conflicts_with = "log")]
    pub(super) network: Option<String>,
    /// Hand it to this node, from a machine without one: an invite, or host:port; again for more
    #[arg(long, value_name = "INVITE|ADDRESS")]
    pub(super) to: Vec<String>,
    #[command(flatten)]
    pub(super) mesh: Where,
    #[command(flatten)]
    pub(super) signing: Signing,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Resume {
    /// Suspend this participant in the same vote: the answer to a stolen key
    #[arg(long, value_name = "KEY")]
    pub(super) suspend: Vec<String>,
    /// The config version in which the mesh runs again [default: the newest accepted one]
    #[arg(long, value_name = "VERSION")]
    pub(super) restart: Option<u64>,
    #[command(flatten)]
    pub(super) how: Proposing,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(in crate::cli) struct Revoke {
    /// The id of a node
    #[arg(required_unless_present = "admission")]
    pub(super) node: Option<String>,
    /// The id of one admission, instead of a node
    #[arg(long, value_name = "HEX", conflicts_with = "node")]
    pub(super) admission: Option<String>,
    #[command(flatten)]
    pub(super) mesh: Where,
    #[command(flatten)]
    pub(super) signing: Signing,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Sign {
    /// The request: a file that `propose`, `vote`, `halt`, `resume` or `revoke` wrote
    #[arg(value_hint = ValueHint::FilePath)]
    pub(super) request: PathBuf,
    #[command(flatten)]
    pub(super) mesh: Where,
    #[command(flatten)]
    pub(super) signing: Signing,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Import {
    #[arg(required = true, value_hint = ValueHint::FilePath)]
    pub(super) files: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Export {
    /// Where it goes; it must not be there yet
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) out: PathBuf,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Audit {
    /// Write all of it to this file, signed with this node's own key; it must not be there yet
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) out: Option<PathBuf>,
    /// Show so many of the newest lines
    #[arg(long, value_name = "N", default_value_t = 50, conflicts_with = "out")]
    pub(super) last: usize,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Policy {
    /// Say whether a file of rules is good; the node refuses everything of its mesh under a bad one
    Check(PolicyCheck),
    /// Print a file of rules with comments, all switched off
    Example,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PolicyCheck {
    /// Cedar rules [default: policy.cedar beside this node's settings]
    #[arg(value_hint = ValueHint::FilePath)]
    pub(super) file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Verify {
    #[arg(value_hint = ValueHint::FilePath)]
    pub(super) file: PathBuf,
    /// The mesh that it must be, by its id
    #[arg(long, value_name = "HEX")]
    pub(super) network: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Show {
    /// A file (request, parcel), or the first letters of an id
    pub(super) what: String,
    #[command(flatten)]
    pub(super) mesh: Where,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Log {
    #[command(flatten)]
    pub(super) mesh: Where,
    /// Go on showing what is signed, until interrupted
    #[arg(long, short)]
    pub(super) follow: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Status {
    #[command(flatten)]
    pub(super) mesh: Where,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Drill {
    /// Processes, each a node with an expert
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u8).range(2..=32))]
    pub(super) nodes: u8,
    /// A model that every expert is, each with a prefix of its own [default: made-up experts of 50 ms a token]
    #[arg(long, value_name = "MODEL")]
    pub(super) model: Option<String>,
    /// Ten ports a node, from here on
    #[arg(long, value_name = "PORT", default_value_t = 19860)]
    pub(super) base_port: u16,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}
