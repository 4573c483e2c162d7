// SPDX-License-Identifier: Apache-2.0
//! What a function does in a job, as its exports and its own description tell.
//!
//! Asked when a job is submitted, before anything is planned. Pure: it reads a version
//! and a document, and refuses what cannot go together.

use fanfold_protocol::{
    ErrorKind, Problem,
    function::{Export, Version},
    job::JobDocument,
    plan::Shape,
};

/// Columns named in a refusal.
const COLUMNS_SHOWN: usize = 20;

/// What the author of a job without output should know.
pub(super) const NOT_KEPT: &str =
    "what the map wrote went to the aggregate and was not kept, since the job names no output";

/// What a function does as a job. One with both halves folds what it maps.
///
/// # Errors
/// `export-missing` when it is none, `invalid-job` when it has two aggregates, which earlier builds let be deployed.
pub(crate) fn shape(version: &Version) -> Result<Shape, Problem> {
    let has = |export| version.exports.contains(&export);
    Ok(match (has(Export::Mapper), has(Export::Aggregator), has(Export::Grouper)) {
        (_, true, true) => {
            return Err(Problem::new(
                ErrorKind::InvalidJob,
                format!(
                    "expected {}@{} to have one aggregate, with a key or without, found both; deploy them as functions of \
                     their own",
                    version.name, version.version
                ),
            ));
        }
        (true, true, _) => Shape::MapAggregate,
        (true, _, true) => Shape::MapGroup,
        (true, ..) => Shape::Map,
        (_, true, _) => Shape::Aggregate,
        (_, _, true) => Shape::Group,
        (false, false, false) => {
            return Err(Problem::new(
                ErrorKind::ExportMissing,
                format!(
                    "expected {}@{} to export a mapper, an aggregator or a grouper, found none of them; call it with \
                     fanfold invoke",
                    version.name, version.version
                ),
            ));
        }
    })
}

/// What a function does in this job, and what its author should know already.
pub(super) fn shape_of(version: &Version, document: &JobDocument) -> Result<(Shape, Vec<String>), Problem> {
    let shape = shape(version)?;
    if let Some(reducers) = document.reducers
        && !shape.groups()
    {
        return Err(Problem::new(
            ErrorKind::InvalidJob,
            format!(
                "reducers must be left out unless the function's aggregate has a key, found {reducers} for {}@{}, whose \
                 aggregate has none",
                version.name, version.version
            ),
        ));
    }
    check_halves(version)?;
    let dropped = shape == Shape::MapAggregate && document.output.is_none();
    Ok((shape, dropped.then(|| NOT_KEPT.to_owned()).into_iter().collect()))
}

/// The aggregate must find what it reads among what the map writes, as far as
/// both say so; what they do not say is seen when the tasks run.
fn check_halves(version: &Version) -> Result<(), Problem> {
    let describes = &version.describes;
    let writes = describes.mapper.as_ref().and_then(|mapper| mapper.writes.as_ref());
    let of_aggregator = describes.aggregator.as_ref().and_then(|aggregator| aggregator.reads.as_ref());
    let of_grouper = describes.grouper.as_ref().and_then(|grouper| grouper.reads.as_ref());
    let reads = of_aggregator.or(of_grouper);
    let Some((writes, reads)) = writes.zip(reads) else { return Ok(()) };
    let Some(absent) = reads.iter().find(|read| writes.iter().all(|write| write.name != read.name)) else {
        return Ok(());
    };
    let shown = writes.iter().take(COLUMNS_SHOWN).map(|column| format!("{:?}", column.name));
    Err(Problem::new(
        ErrorKind::ColumnNotFound,
        format!(
            "expected the map of {}@{} to write the column {:?}, which its aggregate reads, found that it writes {}; \
             add the column to the rows of the map, or deploy the two as functions of their own",
            version.name,
            version.version,
            absent.name,
            shown.collect::<Vec<_>>().join(", ")
        ),
    ))
}
