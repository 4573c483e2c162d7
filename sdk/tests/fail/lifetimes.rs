// SPDX-License-Identifier: Apache-2.0
//! Rows that are to live longer than the batch that they borrow from.

use fanfold_sdk::prelude::*;

#[derive(Row)]
struct Named<'a> {
    name: &'a str,
}

#[fanfold::map]
fn same<'a>(row: Named<'a>) -> Result<Named<'a>> {
    Ok(row)
}

mod kept {
    use super::*;

    #[fanfold::map]
    fn length(row: Named<'static>) -> Option<Named<'static>> {
        Some(row)
    }

    #[derive(Serialize, Deserialize, Default)]
    struct Longest(usize);

    #[fanfold::aggregate]
    impl Aggregate for Longest {
        type Row = Named<'static>;
        type Output = usize;

        fn add(&mut self, row: Named<'static>) {
            self.0 = self.0.max(row.name.len());
        }

        fn merge(&mut self, other: Self) {
            self.0 = self.0.max(other.0);
        }

        fn finish(self) -> usize {
            self.0
        }
    }
}

fn main() {}
