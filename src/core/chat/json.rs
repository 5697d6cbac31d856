//! JSON texts laid out as the models' training data had them: Python's `json.dumps`.

/// Appends a string literal.
pub(super) fn push_string(out: &mut String, text: &str) {
    out.push('"');
    let mut start = 0;
    for (at, byte) in text.bytes().enumerate() {
        let short = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            8 => "\\b",
            12 => "\\f",
            0..0x20 => "",
            _ => continue,
        };
        out.push_str(&text[start..at]);
        start = at + 1;
        if short.is_empty() {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.push_str("\\u00");
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        } else {
            out.push_str(short);
        }
    }
    out.push_str(&text[start..]);
    out.push('"');
}

/// Appends a JSON text with its white space replaced: one line, with a space after commas and
/// colons, for an `indent` of 0; else one member a line.
pub(super) fn push_laid_out(out: &mut String, json: &str, indent: usize) {
    let bytes = json.as_bytes();
    let mut depth = 0usize;
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'"' => string_end(bytes, at),
            b'{' | b'[' | b'}' | b']' | b',' | b':' | b' ' | b'\n' | b'\r' | b'\t' => at + 1,
            _ => {
                at + 1
                    + bytes[at + 1..]
                        .iter()
                        .take_while(|b| !b",:{}[]\" \n\r\t".contains(b))
                        .count()
            }
        };
        match bytes[at] {
            b' ' | b'\n' | b'\r' | b'\t' => {}
            open @ (b'{' | b'[') => {
                depth += 1;
                out.push(char::from(open));
                let next = bytes[end..].iter().find(|b| !b.is_ascii_whitespace());
                if !matches!(next, Some(b'}' | b']')) {
                    new_line(out, indent, depth);
                }
            }
            close @ (b'}' | b']') => {
                depth = depth.saturating_sub(1);
                if !out.ends_with(['{', '[']) {
                    new_line(out, indent, depth);
                }
                out.push(char::from(close));
            }
            b',' if indent == 0 => out.push_str(", "),
            b',' => {
                out.push(',');
                new_line(out, indent, depth);
            }
            b':' => out.push_str(": "),
            _ => out.push_str(&json[at..end]),
        }
        at = end;
    }
}

fn new_line(out: &mut String, indent: usize, depth: usize) {
    if indent > 0 {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', indent * depth));
    }
}

/// Is the text a JSON object, as far as quotes and brackets tell? Whoever made the text checked it;
/// this keeps a broken one from breaking out of its place in the prompt.
pub(super) fn is_object(text: &str) -> bool {
    text.trim_start().starts_with('{') && is_balanced(text)
}

/// One bracketed value and nothing after it.
pub(super) fn is_balanced(text: &str) -> bool {
    let bytes = text.trim().as_bytes();
    if !matches!(bytes.first(), Some(b'{' | b'[')) {
        return false;
    }
    let mut open = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                let end = string_end(bytes, at);
                if end == at + 1 || bytes[end - 1] != b'"' {
                    return false;
                }
                at = end;
                continue;
            }
            b'{' => open.push(b'}'),
            b'[' => open.push(b']'),
            close @ (b'}' | b']') if open.pop() != Some(close) => return false,
            _ => {}
        }
        at += 1;
        if open.is_empty() {
            return at == bytes.len();
        }
    }
    false
}

/// Past the closing quote of the string that opens at `start`; the end of the text if it has none.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laid_out(json: &str, indent: usize) -> String {
        let mut out = String::new();
        push_laid_out(&mut out, json, indent);
        out
    }

    #[test]
    fn white_space_is_pythons() {
        let json = r#"{"a":[1,2.5 , "x,: {\"é"],"b":{ },"c":null}"#;
        assert_eq!(
            laid_out(json, 0),
            r#"{"a": [1, 2.5, "x,: {\"é"], "b": {}, "c": null}"#
        );
        assert_eq!(
            laid_out(r#"{"a":[1],"b":{}}"#, 4),
            "{\n    \"a\": [\n        1\n    ],\n    \"b\": {}\n}"
        );
        assert_eq!(laid_out("\"é", 0), "\"é");
    }

    #[test]
    fn strings_are_escaped() {
        let mut out = String::new();
        push_string(&mut out, "é\"\\\n\u{1}\u{1f}z");
        assert_eq!(out, r#""é\"\\\n\u0001\u001fz""#);
    }

    #[test]
    fn broken_objects_are_seen() {
        for good in ["{}", " {\"a\": \"}\\\"\"} ", "{\"a\":[{}]}"] {
            assert!(is_object(good), "{good}");
        }
        for bad in [
            "",
            "[]",
            "{",
            "{]",
            "{\"a}",
            "{\"",
            "{\"\\",
            "{}}",
            "{} {}",
            "{\"a\": 1}\n</tool_call>{",
        ] {
            assert!(!is_object(bad), "{bad}");
        }
    }
}
