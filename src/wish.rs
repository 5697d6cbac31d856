//! What a client asked for. HTTP and gRPC both fill an [`Asked`], as typed; `check` is the only way
//! from there to a [`Wish`], which everything further in takes for granted.

use quorate_core::chat::{Message, Tool};
use quorate_core::config::MeshConfig;
use quorate_core::generate::Guessing;
use quorate_core::ids::Token;
use quorate_core::law::{Law, Sampler, Transforms};
use quorate_core::limits;
use quorate_core::team::Sets;
use quorate_core::weights::Weighing;

/// What clients ask for when they mean all of us.
pub const MESH: &str = "mesh";

/// A request as typed: `None` where the client said nothing.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub model: Option<String>,
    pub prompt: Option<Prompt>,
    pub choices: Option<u32>,
    pub max_tokens: Option<u32>,
    pub stop: Vec<String>,
    pub seed: Option<u64>,
    pub logprobs: Option<u32>,
    pub shape: Shape,
    pub temperature: Option<f64>,
    pub top_k: Option<u32>,
    pub top_p: Option<f64>,
    pub min_p: Option<f64>,
    pub repeat_penalty: Option<f64>,
    pub repeat_last_n: Option<u32>,
    pub frequency_penalty: Option<f64>,
    pub presence_penalty: Option<f64>,
    pub bias: Vec<(Token, f32)>,
    pub together: Together,
}

/// How a `mesh` request is answered. Other models are asked alone, whatever this says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Together {
    /// Who said what of every token is told with it.
    pub provenance: bool,
    /// Fewer experts than the mesh would ask.
    pub k: Option<u32>,
    /// None: a set of experts stays until one of them fails, and the text can be replayed.
    pub sets: Option<Sets>,
    /// Seeded or rejection: how the answer is drawn, where it is drawn at all.
    pub sampler: Sampler,
    pub guessing: Guessing,
    /// How weights are learned from the prompt, and whether they follow the answer. None: as the mesh has voted.
    pub weights: Option<Weighing>,
    /// So many experts may lie: no token without one more who supports it, and a mean without the extremes.
    pub robust: Option<u32>,
    /// All that decided the answer is told at its end, for a replay.
    pub record: bool,
}

/// How often experts that take turns hand over, where nobody says it: every tenth token, in millionths.
const HANDOVER_PPM: u32 = 100_000;

impl Together {
    /// How many liars the law withstands. More than a team can outvote are refused.
    fn liars(&self) -> Result<Option<u8>, Invalid> {
        let Some(liars) = self.robust else {
            return Ok(None);
        };
        let most = (limits::TEAM_MAX - 1) / 2;
        check_range("quorate.robust", liars, 1, most as u32)?;
        let needed = 2 * liars + 1;
        if self.k.is_some_and(|k| k < needed) {
            let message = format!("quorate.robust = {liars} needs quorate.k of {needed} or more");
            return Err(Invalid::value("quorate.k", message));
        }
        Ok(Some(liars as u8))
    }

    /// `weights`, as clients spell it.
    pub fn weighed(self, name: &str) -> Result<Together, Invalid> {
        let weights = Weighing::named(name).ok_or_else(|| {
            let known = Weighing::SPELLINGS;
            let message = format!("quorate.weights must be {known}, not \"{name}\"");
            Invalid::value("quorate.weights", message)
        })?;
        let weights = Some(weights);
        Ok(Together { weights, ..self })
    }

    /// `sampler`, as clients spell it.
    pub fn drawn_by(self, name: &str) -> Result<Together, Invalid> {
        let sampler = match name {
            "seeded" => Sampler::Seeded,
            "rejection" => Sampler::Rejection,
            other => {
                let message =
                    format!("quorate.sampler must be \"seeded\" or \"rejection\", not \"{other}\"");
                return Err(Invalid::value("quorate.sampler", message));
            }
        };
        Ok(Together { sampler, ..self })
    }

    /// `mode`, as clients spell it.
    pub fn in_mode(self, mode: &str) -> Result<Together, Invalid> {
        let sets = match mode {
            "together" => self.sets,
            "handover" if self.sets.is_none() => Some(Sets::Turns {
                sigma_ppm: HANDOVER_PPM,
            }),
            "handover" => {
                let message = "hand-over is a law of its own: leave quorate.semantics out";
                return Err(Invalid::value("quorate.semantics", message));
            }
            other => {
                let message =
                    format!("quorate.mode must be \"together\" or \"handover\", not \"{other}\"");
                return Err(Invalid::value("quorate.mode", message));
            }
        };
        Ok(Together { sets, ..self })
    }
}

impl Default for Together {
    fn default() -> Together {
        Together {
            provenance: false,
            k: None,
            sets: None,
            sampler: Sampler::Seeded,
            guessing: Guessing::Stream,
            weights: None,
            robust: None,
            record: false,
        }
    }
}

/// What holds where a client says nothing.
#[derive(Clone, Debug)]
pub struct Defaults {
    pub transforms: Transforms,
    /// None: until the model stops or its context is full.
    pub max_tokens: Option<u32>,
    /// What the mesh has voted for.
    pub config: MeshConfig,
}

/// A request that makes sense, whatever the model turns out to be.
#[derive(Clone, Debug)]
pub struct Wish {
    pub model: String,
    pub prompt: Prompt,
    /// Answers to each prompt.
    pub choices: u32,
    pub law: Law,
    /// None: one is drawn, and shown with the answer.
    pub seed: Option<u64>,
    pub max_tokens: Option<u32>,
    pub stop: Vec<String>,
    /// Log-probabilities wanted, with this many alternatives.
    pub logprobs: Option<u8>,
    pub shape: Shape,
    pub together: Together,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// Rendered by the model's own chat template.
    Chat {
        messages: Vec<Message>,
        tools: Vec<Tool>,
    },
    /// Plain texts to continue.
    Texts(Vec<String>),
    /// The same, tokenised by the client.
    Tokens(Vec<Vec<Token>>),
}

/// What the answer must look like.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Shape {
    #[default]
    Free,
    /// Any JSON object.
    Json,
    Schema(serde_json::Value),
    /// GBNF or Lark.
    Grammar(String),
    /// Calls of the chat's tools.
    Tools(Choice),
}

/// Which calls are expected of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Text or calls, as the model likes.
    Auto,
    Required,
    Named(String),
}

/// A parameter that cannot be obeyed, named as the client spelled it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Invalid {
    /// Empty when the request as a whole is at fault.
    pub param: String,
    pub message: String,
    pub fault: Fault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not of the right type, or the body is not JSON at all.
    Malformed,
    Missing,
    Value,
    /// It would change the meaning of the answer, and is not obeyed here.
    Unsupported,
}

impl Invalid {
    pub fn malformed(param: &str, message: impl Into<String>) -> Invalid {
        Invalid::new(param, Fault::Malformed, message)
    }

    pub fn missing(param: &str, message: impl Into<String>) -> Invalid {
        Invalid::new(param, Fault::Missing, message)
    }

    pub fn value(param: &str, message: impl Into<String>) -> Invalid {
        Invalid::new(param, Fault::Value, message)
    }

    pub fn unsupported(param: &str, message: impl Into<String>) -> Invalid {
        Invalid::new(param, Fault::Unsupported, message)
    }

    fn new(param: &str, fault: Fault, message: impl Into<String>) -> Invalid {
        Invalid {
            param: param.into(),
            message: message.into(),
            fault,
        }
    }
}

impl Asked {
    pub fn check(self, defaults: &Defaults) -> Result<Wish, Invalid> {
        let law = self.law(defaults)?;
        let law = match self.together.liars()? {
            Some(liars) => law.robust(liars),
            None => law,
        };
        let law = self.drawn(law)?.weighed(self.weighing(&defaults.config)?);
        let model = checked_model(self.model)?;
        let prompt = self
            .prompt
            .ok_or_else(|| Invalid::missing("prompt", "the request has no prompt"))?;
        check_prompt(&prompt)?;
        check_stop(&self.stop)?;
        check_shape(&self.shape, &prompt)?;
        let choices = self.choices.unwrap_or(1);
        check_range("n", choices, 1, limits::CHOICES_MAX)?;
        let generations = prompt.count() * choices as usize;
        if generations > limits::GENERATIONS_MAX {
            let message = format!(
                "{} prompts with n = {choices} make {generations} generations; one request may ask for {}",
                prompt.count(),
                limits::GENERATIONS_MAX
            );
            return Err(Invalid::value("prompt", message));
        }
        if self.together.record && generations > 1 {
            let message = "one answer is recorded at a time: ask with one prompt and n = 1";
            return Err(Invalid::value("quorate.record", message));
        }
        if self.max_tokens == Some(0) {
            return Err(Invalid::value(
                "max_tokens",
                "max_tokens must be at least 1, not 0",
            ));
        }
        if self.together.k == Some(0) {
            return Err(Invalid::value(
                "quorate.k",
                "quorate.k must be at least 1, not 0",
            ));
        }
        let logprobs = self.logprobs.map(|n| {
            check_range("top_logprobs", n, 0, limits::RAW_TOP_MAX.into())?;
            Ok(n as u8)
        });
        Ok(Wish {
            model,
            prompt,
            choices,
            law,
            seed: self.seed,
            max_tokens: self.max_tokens.or(defaults.max_tokens),
            stop: self.stop,
            logprobs: logprobs.transpose()?,
            shape: self.shape,
            together: self.together,
        })
    }

    /// Laws of their own for answers that are drawn: hand-over, and rejection.
    fn drawn(&self, law: Law) -> Result<Law, Invalid> {
        let Together { sampler, sets, .. } = self.together;
        let is_drawn = law.sampler == Sampler::Seeded && self.shape == Shape::Free;
        let takes_turns = matches!(sets, Some(Sets::Turns { .. }));
        if takes_turns && !is_drawn {
            let message = "experts hand over only where the answer is drawn: with a temperature above 0, \
                           without a response format, tools or robust mode";
            return Err(Invalid::value("quorate.mode", message));
        }
        if sampler == Sampler::Rejection && (!is_drawn || takes_turns) {
            let message = "drafts are accepted or rejected only where several experts draw the answer together: with \
                           a temperature above 0, without hand-over, a response format, tools or robust mode";
            return Err(Invalid::value("quorate.sampler", message));
        }
        Ok(match sampler {
            Sampler::Rejection => law.sampled(sampler),
            _ => law,
        })
    }

    /// How experts are weighed where weights count.
    fn weighing(&self, config: &MeshConfig) -> Result<Weighing, Invalid> {
        let Together {
            weights,
            sets,
            robust,
            ..
        } = self.together;
        let together = matches!(sets, None | Some(Sets::A)) && robust.is_none();
        let is_of_mesh = self.model.as_deref() == Some(MESH);
        let weights = match weights {
            Some(weights) => weights,
            None if together && is_of_mesh => config.weighing(),
            None => Weighing::default(),
        };
        if weights.follows() && (!together || self.shape != Shape::Free) {
            let message = "weights follow an answer where a set of experts writes it together: without other \
                           semantics than A, hand-over, robust mode, a response format or tools";
            return Err(Invalid::value("quorate.weights", message));
        }
        let takes_turns = matches!(sets, Some(Sets::Turns { .. }));
        match takes_turns || robust.is_some() {
            true => Ok(Weighing::default()),
            false => Ok(weights),
        }
    }

    fn law(&self, defaults: &Defaults) -> Result<Law, Invalid> {
        let or = |asked: Option<f64>, default: f32| asked.map_or(default, |v| v as f32);
        let base = &defaults.transforms;
        if self.bias.len() > limits::BIAS_ENTRIES_MAX {
            let message = format!(
                "logit_bias names {} tokens; at most {} are obeyed",
                self.bias.len(),
                limits::BIAS_ENTRIES_MAX
            );
            return Err(Invalid::value("logit_bias", message));
        }
        let mut bias = self.bias.clone();
        bias.sort_by_key(|&(token, _)| token);
        if bias.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(Invalid::value(
                "logit_bias",
                "logit_bias names a token twice",
            ));
        }
        let repeat_last_n = self.repeat_last_n.unwrap_or(base.repeat_last_n);
        check_range("repeat_last_n", repeat_last_n, 0, limits::REPEAT_LAST_N_MAX)?;
        let transforms = Transforms {
            repeat_penalty: or(self.repeat_penalty, base.repeat_penalty),
            repeat_last_n,
            frequency_penalty: or(self.frequency_penalty, base.frequency_penalty),
            presence_penalty: or(self.presence_penalty, base.presence_penalty),
            bias,
            temperature: or(self.temperature, base.temperature),
            top_k: self.top_k.unwrap_or(base.top_k),
            top_p: or(self.top_p, base.top_p),
            min_p: or(self.min_p, base.min_p),
        };
        Law::new(transforms, defaults.config.lists())
            .map_err(|error| Invalid::value(error.name, error.to_string()))
    }
}

impl Prompt {
    /// Prompts in one request; a chat is one.
    pub fn count(&self) -> usize {
        match self {
            Prompt::Chat { .. } => 1,
            Prompt::Texts(texts) => texts.len(),
            Prompt::Tokens(lists) => lists.len(),
        }
    }
}

fn checked_model(model: Option<String>) -> Result<String, Invalid> {
    let model = model.unwrap_or_default();
    if model.is_empty() {
        let message = "the request names no model; GET /v1/models lists those of this node";
        return Err(Invalid::missing("model", message));
    }
    if model.len() > limits::MODEL_NAME_BYTES_MAX {
        let message = format!(
            "a model's name has at most {} bytes",
            limits::MODEL_NAME_BYTES_MAX
        );
        return Err(Invalid::value("model", message));
    }
    Ok(model)
}

fn check_prompt(prompt: &Prompt) -> Result<(), Invalid> {
    match prompt {
        Prompt::Chat { messages, .. } if messages.is_empty() => Err(Invalid::value(
            "messages",
            "messages must hold at least one message",
        )),
        Prompt::Chat { messages, .. } if messages.len() > limits::MESSAGES_MAX => {
            let message = format!(
                "{} messages; a chat holds at most {}",
                messages.len(),
                limits::MESSAGES_MAX
            );
            Err(Invalid::value("messages", message))
        }
        Prompt::Chat { tools, .. } => check_tools(tools),
        Prompt::Texts(_) | Prompt::Tokens(_) if prompt.count() == 0 => Err(Invalid::value(
            "prompt",
            "prompt must hold at least one prompt",
        )),
        Prompt::Tokens(lists) if lists.iter().any(Vec::is_empty) => Err(Invalid::value(
            "prompt",
            "a prompt of no tokens cannot be continued",
        )),
        Prompt::Texts(_) | Prompt::Tokens(_) => Ok(()),
    }
}

fn check_tools(tools: &[Tool]) -> Result<(), Invalid> {
    if tools.len() > limits::TOOLS_MAX {
        let message = format!(
            "{} tools; a request offers at most {}",
            tools.len(),
            limits::TOOLS_MAX
        );
        return Err(Invalid::value("tools", message));
    }
    for (i, tool) in tools.iter().enumerate() {
        let param = format!("tools[{i}].function.name");
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if tool.name.is_empty() || tool.name.len() > 64 || !tool.name.chars().all(plain) {
            let message = format!("{param} must be 1 to 64 letters, digits, '_' or '-'");
            return Err(Invalid::value(&param, message));
        }
        if tools[..i].iter().any(|other| other.name == tool.name) {
            let message = format!("two tools are called '{}'", tool.name);
            return Err(Invalid::value(&param, message));
        }
    }
    Ok(())
}

fn check_stop(stop: &[String]) -> Result<(), Invalid> {
    if stop.len() > limits::STOP_STRINGS_MAX {
        let message = format!(
            "{} stop strings; at most {} are watched for",
            stop.len(),
            limits::STOP_STRINGS_MAX
        );
        return Err(Invalid::value("stop", message));
    }
    let fits = |s: &String| !s.is_empty() && s.len() <= limits::STOP_STRING_BYTES_MAX;
    if !stop.iter().all(fits) {
        let message = format!(
            "a stop string has 1 to {} bytes",
            limits::STOP_STRING_BYTES_MAX
        );
        return Err(Invalid::value("stop", message));
    }
    Ok(())
}

fn check_shape(shape: &Shape, prompt: &Prompt) -> Result<(), Invalid> {
    let tools = match prompt {
        Prompt::Chat { tools, .. } => tools.as_slice(),
        Prompt::Texts(_) | Prompt::Tokens(_) => &[],
    };
    match shape {
        Shape::Grammar(text) if text.is_empty() || text.len() > limits::GRAMMAR_TEXT_BYTES_MAX => {
            let message = format!(
                "a grammar has 1 to {} bytes",
                limits::GRAMMAR_TEXT_BYTES_MAX
            );
            Err(Invalid::value("grammar", message))
        }
        Shape::Schema(schema) if !schema.is_object() && !schema.is_boolean() => Err(
            Invalid::value("response_format", "a JSON schema is an object"),
        ),
        Shape::Tools(_) if tools.is_empty() => Err(Invalid::value(
            "tool_choice",
            "tool_choice asks for a call, and no tools are offered",
        )),
        Shape::Tools(Choice::Named(name)) if !tools.iter().any(|tool| tool.name == *name) => {
            let message = format!("tool_choice names '{name}', which is not among the tools");
            Err(Invalid::value("tool_choice", message))
        }
        _ => Ok(()),
    }
}

fn check_range(name: &str, value: u32, low: u32, high: u32) -> Result<(), Invalid> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(Invalid::value(
        name,
        format!("{name} must be from {low} to {high}, not {value}"),
    ))
}

#[cfg(test)]
mod tests;
