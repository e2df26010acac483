#!/bin/sh
# Builds the addon inside a container: .github/build-addon.sh gnu|musl, with the repository as working directory. The container decides
# which C library the addon needs, hence an old one for glibc (almalinux:8 has 2.28) and Alpine for musl.
set -eu

case "${1:-}" in
gnu)
  dnf install -y -q gcc-toolset-13-gcc-c++ gcc-toolset-13-binutils clang-devel cmake make git curl python3 xz
  # As a login shell would have it; the script that does it reads variables that are not set.
  set +u
  . /opt/rh/gcc-toolset-13/enable
  set -u
  ;;
musl)
  apk add --no-cache build-base clang-dev cmake git curl linux-headers
  # A shared library takes the C library of the process that loads it.
  export RUSTFLAGS='-C target-feature=-crt-static'
  ;;
*)
  echo 'usage: build-addon.sh gnu|musl' >&2
  exit 64
  ;;
esac

# The checkout belongs to the user outside.
git config --global --add safe.directory "$PWD"
curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y -q --profile minimal
. "$HOME/.cargo/env"

cargo build --locked --release -p ztna-napi
mkdir -p dist/addons
case "$(uname -m)" in
x86_64) processor=x64 ;;
aarch64) processor=arm64 ;;
*)
  echo "no target for $(uname -m)" >&2
  exit 1
  ;;
esac
cp target/release/libztna_napi.so "dist/addons/ztna.linux-$processor-$1.node"
