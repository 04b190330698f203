#!/bin/busybox sh
# The first process of a virtual machine of `cargo xtask vm`. It sets up what a booted system has
# and the tests need, runs the checks, and turns the machine off. /kleak/settings says which.

export PATH=/kleak/bin:/bin HOME=/root TMPDIR=/tmp
# Not without /proc: busybox starts itself from /proc/self/exe.
/bin/busybox mkdir -p /proc /sys /dev /tmp /root /run
/bin/busybox mount -t proc proc /proc
/bin/busybox --install -s /bin
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tracefs tracefs /sys/kernel/tracing
mount -t debugfs debugfs /sys/kernel/debug
mount -t bpf bpf /sys/fs/bpf
ln -s /proc/self/fd /dev/fd

. /kleak/settings

# Results have a port of their own, so that no message of the kernel gets between them.
stty -F /dev/ttyS1 raw -echo
say() { printf '@@kleak %s\n' "$*" >/dev/ttyS1; }
# Ends the machine with a reason: a check in a half-made one would say nothing about kleak.
give_up() {
	say "unable $*"
	poweroff -f
}

for module in $MODULES; do
	insmod "/modules/$module" || give_up "no module $module"
done
ip link set lo up || give_up "no loopback device"

mount_v2() {
	mount -t cgroup2 cgroup2 /sys/fs/cgroup || return
	# As systemd does for its slices.
	echo '+memory +pids' >/sys/fs/cgroup/cgroup.subtree_control
}
mount_v1() {
	mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup || return
	for controller in memory pids; do
		mkdir "/sys/fs/cgroup/$controller"
		mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller" || return
	done
	# As systemd does.
	echo 1 >/sys/fs/cgroup/memory/memory.use_hierarchy
}
case $VARIANT in
cgroup-v1) mount_v1 || give_up "no memory controller of cgroup v1" ;;
*) mount_v2 || give_up "no memory controller of cgroup v2" ;;
esac
case $VARIANT in
no-btf)
	mount -t tmpfs -o ro tmpfs /sys/kernel/btf || give_up "BTF cannot be hidden"
	;;
no-trampolines)
	echo 0 >/proc/sys/kernel/ftrace_enabled || give_up "ftrace cannot be switched off"
	;;
esac

# What systemd allows; the kernel's own 4096 is too few for a leak of sockets.
ulimit -H -n 524288
export KLEAK_VM_VARIANT=$VARIANT KLEAK_BIN=/kleak/kleak KLEAK_WORKLOAD=/kleak/kleak-workload
export KLEAK_TEST_SLOWNESS=$SLOWNESS
# What cannot run is to fail, not to be skipped.
export CI=1
cd /kleak

if [ -n "$SHELL_WANTED" ]; then
	echo "kleak: Linux $(uname -r), $VARIANT; kleak, kleak-workload and the tests are in /kleak"
	echo "kleak: poweroff -f ends the machine"
	export PATH=$PATH:/kleak
	setsid cttyhack sh
	poweroff -f
fi

say "kernel $(uname -r)"
# Clocks of emulated processors stutter: what fails is tried once more, and the table tells.
run() {
	check=$1
	eval "filters=\$FILTERS_$check"
	say "begin $check"
	start=$(cut -d. -f1 /proc/uptime)
	# Two threads, or the runner runs a test in its own, which bears no test's name; the lock of
	# the tests themselves lets only one at a time through.
	timeout -s KILL "$LIMIT_S" "/kleak/tests/$check" --test-threads 2 $filters >/dev/ttyS1 2>&1 </dev/null
	status=$?
	printf '\n' >/dev/ttyS1
	say "end $check $status $(($(cut -d. -f1 /proc/uptime) - start))"
	return "$status"
}
for check in $CHECKS; do
	run "$check" || run "$check"
done
dmesg >/dev/ttyS0
say "done"
poweroff -f
