//! Conversation to prompt. Only whole control tokens are markers: the text between two of them must
//! reach the tokeniser in one piece, as it did in training.

use super::{ChatError, Family, Message, Role, Segment, Tool, ToolCall, json};
use crate::limits;

/// The prompt of a conversation, ending where the assistant begins to speak. A last message of the
/// assistant's without calls is left open, to be continued.
pub fn render(
    family: Family,
    messages: &[Message],
    tools: &[Tool],
) -> Result<Vec<Segment>, ChatError> {
    check(messages, tools)?;
    let mut prompt = Prompt::default();
    match family {
        Family::ChatMl | Family::SmolLm2 | Family::Qwen | Family::Qwen25 => {
            chatml(&mut prompt, family.default_system(), messages, tools);
        }
        Family::Llama3 => llama3(&mut prompt, messages, tools),
        Family::Gemma => gemma(&mut prompt, messages, tools),
        Family::Mistral => mistral(&mut prompt, messages, tools),
    }
    Ok(prompt.segments)
}

fn check(messages: &[Message], tools: &[Tool]) -> Result<(), ChatError> {
    if messages.len() > limits::MESSAGES_MAX {
        return Err(ChatError::TooMany {
            count: messages.len(),
            max: limits::MESSAGES_MAX,
        });
    }
    if tools.len() > limits::TOOLS_MAX {
        return Err(ChatError::TooManyTools {
            count: tools.len(),
            max: limits::TOOLS_MAX,
        });
    }
    if let Some(index) = tools
        .iter()
        .position(|tool| !json::is_object(&tool.parameters))
    {
        return Err(ChatError::BadParameters { index });
    }
    let mut awaited = 0;
    for (index, message) in messages.iter().enumerate() {
        if message.role != Role::Assistant && !message.tool_calls.is_empty() {
            return Err(ChatError::CallsNotByAssistant { index });
        }
        if message
            .tool_calls
            .iter()
            .any(|call| !json::is_object(&call.arguments))
        {
            return Err(ChatError::BadArguments { index });
        }
        match message.role {
            Role::System if index > 0 => return Err(ChatError::SystemNotFirst { index }),
            Role::Tool if awaited == 0 => return Err(ChatError::ToolWithoutCall { index }),
            Role::Tool => awaited -= 1,
            Role::Assistant => awaited = message.tool_calls.len(),
            Role::System | Role::User => awaited = 0,
        }
    }
    if messages.iter().any(|message| message.role == Role::User) {
        Ok(())
    } else {
        Err(ChatError::NoUser)
    }
}

#[derive(Default)]
struct Prompt {
    segments: Vec<Segment>,
}

impl Prompt {
    fn marker(&mut self, marker: &'static str) {
        self.segments.push(Segment::Marker(marker));
    }

    fn text(&mut self, text: &str) {
        if !text.is_empty() {
            self.open_text().push_str(text);
        }
    }

    /// The text segment at the end, opened if there is none.
    fn open_text(&mut self) -> &mut String {
        if !matches!(self.segments.last(), Some(Segment::Text(_))) {
            self.segments.push(Segment::Text(String::new()));
        }
        match self.segments.last_mut() {
            Some(Segment::Text(text)) => text,
            _ => unreachable!("a text segment was pushed"),
        }
    }

    /// `{"name": …, "arguments": …}`, with the family's word for the arguments.
    fn call(&mut self, call: &ToolCall, arguments: &str, id: Option<&str>) {
        let out = self.open_text();
        out.push_str("{\"name\": ");
        json::push_string(out, &call.name);
        out.push_str(", \"");
        out.push_str(arguments);
        out.push_str("\": ");
        json::push_laid_out(out, &call.arguments, 0);
        if let Some(id) = id {
            out.push_str(", \"id\": \"");
            out.push_str(id);
            out.push('"');
        }
        out.push('}');
    }

    fn tool(&mut self, tool: &Tool, indent: usize) {
        let mut line = String::with_capacity(tool.parameters.len() + 128);
        line.push_str("{\"type\": \"function\", \"function\": {\"name\": ");
        json::push_string(&mut line, &tool.name);
        if !tool.description.is_empty() {
            line.push_str(", \"description\": ");
            json::push_string(&mut line, &tool.description);
        }
        line.push_str(", \"parameters\": ");
        line.push_str(&tool.parameters);
        line.push_str("}}");
        json::push_laid_out(self.open_text(), &line, indent);
    }
}

/// Is this the message that the model is to continue?
fn is_open(index: usize, messages: &[Message]) -> bool {
    let message = &messages[index];
    index + 1 == messages.len() && message.role == Role::Assistant && message.tool_calls.is_empty()
}

fn last_user(messages: &[Message]) -> usize {
    messages
        .iter()
        .rposition(|message| message.role == Role::User)
        .unwrap_or(0)
}

// --- ChatML: SmolLM2, Hermes, Yi; Qwen 2.5 and 3. Tools as Hermes and Qwen were taught them ------

fn chatml(prompt: &mut Prompt, default: Option<&str>, messages: &[Message], tools: &[Tool]) {
    let mut rest = 0..messages.len();
    let mut system = default;
    if let Some(first) = messages.first()
        && first.role == Role::System
    {
        rest.start = 1;
        system = Some(&first.content);
    }
    if system.is_some() || !tools.is_empty() {
        prompt.marker("<|im_start|>");
        prompt.text("system\n");
        prompt.text(system.unwrap_or_default());
        if !tools.is_empty() {
            prompt.text(if system.is_some() { "\n\n" } else { "" });
            chatml_tools(prompt, tools);
        }
        prompt.marker("<|im_end|>");
        prompt.text("\n");
    }
    let query = last_user(messages);
    for index in rest {
        let message = &messages[index];
        let beside_a_result = |at: Option<usize>| {
            at.and_then(|at| messages.get(at))
                .is_some_and(|other| other.role == Role::Tool)
        };
        // Results that follow each other share a turn.
        let opens = message.role != Role::Tool || !beside_a_result(index.checked_sub(1));
        let closes = message.role != Role::Tool || !beside_a_result(Some(index + 1));
        if opens {
            prompt.marker("<|im_start|>");
            prompt.text(if message.role == Role::Assistant {
                "assistant"
            } else {
                "user"
            });
        }
        chatml_message(prompt, message, index < query);
        if is_open(index, messages) {
            return;
        }
        if closes {
            prompt.marker("<|im_end|>");
            prompt.text("\n");
        }
    }
    prompt.marker("<|im_start|>");
    prompt.text("assistant\n");
}

fn chatml_tools(prompt: &mut Prompt, tools: &[Tool]) {
    prompt.text(
        "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n\
         You are provided with function signatures within <tools></tools> XML tags:\n<tools>",
    );
    for tool in tools {
        prompt.text("\n");
        prompt.tool(tool, 0);
    }
    prompt.text(
        "\n</tools>\n\nFor each function call, return a json object with function name and arguments \
         within <tool_call></tool_call> XML tags:\n<tool_call>\n\
         {\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>",
    );
}

fn chatml_message(prompt: &mut Prompt, message: &Message, before_query: bool) {
    prompt.text("\n");
    match message.role {
        Role::Tool => {
            prompt.text("<tool_response>\n");
            prompt.text(&message.content);
            prompt.text("\n</tool_response>");
        }
        Role::Assistant => {
            // Thoughts on earlier questions were not in the training data.
            let content = match message.content.rsplit_once("</think>") {
                Some((_, answer)) if before_query => answer.trim_start_matches('\n'),
                _ => &message.content,
            };
            prompt.text(content);
            for (nth, call) in message.tool_calls.iter().enumerate() {
                prompt.text(if nth > 0 || !content.is_empty() {
                    "\n<tool_call>\n"
                } else {
                    "<tool_call>\n"
                });
                prompt.call(call, "arguments", None);
                prompt.text("\n</tool_call>");
            }
        }
        Role::System | Role::User => prompt.text(&message.content),
    }
}

// --- Llama 3.x ------------------------------------------------------------------------------------

/// Without tools, the form that all of 3.0 to 3.3 share; with tools, the 3.1 form. Its line with
/// today's date is left out: core has no clock, and the one that the template falls back on is wrong.
fn llama3(prompt: &mut Prompt, messages: &[Message], tools: &[Tool]) {
    let system = messages
        .first()
        .filter(|message| message.role == Role::System);
    if system.is_some() || !tools.is_empty() {
        llama3_header(prompt, "system");
        if !tools.is_empty() {
            prompt.text("Environment: ipython\nCutting Knowledge Date: December 2023\n\n");
        }
        prompt.text(system.map_or("", |message| message.content.trim()));
        prompt.marker("<|eot_id|>");
    }
    let mut untold_tools = tools;
    for (index, message) in messages
        .iter()
        .enumerate()
        .skip(usize::from(system.is_some()))
    {
        llama3_header(
            prompt,
            match message.role {
                Role::System | Role::User => "user",
                Role::Assistant => "assistant",
                Role::Tool => "ipython",
            },
        );
        if message.role == Role::User && !untold_tools.is_empty() {
            llama3_tools(prompt, std::mem::take(&mut untold_tools));
        }
        if is_open(index, messages) {
            prompt.text(&message.content);
            return;
        }
        let content = message.content.trim();
        prompt.text(content);
        for (nth, call) in message.tool_calls.iter().enumerate() {
            prompt.text(if nth > 0 || !content.is_empty() {
                "\n"
            } else {
                ""
            });
            prompt.call(call, "parameters", None);
        }
        prompt.marker("<|eot_id|>");
    }
    llama3_header(prompt, "assistant");
}

fn llama3_header(prompt: &mut Prompt, role: &str) {
    prompt.marker("<|start_header_id|>");
    prompt.text(role);
    prompt.marker("<|end_header_id|>");
    prompt.text("\n\n");
}

fn llama3_tools(prompt: &mut Prompt, tools: &[Tool]) {
    // The missing space before "Do not" is in the original.
    prompt.text(
        "Given the following functions, please respond with a JSON for a function call with its proper arguments \
         that best answers the given prompt.\n\nRespond in the format {\"name\": function name, \"parameters\": \
         dictionary of argument name and its value}.Do not use variables.\n\n",
    );
    for tool in tools {
        prompt.tool(tool, 4);
        prompt.text("\n\n");
    }
}

// --- Gemma ----------------------------------------------------------------------------------------

/// Gemma has no system role: what the system says opens the first user turn. It has no role for
/// tools either: they are described as its makers advise, and results come in a user turn.
fn gemma(prompt: &mut Prompt, messages: &[Message], tools: &[Tool]) {
    let system = messages
        .first()
        .filter(|message| message.role == Role::System);
    let mut preamble =
        Some((system, tools)).filter(|(system, tools)| system.is_some() || !tools.is_empty());
    for (index, message) in messages
        .iter()
        .enumerate()
        .skip(usize::from(system.is_some()))
    {
        let by_model = message.role == Role::Assistant;
        if by_model && let Some((system, tools)) = preamble.take() {
            gemma_turn(prompt, "user\n");
            gemma_preamble(prompt, system, tools);
            gemma_end(prompt);
        }
        gemma_turn(prompt, if by_model { "model\n" } else { "user\n" });
        if let Some((system, tools)) = preamble.take() {
            gemma_preamble(prompt, system, tools);
            prompt.text("\n\n");
        }
        if is_open(index, messages) {
            prompt.text(&message.content);
            return;
        }
        let content = message.content.trim();
        if message.role == Role::Tool {
            prompt.text("Function result: ");
        }
        prompt.text(content);
        for (nth, call) in message.tool_calls.iter().enumerate() {
            prompt.text(if nth > 0 || !content.is_empty() {
                "\n"
            } else {
                ""
            });
            prompt.call(call, "parameters", None);
        }
        gemma_end(prompt);
    }
    gemma_turn(prompt, "model\n");
}

fn gemma_turn(prompt: &mut Prompt, role: &str) {
    prompt.marker("<start_of_turn>");
    prompt.text(role);
}

fn gemma_end(prompt: &mut Prompt) {
    prompt.marker("<end_of_turn>");
    prompt.text("\n");
}

fn gemma_preamble(prompt: &mut Prompt, system: Option<&Message>, tools: &[Tool]) {
    if let Some(system) = system {
        prompt.text(system.content.trim());
    }
    if tools.is_empty() {
        return;
    }
    prompt.text(if system.is_some() { "\n\n" } else { "" });
    prompt.text(
        "You have access to functions. If you decide to invoke any of the function(s), you MUST put it in the format \
         of {\"name\": function name, \"parameters\": dictionary of argument name and its value}\n\n\
         You SHOULD NOT include any other text in the response if you call a function\n[",
    );
    for (nth, tool) in tools.iter().enumerate() {
        prompt.text(if nth > 0 { ", " } else { "" });
        prompt.tool(tool, 0);
    }
    prompt.text("]");
}

// --- Mistral, from its third template on ----------------------------------------------------------

/// No spaces beside the markers. The models whose tokeniser is SentencePiece were trained with one
/// there, but it is the tokeniser's own prefix, which it adds after every marker; those with Tekken
/// were trained without.
fn mistral(prompt: &mut Prompt, messages: &[Message], tools: &[Tool]) {
    let mut system = messages
        .first()
        .filter(|message| message.role == Role::System);
    let query = last_user(messages);
    let mut calls_before = 0;
    let mut awaited = 0;
    for (index, message) in messages
        .iter()
        .enumerate()
        .skip(usize::from(system.is_some()))
    {
        match message.role {
            Role::System | Role::User => {
                if index == query && !tools.is_empty() {
                    mistral_tools(prompt, tools);
                }
                prompt.marker("[INST]");
                if let Some(system) = system.take() {
                    prompt.text(&system.content);
                    prompt.text("\n\n");
                }
                prompt.text(&message.content);
                prompt.marker("[/INST]");
            }
            Role::Assistant if is_open(index, messages) => {
                prompt.text(&message.content);
                return;
            }
            Role::Assistant => {
                prompt.text(message.content.trim());
                awaited = calls_before;
                mistral_calls(prompt, &message.tool_calls, calls_before);
                calls_before += message.tool_calls.len();
                prompt.marker("</s>");
            }
            Role::Tool => {
                mistral_result(prompt, &message.content, awaited);
                awaited += 1;
            }
        }
    }
}

fn mistral_tools(prompt: &mut Prompt, tools: &[Tool]) {
    prompt.marker("[AVAILABLE_TOOLS]");
    prompt.text("[");
    for (nth, tool) in tools.iter().enumerate() {
        prompt.text(if nth > 0 { ", " } else { "" });
        prompt.tool(tool, 0);
    }
    prompt.text("]");
    prompt.marker("[/AVAILABLE_TOOLS]");
}

/// The models know nine characters; which ones does not matter, only that call and result agree.
fn mistral_id(number: usize) -> String {
    format!("call{number:05}")
}

fn mistral_calls(prompt: &mut Prompt, calls: &[ToolCall], before: usize) {
    if calls.is_empty() {
        return;
    }
    prompt.marker("[TOOL_CALLS]");
    for (nth, call) in calls.iter().enumerate() {
        prompt.text(if nth > 0 { ", " } else { "[" });
        prompt.call(call, "arguments", Some(&mistral_id(before + nth)));
    }
    prompt.text("]");
}

fn mistral_result(prompt: &mut Prompt, content: &str, number: usize) {
    prompt.marker("[TOOL_RESULTS]");
    let out = prompt.open_text();
    out.push_str("{\"content\": ");
    if json::is_balanced(content) {
        // As it is: brackets that match do not make it JSON.
        out.push_str(content.trim());
    } else {
        json::push_string(out, content);
    }
    out.push_str(", \"call_id\": \"");
    out.push_str(&mistral_id(number));
    out.push_str("\"}");
    prompt.marker("[/TOOL_RESULTS]");
}
