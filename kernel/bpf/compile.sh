#!/bin/sh
# Compiles port.c or underlay.c, with the one version of clang that made the objects
# that are checked in: usage: compile.sh OBJECT
set -eu
out=$(realpath -m "$1")
cd "$(dirname "$0")"
# Debug information is for BTF alone: no path of this machine is in it.
clang-14 -O2 -g -target bpf -mcpu=v3 -Wall -Wextra -Werror -fdebug-compilation-dir=. \
	-I "/usr/include/$(uname -m)-linux-gnu" -c "$(basename "$out" .o).c" -o "$out"
llvm-strip-14 -g "$out"
