/* Opens a descriptor where ExecuTorch opens a path, in the process of a program.
 *
 * ExecuTorch's Java library loads a program by its path, and Android lets no isolated process open a file of
 * the app, its own descriptors' paths included. So this library stands before the C library (it is linked with
 * -z global, and loaded first): /proc/self/fd/N is the descriptor N once more. Everything else is opened as ever.
 */
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Those of fcntl.h, whose declarations of open would get in the way. */
enum { CREATE = 0100, HERE = -100 };

static int descriptor_of(const char *path) {
  static const char own[] = "/proc/self/fd/";
  if (!path || strncmp(path, own, sizeof own - 1)) return -1;
  int number = 0;
  const char *digit = path + sizeof own - 1;
  do {
    if (*digit < '0' || *digit > '9' || number > 99999) return -1;
    number = 10 * number + (*digit - '0');
  } while (*++digit);
  return number;
}

static int opened(const char *path, int flags, int mode) {
  int number = descriptor_of(path);
  return number >= 0 ? dup(number) : (int)syscall(SYS_openat, HERE, path, flags, mode);
}

__attribute__((visibility("default"))) int open(const char *path, int flags, ...) {
  int mode = 0;
  if (flags & CREATE) {
    va_list more;
    va_start(more, flags);
    mode = va_arg(more, int);
    va_end(more);
  }
  return opened(path, flags, mode);
}

/* What bionic's headers make of a call without a mode. */
__attribute__((visibility("default"))) int __open_2(const char *path, int flags) { return opened(path, flags, 0); }
