#!/bin/sh
# build_bochs.sh SOURCES: Bochs with AVX-512 and AMX, without a screen, in the folder `bochs` of a copy of its repository.
set -e
cd "$1/bochs"
# Sources of August 2026 multiply the bytes of tdpbssd as unsigned numbers; the manual says that both are signed.
sed -i '/Bit32u DPBDSS(/,/^}/s/Bit8u/Bit8s/g' cpu/avx/amx.cc
test -f config.status || ./configure --enable-cpu-level=6 --enable-x86-64 --enable-all-optimizations --enable-avx --enable-evex \
  --enable-amx --disable-plugins --disable-docbook --disable-cdrom --disable-gameport --with-nogui >configure.log
make >make.log 2>&1 || { tail -20 make.log; exit 1; }
./bochs --help cpu 2>&1 | grep -q '^sapphire_rapids$' || { echo "this Bochs emulates no sapphire_rapids"; exit 1; }
