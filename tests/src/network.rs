// SPDX-License-Identifier: Apache-2.0
//! Hosts with addresses of their own on one machine: network namespaces on a
//! bridge.
//!
//! All of it lies within a network and a mount namespace of one process, which is
//! this program started again, so that nothing is left behind however it ends.

use std::{
    ffi::OsStr,
    net::Ipv4Addr,
    process::{Command, ExitStatus},
};

use anyhow::{Context, Result, ensure};

/// Set within a network of one's own: to how one gets into it.
const MARK: &str = "FANFOLD_TESTS_NETWORK";
/// Where root is so only within.
const MAPPED: &str = "mapped";
/// Set by whoever cannot make namespaces and goes without what needs them.
pub const GO_WITHOUT: &str = "FANFOLD_TESTS_WITHOUT_NAMESPACES";

/// The address of this process, which every host reaches.
pub const HERE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// Makes the bridge and starts what follows. Who has a clock of its own and is killed leaves
/// shared memory behind.
const PREPARE: &str = "[ -d /run/netns ] || mount -t tmpfs none /run; mkdir -p /run/netns; mount -t tmpfs none /run/netns; \
    [ ! -d /dev/shm ] || mount -t tmpfs none /dev/shm; ip link set lo up; \
    ip link add hosts type bridge; ip address add 10.77.0.1/24 dev hosts; ip link set hosts up; exec \"$@\"";

/// Whether this process has a network of its own.
pub fn is_own() -> bool {
    std::env::var_os(MARK).is_some()
}

/// A program and the arguments by which others get into the network of this process,
/// where it has one of its own.
pub fn entrance() -> Option<Vec<String>> {
    let mark = std::env::var(MARK).ok()?;
    let namespaces =
        if mark == MAPPED { &["--user", "--preserve-credentials", "--net"][..] } else { &["--net"] };
    let mut entrance = vec!["nsenter".to_owned(), format!("--target={}", std::process::id())];
    entrance.extend(namespaces.iter().map(|&namespace| namespace.to_owned()));
    entrance.push("--".to_owned());
    Some(entrance)
}

/// What makes a network: for who is not root, as root of a user namespace.
fn unshare() -> (Command, &'static str) {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount"]);
    if rustix::process::geteuid().is_root() {
        return (command, "root");
    }
    command.args(["--user", "--map-root-user"]);
    (command, MAPPED)
}

/// Whether network namespaces can be made here.
pub fn can_be_made() -> bool {
    let tried = unshare().0.args(["--", "ip", "link", "set", "lo", "up"]).output();
    tried.is_ok_and(|output| output.status.success())
}

/// Runs this program again in a network of its own, and waits for its end.
///
/// # Errors
/// It cannot be started.
pub fn run_again<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Result<ExitStatus> {
    let (mut command, mark) = unshare();
    command
        .args(["--", "sh", "-ec", PREPARE, "sh"])
        .arg(std::env::current_exe()?)
        .args(arguments)
        .env(MARK, mark)
        .status()
        .context(
            "start this program in a network of its own; expected unshare (util-linux) and ip (iproute2)",
        )
}

/// Runs a test again in a network of its own, where it is not in one yet; whether
/// it is.
///
/// # Panics
/// When the test fails there; or where namespaces cannot be made, unless
/// `FANFOLD_TESTS_WITHOUT_NAMESPACES` is set.
pub fn entered(test: &str) -> bool {
    if is_own() {
        return true;
    }
    if !can_be_made() {
        assert!(
            std::env::var_os(GO_WITHOUT).is_some(),
            "expected to make network namespaces, which needs root or user namespaces, unshare and ip; set {GO_WITHOUT}=1 to go without {test}"
        );
        println!("{test} is left out: network namespaces cannot be made here");
        return false;
    }
    let ended = run_again(["--exact", test, "--nocapture", "--test-threads=1"]);
    assert!(ended.as_ref().is_ok_and(ExitStatus::success), "{test} in a network of its own: {ended:?}");
    false
}

/// Adds a host.
///
/// # Errors
/// Its namespace cannot be made.
pub fn add(host: &str, address: Ipv4Addr) -> Result<()> {
    let link = link_to(address);
    ip(&["netns", "add", host])?;
    ip(&["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", host])?;
    ip(&["link", "set", &link, "master", "hosts", "up"])?;
    ip(&["-n", host, "address", "add", &format!("{address}/24"), "dev", "eth0"])?;
    ip(&["-n", host, "link", "set", "eth0", "up"])?;
    ip(&["-n", host, "link", "set", "lo", "up"])
}

/// Takes a host away, so that another may have its name and address.
///
/// # Errors
/// There is none.
pub fn remove(host: &str, address: Ipv4Addr) -> Result<()> {
    ip(&["link", "delete", &link_to(address)])?;
    ip(&["netns", "delete", host])
}

/// The bridge's end of a host's link.
fn link_to(address: Ipv4Addr) -> String {
    format!("to{}", address.octets()[3])
}

/// A program on a host.
pub fn command(host: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", host]).arg(program);
    command
}

/// Lets nothing that a host sends arrive at an address any more.
///
/// # Errors
/// It is so already.
pub fn cut(host: &str, address: Ipv4Addr) -> Result<()> {
    ip(&["-n", host, "route", "add", "blackhole", &format!("{address}/32")])
}

/// Ends a [`cut`].
///
/// # Errors
/// There is none.
pub fn heal(host: &str, address: Ipv4Addr) -> Result<()> {
    ip(&["-n", host, "route", "del", "blackhole", &format!("{address}/32")])
}

/// Loses one in a hundred of the packets that arrive at a host, drawn by the kernel: by nft, since not each kernel
/// has netem.
///
/// # Errors
/// There is no nft (nftables).
pub fn lose(host: &str) -> Result<()> {
    let rule = "type filter hook input priority 0; iifname \"eth0\" numgen random mod 100 < 1 drop";
    nft(host, &format!("table ip loss {{ chain arriving {{ {rule}; }}; }}"))
}

/// Ends a [`lose`].
///
/// # Errors
/// There is none.
pub fn lose_nothing(host: &str) -> Result<()> {
    nft(host, "delete table ip loss")
}

/// Whether the kernel can delay packets: not each has netem. Only for who has a network of its own.
pub fn can_delay() -> bool {
    let netem = |what: &str| {
        let mut command = Command::new("tc");
        run(command.args(["qdisc", what, "dev", "lo", "root", "netem", "delay", "1ms"])).is_ok()
    };
    netem("add") && netem("del")
}

/// Has what a host sends arrive 20 to 60 ms later, in another order.
///
/// # Errors
/// There is no tc (iproute2), or [`can_delay`] is false.
pub fn delay(host: &str) -> Result<()> {
    run(command(host, "tc").args(["qdisc", "add", "dev", "eth0", "root", "netem", "delay", "40ms", "20ms"]))
}

/// Ends a [`delay`].
///
/// # Errors
/// There is none.
pub fn delay_nothing(host: &str) -> Result<()> {
    run(command(host, "tc").args(["qdisc", "del", "dev", "eth0", "root"]))
}

fn nft(host: &str, text: &str) -> Result<()> {
    run(command(host, "nft").arg(text))
}

fn ip(arguments: &[&str]) -> Result<()> {
    run(Command::new("ip").args(arguments))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(())
}
