#!/bin/sh
# Sets this checkout up: Debian's packages, .venv with pilotlight in it, and the BPF program. What is there already is
# left alone, so a second run downloads nothing.
#   setup.sh        what running needs
#   setup.sh dev    also what the tests, checks and benchmarks need
set -eu
cd "$(dirname "$0")/.."
purpose=${1:-run}

# Each line: what shows that it is there (a command, or a file with a /), and the package that brings it.
needed='python3 python3
/usr/include/bpf/bpf_helpers.h libbpf-dev
clang clang'
[ "$purpose" = dev ] && needed="$needed
chromium chromium
/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf fonts-dejavu-core
clang-format clang-format
gcc gcc
strip binutils
gdb gdb
/usr/sbin/bpftool bpftool
debuginfod debuginfod
debuginfod-find debuginfod
dwz dwz
llvm-symbolizer llvm
xz xz-utils
openssl openssl
/usr/include/stdio.h libc6-dev
g++ g++
git git
go golang-go
javac openjdk-17-jdk-headless
rustc rustc
/usr/sbin/sshd openssh-server
ssh-keygen openssh-client
node nodejs
npm npm
perf linux-perf
perl perl
/usr/lib/python3/dist-packages/bcc/__init__.py python3-bpfcc
/usr/sbin/profile-bpfcc bpfcc-tools
/usr/share/doc/linux-headers-$(dpkg --print-architecture) linux-headers-$(dpkg --print-architecture)
setpriv util-linux
pgrep procps
curl curl"

python=
for candidate in /usr/bin/python3 python3; do
	if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
		python=$(command -v "$candidate")
		break
	fi
done

missing=$(echo "$needed" | while read -r sign package; do
	case $sign in
	/*) [ -e "$sign" ] || echo "$package" ;;
	*) command -v "$sign" >/dev/null || echo "$package" ;;
	esac
done | tr '\n' ' ')
ldconfig -p 2>/dev/null | grep -q 'libbpf\.so\.1 ' || missing="$missing libbpf1"
[ -n "$python" ] && "$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"

if [ -n "${missing# }" ]; then
	if ! command -v apt-get >/dev/null; then
		echo "setup: install these first (named as in Debian): $missing" >&2
		exit 1
	fi
	if [ "$(id -u)" != 0 ]; then
		echo "setup: run as root once, to install: $missing" >&2
		exit 1
	fi
	echo "setup: installing $missing"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	# shellcheck disable=SC2086  # a list of words
	apt-get install -y -qq --no-install-recommends $missing >/dev/null
	[ -n "$python" ] || python=/usr/bin/python3
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
	echo "setup: pilotlight needs Python 3.11 or newer; $python is $("$python" --version)." >&2
	exit 1
fi

[ -x .venv/bin/python ] || "$python" -m venv .venv
extras=server
[ "$purpose" = dev ] && extras=server,dev
# The stamp holds what was installed and where: a changed pyproject.toml, or a moved checkout, installs again.
wanted="$(pwd) $(cksum <pyproject.toml)"
installed=$(cat ".venv/installed-$purpose" 2>/dev/null || cat .venv/installed-dev 2>/dev/null || true)
if [ "$installed" != "$wanted" ]; then
	echo "setup: installing Python packages into .venv"
	.venv/bin/python -m pip install -q --disable-pip-version-check -e ".[$extras]"
	echo "$wanted" >".venv/installed-$purpose"
fi

object=profiler/bpf/sampler.bpf.o
if [ ! -e "$object" ] || [ -n "$(find profiler/bpf -name '*.[ch]' -newer "$object")" ]; then
	case $(uname -m) in
	x86_64) architecture=x86 ;;
	aarch64) architecture=arm64 ;;
	*) echo "setup: pilotlight runs on x86_64 and aarch64, not $(uname -m)." >&2 && exit 1 ;;
	esac
	clang -g -O2 -Wall -Werror -target bpf -D__TARGET_ARCH_$architecture "-I/usr/include/$(uname -m)-linux-gnu" \
		-c profiler/bpf/sampler.bpf.c -o "$object.new"
	mv "$object.new" "$object"
fi

# The server never runs as root: `pilotlight run` gives it this user.
if [ "$(id -u)" = 0 ] && ! id pilotlight >/dev/null 2>&1 && command -v useradd >/dev/null; then
	useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin pilotlight
fi
