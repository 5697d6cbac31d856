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

// --- the mesh, from who asks ---------------------------------------------------------------------

/// Experts that one request may ever turn to: each that is woken reads the whole text.
pub const CANDIDATES_MAX: usize = 12;
/// Experts asked at once, spares counted: each costs the router a list a token.
pub const TEAM_MAX: usize = 16;
/// Entries of a set schedule. Who changes the set at every second token has no mesh.
pub const SET_CHANGES_MAX: usize = 1024;
/// Microseconds that an expert of unknown pace may take for a token.
pub const DEADLINE_TOKEN_MAX_US: u64 = 5_000_000;
/// Microseconds that an expert of unknown pace may take to read a text: a full context on a processor.
pub const DEADLINE_READ_MAX_US: u64 = 120_000_000;
/// Microseconds that the last expert of a set is waited for beyond its deadline.
pub const GIVE_UP_US: u64 = 30_000_000;
/// Experts that a node knows: a mesh of 280 nodes with three each.
pub const ROSTER_MAX: usize = 1024;
/// Tokens that a client was told and has not read: then nothing more is decided or guessed for it until it has.
/// A quick expert writes them in some seconds, so that who reads in bursts does not slow it down.
pub const UNREAD_TOKENS_MAX: u32 = 256;
/// Tokens of which a client's reading is told in one message.
pub const READ_TOKENS: u32 = 16;
/// A client that reads nothing for so long is cut off: it holds a place, and experts elsewhere forget a session
/// that says nothing for longer.
pub const UNREAD_US_MAX: u64 = 100_000_000;
/// Tokens guessed ahead of the decision: at nine right guesses in ten, one in a hundred reaches further.
pub const GUESSES_MAX: usize = 48;
/// Branches of a session: with the text itself four sequences, of which `SEQUENCES_MAX` holds those of all sessions.
pub const BRANCHES_MAX: usize = 3;
/// Tokens of a branch: what a drafter of 10 ms goes on with while a rejection comes from a quarter of a second away.
pub const BRANCH_TOKENS_MAX: usize = 24;
/// Tokens that must stand in the text a second time before what followed them is guessed again.
pub const REPEAT_TOKENS_MIN: usize = 3;
/// Tokens that weights on given text may lag behind: at 32 a pilot had lost all of the gain.
pub const WEIGHT_LAG_MAX: u32 = 256;
/// Tokens of an answer after which an expert outside the set says what it thinks of them: a pilot chose
/// anew every 16.
pub const CATCH_UP_TOKENS: usize = 16;
/// Tokens that are scored with one opinion: twice a catch-up, for those that were behind.
pub const SCORES_MAX: u16 = 32;
/// Tokens of an expert's published profile: 4 KB beside its advert, and what tells domains apart.
pub const PROFILE_TOKENS_MAX: usize = 512;
/// Numbers that say what a text is about: two texts that share nothing are alike by an eighth, by chance.
pub const GATE_TOPIC_BUCKETS: usize = 64;
/// Tokens of a text that are looked at for it: a page.
pub const GATE_TOPIC_TOKENS_MAX: usize = 2048;
/// Experts of one vocabulary of which a node keeps what they gained: more than one request ever asks.
pub const GATE_EXPERTS_MAX: usize = 16;
/// Vocabularies for which it does: those of the models that a mesh agrees on.
pub const GATE_VOCABULARIES_MAX: usize = 4;
/// Nodes whose word about experts counts: their middle moves little beyond this, and all of them are 2 MB.
pub const GATE_VOICES_MAX: usize = 256;
/// Days after which what a node said of experts, or an expert that nobody advertised, is forgotten.
pub const GATE_DAYS_MAX: u32 = 30;
/// Bytes of what one node says of experts, once a day: 1.7 KB for each vocabulary.
pub const GATE_VOICE_BYTES_MAX: usize = 8 << 10;
/// Requests of which a node has not yet counted who knew them: those of a quarter of a minute.
pub const GATE_SEEN_MAX: usize = 256;
/// Bytes of the file in which a node keeps its own history.
pub const GATE_FILE_BYTES_MAX: usize = 128 << 10;
/// Secrets of past requests that a node remembers: who asks with the same seed again and again does so
/// in a row.
pub const SECRETS_MAX: usize = 256;
/// What requests of this process's own experts compute, for each unit that audits may: 2 %.
pub const AUDIT_SHARE: u64 = 50;
/// Requests at once of which something may be computed again: 64 positions with a list of every expert each.
pub const AUDITS_WATCHED_MAX: usize = 16;
/// Ended requests of which something waits to be computed again: their texts stay in memory for it.
pub const AUDITS_WAITING_MAX: usize = 4;
/// Answers that an expert's pace is measured by: recent ones, since loads change within minutes.
pub const RESPONSE_SAMPLES: usize = 64;

// --- a node -------------------------------------------------------------------------------------

/// Sessions that an expert decodes at once. More share each step's time without adding speed.
pub const SESSIONS_MAX: usize = 16;
/// Requests that wait for a session. With 16 running and about 5 s each, the last waits for a
/// minute; a longer queue would only time out later.
pub const QUEUE_MAX: usize = 128;
/// Sequences of a llama.cpp context: running sessions and cached prefixes. It aborts above 256.
pub const SEQUENCES_MAX: usize = 64;
/// The same for an expert with an adapter, of which there are many: every sequence takes a row of
/// logits. Fewer prefixes stay in the cells; those that are parked outside take no sequence.
pub const ADAPTER_SEQUENCES_MAX: usize = SESSIONS_MAX + 8;
/// Operations waiting at an expert: three for every session and queue place of the owner, and what
/// guests may send during a step of 100 ms.
pub const EXPERT_OPS_MAX: usize = 6144;
/// Inputs waiting at the driver.
pub const DRIVER_INBOX_MAX: usize = 6144;
/// Models in memory at once, whatever their size.
pub const MODELS_LOADED_MAX: usize = 8;

// --- guests: sessions of other people's routers --------------------------------------------------

/// Sessions of others that a node knows: what runs on its experts, and a few waiting for each.
pub const GUESTS_MAX: usize = 256;
/// Of one peer: a router's sessions, on every expert of this node.
pub const GUESTS_PER_PEER_MAX: usize = 64;
/// Guests that wait for a slot.
pub const GUESTS_WAITING_MAX: usize = 64;
/// A guest waits this long for a slot before it is told to come back later: about as long as its
/// router would wait for any expert.
pub const GUEST_WAIT_US_MAX: u64 = 2_000_000;
/// A guest that asks nothing for this long is forgotten: its router hears every token of a session
/// that is alive, spares included.
pub const GUEST_IDLE_US_MAX: u64 = 120_000_000;
/// Operations kept for a guest that waits for a slot: its first question, and what is decided
/// meanwhile by others.
pub const GUEST_OPS_WAITING_MAX: usize = 16;
/// Operations of one guest at once, beyond those that the expert has answered: a whole window of guesses that
/// a lost packet held up, with its branches, what takes it back, and the next window...
pub const GUEST_OPS_BURST: u32 = 256;
/// ...and how fast they come back: tokens pushed to a spare arrive at the speed of a stream.
pub const GUEST_OP_REFILL_US: u64 = 2_000;
/// Events waiting for a guest whose connection is slow; then it is cut off.
pub const GUEST_EVENTS_MAX: usize = 128;
/// Longest time that "come back later" names: hours of a schedule are asked again.
pub const BUSY_RETRY_MS_MAX: u32 = 3_600_000;
/// Hours in which a node gives, a day.
pub const DONOR_WINDOWS_MAX: usize = 16;
/// `[[expert]]` tables of a node: more than it could hold in memory.
pub const EXPERTS_MAX: usize = 16;
/// Bytes of an expert's name.
pub const EXPERT_NAME_BYTES_MAX: usize = 64;
/// Bytes of a private prefix: tokens of it are computed at loading, and every session holds them.
pub const PREFIX_BYTES_MAX: usize = 64 << 10;
/// Experts on one model in memory, each with a context of its own: as many as models.
pub const BASE_EXPERTS_MAX: usize = MODELS_LOADED_MAX;
/// What waits at the thread of one model in memory: the operations of every expert on it, and one
/// that comes and one that goes for each.
pub const BASE_MAIL_MAX: usize = BASE_EXPERTS_MAX * (EXPERT_OPS_MAX + 2);
/// Installed adapters: a listing reads a manifest of each.
pub const ADAPTERS_MAX: usize = 256;
/// Bytes of an adapter's file: rank 64 on every projection of a model of 8B takes 670 MB in f32.
/// More is refused before it is read.
pub const ADAPTER_BYTES_MAX: u64 = 1 << 30;
/// Rank of an adapter. Above it a whole model is smaller.
pub const ADAPTER_RANK_MAX: u64 = 1024;
/// Bytes of an adapter's settings: a few names, and what trainers add.
pub const ADAPTER_CONFIG_BYTES_MAX: u64 = 256 << 10;
/// Bytes of a safetensors header: 150 for each of the 14 tensors of 500 layers are a quarter of it.
pub const SAFETENSORS_HEADER_BYTES_MAX: u64 = 4 << 20;
/// Peers that one expert's allow list may name.
pub const ALLOWED_PEERS_MAX: usize = 1024;
/// Experts of other nodes that one node knows: all nodes of the largest mesh that we test.
pub const REMOTE_EXPERTS_MAX: usize = 1024;

// --- recordings ---------------------------------------------------------------------------------

/// Bytes of a recording, and of all masks in it once unpacked: a context of 8,192 tokens with four
/// experts' longest lists at every position is 51 MB; with a mask of 128k tokens at each, 131 MB.
pub const RECORDING_BYTES_MAX: usize = 128 << 20;
/// Answers that a node records at once: each may fill a recording.
pub const RECORDINGS_MAX: usize = 4;
/// Bytes of a recording in one event of a stream: a line of less than a megabyte once it is text.
pub const RECORDING_PART_BYTES: usize = 512 << 10;
/// Entries of a vocabulary in a recording: four times the largest of today's.
pub const VOCABULARY_MAX: u32 = 1 << 20;
/// Bytes of a token in a recording: the longest runs of spaces in today's vocabularies have 128.
pub const PIECE_BYTES_MAX: usize = 1024;

// --- evaluation ----------------------------------------------------------------------------------

/// Files of a folder of texts: more are not looked at.
pub const EVAL_FILES_MAX: usize = 4096;
/// Bytes of a file that are read: a window of some hundred tokens is taken out of them.
pub const EVAL_FILE_BYTES_MAX: u64 = 64 << 10;
/// Folders in folders of texts.
pub const EVAL_DEPTH_MAX: usize = 16;
/// Tasks of a file, and its bytes: each is answered by every expert.
pub const EVAL_TASKS_MAX: usize = 1024;
pub const EVAL_TASKS_BYTES_MAX: u64 = 4 << 20;
/// Tokens of an answer that is judged.
pub const EVAL_ANSWER_TOKENS_MAX: u32 = 256;

// --- the token plane -----------------------------------------------------------------------------

/// Tokens of a session's text as it crosses a network: the longest context of today's small models.
pub const PLANE_TOKENS_MAX: usize = 128 << 10;
/// Bytes of a first frame: that many tokens of five bytes each, and the rest of an `Open`.
pub const OPEN_BYTES_MAX: usize = 1 << 20;
/// Bytes of any later question, and of the masks in it once unpacked: eight of 128k tokens.
pub const QUESTION_BYTES_MAX: usize = 128 << 10;
/// Bytes of an answer: the scores of the longest prompt, or an opinion for every token of a draft.
pub const ANSWER_BYTES_MAX: usize = 384 << 10;
/// Tokens whose exact values one question may ask for: two bytes each, and two for the
/// untransformed value, fill an opinion.
pub const SCALARS_MAX: usize = 480;
/// Bytes of what governance has come to, as an `Open` shows it.
pub const GOVERNANCE_HEAD_BYTES_MAX: usize = 4096;
/// Nodes that a question may have come through: a mesh that asks a mesh that asks a mesh.
pub const PATH_MAX: usize = 3;
/// Operations of a router that wait behind its last question to a mesh: as many as one expert keeps.
pub const MIXTURE_OPS_MAX: usize = 64;
/// Bytes of the reason in a failure.
pub const FAILURE_TEXT_BYTES_MAX: usize = 512;
/// A frame that has begun is there, or has left, within this: nobody holds a buffer by sending slowly.
pub const FRAME_MS_MAX: u64 = 10_000;
/// Direct connections of a node, dialled and accepted.
pub const PLANE_CONNECTIONS_MAX: usize = 256;
/// Accepted from one peer: one, and one that has died and is not known to have.
pub const PLANE_CONNECTIONS_PER_PEER_MAX: usize = 2;
/// Streams that a peer may have open on one connection: its sessions, and some that are ending.
pub const PLANE_STREAMS_MAX: u32 = 128;
/// Streams that were opened and that nobody has taken yet.
pub const PLANE_ARRIVALS_MAX: usize = 64;
/// Addresses of one peer that are tried at once.
pub const PLANE_ADDRESSES_MAX: usize = 8;
/// A direct connection stands within this, or another path is taken: three round trips of half a
/// second, and one lost packet.
pub const PLANE_DIAL_MS_MAX: u64 = 3_000;
/// A stream to an expert stands within this, by whatever path.
pub const REMOTE_DIAL_MS_MAX: u64 = 10_000;
/// An accepted connection without a session is closed after this.
pub const PLANE_UNUSED_MS: u64 = 10_000;
/// Sessions of this node on one remote expert: the other side takes no more of one peer.
pub const REMOTE_SESSIONS_MAX: usize = GUESTS_PER_PEER_MAX;
/// Operations waiting for one session's stream: the other side takes no more at once.
pub const REMOTE_OPS_MAX: usize = GUEST_OPS_BURST as usize;

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

// --- emulated links -----------------------------------------------------------------------------

/// Delay and jitter of a link: longer than any path on Earth, and than any of our timeouts.
pub const LINK_DELAY_US_MAX: u32 = 10_000_000;
/// Queue in front of a link: at least the largest datagram fits.
pub const LINK_QUEUE_BYTES_MIN: u32 = 64 << 10;
/// No router buffers more.
pub const LINK_QUEUE_BYTES_MAX: u32 = 64 << 20;
/// Time that a full queue takes to leave: after that everybody has given up.
pub const LINK_DRAIN_US_MAX: u64 = 10_000_000;
/// Bytes under way on one link: a gigabit line of half a second.
pub const LINE_BYTES_MAX: usize = 64 << 20;
/// Conversations (address pairs) that one relay keeps: every peer of a large testnet.
pub const RELAY_FLOWS_MAX: usize = 256;
/// Seconds after which a silent conversation is forgotten: home routers wait longer.
pub const RELAY_FLOW_IDLE_S: u64 = 60;
/// Datagrams between the listening socket and one conversation.
pub const RELAY_FLOW_INBOX_MAX: usize = 256;
/// Streams that one relay carries.
pub const RELAY_STREAMS_MAX: usize = 256;
/// Bytes of a stream that share one fate: what TCP puts into one Ethernet frame.
pub const RELAY_SEGMENT_BYTES: usize = 1448;
/// Segments of one stream under way: about 6 MB, the largest window that Linux offers by default.
pub const RELAY_SEGMENTS_MAX: usize = 4096;

// --- governance ---------------------------------------------------------------------------------

/// Participants of a mesh.
pub const PARTICIPANTS_MAX: usize = 64;
/// Unlifted halts of one author; more fold to a flood, lifted only by suspending the author.
pub const HALTS_PER_AUTHOR_MAX: usize = 64;
/// Halts that are over, which a node keeps for people to read: a full resume's worth. 1 MiB at most.
pub const LIFTED_HALTS_MAX: usize = LIFTS_MAX;
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
/// Halts that a stranger may bring at once: a person signs one.
pub const CARRIED_HALTS_MAX: usize = 4;
/// Halts of strangers that a node verifies in a second: 2 ms of a processor.
pub const CARRIED_HALTS_PER_S_MAX: usize = 32;
/// What a watcher of the mesh's records may be behind, before he is cut off.
pub const NEWS_MAX: usize = 256;
/// Parcels of signed records that wait to be taken: people bring them.
pub const DELIVERIES_MAX: usize = 16;
/// Real processes of one testnet: each loads a model of its own into one machine.
pub const TESTNET_NODES_MAX: usize = 32;
/// Invites that a node's owner took back: they expire by themselves, and each takes a line of a file.
pub const INVITES_REVOKED_MAX: usize = 4096;
/// Nodes that the owner's lists of allowed or blocked ones may name: all of the largest mesh that we test.
pub const MESH_LISTED_MAX: usize = 1024;
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
/// Bytes of an advert: about sixteen experts. It goes to every node every five minutes.
pub const ADVERT_BYTES_MAX: usize = 4096;
/// Experts of one advert: more than a machine holds in memory.
pub const ADVERT_EXPERTS_MAX: usize = 16;
/// Bytes of a model's name in an advert.
pub const ADVERT_NAME_BYTES_MAX: usize = 128;
/// Bytes of the name of a family of models.
pub const FAMILY_BYTES_MAX: usize = 32;
/// Microseconds after which an advert that was not refreshed is over: three refreshes lost. Who is
/// connected to a node knows sooner, by its pings.
pub const ADVERT_LIFE_US: u64 = 900_000_000;
/// Microseconds between two adverts of one node that say the same: with 200 nodes everybody still
/// sends less than 1 KB/s of them (research/measurements/mesh.md). What has changed is told at once.
pub const ADVERT_EVERY_US: u64 = 300_000_000;
/// Microseconds for which nobody is asked after two processes spoke under one key: three turns of
/// theirs, since they answer each other every twenty seconds.
pub const TWINS_US: u64 = 60_000_000;
/// Microseconds between two answers of a node to words of its own key that it has not said.
pub const ECHO_EVERY_US: u64 = 20_000_000;
/// Nodes that the book holds, those that left counted: all of the largest mesh that we test.
pub const BOOK_NODES_MAX: usize = 1024;
/// Bytes of one gossip message.
pub const GOSSIP_BYTES_MAX: usize = 64 << 10;
/// Nodes of one question who is there: all of the book, and the asker. 16 KiB.
pub const SYNC_HEARD_MAX: usize = BOOK_NODES_MAX + 1;
/// Microseconds between two questions who is there, each to another neighbour: they repair what
/// gossip has lost.
pub const SYNC_ADVERTS_EVERY_US: u64 = 60_000_000;
/// Record names in one page of a sync: 32 KiB.
pub const SYNC_IDS_MAX: usize = 1024;
/// Bytes of one message of a sync, and of the records in it.
pub const SYNC_BYTES_MAX: usize = RECORD_BYTES_MAX + 1024;
/// Pages of one sync: 65,536 records. What is left waits for the next.
pub const SYNC_PAGES_MAX: u32 = 64;
/// Bytes of an answer to an invite: a genesis, and a chain of admissions.
pub const WELCOME_BYTES_MAX: usize = RECORD_BYTES_MAX + 4096;

/// Members that a node dials of itself; who dials in comes on top. Every member of a small mesh, so that
/// all notice a crash by its pings; those of twelve links are 1 KB/s, and what an idle node can afford.
pub const SWARM_LINKS_MAX: usize = 12;
/// Members beyond those that the node wants to be connected to: no other way leads to their experts.
pub const SWARM_WANTED_MAX: usize = 64;
/// They are wanted for so long after they were asked for.
pub const SWARM_WANTED_MS: u64 = 60_000;
/// Swarm connections in all: members, and strangers at the door.
pub const SWARM_CONNECTIONS_MAX: u32 = 256;
/// Connections in the middle of a handshake, from others: each costs a key exchange.
pub const SWARM_PENDING_MAX: u32 = 16;
/// Of one peer: dialled by both at once, one through a relay, one to test an address.
pub const SWARM_CONNECTIONS_PER_PEER_MAX: u32 = 4;
/// Connected peers that are no members: they show an invite or an admission, or leave.
pub const STRANGERS_MAX: usize = 32;
/// A stranger leaves within this: three round trips of half a second, and slow hands.
pub const STRANGER_MS_MAX: u64 = 10_000;
/// Dials under way.
pub const SWARM_DIALS_MAX: usize = 16;
/// Pause between two dials of one peer: it doubles from the first to this.
pub const REDIAL_MS_MAX: u64 = 60_000;
/// Questions under way to one peer, pushed news counted; what is not pushed is synced.
pub const SYNC_FLIGHTS_MAX: usize = 16;
/// An answer is there within this.
pub const SYNC_MS_MAX: u64 = 10_000;
/// Pause between two syncs with one peer.
pub const SYNC_EVERY_MS: u64 = 30_000;
/// Events that wait for the node.
pub const SWARM_EVENTS_MAX: usize = 256;
/// Commands that wait for the swarm.
pub const SWARM_COMMANDS_MAX: usize = 64;
/// Nodes on the LAN that are no members and are not dialled again for a while.
pub const MDNS_STRANGERS_MAX: usize = 256;
/// Relays through which a node that nobody can reach is reached: one may go.
pub const RELAYS_MAX: usize = 2;
/// Reservations and circuits of a relay: all of a testnet; each circuit costs a task and a buffer.
pub const RELAY_CIRCUITS_MAX: usize = 64;
/// Circuits of one peer: eleven homes that all meet through one relay fill it.
pub const RELAY_CIRCUITS_PER_PEER_MAX: usize = 16;
/// Bytes of one circuit: hours of opinions, or a few long prompts.
pub const RELAY_CIRCUIT_BYTES_MAX: u64 = 256 << 20;
/// A join is answered within this, or another address is needed.
pub const JOIN_MS_MAX: u64 = 20_000;
/// Last words are heard within this, or the node leaves without.
pub const LEAVE_MS_MAX: u64 = 1_000;

const _: () = {
    assert!(SYNC_FLIGHTS_MAX * SYNC_BYTES_MAX <= 2 << 20);
    assert!(SWARM_LINKS_MAX + SWARM_WANTED_MAX + STRANGERS_MAX < SWARM_CONNECTIONS_MAX as usize);
    assert!(ADMISSION_CHAIN_MAX * 256 + RECORD_BYTES_MAX < WELCOME_BYTES_MAX);
    assert!(SYNC_IDS_MAX * 32 + 256 < SYNC_BYTES_MAX);
    assert!(ADVERT_BYTES_MAX * 2 < GOSSIP_BYTES_MAX);
    assert!(ADVERT_LIFE_US >= 3 * ADVERT_EVERY_US);
    assert!(TWINS_US >= 3 * ECHO_EVERY_US);
    assert!(GATE_VOICES_MAX < SYNC_HEARD_MAX && GATE_VOICE_BYTES_MAX + 4 <= RECORD_BYTES_MAX);
    assert!(SYNC_HEARD_MAX > BOOK_NODES_MAX && SYNC_HEARD_MAX * 16 + 256 < SYNC_BYTES_MAX);
    assert!(ADVERT_BYTES_MAX + 4 <= RECORD_BYTES_MAX);
};

// --- the simulator --------------------------------------------------------------------------------

/// Nodes of a simulated mesh: all that a book holds, less the twin of one.
pub const SIM_NODES_MAX: usize = BOOK_NODES_MAX - 1;
/// Events of one simulation: twenty times what the largest mesh needs. More is a loop that never ends.
pub const SIM_EVENTS_MAX: u64 = 100_000_000;
/// Lines of a trace that are kept for people.
pub const SIM_TAIL_MAX: usize = 64;
/// Violations that are listed: the first one is the bug, the others follow from it.
pub const SIM_VIOLATIONS_MAX: usize = 64;
/// Nodes of a simulated governance: one machine folds for all of them.
pub const GOV_SIM_NODES_MAX: usize = 10_000;

// --- what a node keeps on disk ---------------------------------------------------------------------

/// Bytes of one frame of a journal: a record, and what stands around it.
pub const FRAME_BYTES_MAX: usize = RECORD_BYTES_MAX + 64;
/// Bytes of a node's log, and of a file of records that is read: all that 16 members may ever say.
/// Beyond it only halts are kept.
pub const LEDGER_BYTES_MAX: u64 = 16 * FEED_BYTES_MAX as u64;
/// Bytes beyond it for halts alone: of every participant as many as are kept.
pub const LEDGER_HALT_BYTES_MAX: u64 =
    (PARTICIPANTS_MAX * (HALTS_PER_AUTHOR_MAX + 1) * (HALT_BYTES_MAX + 64)) as u64;
/// Bytes of a node's log from which on it is written anew, without what is over, when it is opened.
pub const LEDGER_SPARSE_BYTES: u64 = 1 << 20;
/// Seconds between two checkpoints of the witnesses: a fifth of what an apply may be behind, so that a lost one stops nothing.
pub const CHECKPOINT_EVERY_S: u64 = 60;
/// Bytes of the reason in a line of the audit log: it says which halt, and is not the place to read it.
pub const AUDIT_REASON_BYTES_MAX: usize = 256;
/// Bytes of the lines in one part of an audit log: about six thousand decisions, written anew never.
pub const AUDIT_PART_BYTES_MAX: usize = 1 << 20;
/// Parts that a node keeps: the oldest goes when the next begins.
pub const AUDIT_PARTS_MAX: u64 = 16;
/// Bytes of an exported audit log: all parts, and what stands around them.
pub const AUDIT_EXPORT_BYTES_MAX: usize = AUDIT_PARTS_MAX as usize * AUDIT_PART_BYTES_MAX + 1024;
/// Decisions that wait for the disk. Beyond it they are counted, and the count is written down.
pub const AUDIT_WAITING_MAX: usize = 1024;
/// Halts in the latch beside those in the log: one holds the node, the others say who else.
pub const LATCHED_HALTS_MAX: usize = 8;
/// Bytes of a latch, whatever it holds: it is written in place, so a full disk cannot keep a halt out.
pub const LATCH_BYTES: usize = 12 << 10;
/// Bytes of the journal of permits before it begins anew; the one before is kept.
pub const AUDIT_BYTES_MAX: u64 = 8 << 20;
/// Bytes of an operator's policy, which is written by hand.
pub const POLICY_BYTES_MAX: usize = 64 << 10;
/// Its rules: all of them are judged for every permit.
pub const POLICY_RULES_MAX: usize = 256;
/// Bytes of a vote key's file, and of its memory.
pub const SIGNER_FILE_BYTES_MAX: u64 = 16 << 10;
/// Bytes of the passphrase of a vote key: whoever types more has typed something else.
pub const PASSPHRASE_BYTES_MAX: usize = 1024;
/// Meshes that one vote key remembers.
pub const SIGNER_MESHES_MAX: usize = 64;

const _: () = {
    assert!(LATCHED_HALTS_MAX * (HALT_BYTES_MAX + 2) + 1024 < LATCH_BYTES);
    assert!(SIGNER_MESHES_MAX as u64 * 160 + 1024 < SIGNER_FILE_BYTES_MAX);
    assert!(
        LIST_ENTRIES_MAX as usize * 6 < OPINION_BYTES_MAX,
        "a full list fits an opinion"
    );
    assert!(
        LIST_ENTRIES_MAX as usize * (3 + 2 + 2)
            + RAW_TOP_MAX as usize * (3 + 2)
            + SCORES_MAX as usize * 2
            + 66
            <= OPINION_BYTES_MAX,
        "and so do the untransformed values and the scores, with token ids below 2^21"
    );
    assert!(SCALARS_MAX * 4 + RAW_TOP_MAX as usize * 5 + 24 <= OPINION_BYTES_MAX);
    assert!(PLANE_TOKENS_MAX * 5 + GOVERNANCE_HEAD_BYTES_MAX + (64 << 10) <= OPEN_BYTES_MAX);
    assert!(DRAFT_TOKENS_MAX * (OPINION_BYTES_MAX + 4) + 64 <= ANSWER_BYTES_MAX);
    assert!(PLANE_TOKENS_MAX * 2 + 64 <= ANSWER_BYTES_MAX);
    assert!(QUESTION_BYTES_MAX <= OPEN_BYTES_MAX);
    assert!(PLANE_STREAMS_MAX as usize >= GUESTS_PER_PEER_MAX);
    assert!(
        SESSIONS_MAX < SEQUENCES_MAX,
        "some sequences stay for cached prefixes"
    );
    assert!(SEQUENCES_MAX <= 256, "llama.cpp aborts above 256 sequences");
    assert!(ADAPTER_SEQUENCES_MAX <= SEQUENCES_MAX);
    assert!(
        EXPERT_OPS_MAX
            >= 3 * (SESSIONS_MAX + QUEUE_MAX)
                + SESSIONS_MAX * (GUEST_OPS_BURST as usize + 100_000 / GUEST_OP_REFILL_US as usize),
        "guests cannot fill the owner's mailbox"
    );
    assert!(
        GUEST_OPS_BURST as usize >= 2 * (GUESSES_MAX + 1 + BRANCHES_MAX * (BRANCH_TOKENS_MAX + 1)),
        "who guesses ahead is no flood, also when a link stood still"
    );
    assert!(
        UNREAD_US_MAX + 10_000_000 < GUEST_IDLE_US_MAX,
        "the experts are still there when a slow client has read"
    );
    assert!(READ_TOKENS < UNREAD_TOKENS_MAX);
    assert!(
        GUEST_EVENTS_MAX > GUESSES_MAX + 1 + BRANCHES_MAX * (BRANCH_TOKENS_MAX + 1),
        "nor is what is said about it"
    );
    assert!(
        GUESSES_MAX < DRAFT_TOKENS_MAX,
        "a window is led to, or drafted, in one message"
    );
    assert!(GUESTS_PER_PEER_MAX + GUESTS_WAITING_MAX <= GUESTS_MAX);
    assert!(DRIVER_INBOX_MAX >= EXPERT_OPS_MAX);
    assert!(CANDIDATES_MAX <= TEAM_MAX && CANDIDATES_MAX <= GATE_EXPERTS_MAX);
    assert!(
        GATE_VOCABULARIES_MAX * (33 + (33 + GATE_TOPIC_BUCKETS) * (GATE_EXPERTS_MAX + 1)) + 256
            <= GATE_VOICE_BYTES_MAX
    );
    assert!(
        GATE_VOCABULARIES_MAX * (33 + (36 + 16 * GATE_TOPIC_BUCKETS) * (GATE_EXPERTS_MAX + 1)) + 64
            <= GATE_FILE_BYTES_MAX
    );
    assert!(HALT_REASON_BYTES_MAX + 256 <= HALT_BYTES_MAX);
    assert!(
        LIFTS_MAX * 32 + CAUSAL_REFS_MAX * 32 + PARTICIPANTS_MAX * 32 + 1024 < RECORD_BYTES_MAX
    );
    assert!(REVIEW_S < PROPOSAL_S_MAX);
    assert!(RELAY_SEGMENT_BYTES < LINK_QUEUE_BYTES_MIN as usize);
    assert!(LINK_QUEUE_BYTES_MAX as usize <= LINE_BYTES_MAX);
};
