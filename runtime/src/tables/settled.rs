// SPDX-License-Identifier: Apache-2.0
//! Types that one object settles for all tasks of a job.
//!
//! Where a function does not declare its columns, their types are told from an
//! object. Were each task to look at its own objects, the way in which a job is
//! taken apart would decide the types; so the plan names one object, and every
//! task reads its columns as they are found there. What was found is kept here,
//! since a job's tasks all ask for the same.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use arrow::datatypes::SchemaRef;
use fanfold_protocol::{
    function::Column,
    job::{CsvOptions, Format, SchemaRule},
    plan,
};

use super::TableSource;

/// Schemas that are kept: a few for each job that runs.
const KEPT: usize = 64;

/// What settles the types of columns that are not declared, and where what it
/// holds may be known already.
#[derive(Clone, Debug)]
pub struct Like {
    /// The objects.
    pub of: plan::Like,
    /// What is known.
    pub settled: Arc<Settled>,
}

/// What decides about the schema that is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    like: plan::Like,
    schema: SchemaRule,
    format: Format,
    columns: Option<Vec<String>>,
    declared: Option<Vec<Column>>,
    csv: CsvOptions,
    filter: Option<String>,
}

impl Key {
    pub(super) fn new(like: &plan::Like, source: &TableSource) -> Self {
        Self {
            like: like.clone(),
            schema: source.schema,
            format: source.format,
            columns: source.columns.clone(),
            declared: source.declared.clone(),
            csv: source.csv.clone(),
            filter: source.filter.clone(),
        }
    }
}

/// The schemas that were found last.
#[derive(Debug, Default)]
pub struct Settled {
    kept: Mutex<VecDeque<(Key, SchemaRef)>>,
}

impl Settled {
    pub(super) fn get(&self, key: &Key) -> Option<SchemaRef> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|(held, _)| held == key).map(|(_, schema)| SchemaRef::clone(schema))
    }

    pub(super) fn put(&self, key: Key, schema: SchemaRef) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_front((key, schema));
        kept.truncate(KEPT);
    }
}
