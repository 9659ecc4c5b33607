/* SPDX-License-Identifier: BSD-3-Clause */
#include "beside.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

int beside(char *path, size_t len, const char *name)
{
	ssize_t n = readlink("/proc/self/exe", path, len - 1);
	char *slash;

	path[n > 0 ? n : 0] = '\0';
	slash = strrchr(path, '/');
	if (slash && (size_t)(slash + 1 - path) + strlen(name) < len) {
		memcpy(slash + 1, name, strlen(name) + 1);
		if (!access(path, X_OK))
			return 0;
	}
	snprintf(path, len, "%s/%s", PG_LIBEXEC_DIR, name);
	if (!access(path, X_OK))
		return 0;
	fprintf(stderr,
		"pgmap: %s is neither in %s nor beside the command; install "
		"pgmap or build it again\n",
		name, PG_LIBEXEC_DIR);
	return -1;
}
