/* Makes system calls behind a seccomp program and prints what came of each.
 *
 *   seccomp_probe PROGRAM CALL...
 *
 * PROGRAM is a file of struct sock_filter. A CALL is TABLE:NUMBER[:ARG]..., with TABLE n (native), i (32-bit x86 by
 * int 0x80) or x (x32), and numbers as strtoull reads them; the argument "buf" is the address of a zeroed buffer in
 * the lower 4 GiB. For each call that returns, one line: 0, or its errno.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct sock_filter filter[4096];

static long call(char table, uint64_t n, const uint64_t *a)
{
#if defined(__x86_64__)
	if (table == 'i') {
		long r;
		__asm__ volatile("int $0x80"
				 : "=a"(r)
				 : "a"((uint32_t)n), "b"((uint32_t)a[0]), "c"((uint32_t)a[1]), "d"((uint32_t)a[2]),
				   "S"((uint32_t)a[3]), "D"((uint32_t)a[4])
				 : "memory", "r8", "r9", "r10", "r11");
		return (int32_t)r;
	}
	if (table == 'x')
		n |= 0x40000000;
#endif
	long r = syscall((long)n, a[0], a[1], a[2], a[3], a[4], a[5]);
	return r < 0 ? -errno : r;
}

int main(int argc, char **argv)
{
	char *low = mmap((void *)0x10000000, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = argc > 1 ? open(argv[1], O_RDONLY | O_CLOEXEC) : -1;
	ssize_t length = fd < 0 ? -1 : read(fd, filter, sizeof(filter));

	if (low == MAP_FAILED || length <= 0)
		return 2;
	struct sock_fprog program = { .len = length / sizeof(filter[0]), .filter = filter };
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program))
		return 3;
	for (int i = 2; i < argc; i++) {
		uint64_t a[7] = { 0 };
		int count = 0;
		char table = argv[i][0];
		char *save = NULL;

		for (char *part = strtok_r(argv[i] + 2, ":", &save); part && count < 7; part = strtok_r(NULL, ":", &save))
			a[count++] = strcmp(part, "buf") ? strtoull(part, NULL, 0) : (uintptr_t)low;
		long r = call(table, a[0], a + 1);
		char line[32];
		int n = snprintf(line, sizeof(line), "%ld\n", r < 0 ? -r : 0L);
		if (write(1, line, n) != n)
			return 4;
	}
	return 0;
}
