#!/bin/sh
# Boots a Debian kernel in QEMU, runs a workload in it under kleak, and ends with kleak's status: 0 when the
# kernel did not leak, 4 when it did. The report, JUnit XML, an HTML page and a recording are then in OUT.
#
#   examples/ci/run.sh KLEAK leak|clean [OUT]
#
# KERNEL=/boot/vmlinuz-… takes another kernel than Debian's newest for clouds. It needs no root, and no KVM.
# It is for x86-64. apt install qemu-system-x86 busybox-static cpio gcc libc6-dev
set -eu

[ $# -ge 2 ] || { sed -n '5s/^# *//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
kleak=$1 mode=$2 out=${3:-kleak-out}
case $mode in leak | clean) ;; *) echo "run.sh: the workload is leak or clean, not $mode" >&2; exit 2 ;; esac
[ "$(uname -m)" = x86_64 ] || { echo "run.sh: it is for x86-64, and this is $(uname -m)" >&2; exit 1; }
for program in qemu-system-x86_64 busybox cpio cc; do
	command -v "$program" >/dev/null || { echo "run.sh: there is no $program; see its first lines" >&2; exit 1; }
done
# A dynamic one would find no library in there.
case $(LC_ALL=C ldd "$(command -v busybox)" 2>&1) in
*"not a dynamic executable"* | *"statically linked"*) ;;
*) echo "run.sh: busybox is not static: apt install busybox-static" >&2; exit 1 ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

# The kernel that Debian's linux-image-cloud-amd64 stands for, fetched once.
kernel=${KERNEL:-}
if [ -z "$kernel" ]; then
	package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
	[ -n "$package" ] || {
		echo "run.sh: apt knows no linux-image-cloud-amd64 (on Debian: apt-get update); else set KERNEL=/path/of/vmlinuz" >&2
		exit 1
	}
	cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/kleak-example/$package
	if [ ! -d "$cache" ]; then
		(cd "$work" && apt-get download "$package" >&2 && dpkg-deb -x "$package"_*.deb unpacked)
		# There whole or not at all.
		mkdir -p "${cache%/*}" && mv "$work/unpacked" "$cache.$$" && mv "$cache.$$" "$cache"
	fi
	kernel=$(find "$cache" -name 'vmlinuz*' | head -n 1)
fi
[ -r "$kernel" ] || { echo "run.sh: no kernel that can be read: ${kernel:-none in $package}" >&2; exit 1; }

# What it boots into: busybox, kleak, and the workload, all static, in memory.
root=$work/root
mkdir -p "$root/bin" "$root/sys" "$out"
cp "$(command -v busybox)" "$root/bin/busybox"
cp "$kleak" "$root/bin/kleak"
cp "$here/init" "$root/init"
cp "$here/kleak.toml" "$root/kleak.toml"
cc -static -O1 -o "$root/bin/workload" "$here/workload.c"
chmod 755 "$root/init" "$root/bin/kleak"
# This is the line that a build would have, with its own tests in the place of the workload.
cat >"$root/command" <<EOF
kleak trace --size 512 --stacks all --fail-on 'objects>100' --suppressions kleak.toml \
	--junit out/kleak.xml --markdown out/kleak.md --html out/report.html --save out/run.kleak -o out/report.txt \
	-- workload $mode 2>out/stderr.txt
EOF
(cd "$root" && find . -mindepth 1 | cpio --quiet -o -H newc -R 0:0) >"$work/initramfs"

qemu() { # seconds it may take, accelerator, options of the kernel, more options of QEMU
	limit=$1 accelerator=$2 words=$3
	shift 3
	# shellcheck disable=SC2086 # the accelerator is options
	timeout -k 1 "$limit" qemu-system-x86_64 $accelerator -smp 2 -m 768 -nodefaults -no-reboot -display none \
		-kernel "$kernel" -append "console=ttyS0 loglevel=4 panic=-1 mitigations=off $words" "$@"
}
kvm="-accel kvm -cpu host" tcg="-accel tcg,thread=single -cpu max"
# KVM may be there and not work: a kernel that has nothing to start says so, and ends.
[ ! -w /dev/kvm ] || qemu 10 "$kvm" "" -serial "file:$work/kvm" >/dev/null 2>&1 || true
if grep -q 'Unable to mount root fs' "$work/kvm" 2>/dev/null; then
	set -- "$kvm" ""
else
	set -- "$tcg" clocksource=hpet
fi
qemu 600 "$@" -initrd "$work/initramfs" \
	-serial "file:$work/console" -serial "file:$work/out" || true
if ! tar -x -z -C "$out" -f "$work/out" 2>/dev/null || [ ! -f "$out/status" ]; then
	cat "$work/console" >&2
	echo "run.sh: the machine sent no results" >&2
	exit 1
fi
cat "$out/stderr.txt" >&2
exit "$(cat "$out/status")"
