// SPDX-License-Identifier: Apache-2.0
//! The words of `fanfold s3`.

use clap::Subcommand;
use fanfold_protocol::size::ByteSize;

use super::Shown;

#[derive(Debug, Subcommand)]
pub enum S3 {
    /// List buckets, or what lies under a prefix
    #[command(visible_alias = "list")]
    Ls {
        /// s3://bucket/prefix
        uri: Option<String>,
        /// All keys, not one level
        #[arg(short, long)]
        recursive: bool,
        #[command(flatten)]
        shown: Shown,
    },
    /// Copy a file to the store, an object to a file (`-`: standard streams), or an object to another
    Cp {
        /// File or s3://bucket/key
        from: String,
        /// File or s3://bucket/key; ending in '/' keeps the name
        to: String,
        /// A whole folder, here or in the store, into another; s3://bucket/in is the folder in/
        #[arg(short, long)]
        recursive: bool,
        /// How large what comes from '-' becomes at most, such as 200GiB: needed above 78 GiB
        #[arg(long, value_name = "SIZE")]
        expected_size: Option<ByteSize>,
    },
    /// Remove an object, or with --recursive all in a folder
    #[command(visible_alias = "delete")]
    Rm {
        /// s3://bucket/key
        uri: String,
        /// All in the folder; s3://bucket/in is the folder in/, whatever else begins with in
        #[arg(short, long)]
        recursive: bool,
    },
    /// Make a bucket
    Mb {
        /// s3://bucket
        uri: String,
    },
    /// Remove an empty bucket
    Rb {
        /// s3://bucket
        uri: String,
    },
    /// Print how other S3 clients reach the store
    Env(Shown),
}
