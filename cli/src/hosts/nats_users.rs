// SPDX-License-Identifier: Apache-2.0
//! `fanfold nats-users`: a user of NATS for each gateway and worker, who may do what
//! it needs and nothing else.
//!
//! Gives what a server includes in its configuration, and a file with the password
//! of each user. Passwords that are there are kept, so that further users can be
//! added later.

use std::{fs, path::Path};

use fanfold_backbone::{NatsConfig, Needs, Permissions};
use fanfold_protocol::{keys, names::WorkerName};

use super::certs::write;
use crate::{
    args::NatsUsers,
    error::{Error, Result},
    output,
};

/// Bytes of a password, twice as many digits.
const PASSWORD_BYTES: usize = 24;

/// What a worker does with its backbone; a test runs workers with nothing more.
const NEEDS: Needs<'static> = Needs {
    reads: &[
        keys::TENANTS,
        keys::MEMBERS,
        keys::SUSPICIONS,
        keys::JOB_CANCELS,
        keys::STORE_RECORDS,
        keys::CONTESTS,
    ],
    writes: &[keys::MEMBERS, keys::SUSPICIONS, keys::STORE_RECORDS, keys::CONTESTS],
    pulls: &[keys::TASK_QUEUE],
    hears: &["jobs.*.cancel", "workers.*.taken"],
    tells: &["jobs.*.commits", "jobs.*.running", "workers.*.taken"],
};

/// Makes what is asked for.
pub fn run(args: &NatsUsers) -> Result<()> {
    let mut config = NatsConfig::new(["nats://localhost"]);
    (config.prefix, config.shards) = (args.prefix.clone(), args.shards);
    if let Some(problem) = config.problems().into_iter().next() {
        return Err(Error::usage(problem));
    }
    fs::create_dir_all(&args.out).map_err(|cause| {
        Error::failed(format!("expected to make the folder {}, found: {cause}", args.out.display()))
    })?;
    let mut users = Vec::new();
    for name in &args.gateway {
        users.push(user(&args.out, name, &config.gateway_permissions())?);
    }
    for name in &args.worker {
        let permissions = config.worker_permissions(name, NEEDS);
        let permissions = permissions.map_err(|error| Error::failed(error.to_string()))?;
        users.push(user(&args.out, name, &permissions)?);
    }
    let path = args.out.join("users.conf");
    // It follows from the rest, so an earlier one is made anew.
    let _ = fs::remove_file(&path);
    write(&path, &format!("authorization {{\n  users: [\n{}  ]\n}}\n", users.concat()), 0o600)?;
    output::note(format!("made {}; include it in the configuration of NATS", path.display()));
    Ok(())
}

/// A user as NATS is told of it.
fn user(out: &Path, name: &str, permissions: &Permissions) -> Result<String> {
    // It becomes part of subjects and of a file's name.
    name.parse::<WorkerName>().map_err(|problem| Error::usage(problem.detail))?;
    let path = out.join(format!("{name}.password"));
    let password = match fs::read_to_string(&path) {
        Ok(known) => known.trim().to_owned(),
        Err(_) => {
            let mut bytes = [0; PASSWORD_BYTES];
            getrandom::fill(&mut bytes)
                .map_err(|error| Error::failed(format!("expected random bytes, found: {error}")))?;
            let made: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            write(&path, &made, 0o600)?;
            output::note(format!("made {}", path.display()));
            made
        }
    };
    Ok(format!("    {{ user: {name:?}, password: {password:?}, permissions: {{ {permissions} }} }}\n"))
}
