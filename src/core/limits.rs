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

// --- the swarm ----------------------------------------------------------------------------------

/// Addresses of one node: two transports on a few interfaces, and two relays.
pub const ADDRESSES_MAX: usize = 8;
/// Bytes of a host name, by the DNS.
pub const HOST_NAME_BYTES_MAX: usize = 253;
/// Bytes of an invite before it becomes text: it is pasted into a chat.
pub const INVITE_BYTES_MAX: usize = 1024;
/// Letters of a pasted invite, line breaks counted.
pub const INVITE_TEXT_BYTES_MAX: usize = 4096;
/// Seconds that an invite may hold. Who waits longer than a month asks for another.
pub const INVITE_S_MAX: u64 = 31 * 86_400;
/// Seconds that two clocks may differ and still understand each other: a day, for a wrong time zone
/// or date, and an hour to say so.
pub const SKEW_S_MAX: u64 = 25 * 3600;
/// Seconds that an admission by invite lasts: as long as an admission may, less the clocks' skew.
pub const ADMISSION_S: u64 = ADMISSION_S_MAX - SKEW_S_MAX;
/// Bytes of an advert: about sixteen experts. It goes to every node every twenty seconds.
pub const ADVERT_BYTES_MAX: usize = 4096;
/// Experts of one advert: more than a machine holds in memory.
pub const ADVERT_EXPERTS_MAX: usize = 16;
/// Bytes of a model's name in an advert.
pub const ADVERT_NAME_BYTES_MAX: usize = 128;
/// Bytes of the name of a family of models.
pub const FAMILY_BYTES_MAX: usize = 32;
/// Microseconds after which an advert that was not refreshed is over: three refreshes lost.
pub const ADVERT_LIFE_US: u64 = 60_000_000;
/// Microseconds between two adverts of one node.
pub const ADVERT_EVERY_US: u64 = 20_000_000;
/// Nodes that the book holds, those that left counted: all of the largest mesh that we test.
pub const BOOK_NODES_MAX: usize = 1024;
/// Bytes of one gossip message.
pub const GOSSIP_BYTES_MAX: usize = 64 << 10;
/// Record names in one page of a sync: 32 KiB.
pub const SYNC_IDS_MAX: usize = 1024;
/// Bytes of one message of a sync, and of the records in it.
pub const SYNC_BYTES_MAX: usize = RECORD_BYTES_MAX + 1024;
/// Pages of one sync: 65,536 records. What is left waits for the next.
pub const SYNC_PAGES_MAX: u32 = 64;
/// Bytes of an answer to an invite: a genesis, and a chain of admissions.
pub const WELCOME_BYTES_MAX: usize = RECORD_BYTES_MAX + 4096;

const _: () = {
    assert!(ADMISSION_CHAIN_MAX * 256 + RECORD_BYTES_MAX < WELCOME_BYTES_MAX);
    assert!(SYNC_IDS_MAX * 32 + 256 < SYNC_BYTES_MAX);
    assert!(ADVERT_BYTES_MAX * 2 < GOSSIP_BYTES_MAX);
    assert!(ADVERT_LIFE_US >= 3 * ADVERT_EVERY_US);
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
