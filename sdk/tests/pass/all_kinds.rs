// SPDX-License-Identifier: Apache-2.0
//! One component with all three kinds, in a crate that forbids unsafe code and warnings.

#![forbid(unsafe_code)]
#![deny(warnings)]
#![allow(missing_docs)]

use fanfold_sdk::prelude::*;

#[fanfold::handler]
fn front(
    query: Query<Page>,
    Json(names): Json<Vec<String>>,
    params: &Params<Page>,
    _: &Context,
) -> (u16, String) {
    (201, format!("{} {} {}", query.page, names.len(), params.page))
}

#[derive(Deserialize)]
struct Page {
    page: u32,
}

#[derive(Row, Clone)]
pub struct Customer<'a> {
    pub id: u64,
    pub name: &'a str,
    pub photo: Option<&'a [u8]>,
    #[row(rename = "born on")]
    pub born: Option<Date>,
    pub seen: Timestamp,
    pub r#type: i8,
    pub active: bool,
}

#[derive(Row)]
pub struct Greeting {
    text: String,
    raw: Vec<u8>,
}

#[fanfold::map]
pub fn greet<'a>(customer: Customer<'a>, context: &Context) -> Result<Vec<Greeting>> {
    fanfold::debug!("customer {}", customer.id);
    context.progress(customer.id, 10);
    Ok(vec![Greeting { text: customer.name.to_owned(), raw: Vec::new() }])
}

#[derive(Serialize, Deserialize, Default)]
pub struct Longest {
    name: String,
}

#[fanfold::aggregate]
impl Aggregate for Longest {
    type Row = Customer<'static>;
    type Output = String;

    fn add(&mut self, customer: Customer<'_>) {
        if customer.name.len() > self.name.len() {
            self.name = customer.name.to_owned();
        }
    }

    fn merge(&mut self, other: Self) -> Result<()> {
        if other.name.len() > self.name.len() {
            *self = other;
        }
        Ok(())
    }

    fn finish(self) -> Self::Output {
        self.name
    }
}

fn main() {}
