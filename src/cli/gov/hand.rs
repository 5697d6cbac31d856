//! From a wish to a signature, and from one machine to another by hand.

use super::args::{Keygen, PassphraseFlag, Sign, Signing, Where};
use super::mesh::{self, Mesh, Place};
use super::names::hex;
use super::{home, render};
use crate::cli::context::Context;
use crate::cli::term;
use crate::error::{Failure, Kind, Outcome};
use crate::home::Home;
use crate::sign::{self, Passphrase, Signer, Strength};
use quorate_core::governance::{Entry, Parcel, Request};
use quorate_core::ids::NetworkId;
use quorate_core::limits::{PASSPHRASE_BYTES_MAX, RECORD_BYTES_MAX};
use serde_json::json;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

pub(super) fn keygen(context: &Context, args: &Keygen) -> Outcome {
    refuse_home(&context.home, &args.out)?;
    if args.out.exists() {
        let message = format!("{} is there already", args.out.display());
        return Err(Failure::new(Kind::Taken, message)
            .hint("a key is never overwritten: choose another name"));
    }
    let passphrase = passphrase(&args.passphrase, Typed::Twice)?;
    let strength = if args.throw_away {
        Strength::ThrowAway
    } else {
        Strength::Real
    };
    let author = sign::keygen(&args.out, &passphrase, strength)?;
    if args.json {
        return term::json(
            &json!({"key": args.out, "public": hex(&author), "unsafe": args.throw_away}),
        );
    }
    let place = args.out.display();
    term::line(format!("key       {place}"))?;
    term::line(format!("public    {} (in {place}.pub)", hex(&author)))?;
    if args.throw_away {
        term::line("UNSAFE    its passphrase is quickly guessed: for tests only")?;
    }
    term::line(format!(
        "Keep {place} and the files beside it together, and off every node. Forget the passphrase and the key is gone.\n\
         Next: quorate gov init --preset solo --participant '{place}.pub'"
    ))
}

/// A node that is broken into must not have a vote in it.
fn refuse_home(home: &Home, key: &Path) -> Outcome {
    let whole = |path: &Path| std::fs::canonicalize(path).ok();
    let absolute = std::path::absolute(key).map_err(|error| Failure::file("find", key, &error))?;
    let Some(dir) = absolute.parent() else {
        return Ok(());
    };
    let (dir, data) = (whole(dir).unwrap_or(dir.to_owned()), whole(&home.data));
    if data.is_some_and(|data| dir.starts_with(data)) {
        let message = format!(
            "{} is in the home of a node, and vote keys never live on nodes",
            key.display()
        );
        return Err(Failure::new(Kind::Usage, message)
            .hint("put it on a stick: --out /media/stick/ada.key"));
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Typed {
    Once,
    Twice,
}

fn passphrase(flag: &PassphraseFlag, typed: Typed) -> Outcome<Passphrase> {
    if let Some(path) = &flag.passphrase_file {
        let bytes = mesh::read(path, PASSPHRASE_BYTES_MAX as u64 + 2)?;
        let text = String::from_utf8(bytes)
            .map_err(|_| Failure::new(Kind::Usage, format!("{} is not text", path.display())))?;
        return Passphrase::new(text.lines().next().unwrap_or_default().to_owned());
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(
            Failure::new(Kind::Usage, "nobody is here to type the passphrase")
                .hint("add --passphrase-file FILE"),
        );
    }
    let ask = |question: &str| -> Outcome<String> {
        let terminal = console::Term::stderr();
        terminal.write_str(question)?;
        Ok(terminal.read_secure_line()?)
    };
    let first = ask("Passphrase: ")?;
    if typed == Typed::Twice && ask("Once more: ")? != first {
        return Err(Failure::new(Kind::Usage, "the two passphrases differ").hint("try again"));
    }
    Passphrase::new(first)
}

/// Writes the request, or what a key says to it.
pub(super) fn deliver(
    context: &Context,
    mesh: Option<&Mesh>,
    request: &Request,
    how: &Signing,
    kind: &str,
) -> Outcome {
    let Some(key) = &how.key else {
        let bytes = request.encode();
        let path = how
            .out
            .clone()
            .unwrap_or_else(|| mesh::named_after(&bytes, kind, "request"));
        mesh::write_new(&path, &bytes)?;
        for (name, value) in render::request(request) {
            term::line(format!("{name:<10}{value}"))?;
        }
        let place = path.display();
        term::line(format!("request   {place} (not signed yet)"))?;
        return term::line(format!(
            "Next, where the key is: quorate gov sign '{place}' --key FILE"
        ));
    };
    let parcel = signed(context, mesh, request, how, key)?;
    if how.out.is_none() && mesh.is_some_and(|mesh| mesh.place == Place::Home) {
        let taken = home::take_home(context, parcel.records.clone());
        // What is signed must not be lost because a node runs here.
        return match taken {
            Ok(taken) => taken.print(),
            Err(failure) => {
                let path = save(&parcel, None, kind)?;
                let message = format!(
                    "signed, and kept in {}; {}",
                    path.display(),
                    failure.message
                );
                Err(Failure { message, ..failure })
            }
        };
    }
    let path = save(&parcel, how.out.clone(), kind)?;
    term::line(format!("signed    {}", path.display()))?;
    term::line(format!(
        "Next, on a node of the mesh: quorate gov import '{}'",
        path.display()
    ))
}

/// What a key says to a request, after it was shown.
pub(super) fn signed(
    context: &Context,
    mesh: Option<&Mesh>,
    request: &Request,
    how: &Signing,
    key: &Path,
) -> Outcome<Parcel> {
    refuse_home(&context.home, key)?;
    if !how.yes {
        for (name, value) in render::request(request) {
            eprintln!("{name:<10}{value}");
        }
        if !term::confirm("Sign this?", "--yes")? {
            return Err(Failure::new(Kind::Failed, "not signed"));
        }
    }
    let mut signer = Signer::open(key, &passphrase(&how.passphrase, Typed::Once)?)?;
    check_signer(&signer, mesh, request)?;
    let records = signer.sign(request, term::now_unix_s())?;
    Ok(Parcel {
        network: request.network,
        genesis: None,
        records,
    })
}

pub(super) fn save(parcel: &Parcel, out: Option<PathBuf>, kind: &str) -> Outcome<PathBuf> {
    let bytes = parcel.encode();
    let path = out.unwrap_or_else(|| mesh::named_after(&bytes, kind, "parcel"));
    mesh::write_new(&path, &bytes)?;
    Ok(path)
}

/// Nobody signs what nobody would count, or against what others have heard from him.
fn check_signer(signer: &Signer, mesh: Option<&Mesh>, request: &Request) -> Outcome {
    let Some(mesh) = mesh.filter(|mesh| mesh.network() == request.network) else {
        return Ok(());
    };
    let author = signer.author();
    let is_invited = || {
        mesh.open().iter().any(|(_, proposal)| match &proposal.act {
            quorate_core::governance::Act::Membership(new) => new.participants.contains(&author),
            _ => false,
        })
    };
    if !mesh.standing().electorate().is_active(&author) && !is_invited() {
        let message = format!(
            "the key {} is of no active participant of this mesh",
            hex(&author)
        );
        return Err(
            Failure::new(Kind::Usage, message).hint("`quorate gov status` shows who decides")
        );
    }
    let entries: Vec<Entry> = mesh.entries().collect();
    signer.has_heard(request.network, entries.iter())
}

pub(super) fn sign(context: &Context, args: &Sign) -> Outcome {
    let bytes = mesh::read(&args.request, RECORD_BYTES_MAX as u64)?;
    let request = Request::decode(&bytes).map_err(|error| {
        let message = format!("{} is no request: {error}", args.request.display());
        Failure::new(Kind::Usage, message)
            .hint("requests are written by `quorate gov propose`, vote, halt, resume and revoke without --key")
    })?;
    if args.signing.key.is_none() {
        return Err(Failure::new(Kind::Usage, "which key signs this?").hint("add --key FILE"));
    }
    // A machine with nothing but the stick is a good place to sign at. What is signed goes into a
    // file even where the mesh is: a request came from somewhere, and its answer goes back there.
    let mesh = known(context, &args.mesh)?.filter(|mesh| mesh.network() == request.network);
    let place = Place::File;
    let mesh = mesh.map(|mesh| Mesh { place, ..mesh });
    let signing = &args.signing;
    let kind = args
        .request
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned());
    deliver(
        context,
        mesh.as_ref(),
        &request,
        signing,
        &kind.unwrap_or_default(),
    )
}

/// The mesh of the home or of the named file, where there is one.
pub(super) fn known(context: &Context, named: &Where) -> Outcome<Option<Mesh>> {
    match Mesh::find(&context.home, named) {
        Ok(mesh) => Ok(Some(mesh)),
        Err(failure) if named.log.is_none() && failure.kind == Kind::NotFound => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// For a halt: the id alone will do.
pub(super) fn network_of(mesh: Option<&Mesh>, named: Option<NetworkId>) -> Outcome<NetworkId> {
    match (named, mesh) {
        (Some(id), _) => Ok(id),
        (None, Some(mesh)) => Ok(mesh.network()),
        (None, None) => Err(Failure::new(
            Kind::NotFound,
            "which mesh is to stop? This home has none",
        )
        .hint("add --network HEX, or --log FILE (from `quorate gov export`)")),
    }
}
