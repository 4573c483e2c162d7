// SPDX-License-Identifier: Apache-2.0
//! The words of `fanfold trigger`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use fanfold_protocol::names::{FunctionRef, TriggerName};

use super::{Shown, lines};

#[derive(Debug, Subcommand)]
pub enum Trigger {
    /// Make a trigger, or change it
    Add(Box<TriggerAdd>),
    /// List all triggers
    #[command(visible_alias = "list")]
    Ls(Shown),
    /// Show a trigger
    Show {
        /// Name
        name: TriggerName,
        #[command(flatten)]
        shown: Shown,
    },
    /// Remove a trigger
    #[command(visible_alias = "delete")]
    Rm {
        /// Name
        name: TriggerName,
    },
    /// Let a trigger's events wait
    Pause {
        /// Name
        name: TriggerName,
    },
    /// Go on with a paused trigger's events
    Resume {
        /// Name
        name: TriggerName,
    },
    /// Feed a trigger with objects that are there, or with its dead letters
    Replay(TriggerReplay),
    /// Feed a trigger with the objects that are there and have started nothing yet
    Backfill {
        /// Name
        name: TriggerName,
        #[command(flatten)]
        scope: TriggerScope,
        #[command(flatten)]
        shown: Shown,
    },
    /// List a trigger's events that were given up
    DeadLetters {
        /// Name
        name: TriggerName,
        /// At most so many
        #[arg(long, value_name = "N", default_value = "50", value_parser = lines)]
        limit: usize,
        #[command(flatten)]
        shown: Shown,
    },
    /// Forget a trigger's events that were given up
    Discard {
        /// Name
        name: TriggerName,
    },
}

#[derive(Debug, Args)]
pub struct TriggerScope {
    /// Only keys that begin with this
    #[arg(long, value_name = "TEXT")]
    pub prefix: Option<String>,
    /// Only objects written at this time or later, such as 2026-11-22T00:00:00Z
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only objects written before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

#[derive(Debug, Args)]
pub struct TriggerAdd {
    /// Name
    pub name: TriggerName,
    /// The trigger as TOML; `-` for standard input
    #[arg(value_name = "FILE.toml|-", conflicts_with_all = ["bucket", "function"])]
    pub file: Option<PathBuf>,
    /// Bucket, in place of a file
    #[arg(long)]
    pub bucket: Option<String>,
    /// What keys begin with
    #[arg(long, requires = "bucket", value_name = "TEXT")]
    pub prefix: Option<String>,
    /// What keys end with
    #[arg(long, requires = "bucket", value_name = "TEXT")]
    pub suffix: Option<String>,
    /// What whole keys match, such as "in/**/*.csv"
    #[arg(long, requires = "bucket", value_name = "PATTERN")]
    pub glob: Option<String>,
    /// The handler to invoke
    #[arg(long)]
    pub function: Option<FunctionRef>,
    /// Feed it with the objects that are there already
    #[arg(long)]
    pub backfill: bool,
    /// Make a new secret; the old one ends at once
    #[arg(long)]
    pub rotate: bool,
    #[command(flatten)]
    pub shown: Shown,
}

#[derive(Debug, Args)]
pub struct TriggerReplay {
    /// Name
    pub name: TriggerName,
    /// Only what was given up
    #[arg(long, conflicts_with_all = ["prefix", "since", "until", "again"])]
    pub dead_letters: bool,
    #[command(flatten)]
    pub scope: TriggerScope,
    /// Also what was started before
    #[arg(long)]
    pub again: bool,
    #[command(flatten)]
    pub shown: Shown,
}
