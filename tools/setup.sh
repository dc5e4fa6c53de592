#!/usr/bin/env bash
# Makes a Debian 12, Ubuntu 22.04 or Ubuntu 24.04 machine able to build and test Kiln. Silent and fast
# when nothing is missing.
#
#   tools/setup.sh                 does all of it
#   source tools/setup.sh          gives tools/demo and tools/check the functions below
#
#   setup_packages                 compiler, CMake, Ninja, libraries, Python: through apt as root or
#                                  with passwordless sudo, else it prints the command and fails
#   setup_cuda                     cuda.h and NVRTC: a CUDA toolkit if there is one, else wheels from
#                                  PyPI in <repo>/.venv, where CMake and the library look for them
#   setup_venv DIR REQUIREMENT...  a virtual environment that holds exactly these wheels
#   nvrtc_in DIR                   prints the libnvrtc below DIR that Kiln supports (12.4 to 13.x)
#
# Nothing outside the repository is changed, except by apt.

setup_repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
setup_cuda_wheels=("nvidia-cuda-nvrtc>=13,<14" "nvidia-cuda-runtime>=13,<14")

setup_fail() {
  printf 'setup: %s\n' "$@" >&2
  return 1
}

# Runs a command quietly; on failure shows the last lines of what it said.
setup_quietly() {
  local log status=0
  log=$(mktemp)
  "$@" >"$log" 2>&1 </dev/null || status=$?
  if ((status != 0)); then tail -n 20 "$log" | sed 's/^/  | /' >&2; fi
  rm -f "$log"
  return "$status"
}

# ---- Distribution packages ------------------------------------------------------------------

# "a >= b" for dotted versions.
version_at_least() { [[ $(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1) == "$2" ]]; }

# Prints the Debian packages whose commands or headers are not there, one per line. It looks for the
# things themselves and not for packages, so that other ways of installing them count too.
missing_packages() {
  local cxx=${CXX:-c++}
  if command -v "$cxx" >/dev/null; then
    "$cxx" -E -P -x c++ -std=c++20 - <<'PROBE' 2>/dev/null || echo g++
#if !__has_include(<fmt/format.h>)
libfmt-dev
#endif
#if !__has_include(<spdlog/spdlog.h>)
libspdlog-dev
#endif
#if !__has_include(<catch2/catch.hpp>) && !__has_include(<catch2/catch_all.hpp>)
catch2
#endif
#if !__has_include(<nlohmann/json.hpp>)
nlohmann-json3-dev
#endif
#if !__has_include(<boost/context/fiber.hpp>)
libboost-context-dev
#endif
PROBE
  else
    printf '%s\n' g++ libfmt-dev libspdlog-dev catch2 nlohmann-json3-dev libboost-context-dev
  fi
  command -v cmake >/dev/null || echo cmake
  command -v ninja >/dev/null || echo ninja-build
  command -v pkg-config >/dev/null || echo pkg-config
  if ! command -v python3 >/dev/null; then
    printf '%s\n' python3 python3-venv
  elif ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    echo python3-venv
  fi
}

# What apt cannot mend: tools that are there, but too old.
check_tool_versions() {
  local cxx=${CXX:-c++} found
  found=$(cmake --version | sed -n '1s/[^0-9]*\([0-9.]*\).*/\1/p')
  version_at_least "$found" 3.22 || setup_fail "CMake 3.22 or newer is needed, $(command -v cmake) is $found" || return 1
  if ! "$cxx" -x c++ -std=c++20 -fsyntax-only - <<<'#include <compare>
#include <span>
struct S { int i; auto operator<=>(const S&) const = default; };' 2>/dev/null; then
    setup_fail "a C++20 compiler is needed (g++ 11 or newer), $cxx is $("$cxx" -dumpversion)" \
      "install one and set CXX, for example: CXX=g++-12 tools/check"
  fi
}

setup_packages() {
  local missing=() run_as_root=() command
  mapfile -t missing < <(missing_packages)
  if ((${#missing[@]} > 0)); then
    command="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
    if ! command -v apt-get >/dev/null; then
      setup_fail "missing, under their Debian names: ${missing[*]}" \
        "this is not a Debian or Ubuntu system: install them with its own package manager"
      return 1
    fi
    if ((EUID != 0)); then
      if ! sudo -n true 2>/dev/null; then
        setup_fail "missing packages: ${missing[*]}" "install them, then run this again:" \
          "  sudo sh -c '$command'"
        return 1
      fi
      run_as_root=(sudo -n)
    fi
    echo "setup: installing ${missing[*]} with apt"
    if ! setup_quietly "${run_as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
      sh -c "${command//apt-get /apt-get -q -o DPkg::Lock::Timeout=300 }"; then
      setup_fail "apt could not install the packages (is there a network?)" \
        "mend what it says above, or run as root:  $command"
      return 1
    fi
    hash -r
    mapfile -t missing < <(missing_packages)
    if ((${#missing[@]} > 0)); then
      setup_fail "still missing after apt: ${missing[*]}" || return 1
    fi
  fi
  check_tool_versions
}

# ---- CUDA: cuda.h and NVRTC -------------------------------------------------------------------

# NVRTC's minor version is in the name of its builtins library, in every way that it is shipped.
nvrtc_in() {
  local builtins version lib
  for builtins in "$1"/libnvrtc-builtins.so.1[0-9].*; do
    version=$(sed -n 's/.*builtins\.so\.\([0-9]*\.[0-9]*\).*/\1/p' <<<"$builtins")
    lib=$1/libnvrtc.so.${version%%.*}
    if [[ -n $version && -e $lib ]] && version_at_least "$version" 12.4 && ! version_at_least "$version" 14; then
      echo "$lib"
      return 0
    fi
  done
  return 1
}

have_nvrtc() {
  local dir
  [[ -n ${KILN_NVRTC:-} ]] && return 0
  for dir in ${CUDA_HOME:+"$CUDA_HOME"/lib64} ${CUDA_PATH:+"$CUDA_PATH"/lib64} /usr/local/cuda*/lib64; do
    nvrtc_in "$dir" >/dev/null && return 0
  done
  while read -r dir; do
    nvrtc_in "$dir" >/dev/null && return 0
  done < <(tr ':' '\n' <<<"${LD_LIBRARY_PATH:-}"
    PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null | sed -n 's|.*libnvrtc\.so\.1[23].* => \(.*\)/[^/]*$|\1|p')
  return 1
}

# The same places as in CMakeLists.txt.
have_cuda_header() {
  local dir version
  for dir in ${CUDA_HOME:+"$CUDA_HOME"/include} ${CUDA_PATH:+"$CUDA_PATH"/include} \
    /usr/local/cuda*/include /usr/include; do
    [[ -r $dir/cuda.h ]] || continue
    version=$(sed -n 's/^#define CUDA_VERSION *\([0-9]*\).*/\1/p' "$dir/cuda.h")
    ((${version:-0} >= 12000)) && return 0
  done
  return 1
}

# A stamp, written last, makes this both idempotent and safe to interrupt.
setup_venv() {
  local dir=$1 stamp="$1/.kiln-wheels"
  shift
  [[ -e $stamp && $(<"$stamp") == "$*" ]] && return 0
  echo "setup: fetching $* from PyPI into ${dir#"$setup_repo"/}"
  setup_quietly python3 -m venv "$dir" || setup_fail "python3 -m venv $dir failed" || return 1
  if ! setup_quietly "$dir/bin/python" -m pip --disable-pip-version-check install --retries 2 --timeout 30 \
    --upgrade --only-binary :all: "$@"; then
    setup_fail "could not get $* from PyPI (is there a network?)" || return 1
  fi
  printf '%s\n' "$*" >"$stamp"
}

# A wheel that pip finished installing has its RECORD; the user may have done it by hand.
have_cuda_wheels() {
  local packages
  for packages in "$setup_repo"/.venv/lib/python3*/site-packages; do
    [[ -e $packages/nvidia/cu13/include/cuda.h ]] && nvrtc_in "$packages/nvidia/cu13/lib" >/dev/null &&
      compgen -G "$packages/nvidia_cuda_nvrtc-*/RECORD" >/dev/null &&
      compgen -G "$packages/nvidia_cuda_runtime-*/RECORD" >/dev/null && return 0
  done
  return 1
}

setup_cuda() {
  have_nvrtc && have_cuda_header && return 0
  have_cuda_wheels || setup_venv "$setup_repo/.venv" "${setup_cuda_wheels[@]}" && have_cuda_wheels && return 0
  setup_fail "no CUDA toolkit with NVRTC 12.4 or newer and cuda.h was found, and the wheels that replace it could not be fetched" \
    "do one of these, then run this again:" \
    "  install the CUDA toolkit (12.4 to 13.x); set CUDA_HOME if it is not in /usr/local/cuda" \
    "  where there is a network: python3 -m venv .venv && .venv/bin/pip install ${setup_cuda_wheels[*]%%>*}"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  set -euo pipefail
  setup_packages && setup_cuda
fi
