# shellcheck shell=sh
# What deploy/up, deploy/down and tests/run share: find or install the tools, and name the places.
# Sourced by a script that has set `root` to the checkout. POSIX sh; every step does nothing when there is nothing to do.
# shellcheck disable=SC2154,SC2034  # root comes from the sourcing script, and the sourcing scripts use the names below

default_model=smollm2:135m
target=${CARGO_TARGET_DIR:-$root/target}
case $target in /*) ;; *) target=$root/$target ;; esac
bin=$target/release/quorate
failed_gpu=$target/quorate-gpu-failed
unit_name=quorate.service
unit=${XDG_CONFIG_HOME:-${HOME:-/root}/.config}/systemd/user/$unit_name
start_dir=$(pwd)
# A relative home means: from where the script was started.
case ${QUORATE_HOME:-/} in /*) ;; *) export QUORATE_HOME="$start_dir/$QUORATE_HOME" ;; esac

say() { printf '%s\n' "quorate: $*"; }
warn() { printf '%s\n' "quorate: $*" >&2; }
die() {
    printf '%s\n' "quorate: $1" >&2
    shift
    for line in "$@"; do printf '%s\n' "         $line" >&2; done
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# exists PATTERN-MATCH...: true when the first expansion of a glob is there.
exists() {
    for path in "$@"; do [ -e "$path" ] && return 0; done
    return 1
}

# --- system packages ------------------------------------------------------------------------------------------------

has_compiler() { { have c++ || have g++ || have clang++; } && { have cc || have gcc || have clang; }; }

# bindgen wants the library and the compiler's own headers (stddef.h), which come in a package of their own.
has_libclang() {
    [ "$(uname -s)" = Darwin ] && { have xcrun || exists /opt/homebrew/opt/llvm/lib/libclang.dylib; } && return 0
    [ -n "${LIBCLANG_PATH:-}" ] && exists "$LIBCLANG_PATH"/libclang*.so* && return 0
    exists /usr/lib/llvm*/lib/libclang*.so* /usr/lib/*/libclang*.so* /usr/lib/libclang*.so* \
        /usr/lib64/libclang*.so* /usr/lib64/llvm*/lib/libclang*.so* /usr/local/lib/libclang*.so* || return 1
    exists /usr/lib/llvm*/lib/clang/*/include/stddef.h /usr/lib*/clang/*/include/stddef.h \
        /usr/local/lib/clang/*/include/stddef.h
}

has_certificates() {
    [ "$(uname -s)" = Darwin ] || [ -n "${SSL_CERT_FILE:-}${SSL_CERT_DIR:-}" ] ||
        exists /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem /etc/ssl/ca-bundle.pem
}

has_pip() { have python3 && python3 -m pip --version >/dev/null 2>&1; }

# /usr/sbin is not on everybody's PATH.
has_admin_tool() { have "$1" || exists "/usr/sbin/$1" "/sbin/$1"; }

# The Debian names of what is missing. Arguments ask for more than the build needs: `pip` for what fetches the default
# model, `lab` for what tests/lab makes networks with.
missing_packages() {
    have cmake || printf ' cmake'
    has_libclang || printf ' libclang-dev'
    has_compiler || printf ' g++'
    have make || have ninja || printf ' make'
    has_certificates || printf ' ca-certificates'
    find_cargo || have curl || have wget || printf ' curl'
    for more in "$@"; do
        case $more in
            pip) has_pip || printf ' python3-pip' ;;
            lab)
                has_admin_tool ip || printf ' iproute2'
                has_admin_tool nft || printf ' nftables' ;;
        esac
    done
}

# True when we can install packages without asking anybody; sets `as_root`.
may_install() {
    have apt-get || return 1
    as_root=
    [ "$(id -u)" = 0 ] && return 0
    have sudo && sudo -n true 2>/dev/null && as_root=sudo
}

# How another system installs the same things. It is only printed: we cannot test them all.
foreign_install_command() {
    if have dnf; then echo "dnf install cmake clang-devel gcc-c++ make curl ca-certificates python3-pip"
    elif have pacman; then echo "pacman -S --needed cmake clang gcc make curl ca-certificates python-pip"
    elif have zypper; then echo "zypper install cmake clang-devel gcc-c++ make curl ca-certificates python3-pip"
    elif have apk; then echo "apk add cmake clang-dev clang-static g++ make linux-headers curl ca-certificates py3-pip"
    elif have brew; then echo "brew install cmake llvm python3"
    elif [ "$(uname -s)" = Darwin ]; then echo "xcode-select --install   # and cmake, for example from Homebrew"
    fi
}

# ensure_packages [pip] [lab]: installs what is missing, or says what to type and ends.
ensure_packages() {
    missing=$(missing_packages "$@")
    [ -n "$missing" ] || return 0
    if ! have apt-get; then
        command=$(foreign_install_command)
        die "the build needs these Debian packages or their like:$missing" \
            "${command:+Type: $command}" "Then start this script again."
    fi
    if ! may_install; then
        have sudo && as_root="sudo "
        die "the build needs system packages, and I may not install them as $(id -un). Type (as root):" \
            "${as_root}apt-get update && ${as_root}apt-get install --yes --no-install-recommends$missing" \
            "Then start this script again."
    fi
    say "installing system packages:$missing"
    # shellcheck disable=SC2086  # both are lists of words
    {
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get update --quiet=2 ||
            warn "apt-get update failed; trying with the package lists that are here"
        $as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install --yes --quiet=2 --no-install-recommends $missing ||
            die "apt-get could not install:$missing" "Its message is above; with a network, start this script again."
    } >&2
    missing=$(missing_packages "$@")
    [ -z "$missing" ] || die "installed, yet still not found:$missing" "Look at PATH, and at LIBCLANG_PATH where it is set."
}

# --- Rust -----------------------------------------------------------------------------------------------------------

# True when there is a cargo; looks where rustup puts it when PATH does not know it yet.
find_cargo() {
    have cargo && return 0
    rust_bin=${CARGO_HOME:-${HOME:-/root}/.cargo}/bin
    [ -x "$rust_bin/cargo" ] || return 1
    PATH=$rust_bin:$PATH
    export PATH
}

# rustup's own installer, checked for being whole before it runs. PATH in the user's profile stays as it is.
install_rust() {
    say "there is no cargo here: installing Rust through rustup"
    installer=$(mktemp)
    url=https://sh.rustup.rs
    if have curl; then curl --proto '=https' --tlsv1.2 -sSf "$url" -o "$installer"
    else wget --https-only -q "$url" -O "$installer"
    fi || {
        rm -f "$installer"
        die "rustup's installer could not be fetched (no network, or it is blocked)." \
            "Install Rust $(wanted_rust) or newer in another way, so that cargo is on the PATH, and start this script again."
    }
    if ! head -n 1 "$installer" | grep -q '^#!/bin/sh' || ! tail -n 8 "$installer" | grep -q 'main "\$@"'; then
        rm -f "$installer"
        die "what came from rustup's address is not its installer, or only a part of it (a proxy?)." "Nothing was run. Try again, or install Rust by hand."
    fi
    sh "$installer" -y --profile minimal --component clippy --component rustfmt --no-modify-path >&2 ||
        { rm -f "$installer"; die "rustup's installer failed; its message is above."; }
    rm -f "$installer"
    find_cargo || die "rustup is done, yet there is no cargo in ${CARGO_HOME:-$HOME/.cargo}/bin."
}

wanted_rust() { sed -n 's/^rust-version *= *"\([0-9.]*\)".*/\1/p' "$root/Cargo.toml" | head -n 1; }

# version_below A B: true when version A (x.y or x.y.z) is older than B.
version_below() {
    awk -v a="$1" -v b="$2" 'BEGIN {
        split(a, x, "."); split(b, y, ".")
        for (i = 1; i <= 3; i++) { if (x[i] + 0 < y[i] + 0) exit 0; if (x[i] + 0 > y[i] + 0) exit 1 }
        exit 1
    }'
}

ensure_rust() {
    find_cargo || install_rust
    found=$(cargo --version 2>/dev/null | awk '{ print $2 }')
    [ -n "$found" ] || die "cargo does not run: $(command -v cargo)" "Type: cargo --version   and see what it says."
    version_below "${found%%-*}" "$(wanted_rust)" || return 0
    if have rustup; then command="rustup update stable && rustup default stable"
    else command="remove this cargo ($(command -v cargo)) or put it behind another one on the PATH; without one I install Rust through rustup"
    fi
    die "cargo $found is too old: quorate needs Rust $(wanted_rust) or newer." "Next: $command" "Then start this script again."
}

# ensure_rust_component clippy|rustfmt
ensure_rust_component() {
    case $1 in rustfmt) probe=fmt ;; *) probe=$1 ;; esac
    cargo "$probe" --version >/dev/null 2>&1 && return 0
    have rustup && rustup component add "$1" >&2 && return 0
    die "cargo $probe is missing." "Type: rustup component add $1   (without rustup: the package of that name)"
}

# All crates of the lock file, so that no later step needs a network. Asks the network only for what is not here.
fetch_crates() {
    cd "$root" || die "no checkout at $root"
    cargo fetch --locked --offline --quiet 2>/dev/null && return 0
    say "fetching the crates of Cargo.lock"
    cargo fetch --locked || die "the crates could not be fetched; cargo's message is above." \
        "This step needs a network once. If the lock file is out of date, type: cargo update --workspace"
}

# --- GPU ------------------------------------------------------------------------------------------------------------

has_vulkan_sdk() {
    have glslc || return 1
    exists "${VULKAN_SDK:-/usr}"/include/vulkan/vulkan.hpp /usr/include/vulkan/vulkan.hpp || return 1
    exists "${VULKAN_SDK:-/usr}"/*/cmake/SPIRV-Headers/SPIRV-HeadersConfig.cmake \
        /usr/share/cmake/SPIRV-Headers/SPIRV-HeadersConfig.cmake
}

# Sets `gpu` to cuda, vulkan, metal or none: QUORATE_GPU if it is set, else the first SDK that is found.
find_gpu() {
    gpu=${QUORATE_GPU:-auto}
    for cuda in "${CUDA_PATH:-}" /usr/local/cuda; do
        have nvcc || [ -z "$cuda" ] || [ ! -x "$cuda/bin/nvcc" ] || export PATH="$cuda/bin:$PATH"
    done
    case $gpu in
        cuda | vulkan | metal | none) return 0 ;;
        cpu) gpu=none ;;
        auto)
            if [ "$(uname -s)" = Darwin ]; then gpu=metal
            elif have nvcc; then gpu=cuda
            elif has_vulkan_sdk; then gpu=vulkan
            else gpu=none
            fi
            if [ "$gpu" != none ] && [ -e "$failed_gpu" ] && [ "$(cat "$failed_gpu")" = "$gpu" ]; then
                say "an earlier build with $gpu failed here, so this one is for the CPU; to try again: rm $failed_gpu"
                gpu=none
            fi ;;
        *) die "QUORATE_GPU=$gpu is none of: auto, cuda, vulkan, metal, none" ;;
    esac
}

# Sets `features` for cargo; empty on the CPU.
gpu_features() {
    find_gpu
    case $gpu in none) features= ;; *) features="--features $gpu" ;; esac
}

# with_gpu_fallback COMMAND...: runs it with $features behind it, and without them if a GPU build fails.
with_gpu_fallback() {
    # shellcheck disable=SC2086  # a list of words, or nothing
    "$@" $features && return 0
    [ -n "$features" ] && [ "${QUORATE_GPU:-auto}" = auto ] || return 1
    warn "the build with $gpu failed (above); building for the CPU instead. To try again later: rm $failed_gpu"
    mkdir -p "$target"
    printf '%s\n' "$gpu" >"$failed_gpu"
    gpu=none features=
    "$@"
}

# --- the program and its home ---------------------------------------------------------------------------------------

# set_up [pip] [lab]: everything that a build needs, and nothing more.
set_up() {
    ensure_packages "$@"
    ensure_rust
    fetch_crates
    gpu_features
}

node_home() {
    if [ -n "${QUORATE_HOME:-}" ]; then printf '%s\n' "$QUORATE_HOME"
    else printf '%s\n' "${XDG_DATA_HOME:-${HOME:-/root}/.local/share}/quorate"
    fi
}

has_default_model() { [ -x "$bin" ] && "$bin" show "$default_model" >/dev/null 2>&1; }

# The process id of the node that holds the home directory, if there is one and it really is quorate.
running_node() {
    lock=$(node_home)/node.lock
    [ -r "$lock" ] || return 1
    # The kernel holds the lock while the node lives; what the file says counts only then.
    if have flock && flock --nonblock "$lock" true; then return 1; fi
    pid=$(sed -n '1s/^[^0-9]*\([0-9]\{1,\}\).*/\1/p' "$lock")
    [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null || return 1
    if [ -e /proc/self/exe ]; then
        name=$(readlink "/proc/$pid/exe" 2>/dev/null) || return 1
        name=${name%" (deleted)"} # the file was rebuilt while it ran
    else
        name=$(ps -o comm= -p "$pid" 2>/dev/null) || return 1
    fi
    [ "${name##*/}" = quorate ] || return 1
    printf '%s\n' "$pid"
}

link_dir() {
    if [ "$(id -u)" = 0 ]; then printf '%s\n' /usr/local/bin
    else printf '%s\n' "$HOME/.local/bin"
    fi
}

has_user_systemd() { have systemctl && systemctl --user show-environment >/dev/null 2>&1; }
