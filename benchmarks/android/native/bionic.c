/* The functions of Android's C library that libexecutorch.so needs and glibc does not have. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WARN = 5 };

char __sF[3 * 152]; /* stdin, stdout and stderr of old Android: referred to, not used */

int *__errno(void) { return &errno; }

int __android_log_vprint(int priority, const char *tag, const char *format, va_list arguments) {
  if (priority < WARN) return 0;
  fprintf(stderr, "%s: ", tag);
  int written = vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  return written;
}

int __android_log_print(int priority, const char *tag, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int written = __android_log_vprint(priority, tag, format, arguments);
  va_end(arguments);
  return written;
}

int __android_log_write(int priority, const char *tag, const char *text) {
  return __android_log_print(priority, tag, "%s", text);
}

void android_set_abort_message(const char *text) { fprintf(stderr, "abort: %s\n", text); }
int __system_property_get(const char *name, char *value) { (void)name; value[0] = 0; return 0; }
char *__gnu_strerror_r(int number, char *buffer, size_t size) { return strerror_r(number, buffer, size); }

/* _FORTIFY_SOURCE of bionic: the last argument is the size of the buffer. */
size_t __strlen_chk(const char *text, size_t room) { (void)room; return strlen(text); }
char *__strchr_chk(const char *text, int c, size_t room) { (void)room; return strchr(text, c); }
char *__strrchr_chk(const char *text, int c, size_t room) { (void)room; return strrchr(text, c); }
ssize_t __write_chk(int file, const void *data, size_t size, size_t room) { (void)room; return write(file, data, size); }

/* The library has this for the C++ library of the NDK; programs of ours have no lists of optional tensors. */
void _ZNK10executorch7runtime15BoxedEvalueListISt8optionalINS0_7etensor6TensorEEE3getEv(void) { abort(); }

/* bionic numbers the names of sysconf in its own way. */
long sysconf(int name) {
  static long (*real)(int);
  if (!real) real = (long (*)(int))dlsym(RTLD_NEXT, "sysconf");
  switch (name) {
    case 39: case 40: return real(_SC_PAGESIZE);
    case 96: return real(_SC_NPROCESSORS_CONF);
    case 97: return real(_SC_NPROCESSORS_ONLN);
    default: return real(name);
  }
}
