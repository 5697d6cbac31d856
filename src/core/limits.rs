//! Every bound in the program, each with its reason. A new collection needs a limit to be merged.

// --- opinions -----------------------------------------------------------------------------------

/// Entries in a list. 256 entries of (id, ln p) fit the 2 KB that one expert may say about a token.
pub const LIST_ENTRIES_MAX: u16 = 256;
/// Bytes one expert may send for one token.
pub const OPINION_BYTES_MAX: usize = 2048;
/// Largest vocabulary: ids travel as 32 bits, tables are per token.
pub const VOCAB_MAX: u32 = 1 << 20;
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

const _: () = {
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
};
