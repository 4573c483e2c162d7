// SPDX-License-Identifier: Apache-2.0
//! How groups part.

use super::*;

#[test]
fn groups_part_where_what_is_taken_over_meets_the_rest() {
    let check = |groups: &[u32], taken: &str, parted: &[u32]| {
        let taken: Vec<_> = taken.chars().map(|c| c == 'x').collect();
        assert_eq!(regroup(groups, &taken), parted);
    };
    check(&[3, 2], "xxxxx", &[3, 2]);
    check(&[3, 2], "x..x.", &[1, 2, 1, 1]);
    check(&[5], ".x.x.", &[1; 5]);
    check(&[], "", &[]);
}
