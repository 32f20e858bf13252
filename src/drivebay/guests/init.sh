#!/bin/busybox sh
# The first process of a drivebay guest. It loads drivers, then runs the commands that the host
# sends over $drivebay_control, one line each: a token and a shell script in base64. The answer is
# the script's output, then a NUL, the token and the exit status. See session.py.
export PATH=/sbin:/bin HOME=/root TERM="${TERM:-dumb}"
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
ln -s /proc/self/fd /dev/fd
ip link set lo up

modprobe -qa $(cat /etc/modules) $drivebay_modules

# Drivers for what is there: each bus may bring the next (a PCI function a virtio device a disk).
for bus in pci virtio scsi; do
	set -- $(sort -u /sys/bus/$bus/devices/*/modalias 2>/dev/null)
	[ $# -gt 0 ] && modprobe -qa "$@"
done

if [ -z "$drivebay_control" ]; then
	stty sane
	exec setsid -c sh -c 'sh -l; sync; poweroff -f'
fi

stty -F "/dev/$drivebay_control" raw -echo
exec 4<"/dev/$drivebay_control" 3>"/dev/$drivebay_control"
# Commands write into a pipe: programs that draw on a terminal do not, and the mark comes last.
mkfifo /run/output
cat /run/output >&3 &
exec >/run/output 2>&1 3>&-

serve() {
	echo ready
	while read -r token script; do
		[ "$token" = poweroff ] && break
		echo "$script" | base64 -d >/run/command
		(exec </dev/null /bin/sh /run/command)
		printf '\0%s %d\n' "$token" $?
	done
}

# In a process of its own. What commands leave in the background becomes the first process' child,
# and a busybox shell whose child ends while it reads forgets what it has read of the line.
serve <&4 4<&- &
wait $!
sync
poweroff -f
