use super::*;
use quorate_core::config::Key;
use quorate_core::weights::Strategy;

fn defaults() -> Defaults {
    Defaults {
        transforms: Transforms::NEUTRAL,
        max_tokens: None,
        config: MeshConfig::default(),
    }
}

fn asked() -> Asked {
    Asked {
        model: Some("m".into()),
        prompt: Some(Prompt::Texts(vec!["a".into()])),
        ..Asked::default()
    }
}

fn fault(asked: Asked) -> (String, Fault) {
    let invalid = asked.check(&defaults()).unwrap_err();
    (invalid.param, invalid.fault)
}

#[test]
fn the_mesh_says_how_experts_are_weighed_where_a_request_does_not() {
    let learned = MeshConfig::default().with(Key::RouterLearnedWeights, 1);
    let defaults = Defaults {
        config: learned.unwrap(),
        ..defaults()
    };
    let strategy = |model: &str, together| {
        let asked = Asked {
            model: Some(model.into()),
            together,
            ..asked()
        };
        asked.check(&defaults).unwrap().law.weights.strategy
    };
    let usual = Together::default();
    let uniform = usual.weighed("uniform").unwrap();
    let robust = Together {
        robust: Some(1),
        ..usual
    };
    let turns = usual.in_mode("handover").unwrap();
    assert_eq!(strategy(MESH, usual), Strategy::Meta);
    assert_eq!(strategy(MESH, uniform), Strategy::Uniform);
    for equal in [robust, turns] {
        assert_eq!(strategy(MESH, equal), Strategy::Uniform);
    }
    assert_eq!(strategy("m", usual), Strategy::Uniform, "one model alone");
}

#[test]
fn silence_means_the_defaults() {
    let defaults = Defaults {
        transforms: Transforms {
            temperature: 0.7,
            ..Transforms::NEUTRAL
        },
        max_tokens: Some(9),
        ..defaults()
    };
    let wish = asked().check(&defaults).unwrap();
    assert_eq!(
        (wish.choices, wish.max_tokens, wish.seed),
        (1, Some(9), None)
    );
    assert_eq!(wish.law.transforms.temperature, 0.7);
}

#[test]
fn every_fault_names_its_parameter() {
    let value = |name: &str| (name.to_string(), Fault::Value);
    let cases = [
        (
            Asked {
                temperature: Some(f64::NAN),
                ..asked()
            },
            value("temperature"),
        ),
        (
            Asked {
                temperature: Some(-1.0),
                ..asked()
            },
            value("temperature"),
        ),
        (
            Asked {
                top_p: Some(2.0),
                ..asked()
            },
            value("top_p"),
        ),
        (
            Asked {
                choices: Some(0),
                ..asked()
            },
            value("n"),
        ),
        (
            Asked {
                choices: Some(9),
                ..asked()
            },
            value("n"),
        ),
        (
            Asked {
                max_tokens: Some(0),
                ..asked()
            },
            value("max_tokens"),
        ),
        (
            Asked {
                logprobs: Some(21),
                ..asked()
            },
            value("top_logprobs"),
        ),
        (
            Asked {
                stop: vec![String::new()],
                ..asked()
            },
            value("stop"),
        ),
        (
            Asked {
                stop: vec!["a".into(); 17],
                ..asked()
            },
            value("stop"),
        ),
        (
            Asked {
                bias: vec![(1, 1.0), (1, 2.0)],
                ..asked()
            },
            value("logit_bias"),
        ),
        (
            Asked {
                bias: vec![(1, 101.0)],
                ..asked()
            },
            value("logit_bias"),
        ),
        (
            Asked {
                repeat_last_n: Some(1 << 20),
                ..asked()
            },
            value("repeat_last_n"),
        ),
        (
            Asked {
                prompt: Some(Prompt::Texts(vec![])),
                ..asked()
            },
            value("prompt"),
        ),
        (
            Asked {
                prompt: Some(Prompt::Tokens(vec![vec![]])),
                ..asked()
            },
            value("prompt"),
        ),
        (
            Asked {
                prompt: Some(Prompt::Texts(vec!["a".into(); 9])),
                choices: Some(2),
                ..asked()
            },
            value("prompt"),
        ),
        (
            Asked {
                shape: Shape::Tools(Choice::Auto),
                ..asked()
            },
            value("tool_choice"),
        ),
        (
            Asked {
                shape: Shape::Grammar(String::new()),
                ..asked()
            },
            value("grammar"),
        ),
        (
            Asked {
                model: None,
                ..asked()
            },
            ("model".into(), Fault::Missing),
        ),
        (
            Asked {
                prompt: None,
                ..asked()
            },
            ("prompt".into(), Fault::Missing),
        ),
    ];
    for (asked, expected) in cases {
        assert_eq!(fault(asked), expected);
    }
}
