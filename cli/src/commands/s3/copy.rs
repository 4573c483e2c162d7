// SPDX-License-Identifier: Apache-2.0
//! `fanfold s3 cp`: files into the store and back.
//!
//! Bytes stream through; large objects go in parts. Invariant: a file or an
//! object appears whole or not at all. Of many, what fails does not stop the others.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bytes::{Bytes, BytesMut};
use fanfold_protocol::{ErrorKind, uri::ObjectUri};
use fanfold_storage::{ListEntry, ListOptions, Pin, PutOptions, ReadAhead, Store};
use futures::{StreamExt, TryStreamExt};
use indicatif::ProgressBar;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    place::{Side, content_type, folder, object, of_stream, side, target_file, target_object, under},
    tally::Tally,
};
use crate::{
    error::{Error, Result},
    output,
    whole::Draft,
};

/// Bytes read from a file at once.
const PIECE_BYTES: usize = 1 << 20;
/// What S3 copies in one request; some stores copy more.
const COPY_BYTES_MAX: u64 = 5 << 30;

/// Refuses what cannot be copied, before anything is done.
pub fn check(from: &str, to: &str, recursive: bool) -> Result<()> {
    match (side(from)?, side(to)?, recursive) {
        (Side::File(_), Side::Object(_), _) | (Side::Object(_), Side::File(_), true) => Ok(()),
        (Side::Object(from), Side::Object(to), true) => {
            let to = folder(&to)?;
            differ(folder(&from)? == to, &to)
        }
        (_, _, true) => Err(Error::usage(
            "--recursive copies a folder of this machine or of the store to one of the store or of this machine",
        )),
        (Side::Object(_), Side::Object(to), false) => {
            let from = object(from)?;
            differ(named_like(&from, &to)? == from, &from)
        }
        (Side::Object(_), _, false) => object(from).map(drop),
        (Side::Stream, Side::Object(_), false) => of_stream(to).map(drop),
        _ => Err(Error::usage(format!("expected s3:// on at least one side, found {from} and {to}"))),
    }
}

/// Copies what [`check`] has let pass. Of a stream so many bytes are expected.
pub async fn run(store: &Store, from: &str, to: &str, recursive: bool, expected_bytes: u64) -> Result<()> {
    match (side(from)?, side(to)?, recursive) {
        (Side::File(from), Side::Object(to), true) => put_folder(store, &from, &to).await,
        (Side::Object(from), Side::File(to), true) => {
            get_folder(store, &folder(&from)?, &to).await?;
            super::beside(store, &from, "copied").await
        }
        (Side::Object(from), Side::Object(to), true) => {
            copy_folder(store, &folder(&from)?, &folder(&to)?).await?;
            super::beside(store, &from, "copied").await
        }
        (Side::File(from), Side::Object(to), false) => put_file(store, &from, &to).await,
        (Side::Stream, Side::Object(to), false) => put_stream(store, &to, expected_bytes).await,
        (Side::Object(from), Side::File(to), false) => get_file(store, &from, &to).await,
        (Side::Object(from), Side::Stream, false) => get_stream(store, &from).await,
        (Side::Object(from), Side::Object(to), false) => {
            copy_object(store, &from, &named_like(&from, &to)?).await
        }
        _ => check(from, to, recursive),
    }
}

fn differ(same: bool, place: &ObjectUri) -> Result<()> {
    if same {
        return Err(Error::usage(format!("expected two places, found {place} on both sides"))
            .help("a copy onto itself changes nothing; name another place"));
    }
    Ok(())
}

/// Where the copy of an object goes.
fn named_like(from: &ObjectUri, to: &ObjectUri) -> Result<ObjectUri> {
    target_object(to, from.key().rsplit('/').next().unwrap_or_default())
}

async fn put_file(store: &Store, from: &Path, to: &ObjectUri) -> Result<()> {
    let size_bytes = file_size(from)?;
    let to = target_object(to, &file_name(from)?)?;
    let bar = output::bytes_bar("uploading", size_bytes);
    upload(store, from, &to, &bar).await?;
    bar.finish_and_clear();
    output::note(output::harmless(&format!("{} -> {to} ({})", from.display(), output::bytes(size_bytes))));
    Ok(())
}

async fn put_stream(store: &Store, to: &ObjectUri, expected_bytes: u64) -> Result<()> {
    let bar = output::spinner("uploading");
    send(store, tokio::io::stdin(), expected_bytes, to, &bar).await?;
    bar.finish_and_clear();
    Ok(())
}

async fn put_folder(store: &Store, from: &Path, to: &ObjectUri) -> Result<()> {
    let prefix = folder(to)?;
    let bar = output::bytes_bar("uploading", 0);
    let (mut files, mut tally) = (Vec::new(), Tally::new(&bar));
    walk(from, "", &mut files, &mut tally)?;
    bar.set_length(files.iter().map(|(_, _, size)| size).sum());
    let uploads = files.iter().map(|(path, name, size)| {
        let (prefix, bar) = (&prefix, &bar);
        let copied = async move {
            upload(store, path, &prefix.join(name)?, bar).await?;
            Ok::<_, Error>(*size)
        };
        async move { (path.display().to_string(), copied.await) }
    });
    tally.run(uploads).await?;
    tally.end("files", &prefix)
}

async fn get_file(store: &Store, from: &ObjectUri, to: &Path) -> Result<()> {
    let path = target_file(to, from)?;
    let bar = output::bytes_bar("downloading", 0);
    let size_bytes = download(store, from, &path, &bar).await?;
    bar.finish_and_clear();
    output::note(output::harmless(&format!("{from} -> {} ({})", path.display(), output::bytes(size_bytes))));
    Ok(())
}

async fn get_stream(store: &Store, from: &ObjectUri) -> Result<()> {
    let (pin, mut out) = (store.head(from).await?.pin, tokio::io::stdout());
    receive(store, from, &pin, &mut out, &ProgressBar::hidden(), |cause| output::unwritable(&cause)).await?;
    Ok(())
}

async fn get_folder(store: &Store, from: &ObjectUri, to: &Path) -> Result<()> {
    let bar = output::bytes_bar("downloading", 0);
    let mut tally = Tally::new(&bar);
    let mut objects = below(store, from, &mut tally).await?;
    // Some clients put an empty object where they show a folder.
    objects.retain(|(_, name, size)| *size > 0 || !name.ends_with('/') && !name.is_empty());
    let downloads = objects.iter().map(|(uri, name, _)| {
        let bar = &bar;
        let copied = async move { download(store, uri, &under(to, name, uri.key())?, bar).await };
        async move { (uri.to_string(), copied.await) }
    });
    tally.run(downloads).await?;
    tally.end("objects", to.display())
}

async fn copy_folder(store: &Store, from: &ObjectUri, to: &ObjectUri) -> Result<()> {
    let bar = output::bytes_bar("copying", 0);
    let mut tally = Tally::new(&bar);
    let objects = below(store, from, &mut tally).await?;
    bar.set_length(objects.iter().map(|(_, _, size)| size).sum());
    let copies = objects.iter().map(|(uri, name, size)| {
        let bar = &bar;
        let copied = async move {
            copy_object(store, uri, &to.join(name)?).await?;
            bar.inc(*size);
            Ok::<_, Error>(*size)
        };
        async move { (uri.to_string(), copied.await) }
    });
    tally.run(copies).await?;
    tally.end("objects", to)
}

async fn copy_object(store: &Store, from: &ObjectUri, to: &ObjectUri) -> Result<()> {
    match store.copy(from, None, to).await {
        Ok(_) => Ok(()),
        // Stores say it in words of their own.
        Err(error @ fanfold_storage::Error::Other { .. }) => match store.head(from).await {
            Ok(meta) if meta.pin.size > COPY_BYTES_MAX => Err(too_large(from, to, meta.pin.size)),
            _ => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    }
}

fn too_large(from: &ObjectUri, to: &ObjectUri, size_bytes: u64) -> Error {
    let (most, found) = (output::bytes(COPY_BYTES_MAX), output::bytes(size_bytes));
    Error::service(format!("expected at most {most}, which a store copies at once, found {found} at {from}"))
        .with_code(ErrorKind::TransferTooLarge.code())
        .help(format!(
            "have it go through this machine: \
             fanfold s3 cp '{from}' - | fanfold s3 cp --expected-size {size_bytes}B - '{to}'"
        ))
}

/// Every object in a folder, with its name there and its size.
async fn below(
    store: &Store,
    folder: &ObjectUri,
    tally: &mut Tally<'_>,
) -> Result<Vec<(ObjectUri, String, u64)>> {
    let mut objects = Vec::new();
    let mut listing = store.list(folder.bucket(), folder.key(), ListOptions::default());
    while let Some(entry) = listing.try_next().await? {
        if let ListEntry::Object { key, pin, .. } = entry {
            let name = key.strip_prefix(folder.key()).unwrap_or_default().to_owned();
            match ObjectUri::new(folder.bucket(), key.as_str()) {
                Ok(uri) => objects.push((uri, name, pin.size)),
                Err(problem) => tally.failed(&format!("{key:?}"), &Error::from(problem)),
            }
        }
    }
    Ok(objects)
}

async fn upload(store: &Store, from: &Path, to: &ObjectUri, bar: &ProgressBar) -> Result<()> {
    let file = tokio::fs::File::open(from).await.map_err(|cause| unreadable(from, &cause))?;
    let size_bytes = file.metadata().await.map_err(|cause| unreadable(from, &cause))?.len();
    send(store, file, size_bytes, to, bar).await
}

async fn send(
    store: &Store,
    mut from: impl AsyncRead + Unpin,
    expected_bytes: u64,
    to: &ObjectUri,
    bar: &ProgressBar,
) -> Result<()> {
    let content_type = content_type(to.key()).map(str::to_owned);
    let options = PutOptions { content_type, ..PutOptions::default() };
    let mut writer = store.writer(to, options).expecting(expected_bytes);
    let mut buffer = BytesMut::with_capacity(PIECE_BYTES);
    loop {
        buffer.reserve(PIECE_BYTES);
        let read = (&mut from).take(PIECE_BYTES as u64).read_buf(&mut buffer).await?;
        if read == 0 {
            break;
        }
        let piece: Bytes = buffer.split().freeze();
        writer.write(piece).await?;
        bar.inc(read as u64);
    }
    writer.finish().await?;
    Ok(())
}

async fn download(store: &Store, from: &ObjectUri, path: &Path, bar: &ProgressBar) -> Result<u64> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let unwritable = |cause: std::io::Error| {
        Error::usage(format!("expected to write {}, found: {cause}; choose another place", path.display()))
    };
    // What is not there makes no folder, and no pipe wait for its reader.
    let pin = store.head(from).await?.pin;
    fs::create_dir_all(folder).map_err(unwritable)?;
    let draft = Draft::open(path).map_err(unwritable)?;
    let mut file = tokio::fs::File::from_std(draft.file().map_err(unwritable)?);
    let size_bytes = receive(store, from, &pin, &mut file, bar, unwritable).await?;
    draft.finish().map_err(unwritable)?;
    Ok(size_bytes)
}

/// Reads an object until it ends or its reader has seen enough, and counts its bytes.
async fn receive(
    store: &Store,
    from: &ObjectUri,
    pin: &Pin,
    to: &mut (impl AsyncWrite + Unpin),
    bar: &ProgressBar,
    unwritable: impl Fn(std::io::Error) -> Error,
) -> Result<u64> {
    bar.inc_length(pin.size);
    let mut received = 0;
    let mut body = Box::pin(store.reader(from, pin, 0..pin.size, ReadAhead::default()));
    while let Some(piece) = body.next().await {
        let piece = piece?;
        if !output::taken(to.write_all(&piece).await).map_err(&unwritable)? {
            return Ok(received);
        }
        received += piece.len() as u64;
        bar.inc(piece.len() as u64);
    }
    output::taken(to.flush().await).map_err(&unwritable)?;
    Ok(received)
}

/// Every file below a folder: its path, its name with `/`, its size.
fn walk(
    folder: &Path,
    name: &str,
    files: &mut Vec<(PathBuf, String, u64)>,
    tally: &mut Tally<'_>,
) -> Result<()> {
    let entries = fs::read_dir(folder).map_err(|cause| unreadable(folder, &cause))?;
    let entries = entries.collect::<std::io::Result<Vec<_>>>();
    let mut entries = entries.map_err(|cause| unreadable(folder, &cause))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let found = visit(&entry, name, files, tally);
        if let Err(error) = found {
            tally.failed(&entry.path().display().to_string(), &error);
        }
    }
    Ok(())
}

fn visit(
    entry: &fs::DirEntry,
    name: &str,
    files: &mut Vec<(PathBuf, String, u64)>,
    tally: &mut Tally<'_>,
) -> Result<()> {
    let path = entry.path();
    let part = file_name(&path)?;
    let name = if name.is_empty() { part } else { format!("{name}/{part}") };
    if entry.file_type().map_err(|cause| unreadable(&path, &cause))?.is_dir() {
        return walk(&path, &name, files, tally);
    }
    // Links to files are followed, links to folders could lead round in a circle.
    let metadata = fs::metadata(&path).map_err(|cause| unreadable(&path, &cause))?;
    if metadata.is_file() {
        files.push((path, name, metadata.len()));
    }
    Ok(())
}

fn file_size(path: &Path) -> Result<u64> {
    let metadata = fs::metadata(path).map_err(|cause| unreadable(path, &cause))?;
    if metadata.is_dir() {
        return Err(Error::usage(format!("expected a file, found the folder {}", path.display()))
            .help("say --recursive for a folder"));
    }
    Ok(metadata.len())
}

fn file_name(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    name.ok_or_else(|| {
        Error::usage(format!("expected a file with a name in UTF-8, found {}", path.display()))
    })
}

fn unreadable(path: &Path, cause: &std::io::Error) -> Error {
    Error::usage(format!("expected to read {}, found: {cause}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_walked_in_order() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("b")).unwrap();
        for name in ["c", "b/2", "b/1", "a"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("nowhere", dir.path().join("b/0")).unwrap();
        let bar = ProgressBar::hidden();
        let (mut files, mut tally) = (Vec::new(), Tally::new(&bar));
        walk(dir.path(), "", &mut files, &mut tally).unwrap();
        let names: Vec<_> = files.iter().map(|(_, name, size)| (name.as_str(), *size)).collect();
        assert_eq!(names, [("a", 1), ("b/1", 3), ("b/2", 3), ("c", 1)]);
        assert!(tally.end("files", "x").unwrap_err().to_string().contains("1 failed"));
        assert!(walk(&dir.path().join("none"), "", &mut files, &mut Tally::new(&bar)).is_err());
    }

    #[test]
    fn what_cannot_be_copied_is_refused_at_once() {
        let good = |from: &str, to: &str, all| assert!(check(from, to, all).is_ok(), "{from} {to}");
        good("a", "s3://bank/", false);
        good("a", "s3://bank/x/", true);
        good("-", "s3://bank/a", false);
        good("s3://bank/a", "-", false);
        good("s3://bank/", "a", true);
        good("s3://bank/a", "s3://bank/b/", false);
        good("s3://bank/a/", "s3://bank/b", true);
        let bad = |from: &str, to: &str, all| assert!(check(from, to, all).is_err(), "{from} {to}");
        bad("a", "b", false);
        bad("-", "-", false);
        bad("-", "s3://bank/", false);
        bad("s3://bank/", "a", false);
        bad("-", "s3://bank/b", true);
        bad("s3://B/a", "a", false);
    }

    #[test]
    fn what_is_too_large_to_be_copied_is_told_with_a_way_round() {
        let [from, to] = ["s3://bank/a", "s3://bank/b"].map(|uri| uri.parse::<ObjectUri>().unwrap());
        let error = too_large(&from, &to, 6 << 30);
        assert_eq!(error.code(), Some("transfer-too-large"));
        assert!(error.to_string().contains("s3://bank/a"), "{error}");
        assert!(
            error
                .advice()
                .contains("cp 's3://bank/a' - | fanfold s3 cp --expected-size 6442450944B - 's3://bank/b'"),
            "{}",
            error.advice()
        );
    }

    #[test]
    fn nothing_is_copied_onto_itself() {
        let check = |from: &str, to: &str, all, good: bool| {
            let found = check(from, to, all);
            let told = found.as_ref().err().map(|error| (error.exit(), error.to_string()));
            let refused = told.is_some_and(|(exit, told)| {
                assert!(exit == crate::error::Exit::Usage && told.contains("on both sides"), "{told}");
                true
            });
            assert_eq!(refused, !good, "{from} {to}");
        };
        check("s3://bank/a", "s3://bank/a", false, false);
        check("s3://bank/x/a", "s3://bank/x/", false, false);
        check("s3://bank/a", "s3://bank", false, false);
        check("s3://bank/a", "s3://bank/x/", false, true);
        check("s3://bank/a", "s3://other/a", false, true);
        check("s3://bank/x/", "s3://bank/x/", true, false);
        check("s3://bank/x/", "s3://bank/x", true, false);
        check("s3://bank/x", "s3://bank/x/", true, false);
        check("s3://bank/x/a", "s3://bank/x/", true, true);
        check("s3://bank/a", "s3://bank/", true, true);
        check("s3://bank/x/", "s3://other/x/", true, true);
    }

    #[test]
    fn a_missing_file_is_wrong_use() {
        assert_eq!(file_size(Path::new("no such file")).unwrap_err().exit(), crate::error::Exit::Usage);
        assert!(file_size(Path::new("/")).unwrap_err().to_string().contains("folder"));
    }
}
