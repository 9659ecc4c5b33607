/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef BESIDE_H
#define BESIDE_H

#include <stddef.h>

/**
 * beside() - The path of a program of ours: beside this command, as in a build
 * folder, or where it was installed.
 *
 * Return: 0 with @path; -1: it is in neither, said in one line on stderr.
 */
int beside(char *path, size_t len, const char *name);

#endif
