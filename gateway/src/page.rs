// SPDX-License-Identifier: Apache-2.0
//! Pages of lists: how long one is, and where it begins and ends.
//!
//! What is alike in all lists, and in which words it is refused. Each says itself how
//! many lines a page of it may have, and by what of a line the next one is asked for;
//! dead letters, of which there are lists of two kinds, are asked for alike.

use std::str::FromStr;

use fanfold_protocol::{ErrorKind, Problem};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::problem::excerpt;

/// Dead letters on a page, unless asked otherwise, and at most.
const LETTERS_DEFAULT: usize = 50;
const LETTERS_MAX: usize = 100;

/// How dead letters are listed.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LetterQuery {
    /// `next` of the page before.
    page: Option<String>,
    /// Dead letters on a page, at most 100; 50 when absent.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<usize>,
}

impl LetterQuery {
    /// Behind which place of the queue the page begins, and how many letters it has.
    pub(crate) fn bounds(&self) -> Result<(u64, usize), Problem> {
        let after = place(self.page.as_deref())?.unwrap_or(0);
        Ok((after, size(self.limit, LETTERS_DEFAULT, LETTERS_MAX)?))
    }
}

/// Lines of a page by the `limit` that was asked for.
pub(crate) fn size(limit: Option<usize>, default: usize, max: usize) -> Result<usize, Problem> {
    let size = limit.unwrap_or(default);
    if (1..=max).contains(&size) {
        return Ok(size);
    }
    let detail = format!("limit must be from 1 to {max}, found {size}; use page for more");
    Err(Problem::new(ErrorKind::InvalidRequest, detail))
}

/// What a page begins behind, by the `page` that was asked for.
pub(crate) fn place<T: FromStr>(page: Option<&str>) -> Result<Option<T>, Problem> {
    page.map(|text| text.parse::<T>().map_err(|_| bad(text))).transpose()
}

/// The problem with what is no `next` of an earlier answer.
pub(crate) fn bad(text: &str) -> Problem {
    let detail = format!("page must be `next` of an earlier answer, found {:?}", excerpt(text));
    Problem::new(ErrorKind::InvalidRequest, detail)
}

/// Cuts lines, of which one more was read, to a page; answers the last where there are more.
pub(crate) fn cut<T>(lines: &mut Vec<T>, size: usize) -> Option<&T> {
    let more = lines.len() > size;
    lines.truncate(size);
    lines.last().filter(|_| more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_as_many_lines_as_it_may() {
        let check = |limit, expected: Result<usize, &str>| {
            let found = size(limit, 50, 100).map_err(|problem| problem.detail);
            assert_eq!(found, expected.map_err(str::to_owned), "{limit:?}");
        };
        check(None, Ok(50));
        check(Some(1), Ok(1));
        check(Some(100), Ok(100));
        check(Some(0), Err("limit must be from 1 to 100, found 0; use page for more"));
        check(Some(101), Err("limit must be from 1 to 100, found 101; use page for more"));
    }

    #[test]
    fn a_page_begins_where_another_ended() {
        assert_eq!(place::<u64>(None), Ok(None));
        assert_eq!(place::<u64>(Some("7")), Ok(Some(7)));
        let long = "\"".repeat(1_000);
        let detail = place::<u64>(Some(&long)).unwrap_err().detail;
        assert_eq!(
            detail,
            format!("page must be `next` of an earlier answer, found \"{}\"", "\\\"".repeat(80))
        );
    }

    #[test]
    fn the_last_line_is_told_where_there_are_more() {
        let check = |count: u32, expected: Option<u32>| {
            let mut lines: Vec<u32> = (1..=count).collect();
            assert_eq!(cut(&mut lines, 2).copied(), expected);
            assert_eq!(lines.len(), count.min(2) as usize);
        };
        check(0, None);
        check(2, None);
        check(3, Some(2));
    }
}
