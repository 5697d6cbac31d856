//! The command line: arguments as typed (`args`), one file for each verb or group of verbs, and one
//! place that turns a result into an exit code.

use crate::config::Overrides;
use crate::error::{Failure, Kind, Outcome};
use args::{Adapter, Bench, Cli, Expert, Mesh, Sim, Testnet, Verb};
use clap::{CommandFactory, Parser};
use context::{Context, Voice};
use eval::args::{Eval, EvalVerb};
use std::process::ExitCode;
use std::time::Instant;

mod adapter;
mod args;
mod bench;
mod client;
mod context;
mod doctor;
mod eval;
mod expert;
mod gov;
mod interrupt;
mod mesh;
mod models;
mod node;
mod replay;
mod run;
mod sim;
mod term;
mod testnet;
mod up;

/// The whole program.
pub fn main(started: Instant) -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(_) if std::env::args_os().len() <= 1 => return help(),
        Err(error) => {
            // Help and version are "errors" to clap, on standard output and with code 0; its own
            // code for a wrong command line is the 2 of `Kind::Usage`.
            let code = error.exit_code();
            return match error.print() {
                Ok(()) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
                Err(_) => ExitCode::SUCCESS, // nobody reads it
            };
        }
    };
    match dispatch(cli, started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if failure.kind != Kind::BrokenPipe {
                eprintln!("error: {failure}");
            }
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

/// No argument: what there is, on standard output. Nothing is bound, nothing is written.
fn help() -> ExitCode {
    // A reader that left is no error here either.
    Cli::command().print_help().ok();
    ExitCode::SUCCESS
}

fn dispatch(cli: Cli, started: Instant) -> Outcome {
    let context = |overrides: Overrides, voice: Voice| {
        Context::new(cli.config.as_deref(), cli.log_format, overrides, voice)
    };
    let command = || context(Overrides::default(), Voice::Command);
    match &cli.verb {
        Verb::Up(args) => up::up(context(args.into(), Voice::Server)?, args),
        Verb::Run(args) => run::run(
            context((&args.machine).into(), Voice::Command)?,
            args,
            started,
        ),
        Verb::Replay(args) => replay::replay(args),
        Verb::Pull(args) => models::pull(&command()?, args),
        Verb::List(args) => models::list(&command()?, args),
        Verb::Show(args) => models::show(&command()?, args),
        Verb::Rm(args) => models::rm(&command()?, args),
        Verb::Ps(args) => node::ps(&command()?, args),
        Verb::Stop(args) => node::stop(&command()?, args),
        Verb::Status(args) => node::status(&command()?, args),
        Verb::Mesh(Mesh::New(args)) => mesh::new(&command()?, args),
        Verb::Invite(args) => mesh::invite(&command()?, args),
        Verb::Join(args) => mesh::join(&command()?, args),
        Verb::Leave => mesh::leave(&command()?),
        Verb::Peers(args) => mesh::peers(&command()?, args),
        Verb::Adapter(Adapter::Add(args)) => adapter::add(&command()?, args),
        Verb::Adapter(Adapter::Rm(args)) => adapter::rm(&command()?, args),
        Verb::Adapter(Adapter::List(args)) => adapter::list(&command()?, args),
        Verb::Expert(Expert::Add(args)) => expert::add(&command()?, args),
        Verb::Expert(Expert::Rm(args)) => expert::rm(&command()?, args),
        Verb::Expert(Expert::List(args)) => expert::list(&command()?, args),
        Verb::Pause => expert::pause(&command()?, true),
        Verb::Resume => expert::pause(&command()?, false),
        Verb::Testnet(Testnet::Up(args)) => testnet::up(&command()?, args),
        Verb::Testnet(Testnet::Down(args)) => testnet::down(&command()?, args),
        Verb::Gov(verb) => gov::gov(&command()?, verb),
        Verb::Doctor(args) => doctor::doctor(cli.config.as_deref(), args),
        Verb::Bench(Bench::Solo(args)) => {
            bench::solo(&context((&args.machine).into(), Voice::Command)?, args)
        }
        Verb::Bench(Bench::Mesh(args)) => {
            bench::mesh(&context((&args.machine).into(), Voice::Command)?, args)
        }
        Verb::Bench(Bench::Wan(args)) => {
            bench::wan(&context((&args.machine).into(), Voice::Command)?, args)
        }
        Verb::Bench(Bench::Weights(args)) => bench::weights(args),
        Verb::Bench(Bench::Hostile(args)) if args.swap => bench::swap(&command()?, args),
        Verb::Bench(Bench::Hostile(args)) => bench::hostile(args),
        Verb::Eval(Eval {
            verb: Some(EvalVerb::Text(args)),
            ..
        }) => eval::eval_text(&context((&args.machine).into(), Voice::Command)?, args),
        Verb::Eval(args) => eval::eval(&context((&args.machine).into(), Voice::Command)?, args),
        Verb::Sim(Sim::Gov(args)) => sim::gov(args),
        Verb::Sim(Sim::Mesh(args)) => sim::mesh(args),
        Verb::Completions(args) => completions(args.shell),
    }
}

fn completions(shell: clap_complete::Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "quorate", &mut script);
    let script = String::from_utf8(script)
        .map_err(|_| Failure::new(Kind::Failed, "the completion script is not text"))?;
    term::line(script.trim_end())
}
