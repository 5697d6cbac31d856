//! Grammars as users of llama.cpp write them.

use crate::{vocabulary, walk::walk};
use quorate::grammar::{GrammarError, Matcher, Next};
use quorate_core::vocab::Vocab;
use std::sync::Arc;

#[track_caller]
fn check(grammar: &str, obeys: impl Fn(&str) -> bool) {
    let vocab = vocabulary::small();
    for seed in 0..24 {
        let matcher = Matcher::grammar(grammar, &vocab).expect("compiles");
        let (text, _) = walk(matcher, &vocab, seed);
        assert!(obeys(&text), "disobeys: {text:?}");
    }
}

/// Does the grammar take exactly this text? Byte by byte.
fn takes(grammar: &str, text: &str, vocab: &Arc<Vocab>) -> bool {
    let mut matcher = Matcher::grammar(grammar, vocab).expect("compiles");
    for byte in text.bytes() {
        let token = (0..vocab.len())
            .find(|&t| vocab.text(t) == [byte])
            .expect("a byte");
        match matcher.next() {
            Ok(Next::Allowed(mask)) if mask.allows(token) => {
                matcher.commit(token).expect("an allowed token")
            }
            _ => return false,
        }
    }
    match matcher.next().expect("a mask") {
        Next::Done => true,
        Next::Allowed(mask) => mask.allows(vocabulary::END),
    }
}

const ARITHMETIC: &str = r#"# sums, left to right
root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*
"#;

const JSON: &str = r#"root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws

ws ::= | " " | "\n" [ \t]{0,20}
"#;

const CHESS: &str = r#"root     ::= "1. " move " " move "\n" ([1-9] [0-9]? ". " move " " move "\n")*
move     ::= (pawn | nonpawn | castle) [+#]?
nonpawn  ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn     ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle   ::= "O-O" "-O"?
"#;

#[test]
fn arithmetic() {
    check(ARITHMETIC, |text| {
        text.ends_with(['\n', ' ', '\t']) && text.contains('=')
    });
    let vocab = vocabulary::small();
    assert!(takes(ARITHMETIC, "(a1+2)*b_=7\n", &vocab));
    assert!(!takes(ARITHMETIC, "(a1+2*b=7\n", &vocab));
}

#[test]
fn json() {
    check(JSON, |text| {
        // Lone surrogates and exponents of fifteen digits are JSON that serde_json does not take.
        serde_json::from_str::<serde_json::Value>(text).is_ok()
            || text.contains("\\u")
            || text.contains("e")
    });
    let vocab = vocabulary::small();
    assert!(takes(JSON, "{\"a\": [1, -2.5e+3, {}], \"é\":true}", &vocab));
    assert!(!takes(JSON, "{\"a\": }", &vocab));
}

#[test]
fn lists() {
    let list = "root ::= item+\n\n# no control characters\nitem ::= \"- \" [^\\r\\n\\x0b\\u2028\\u2029]+ \"\\n\"\n";
    check(list, |text| {
        text.lines()
            .all(|line| line.starts_with("- ") && line.len() > 2)
            && text.ends_with('\n')
    });
}

#[test]
fn chess() {
    check(CHESS, |text| {
        text.starts_with("1. ") && text.ends_with('\n')
    });
    let vocab = vocabulary::small();
    assert!(takes(CHESS, "1. e4 e5\n2. Nf3 O-O-O+\n", &vocab));
    assert!(!takes(CHESS, "1. e9 e5\n", &vocab));
}

/// A lexer that takes the longest word would read "tree" as the beginning of "true".
#[test]
fn characters_are_not_cut_into_words() {
    let vocab = vocabulary::small();
    let recursive = "root ::= \"(\" root \")\" | \"true\" | [a-z]+ \"b\" \"c\"? | \"ab\" \"d\"";
    let flat = "root ::= \"true\" | [a-z]+ \"b\" \"c\"? | \"ab\" \"d\"";
    for (text, taken) in [
        ("true", true),
        ("treeb", true),
        ("abc", true),
        ("abd", true),
        ("abbbbc", true),
        ("abe", false),
    ] {
        assert_eq!(takes(flat, text, &vocab), taken, "{text}");
        assert_eq!(takes(recursive, text, &vocab), taken, "{text}");
        assert_eq!(
            takes(recursive, &format!("(({text}))"), &vocab),
            taken,
            "{text}"
        );
    }
}

#[test]
fn repetitions_classes_and_escapes() {
    let vocab = vocabulary::small();
    for (grammar, yes, no) in [
        ("root ::= \"a\"{2}", vec!["aa"], vec!["a", "aaa"]),
        ("root ::= \"a\"{2,}", vec!["aa", "aaaaa"], vec!["a", ""]),
        ("root ::= \"a\"{1,3}", vec!["a", "aaa"], vec!["", "aaaa"]),
        ("root ::= \"a\"?", vec!["", "a"], vec!["aa"]),
        (
            "root ::= [^a-c]",
            vec!["d", "é", "\n", "-"],
            vec!["a", "b", ""],
        ),
        ("root ::= [a\\-z\\]^-]+", vec!["a-z]^"], vec!["b"]),
        (
            "root ::= \"\\x41\\u00e9\\U0001F600\\\"/\"",
            vec!["Aé😀\"/"],
            vec!["A"],
        ),
        ("root ::= .", vec!["x", "é", "\n"], vec!["xx"]),
        (
            "root ::= a |\n  b\na ::= \"x\"\n  | \"y\"\nb ::= \"z\"",
            vec!["x", "y", "z"],
            vec!["w"],
        ),
        (
            "root ::= \"a\" root | \"\"",
            vec!["", "a", "aaaa"],
            vec!["b"],
        ),
        ("root ::= root \"a\" | \"b\"", vec!["b", "baaa"], vec!["a"]),
        (
            "root ::= root root | \"a\" | \"\"",
            vec!["", "aaa"],
            vec!["b"],
        ),
    ] {
        yes.iter()
            .for_each(|text| assert!(takes(grammar, text, &vocab), "{grammar} refuses {text:?}"));
        no.iter()
            .for_each(|text| assert!(!takes(grammar, text, &vocab), "{grammar} takes {text:?}"));
    }
}

#[test]
fn refusals_say_where_and_what() {
    let vocab = vocabulary::small();
    for (grammar, word) in [
        ("root ::= missing", "missing"),
        ("other ::= \"a\"", "root"),
        ("root ::= \"a\"\nroot ::= \"b\"", "twice"),
        ("root ::= <[17]>", "token references"),
        ("root ::= (\"a\"", "expected ')'"),
        ("root ::= \"a", "inside quotes"),
        ("root ::= [z-a]", "backwards"),
        ("root ::= []", "empty class"),
        ("root ::= \"\\q\"", "unknown escape"),
        ("root ::= \"\\ud800\"", "no character"),
        ("root ::= \"a\"{3,2}", "repetition"),
        ("root ::= \"a\"{0,99999}", "repetition"),
        ("root ::= \"a\"\n\nb ::= ;", "line 3"),
    ] {
        match Matcher::grammar(grammar, &vocab) {
            Err(GrammarError::Compile(why)) => assert!(why.contains(word), "{grammar}: {why}"),
            other => panic!("{grammar}: {other:?}"),
        }
    }
}

#[test]
fn lark_is_understood_too() {
    let vocab = vocabulary::small();
    let lark = "start: \"yes\" | \"no\" NUMBER\nNUMBER: /[0-9]{1,3}/\n";
    assert!(
        takes(lark, "no123", &vocab) && takes(lark, "yes", &vocab) && !takes(lark, "no", &vocab)
    );
    assert!(matches!(
        Matcher::grammar("start: <|im_start|>", &vocab),
        Err(GrammarError::Compile(_))
    ));
    assert!(matches!(
        Matcher::grammar("", &vocab),
        Err(GrammarError::Compile(_))
    ));
}
