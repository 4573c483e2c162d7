// SPDX-License-Identifier: Apache-2.0
//! How much memory there is for this process.
//!
//! Invariant: what cannot be read bounds nothing.

use std::{fs, path::Path};

/// The memory of the host, or less where a control group is bounded: that of this process or
/// one around it (Linux, «Control Group v2», `memory.max`).
pub(crate) fn bytes() -> u64 {
    let host = rustix::system::sysinfo();
    let host = u64::from(host.mem_unit) * host.totalram as u64;
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    group(Path::new("/sys/fs/cgroup"), &own).map_or(host, |group| group.min(host))
}

/// The least that a group allows, from the one that `own` names, as `/proc/self/cgroup` has it,
/// up to `root`, which in a container is the container's.
fn group(root: &Path, own: &str) -> Option<u64> {
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    let groups = Path::new(own.trim_start_matches('/')).ancestors();
    let bounds = groups.filter_map(|group| {
        let text = fs::read_to_string(root.join(group).join("memory.max")).ok()?;
        text.trim().parse::<u64>().ok()
    });
    bounds.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_group_counts() {
        let root = tempfile::tempdir().unwrap();
        let check = |own: &str, expected| assert_eq!(group(root.path(), own), expected, "{own}");
        check("", None);
        fs::create_dir_all(root.path().join("system.slice/worker.service")).unwrap();
        let bound = |group: &str, text: &str| {
            fs::write(root.path().join(group).join("memory.max"), text).unwrap();
        };
        bound("system.slice", "4096\n");
        bound("system.slice/worker.service", "max\n");
        check("0::/system.slice/worker.service\n", Some(4096));
        bound("system.slice/worker.service", "2048\n");
        check("12:pids:/elsewhere\n0::/system.slice/worker.service\n", Some(2048));
        check("0::/system.slice/other.service\n", Some(4096));
        check("0::/\n", None);
        // As it is seen from within a container.
        bound("", "1024\n");
        check("0::/\n", Some(1024));
        check("0::/kubepods/of/the/host\n", Some(1024));
        assert!(bytes() >= 64 << 20);
    }
}
