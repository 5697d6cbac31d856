//! Every bound in the program, each with its reason. A new collection needs a limit to be merged.

// --- opinions -----------------------------------------------------------------------------------

/// Entries in a list. 256 entries of (id, ln p) fit the 2 KB that one expert may say about a token.
pub const LIST_ENTRIES_MAX: u16 = 256;
/// Bytes one expert may send for one token.
pub const OPINION_BYTES_MAX: usize = 2048;
/// Untransformed top tokens said for `top_logprobs`: OpenAI's own limit.
pub const RAW_TOP_MAX: u8 = 20;
/// Tokens in one draft: llama.cpp decodes a draft in one batch, which bounds its compute time.
pub const DRAFT_TOKENS_MAX: usize = 64;
/// Smallest tau an expert lowers itself to before it says that there is no mass.
pub const TAU_MIN: f64 = 1e-30;
/// Second questions at one position. Each lowers tau by 16 or names the contenders, so TAU_MIN is
/// reached long before this; only a lying expert gets here.
pub const SECOND_QUESTIONS_MAX: u32 = 32;

// --- a request ----------------------------------------------------------------------------------

/// Stop strings: OpenAI allows 4; a scan costs one comparison each per byte.
pub const STOP_STRINGS_MAX: usize = 16;
/// Bytes of one stop string: as much text as may be held back from the client.
pub const STOP_STRING_BYTES_MAX: usize = 256;
/// Choices of one request (`n`): each is a session of its own.
pub const CHOICES_MAX: u32 = 8;
/// Biased tokens of one request: OpenAI's limit.
pub const BIAS_ENTRIES_MAX: usize = 300;
/// Tokens that the window of the repetition penalty may look back.
pub const REPEAT_LAST_N_MAX: u32 = 8192;

/// Generations of one request, prompts times choices: no more than run at once, so that one client
/// cannot fill the queue with one body.
pub const GENERATIONS_MAX: usize = SESSIONS_MAX;
/// Functions offered in one request: OpenAI's limit.
pub const TOOLS_MAX: usize = 128;
/// Bytes of a model's name, as asked for.
pub const MODEL_NAME_BYTES_MAX: usize = 256;
/// Bytes of a grammar or a JSON schema: it is compiled before the first token.
pub const GRAMMAR_BYTES_MAX: usize = 256 << 10;

// --- a node -------------------------------------------------------------------------------------

/// Sessions that an expert decodes at once. More share each step's time without adding speed.
pub const SESSIONS_MAX: usize = 16;
/// Requests that wait for a session. With 16 running and about 5 s each, the last waits for a
/// minute; a longer queue would only time out later.
pub const QUEUE_MAX: usize = 128;
/// Sequences of a llama.cpp context: running sessions and cached prefixes. It aborts above 256.
pub const SEQUENCES_MAX: usize = 64;
/// Operations waiting at an expert: three for every session and queue place.
pub const EXPERT_OPS_MAX: usize = 1024;
/// Inputs waiting at the driver.
pub const DRIVER_INBOX_MAX: usize = 4096;
/// Models in memory at once, whatever their size.
pub const MODELS_LOADED_MAX: usize = 8;

// --- the API ------------------------------------------------------------------------------------

/// Body of one HTTP or gRPC request: a full context of text, several times over.
pub const BODY_BYTES_MAX: usize = 2 << 20;
/// Messages in one chat.
pub const MESSAGES_MAX: usize = 2048;
/// Bytes of a grammar in Lark or GBNF: each may become a rule's symbol, 64 KB compile in half a second.
pub const GRAMMAR_TEXT_BYTES_MAX: usize = 64 << 10;
/// Nesting of a schema or of a grammar's brackets: compilers recurse.
pub const GRAMMAR_NESTING_MAX: usize = 64;
/// Open API connections.
pub const API_CONNECTIONS_MAX: usize = 512;

// --- governance ---------------------------------------------------------------------------------

/// Participants of a mesh.
pub const PARTICIPANTS_MAX: usize = 64;
/// Unlifted halts of one author; more fold to a flood, lifted only by suspending the author.
pub const HALTS_PER_AUTHOR_MAX: usize = 64;
/// Bytes of a halt's reason.
pub const HALT_REASON_BYTES_MAX: usize = 512;
/// Bytes of a halt: it must pass where little else does.
pub const HALT_BYTES_MAX: usize = 1024;
/// Bytes of any other signed record: one gossip message.
pub const RECORD_BYTES_MAX: usize = 64 << 10;
/// Entries of others that one entry may build on: one for each participant.
pub const CAUSAL_REFS_MAX: usize = PARTICIPANTS_MAX;
/// Entries of one author, branches of a fork counted: about one for every hour of seven years. Who
/// needs more takes a new key.
pub const FEED_ENTRIES_MAX: u64 = 1 << 16;
/// Bytes of the entries of one author: 50,000 votes.
pub const FEED_BYTES_MAX: usize = 16 << 20;
/// Open proposals of one author that are shown; any number may be certified.
pub const PROPOSALS_SHOWN_MAX: usize = 16;
/// Halts and conflicts that one resume may lift: 32 KiB of ids.
pub const LIFTS_MAX: usize = 1024;
/// Witnesses of a mesh.
pub const WITNESSES_MAX: usize = 16;
/// Nodes that a genesis may name; all others are admitted by one of them.
pub const GENESIS_NODES_MAX: usize = 64;
/// Bytes of the exit criteria of one phase.
pub const CRITERIA_BYTES_MAX: usize = 1024;
/// Admissions between a genesis node and the last one admitted.
pub const ADMISSION_CHAIN_MAX: usize = 3;
/// Seconds that an admission may last: a forgotten machine drops out within a year.
pub const ADMISSION_S_MAX: u64 = 366 * 86_400;
/// Admissions that a node keeps: all members of the largest mesh that we test, four times over.
pub const ADMISSIONS_MAX: usize = 4096;
/// Revocations of one author that a node keeps.
pub const REVOCATIONS_PER_AUTHOR_MAX: usize = 1024;
/// Checkpoints that a node keeps: two for each state of the feeds and each set of witnesses. Beyond
/// this it takes no more, so leases run out: safe, but idle.
pub const CHECKPOINTS_MAX: usize = 1 << 16;
/// Seconds that a major change is looked at, by the witnesses' clocks: a day, and five minutes for
/// clocks that disagree.
pub const REVIEW_S: u64 = 24 * 3600 + 300;
/// Seconds over which small steps of one key add up.
pub const SALAMI_WINDOW_S: u64 = 24 * 3600;
/// Seconds between a proposal's advisory time and its expiry.
pub const PROPOSAL_S_MAX: u64 = 7 * 86_400;
/// Seconds that the local clock may be behind the witnesses before the node only reads.
pub const CLOCK_SKEW_S_MAX: u64 = 600;
/// Largest steps that a batch may add up to and still be minor.
pub const BATCH_STEPS_MAX: u64 = 2;
/// Largest share of sessions that an experiment may touch, in parts per million.
pub const EXPERIMENT_SHARE_PPM_MAX: u32 = 10_000;
/// Config versions that one halt may take back.
pub const REVERT_MAX: u8 = 16;

/// Bytes of one frame of a journal: a record, and what stands around it.
pub const FRAME_BYTES_MAX: usize = RECORD_BYTES_MAX + 64;
/// Bytes of a node's log, and of a file of records that is read: all that 16 members may ever say.
/// Beyond it only halts are kept.
pub const LEDGER_BYTES_MAX: u64 = 16 * FEED_BYTES_MAX as u64;
/// Bytes of a node's log from which on it is written anew, without what is over, when it is opened.
pub const LEDGER_SPARSE_BYTES: u64 = 1 << 20;
/// Halts in the latch beside those in the log: one holds the node, the others say who else.
pub const LATCHED_HALTS_MAX: usize = 8;
/// Bytes of a latch, whatever it holds: it is written in place, so a full disk cannot keep a halt out.
pub const LATCH_BYTES: usize = 12 << 10;
/// Bytes of the journal of permits before it begins anew; the one before is kept.
pub const AUDIT_BYTES_MAX: u64 = 8 << 20;
/// Meshes that one vote key remembers.
pub const SIGNER_MESHES_MAX: usize = 64;

const _: () = {
    assert!(LATCHED_HALTS_MAX * (HALT_BYTES_MAX + 2) + 1024 < LATCH_BYTES);
    assert!(
        LIST_ENTRIES_MAX as usize * 6 < OPINION_BYTES_MAX,
        "a full list fits an opinion"
    );
    assert!(
        SESSIONS_MAX < SEQUENCES_MAX,
        "some sequences stay for cached prefixes"
    );
    assert!(SEQUENCES_MAX <= 256, "llama.cpp aborts above 256 sequences");
    assert!(EXPERT_OPS_MAX >= 3 * (SESSIONS_MAX + QUEUE_MAX));
    assert!(DRIVER_INBOX_MAX >= EXPERT_OPS_MAX);
    assert!(HALT_REASON_BYTES_MAX + 256 <= HALT_BYTES_MAX);
    assert!(
        LIFTS_MAX * 32 + CAUSAL_REFS_MAX * 32 + PARTICIPANTS_MAX * 32 + 1024 < RECORD_BYTES_MAX
    );
    assert!(REVIEW_S < PROPOSAL_S_MAX);
};
