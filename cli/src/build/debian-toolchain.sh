#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Makes a private Rust toolchain that compiles guests to WebAssembly, from the
# packages of a Debian or Ubuntu machine, without touching the installed Rust.
# `fanfold build` runs it when rustup can give no WebAssembly target; anyone may
# run it by hand. Invariant: the target folder is either absent, an earlier
# complete toolchain, or the new complete one. Everything is made in a temporary
# folder beside it and renamed at the very end, under a lock.
#
# usage: debian-toolchain.sh [TARGET]
#   TARGET  default: $FANFOLD_TOOLCHAIN, else
#           ${XDG_CACHE_HOME:-~/.cache}/fanfold/wasm-toolchain
#
# Needs: apt and dpkg, a stable Rust (its cargo drives the build), a C compiler.
# Result: TARGET/bin/rustc, to be used as RUSTC=TARGET/bin/rustc cargo build
#         --release --target wasm32-wasip1 (or wasm32-unknown-unknown).
set -eu

# Raise this when what the script makes changes: older toolchains are remade.
REVISION=1
# Guests and the SDK are written for this Rust; an older package is no use.
RUST_MIN=1.95
TARGETS="wasm32-wasip1 wasm32-unknown-unknown"
# How long to wait for another run of this script, in seconds.
LOCK_WAIT=1800

say() { printf 'toolchain: %s\n' "$*" >&2; }
fail() { printf 'toolchain: error: %s\n' "$*" >&2; exit 1; }
need() { command -v "$1" >/dev/null 2>&1 || fail "expected the program \`$1\`, found none; $2"; }

# The version apt would install of package $1, or nothing.
candidate() {
    LC_ALL=C apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: //p' | grep -vx '(none)' || true
}

# Sets rust_family to the packages whose rustc is new enough, and rust_version.
# Debian's stable releases carry a current Rust as rustc-web, others as rustc.
pick_family() {
    rust_family=
    for family in -web ""; do
        rust_version=$(candidate "rustc$family")
        if [ -n "$rust_version" ] && dpkg --compare-versions "$rust_version" ge "$RUST_MIN"; then
            rust_family=rustc$family
            src=rust$family-src llvm_glue=rust$family-llvm std_dev=libstd-rust$family-dev
            return 0
        fi
    done
    return 1
}

# Sets packages to the list to fetch. Versions come from the index, never from here.
pick_packages() {
    if ! pick_family; then
        [ "$(id -u)" = 0 ] || fail "expected a package rustc-web or rustc of at least $RUST_MIN, found none in apt's index; run \`apt-get update\` as root, then this again"
        say "apt's index has no rustc of at least $RUST_MIN: refreshing it (apt-get update)"
        apt-get -q update >&2 || say "apt-get update failed; going on with the index as it is"
        pick_family || fail "expected a package rustc-web or rustc of at least $RUST_MIN, found none; add the distribution's security or updates archive, or run \`rustup target add wasm32-wasip2\`"
    fi
    std=$(depends "$std_dev" | grep -x 'libstd-rust[a-z0-9.-]*' | head -n 1)
    [ -n "$std" ] || fail "expected $std_dev to depend on a libstd-rust package, found none; report this with the output of \`apt-cache show $std_dev\`"
    glue=
    if [ -n "$(candidate "$llvm_glue")" ]; then
        glue=$llvm_glue
        llvm=$(depends "$glue" | sed -n 's/^llvm-\([0-9][0-9]*\)$/\1/p' | head -n 1)
    else
        llvm=$(depends "$std" | sed -n 's/^libllvm\([0-9][0-9]*\).*$/\1/p' | head -n 1)
    fi
    [ -n "$llvm" ] || fail "expected $rust_family to name its LLVM, found none; report this with the output of \`apt-cache show $rust_family\`"
    llvm_lib=$(depends "lld-$llvm" | grep "^libllvm$llvm" | head -n 1)
    packages="$rust_family $std $std_dev $src $glue lld-$llvm ${llvm_lib:-libllvm$llvm} wasi-libc"
}

# Names of the packages that the candidate version of package $1 depends on.
depends() {
    LC_ALL=C apt-cache show --no-all-versions "$1" 2>/dev/null | sed -n 's/^Depends: //p' | head -n 1 |
        tr ',' '\n' | sed 's/^ *//; s/[ (|].*//'
}

fetch() {
    mkdir "$work/debs"
    for package in $packages; do
        version=$(candidate "$package")
        [ -n "$version" ] || fail "expected the package $package in apt's index, found none; run \`apt-get update\` as root, then this again"
        say "fetching $package $version"
        (cd "$work/debs" && apt-get -q -o APT::Sandbox::User="$(id -un)" download "$package=$version" >"$work/apt.log" 2>&1) || {
            cat "$work/apt.log" >&2
            fail "could not fetch $package $version; see apt's words above (a stale index is mended by \`apt-get update\` as root)"
        }
        printf '%s %s\n' "$package" "$version" >>"$work/versions"
    done
}

unpack() {
    say "unpacking into $work/new"
    mkdir "$work/new"
    for deb in "$work"/debs/*.deb; do
        dpkg -x "$deb" "$work/new"
    done
    rm -rf "$work/debs" "$work/new/usr/share"
    mkdir "$work/new/bin"
    # The one entry point: finds its own libraries and linker wherever the
    # folder lies, so that cargo needs RUSTC and nothing else.
    cat >"$work/new/bin/rustc" <<WRAPPER
#!/bin/sh
# Made by debian-toolchain.sh: the private rustc with its libraries and linker.
home=\$(CDPATH= cd -- "\$(dirname -- "\$0")/.." && pwd)
for lib in "\$home"/usr/lib/*-linux-gnu*; do
    LD_LIBRARY_PATH=\$lib\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}
done
PATH=\$home/usr/lib/llvm-$llvm/bin:\$home/usr/bin:\$PATH
export LD_LIBRARY_PATH PATH
exec "\$home/usr/bin/rustc" "\$@"
WRAPPER
    chmod 755 "$work/new/bin/rustc"
    "$work/new/bin/rustc" --version >&2 || fail "the unpacked rustc does not start; see its words above"
}

# The stable cargo itself: rustup's proxy would put its own rustc first.
find_cargo() {
    cargo=$(rustup which cargo 2>/dev/null) || cargo=
    if [ -z "$cargo" ]; then
        cargo=$(rustc --print sysroot 2>/dev/null)/bin/cargo || cargo=
    fi
    if [ ! -x "$cargo" ]; then cargo=$(command -v cargo) || cargo=; fi
    [ -n "$cargo" ] || fail "expected a cargo, found none; install stable Rust first"
}

# Builds std for target $1 in a scratch crate and puts its rlibs in place.
build_std() {
    say "building std for $1 (a minute or two)"
    crate=$work/scratch
    mkdir -p "$crate/src"
    printf '[package]\nname = "scratch"\nversion = "0.0.0"\nedition = "2021"\n[workspace]\n' >"$crate/Cargo.toml"
    : >"$crate/src/lib.rs"
    rustlib=$work/new/usr/lib/rustlib
    # Paths in panic messages are made the same on every machine. Bitcode is
    # needed by guests' LTO.
    (cd "$crate" && env -u CARGO_ENCODED_RUSTFLAGS -u CARGO_BUILD_TARGET -u RUSTC_WRAPPER -u RUSTC_WORKSPACE_WRAPPER \
        RUSTC="$work/new/bin/rustc" RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR="$crate/target" CARGO_INCREMENTAL=0 \
        RUSTFLAGS="-C embed-bitcode=yes -C target-feature=+simd128 --remap-path-prefix=$work=/toolchain" \
        "$cargo" build --quiet --release -Z build-std=std,panic_abort --target "$1" >&2) ||
        fail "could not build std for $1; see cargo's words above"
    mkdir -p "$rustlib/$1/lib"
    for rlib in "$crate/target/$1"/release/deps/*.rlib; do
        case $rlib in */libscratch-*) ;; *) cp "$rlib" "$rustlib/$1/lib/" ;; esac
    done
}

# crt and libc that rustc looks for beside the target's std.
place_libc() {
    libc=$work/new/usr/lib/wasm32-wasi
    contained=$work/new/usr/lib/rustlib/wasm32-wasip1/lib/self-contained
    mkdir -p "$contained"
    for file in crt1-command.o crt1-reactor.o libc.a; do
        [ -f "$libc/$file" ] || fail "expected $file in the package wasi-libc, found none; report this with the package's version"
        cp "$libc/$file" "$contained/"
    done
}

# A toolchain that cannot compile these is not put in place.
prove() {
    say "trying it: a module for each target, a program and a procedural macro for this machine"
    mkdir "$work/prove"
    printf '#[no_mangle]\npub extern "C" fn f() -> usize { let v: Vec<String> = std::env::args().collect(); println!("{}", v.len()); v.len() }\n' >"$work/prove/guest.rs"
    printf 'fn main() { println!("{}", 1); }\n' >"$work/prove/host.rs"
    printf 'extern crate proc_macro;\n#[proc_macro]\npub fn none(t: proc_macro::TokenStream) -> proc_macro::TokenStream { t }\n' >"$work/prove/mac.rs"
    (
        cd "$work/prove"
        for target in $TARGETS; do
            "$work/new/bin/rustc" --edition 2021 -O -C panic=abort -C lto=fat --crate-type cdylib --target "$target" -o "$target.wasm" guest.rs
        done
        "$work/new/bin/rustc" --edition 2021 -o host host.rs
        ./host >/dev/null
        "$work/new/bin/rustc" --edition 2021 --crate-type proc-macro mac.rs
    ) >&2 || fail "the toolchain was made but does not compile; see rustc's words above"
}

finish() {
    # The sources are big and done with; links into packages that were not
    # fetched lead nowhere.
    rm -rf "$work/new/usr/src" "$work/new/usr/lib/rustlib/src"
    find "$work/new" -xtype l -exec rm -f {} +
    mv "$work/versions" "$work/new/packages"
    printf 'revision %s\n' "$REVISION" >"$work/new/stamp"
    if [ -e "$target" ]; then mv "$target" "$work/old"; fi
    mv "$work/new" "$target"
    say "ready in $target: $("$target/bin/rustc" --version)"
}

main() {
    target=${1:-${FANFOLD_TOOLCHAIN:-${XDG_CACHE_HOME:-$HOME/.cache}/fanfold/wasm-toolchain}}
    need apt-cache "this way needs Debian or Ubuntu; elsewhere run \`rustup target add wasm32-wasip2\`"
    need dpkg "this way needs Debian or Ubuntu; elsewhere run \`rustup target add wasm32-wasip2\`"
    need flock "install the package util-linux"
    need cc "install a C compiler (the package gcc)"
    find_cargo
    mkdir -p "$(dirname -- "$target")"
    parent=$(CDPATH= cd -- "$(dirname -- "$target")" && pwd)
    target=$parent/$(basename -- "$target")

    exec 9>"$target.lock"
    if ! flock -n 9; then
        say "another run is at work on $target: waiting for it"
        flock -w "$LOCK_WAIT" 9 || fail "expected the other run to end within $LOCK_WAIT s, found it still at work; end it, then run this again"
    fi
    if [ "$(cat "$target/stamp" 2>/dev/null)" = "revision $REVISION" ]; then
        say "already there: $target"
        return 0
    fi
    if [ -e "$target" ] && [ ! -f "$target/stamp" ] && [ -n "$(ls -A "$target")" ]; then
        fail "expected $target to be absent or a toolchain made by this script, found something else; remove it or name another folder"
    fi

    pick_packages
    # Leftovers of runs that were killed: we hold the lock, so none is in use.
    rm -rf "$target".tmp.*
    work=$(mktemp -d "$target.tmp.XXXXXX")
    chmod 755 "$work"
    trap 'rm -rf "$work"' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    say "making $target from $rust_family $rust_version"
    fetch
    unpack
    place_libc
    for wanted in $TARGETS; do build_std "$wanted"; done
    prove
    finish
}

main "$@"
