// SPDX-License-Identifier: Apache-2.0
//! `fanfold nats-users`: a user of NATS for each gateway and worker, who may do what
//! it needs and nothing else, workers in accounts of their own.
//!
//! Gives what a server includes in its configuration, and a file with the password
//! of each user. Passwords that are there are kept, so that further users can be
//! added later.

use std::{collections::BTreeSet, fs, io::ErrorKind, path::Path};

use fanfold_backbone::{NatsConfig, NatsUser, Needs, Secret};
use fanfold_protocol::{keys, names::WorkerName};

use super::certs::write;
use crate::{
    args::NatsUsers,
    error::{Error, Result},
    output,
};

/// Bytes of a password, twice as many digits.
const PASSWORD_BYTES: usize = 24;

/// What a worker does with its backbone, whoever it works for; a test runs workers
/// with nothing more than this and [`OF_TENANTS`].
const OF_ALL: Needs<'static> = Needs {
    reads: &[keys::TENANTS, keys::MEMBERS, keys::SUSPICIONS],
    writes: &[keys::MEMBERS, keys::SUSPICIONS],
    pulls: &[],
    hears: &[keys::NAMES_TAKEN],
    tells: &[keys::NAMES_TAKEN],
};
/// What it does in the keys of each tenant.
const OF_TENANTS: Needs<'static> = Needs {
    reads: &[keys::JOB_CANCELS, keys::HAND_OVERS, keys::STORE_RECORDS, keys::CONTESTS],
    writes: &[keys::HAND_OVERS, keys::STORE_RECORDS, keys::CONTESTS],
    pulls: &[keys::TASK_QUEUE],
    hears: &["jobs.*.cancel"],
    tells: &["jobs.*.commits", "jobs.*.running"],
};

/// Makes what is asked for.
pub fn run(args: &NatsUsers) -> Result<()> {
    let mut config = NatsConfig::new(["nats://localhost"]);
    (config.prefix, config.shards) = (args.prefix.clone(), args.shards);
    if let Some(problem) = config.problems().into_iter().next() {
        return Err(Error::usage(problem));
    }
    if args.gateway.is_empty() && args.worker.is_empty() {
        return Err(Error::usage("expected a user to make, found neither --gateway nor --worker")
            .help("name each, such as --gateway gateway --worker worker-1"));
    }
    // All names before anything is made: a mistake must leave nothing behind.
    let mut names = BTreeSet::new();
    for name in args.gateway.iter().chain(&args.worker) {
        // It becomes part of subjects and of a file's name.
        name.parse::<WorkerName>().map_err(|problem| Error::usage(problem.detail))?;
        if !names.insert(name) {
            return Err(Error::usage(format!("expected each user once, found {name} twice"))
                .help("NATS does not start with two users of one name, also in different accounts"));
        }
    }
    fs::create_dir_all(&args.out).map_err(|cause| {
        Error::usage(format!("expected to make the folder {}, found: {cause}", args.out.display()))
    })?;
    let users = |names: &[String]| names.iter().map(|name| user(&args.out, name)).collect::<Result<Vec<_>>>();
    let (gateways, workers) = (users(&args.gateway)?, users(&args.worker)?);
    // Whose system bucket is the deployment's own has no scope of its own.
    let scopes: Vec<String> =
        std::iter::once(String::new()).chain(args.tenant.iter().map(keys::tenant_scope)).collect();
    let accounts = accounts(&config, &gateways, &workers, &scopes)?;
    let path = args.out.join("users.conf");
    // It follows from the rest, so an earlier one is made anew.
    let _ = fs::remove_file(&path);
    write(&path, &accounts, 0o600)?;
    output::note(format!("made {}; include it in the configuration of NATS", path.display()));
    Ok(())
}

/// The accounts of a deployment whose workers work for the tenants of these scopes.
fn accounts(
    config: &NatsConfig,
    gateways: &[NatsUser],
    workers: &[NatsUser],
    scopes: &[String],
) -> Result<String> {
    let all = |of_all: &[&str], of_tenants: &[&str], separator: &str| -> Vec<String> {
        let scoped = scopes.iter().flat_map(|scope| {
            let scope = scope.replace('/', separator);
            of_tenants.iter().map(move |name| format!("{scope}{name}"))
        });
        of_all.iter().map(|name| (*name).to_owned()).chain(scoped).collect()
    };
    let lists = [
        all(OF_ALL.reads, OF_TENANTS.reads, "/"),
        all(OF_ALL.writes, OF_TENANTS.writes, "/"),
        all(OF_ALL.pulls, OF_TENANTS.pulls, "/"),
        all(OF_ALL.hears, OF_TENANTS.hears, "."),
        all(OF_ALL.tells, OF_TENANTS.tells, "."),
    ];
    let [reads, writes, pulls, hears, tells] =
        lists.each_ref().map(|list| list.iter().map(String::as_str).collect::<Vec<_>>());
    let needs = Needs { reads: &reads, writes: &writes, pulls: &pulls, hears: &hears, tells: &tells };
    config.accounts(gateways, workers, needs).map_err(|error| Error::usage(error.to_string()))
}

/// A user, with the password that lies there or a new one.
fn user(out: &Path, name: &str) -> Result<NatsUser> {
    let path = out.join(format!("{name}.password"));
    let password = match fs::read_to_string(&path) {
        Ok(known) => kept(&path, known.trim())?,
        Err(cause) if cause.kind() != ErrorKind::NotFound => {
            return Err(Error::usage(format!("expected to read {}, found: {cause}", path.display())));
        }
        Err(_) => {
            let mut bytes = [0; PASSWORD_BYTES];
            getrandom::fill(&mut bytes)
                .map_err(|error| Error::usage(format!("expected random bytes, found: {error}")))?;
            let made: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            write(&path, &made, 0o600)?;
            output::note(format!("made {}", path.display()));
            made
        }
    };
    Ok(NatsUser { name: name.to_owned(), password: Secret::new(password) })
}

/// A password as it is made here. Whatever else lies in its place, such as nothing where the disk was full, would open
/// the account to whoever guesses it.
fn kept(path: &Path, found: &str) -> Result<String> {
    let is_digit = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    if found.len() == 2 * PASSWORD_BYTES && found.bytes().all(is_digit) {
        return Ok(found.to_owned());
    }
    let (path, digits) = (path.display(), 2 * PASSWORD_BYTES);
    let found = if found.is_empty() { "none" } else { "something else" };
    let error =
        format!("expected a password of {digits} digits, 0 to 9 and a to f, in {path}, found {found}");
    Err(Error::usage(error).help("bring back what was made, or remove the file for a new password"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    fn users(out: &Path, worker: &[&str]) -> NatsUsers {
        NatsUsers {
            out: out.to_owned(),
            gateway: Vec::new(),
            worker: worker.iter().map(|name| (*name).to_owned()).collect(),
            tenant: Vec::new(),
            prefix: "fanfold".to_owned(),
            shards: 4,
        }
    }

    #[test]
    fn only_passwords_as_they_are_made_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (args, path) = (users(folder.path(), &["w"]), folder.path().join("w.password"));
        run(&args).unwrap();
        let made = fs::read_to_string(&path).unwrap();
        // As an editor leaves it.
        fs::write(&path, format!("{made}\n")).unwrap();
        run(&args).unwrap();
        let conf = folder.path().join("users.conf");
        assert!(fs::read_to_string(&conf).unwrap().contains(&format!("password: {made:?}")));
        fs::remove_file(&conf).unwrap();
        let shorter = &made[1..];
        for wrong in ["", "\n", shorter, &format!("A{shorter}"), &format!("{made}0")] {
            fs::write(&path, wrong).unwrap();
            let error = run(&args).unwrap_err();
            assert_eq!(error.exit(), Exit::Usage, "{wrong:?}");
            assert!(error.to_string().contains("w.password"), "{error}");
            assert!(!conf.exists() && fs::read_to_string(&path).unwrap() == wrong, "{wrong:?}");
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(run(&args).unwrap_err().exit(), Exit::Usage);
    }

    #[test]
    fn no_user_and_wrong_or_repeated_names_leave_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("nats");
        for workers in [&[][..], &["worker-1", "a b"], &["worker-1", "worker-1"]] {
            let args = users(&out, workers);
            assert_eq!(run(&args).unwrap_err().exit(), Exit::Usage, "{args:?}");
            assert!(!out.exists(), "{args:?}");
        }
        let both = NatsUsers { gateway: vec!["worker-1".to_owned()], ..users(&out, &["worker-1"]) };
        let error = run(&both).unwrap_err().to_string();
        assert!(error.contains("found worker-1 twice") && !out.exists(), "{error}");
    }
}
