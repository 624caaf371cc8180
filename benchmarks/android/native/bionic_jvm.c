/* What the C++ libraries of Android's Java side need besides, in a process of a Java VM. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

extern char __sF[3 * 152];

void __android_log_assert(const char *condition, const char *tag, const char *format, ...) {
  fprintf(stderr, "%s: %s: %s\n", tag, condition ? condition : "", format);
  abort();
}

/* bionic's streams are no streams of glibc: Android's C++ library flushes them when the process ends. */
int fflush(FILE *file) {
  static int (*real)(FILE *);
  if (!real) real = (int (*)(FILE *))dlsym(RTLD_NEXT, "fflush");
  if ((char *)file >= __sF && (char *)file < __sF + sizeof __sF) return 0;
  return real(file);
}
