// SPDX-License-Identifier: Apache-2.0
//! `fanfold s3`: enough of an S3 client that a newcomer needs no other.
//!
//! All of it goes through the platform's one storage client. Keys are bytes:
//! one that could leave a folder is never written to a file.

mod copy;
mod list;
mod place;
mod tally;

use std::{collections::BTreeMap, time::Duration};

use fanfold_protocol::{keys::SYSTEM_BUCKET_DEFAULT, uri::ObjectUri};
use fanfold_storage::{ListOptions, Store};
use futures::TryStreamExt;

pub use self::place::content_type;
use self::place::{folder, object, prefix};
use super::store;
use crate::{
    args::S3,
    dev,
    error::{Error, Exit, Result},
    interrupt::Interrupt,
    output,
};

/// Keys removed by one request.
const REMOVED_AT_ONCE: usize = 1_000;
/// On parts of what was not copied.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(2);

/// Runs the subcommand.
pub async fn run(endpoint: Option<&str>, token: Option<&str>, command: S3) -> Result<()> {
    if let S3::Env(shown) = command {
        let profile = store::profile(endpoint, token)?;
        let variables = BTreeMap::from_iter(dev::variables(&profile));
        return output::shown(shown.view, &variables, |_| dev::exports(&profile));
    }
    check(&command)?;
    let store = store::connect(endpoint, token)?;
    let done = match command {
        S3::Ls { uri, recursive, shown } => list::run(&store, uri.as_deref(), recursive, shown.view).await,
        S3::Cp { from, to, recursive, expected_size } => {
            let expected_bytes = expected_size.map_or(0, |size| size.0);
            until_told(&store, copy::run(&store, &from, &to, recursive, expected_bytes)).await
        }
        S3::Rm { uri, recursive } => remove(&store, &uri, recursive).await,
        S3::Mb { uri } => store.ensure_bucket(&bucket(&uri)?).await.map_err(Error::from),
        S3::Rb { uri } => remove_bucket(&store, &bucket(&uri)?).await,
        S3::Env(_) => Ok(()),
    };
    done.map_err(|error| store::located(error, &store))
}

/// Copies until all is done or the program is told to stop, and leaves nothing that nobody sees and that
/// takes room.
async fn until_told(store: &Store, copies: impl Future<Output = Result<()>>) -> Result<()> {
    let interrupt = Interrupt::listen();
    let done = tokio::select! {
        done = copies => done,
        () = interrupt.told() => {
            Err(Error::of(Exit::Interrupted, "stopped before all was copied; what was not whole is removed"))
        }
    };
    // Files on their way went with the copies, parts of objects go now.
    if tokio::time::timeout(REMOVAL_PATIENCE, store.settled()).await.is_err() {
        output::note(
            "parts of what was not copied may still lie in the store, which did not remove them in time",
        );
    }
    done
}

/// Tells typing mistakes before a store is looked for.
fn check(command: &S3) -> Result<()> {
    match command {
        S3::Ls { uri: Some(uri), .. } if uri != "s3://" => prefix(uri).map(drop),
        S3::Cp { from, expected_size: Some(_), .. } if from != "-" => {
            Err(Error::usage(format!("expected --expected-size beside '-' alone, found {from}"))
                .help("leave it out: the size of a file or an object is known"))
        }
        S3::Cp { from, to, recursive, .. } => copy::check(from, to, *recursive),
        S3::Rm { uri, recursive: true } => folder(&prefix(uri)?).map(drop),
        S3::Rm { uri, recursive: false } => object(uri).map(drop),
        S3::Mb { uri } | S3::Rb { uri } => bucket(uri).map(drop),
        S3::Ls { .. } | S3::Env(_) => Ok(()),
    }
}

/// A bucket's name, of `s3://bucket`. A bare name is what people type.
fn bucket(uri: &str) -> Result<String> {
    let text = if uri.starts_with("s3://") { uri.to_owned() } else { format!("s3://{uri}") };
    let place = prefix(&text)?;
    if !place.key().is_empty() {
        return Err(Error::usage(format!("expected a bucket such as s3://{}, found {uri}", place.bucket())));
    }
    Ok(place.bucket().to_owned())
}

async fn remove_bucket(store: &Store, bucket: &str) -> Result<()> {
    // Removing what is not there is no error of the client's; here it is a typing mistake.
    if !store.bucket_exists(bucket).await? {
        return Err(fanfold_storage::Error::NoSuchBucket { bucket: bucket.to_owned() }.into());
    }
    match store.delete_bucket(bucket).await {
        Err(fanfold_storage::Error::Conflict { .. }) => {
            let error = Error::service(format!("expected an empty bucket {bucket}, found objects in it"));
            Err(match bucket {
                SYSTEM_BUCKET_DEFAULT => {
                    error.help("it is the platform's own: functions, jobs and triggers lie there")
                }
                _ => error.help(format!("remove them first: fanfold s3 rm --recursive s3://{bucket}/")),
            })
        }
        removed => Ok(removed?),
    }
}

async fn remove(store: &Store, uri: &str, recursive: bool) -> Result<()> {
    if !recursive {
        let uri = object(uri)?;
        // Removing what is not there is no error of S3's; here it is a typing mistake.
        store.head(&uri).await?;
        store.delete(&uri).await?;
        return Ok(());
    }
    let named = prefix(uri)?;
    let place = folder(&named)?;
    let bar = output::spinner("removing");
    let mut removed = 0;
    let mut keys = Vec::new();
    let mut listing = store.list(place.bucket(), place.key(), ListOptions::default());
    while let Some(entry) = listing.try_next().await? {
        keys.push(entry.name().to_owned());
        if keys.len() == REMOVED_AT_ONCE {
            removed += keys.len();
            store.delete_many(place.bucket(), std::mem::take(&mut keys)).await?;
            bar.set_message(format!("removed {removed}"));
        }
    }
    removed += keys.len();
    store.delete_many(place.bucket(), keys).await?;
    bar.finish_and_clear();
    let objects = if removed == 1 {
        "1 object".to_owned()
    } else {
        format!("{} objects", output::count(removed as u64))
    };
    output::note(output::harmless(&format!("removed {objects} under {place}")));
    beside(store, &named, "removed").await
}

/// Tells of an object of the very name that a folder was named by: nothing was done to it.
async fn beside(store: &Store, named: &ObjectUri, done: &str) -> Result<()> {
    if *named != folder(named)? && store.head(named).await.is_ok() {
        output::note(output::harmless(&format!(
            "{named} itself is an object beside that folder and was not {done}; name it without --recursive"
        )));
    }
    Ok(())
}
