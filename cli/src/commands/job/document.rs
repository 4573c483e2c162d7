// SPDX-License-Identifier: Apache-2.0
//! A job from a TOML file, or from flags.
//!
//! Everything that can be checked here is, with the platform's own rules, so
//! that a typing mistake costs no round trip and shows its line.

use std::{io::ErrorKind, path::Path};

use fanfold_protocol::{
    filter::{Filter, Position},
    job::{Format, JobDocument, OneOrMany},
    limits,
    names::FunctionRef,
};

use crate::{
    args::{JobRun, JobSource},
    error::{Error, Excerpt, Result},
    input, json_text,
};

/// The document that the arguments describe. Flags go over the file.
pub fn read(args: &JobSource) -> Result<JobDocument> {
    let mut document = match (&args.file, &args.function) {
        (Some(file), _) => of_file(file)?,
        (None, Some(function)) => of_flags(function.clone(), args),
        (None, None) => {
            return Err(Error::usage("expected a job as FILE.toml or by --function, found neither")
                .help("such as fanfold job run job.toml, or --function NAME --input s3://bucket/key"));
        }
    };
    if args.file.is_some() && !args.input.is_empty() {
        document.input = OneOrMany::Many(args.input.clone());
    }
    if let Some(output) = args.output() {
        document.output = Some(output.parse()?);
    }
    if let Some(params) = &args.params {
        document.params = Some(input::params(params)?);
    }
    if let Some(columns) = &args.columns {
        document.columns = Some(columns.clone());
    }
    if let Some(filter) = &args.filter {
        document.filter = Some(filter.clone());
    }
    document.format = args.format.unwrap_or(document.format);
    document.check()?;
    document.filter.as_deref().map_or(Ok(()), check_filter)?;
    Ok(document)
}

/// Shows the place in the filter where it goes wrong.
fn check_filter(text: &str) -> Result<()> {
    let Err(problem) = Filter::parse(text) else { return Ok(()) };
    let place = Position::named_by(&problem);
    let error = Error::from(problem);
    Err(match place {
        Some(place) => error.excerpt(Excerpt {
            name: "filter".to_owned(),
            text: text.to_owned(),
            offset: place.offset(text),
            label: "here".to_owned(),
        }),
        None => error,
    })
}

/// The document of a job that is to be run.
pub fn to_run(args: &JobRun) -> Result<JobDocument> {
    let mut document = read(&args.job)?;
    document.overwrite |= args.overwrite;
    document.cache &= !args.no_cache;
    Ok(document)
}

fn of_file(path: &Path) -> Result<JobDocument> {
    let name = input::name(path);
    let text = input::text_or_stream(path, limits::DOCUMENT_BYTES_MAX).map_err(|cause| {
        let error = Error::usage(format!("expected a job as TOML in {name}, found: {cause}"));
        match path.join("job.toml") {
            within if within.is_file() => error.help(format!("did you mean {}?", within.display())),
            _ if cause.kind() == ErrorKind::NotFound && name.parse::<FunctionRef>().is_ok() => {
                error.help(format!("a function is run by --function {name} --input URI"))
            }
            _ => error,
        }
    })?;
    json_text::toml(&name, &text)
}

fn of_flags(function: FunctionRef, args: &JobSource) -> JobDocument {
    JobDocument {
        function,
        input: OneOrMany::Many(args.input.clone()),
        format: Format::default(),
        schema: Default::default(),
        columns: None,
        filter: None,
        output: None,
        output_format: Format::default(),
        overwrite: false,
        depth: 0,
        params: None,
        csv: Default::default(),
        split: Default::default(),
        reducers: None,
        retry: Default::default(),
        limits: Default::default(),
        budget: Default::default(),
        cache: true,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command, Job, View};

    fn parse(words: &[&str]) -> Result<JobDocument> {
        let cli = Cli::try_parse_from([&["fanfold", "job", "run"][..], words].concat()).unwrap();
        let Command::Job { command: Job::Run(args) } = cli.command else { unreachable!() };
        to_run(&args)
    }

    #[test]
    fn flags_make_a_document() {
        let job = parse(&[
            "--function",
            "score@prod",
            "--input",
            "s3://bank/a",
            "s3://bank/b",
            "--output",
            "s3://bank/out/",
            "--params",
            r#"{"threshold": 0.2}"#,
            "--format",
            "csv",
            "--columns",
            "id,pay day",
            "--overwrite",
        ])
        .unwrap();
        assert_eq!(job.inputs(), ["s3://bank/a", "s3://bank/b"]);
        assert_eq!(job.columns, Some(vec!["id".to_owned(), "pay day".to_owned()]));
        assert_eq!((job.format, job.overwrite), (Format::Csv, true));
        assert_eq!(job.params.unwrap()["threshold"], 0.2);
        assert_eq!(job.output.unwrap().to_string(), "s3://bank/out/");
        let error = parse(&["--function", "f", "--input", "bank/a", "--output", "s3://bank/x"]).unwrap_err();
        assert!(
            error.to_string().contains("s3://bucket/key") && error.to_string().contains("ends in '/'"),
            "{error}"
        );
    }

    #[test]
    fn an_output_that_is_a_view_is_no_prefix() {
        let check = |outputs: &[&str], prefix: Option<&str>, view| {
            let flags = outputs.iter().flat_map(|output| ["--output", *output]);
            let words = ["fanfold", "job", "run", "job.toml"].into_iter().chain(flags);
            let Command::Job { command: Job::Run(args) } = Cli::try_parse_from(words).unwrap().command else {
                unreachable!()
            };
            assert_eq!((args.job.output(), args.view()), (prefix, view), "{outputs:?}");
        };
        check(&[], None, View::Table);
        check(&["json"], None, View::Json);
        check(&["s3://bank/out/"], Some("s3://bank/out/"), View::Table);
        check(&["s3://bank/out/", "json"], Some("s3://bank/out/"), View::Json);
        check(&["json", "s3://bank/out/", "table"], Some("s3://bank/out/"), View::Table);
    }

    #[test]
    fn filters_are_checked_here() {
        let filter = |text| parse(&["--function", "f", "--input", "s3://bank/a", "--filter", text]);
        assert_eq!(filter("a > 5 and b = 'x'").unwrap().filter.as_deref(), Some("a > 5 and b = 'x'"));
        let error = filter("a > 5 b").unwrap_err();
        assert!(error.to_string().contains("\"b\" at column 7"), "{error}");
    }

    #[test]
    fn flags_go_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("job.toml");
        std::fs::write(&path, "function = \"f\"\ninput = \"s3://bank/a\"\nparams = { a = 1 }\n").unwrap();
        let file = path.to_str().unwrap();
        let job = parse(&[file, "--input", "s3://bank/b", "--params", "{\"a\":2}"]).unwrap();
        assert_eq!(
            (job.inputs(), job.params.as_ref().unwrap()["a"].as_u64()),
            (&["s3://bank/b".to_owned()][..], Some(2))
        );
        std::fs::write(&path, "function = \"f\"\ninput = \"s3://bank/a\"\n[limit]\nmemory = \"1MiB\"\n")
            .unwrap();
        let error = parse(&[file]).unwrap_err().to_string();
        assert!(error.contains("job.toml:3: unknown field `limit`"), "{error}");
        assert!(parse(&["no-such.toml"]).is_err());
    }
}
