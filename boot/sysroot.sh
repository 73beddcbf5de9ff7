#!/bin/sh
# Prints the sysroot to build the image with: nothing where the toolchain has the
# bare-metal target itself, else a folder with `core` and `alloc` for it, built
# once from library sources of exactly the compiler's version.
#
# The sources are those RUST_LIBRARY_SRC names (a folder or a tar archive of
# Rust's library/), else Debian's rust-src of that version.
set -eu
target=x86_64-unknown-none
[ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ] && exit 0

version=$(rustc --version | cut -d' ' -f2)
build=$(rustc --version --verbose | sed -n 's/^commit-hash: //p' | cut -c1-12)
cache=${CAUSEWAY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/causeway}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
recipe=$(cksum < "$0" | cut -d' ' -f1)
sysroot=$cache/sysroot-$version-$build-$recipe
libraries=lib/rustlib/$target/lib
if [ -d "$sysroot/$libraries" ]; then
    echo "$sysroot"
    exit 0
fi

say() { echo "causeway: $*" >&2; }
work=$(mktemp -d "$cache/sysroot.XXXXXX")
trap 'rm -rf "$work"' EXIT

# Unpacks Debian's rust-src of the compiler's version and names its library/.
debian_sources() {
    cd "$work"
    apt-get download "rust-src=$version*" >/dev/null 2>&1 || {
        # Not in this release: look into the backports of the next one, through a
        # sources list of our own that leaves the machine's alone.
        mirror=${MIRROR:-$(grep -rhsoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d | head -n 1)}
        echo "deb $mirror trixie-backports main" > list
        options="-o Dir::Etc::sourcelist=$work/list -o Dir::Etc::sourceparts=- -o Dir::State::lists=$work/lists"
        mkdir -p lists/partial
        # shellcheck disable=SC2086
        { apt-get $options update && apt-get $options download "rust-src=$version*"; } >&2
    }
    dpkg -x rust-src_*.deb debian
    echo "$work/debian/usr/src/rustc-$version/library"
}

sources=${RUST_LIBRARY_SRC:+$(realpath "$RUST_LIBRARY_SRC")}
if [ -z "$sources" ]; then
    say "fetching the library sources of Rust $version from Debian"
    sources=$(debian_sources)
elif [ -f "$sources" ]; then
    mkdir "$work/sources"
    tar -xf "$sources" -C "$work/sources"
    sources=$(find "$work/sources" -type d -name library | head -n 1)
fi
[ -d "$sources/core" ] || { say "no library sources of Rust $version: set RUST_LIBRARY_SRC"; exit 1; }

say "building core and alloc of Rust $version for $target (once, about 30 s)"
mkdir -p "$work/empty/src"
cat > "$work/empty/Cargo.toml" <<MANIFEST
[package]
name = "empty"
edition = "2024"
[profile.release]
panic = "abort"
codegen-units = 1
MANIFEST
echo '#![no_std]' > "$work/empty/src/lib.rs"
cd "$work/empty"
env -u CARGO_ENCODED_RUSTFLAGS -u CARGO_TARGET_DIR -u MAKEFLAGS \
    RUSTFLAGS="-C embed-bitcode=yes" RUSTC_BOOTSTRAP=1 RUSTC="$(rustup which rustc 2>/dev/null || command -v rustc)" \
    __CARGO_TESTS_ONLY_SRC_ROOT="$sources" \
    cargo build --quiet --release --target $target --target-dir "$work/target" \
    -Zbuild-std=core,alloc,compiler_builtins -Zbuild-std-features=compiler-builtins-mem >&2
mkdir -p "$work/sysroot/$libraries"
cp "$work/target/$target/release/deps/"lib*.rlib "$work/sysroot/$libraries/"
rm -f "$work/sysroot/$libraries/"libempty-*.rlib
mv "$work/sysroot" "$sysroot"
echo "$sysroot"
