// SPDX-License-Identifier: Apache-2.0
//! The words of `fanfold job`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use fanfold_protocol::{
    job::Format,
    names::{FunctionName, FunctionRef},
};
use uuid::Uuid;

use super::{Shown, View, id_of, lines, number};

#[derive(Debug, Subcommand)]
pub enum Job {
    /// Submit a job
    Run(Box<JobRun>),
    /// List jobs, the newest first
    #[command(visible_alias = "list")]
    Ls {
        /// Only those in this state
        #[arg(long, value_parser = ["queued", "running", "succeeded", "failed", "cancelled"])]
        state: Option<String>,
        /// Only those of this function
        #[arg(long)]
        function: Option<FunctionName>,
        /// At most so many
        #[arg(long, value_name = "N", default_value = "50", value_parser = lines)]
        limit: usize,
        #[command(flatten)]
        shown: Shown,
    },
    /// Show a job
    Show {
        /// Id
        #[arg(value_parser = id_of)]
        id: Uuid,
        #[command(flatten)]
        shown: Shown,
    },
    /// Follow a job until it ends
    Watch {
        /// Id
        #[arg(value_parser = id_of)]
        id: Uuid,
        #[command(flatten)]
        shown: Shown,
    },
    /// List a job's tasks, failed ones first
    Tasks {
        /// Id
        #[arg(value_parser = id_of)]
        id: Uuid,
        /// Only those in this state
        #[arg(long, value_parser = ["failed", "running", "waiting", "done"])]
        state: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N", default_value = "50", value_parser = lines)]
        limit: usize,
        #[command(flatten)]
        shown: Shown,
    },
    /// Run a sample of a job's partitions, and tell what all of them would take
    Estimate {
        #[command(flatten)]
        job: JobSource,
        /// Partitions to run
        #[arg(long, value_name = "N", default_value = "8", value_parser = number::<u32>)]
        sample: u32,
        /// Print JSON in place of a table, like `--output json`
        #[arg(long)]
        json: bool,
    },
    /// Stop a job
    Cancel {
        /// Id
        #[arg(value_parser = id_of)]
        id: Uuid,
    },
    /// Run a job again: what failed, and what has changed, was added or is gone since
    Retry {
        /// Id
        #[arg(value_parser = id_of)]
        id: Uuid,
        /// Only say what would run
        #[arg(long)]
        dry_run: bool,
        /// Wait until the new job ends
        #[arg(long, conflicts_with = "dry_run")]
        wait: bool,
        #[command(flatten)]
        shown: Shown,
    },
}

#[derive(Debug, Args)]
pub struct JobRun {
    #[command(flatten)]
    pub job: JobSource,
    /// Replace the output of an earlier job
    #[arg(long)]
    pub overwrite: bool,
    /// Run every task, also those that an earlier job has run over the same input
    #[arg(long)]
    pub no_cache: bool,
    /// Wait until it ends
    #[arg(long)]
    pub wait: bool,
    /// Print JSON in place of a table, like `--output json`
    #[arg(long)]
    pub json: bool,
}

impl JobRun {
    /// How to print.
    pub fn view(&self) -> View {
        self.job.view(self.json)
    }
}

impl JobSource {
    /// Where the job's output goes: the last `--output` that says how to print nothing.
    pub fn output(&self) -> Option<&str> {
        self.outputs.iter().map(String::as_str).rfind(|text| View::from_str(text, true).is_err())
    }

    /// How to print. A word for that is no prefix, so one flag serves both.
    pub fn view(&self, json: bool) -> View {
        let said = self.outputs.iter().rev().find_map(|text| View::from_str(text, true).ok());
        if json { View::Json } else { said.unwrap_or_default() }
    }
}

/// A job, from a file or from flags.
#[derive(Debug, Args)]
pub struct JobSource {
    /// The job as TOML; `-` for standard input
    #[arg(value_name = "FILE.toml|-", conflicts_with = "function")]
    pub file: Option<PathBuf>,
    /// The function, in place of a file
    #[arg(long, requires = "input")]
    pub function: Option<FunctionRef>,
    /// s3:// objects, globs, or prefixes that end in '/'
    #[arg(long, num_args = 1.., value_name = "URI")]
    pub input: Vec<String>,
    /// Prefix for the output, ending in '/'; also `table` or `json`: how to print
    #[arg(long = "output", value_name = "URI|VIEW")]
    pub outputs: Vec<String>,
    /// For the function's params: a JSON object, or @FILE
    #[arg(long, value_name = "JSON|@FILE")]
    pub params: Option<String>,
    /// How the input is stored: auto, parquet, csv, jsonl, arrow or bytes
    #[arg(long, value_parser = format)]
    pub format: Option<Format>,
    /// Which columns to read, with commas between (all that the function declares, if not given)
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub columns: Option<Vec<String>>,
    /// Which rows to read, such as "region = 'north' and income > 0"
    #[arg(long, value_name = "CONDITION")]
    pub filter: Option<String>,
}

fn format(text: &str) -> Result<Format, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned()))
        .map_err(|_| format!("expected auto, parquet, csv, jsonl, arrow or bytes, found {text:?}"))
}
